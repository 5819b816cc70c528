"""What a follower keeps of its log, how large groups come in, who is told, and how it ends."""

from __future__ import annotations

from typing import Any

import pytest

from kvserver.base.errors import Code, KvError, NotServing
from kvserver.base.options import PipelineOptions, TableOptions
from kvserver.base.paths import parse_segment
from kvserver.base.types import Role
from kvserver.commit.requests import (
    CompactHistory,
    Put,
    PutRun,
)
from kvserver.engine.obsolete_files import ARCHIVE, FLUSH, HoldRefused
from support.fake_log import outcome
from support.logs import PATHS
from support.memfs import MemoryFileSystem
from support.stores import LoopTurns, content, do, flush, peek, settle
from unit.engine.followed import Pair, chunks, seal, ship, write_history


def segments(disk: MemoryFileSystem) -> dict[str, bytes]:
    """Return the content of each segment of a node, by name."""
    return {path.name: data for path, data in disk.contents().items() if path.parent == PATHS.wal and parse_segment(path.name)}


# The log that is kept


def test_segments_go_when_tables_hold_them_and_nobody_else_wants_them() -> None:
    pair = Pair()
    pair.follower.hold("slot:c", 2)
    for number in range(3):
        do(pair.primary, Put(1, b"k%d" % number, b"v"))
        seal(pair.primary)
    pair.ship()
    flush(pair.follower)
    pair.follower.tick()
    settle(pair.follower)
    assert len(segments(pair.b.disk)) == 4
    pair.follower.hold("slot:c", 4)
    pair.follower.tick()
    settle(pair.follower)
    assert len(segments(pair.b.disk)) == 2
    pair.follower.release_hold("slot:c")
    pair.follower.tick()
    settle(pair.follower)
    assert len(segments(pair.b.disk)) == 1
    with pytest.raises(HoldRefused):
        pair.follower.hold("slot:d", 2)
    for name in (FLUSH, ARCHIVE):
        with pytest.raises(ValueError, match="own"):
            pair.follower.hold(name, 5)


@pytest.mark.parametrize("knew", [True, False])
def test_the_log_is_kept_until_the_primarys_archive_has_it(knew: bool) -> None:
    pair = Pair(hold_archive=knew)
    for number in range(3):
        do(pair.primary, Put(1, b"k%d" % number, b"v"))
        seal(pair.primary)
    ship(pair.primary, pair.follower)
    pair.follower.hear(4, archived=2)
    flush(pair.follower)
    pair.follower.tick()
    settle(pair.follower)
    assert dict(pair.follower.holds())[ARCHIVE] == 3
    assert pair.follower.log_figures().segments == 3
    pair.follower.hear(4, archived=4)
    settle(pair.follower)
    assert pair.follower.log_figures().segments == 1
    assert pair.follower.marks.archived == 4


def test_an_archive_that_is_ahead_of_what_is_shown_breaks_no_mark() -> None:
    pair = Pair()
    do(pair.primary, PutRun(1, [b"a", b"b"], [b"1", b"2"]))
    ship(pair.primary, pair.follower)
    pair.follower.hear(2, archived=3)
    assert (pair.follower.marks.archived, pair.follower.marks.visible) == (2, 2)
    pair.follower.marks.check()


# Upkeep


def test_the_window_is_moved_by_the_primarys_commits_alone_and_gives_space_back() -> None:
    options = TableOptions(history_revisions=2, history_ms=0, bucket_revisions=2)
    pair = Pair(tables=options)
    for number in range(9):
        do(pair.primary, Put(1, b"k", b"%d" % number))
    pair.ship()
    flush(pair.follower)
    pair.follower.tick()
    settle(pair.follower)
    assert pair.follower.oldest_readable == 1
    assert peek(pair.follower, 1, b"k", 3).value == b"1"  # type: ignore[union-attr]
    do(pair.primary, CompactHistory(8))
    pair.ship()
    flush(pair.follower)
    pair.follower.tick()
    settle(pair.follower)
    assert pair.follower.oldest_readable == 8
    assert pair.follower.pipeline.refused == 0
    assert content(pair.follower) == content(pair.primary)


# Large groups


def test_a_large_group_is_inserted_over_several_turns_and_shown_when_it_is_whole() -> None:
    turns = LoopTurns()
    pair = Pair(post=turns)
    keys = [b"%05d" % number for number in range(12_000)]
    do(pair.primary, PutRun(1, keys, keys))
    pair.follower.hear(1 << 40)
    tickets = [pair.follower.receive(*chunk) for chunk in chunks(pair.primary, pair.follower.log_end())]
    assert pair.follower.run_log_once()
    taken, seen = 0, set()
    while turns.run(at_most=1):
        taken += 1
        seen.add((pair.follower.marks.applied, pair.follower.marks.visible))
        assert tickets[-1].done == (pair.follower.marks.applied == 12_001), "what is durable alone is not answered"
    assert taken > 5
    assert seen == {(1, 1), (12_001, 12_001)}
    assert all(ticket.answer() == pair.primary.log_end() for ticket in tickets)
    assert content(pair.follower) == content(pair.primary)


def test_a_flush_in_the_middle_of_a_large_group_cuts_behind_it() -> None:
    turns = LoopTurns()
    pair = Pair(post=turns)
    keys = [b"%05d" % number for number in range(12_000)]
    do(pair.primary, PutRun(1, keys, keys))
    pair.follower.hear(1 << 40)
    for chunk in chunks(pair.primary, pair.follower.log_end()):
        pair.follower.receive(*chunk)
    pair.follower.run_log_once()
    turns.run(at_most=3)
    assert pair.follower.pipeline.is_inserting
    flushing = pair.follower.flush()
    settle(pair.follower)
    assert flushing.answer() == 12_001
    assert content(pair.follower) == content(pair.primary)


def test_inserting_waits_while_full_memory_is_being_written_into_tables() -> None:
    pair = Pair(tables=TableOptions(memtable_bytes=1024), pipeline=PipelineOptions(memory_limit_bytes=300_000))
    pair.follower.hear(1 << 40)
    for number in range(12):
        do(pair.primary, Put(1, b"k%d" % number, bytes(100_000)))
    tickets = [pair.follower.receive(*chunk) for chunk in chunks(pair.primary, pair.follower.log_end(), 1)]
    pair.follower.run_log_once()
    assert pair.follower.marks.durable == 13
    assert 2 < pair.follower.marks.applied < 8
    assert not tickets[-1].done
    settle(pair.follower)
    assert pair.follower.marks.applied == 13
    assert tickets[-1].done
    assert content(pair.follower) == content(pair.primary)


# Observers and the end


def test_observers_hear_when_the_log_or_what_is_visible_has_moved() -> None:
    pair = Pair()
    seen: list[tuple[str, int, int]] = []
    for name, database in (("primary", pair.primary), ("follower", pair.follower)):
        stop = database.observe(lambda name=name, marks=database.marks: seen.append((name, marks.durable, marks.visible)))  # type: ignore[misc]
    do(pair.primary, Put(1, b"a", b"1"))
    assert ("primary", 2, 2) in seen
    ship(pair.primary, pair.follower)
    assert ("follower", 2, 1) in seen
    pair.hear()
    assert seen[-1] == ("follower", 2, 2)
    stop()
    stop()
    count = len(seen)
    pair.hear()
    assert len(seen) == count


def test_who_waits_is_told_when_the_store_is_closed() -> None:
    pair = Pair()
    write_history(pair.primary)
    waits: list[Any] = [
        pair.follower.reading_at(0, None),
        pair.follower.reading_at(99, None),
        pair.follower.reading_at(0, (7, 3)),
        pair.follower.pipeline.when_visible(5),
    ]
    received = [pair.follower.receive(*chunk) for chunk in chunks(pair.primary, pair.follower.log_end())]
    pair.follower.close()
    for wait in (*waits, *received, pair.follower.receive(1, 1, b""), pair.follower.reading_at(0, None)):
        error = outcome(wait)
        assert isinstance(error, NotServing)
    assert pair.b.open(Role.FOLLOWER).log_end() == pair.primary.log_end(), "what was handed over was made durable"


def test_a_primary_takes_no_log_of_others() -> None:
    pair = Pair()
    error = outcome(pair.primary.receive(1, 0, b"x"))
    assert isinstance(error, KvError)
    assert error.code is Code.WRONG_PEER
    pair.primary.hear(7)
    pair.primary.contact_lost()
    assert (pair.primary.lag_ms(), pair.primary.marks.visible) == (0, 1)
