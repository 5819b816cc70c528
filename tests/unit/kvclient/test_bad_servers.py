"""Servers that go away in mid-frame, answer garbage, twice, or what was never asked: each caller has its own outcome.

Nobody hangs, nobody is told two things, and nobody is told that a write was not made which was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from kvclient import (
    ClientClosed,
    KvClientError,
    NotWritten,
    OutcomeUnknown,
    Retry,
    ServerError,
    Timeout,
    Unavailable,
)
from kvclient._errors import KvClientError as AnyError
from kvproto.v1 import kv_pb2
from support.fake_server import FakeServer
from unit.kvclient.bad_servers import CutWire, RawServer
from unit.kvclient.joining import Line, answer_to, eventually, fill, in_line, outcomes

TWICE = Retry(attempts=2, first_pause_s=0.005, max_pause_s=0.01)
UNDONE = (NotWritten, Unavailable)


def keys(fake: FakeServer) -> set[bytes]:
    with fake.store.lock:
        return {key for _, key in fake.store.rows}


def check_writes(fake: FakeServer, found: list[Any], names: list[bytes]) -> None:
    """Hold what callers were told of their puts, each of a key of its own, against what the server has."""
    there = keys(fake)
    for name, outcome in zip(names, found, strict=True):
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, (OutcomeUnknown, *UNDONE)), repr(outcome)
            assert not isinstance(outcome, UNDONE) or name not in there, f"{name!r} is there: {outcome!r}"
        else:
            assert name in there


# -- bytes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff", b"\x10\x80", b"", b"\x0a\x03abc", bytes(1000), b"\x10\x63"])
async def test_garbage_for_an_answer(connect: Any, garbage: bytes) -> None:
    def answers(requests: Iterator[bytes]) -> Iterator[bytes]:
        for _ in requests:
            yield garbage

    with RawServer(answers) as server:
        kv = connect(server.endpoint, retry=TWICE)
        found = await outcomes([kv.put(b"%d" % number, b"v") for number in range(10)])
        assert {type(outcome) for outcome in found} == {OutcomeUnknown}
        assert len({id(outcome) for outcome in found}) == 10
        found = await outcomes([kv.get(b"%d" % number) for number in range(10)])
        assert {type(outcome) for outcome in found} == {ServerError}
        assert {outcome.code for outcome in found} == {"UNEXPECTED_STATUS"}


@pytest.mark.parametrize("garbage", [b"\xff\xff\xff\xff", b"\x0a\x03abc"])
async def test_garbage_for_the_answer_to_a_call_of_its_own(connect: Any, garbage: bytes) -> None:
    with RawServer(lambda requests: iter(()), others=garbage) as server:
        kv = connect(server.endpoint, retry=TWICE)
        for call in (kv.status(), kv.get(b"k", revision=1), kv.entries(), kv.count(), kv.changes(b"k")):
            with pytest.raises(ServerError) as caught:
                await call
            assert caught.value.code == "UNEXPECTED_STATUS"
        with pytest.raises(OutcomeUnknown):
            await kv.create_namespace("n")


async def test_after_garbage_the_client_goes_on(connect: Any, fake: FakeServer) -> None:
    garbage = [b"\xff\xff", b"", b"\x10\x63"]

    def answers(requests: Iterator[bytes]) -> Iterator[bytes]:
        for request in requests:
            if garbage:
                yield garbage.pop()
            else:
                frame = kv_pb2.PipelineRequest.FromString(request)
                answer = kv_pb2.PipelineResponse(frame_id=frame.frame_id, commits=len(frame.puts.keys), first_revision=7)
                count = len(frame.gets.keys)
                answer.gets.MergeFrom(kv_pb2.GetColumnsResult(values=[b""] * count))
                for column in (answer.gets.mod_revisions, answer.gets.create_revisions, answer.gets.versions):
                    column.extend([0] * count)
                yield answer.SerializeToString()

    with RawServer(answers) as server:
        kv = connect(server.endpoint)
        assert await kv.get(b"k") is None, "read again until the answer made sense"
        assert (await kv.put(b"k", b"v")).revision == 7
        garbage.append(b"\xff")
        with pytest.raises(OutcomeUnknown):
            await kv.put(b"k", b"v")
        assert (await kv.put(b"k", b"v")).revision == 7


async def test_a_server_that_ends_every_stream_at_once(connect: Any) -> None:
    with RawServer(lambda requests: iter(())) as server:
        kv = connect(server.endpoint, retry=TWICE)
        with pytest.raises(OutcomeUnknown):
            await kv.put(b"k", b"v")
        # grpc.aio calls it INTERNAL where the stream's end and a request cross on the way.
        with pytest.raises((Unavailable, ServerError), match=r"ended the stream|Internal error from Core"):
            await kv.get(b"k")


async def test_a_server_that_never_answers_is_late_for_each(connect: Any, fake: FakeServer) -> None:
    fake.pipeline_mute = True
    kv = connect(fake.endpoint)
    await kv.status()
    found = await outcomes([kv.put(b"%d" % number, b"v", timeout_s=0.1 + number % 2 / 10) for number in range(20)])
    assert {type(outcome) for outcome in found} <= {OutcomeUnknown, NotWritten}
    assert OutcomeUnknown in {type(outcome) for outcome in found}
    found = await outcomes([kv.get(b"k", timeout_s=0.1) for number in range(20)])
    assert {type(outcome) for outcome in found} == {Timeout}


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_bytes_within_an_answer(data: st.DataObject) -> None:
    """An honest answer of which some bytes were changed is taken in or refused, and tells each caller one thing at most."""
    line = Line()
    kind = data.draw(st.sampled_from([line.get, line.put]))
    waiters = [kind(b"%d" % number) for number in range(3)]
    frame = line.send()
    blob = bytearray(answer_to(frame, data.draw(st.sampled_from([{}, {1: "EMPTY_KEY"}]))).SerializeToString())
    for place in data.draw(st.lists(st.integers(0, len(blob) - 1), max_size=4)):
        blob[place] = data.draw(st.integers(0, 255))
    del blob[data.draw(st.integers(0, len(blob))) :]
    try:
        answer = kv_pb2.PipelineResponse.FromString(bytes(blob))
    except DecodeError:
        return
    try:
        line.joiner.settle(answer, 0.0)
    except ServerError:
        assert [waiter.told for waiter in waiters] == [[]] * 3
        line.lose(closing=True)
    line.joiner.fail_line(ClientClosed)
    assert [len(waiter.told) for waiter in waiters] == [1] * 3


# -- answers that were not asked for ----------------------------------------------------------------------------------


async def test_an_answer_that_comes_twice_ends_the_stream_and_tells_nobody_again(kv: Any, fake: FakeServer) -> None:
    fake.pipeline_answers = lambda frame, answer: [answer, answer]
    assert (await kv.put(b"k", b"v")).revision == 2
    fake.pipeline_answers = None
    (second,) = await outcomes([kv.put(b"k", b"v2")])  # may have been sent before the second answer arrived
    assert isinstance(second, OutcomeUnknown) or second.revision == 3
    assert (await kv.put(b"k", b"v3")).revision in (3, 4)
    assert (await kv.get(b"k")).value == b"v3"


async def test_an_answer_to_another_frame_leaves_those_under_way_open(connect: Any, fake: FakeServer) -> None:
    def other(frame: Any, answer: kv_pb2.PipelineResponse) -> list[kv_pb2.PipelineResponse]:
        answer.frame_id += 1_000
        return [answer]

    fake.pipeline_answers = other
    kv = connect(fake.endpoint, retry=TWICE)
    with pytest.raises(OutcomeUnknown, match="not under way"):
        await kv.put(b"k", b"v")
    with pytest.raises(ServerError, match="not under way"):
        await kv.get(b"k")
    fake.pipeline_answers = None
    assert (await kv.get(b"k")).value == b"v"


async def test_answers_in_another_order(kv: Any, fake: FakeServer) -> None:
    kept: list[kv_pb2.PipelineResponse] = []

    def last_first(frame: Any, answer: kv_pb2.PipelineResponse) -> list[kv_pb2.PipelineResponse]:
        kept.append(answer)
        return [kept.pop() for _ in range(len(kept))] if len(kept) == 3 else []

    fake.pipeline_answers = last_first
    puts = []
    for number in range(3):
        puts.append(asyncio.create_task(kv.put(b"%d" % number, b"v")))
        await eventually(lambda count=number + 1: len(fake.frames) == count)
    for number, result in enumerate(await asyncio.gather(*puts)):
        assert result.revision == fake.store.rows["", b"%d" % number][0].revision


async def test_an_answer_with_too_little_in_it(kv: Any, fake: FakeServer) -> None:
    def poorer(frame: Any, answer: kv_pb2.PipelineResponse) -> list[kv_pb2.PipelineResponse]:
        answer.ClearField("gets")
        answer.commits = 0
        return [answer]

    fake.pipeline_answers = poorer
    found = await outcomes([kv.put(b"k", b"v"), kv.get(b"k")])
    assert [type(outcome) for outcome in found] == [OutcomeUnknown, ServerError]
    assert all("does not fit its frame" in outcome.message for outcome in found)
    fake.pipeline_answers = None
    assert (await kv.get(b"k")).value == b"v", "over the same stream: the other frames are none the worse for it"


# -- going away -------------------------------------------------------------------------------------------------------


async def test_a_server_that_goes_away_leaves_open_what_it_had_and_nothing_else(connect: Any, fake: FakeServer) -> None:
    kv = connect(fake.endpoint)
    fake.hold("Put")
    first = await fill(kv, "Put")
    names = [b"later%d" % number for number in range(30)]
    later = [asyncio.create_task(kv.put(name, b"v")) for name in names]
    await eventually(lambda: in_line(kv) == 30)
    await asyncio.to_thread(fake.stop)
    assert {type(outcome) for outcome in await outcomes(list(first))} == {OutcomeUnknown}
    assert {type(outcome) for outcome in await outcomes(list(later))} == {Unavailable}
    assert not keys(fake) & set(names)


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("count", [1, 40, 200, 1_000, 5_000, 20_000])
async def test_a_wire_that_is_cut_in_the_middle_of_a_frame(connect: Any, fake: FakeServer, direction: str, count: int) -> None:
    with CutWire(fake.endpoint) as wire:
        kv = connect(wire.endpoint, retry=TWICE)
        await kv.put(b"before", bytes(1_000))
        assert await kv.get(b"absent") is None
        wire.cut_after(count, direction)
        names = [b"k%d" % number for number in range(40)]
        writing = outcomes([kv.put(name, bytes(1_000)) for name in names])
        reading = outcomes([kv.get(b"before") for _ in range(40)])
        written, read = await asyncio.gather(writing, reading)
        assert wire.cuts == 1
        check_writes(fake, written, names)
        for outcome in read:
            assert isinstance(outcome, Unavailable) or outcome.value == bytes(1_000)
        await back_again(kv)
        assert (await kv.put(b"after", b"v")).revision > 0


async def back_again(kv: Any) -> None:
    """Wait until the client has found its server again."""
    for _ in range(200):
        try:
            await kv.get(b"before")
            return
        except Unavailable:
            await asyncio.sleep(0.02)
    pytest.fail("the client did not find the server again")


async def test_a_wire_that_is_cut_again_and_again(connect: Any, fake: FakeServer) -> None:
    """Callers who go on through all of it: each outcome is held against what the server has at the end."""
    told: dict[bytes, Any] = {}

    async def work(kv: Any, name: int) -> None:
        for number in range(25):
            key = b"%d/%d" % (name, number)
            try:
                told[key] = await kv.put(key, key)
            except KvClientError as error:
                told[key] = error

    with CutWire(fake.endpoint) as wire:
        kv = connect(wire.endpoint)
        workers = [asyncio.create_task(work(kv, name)) for name in range(12)]
        for turn in range(8):
            expected = (turn + 1) * 30
            await eventually(lambda count=expected: len(told) >= count)
            wire.tear()
        await asyncio.gather(*workers)
    assert len(told) == 300
    check_writes(fake, list(told.values()), list(told))
    assert all(len(chain) == 1 for chain in fake.store.rows.values()), "no write was made twice"
    assert not any(isinstance(outcome, BaseException) and not isinstance(outcome, AnyError) for outcome in told.values())
