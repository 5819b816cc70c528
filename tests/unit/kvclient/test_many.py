"""put_many and get_many: what is taken from the source, when, what comes back in which order, and what a failure says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from kvclient import (
    AsyncClient,
    ClientClosed,
    Durability,
    InvalidRequestError,
    KvClientError,
    ManyFailed,
    NotWritten,
    OutcomeUnknown,
    PutManyResult,
    Timeout,
    UnknownNamespace,
    WriteResult,
    _many,
)
from kvclient._many import Many
from support.fake_server import FakeServer
from support.fake_store import FakeError
from unit.kvclient.joining import eventually, fill, under_way

ERROR = NotWritten("DISK_FULL", "no room")


def pairs(count: int) -> list[tuple[bytes, bytes]]:
    return [(b"k%05d" % number, b"v%d" % number) for number in range(count)]


class Source:
    """Hands out pairs and counts them."""

    def __init__(self, count: int | None = None, then: BaseException | None = None) -> None:
        self.taken = 0
        self._count = count
        self._then = then

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        while self._count is None or self.taken < self._count:
            self.taken += 1
            yield b"k%d" % self.taken, b"v"
        if self._then is not None:
            raise self._then

    def keys(self) -> Iterator[bytes]:
        return (key for key, _ in self)


# -- the account of one call ------------------------------------------------------------------------------------------


class Told:
    """Counts how often the caller was woken."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1


def test_results_stand_at_their_places() -> None:
    many = Many(Told(), keep=True)
    waiters = [many.waiter(10) for _ in range(3)]
    for place in (2, 0, 1):
        assert not many.finished
        waiters[place].set_result(place)
    assert (many.finished, many.get_result()) == (True, [0, 1, 2])


def test_only_the_newest_result_of_puts_is_kept() -> None:
    many = Many(Told(), keep=False)
    for revision in (5, 9, 7):
        many.waiter(10).set_result(WriteResult(revision, Durability.LOCAL, 3))
    assert many.put_result() == PutManyResult(3, 9, Durability.LOCAL, 3)
    assert len(many.results) == 1


def test_nothing_put_is_a_result_too() -> None:
    assert Many(Told(), keep=False).put_result().written == 0
    assert Many(Told(), keep=True).get_result() == []


def test_failures_are_told_with_their_places_and_the_first_speaks_for_them() -> None:
    many = Many(Told(), keep=False)
    waiters = [many.waiter(10) for _ in range(4)]
    waiters[3].set_exception(OutcomeUnknown("OUTCOME_UNKNOWN", "lost", "read"))
    waiters[1].set_exception(NotWritten("DISK_FULL", "no room", "free some"))
    waiters[0].set_result(WriteResult(5, Durability.LOCAL, 1))
    waiters[2].set_result(WriteResult(6, Durability.LOCAL, 1))
    with pytest.raises(ManyFailed) as caught:
        many.put_result()
    error = caught.value
    assert (set(error.failures), error.done, error.code, error.hint) == ({1, 3}, 2, "MANY_FAILED", "free some")
    assert type(error.failures[3]) is OutcomeUnknown
    assert "2 of the puts failed, the first at place 1: no room" in error.message


def test_room_is_for_so_many_operations_and_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_many, "MAX_OUTSTANDING", 4)
    monkeypatch.setattr(_many, "MAX_OUTSTANDING_BYTES", 100)
    for sizes, expected in (([1] * 3, True), ([1] * 4, False), ([99], True), ([50, 50], False)):
        many = Many(Told(), keep=False)
        for size in sizes:
            many.waiter(size)
        assert many.has_room is expected


def test_the_caller_is_woken_when_half_of_the_room_is_free_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_many, "MAX_OUTSTANDING", 10)
    told = Told()
    many = Many(told, keep=True)
    waiters = [many.waiter(1) for _ in range(10)]
    woken = []
    for waiter in waiters:
        waiter.set_result(None)
        woken.append(told.times)
    assert woken == [0] * 5 + [1, 2, 3, 4, 5]
    one = many.waiter(1)
    one.set_exception(ERROR)
    assert told.times == 6
    assert many.finished


def test_who_gave_up_is_done() -> None:
    many = Many(Told(), keep=True)
    waiter = many.waiter(1)
    assert not waiter.done()
    many.given_up = True
    assert waiter.done()


# -- over a connection ------------------------------------------------------------------------------------------------


async def test_many_puts_are_few_messages_and_say_how_far_they_went(kv: Any, fake: FakeServer) -> None:
    done = await kv.put_many(pairs(10_000))
    assert done == PutManyResult(10_000, 10_001, Durability.LOCAL, 1)
    assert len(fake.frames) < 20
    assert (await kv.get(b"k09999")).value == b"v9999"
    assert await kv.count() == 10_000
    assert kv.session.revision == 10_001


async def test_results_come_in_the_order_asked_for(kv: Any, fake: FakeServer) -> None:
    await kv.put_many(pairs(3_000))
    fake.frames.clear()
    names = [b"k%05d" % (number * 7 % 3_000) for number in range(3_000)] + [b"absent", b"k00001", b"k00001"]
    found = await kv.get_many(names)
    assert [entry.key if entry else b"absent" for entry in found] == names
    assert len(fake.frames) < 20


async def test_nothing_is_done_for_nothing(kv: Any, fake: FakeServer) -> None:
    assert (await kv.put_many([])).written == 0
    assert await kv.get_many(iter(())) == []
    assert fake.requests == []


async def test_memory_puts_and_a_namespace(kv: Any, endpoint: str, connect: Any, fake: FakeServer) -> None:
    await kv.create_namespace("n")
    inside = connect(endpoint, "n")
    assert (await inside.put_many(pairs(10), durability=Durability.MEMORY)).reached is Durability.MEMORY
    assert (await inside.get_many([b"k00003"]))[0].value == b"v3", "the read waits for what the client wrote"
    assert await kv.count() == 0
    with pytest.raises(InvalidRequestError, match="INVALID_FIELD"):
        await kv.put_many(pairs(1), durability=Durability.LOCAL)


async def test_a_failure_names_its_places_and_all_others_up_to_there_were_carried_out(kv: Any, fake: FakeServer) -> None:
    for number in (7, 70):
        fake.pipeline_failures[b"k%05d" % number] = FakeError("DISK_FULL", f"no room for {number}", "free some")
    with pytest.raises(ManyFailed) as caught:
        await kv.put_many(pairs(100))
    error = caught.value
    assert {place: failure.message for place, failure in error.failures.items()} == {7: "no room for 7", 70: "no room for 70"}
    assert {type(failure) for failure in error.failures.values()} == {NotWritten}
    assert (error.done, error.hint) == (98, "free some")
    assert len(fake.store.rows) == 98


async def test_after_a_failure_no_further_ones_are_begun(kv: Any, fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_many, "MAX_OUTSTANDING", 64)
    fake.pipeline_failures[b"k100"] = FakeError("DISK_FULL", "no room")
    source = Source()
    with pytest.raises(ManyFailed) as caught:
        await kv.put_many(source)
    assert 99 in caught.value.failures
    assert caught.value.done + len(caught.value.failures) <= source.taken < 300


async def test_a_failed_read_is_raised_itself(kv: Any, fake: FakeServer) -> None:
    await kv.put_many(pairs(10))
    fake.pipeline_failures[b"k00004"] = FakeError("TABLES_FAILED", "the disk is gone")
    with pytest.raises(NotWritten, match="the disk is gone"):
        await kv.get_many([key for key, _ in pairs(10)])
    with pytest.raises(InvalidRequestError, match="EMPTY_KEY"):
        await kv.get_many([b"k00001", b""])


@pytest.mark.parametrize("call", ["put_many", "get_many"])
async def test_from_an_endless_source_only_so_much_is_taken_as_is_needed(
    kv: Any, fake: FakeServer, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setattr(_many, "MAX_OUTSTANDING", 64)
    source = Source()
    method = "Put" if call == "put_many" else "Get"
    release = fake.hold(method)
    running = asyncio.create_task(kv.put_many(source) if call == "put_many" else kv.get_many(source.keys()))
    await eventually(lambda: source.taken >= 64 and under_way(kv, "writes" if method == "Put" else "reads"))
    assert source.taken <= 65
    release.set()
    await eventually(lambda: source.taken > 1_000)
    fake.refuse_next(method, "DISK_FULL")
    with pytest.raises(KvClientError, match="DISK_FULL"):
        await running


async def test_bytes_outstanding_are_bounded_too(kv: Any, fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_many, "MAX_OUTSTANDING_BYTES", 100_000)
    taken = 0

    def large() -> Iterator[tuple[bytes, bytes]]:
        nonlocal taken
        for taken in range(1, 101):
            yield b"k%d" % taken, bytes(10_000)

    release = fake.hold("Put")
    running = asyncio.create_task(kv.put_many(large()))
    await eventually(lambda: taken >= 10)
    assert taken <= 11
    release.set()
    assert (await running).written == 100


@pytest.mark.parametrize("call", ["put_many", "get_many"])
async def test_an_error_of_the_source_is_the_callers_and_what_was_begun_is_carried_out_first(
    kv: Any, fake: FakeServer, call: str
) -> None:
    source = Source(100, then=RuntimeError("line 101"))
    fake.pipeline_failures[b"k7"] = FakeError("DISK_FULL", "no room")
    with pytest.raises(RuntimeError, match="line 101") as caught:
        await (kv.put_many(source) if call == "put_many" else kv.get_many(source.keys()))
    if call == "put_many":
        assert len(fake.store.rows) == 99
        assert caught.value.__notes__ == ["99 puts were carried out before, 1 failed"]
    assert (await kv.put(b"k", b"v")).revision >= 2
    assert (await kv.get(b"k")).value == b"v"


async def test_what_fits_no_message_fails_at_its_place(kv: Any, fake: FakeServer) -> None:
    with pytest.raises(ManyFailed) as caught:
        await kv.put_many([*pairs(5), (b"large", bytes(5_000_000)), *pairs(3)])
    assert {place: failure.code for place, failure in caught.value.failures.items()} == {5: "COMMIT_TOO_LARGE"}
    assert (caught.value.done, len(fake.store.rows)) == (5, 5)
    with pytest.raises(InvalidRequestError, match="COMMIT_TOO_LARGE"):
        await kv.get_many([b"k", bytes(5_000_000)])


async def test_what_is_no_pair_or_no_bytes_is_the_callers_error_too(kv: Any) -> None:
    for bad in ([("text", b"v")], [(b"k", None)]):
        with pytest.raises(TypeError, match="bytes"):
            await kv.put_many(bad)
    with pytest.raises(TypeError):
        await kv.get_many([b"k", "text"])
    assert await kv.get_many([b"k"]) == [None]


async def test_the_limit_of_time_is_each_puts_own(kv: Any, fake: FakeServer) -> None:
    await kv.get(b"k")
    release = fake.hold("Put")
    with pytest.raises(ManyFailed) as caught:
        await kv.put_many(pairs(20_000), timeout_s=0.3)
    kinds = {type(failure) for failure in caught.value.failures.values()}
    assert kinds <= {OutcomeUnknown, NotWritten}
    assert OutcomeUnknown in kinds
    release.set()
    fake.hold("Get")
    with pytest.raises(Timeout):
        await kv.get_many([b"k"], timeout_s=0.1)
    fake._held["Get"].set()
    with pytest.raises(ValueError, match="timeout_s"):
        await kv.put_many([], timeout_s=0)


async def test_an_unknown_namespace_fails_them_all(connect: Any, endpoint: str) -> None:
    with pytest.raises(ManyFailed) as caught:
        await connect(endpoint, "nowhere").put_many(pairs(50))
    assert (len(caught.value.failures), caught.value.done) == (50, 0)
    assert {type(failure) for failure in caught.value.failures.values()} == {UnknownNamespace}


async def test_closing_ends_it(kv: Any, fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_many, "MAX_OUTSTANDING", 64)
    fake.hold("Put")
    source = Source()
    running = asyncio.create_task(kv.put_many(source))
    await eventually(lambda: source.taken >= 64 and under_way(kv))
    await kv.close()
    with pytest.raises((ManyFailed, ClientClosed)) as caught:
        await running
    if isinstance(caught.value, ManyFailed):
        assert {type(failure) for failure in caught.value.failures.values()} <= {OutcomeUnknown, ClientClosed}
    fake._held["Put"].set()


async def test_a_cancelled_one_sends_no_more(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_many, "MAX_OUTSTANDING", 64)
    async with AsyncClient(fake.endpoint) as kv:
        release = fake.hold("Put")
        source = Source()
        held = await fill(kv, "Put")
        running = asyncio.create_task(kv.put_many(source))
        await eventually(lambda: source.taken >= 64)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        release.set()
        await asyncio.gather(*held)
        await kv.put(b"last", b"v")
    assert {key[:4] for _, key in fake.store.rows} == {b"held", b"last"}, "what stood in line was left out"


async def test_many_callers_of_many(kv: Any, fake: FakeServer) -> None:
    """They share the frames with each other, and with those who put one key."""

    async def load(name: int) -> None:
        source = [(b"%d/%d" % (name, number), b"%d" % number) for number in range(500)]
        assert (await kv.put_many(source)).written == 500
        found = await kv.get_many([key for key, _ in source])
        assert [entry.value for entry in found] == [value for _, value in source]

    await asyncio.gather(*(load(name) for name in range(6)), *(kv.put(b"one%d" % number, b"v") for number in range(50)))
    assert await kv.count() == 3_050
