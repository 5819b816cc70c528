"""Writes with keys: repeated after what would leave them open, under the same key and unchanged, and never carried out twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from kvclient import Delete, OutcomeExpired, OutcomeUnknown, Put, Retry, Unavailable
from kvproto.v1 import kv_pb2
from support.fake_errors import EndOfCall
from support.fake_nodes import FakeNodes, running
from support.fake_server import FakeServer
from unit.kvclient.joining import eventually, fill, outcomes

QUICK = Retry(attempts=4, first_pause_s=0.005, max_pause_s=0.02, idempotent=True)


@pytest.fixture
def nodes() -> Iterator[FakeNodes]:
    with running(FakeServer(), FakeServer()) as cluster:
        yield cluster


def keys_of(fake: FakeServer) -> list[kv_pb2.IdempotencyKey]:
    """Return the keys of frames, and of what is in mixed ones, as they came."""
    found = []
    for frame in fake.frames:
        if frame.WhichOneof("operations") == "mixed":
            found += [getattr(one, one.WhichOneof("kind") or "").idempotency for one in frame.mixed.operations]
        elif frame.WhichOneof("operations") != "gets":
            found.append(frame.idempotency)
    return found


# -- keys -------------------------------------------------------------------------------------------------------------


async def test_every_write_has_a_key_and_no_two_have_the_same(connect: Any, fake: FakeServer) -> None:
    kv = connect(fake.endpoint, retry=QUICK)
    await kv.put(b"a", b"1")
    await kv.put(b"b", b"1", if_absent=True)
    await kv.delete(b"a")
    await kv.delete_prefix(b"b")
    await kv.write([Put(b"c", b"1"), Delete(b"x")])
    await kv.put_many([(b"m%d" % number, b"v") for number in range(100)])
    await kv.get(b"a")
    keys = keys_of(fake)
    assert len({key.client_id for key in keys}) == 1
    assert all(len(key.client_id) == 16 and key.issued_ms > 1_600_000_000_000 for key in keys)
    assert len({key.number for key in keys}) == len(keys) >= 6
    other = connect(fake.endpoint, retry=QUICK)
    await other.put(b"a", b"1")
    assert len({key.client_id for key in keys_of(fake)}) == 2


async def test_without_being_asked_for_there_are_none(connect: Any, fake: FakeServer) -> None:
    kv = connect(fake.endpoint)
    await kv.put(b"a", b"1")
    await kv.put(b"b", b"1", if_absent=True)
    await kv.delete(b"a")
    assert not any(frame.HasField("idempotency") for frame in fake.frames)
    assert {bytes(key.client_id) for key in keys_of(fake)} == {b""}


# -- repeats ----------------------------------------------------------------------------------------------------------


async def test_what_was_carried_out_and_not_answered_is_answered_by_who_takes_over(connect: Any, nodes: FakeNodes) -> None:
    first, second = nodes.nodes
    kv = connect(nodes.endpoints, retry=QUICK, timeout_s=20.0)
    first.hold("Put")
    calls = await fill(kv, "Put")
    await eventually(lambda: nodes.written(b"held2") == 1)
    await asyncio.to_thread(first.stop)
    nodes.promote(1)
    results = await asyncio.gather(*calls)
    assert sorted(result.revision for result in results) == [2, 3, 4]
    assert [nodes.written(b"held%d" % number) for number in range(3)] == [1, 1, 1]
    assert len(second.repeated) == 3


@pytest.mark.parametrize("call", ["put", "if_absent", "delete", "delete_prefix", "write", "put_many"])
async def test_a_repeat_is_the_same_write(connect: Any, fake: FakeServer, call: str) -> None:
    """The connection breaks behind the effect and before the answer."""
    plain = connect(fake.endpoint)
    await plain.put(b"there", b"v")
    kv = connect(fake.endpoint, retry=QUICK, timeout_s=20.0)
    calls = {
        "put": lambda: kv.put(b"k", b"v"),
        "if_absent": lambda: kv.put(b"k", b"v", if_absent=True),
        "delete": lambda: kv.delete(b"there"),
        "delete_prefix": lambda: kv.delete_prefix(b"the"),
        "write": lambda: kv.write([Put(b"k", b"v", if_absent=True), Delete(b"there")]),
        "put_many": lambda: kv.put_many([(b"k%d" % number, b"v") for number in range(5)]),
    }
    answered = 0

    def lose_first(frame: kv_pb2.PipelineRequest, answer: kv_pb2.PipelineResponse) -> list[kv_pb2.PipelineResponse]:
        nonlocal answered
        answered += 1
        if answered == 1:
            fake.pipeline_breaks_after = 1
            return []
        fake.pipeline_breaks_after = None
        return [answer]

    fake.frames.clear()
    fake.pipeline_answers = lose_first
    done = await calls[call]()
    fake.pipeline_answers = None
    assert fake.repeated
    assert done.revision <= fake.store.assigned
    one, other = fake.frames[0], fake.frames[1]
    other.frame_id = one.frame_id
    assert one == other, "to the last byte"
    assert all(len(rows) <= 1 + (name == ("", b"there")) for name, rows in fake.store.rows.items())


async def test_a_frame_goes_again_as_a_whole_though_some_gave_up(connect: Any, fake: FakeServer) -> None:
    kv = connect(fake.endpoint, retry=QUICK, timeout_s=20.0)
    release = fake.hold("Put")
    held = await fill(kv, "Put")
    together = [asyncio.create_task(kv.put(b"k%d" % number, b"v", timeout_s=0.6 if number else 20.0)) for number in range(5)]
    await asyncio.sleep(0.05)
    fake.pipeline_mute = True
    release.set()
    await asyncio.gather(*held)
    await eventually(lambda: sum(len(frame.puts.keys) for frame in fake.frames) == 8)
    given_up = await outcomes(list(together[1:]))
    assert {type(error) for error in given_up} == {OutcomeUnknown}
    port = int(fake.endpoint.rpartition(":")[2])
    await asyncio.to_thread(fake.stop)
    fake.pipeline_mute = False
    fake.start(port)
    done, _ = await asyncio.wait([together[0]], timeout=20)
    assert done
    sent = [frame for frame in fake.frames if b"k0" in frame.puts.keys]
    if not isinstance(together[0].exception(), OutcomeUnknown):  # it may have found nobody listening
        assert len(sent) >= 2
        assert {frame.idempotency.number for frame in sent} == {sent[0].idempotency.number}
        assert {tuple(frame.puts.keys) for frame in sent} == {tuple(sent[0].puts.keys)}


async def test_when_repeating_leads_nowhere_the_outcome_is_open(connect: Any, fake: FakeServer) -> None:
    """Not ``Unavailable``: the first time may have been carried out."""
    kv = connect(fake.endpoint, retry=QUICK, timeout_s=20.0)
    fake.hold("Put")
    calls = await fill(kv, "Put")
    await asyncio.to_thread(fake.stop)
    assert {type(error) for error in await outcomes(list(calls))} == {OutcomeUnknown}
    assert isinstance((await outcomes([kv.put(b"k", b"v")]))[0], Unavailable)


async def test_a_refusal_of_a_repeat_says_nothing_of_the_first_time(connect: Any, fake: FakeServer) -> None:
    kv = connect(fake.endpoint, retry=QUICK, timeout_s=20.0)

    def lose(frame: kv_pb2.PipelineRequest, answer: kv_pb2.PipelineResponse) -> list[kv_pb2.PipelineResponse]:
        fake.pipeline_answers, fake.pipeline_breaks_after = None, None
        fake.refuse_next("Pipeline", "DISK_FULL", "no space")
        fake.store.answers.clear()  # a node looks at its disk before it looks for a key
        raise EndOfCall("UNAVAILABLE", "Socket closed")

    fake.pipeline_answers = lose
    with pytest.raises(OutcomeUnknown, match="no space"):
        await kv.put(b"k", b"v")


async def test_a_repeat_behind_the_window_is_told_as_such(connect: Any, fake: FakeServer) -> None:
    kv = connect(fake.endpoint, retry=QUICK, timeout_s=20.0)
    fake.refuse_next("Pipeline", "OUTCOME_EXPIRED", "too old")
    with pytest.raises(OutcomeExpired) as expired:
        await kv.put(b"k", b"v")
    assert expired.value.from_server
    assert not isinstance(expired.value, OutcomeUnknown)


async def test_writes_without_keys_are_still_never_repeated(connect: Any, fake: FakeServer) -> None:
    kv = connect(fake.endpoint, retry=Retry(attempts=4, first_pause_s=0.005, max_pause_s=0.02))
    for call in (kv.put(b"k", b"v"), kv.put(b"k", b"v", if_absent=True), kv.delete(b"k")):
        fake.frames.clear()
        fake.abort_next("Put", "UNAVAILABLE", "Socket closed")
        fake.abort_next("Delete", "UNAVAILABLE", "Socket closed")
        with pytest.raises(OutcomeUnknown):
            await call
        assert len(fake.frames) == 1
        fake._faults.clear()
