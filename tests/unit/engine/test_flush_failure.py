"""Flushes that fail: nothing is lost, writes wait or are refused while memory is full, and all goes on by itself afterwards."""

from __future__ import annotations

import dataclasses
import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from kvserver.base.errors import Code, Corruption, KvError, NotServing
from kvserver.base.events import Event, FlushFailing, FlushRecovered, TableFlushed
from kvserver.base.options import PipelineOptions, TableOptions
from kvserver.commit.pipeline import AnyTicket
from kvserver.commit.requests import Delete, Put
from kvserver.engine.database import Database
from kvserver.storage.flush_job import FlushBuilder, FlushFailed, FlushJob, FlushOutcome
from kvserver.storage.tables import TableFigures
from support.clocks import ManualClock
from support.fake_log import outcome
from support.faultfs import Fault, FaultFileSystem, FaultPlan
from support.logs import PATHS
from support.memdisk import LOST
from support.memfs import MemoryFileSystem
from support.stores import TWIN, content, do, flush, open_store, peek, settle, submit
from support.twin_tables import TwinTables

FULL = OSError(errno.ENOSPC, "No space left on device")
BROKEN = OSError(errno.EIO, "Input/output error")
DEAD = FlushFailed("the helper that builds tables ended by signal 9")
DAMAGED = Corruption(Path("/data/wal/x.wal"), 4096, "a frame that was durable does not check")
TABLES = TableOptions(memtable_bytes=2_000, flush_retry_ms=1_000)
LIMIT = PipelineOptions(memory_limit_bytes=5_000)


class Failing:
    """Builds only while nothing is wrong."""

    def __init__(self, builder: FlushBuilder) -> None:
        self._builder = builder
        self.error: Exception | None = None
        self.asked = 0

    def build(self, job: FlushJob) -> FlushOutcome:
        """Fail, or build."""
        self.asked += 1
        if self.error is not None:
            raise self.error
        return self._builder.build(job)

    def close(self) -> None:
        """End."""
        self._builder.close()


class Store:
    """A store with little memory and a builder that can be broken."""

    def __init__(self) -> None:
        self.disk = MemoryFileSystem()
        self.clock = ManualClock()
        self.events: list[Event] = []
        made: list[Failing] = []

        def make(*args: object) -> FlushBuilder:
            made.append(Failing(TWIN.make_builder(*args)))  # type: ignore[arg-type]
            return made[0]

        kit = dataclasses.replace(TWIN, make_builder=make)
        self.db: Database = open_store(
            self.disk, clock=self.clock, pipeline=LIMIT, tables=TABLES, listener=self.events.append, kit=kit
        )
        (self.builder,) = made

    def told(self) -> list[str]:
        return [type(event).__name__ for event in self.events if isinstance(event, FlushFailing | FlushRecovered)]

    def fill(self, most: int = 40) -> list[AnyTicket]:
        """Write until somebody waits or is refused; return all tickets."""
        tickets: list[AnyTicket] = []
        while len(tickets) < most:
            tickets.append(submit(self.db, Put(1, b"%02d" % len(tickets), bytes(300))))
            settle(self.db)
            if not tickets[-1].done or isinstance(outcome(tickets[-1]), KvError):
                break
        return tickets

    def later(self, ms: int = 1_001) -> None:
        """Let time pass as the server does."""
        self.clock.advance_ms(ms)
        self.db.tick()
        settle(self.db)


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.mark.parametrize(
    ("error", "code"),
    [(DEAD, Code.TABLES_FAILED), (BROKEN, Code.TABLES_FAILED), (FULL, Code.DISK_FULL), (DAMAGED, Code.TABLES_FAILED)],
    ids=["dead", "broken", "full", "damaged"],
)
def test_a_flush_that_fails_for_a_while(store: Store, error: Exception, code: Code) -> None:
    store.builder.error = error
    *kept, refused = store.fill()
    assert outcome(refused).code is code, "memory is full and nothing is to be had of waiting"
    assert len(kept) > 5
    assert store.told() == ["FlushFailing"]
    (reported,) = [event for event in store.events if isinstance(event, FlushFailing)]
    assert reported.reason in (str(error), getattr(error, "message", ""))
    assert store.db.flush_error == str(error)
    assert peek(store.db, 1, b"00", store.db.marks.visible) is not None
    assert outcome(submit(store.db, Put(1, b"no", b""))).code is code
    for _ in range(3):
        store.later()
    assert store.told() == ["FlushFailing"], "one failure is told once, however often it is tried"
    assert store.builder.asked >= 4

    store.builder.error = None
    store.later()
    assert store.told() == ["FlushFailing", "FlushRecovered"]
    assert (store.db.flush_error, store.db.marks.flushed > 2) == ("", True)
    again = do(store.db, Put(1, b"again", b""))
    assert again.revision == len(kept) + 2, "what was refused was not written"
    assert set(content(store.db)) == {*(("", b"%02d" % number) for number in range(len(kept))), ("", b"again")}
    after = open_store(store.disk.power_loss(lambda _: LOST), seed=1)
    assert content(after) == content(store.db)


def test_it_is_not_tried_again_before_its_time(store: Store) -> None:
    store.builder.error = DEAD
    store.fill()
    asked = store.builder.asked
    store.builder.error = None
    store.later(900)
    assert store.builder.asked == asked
    store.later(200)
    assert store.builder.asked > asked


def test_another_failure_is_told_anew(store: Store) -> None:
    store.builder.error = DEAD
    store.fill()
    store.builder.error = FULL
    store.later()
    store.later()
    assert [event.reason for event in store.events if isinstance(event, FlushFailing)] == [str(DEAD), str(FULL)]


def test_writes_wait_while_memory_is_full_and_a_flush_is_under_way(store: Store) -> None:
    """Nothing has failed: who has to wait for the flush is not refused."""
    db = store.db
    tickets: list[AnyTicket] = []
    while not db.pipeline.waiting:
        tickets.append(submit(db, Put(1, b"%02d" % len(tickets), bytes(300))))
        while db.run_log_once():
            pass
    tickets += [submit(db, Put(1, b"%02d" % number, b"")) for number in range(50, 53)]
    assert (db.pipeline.waiting, db.flushes, db.pipeline.refused) == (4, 0, 0)
    assert db.memory_bytes() >= LIMIT.memory_limit_bytes
    settle(db)
    assert [outcome(ticket).revision for ticket in tickets] == list(range(2, len(tickets) + 2))
    assert db.flushes > 0
    assert store.told() == []


def test_those_in_line_are_refused_when_the_flush_they_wait_for_fails(store: Store) -> None:
    db = store.db
    tickets: list[AnyTicket] = []
    while not db.pipeline.waiting:
        tickets.append(submit(db, Put(1, b"%02d" % len(tickets), bytes(300))))
        while db.run_log_once():
            pass
    store.builder.error = DEAD
    assert not tickets[-1].done
    settle(db)
    assert outcome(tickets[-1]).code is Code.TABLES_FAILED
    assert "nothing was written" in outcome(tickets[-1]).message


def test_who_asked_for_a_flush_that_fails_is_told_and_may_ask_again(store: Store) -> None:
    do(store.db, Put(1, b"a", b"1"))
    store.builder.error = FULL
    ticket = store.db.flush()
    settle(store.db)
    assert outcome(ticket).code is Code.DISK_FULL
    store.builder.error = None
    assert flush(store.db) == 2, "without waiting for the time of the next try"


def test_a_flush_asked_for_when_the_log_has_failed_is_answered(store: Store) -> None:
    do(store.db, Put(1, b"a", b"1"))
    while store.db._space.step():
        pass
    store.disk.fail_next_sync()
    submit(store.db, Put(1, b"b", b""))
    waits = store.db.flush()
    while store.db.run_log_once():
        pass
    late = store.db.flush()
    settle(store.db)
    assert isinstance(outcome(waits), NotServing)
    assert isinstance(outcome(late), NotServing)
    assert store.db.flushes == 0


def test_a_table_that_cannot_be_taken_in_is_built_again() -> None:
    disk = MemoryFileSystem()
    links = Fault(error=errno.EIO, kinds={"link"}, where=lambda path: path.parent == PATHS.tables, at=1)
    fs = FaultFileSystem(disk, FaultPlan([links]))
    clock = ManualClock()
    events: list[Event] = []
    db = open_store(fs, clock=clock, listener=events.append)
    do(db, Put(1, b"a", b"1"))
    ticket = db.flush()
    settle(db)
    assert outcome(ticket).code is Code.TABLES_FAILED
    assert db.marks.flushed == 1
    assert peek(db, 1, b"a", 2) is not None
    do(db, Delete(1, b"a"))
    clock.advance_ms(1_001)
    db.tick()
    settle(db)
    assert [type(event) for event in events if isinstance(event, TableFlushed | FlushFailing | FlushRecovered)] == [
        FlushFailing,
        TableFlushed,
        FlushRecovered,
    ]
    assert db.marks.flushed == 2
    assert peek(db, 1, b"a", 2) is not None
    assert peek(db, 1, b"a", 3) is None
    after = open_store(disk.power_loss(lambda _: LOST), seed=1)
    assert peek(after, 1, b"a", 2) is not None
    assert content(after) == {}


class Unmerged(TwinTables):
    """Tables that say for a while that too many of them are not merged."""

    wait: int = 0
    background_error = ""
    on_look: Callable[[], None] = staticmethod(lambda: None)

    def figures(self) -> TableFigures:
        """Return too many, so many times."""
        self.on_look()
        if not self.wait:
            return super().figures()
        self.wait -= 1
        return TableFigures(level0_files=100, background_error=self.background_error)


def unmerged_store(clock: ManualClock) -> tuple[Database, Unmerged]:
    held: list[Unmerged] = []

    def open_tables(env: object, paths: object, options: object) -> Unmerged:
        held.append(Unmerged(env.fs, paths.tables))  # type: ignore[attr-defined]
        return held[0]

    db = open_store(MemoryFileSystem(), clock=clock, kit=dataclasses.replace(TWIN, open_tables=open_tables))
    return db, held[0]


def test_a_flush_waits_until_tables_are_merged() -> None:
    clock = ManualClock(auto_advance=True)
    db, tables = unmerged_store(clock)
    do(db, Put(1, b"a", b"1"))
    tables.wait = 5
    before = clock.monotonic()
    assert flush(db) == 2
    assert tables.wait == 0
    assert clock.monotonic() - before >= 0.2


def test_a_flush_does_not_wait_for_merging_that_has_ended_with_an_error() -> None:
    db, tables = unmerged_store(ManualClock())
    do(db, Put(1, b"a", b"1"))
    tables.wait, tables.background_error = 1_000, "No space left on device"
    assert flush(db) == 2


def test_a_node_that_stops_does_not_wait_for_merging() -> None:
    clock = ManualClock(auto_advance=True)
    db, tables = unmerged_store(clock)
    do(db, Put(1, b"a", b"1"))
    tables.wait = 1_000_000
    looks = []

    def look() -> None:
        looks.append(1)
        if len(looks) == 5:
            db.flusher.close()

    tables.on_look = look
    ticket = db.flush()
    settle(db)
    assert len(looks) < 20
    assert ticket.done
