"""A follower's log is the primary's, byte for byte; and what it says of itself meanwhile."""

from __future__ import annotations

import random

import pytest

from kvserver.base.events import SegmentSealed
from kvserver.base.fs import read_file
from kvserver.base.types import Epoch, LogEnd
from kvserver.wal import format as fmt
from kvserver.wal.recovery import list_segments
from support.histories import at, four_segments, random_history, starts_without_writes
from support.logs import CREATION, EPOCH, PATHS, SmallLog
from support.memdisk import LOST
from support.memfs import MemoryFileSystem
from support.received_logs import Follower, chunks, marked_and_sealed, same_bytes
from support.recordfs import RecordingFileSystem


@pytest.mark.parametrize("most_bytes", [1, 150, 400, 4096, 4200, 5000, 1 << 20])
def test_what_is_shipped_in_pieces_of_any_size_is_the_same_log(most_bytes: int) -> None:
    source = marked_and_sealed()
    follower = Follower().follow(source.fs, source.writer, most_bytes)
    same_bytes(source.fs, source.writer, follower)
    assert follower.groups == source.groups
    assert follower.log.epochs == [(EPOCH, CREATION)]


@pytest.mark.parametrize("seed", range(12))
def test_random_histories_of_many_epochs_arrive_while_they_are_written(seed: int) -> None:
    rng = random.Random(seed)
    history = random_history(rng)
    most_bytes = rng.choice([1, 300, 5000, 1 << 20])
    follower = Follower().follow(history.fs, history.log.writer, most_bytes)
    for number in range(6):
        rng.choice([history.rotate, history.start, lambda: history.put("k"), history.log.writer.write_mark])()
        history.put(f"late-{number}")
        follower.follow(history.fs, history.log.writer, most_bytes)
        same_bytes(history.fs, history.log.writer, follower)
    assert follower.groups == history.groups
    assert [epoch for epoch, _ in follower.log.epochs] == sorted({position.epoch for position in history.positions[1:]})
    again = Follower(follower.fs)
    assert (again.groups, again.recovered.end) == (history.groups, follower.log.end)


def test_a_follower_ships_to_another_one() -> None:
    source = marked_and_sealed()
    first = Follower().follow(source.fs, source.writer, 300)
    second = Follower().follow(first.fs, first.log, 500)
    same_bytes(source.fs, source.writer, second)


def test_each_group_comes_with_the_position_behind_it() -> None:
    history = four_segments()
    follower = Follower()
    groups = []
    for chunk in follower.missing(history.fs, history.log.writer, 1):
        groups += follower.take(chunk)
    assert [group.position for group in groups] == [at(history, 1 + group.first_revision + group.count - 2) for group in groups]
    assert groups[-1].position == history.end


def test_the_end_moves_with_the_sync_and_not_before() -> None:
    source = SmallLog(MemoryFileSystem()).begin()
    follower = Follower().follow(source.fs, source.writer)
    before = follower.log.end
    assert before == LogEnd(source.writer.position, source.writer.end.segment_id, fmt.SEGMENT_HEADER_LENGTH)
    source.put("a")
    (chunk,) = chunks(source.fs, source.writer, (before.segment_id, before.offset), 1 << 20)
    follower.take(chunk)
    assert (follower.log.end, follower.log.position) == (before, before.position)
    assert follower.log.extent().last is not None
    assert follower.log.total_bytes() == fmt.SEGMENT_HEADER_LENGTH
    follower.log.sync()
    assert follower.log.end == source.writer.end
    assert follower.log.total_bytes() == source.writer.total_bytes()


def test_marks_move_the_place_and_not_the_revision() -> None:
    source = SmallLog(MemoryFileSystem()).begin()
    source.put("a")
    follower = Follower().follow(source.fs, source.writer)
    before = follower.log.end
    source.writer.write_mark()
    follower.follow(source.fs, source.writer)
    assert follower.log.end == before._replace(offset=before.offset + fmt.FRAME_HEADER_LENGTH)


def test_a_log_without_a_segment_ends_at_the_creation() -> None:
    log = Follower().log
    assert log.end == LogEnd(CREATION, 0, 0)
    assert (log.sealed, log.first_revision(), log.total_bytes(), log.sealed_revision()) == ([], 2, 0, 1)
    assert log.extent() == ([], None, False)
    log.sync()
    assert log.syncs == 0


def test_one_sync_for_many_chunks_also_over_the_end_of_segments() -> None:
    source = marked_and_sealed()
    recording = RecordingFileSystem(MemoryFileSystem())
    follower = Follower(recording)
    for chunk in follower.missing(source.fs, source.writer, 200):
        follower.take(chunk)
    assert list_segments(recording, PATHS) == []
    assert follower.log.end == LogEnd(CREATION, 0, 0)
    follower.log.sync()
    same_bytes(source.fs, source.writer, follower)
    assert follower.log.syncs == 3
    assert [op.kind for op in recording.ops("sync", "datasync", "rename", "sync_dir")] == [
        *("sync", "rename", "sync_dir"),
        *("sync", "rename", "sync_dir"),
        *("datasync", "rename", "sync_dir"),
    ]
    assert Follower(recording.inner.power_loss(lambda _: LOST)).groups == source.groups


def test_a_segment_is_durable_before_it_has_its_name_and_the_one_before_it_is_sealed_first() -> None:
    source = SmallLog(MemoryFileSystem()).begin()
    source.put("a")
    recording = RecordingFileSystem(MemoryFileSystem())
    follower = Follower(recording).follow(source.fs, source.writer)
    source.put("b")
    source.writer.rotate()
    before = len(recording.ops())
    for chunk in follower.missing(source.fs, source.writer):
        follower.take(chunk)
    follower.log.sync()
    new = source.writer.segment.path
    calls = [(op.kind, op.other or op.path) for op in recording.ops()[before:] if op.kind in CHANGES]
    first, second = PATHS.prepared(0), PATHS.prepared(1)
    assert calls == [
        *(("pwrite", first), ("create", second), ("pwrite", second)),
        *(("truncate", first), ("sync", first)),
        *(("datasync", second), ("rename", new), ("sync_dir", PATHS.wal)),
        ("close", first),
    ]


CHANGES = ("create", "pwrite", "truncate", "sync", "datasync", "rename", "sync_dir", "close")


def test_a_seal_ends_the_segment_and_the_next_one_lets_it_be_listed() -> None:
    source = SmallLog(MemoryFileSystem()).begin()
    source.put("a")
    first_id = source.writer.end.segment_id
    source.writer.rotate()
    sealed = source.writer.sealed[0]
    follower = Follower()
    sent = list(chunks(source.fs, source.writer, (first_id, 0), 1 << 20))
    follower.take(sent[0])
    follower.log.sync()
    assert follower.log.end == LogEnd(sealed.end, first_id, sealed.length_bytes)
    assert (follower.log.sealed, follower.log.extent().last_is_sealed) == ([], True)
    assert follower.log.sealed_revision() == 2
    assert SegmentSealed(sealed.path.name, 2, sealed.length_bytes) in follower.events
    follower.take(sent[1])
    follower.log.sync()
    assert (follower.log.sealed, follower.log.extent().last_is_sealed) == ([sealed], False)
    assert follower.log.sealed_revision() == 2


def test_the_deleter_takes_the_oldest_segment_off_the_list() -> None:
    history = four_segments()
    log = Follower().follow(history.fs, history.log.writer).log
    listed = log.sealed
    with pytest.raises(ValueError, match="not the oldest"):
        log.forget(listed[1])
    log.forget(listed[0])
    assert log.sealed == listed[1:] == history.log.writer.sealed[1:]
    assert len(listed) == 3
    assert log.first_revision() == 5
    log.sync_folder()
    history.put("more")
    history.rotate()
    chunk_of = chunks(history.fs, history.log.writer, (log.end.segment_id, log.end.offset), 1 << 20)
    for chunk in chunk_of:
        log.take(*chunk)
    log.sync()
    assert [info.name.first_revision for info in log.sealed] == [5, 8, 11]


def test_nothing_is_sealed_by_a_follower() -> None:
    history = four_segments()
    log = Follower().follow(history.fs, history.log.writer).log
    assert (log.may_seal(), log.can_seal()) == (False, False)


def test_an_epoch_is_told_when_its_first_segment_is_durable() -> None:
    history = starts_without_writes()
    follower = Follower()
    told: list[list[Epoch]] = []
    for chunk in follower.missing(history.fs, history.log.writer):
        follower.take(chunk)
        follower.log.sync()
        told.append([epoch for epoch, _ in follower.log.epochs])
    assert [len(epochs) for epochs in told] == [1, 2, 3, 4]
    assert follower.log.epochs[1] == (Epoch(2, 0xABC2), at(history, 4, epoch=1))
    history.start()
    again = Follower(follower.fs)
    assert again.log.epochs == []
    again.follow(history.fs, history.log.writer)
    assert [epoch.number for epoch, _ in again.log.epochs] == [5]


# Behind tables


@pytest.mark.parametrize("most_bytes", [1, 300, 1 << 20])
@pytest.mark.parametrize("revision", [1, 3, 4, 6, 7, 9, 10, 12, 13])
def test_a_log_behind_tables_begins_with_the_whole_segment_in_which_they_end(revision: int, most_bytes: int) -> None:
    history = four_segments()
    base = at(history, revision)
    follower = Follower(base=base)
    assert follower.log.end == LogEnd(base, 0, 0)
    follower.follow(history.fs, history.log.writer, most_bytes)
    assert follower.groups == history.behind(base)
    assert follower.log.end == history.log.writer.end
    begin = max(first for first in (2, 5, 8, 11) if first <= revision + 1)
    assert follower.log.first_revision() == begin
    again = Follower(follower.fs, base)
    assert (again.groups, again.log.end) == (follower.groups, follower.log.end)
    assert follower.log.epochs == ([(history.epoch, CREATION)] if revision == 1 else [])


@pytest.mark.parametrize("epoch", [1, 2, 3, 4])
def test_a_log_behind_tables_passes_through_any_of_the_positions_of_one_revision(epoch: int) -> None:
    history = starts_without_writes()
    base = at(history, 4, epoch)
    follower = Follower(base=base).follow(history.fs, history.log.writer, 1)
    assert (follower.groups, follower.log.end) == (history.behind(base), history.log.writer.end)
    assert [told.number for told, _ in follower.log.epochs] == [2, 3, 4][epoch - 1 :]
    assert [op for op in follower.fs.list_dir(PATHS.wal) if "prepared" in op] == []
    again = Follower(follower.fs, base)
    assert (again.groups, again.log.end) == (follower.groups, follower.log.end)


def test_until_the_log_reaches_the_tables_it_has_no_name_and_may_begin_again() -> None:
    history = four_segments()
    history.put("e3")
    base = at(history, 13)
    disk = MemoryFileSystem()
    follower = Follower(disk, base)
    sent = follower.missing(history.fs, history.log.writer, 1)
    assert len(sent) == 3
    follower.take(sent[0])
    follower.log.sync()
    assert (follower.log.end, list_segments(disk, PATHS)) == (LogEnd(base, 0, 0), [])
    restarted = Follower(disk.power_loss(lambda _: LOST), base)
    assert restarted.log.end == LogEnd(base, 0, 0)
    for _ in range(2):
        follower.take(sent[0])
        follower.log.sync()
    assert len(disk.list_dir(PATHS.wal)) == 1
    follower.take(sent[1])
    follower.log.sync()
    assert (follower.log.end.position, follower.log.end.segment_id) == (base, sent[1][0])
    follower.take(sent[2])
    follower.log.sync()
    assert follower.log.end == history.log.writer.end
    assert follower.groups == history.behind(base)


def test_a_sender_that_lags_behind_the_tables_ships_its_newest_segments_until_they_meet() -> None:
    history = four_segments()
    lagging = Follower().follow(history.fs, history.log.writer)
    history.put("x")
    history.rotate()
    history.put("y")
    base = history.end
    follower = Follower(base=base).follow(lagging.fs, lagging.log)
    assert follower.log.end == LogEnd(base, 0, 0)
    history.put("z")
    lagging.follow(history.fs, history.log.writer)
    follower.follow(lagging.fs, lagging.log)
    assert (follower.groups, follower.log.end) == (history.behind(base), history.log.writer.end)


def test_a_closed_log_has_nothing_behind_its_durable_end() -> None:
    history = four_segments()
    disk = MemoryFileSystem()
    follower = Follower(disk).follow(history.fs, history.log.writer)
    history.put("not synced")
    history.rotate()
    for chunk in follower.missing(history.fs, history.log.writer):
        follower.take(chunk)
    end = follower.log.end
    follower.log.close()
    follower.log.close()
    with pytest.raises(OSError, match="closed"):
        follower.follow(history.fs, history.log.writer)
    assert len(disk.contents()) == 4
    assert len(read_file(disk.power_loss(lambda _: LOST), history.segments()[3].path)) == end.offset
    assert Follower(disk).log.end == end
