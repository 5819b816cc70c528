"""Many callers of one client over a real connection: how few messages they are, and what each of them learns."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kvclient import Delete, Durability, InvalidRequestError, KvClientError, NotWritten, OutcomeUnknown, Put, Timeout
from kvclient._joiner import MAX_FRAMES
from support.fake_server import FakeServer
from support.fake_store import FakeError
from unit.kvclient.joining import eventually, fill, in_line, outcomes, under_way


def values(fake: FakeServer) -> dict[bytes, bytes | None]:
    with fake.store.lock:
        return {key: chain[-1].value for (_, key), chain in fake.store.rows.items()}


async def test_two_hundred_and_fifty_six_puts_are_few_messages(kv: Any, fake: FakeServer) -> None:
    release = fake.hold("Put")
    puts = [asyncio.create_task(kv.put(b"k%d" % number, b"v")) for number in range(256)]
    await eventually(lambda: in_line(kv) + under_way(kv) == 256)
    release.set()
    results = await asyncio.gather(*puts)
    assert sorted(result.revision for result in results) == list(range(2, 258))
    assert len(fake.frames) <= 5 * MAX_FRAMES
    for number in (0, 100, 255):
        entry = await kv.get(b"k%d" % number)
        assert entry.mod_revision == results[number].revision, "each caller has the revision of its own put"


async def test_two_hundred_and_fifty_six_gets_are_few_messages(kv: Any, fake: FakeServer) -> None:
    for number in range(256):
        fake.store.write_row("", b"k%d" % number, b"v%d" % number, fake.store.commit(0))
    release = fake.hold("Get")
    gets = [asyncio.create_task(kv.get(b"k%d" % number)) for number in range(256)]
    await eventually(lambda: in_line(kv, "reads") + under_way(kv, "reads") == 256)
    release.set()
    assert [entry.value for entry in await asyncio.gather(*gets)] == [b"v%d" % number for number in range(256)]
    assert len(fake.frames) <= 5 * MAX_FRAMES


async def test_a_caller_who_is_alone_does_not_wait_for_company(kv: Any, fake: FakeServer) -> None:
    for number in range(10):
        await kv.put(b"k", b"%d" % number)
        await kv.get(b"k")
    assert len(fake.frames) == 20


async def test_reads_do_not_wait_for_writes_nor_writes_for_reads(kv: Any, fake: FakeServer) -> None:
    await kv.put(b"k", b"v")
    release = fake.hold("Put")
    writing = await fill(kv, "Put")
    assert (await kv.get(b"k")).value == b"v"
    release.set()
    await asyncio.gather(*writing)
    release = fake.hold("Get")
    reading = await fill(kv, "Get")
    await kv.delete(b"k")
    assert (await kv.put(b"k2", b"v")).revision > 2
    release.set()
    await asyncio.gather(*reading)


async def test_only_so_many_frames_are_under_way(kv: Any, fake: FakeServer) -> None:
    release = fake.hold("Put")
    first = await fill(kv, "Put")
    later = [asyncio.create_task(kv.put(b"later%d" % number, b"v")) for number in range(50)]
    await eventually(lambda: in_line(kv) == 50)
    await eventually(lambda: len(fake.frames) >= MAX_FRAMES)  # what was sent may still be on its way
    assert len(fake.frames) == MAX_FRAMES
    release.set()
    await asyncio.gather(*first, *later)
    assert len(fake.frames) < MAX_FRAMES + 25


async def test_what_stands_in_line_too_long_was_never_sent(kv: Any, fake: FakeServer) -> None:
    """A short limit of one call among others with the client's own: its time is up, and no other's."""
    release = fake.hold("Put")
    first = await fill(kv, "Put")
    patient = asyncio.create_task(kv.put(b"patient", b"v"))
    with pytest.raises(NotWritten, match="no room to send it") as caught:
        await kv.put(b"hasty", b"v", timeout_s=0.05)
    assert not caught.value.from_server
    assert not patient.done()
    release.set()
    await asyncio.gather(*first, patient)
    assert b"hasty" not in values(fake)
    assert b"patient" in values(fake)


async def test_what_is_under_way_too_long_is_open_and_a_late_answer_tells_only_the_others(kv: Any, fake: FakeServer) -> None:
    await kv.get(b"k")
    release = fake.hold("Put")
    both = [asyncio.create_task(kv.put(b"hasty", b"v", timeout_s=0.2)), asyncio.create_task(kv.put(b"patient", b"v"))]
    hasty = (await outcomes(both[:1]))[0]
    assert type(hasty) is OutcomeUnknown
    assert "did not answer in time" in hasty.message
    release.set()
    assert (await both[1]).revision in (2, 3)
    assert set(values(fake)) == {b"hasty", b"patient"}
    assert (await kv.put(b"next", b"v")).revision == 4


async def test_a_read_that_stands_in_line_too_long_is_a_timeout(kv: Any, fake: FakeServer) -> None:
    release = fake.hold("Get")
    first = await fill(kv, "Get")
    with pytest.raises(Timeout, match="no room to send it"):
        await kv.get(b"hasty", timeout_s=0.05)
    release.set()
    await asyncio.gather(*first)
    assert b"hasty" not in [request.key for _, request in fake.requests]


async def test_after_every_frame_was_late_the_client_goes_on(kv: Any, fake: FakeServer) -> None:
    release = fake.hold("Put")
    first = [asyncio.create_task(kv.put(b"%d" % number, b"v", timeout_s=0.3)) for number in range(3 * MAX_FRAMES)]
    for error in await outcomes(list(first)):
        assert type(error) in (OutcomeUnknown, NotWritten), error
    release.set()
    done = await kv.put(b"k", b"v")
    assert (await kv.get(b"k")).mod_revision == done.revision


async def test_half_of_the_operations_fail_and_each_caller_learns_its_own(kv: Any, fake: FakeServer) -> None:
    for number in range(0, 64, 2):
        fake.pipeline_failures[b"k%02d" % number] = FakeError("DISK_FULL", f"no room for {number}")
    found = await outcomes([kv.put(b"k%02d" % number, b"v") for number in range(64)])
    for number, outcome in enumerate(found):
        if number % 2:
            assert outcome.revision >= 2
        else:
            assert (type(outcome), outcome.message) == (NotWritten, f"no room for {number}")
    assert sorted(values(fake)) == [b"k%02d" % number for number in range(1, 64, 2)]
    found = await outcomes([kv.get(b"k%02d" % number) for number in range(64)])
    for number, outcome in enumerate(found):
        assert (outcome.key == b"k%02d" % number) if number % 2 else (outcome.code == "DISK_FULL")


async def test_every_kind_at_once(kv: Any, fake: FakeServer) -> None:
    """Operations of all kinds, with both durabilities, from many callers: each gets what belongs to it."""
    await asyncio.gather(*(kv.put(b"old%02d" % number, b"v") for number in range(20)))
    revision = {number: (await kv.get(b"old%02d" % number)).mod_revision for number in range(20)}
    memory = Durability.MEMORY
    calls: list[Any] = []
    for number in range(20):
        old, new = b"old%02d" % number, b"new%02d" % number
        calls += [
            kv.put(new, b"1"),
            kv.put(b"m" + new, b"1", durability=memory),
            kv.delete(old) if number < 10 else kv.delete(old, if_revision=revision[number]),
            kv.delete(b"absent%d" % number, durability=memory),
            kv.put(old + b"/if", b"2", if_absent=True),
            kv.put(b"never", b"2", if_revision=7),
            kv.delete_prefix(b"nothing/"),
            kv.write([Put(b"w1" + new, b"1"), Put(b"w2" + new, b"1"), Delete(b"absent")], durability=memory),
            kv.get(b"absent"),
        ]
    found = await outcomes(calls)
    for place in range(0, len(found), 9):
        put, in_memory, deleted, absent, conditional, failed, nothing, batch, missing = found[place : place + 9]
        assert (put.reached, in_memory.reached) == (Durability.LOCAL, Durability.MEMORY)
        assert (deleted.deleted, absent.deleted, nothing.deleted) == (1, 0, 0)
        assert conditional.revision > 0
        assert failed.code == "CONDITION_FAILED"
        assert (batch.put, batch.deleted, batch.reached) == (2, 0, Durability.MEMORY)
        assert missing is None
    made = [one.revision for one in found if hasattr(one, "revision") and getattr(one, "deleted", 1)]
    assert len(set(made)) == len(made), "no two commits have one revision"


async def test_a_write_is_read_by_whoever_heard_of_it(kv: Any) -> None:
    async def work(name: int) -> None:
        for number in range(10):
            key = b"%d/%d" % (name, number)
            await kv.put(key, key, durability=Durability.MEMORY if number % 2 else Durability.POLICY)
            assert (await kv.get(key)).value == key

    await asyncio.gather(*(work(name) for name in range(16)))


async def test_reads_carry_what_any_caller_has_seen(kv: Any, fake: FakeServer) -> None:
    written = await asyncio.gather(*(kv.put(b"k%d" % number, b"v", durability=Durability.MEMORY) for number in range(10)))
    await asyncio.gather(*(kv.get(b"k%d" % number) for number in range(10)))
    reads = [frame for frame in fake.frames if frame.WhichOneof("operations") == "gets"]
    assert {frame.session.revision for frame in reads} == {max(result.revision for result in written)}
    assert not any(frame.HasField("session") for frame in fake.frames if frame not in reads)


async def test_a_request_as_large_as_may_be_arrives(kv: Any, fake: FakeServer) -> None:
    mebibyte = 1024 * 1024
    batch = [Put(b"k%d" % number, bytes(mebibyte - 1024)) for number in range(4)]
    assert (await kv.write(batch)).put == 4
    with pytest.raises(InvalidRequestError, match="COMMIT_TOO_LARGE"):
        await kv.write([*batch, Put(b"more", bytes(4096))])
    assert len(await asyncio.gather(*(kv.get(b"k%d" % number) for number in range(4)))) == 4


async def test_large_values_of_many_callers_are_told_apart_into_several_frames(kv: Any, fake: FakeServer) -> None:
    value = bytes(300_000)
    found = await asyncio.gather(*(kv.put(b"k%d" % number, value) for number in range(30)))
    assert len({result.revision for result in found}) == 30
    assert max(frame.ByteSize() for frame in fake.frames) <= 1024 * 1024


async def test_a_namespace_that_does_not_exist_is_told_to_each(connect: Any, endpoint: str) -> None:
    kv = connect(endpoint, "nowhere")
    found = await outcomes([kv.put(b"%d" % number, b"v") for number in range(20)])
    assert {error.code for error in found} == {"UNKNOWN_NAMESPACE"}
    assert len({id(error) for error in found}) == 20
    assert isinstance(found[0], KvClientError)
