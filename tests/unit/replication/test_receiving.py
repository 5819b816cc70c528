"""What is handed to the store at once is bounded, and nothing is forgotten of what fails."""

from __future__ import annotations

import asyncio

import pytest

from kvserver.base.errors import Code, Refused, ReplicationError
from kvserver.base.types import NO_EPOCH, LogEnd, Position
from kvserver.commit.ticket import Ticket
from kvserver.replication.messages import Chunk
from kvserver.replication.receiving import Intake, IntakeFailed

END = LogEnd(Position(NO_EPOCH, 1, bytes(16)), 0, 0)


class HeldStore:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.tickets: list[Ticket[LogEnd]] = []
        self.hurries = 0

    def hurry(self) -> None:
        self.hurries += 1

    def receive(self, segment_id: int, offset: int, data: bytes) -> Ticket[LogEnd]:
        self.tickets.append(Ticket(None, lambda end: end))
        return self.tickets[-1]

    def answer(self, count: int = 1) -> None:
        for ticket in [ticket for ticket in self.tickets if not ticket.done][:count]:
            ticket.decide(END)
            ticket.complete()


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def feed(intake: Intake, *lengths: int) -> None:
    for length in lengths:
        await intake.take(Chunk(1, 4096, bytes(length)))


@pytest.mark.parametrize(("chunks", "most_bytes", "lengths", "handed"), [(3, 10**9, [1] * 9, 3), (99, 100, [40] * 9, 2)])
async def test_only_so_much_is_handed_over_before_it_is_durable(
    chunks: int, most_bytes: int, lengths: list[int], handed: int
) -> None:
    store = HeldStore()
    intake = Intake(store, chunks, most_bytes)  # type: ignore[arg-type]
    task = asyncio.ensure_future(feed(intake, *lengths))
    await turns()
    assert len(store.tickets) == handed
    store.answer()
    await turns()
    assert len(store.tickets) == handed + 1
    assert intake.durable_bytes == lengths[0]
    while not task.done():
        store.answer()
        await turns()
    store.answer(9)
    await intake.drained()
    assert intake.durable_bytes == sum(lengths) and not intake.waiting_bytes


async def test_one_chunk_is_always_taken_however_large() -> None:
    store = HeldStore()
    intake = Intake(store, 8, 10)  # type: ignore[arg-type]
    await feed(intake, 1000)
    assert len(store.tickets) == 1


@pytest.mark.parametrize("code", [Code.WRONG_PEER, Code.DISK_FULL])
async def test_the_first_failure_is_told_to_whoever_goes_on(code: Code) -> None:
    store = HeldStore()
    intake = Intake(store)  # type: ignore[arg-type]
    await feed(intake, 10, 10)
    first = ReplicationError(code, "first") if code is Code.WRONG_PEER else Refused(code, "first")
    store.tickets[0].fail(first)
    store.tickets[1].fail(Refused(Code.NOT_SERVING, "second"))
    for again in (intake.drained(), feed(intake, 1)):
        with pytest.raises(IntakeFailed, match="first") as failed:
            await again
        assert failed.value.is_chunks_fault is (code is Code.WRONG_PEER)
    assert intake.durable_bytes == 0


async def test_a_failure_is_told_when_nothing_is_under_way_any_more() -> None:
    """Whoever asks goes on with the log's end as it is then: a promise names it, the next call begins there."""
    store = HeldStore()
    intake = Intake(store)  # type: ignore[arg-type]
    await feed(intake, 10, 10)
    store.tickets[1].fail(Refused(Code.DISK_FULL, "no room"))
    ending = asyncio.ensure_future(intake.ended())
    await turns()
    assert not ending.done() and store.hurries == 1
    store.answer()
    with pytest.raises(IntakeFailed, match="no room"):
        await ending
    assert intake.durable_bytes == 10
