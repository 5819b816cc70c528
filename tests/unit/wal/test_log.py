"""The log of a primary: groups, marks, rotation, sealing, time, and the order of what it asks of the disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from kvserver.base.events import Event, SegmentSealed
from kvserver.base.fs import FileSystem, read_file
from kvserver.base.types import Epoch
from kvserver.wal import format as fmt
from kvserver.wal.reader import End, SegmentReader
from kvserver.wal.recovery import list_segments
from kvserver.wal.space import SEGMENT_RESERVE, SyncFailed
from support.clocks import ManualClock
from support.faultfs import Fault, FaultFileSystem, FaultPlan
from support.logs import CREATION, EPOCH, PATHS, SMALL, SmallLog, recover_log
from support.memdisk import LOST
from support.memfs import MemoryFileSystem
from support.recordfs import RecordingFileSystem


def read_all(fs: FileSystem) -> list[tuple[SegmentReader, list[bytes]]]:
    """Return a reader of each segment and the kinds of its frames, the seal left out."""
    found = []
    for name in list_segments(fs, PATHS):
        reader = SegmentReader(PATHS.segment(name), read_file(fs, PATHS.segment(name)))
        found.append((reader, [frame.header.kind for frame in reader.frames()]))
    return found


def test_a_group_is_on_the_disk_when_the_call_returns() -> None:
    disk = MemoryFileSystem()
    log = SmallLog(disk).begin()
    for keys in (["a"], ["b", "c"], ["d"]):
        log.put(*keys)
        after = disk.power_loss(lambda _: LOST)
        found = recover_log(after)
        assert (found.groups, found.log.position) == (log.groups, log.writer.position)


def test_each_group_is_written_once_and_synced_once() -> None:
    recording = RecordingFileSystem(MemoryFileSystem())
    log = SmallLog(recording).begin()
    log.put("a")
    before = len(recording.entries)
    begin = log.writer.segment.offset
    log.put("b", "c")
    path = PATHS.prepared(0)
    calls = [(op.kind, op.path, op.offset) for op in recording.ops()[before:]]
    assert calls == [("pwrite", path, begin), ("datasync", path, None)]
    assert (log.writer.syncs, log.writer.bytes_written) == (2, log.writer.segment.offset - fmt.SEGMENT_HEADER_LENGTH)


def test_a_segment_gets_its_name_after_its_header_is_durable_and_the_folder_is_synced() -> None:
    recording = RecordingFileSystem(MemoryFileSystem())
    SmallLog(recording).begin()
    last = [(op.kind, op.path) for op in recording.ops()[-4:]]
    prepared, segment = PATHS.prepared(0), PATHS.wal / "00000001-0000000000000002.wal"
    assert last == [("pwrite", prepared), ("datasync", prepared), ("rename", prepared), ("sync_dir", PATHS.wal)]
    assert recording.ops("rename")[0].other == segment


def test_frames_carry_what_was_durable_before_them() -> None:
    fs = MemoryFileSystem()
    log = SmallLog(fs).begin()
    ends = []
    for keys in (["a"], ["b", "c"]):
        ends.append((log.writer.segment.offset, log.writer.position.revision))
        log.put(*keys)
    ends.append((log.writer.segment.offset, log.writer.position.revision))
    log.writer.write_mark()
    reader = SegmentReader(log.writer.segment.path, read_file(fs, log.writer.segment.path))
    said = [(frame.header.durable_length, frame.header.durable_upto) for frame in reader.frames()]
    assert said == ends
    assert ends[0] == (fmt.SEGMENT_HEADER_LENGTH, 1)


# Marks


def test_a_mark_follows_a_group_once() -> None:
    fs = MemoryFileSystem()
    log = SmallLog(fs).begin()
    log.writer.write_mark()
    log.put("a")
    position = log.writer.position
    log.writer.write_mark()
    log.writer.write_mark()
    log.put("b")
    log.writer.write_mark()
    ((_, kinds),) = read_all(fs)
    assert kinds == [fmt.GROUP, fmt.MARK, fmt.GROUP, fmt.MARK]
    assert position.revision == 2


def test_a_mark_changes_no_position() -> None:
    log = SmallLog(MemoryFileSystem()).begin()
    log.put("a")
    before = log.writer.position
    log.writer.write_mark()
    assert log.writer.position == before


# Rotation


def test_a_segment_that_is_full_is_followed_by_another() -> None:
    fs = MemoryFileSystem()
    events: list[Event] = []
    log = SmallLog(fs, listener=events.append).begin()
    while len(log.writer.sealed) < 3:
        log.put(f"key-{log.writer.position.revision}", value=bytes(1900))
    sealed = [event for event in events if isinstance(event, SegmentSealed)]
    segments = read_all(fs)
    for (reader, kinds), event in zip(segments, sealed, strict=False):
        assert reader.end is End.SEALED
        assert (event.segment, event.last_revision, event.length_bytes) == (reader.path.name, reader.revision, reader.offset)
        assert len(reader.data) == reader.offset <= SMALL.segment_bytes
        assert reader.offset > SMALL.segment_bytes - SEGMENT_RESERVE - 2100, "it was not full"
        assert set(kinds) == {fmt.GROUP}
    assert [event.segment for event in sealed] == [reader.path.name for reader, _ in segments[:-1]]
    assert [info.path.name for info in log.writer.sealed] == [event.segment for event in sealed]
    assert log.writer.total_bytes() == sum(reader.offset for reader, _ in segments)
    assert recover_log(fs).groups == log.groups


def test_segments_of_one_epoch_carry_the_chain_on_and_name_their_predecessor() -> None:
    fs = MemoryFileSystem()
    log = SmallLog(fs).begin()
    log.put("a")
    position = log.writer.position
    log.writer.rotate()
    log.put("b")
    (first, _), (second, _) = read_all(fs)
    assert second.header.previous == first.position == position
    assert second.header.previous_segment_id == first.header.segment_id != second.header.segment_id
    assert second.header.first_revision == position.revision + 1
    assert (second.header.branch, second.header.epoch) == (CREATION, EPOCH)


def test_the_largest_frame_fits_wherever_the_segment_stands() -> None:
    """Whatever is left of a segment, one more frame of the largest size finds its place in it or in the next one."""
    most = SMALL.max_frame_bytes - 28
    for filler in (1, 700, 1500, 1999):
        fs = MemoryFileSystem()
        log = SmallLog(fs).begin()
        for number in range(60):
            log.put(str(number % 10), value=bytes(most if number % 3 else filler))
            assert log.writer.segment.offset <= SMALL.segment_bytes - SEGMENT_RESERVE
        assert recover_log(fs).groups == log.groups


def test_a_mark_never_needs_another_segment() -> None:
    """Else the idle mark behind a group that had its place would have to wait for a disk that is full."""
    limit = SMALL.segment_bytes - SEGMENT_RESERVE
    fs = MemoryFileSystem()
    log = SmallLog(fs).begin()
    while limit - log.writer.segment.offset > 4096:
        log.put("a", value=bytes(1900))
    frame = fmt.FRAME_HEADER_LENGTH + 8
    left = limit - log.writer.segment.offset
    log.put("a", value=bytes(left // 8 * 8 - frame - 24))
    assert log.writer.segment.offset + fmt.FRAME_HEADER_LENGTH > limit
    log.writer.write_mark()
    assert log.writer.sealed == []
    log.writer.rotate()
    (first, kinds), _ = read_all(fs)
    assert kinds[-1] == fmt.MARK
    assert first.offset <= SMALL.segment_bytes


@pytest.mark.parametrize("at", range(1, 6))
def test_room_that_was_announced_is_there_on_a_full_disk(at: int) -> None:
    """What ``room`` says fits does fit, group by group, each with its mark, although no more space can be had."""
    disk = MemoryFileSystem()
    fs = FaultFileSystem(disk, FaultPlan(space_bytes=1 << 20))
    log = SmallLog(fs).begin()
    for number in range(at * 9):
        log.put("a", value=bytes(1000 + number))
        log.space.step()
    while log.space.step():
        pass
    fs.add_space(-(fs.space_left_bytes or 0))
    room = log.space.room()
    groups = 0
    for size in (3900, 10, 1000, 1, 3900, 200) * 20:
        claim = 20 + 1 + size + 2 * fmt.FRAME_OVERHEAD
        if claim <= room:
            log.put("a", value=bytes(size))
            log.writer.write_mark()
            room -= claim
            groups += 1
    assert groups > 10
    assert recover_log(disk).groups == log.groups


# Sealing by age


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def settled(log: SmallLog) -> SmallLog:
    while log.space.step():
        pass
    return log


def test_a_segment_may_be_sealed_when_it_is_old_and_holds_something(clock: ManualClock) -> None:
    log = settled(SmallLog(MemoryFileSystem(), clock=clock).begin())
    clock.advance_ms(SMALL.seal_age_ms)
    assert not log.writer.may_seal(), "it holds nothing"
    log.put("a")
    settled(log)
    assert log.writer.may_seal()
    log.writer.rotate()
    log.put("b")
    settled(log)
    assert not log.writer.may_seal(), "the next one is young"
    clock.advance_ms(SMALL.seal_age_ms - 1)
    assert not log.writer.may_seal()
    clock.advance_ms(1)
    assert log.writer.may_seal()


def test_a_segment_is_not_sealed_by_age_while_no_other_is_ready(clock: ManualClock) -> None:
    log = SmallLog(MemoryFileSystem(), clock=clock).begin()
    log.put("a")
    clock.advance_ms(SMALL.seal_age_ms)
    assert not log.writer.may_seal()
    assert settled(log).writer.may_seal()


def test_age_zero_means_never(clock: ManualClock) -> None:
    log = settled(SmallLog(MemoryFileSystem(), dataclasses.replace(SMALL, seal_age_ms=0), clock=clock).begin())
    log.put("a")
    clock.advance_ms(10**9)
    assert not log.writer.may_seal()


def test_time_in_the_log_never_goes_back(clock: ManualClock) -> None:
    fs = MemoryFileSystem()
    log = SmallLog(fs, clock=clock).begin()
    log.put("a")
    clock.jump_wall_ms(-3_600_000)
    log.put("b")
    log.writer.rotate()
    log.put("c")
    times = []
    for name in list_segments(fs, PATHS):
        reader = SegmentReader(PATHS.segment(name), read_file(fs, PATHS.segment(name)))
        times += [reader.header.created_ms, *(frame.header.time_ms for frame in reader.frames())]
    assert times == sorted(times)
    found = recover_log(fs)
    assert found.log.time_ms == max(times)
    ids = iter([91])
    late = SmallLog(fs, clock=clock, new_segment_id=lambda: next(ids)).begin(Epoch(2, 2), found.log)
    assert late.writer.segment.header.created_ms >= found.log.time_ms, "the recovered time was forgotten"


# Ends


def test_a_clean_end_leaves_a_mark_and_a_seal() -> None:
    fs = MemoryFileSystem()
    log = SmallLog(fs).begin()
    log.put("a")
    log.writer.close()
    ((reader, kinds),) = read_all(fs)
    assert (kinds, reader.end) == ([fmt.GROUP, fmt.MARK], End.SEALED)
    assert len(reader.data) == reader.offset


def test_a_seal_says_how_the_segment_ended() -> None:
    fs = MemoryFileSystem()
    log = SmallLog(fs).begin()
    log.put("a", "b")
    log.writer.write_mark()
    log.put("c")
    log.writer.close()
    payload = read_file(fs, log.writer.segment.path)[-fmt.SEAL_PAYLOAD.size :]
    last_revision, groups, time_ms = fmt.SEAL_PAYLOAD.unpack(payload)
    assert (last_revision, groups, time_ms) == (4, 2, log.clock.now_ms())


def test_an_abandoned_log_is_left_as_it_is() -> None:
    fs = MemoryFileSystem()
    log = SmallLog(fs).begin()
    log.put("a")
    before = fs.contents()
    log.writer.abandon()
    assert fs.contents() == before


def failing_sync(at: int, action: Callable[[], object] | None = None) -> Fault:
    return Fault(kinds={"datasync"}, where=lambda path: path.name == "prepared-0.tmp", at=at, action=action)


def test_a_sync_that_failed_beside_the_writers_own_is_not_overheard() -> None:
    """The kernel tells of a failed write-back once; if it told the space keeper, the writer's own sync proves nothing."""
    steps_of_opening = SMALL.ahead_bytes // SMALL.fill_step_bytes + 1
    disk = MemoryFileSystem()
    log: SmallLog

    def fill_and_fail() -> None:
        disk.fail_next_sync()
        assert log.space.step()

    plan = FaultPlan([dataclasses.replace(failing_sync(steps_of_opening + 3, fill_and_fail), error=None)])
    log = SmallLog(FaultFileSystem(disk, plan)).begin()
    log.put("a", value=bytes(3900))
    log.put("b", value=bytes(3900))
    with pytest.raises(SyncFailed):
        log.put("c")
    assert recover_log(disk.power_loss(lambda _: LOST)).groups == log.groups


def test_a_failed_sync_of_a_group_is_the_callers_error_and_is_not_repeated() -> None:
    disk = MemoryFileSystem()
    fs = FaultFileSystem(disk, FaultPlan([failing_sync(SMALL.ahead_bytes // SMALL.fill_step_bytes + 3)]))
    log = SmallLog(fs).begin()
    log.put("a")
    syncs = fs.counts["datasync"]
    with pytest.raises(OSError, match="Input/output error"):
        log.put("b")
    assert fs.counts["datasync"] == syncs + 1
    assert log.writer.position.revision == 2
