"""Removal of segments: only what nothing holds, oldest first, and at no moment in a way that the next start cannot read."""

from __future__ import annotations

import errno
import threading

import pytest

from kvserver.base.events import Event, SegmentsDeleted, SegmentsNotDeleted
from kvserver.base.fs import FileSystem
from kvserver.engine.obsolete_files import FLUSH, HoldRefused, Holds, SegmentDeleter
from kvserver.wal.recovery import list_segments
from support.faultfs import Fault, FaultFileSystem, FaultPlan
from support.histories import History, at, four_segments, recover_from, starts_without_writes
from support.logs import PATHS, SmallLog
from support.memdisk import LOST
from support.memfs import MemoryFileSystem


def deleter(history: History, holds: Holds, fs: FileSystem | None = None, events: list[Event] | None = None) -> SegmentDeleter:
    """Return a deleter beside the log's writer; ``fs`` removes in place of the log's own file system."""
    listener = (events if events is not None else []).append
    return SegmentDeleter(fs or history.fs, PATHS, history.log.writer, holds, listener)


def firsts(fs: FileSystem) -> list[int]:
    """Return the first revision of each segment that is there."""
    return [name.first_revision for name in list_segments(fs, PATHS)]


# Holds


def test_holds_have_names_and_the_lowest_is_the_one_to_blame() -> None:
    holds = Holds(5)
    assert (holds.list(), holds.lowest()) == ({FLUSH: 5}, (FLUSH, 5))
    holds.set("reader", 3)
    holds.set("archive", 3)
    assert holds.lowest() == ("archive", 3)
    holds.set("archive", 9)
    assert (holds.lowest(), holds.list()) == (("reader", 3), {FLUSH: 5, "archive": 9, "reader": 3})
    holds.release("reader")
    holds.release("reader")
    assert holds.lowest() == (FLUSH, 5)
    holds.list().clear()
    assert holds.lowest() == (FLUSH, 5)


def test_the_flush_never_lets_go() -> None:
    with pytest.raises(ValueError, match="always held"):
        Holds(2).release(FLUSH)


def test_what_may_be_gone_cannot_be_held() -> None:
    holds = Holds(10, log_from=4)
    with pytest.raises(HoldRefused, match="needs the log from revision 3 on; it begins at 4"):
        holds.set("reader", 3)
    holds.set("reader", 4)
    assert holds.give_up() == 4
    holds.release("reader")
    holds.set("reader", 4)  # nobody was told yet that it may go
    holds.release("reader")
    assert holds.give_up() == 10
    for name in ("reader", FLUSH):
        with pytest.raises(HoldRefused):
            holds.set(name, 9)
    assert holds.list() == {FLUSH: 10}


# What goes and what stays


@pytest.mark.parametrize(
    ("flushed", "kept"),
    [
        (1, [2, 5, 8, 11]),
        (3, [2, 5, 8, 11]),
        (4, [5, 8, 11]),
        (6, [5, 8, 11]),
        (7, [8, 11]),
        (10, [11]),
        (13, [11]),
    ],
)
def test_a_sealed_segment_goes_when_its_last_revision_is_flushed(flushed: int, kept: list[int]) -> None:
    history = four_segments()
    before = history.segments()
    writer = history.log.writer
    sizes = {info.name: info.length_bytes for info in writer.sealed}
    total = writer.total_bytes()
    events: list[Event] = []
    gone = deleter(history, Holds(flushed + 1), events=events).delete_obsolete()
    assert gone == [segment.name for segment in before[: 4 - len(kept)]]
    assert firsts(history.fs.power_loss(lambda _: LOST)) == firsts(history.fs) == kept
    assert [info.name.first_revision for info in writer.sealed] == kept[:-1]
    assert writer.first_revision() == kept[0]
    size = sum(sizes[name] for name in gone)
    assert writer.total_bytes() == total - size
    assert events == ([SegmentsDeleted(len(gone), size, kept[0])] if gone else [])
    base = at(history, flushed)
    assert recover_from(history.fs, base).groups == history.behind(base)


def test_every_hold_keeps_what_it_needs() -> None:
    history = four_segments()
    holds = Holds(14)
    holds.set("flush-build", 7)
    job = deleter(history, holds)
    job.delete_obsolete()
    assert firsts(history.fs) == [5, 8, 11]
    assert job.delete_obsolete() == []
    holds.release("flush-build")
    job.delete_obsolete()
    assert firsts(history.fs) == [11]


def test_the_log_goes_on_behind_what_was_removed() -> None:
    history = four_segments()
    holds = Holds(14)
    job = deleter(history, holds)
    job.delete_obsolete()
    base = history.end
    history.rotate()
    history.put("x")
    assert job.delete_obsolete() != []
    assert firsts(history.fs) == [14]
    found = recover_from(history.fs, base, begun=history.epoch)
    assert (found.groups, found.log.position) == (history.behind(base), history.end)


@pytest.mark.parametrize("epoch", [1, 2, 3, 4])
def test_empty_segments_right_behind_the_tables_stay(epoch: int) -> None:
    """Their headers are the only proof that the log follows the tables, whichever of the positions those hold."""
    history = starts_without_writes()
    base = at(history, 4, epoch)
    job = deleter(history, Holds(5))
    assert [name.epoch_number for name in job.delete_obsolete()] == [1]
    assert recover_from(history.fs, base, begun=history.epoch).groups == history.behind(base)


def test_empty_segments_go_with_the_next_commit_that_is_flushed() -> None:
    history = starts_without_writes()
    assert [name.epoch_number for name in deleter(history, Holds(6)).delete_obsolete()] == [1, 2, 3]


def test_torn_ends_that_were_kept_stay() -> None:
    history = four_segments()
    torn = PATHS.torn(history.segments()[0].path, 4096)
    history.fs.plant(torn, b"KVFg")
    assert len(deleter(history, Holds(14)).delete_obsolete()) == 3
    assert history.fs.contents()[torn] == b"KVFg"


# When the disk refuses


@pytest.mark.parametrize("error", [errno.EIO, errno.EROFS, errno.EPERM])
def test_what_cannot_be_removed_stays_in_order_is_reported_and_tried_again(error: int) -> None:
    history = four_segments()
    second = history.segments()[1].path
    fault = Fault(error=error, kinds={"remove"}, where=lambda path: path == second)
    events: list[Event] = []
    job = deleter(history, Holds(14), FaultFileSystem(history.fs, FaultPlan([fault])), events)
    assert [name.first_revision for name in job.delete_obsolete()] == [2]
    assert firsts(history.fs.power_loss(lambda _: LOST)) == [5, 8, 11]
    assert [type(event) for event in events] == [SegmentsNotDeleted, SegmentsDeleted]
    assert isinstance(events[0], SegmentsNotDeleted)
    assert events[0].segment == second.name
    assert [name.first_revision for name in job.delete_obsolete()] == [5, 8]
    assert firsts(history.fs) == [11]


def failing_at(at: int) -> tuple[MemoryFileSystem, SmallLog, SegmentDeleter, list[Event]]:
    """Return three segments, all flushed, and a deleter; of the removals and syncs of the folder the n-th from now on fails."""
    disk = MemoryFileSystem()
    fault = Fault(at=3 + at, kinds={"remove", "sync_dir"})  # three were made for the names of the segments
    fs = FaultFileSystem(disk, FaultPlan([fault]))
    log = SmallLog(fs).begin()
    for number in range(3):
        if number:
            log.writer.rotate()
        log.put(f"a{number}")
    events: list[Event] = []
    holds = Holds(log.writer.position.revision + 1)
    return disk, log, SegmentDeleter(fs, PATHS, log.writer, holds, events.append), events


def test_a_folder_that_cannot_be_synced_is_reported_and_synced_by_the_next_call() -> None:
    disk, log, job, events = failing_at(3)
    assert len(job.delete_obsolete()) == 2
    assert [type(event) for event in events] == [SegmentsNotDeleted, SegmentsDeleted]
    assert len(firsts(disk.power_loss(lambda _: LOST))) == 3
    assert job.delete_obsolete() == []
    assert len(firsts(disk.power_loss(lambda _: LOST))) == 1
    log.put("still", "written")
    log.writer.rotate()


@pytest.mark.parametrize("at", [1, 2, 3])
def test_whatever_call_fails_the_next_run_ends_the_work(at: int) -> None:
    disk, log, job, events = failing_at(at)
    removed = job.delete_obsolete() + job.delete_obsolete()
    assert [name.first_revision for name in removed] == [2, 3]
    assert [type(event) for event in events].count(SegmentsNotDeleted) == 1
    assert firsts(disk.power_loss(lambda _: LOST)) == [4]
    assert log.writer.sealed == []


def test_a_segment_that_somebody_moved_away_is_forgotten() -> None:
    history = four_segments()
    history.fs.remove(history.segments()[0].path)
    job = deleter(history, Holds(8))
    assert [name.first_revision for name in job.delete_obsolete()] == [2, 5]
    assert history.log.writer.first_revision() == 8


# Threads


def test_a_log_that_rotates_beside_the_removal_keeps_its_figures() -> None:
    history = History()
    holds = Holds(2)
    job = deleter(history, holds)
    writer = history.log.writer
    ended = threading.Event()
    removed: list[int] = []

    def remove() -> None:
        last = False
        while not last:
            last = ended.is_set()
            removed.extend(name.first_revision for name in job.delete_obsolete())
            assert writer.total_bytes() > 0

    thread = threading.Thread(target=remove)
    thread.start()
    for number in range(40):
        history.put(f"k{number}")
        writer.rotate()
        holds.set(FLUSH, history.end.revision + 1)
    ended.set()
    thread.join(30)
    assert removed == list(range(2, 42))
    assert writer.sealed == []
    assert (writer.first_revision(), writer.total_bytes()) == (42, writer.segment.offset)
    assert firsts(history.fs) == [42]


def test_only_the_oldest_segment_can_be_forgotten() -> None:
    writer = four_segments().log.writer
    with pytest.raises(ValueError, match="not the oldest"):
        writer.forget(writer.sealed[1])
    taken = writer.sealed
    writer.forget(taken[0])
    assert (len(taken), len(writer.sealed)) == (3, 2)
