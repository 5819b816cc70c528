"""What is shipped: whole frames, only durable ones, from exactly the place that was asked for."""

from __future__ import annotations

import gc
import threading

import pytest

from kvserver.base.errors import Corruption
from kvserver.base.fs import read_file
from kvserver.base.types import Position
from kvserver.wal import format as fmt
from kvserver.wal.node_log import NodeLog
from kvserver.wal.reader import SegmentReader
from kvserver.wal.received import ReceivedLog
from kvserver.wal.segment import SegmentInfo
from kvserver.wal.tail import LogGone, LogTail
from support.faultfs import Fault, FaultFileSystem, FaultPlan, ProcessKilled
from support.histories import History, at, four_segments, recover_from, starts_without_writes
from support.log_scenes import flip
from support.logs import PATHS, SmallLog
from support.memfs import MemoryFileSystem
from support.received_logs import Follower, marked_and_sealed
from support.recordfs import RecordingFileSystem

BLOCK = fmt.SEGMENT_HEADER_LENGTH


def tail_of(history: History) -> LogTail:
    return LogTail(history.fs, PATHS, history.log.writer)


def frame_ends(history: History, info: SegmentInfo) -> dict[int, Position]:
    """Return the position behind each frame of a segment, by the offset of its end, as the reader has it."""
    reader = SegmentReader(info.path, read_file(history.fs, info.path)[: info.length_bytes])
    found = {BLOCK: reader.start}
    for _ in reader.frames():
        found[reader.offset] = reader.position
    found[reader.offset] = reader.position
    return found


# Places


@pytest.mark.parametrize("order", ["forward", "backward", "each anew"])
def test_the_position_of_every_offset_is_that_of_the_frame_that_ends_there(order: str) -> None:
    history = four_segments()
    history.log.writer.write_mark()
    tail = tail_of(history)
    for info in history.log.writer.extent().segments():
        ends = frame_ends(history, info)
        segment_id = info.header.segment_id
        offsets = [0, 1, 8, BLOCK - 8, *range(BLOCK, info.length_bytes + 200, 8)]
        for offset in offsets if order != "backward" else reversed(offsets):
            tail = tail_of(history) if order == "each anew" else tail
            assert tail.position_at(segment_id, offset) == ends.get(offset)
    assert tail.position_at(77, BLOCK) is None
    assert tail.position_at(0, 0) is None


def test_a_place_in_one_segment_is_none_in_another() -> None:
    log = marked_and_sealed()
    tail = LogTail(log.fs, PATHS, log.writer)
    places = []
    for info in log.writer.extent().segments():
        reader = SegmentReader(info.path, read_file(log.fs, info.path)[: info.length_bytes])
        places.append([(info.header.segment_id, reader.offset, reader.position) for _ in reader.frames()])
    for of_each in zip(*places, strict=False):
        for segment_id, offset, position in of_each:
            assert tail.position_at(segment_id, offset) == position


def test_a_walk_goes_over_pieces_of_the_file() -> None:
    log = SmallLog(MemoryFileSystem()).begin()
    for number in range(12):
        log.put(f"k{number}", value=bytes(3000))
    info = log.writer.extent().segments()[0]
    tail = LogTail(log.fs, PATHS, log.writer)
    walked = LogTail(log.fs, PATHS, log.writer)
    offset, positions = 0, []
    while data := tail.read(info.header.segment_id, offset, 1):
        offset += len(data)
        positions.append(walked.position_at(info.header.segment_id, offset))
    assert [position.revision for position in positions if position] == list(range(2, 14))


def test_consecutive_reads_read_nothing_twice() -> None:
    recording = RecordingFileSystem(MemoryFileSystem())
    log = SmallLog(recording).begin()
    for number in range(6):
        log.put(f"k{number}", value=bytes(500))
    tail = LogTail(recording, PATHS, log.writer)
    segment_id = log.writer.end.segment_id
    offset = 0
    before = len(recording.ops())
    while data := tail.read(segment_id, offset, 5000):
        offset += len(data)
    after = recording.ops()[before:]
    assert [op.kind for op in after] == ["open", *["pread"] * len(after[1:])]
    begins = [op.offset for op in after[1:]]
    assert begins == sorted(set(begins), key=lambda begin: begin or 0)
    log.put("late")
    before = len(recording.ops())
    assert len(tail.read(segment_id, offset, 5000)) == log.writer.end.offset - offset
    assert [(op.kind, op.offset) for op in recording.ops()[before:]] == [("pread", offset)]
    before = len(recording.ops())
    assert tail.position_at(segment_id, log.writer.end.offset) == log.writer.position
    assert recording.ops()[before:] == []


def test_a_flipped_bit_is_not_taken_for_another_history() -> None:
    history = four_segments()
    info = history.log.writer.sealed[0]
    data = read_file(history.fs, info.path)
    first = BLOCK + fmt.FRAME_HEADER_LENGTH
    end = min(offset for offset in frame_ends(history, info) if offset > BLOCK)
    for at_byte in (BLOCK + 50, first + 3, BLOCK + 30):
        history.fs.plant(info.path, flip(data, at_byte))
        with pytest.raises(Corruption) as found:
            tail_of(history).position_at(info.header.segment_id, end)
        assert (found.value.path, found.value.offset) == (info.path, BLOCK)
    read_first = tail_of(history)
    assert len(read_first.read(info.header.segment_id, 0, 1)) == end
    with pytest.raises(Corruption):
        read_first.position_at(info.header.segment_id, end)


@pytest.mark.parametrize("at_byte", [1, 7, 8, 15])
def test_what_is_no_frame_is_not_shipped(at_byte: int) -> None:
    history = four_segments()
    info = history.log.writer.sealed[0]
    data = read_file(history.fs, info.path)
    history.fs.plant(info.path, flip(data, BLOCK + at_byte))
    with pytest.raises(Corruption) as found:
        tail_of(history).read(info.header.segment_id, 0, 1 << 20)
    assert found.value.path == info.path
    history.fs.plant(info.path, data[: BLOCK + 20])
    with pytest.raises(Corruption):
        tail_of(history).read(info.header.segment_id, 0, 1 << 20)


# What is read


@pytest.mark.parametrize("most_bytes", [0, 1, 100, 200, BLOCK, 4300, 1 << 20])
def test_reads_are_whole_frames_and_no_larger_than_asked_unless_one_frame_is(most_bytes: int) -> None:
    history = four_segments()
    history.log.writer.write_mark()
    tail = tail_of(history)
    for info in history.log.writer.extent().segments():
        ends = sorted(frame_ends(history, info))
        offset, parts = 0, []
        while data := tail.read(info.header.segment_id, offset, most_bytes):
            following = [end for end in ends[1:] if end > offset]
            assert offset + len(data) in following
            assert len(data) <= most_bytes or offset + len(data) == following[0]
            offset += len(data)
            parts.append(data)
        assert b"".join(parts) == read_file(history.fs, info.path)[: info.length_bytes]
        assert tail.is_sealed_end(info.header.segment_id, offset) is (info in history.log.writer.sealed)
        assert not tail.is_sealed_end(info.header.segment_id, ends[-2])


def test_a_segment_of_which_only_the_header_is_durable_is_shipped() -> None:
    log = SmallLog(MemoryFileSystem()).begin()
    tail = LogTail(log.fs, PATHS, log.writer)
    segment_id = log.writer.end.segment_id
    block = tail.read(segment_id, 0, 1)
    assert fmt.decode_segment_header(block).segment_id == segment_id
    assert tail.read(segment_id, BLOCK, 1) == b""
    assert tail.position_at(segment_id, BLOCK) == log.writer.position


def test_only_what_is_durable_is_read() -> None:
    """A frame that is written and not synced is in the file, and nobody is sent it."""
    disk = MemoryFileSystem()
    fs = FaultFileSystem(disk, FaultPlan([Fault(at=1, kinds={"datasync"}, where=lambda path: False)]))
    log = SmallLog(fs).begin()
    log.put("a")
    end = log.writer.end
    tail = LogTail(fs, PATHS, log.writer)
    file = disk.open(log.writer.segment.path, writable=True)
    frame, _ = fmt.build_frame(fmt.GROUP, end.segment_id, 0, 3, 1, (end.offset, 2), 1, bytes(16), b"x")
    file.pwrite(frame, end.offset)
    assert tail.read(end.segment_id, end.offset, 1 << 20) == b""
    assert len(tail.read(end.segment_id, 0, 1 << 20)) == end.offset
    assert tail.position_at(end.segment_id, end.offset + len(frame)) is None
    with pytest.raises(LogGone, match="durably ends at offset"):
        tail.read(end.segment_id, end.offset + len(frame), 1)
    with pytest.raises(ValueError, match="inside the header block"):
        tail.read(end.segment_id, 8, 1)


def test_the_end_of_a_primary_moves_behind_the_sync_of_both_threads() -> None:
    """The space thread syncs the same file; what it was told is part of whether a frame is durable."""
    log = SmallLog(MemoryFileSystem()).begin()
    log.put("a")
    end = log.writer.end

    def fail() -> None:
        raise ProcessKilled

    log.space.confirm_synced = fail  # type: ignore[method-assign]
    with pytest.raises(ProcessKilled):
        log.put("b")
    assert log.writer.position.revision == 3
    assert log.writer.end == end
    assert LogTail(log.fs, PATHS, log.writer).read(end.segment_id, end.offset, 1 << 20) == b""


def test_of_a_follower_only_what_is_synced_is_read() -> None:
    history = four_segments()
    follower = Follower().follow(history.fs, history.log.writer)
    history.put("x")
    (chunk,) = follower.missing(history.fs, history.log.writer)
    tail = LogTail(follower.fs, PATHS, follower.log)
    follower.take(chunk)
    assert tail.read(chunk[0], chunk[1], 1 << 20) == b""
    assert tail.position_at(chunk[0], chunk[1] + len(chunk[2])) is None
    follower.log.sync()
    assert tail.read(chunk[0], chunk[1], 1 << 20) == chunk[2]
    assert tail.end() == follower.log.end


# Segments


def ids(tail: LogTail, first: int) -> list[int]:
    found = [first]
    while (following := tail.after(found[-1])) is not None:
        found.append(following)
    return found


def test_segments_follow_each_other() -> None:
    history = four_segments()
    assert ids(tail_of(history), 1001) == [1001, 1002, 1003, 1004]
    with pytest.raises(LogGone, match="000000000000004d is not in this log"):
        tail_of(history).after(77)


def test_a_sealed_segment_without_a_successor_has_a_sealed_end() -> None:
    history = four_segments()
    follower = Follower()
    chunks = follower.missing(history.fs, history.log.writer)
    follower.take(chunks[0])
    follower.log.sync()
    tail = LogTail(follower.fs, PATHS, follower.log)
    assert tail.is_sealed_end(1001, len(chunks[0][2]))
    assert tail.after(1001) is None
    assert tail.read(1001, len(chunks[0][2]), 1) == b""
    follower.take(chunks[1])
    follower.log.sync()
    assert tail.after(1001) == 1002


@pytest.mark.parametrize(("revision", "begin"), [(1, None), (2, 1001), (4, 1001), (5, 1002), (7, 1002), (8, 1003), (13, 1004)])
def test_a_log_begins_with_the_segment_that_holds_the_revision(revision: int, begin: int | None) -> None:
    assert tail_of(four_segments()).begin_for(revision) == ((begin, 0) if begin else None)


def test_what_is_not_written_yet_begins_with_the_newest_segment() -> None:
    tail = tail_of(four_segments())
    assert tail.begin_for(14) == tail.begin_for(99) == (1004, 0)
    assert LogTail(MemoryFileSystem(), PATHS, Follower().log).begin_for(2) is None


def test_of_several_segments_that_begin_with_a_revision_it_is_the_first() -> None:
    history = starts_without_writes()
    tail = tail_of(history)
    assert [tail.begin_for(revision) for revision in (4, 5, 6, 7)] == [(1001, 0), (1002, 0), (1004, 0), (1004, 0)]


def test_pending_bytes_are_those_behind_the_place() -> None:
    history = four_segments()
    tail = tail_of(history)
    infos = history.log.writer.extent().segments()
    total = sum(info.length_bytes for info in infos)
    assert tail.pending_bytes(1001, 0) == tail.pending_bytes(0, 0) == total == history.log.writer.total_bytes()
    assert tail.pending_bytes(1002, 5000) == total - infos[0].length_bytes - 5000
    end = history.log.writer.end
    assert tail.pending_bytes(end.segment_id, end.offset) == 0


def test_a_segment_that_was_deleted_is_gone() -> None:
    history = four_segments()
    tail, writer = tail_of(history), history.log.writer
    oldest = writer.sealed[0]
    assert tail.oldest_revision() == 2
    history.fs.remove(oldest.path)
    with pytest.raises(LogGone):  # removed, and not off the list yet
        tail.read(1001, 0, 1)
    assert tail.position_at(1001, BLOCK + 8) is None
    writer.forget(oldest)
    for anew in (tail, tail_of(history)):
        with pytest.raises(LogGone):
            anew.read(1001, 0, 1)
        assert anew.position_at(1001, oldest.length_bytes) is None
        assert (anew.begin_for(4), anew.begin_for(5), anew.oldest_revision()) == (None, (1002, 0), 5)
        assert not anew.is_sealed_end(1001, oldest.length_bytes)


def test_the_file_of_a_segment_that_was_removed_is_closed() -> None:
    recording = RecordingFileSystem(MemoryFileSystem())
    log = SmallLog(recording).begin()
    log.put("a")
    log.writer.rotate()
    log.put("b")
    oldest = log.writer.sealed[0]
    tail = LogTail(recording, PATHS, log.writer)
    tail.read(oldest.header.segment_id, 0, 1)
    assert [op.path for op in recording.ops("close")][-1:] != [oldest.path]
    recording.remove(oldest.path)
    log.writer.forget(oldest)
    assert tail.begin_for(3) == (log.writer.end.segment_id, 0)
    assert [op.path for op in recording.ops("close")][-1:] == [oldest.path]
    tail.read(log.writer.end.segment_id, 0, 1)
    del tail
    gc.collect()
    assert [op.path for op in recording.ops("close")][-1:] == [log.writer.segment.path]


def test_segments_before_a_gap_count_as_gone() -> None:
    """A power loss brought one back that the tables hold; what is said of its end is not its own."""
    history = four_segments()
    base = at(history, 9)
    fs = history.without(history.segments()[1].path)
    recovered = recover_from(fs, base).log
    assert len(recovered.segments) == 3
    log = Follower(fs, base).log
    tail = LogTail(fs, PATHS, log)
    assert (tail.oldest_revision(), tail.begin_for(2), tail.begin_for(8)) == (8, None, (1003, 0))
    assert tail.position_at(1001, recovered.segments[0].length_bytes) is None
    with pytest.raises(LogGone):
        tail.after(1001)


def test_a_log_is_read_while_it_is_written_and_trimmed() -> None:
    """On two threads: what is read is always the log, and never more than what is durable."""
    disk = MemoryFileSystem()
    log = SmallLog(disk).begin()
    follower = Follower()
    stop = threading.Event()
    trouble: list[BaseException] = []

    def follow() -> None:
        try:
            while not stop.is_set():
                follower.follow(disk, log.writer, 700)
        except BaseException as error:
            trouble.append(error)

    reader = threading.Thread(target=follow)
    reader.start()
    for number in range(400):
        log.put(f"key-{number}", value=bytes(number % 600))
        if number % 7 == 0:
            log.writer.write_mark()
        if number % 40 == 39:
            log.writer.rotate()
    stop.set()
    reader.join()
    assert trouble == []
    follower.follow(disk, log.writer)
    assert follower.groups == log.groups
    assert follower.log.end == log.writer.end


def logs_of_both_kinds() -> list[NodeLog]:
    history = four_segments()
    follower = Follower().follow(history.fs, history.log.writer)
    return [history.log.writer, follower.log]


def test_both_logs_say_the_same_of_themselves() -> None:
    primary, follower = logs_of_both_kinds()
    assert isinstance(follower, ReceivedLog)
    assert primary.extent() == follower.extent()
    assert (primary.end, primary.position, primary.sealed) == (follower.end, follower.position, follower.sealed)
    assert primary.sealed_revision() == follower.sealed_revision() == 10
    assert (primary.total_bytes(), primary.first_revision()) == (follower.total_bytes(), follower.first_revision())
