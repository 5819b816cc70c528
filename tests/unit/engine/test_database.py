"""The database: write, read at any revision, come back after a restart with the same state."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest

from kvserver.base.errors import Code, KvError, NamespaceExists, RevisionError, UnknownNamespace
from kvserver.base.events import Event, LogPoisoned, SegmentSealed
from kvserver.base.types import FIRST_NAMESPACE, Version
from kvserver.commit.requests import Batch, CreateNamespace, Delete, DeleteSpan, Put, PutRun, ReadRun
from kvserver.engine.database import Database
from kvserver.storage.ranges import EVERYTHING, prefix_span
from support.clocks import ManualClock
from support.fake_log import outcome
from support.logs import SMALL
from support.memdisk import LOST
from support.memfs import MemoryFileSystem
from support.stores import TIGHT, content, do, histories, open_store, peek, settle, submit


@pytest.fixture
def disk() -> MemoryFileSystem:
    return MemoryFileSystem()


@pytest.fixture
def database(disk: MemoryFileSystem) -> Database:
    return open_store(disk)


def some_history(database: Database) -> None:
    """Make commits of every kind."""
    do(database, CreateNamespace("orders"))
    do(database, PutRun(1, [b"a", b"b", b"a"], [b"1", b"2", b"3"]))
    do(database, Put(FIRST_NAMESPACE, b"a", b"other"))
    do(database, Batch([Delete(1, b"b"), Put(1, b"c", b"4", if_revision=0), Put(1, b"a", b"5")]))
    do(database, Put(1, b"b", b"6"))
    do(database, CreateNamespace("Übung"))
    do(database, DeleteSpan(1, prefix_span(b"c")))


# Reading at a revision


def test_every_past_revision_reads_as_it_was(database: Database) -> None:
    some_history(database)
    assert [{key: row.value for (_, key), row in past.items() if _ == ""} for past in histories(database)] == [
        {},
        {},
        {b"a": b"1"},
        {b"a": b"1", b"b": b"2"},
        {b"a": b"3", b"b": b"2"},
        {b"a": b"3", b"b": b"2"},
        {b"a": b"5", b"c": b"4"},
        {b"a": b"5", b"b": b"6", b"c": b"4"},
        {b"a": b"5", b"b": b"6", b"c": b"4"},
        {b"a": b"5", b"b": b"6"},
    ]
    assert peek(database, 1, b"a", 10) == Version(b"a", b"5", 3, 7, 3)
    assert peek(database, 1, b"b", 10) == Version(b"b", b"6", 8, 8, 1)
    assert peek(database, 1, b"c", 9) == Version(b"c", b"4", 7, 7, 1)


def test_reading_without_a_revision_is_reading_what_is_visible(database: Database) -> None:
    do(database, Put(1, b"a", b"1"))
    submit(database, Put(1, b"a", b"2"))
    assert database.reading_at(0, None).answer() == 2
    settle(database)
    assert database.reading_at(0, None).answer() == 3
    assert database.reading_at(2, None).answer() == 2


def test_a_revision_that_was_given_out_but_is_not_visible_is_waited_for(database: Database) -> None:
    submit(database, Put(1, b"a", b"1"))
    reading = database.reading_at(2, None)
    assert not reading.done
    settle(database)
    assert reading.answer() == 2


def test_a_future_revision_is_refused(database: Database) -> None:
    do(database, Put(1, b"a", b"1"))
    error = outcome(database.reading_at(3, None))
    assert isinstance(error, RevisionError)
    assert error.code is Code.FUTURE_REVISION


# Sessions


def test_a_session_makes_its_callers_next_read_wait_for_what_it_saw(database: Database) -> None:
    ticket = submit(database, Put(1, b"a", b"1"), memory=True)
    session = (database.history.current.number, ticket.answer().revision)
    reading = database.reading_at(0, session)
    assert not reading.done
    settle(database)
    assert reading.answer() == 2
    assert database.reading_at(0, session).answer() == 2


def test_a_session_reads_the_past_only_when_it_has_seen_it(database: Database) -> None:
    do(database, Put(1, b"a", b"1"))
    submit(database, Put(1, b"a", b"2"))
    reading = database.reading_at(2, (1, 3))
    assert not reading.done
    settle(database)
    assert reading.answer() == 2


def test_a_session_that_saw_nothing_waits_for_nothing(database: Database) -> None:
    submit(database, Put(1, b"a", b"1"))
    assert database.reading_at(0, (1, 0)).answer() == 1
    assert database.reading_at(0, (77, 0)).answer() == 1


def test_a_session_from_before_a_restart_is_part_of_history(disk: MemoryFileSystem, database: Database) -> None:
    do(database, Put(1, b"a", b"1"))
    disk.kill()
    again = open_store(disk, seed=1)
    do(again, Put(1, b"a", b"2"))
    assert again.reading_at(0, (1, 2)).answer() == 3
    assert again.reading_at(0, (2, 3)).answer() == 3


def test_a_session_that_saw_what_a_crash_took_back_is_told(disk: MemoryFileSystem, database: Database) -> None:
    do(database, Put(1, b"a", b"1"))
    lost = submit(database, Put(1, b"a", b"lost"), memory=True).answer()
    again = open_store(disk.power_loss(lambda _: LOST), seed=1)
    do(again, PutRun(1, [b"a", b"b"], [b"2", b"3"]))
    error = outcome(again.reading_at(0, (1, lost.revision)))
    assert isinstance(error, RevisionError)
    assert error.code is Code.HISTORY_LOST
    assert "epoch 2 follows it from revision 2 on" in error.message
    assert again.reading_at(0, (1, 2)).answer() == 4


@pytest.mark.parametrize("epoch", [0, 2, 99])
def test_a_session_of_an_unknown_epoch_is_told(database: Database, epoch: int) -> None:
    error = outcome(database.reading_at(0, (epoch, 1)))
    assert isinstance(error, RevisionError)
    assert error.code is Code.HISTORY_LOST


# Namespaces


def test_a_namespace_is_for_readers_when_it_is_visible(database: Database) -> None:
    submit(database, CreateNamespace("orders"))
    with pytest.raises(UnknownNamespace):
        database.namespace_id("orders")
    assert [entry.name for entry in database.namespaces()] == [""]
    settle(database)
    assert database.namespace_id("orders") == FIRST_NAMESPACE
    assert [entry.name for entry in database.namespaces()] == ["", "orders"]


def test_namespaces_survive_a_restart_and_ids_are_not_used_again(disk: MemoryFileSystem, database: Database) -> None:
    ids = [do(database, CreateNamespace(name)).namespace_id for name in ("b", "a")]
    database.close()
    again = open_store(disk, seed=1)
    assert [(entry.name, entry.id, entry.create_revision) for entry in again.namespaces()] == [
        ("", 1, 1),
        ("a", ids[1], 3),
        ("b", ids[0], 2),
    ]
    with pytest.raises(NamespaceExists):
        do(again, CreateNamespace("a"))
    assert do(again, CreateNamespace("c")).namespace_id == max(ids) + 1


# Restarts


def test_a_restart_finds_every_revision_as_it_was(disk: MemoryFileSystem, database: Database) -> None:
    some_history(database)
    before = histories(database)
    chain = database.log_figures().chain
    for seed, end in ((1, "kill"), (2, "power loss"), (3, "close")):
        if end == "close":
            database.close()
        disk.kill()
        disk = disk.power_loss(lambda _: LOST) if end == "power loss" else disk
        database = open_store(disk, seed=seed)
        assert histories(database) == before
        assert database.marks.visible == len(before)
        assert database.state.memtable.live_keys() == len(before[-1])
    assert database.log_figures().chain != chain, "a new epoch begins a new chain"


def test_a_long_life_of_many_segments_and_restarts(disk: MemoryFileSystem) -> None:
    rng = random.Random(7)
    expected: dict[bytes, bytes] = {}
    for life in range(4):
        database = open_store(disk, SMALL, seed=life)
        assert {key: row.value for (_, key), row in content(database).items()} == expected
        for _ in range(120):
            keys = [b"k%d" % rng.randrange(50) for _ in range(rng.randrange(1, 4))]
            values = [rng.randbytes(rng.randrange(900)) for _ in keys]
            submit(database, PutRun(1, keys, values))
            expected.update(zip(keys, values, strict=True))
            for _ in range(rng.randrange(3)):
                database.run_log_once()
        settle(database)
        assert database.log_figures().segments > 2 * life + 1
        if life % 2:
            database.close()
        disk.kill()


def test_figures_of_the_log_add_up(disk: MemoryFileSystem, database: Database) -> None:
    first = database.log_figures()
    assert (first.segments, first.groups, first.syncs, first.bytes_written, first.space_error) == (1, 0, 0, 0, "")
    for number in range(3):
        do(database, Put(1, b"%d" % number, b""))
    figures = database.log_figures()
    assert (figures.groups, figures.syncs) == (3, 6), "each group and its mark"
    assert figures.total_bytes == 4096 + figures.bytes_written
    assert figures.chain != first.chain


# Sealing by age


def test_an_old_segment_is_sealed_between_two_writes(disk: MemoryFileSystem) -> None:
    clock = ManualClock()
    events: list[Event] = []
    database = open_store(disk, clock=clock, listener=events.append)
    do(database, Put(1, b"a", b"1"))
    while database._space.step():
        pass
    database.tick()
    assert not database.run_log_once()
    clock.advance_ms(TIGHT.seal_age_ms)
    database.tick()
    waits = submit(database, Put(1, b"a", b"2"))
    settle(database)
    assert waits.answer().revision == 3
    assert [event.last_revision for event in events if isinstance(event, SegmentSealed)] == [2]
    database.tick()
    settle(database)
    assert database.log_figures().segments == 2


# Failure


def test_a_log_that_fails_is_told_to_everyone_and_nothing_acknowledged_is_lost(disk: MemoryFileSystem) -> None:
    events: list[Event] = []
    failures: list[BaseException] = []
    database = open_store(disk, listener=events.append)
    database.pipeline.on_failure = failures.append
    do(database, Put(1, b"a", b"1"))
    ticket = submit(database, Put(1, b"a", b"2"))
    while database._space.step():
        pass
    disk.fail_next_sync()
    settle(database)
    assert isinstance(outcome(ticket), KvError)
    assert outcome(ticket).code is Code.OUTCOME_UNKNOWN
    assert (len(failures), database.marks.visible) == (1, 2)
    assert [type(event) for event in events].count(LogPoisoned) == 1
    assert database.failure is failures[0]
    database.close()
    again = open_store(disk.power_loss(lambda _: LOST), seed=1)
    assert content(again)["", b"a"].value == b"1"


def test_a_failed_sync_of_the_space_keeper_fails_the_pipeline(disk: MemoryFileSystem, database: Database) -> None:
    do(database, Put(1, b"a", b"1"))
    disk.fail_next_sync()
    while database._space.step():
        pass
    assert database.pipeline.failure is not None
    assert outcome(submit(database, Put(1, b"a", b"2"))).code is Code.LOG_FAILED
    assert outcome(submit(database, ReadRun(1, [b"a"]))).code is Code.LOG_FAILED


# With its threads


async def test_with_threads_and_an_event_loop() -> None:
    disk = MemoryFileSystem()
    loop = asyncio.get_running_loop()

    def post(callback: Any) -> None:
        loop.call_soon_threadsafe(callback)

    database = open_store(disk, SMALL, post=post, threads=True)

    async def writer(name: int) -> list[int]:
        revisions = []
        for number in range(60):
            done = await submit(database, Put(1, b"%d-%d" % (name, number), bytes(100)))
            assert database.marks.visible >= done.revision
            database.marks.check()
            revisions.append(done.revision)
        return revisions

    found = await asyncio.gather(*(writer(name) for name in range(20)))
    assert all(revisions == sorted(revisions) for revisions in found)
    assert sorted(revision for revisions in found for revision in revisions) == list(range(2, 1202))
    assert database.log_figures().groups < 1200, "nothing was grouped"
    assert database.log_figures().segments > 2
    await loop.run_in_executor(None, database.close)
    again = open_store(disk.power_loss(lambda _: LOST), SMALL, seed=1)
    assert len(content(again)) == 1200


async def test_a_span_can_be_ordered_before_it_is_deleted(database: Database) -> None:
    keys = [b"%05d" % number for number in range(5000)]
    do(database, PutRun(1, keys, [b""] * len(keys)))
    request = DeleteSpan(1, EVERYTHING)
    pin = await database.prepare([request])
    assert database.state.memtable.unordered(1) == 0
    ticket = database.submit(request, lambda outcome: outcome, pin=pin)
    settle(database)
    assert ticket.answer().deleted == 5000
    assert content(database) == {}
