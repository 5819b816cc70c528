"""What a follower does with chunks that do not fit, a disk that is full or fails, and what arrives meanwhile."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from kvserver.base.errors import Code, Corruption, KvError, NotServing, Refused, ReplicationError
from kvserver.base.events import Event, LogPoisoned
from kvserver.base.types import LogEnd, Role
from kvserver.commit.requests import Put, PutRun
from support.fake_log import outcome
from support.faultfs import Fault, FaultFileSystem, FaultPlan, Kind
from support.memdisk import LOST
from support.memfs import MemoryFileSystem
from support.stores import LoopTurns, content, do, settle
from unit.engine.followed import Pair, chunks, ship, take, write_history


def several(pair: Pair, count: int = 4) -> list[tuple[int, int, bytes]]:
    """Return chunks of one group each."""
    for number in range(count):
        do(pair.primary, Put(1, b"k%d" % number, b"v"))
    return list(chunks(pair.primary, pair.follower.log_end(), 1))


# Chunks that do not fit


@pytest.mark.parametrize("wrong", ["gap", "repeated", "flipped", "cut off", "other segment", "other cluster"])
def test_a_chunk_that_does_not_continue_the_log_is_refused_and_those_behind_it(wrong: str) -> None:
    pair = Pair()
    sent = several(pair)
    for chunk in sent[:3]:
        take(pair.follower, *chunk)
    end = pair.follower.log_end()
    segment_id, offset, data = sent[3]
    flipped = data[:40] + bytes((data[40] ^ 1,)) + data[41:]
    other = next(chunks(Pair().primary, LogEnd(end.position, 0, 0), 1)) if wrong == "other cluster" else sent[0]
    bad = {
        "gap": sent[4],
        "repeated": sent[2],
        "flipped": (segment_id, offset, flipped),
        "cut off": (segment_id, offset, data[:-8]),
        "other segment": (segment_id + 1, offset, data),
        "other cluster": other,
    }[wrong]
    first, behind = pair.follower.receive(*bad), pair.follower.receive(*sent[3])
    settle(pair.follower)
    for ticket in (first, behind):
        error = outcome(ticket)
        assert isinstance(error, ReplicationError)
        assert error.code is Code.WRONG_PEER
        assert error.hint
    assert pair.follower.log_end() == end
    assert pair.follower.failure is None
    ship(pair.primary, pair.follower)
    pair.hear()
    assert content(pair.follower) == content(pair.primary)


def test_what_came_before_a_refused_chunk_in_the_same_sync_is_kept_and_answered() -> None:
    pair = Pair()
    sent = several(pair)
    tickets = [pair.follower.receive(*sent[at]) for at in (0, 1, 1, 2)]
    settle(pair.follower)
    assert [ticket.succeeded for ticket in tickets] == [True, True, False, False]
    assert [outcome(ticket).code for ticket in tickets[2:]] == [Code.WRONG_PEER] * 2
    assert pair.follower.log_end().offset == sent[2][1]


def test_a_group_that_does_not_parse_ends_the_node() -> None:
    pair = Pair()
    several(pair, 1)
    ship(pair.primary, pair.follower)
    failures: list[BaseException] = []
    pair.follower.pipeline.on_failure = failures.append
    pair.primary._log.write_group(1, b"\x01nonsense")  # type: ignore[union-attr]
    ticket = [pair.follower.receive(*chunk) for chunk in chunks(pair.primary, pair.follower.log_end())][-1]
    settle(pair.follower)
    assert isinstance(outcome(ticket), NotServing)
    assert isinstance(pair.follower.failure, Corruption)
    assert failures == [pair.follower.failure]
    assert pair.follower.marks.applied == 2


# One sync for many


def test_chunks_that_arrive_during_a_sync_are_made_durable_by_the_next_one() -> None:
    pair = Pair()
    sent = several(pair, 6)
    take(pair.follower, *sent[0])
    before = pair.follower.log_figures()
    tickets = [pair.follower.receive(*chunk) for chunk in sent[1:]]
    settle(pair.follower)
    after = pair.follower.log_figures()
    assert (after.syncs - before.syncs, after.groups - before.groups) == (1, 1)
    assert {ticket.answer() for ticket in tickets} == {pair.follower.log_end()}


def test_a_ticket_is_answered_only_when_its_chunk_is_durable_and_inserted() -> None:
    turns = LoopTurns()
    pair = Pair(post=turns)
    sent = several(pair, 2)
    tickets = [pair.follower.receive(*chunk) for chunk in sent]
    told: list[tuple[int, int]] = []
    tickets[-1].on_done(lambda: told.append((pair.follower.marks.durable, pair.follower.marks.applied)))
    turns.run()
    assert not tickets[0].done
    pair.follower.run_log_once()
    assert not tickets[0].done
    turns.run()
    assert told == [(3, 3)]


# The disk


@pytest.mark.parametrize("at", range(1, 7))
def test_a_full_disk_refuses_and_keeps_nothing_and_it_goes_on_when_there_is_room(at: int) -> None:
    memory = MemoryFileSystem()
    pair = Pair(memory)
    sent = several(pair, 6)
    pair.follower.close()
    full = FaultFileSystem(memory, FaultPlan(space_bytes=0))
    pair.b.disk = full
    pair.follower = pair.b.open(Role.FOLLOWER)
    refused = 0
    for number, chunk in enumerate(sent):
        if number == at:
            full.add_space(1 << 20)
        while True:
            ticket = pair.follower.receive(*chunk)
            settle(pair.follower)
            if ticket.succeeded:
                break
            error = outcome(ticket)
            assert isinstance(error, Refused)
            assert error.code is Code.DISK_FULL
            refused += 1
            full.add_space(100)
    assert refused
    assert pair.follower.failure is None
    pair.hear()
    assert content(pair.follower) == content(pair.primary)


def test_a_failed_sync_ends_the_node_as_it_does_a_primary() -> None:
    memory = MemoryFileSystem()
    events: list[Event] = []
    pair = Pair(memory, listener=events.append)
    sent = several(pair)
    take(pair.follower, *sent[0])
    take(pair.follower, *sent[1])
    applied = pair.follower.marks.applied
    failures: list[BaseException] = []
    pair.follower.pipeline.on_failure = failures.append
    waiting: list[Any] = [pair.follower.reading_at(0, None), pair.follower.reading_at(99, None), pair.follower.flush()]
    memory.fail_next_sync()
    tickets: list[Any] = [pair.follower.receive(*chunk) for chunk in sent[2:]]
    settle(pair.follower)
    pair.follower.tick()
    for ticket in (*tickets, *waiting, pair.follower.receive(*sent[2]), pair.follower.reading_at(0, (9, 9))):
        error = outcome(ticket)
        assert isinstance(error, NotServing)
        assert error.code is Code.LOG_FAILED
    assert isinstance(pair.follower.failure, OSError)
    assert failures == [pair.follower.failure]
    assert [type(event) for event in events if isinstance(event, LogPoisoned)] == [LogPoisoned]
    assert pair.follower.marks.durable == pair.follower.marks.applied == applied
    pair.follower.close()
    pair.b.disk.kill()
    memory.drop_caches()
    pair.follower = pair.b.open(Role.FOLLOWER)
    pair.ship()
    assert content(pair.follower) == content(pair.primary)


@pytest.mark.parametrize("kind", ["pwrite", "truncate", "sync", "datasync", "rename", "sync_dir", "create"])
@pytest.mark.parametrize("at", range(1, 8))
def test_whatever_call_fails_what_was_answered_is_there_after_the_power_is_gone(kind: Kind, at: int) -> None:
    memory = MemoryFileSystem()
    pair = Pair(memory)
    write_history(pair.primary)
    pair.follower.close()
    opening = pair.b.disk = FaultFileSystem(memory.clone())
    pair.b.open(Role.FOLLOWER)
    pair.b.disk = FaultFileSystem(memory, FaultPlan([Fault(at=opening.counts[kind] + at, kinds={kind})]))
    pair.follower = pair.b.open(Role.FOLLOWER)
    answered = pair.follower.log_end()
    for chunk in chunks(pair.primary, answered, 1):
        ticket = pair.follower.receive(*chunk)
        settle(pair.follower)
        if not ticket.succeeded:
            assert isinstance(outcome(ticket), KvError)
            break
        answered = ticket.answer()
    pair.b.disk = memory.power_loss(lambda _: LOST)
    pair.follower = pair.b.open(Role.FOLLOWER)
    assert pair.follower.log_end().position.revision >= answered.position.revision
    pair.ship()
    assert content(pair.follower) == content(pair.primary)


# With its threads


async def test_with_its_threads_it_takes_what_comes_and_closes() -> None:
    loop = asyncio.get_running_loop()
    pair = Pair(threads=True, post=lambda callback: loop.call_soon_threadsafe(callback))
    keys = [b"%05d" % number for number in range(5_000)]
    do(pair.primary, PutRun(1, keys, keys))
    for number in range(50):
        do(pair.primary, Put(1, b"k%d" % number, b"v"))
    tickets = [pair.follower.receive(*chunk) for chunk in chunks(pair.primary, pair.follower.log_end(), 1)]
    reading = pair.follower.reading_at(0, (1, pair.primary.marks.visible))
    pair.follower.hear(pair.primary.marks.visible)
    assert await tickets[-1] == pair.primary.log_end()
    assert await reading == pair.primary.marks.visible
    waiting = asyncio.ensure_future(_wait(pair.follower.reading_at(1 << 40, None)))
    await asyncio.sleep(0)
    await asyncio.to_thread(pair.follower.close)
    with pytest.raises(NotServing):
        await waiting
    assert not [thread for thread in threading.enumerate() if thread.name == "log-receiver"]


async def _wait(ticket: Any) -> int:
    found: int = await ticket
    return found
