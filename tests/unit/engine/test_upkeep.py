"""What is given up, when, and that its space returns; and nothing that somebody may still read."""

from __future__ import annotations

import errno

import pytest

from kvserver.base.errors import Code, KvError
from kvserver.base.events import Event, HistoryGivenUp, NamespaceRemoved, UpkeepFailing
from kvserver.base.options import TableOptions
from kvserver.commit.requests import CompactHistory, CreateNamespace, DropNamespace, Put, PutRun
from kvserver.engine.database import Database
from kvserver.storage.rows import HISTORY, TIMES, data_prefix
from support.clocks import ManualClock
from support.fake_log import outcome
from support.memdisk import LOST
from support.memfs import MemoryFileSystem
from support.stores import content, do, flush, histories, open_store, peek, settle, submit

HOUR_MS = 3_600_000


def rows(db: Database, prefix: bytes) -> int:
    """Return how many rows of a kind the tables hold."""
    end = prefix[:-1] + bytes((prefix[-1] + 1,))
    return len(db._tables.rows(prefix, end, 1 << 30))


def tick(db: Database) -> None:
    db.tick()
    settle(db)


def bucketed(**options: int) -> TableOptions:
    return TableOptions(**{"history_ms": 0, "history_revisions": 0, "bucket_revisions": 4, **options})


def overwrite(db: Database, times: int) -> None:
    """Write one key so many times, a revision each, and flush."""
    do(db, PutRun(1, [b"a"] * times, [b"%d" % number for number in range(times)]))
    flush(db)


def readable(db: Database) -> list[int]:
    """Return the revisions that can be read at."""
    return [at for at in range(1, db.marks.visible + 1) if not isinstance(outcome(db.reading_at(at, None)), KvError)]


# The window


def test_the_window_by_number_moves_in_whole_buckets() -> None:
    db = open_store(MemoryFileSystem(), tables=bucketed(history_revisions=6))
    for _ in range(4):
        overwrite(db, 5)
        tick(db)
        tick(db)
        visible = db.marks.visible
        assert db.oldest_readable % 4 == 0 or db.oldest_readable == 1
        assert db.oldest_readable <= visible - 6 + 1, "at least so many can be read"
        assert visible - db.oldest_readable < 6 + 4 + 2, "and about as many"
    assert readable(db) == list(range(db.oldest_readable, db.marks.visible + 1))


def test_the_window_by_time_moves_with_the_clock_and_keeps_what_was_newest_within_it() -> None:
    clock = ManualClock()
    disk = MemoryFileSystem()
    db = open_store(disk, clock=clock, tables=bucketed(history_ms=HOUR_MS, bucket_revisions=1))
    do(db, Put(1, b"a", b"1"))
    tick(db)
    clock.advance_ms(HOUR_MS // 2)
    do(db, Put(1, b"a", b"2"))
    tick(db)
    clock.advance_ms(HOUR_MS // 2 - 1)
    tick(db)
    assert db.oldest_readable == 1
    clock.advance_ms(1)
    tick(db)
    assert db.oldest_readable == 2, "it was the newest one until half an hour ago"
    clock.advance_ms(HOUR_MS // 2)
    tick(db)
    assert db.oldest_readable == 3
    assert outcome(db.reading_at(2, None)).code is Code.COMPACTED


def test_times_of_before_a_restart_are_known_from_the_tables() -> None:
    clock = ManualClock()
    disk = MemoryFileSystem()
    options = bucketed(history_ms=HOUR_MS, bucket_revisions=1)
    db = open_store(disk, clock=clock, tables=options)
    for number in range(3):
        do(db, Put(1, b"a", b"%d" % number))
        flush(db)
        clock.advance_ms(HOUR_MS // 4)
    disk.kill()
    db = open_store(disk, clock=clock, tables=options, seed=1)
    clock.advance_ms(HOUR_MS // 2 + 1)
    tick(db)
    assert db.oldest_readable == 3


def test_a_clock_that_was_ahead_does_not_stop_the_window() -> None:
    clock = ManualClock()
    db = open_store(MemoryFileSystem(), clock=clock, tables=bucketed(history_ms=HOUR_MS, bucket_revisions=1))
    clock.jump_wall_ms(1000 * HOUR_MS)
    do(db, Put(1, b"a", b"1"))
    tick(db)
    clock.jump_wall_ms(-1000 * HOUR_MS)
    do(db, Put(1, b"a", b"2"))
    tick(db)
    for _ in range(3):
        clock.advance_ms(HOUR_MS)
        tick(db)
    assert db.oldest_readable >= 3


def test_the_window_is_moved_by_a_commit_and_so_survives(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = MemoryFileSystem()
    db = open_store(disk, tables=bucketed(history_revisions=4))
    overwrite(db, 10)
    tick(db)
    oldest = db.oldest_readable
    assert oldest > 1
    for flushed in (False, True):
        if flushed:
            flush(db)
        db = open_store(disk.power_loss(lambda _: LOST), tables=bucketed(), seed=1 + flushed)
        disk = db._env.fs  # type: ignore[assignment]
        assert db.oldest_readable == oldest
        assert outcome(db.reading_at(oldest - 1, None)).code is Code.COMPACTED


def test_it_is_not_moved_for_those_who_read_before_it_is_visible() -> None:
    db = open_store(MemoryFileSystem(), tables=bucketed())
    overwrite(db, 6)
    ticket = submit(db, CompactHistory(5))
    assert db.oldest_readable == 1
    assert db.reading_at(2, None).answer() == 2
    settle(db)
    assert ticket.done
    assert db.oldest_readable == 5


# Space


def test_history_behind_the_window_goes_by_the_bucket_and_what_can_be_read_stays_exact() -> None:
    events: list[Event] = []
    db = open_store(MemoryFileSystem(), tables=bucketed(), listener=events.append)
    for _ in range(4):
        overwrite(db, 5)
    before = histories(db)
    all_rows, all_times = rows(db, HISTORY), rows(db, TIMES)
    for oldest in (6, 7, 8, 11, 15):
        do(db, CompactHistory(oldest))
        tick(db)
        for revision in range(oldest, len(before) + 1):
            assert content(db, revision) == before[revision - 1]
        superseded = range(3, 22)
        assert rows(db, HISTORY) == len([at for at in superseded if at // 4 >= (oldest + 1) // 4])
    assert rows(db, HISTORY) < all_rows
    assert rows(db, TIMES) < all_times
    assert [event.oldest_readable_revision for event in events if isinstance(event, HistoryGivenUp)] == [6, 7, 11, 15]


def test_the_keys_of_a_dropped_namespace_go_from_memory_and_tables() -> None:
    events: list[Event] = []
    disk = MemoryFileSystem()
    db = open_store(disk, tables=bucketed(), listener=events.append)
    number = do(db, CreateNamespace("team")).namespace_id
    do(db, PutRun(number, [b"a", b"b"], [b"1", b"2"]))
    do(db, Put(1, b"kept", b""))
    flush(db)
    do(db, Put(number, b"memory", b"3"))
    assert rows(db, data_prefix(number)) == 2
    do(db, DropNamespace("team"))
    tick(db)
    assert rows(db, data_prefix(number)) == 0
    assert [event for event in events if isinstance(event, NamespaceRemoved)] == [NamespaceRemoved("team", number)]
    assert db.statistics(number).keys == 0
    assert db.live_keys() == 1
    assert list(content(db)) == [("", b"kept")]
    again = open_store(disk.power_loss(lambda _: LOST), tables=bucketed(), seed=1)
    assert rows(again, data_prefix(number)) == 0
    assert [entry.name for entry in again.namespaces()] == [""]


def test_a_drop_that_a_crash_kept_from_returning_its_space_returns_it_after_the_start() -> None:
    disk = MemoryFileSystem()
    db = open_store(disk, tables=bucketed())
    number = do(db, CreateNamespace("team")).namespace_id
    do(db, Put(number, b"a", b"1"))
    flush(db)
    do(db, DropNamespace("team"))
    again = open_store(disk.power_loss(lambda _: LOST), tables=bucketed(), seed=1)
    assert rows(again, data_prefix(number)) == 1
    tick(again)
    assert rows(again, data_prefix(number)) == 0


def test_nothing_goes_before_its_drop_is_visible() -> None:
    db = open_store(MemoryFileSystem(), tables=bucketed())
    number = do(db, CreateNamespace("team")).namespace_id
    do(db, Put(number, b"a", b"1"))
    flush(db)
    submit(db, DropNamespace("team"))
    db.tick()
    while db.run_tables_once():
        pass
    assert rows(db, data_prefix(number)) == 1
    assert peek(db, number, b"a", 3) is not None


def test_what_cannot_be_removed_is_told_once_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[Event] = []
    db = open_store(MemoryFileSystem(), tables=bucketed(), listener=events.append)
    overwrite(db, 10)

    def refuse(start: bytes, end: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(db._tables, "delete_range", refuse)
        do(db, CompactHistory(9))
        for _ in range(3):
            tick(db)
    assert [type(event) for event in events].count(UpkeepFailing) == 1
    assert rows(db, HISTORY) == 9
    tick(db)
    assert rows(db, HISTORY) == 4
    assert [type(event) for event in events].count(HistoryGivenUp) == 1
