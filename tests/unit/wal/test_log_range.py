"""Reading a range of the log: exactly the groups between two positions, whatever lies around them, or corruption by name."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.base.coding import crc32c
from kvserver.base.errors import Corruption
from kvserver.base.fs import read_file
from kvserver.base.limits import KIB
from kvserver.base.types import Epoch, Position
from kvserver.wal import format as fmt
from kvserver.wal import log_range
from kvserver.wal.log_range import LogRangeReader, RangeFrame, frames_between
from kvserver.wal.recovery import list_segments
from support.logs import CREATION, EPOCH, PATHS, Group, SmallLog, recover_log, segment_ids
from support.memfs import MemoryFile, MemoryFileSystem
from support.recordfs import RecordingFileSystem


class Log:
    """A log that grows, and every position that it passed, each with how many groups lie before it."""

    def __init__(self, fs: MemoryFileSystem | None = None) -> None:
        self.fs = fs or MemoryFileSystem()
        self._ids = segment_ids()
        self._epochs = itertools.count(2)
        self.log = SmallLog(self.fs, new_segment_id=self._ids).begin()
        self.groups: list[Group] = []
        self.positions: list[tuple[Position, int]] = [(CREATION, 0)]
        self._note()

    def put(self, count: int = 1, value: bytes = b"value") -> Log:
        self.groups.append(self.log.put(*(f"k{len(self.groups)}-{number}" for number in range(count)), value=value))
        return self._note()

    def mark(self) -> Log:
        self.log.writer.write_mark()
        return self._note()

    def rotate(self) -> Log:
        self.log.writer.rotate()
        return self._note()

    def restart(self) -> Log:
        """Begin a new epoch, as every start does."""
        self.log = SmallLog(self.fs, new_segment_id=self._ids).begin(Epoch(next(self._epochs), 5), recover_log(self.fs).log)
        return self._note()

    def _note(self) -> Log:
        here = self.log.writer.position
        if here != self.positions[-1][0]:
            self.positions.append((here, len(self.groups)))
        return self

    @property
    def end(self) -> Position:
        return self.positions[-1][0]

    def at(self, groups: int) -> Position:
        """Return the first position behind so many groups."""
        return next(position for position, before in self.positions if before == groups)

    def segments(self) -> list[Path]:
        return [PATHS.segment(name) for name in list_segments(self.fs, PATHS)]


def as_groups(frames: list[RangeFrame]) -> list[Group]:
    return [Group(frame.header.first_revision, frame.header.commits, frame.payload) for frame in frames]


def between(log: Log, after: Position, upto: Position) -> list[Group]:
    return as_groups(list(frames_between(log.fs, PATHS, after, upto)))


STEPS: dict[str, Callable[[Log], Log]] = {
    "put": Log.put,
    "large": lambda log: log.put(3, bytes(700)),
    "mark": Log.mark,
    "rotate": lambda log: log.rotate() if log.log.writer.segment.groups else log,
    "restart": Log.restart,
}
steps = st.lists(st.sampled_from([*STEPS, "put", "put"]), max_size=14)


@given(steps)
def test_every_range_is_the_groups_that_were_written_into_it(taken: list[str]) -> None:
    log = Log()
    for step in taken:
        STEPS[step](log)
    for (after, begin), (upto, end) in itertools.combinations_with_replacement(log.positions, 2):
        assert between(log, after, upto) == log.groups[begin:end]


@given(steps, st.data())
def test_one_reader_goes_on_where_it_ended_while_the_log_grows(taken: list[str], data: st.DataObject) -> None:
    log = Log()
    reader = LogRangeReader(log.fs, PATHS)
    done, read = CREATION, 0
    for step in taken:
        STEPS[step](log)
        if data.draw(st.booleans(), label="read on"):
            upto, end = data.draw(st.sampled_from([pair for pair in log.positions if pair[1] >= read]), label="upto")
            if log.positions.index((upto, end)) < log.positions.index((done, read)):
                continue
            assert as_groups(list(reader.frames(done, upto))) == log.groups[read:end]
            done, read = upto, end
    assert as_groups(list(reader.frames(done, log.end))) == log.groups[read:]


def test_frames_say_in_which_file_and_where_they_lie() -> None:
    log = Log().put().rotate().put()
    frames = list(frames_between(log.fs, PATHS, CREATION, log.end))
    assert [(frame.path, frame.offset) for frame in frames] == [(path, 4096) for path in log.segments()]


def test_segments_before_the_range_may_be_gone_or_damaged() -> None:
    log = Log().put().rotate().put().rotate().put().put()
    first, second, _ = log.segments()
    log.fs.plant(second, b"not a segment")
    log.fs.remove(first)
    assert between(log, log.at(2), log.end) == log.groups[2:]
    assert between(log, log.at(3), log.end) == log.groups[3:]


def test_what_is_being_written_behind_the_range_does_no_harm() -> None:
    log = Log().put()
    end = log.log.writer.segment.offset
    with_half = read_file(log.fs, log.segments()[0])
    log.fs.plant(log.segments()[0], with_half[:end] + b"KVFg" + bytes(range(200)) + with_half[end + 204 :])
    assert between(log, CREATION, log.end) == log.groups


def test_a_segment_may_be_sealed_and_followed_between_two_frames() -> None:
    log = Log().put().put()
    frames = frames_between(log.fs, PATHS, CREATION, log.end)
    read = [next(frames)]
    log.rotate().put()
    read += frames
    assert as_groups(read) == log.groups[:2]


@pytest.mark.parametrize("window", [100, 5000])
def test_frames_larger_than_what_is_read_at_once_are_read_whole(window: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_range, "READ_WINDOW_BYTES", window)
    monkeypatch.setattr(log_range, "SKIP_WINDOW_BYTES", 80)
    log = Log().put().put(4, bytes(900)).put().put(4, bytes(900)).put()
    for (after, begin), (upto, end) in itertools.combinations(log.positions, 2):
        assert between(log, after, upto) == log.groups[begin:end]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the list of how many bytes each pread asks for."""
    asked: list[int] = []
    pread = MemoryFile.pread

    def counting(file: MemoryFile, length: int, offset: int) -> bytes:
        asked.append(length)
        return pread(file, length, offset)

    monkeypatch.setattr(MemoryFile, "pread", counting)
    return asked


def _bytes_read(log: Log, reader: LogRangeReader, counted: list[int], after: Position, upto: Position) -> int:
    counted.clear()
    for _ in reader.frames(after, upto):
        pass
    return sum(counted)


def test_little_is_read_of_what_is_skipped_and_nothing_of_what_was_read(
    counted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_range, "READ_WINDOW_BYTES", 4 * KIB)
    monkeypatch.setattr(log_range, "SKIP_WINDOW_BYTES", 128)
    log = Log()
    for _ in range(12):
        log.put(3, bytes(1000))
    reader = LogRangeReader(log.fs, PATHS)
    searched = _bytes_read(log, reader, counted, log.at(11), log.end)
    assert searched < 4096 + 12 * 128 + 2 * 4096, "headers of eleven frames, and the one that is wanted"
    log.put(3, bytes(1000))
    assert _bytes_read(log, reader, counted, log.at(12), log.end) < 4096 + 2 * 4096, "the header block and one frame"
    assert len(counted) == 2, "without a search"
    other = LogRangeReader(log.fs, PATHS)
    whole = _bytes_read(log, other, counted, CREATION, log.end)
    assert len(counted) > 10, "piece by piece"
    assert whole < 2.5 * 13 * 3100


def test_a_reader_forgets_where_it_ended_if_that_is_not_where_the_range_begins() -> None:
    log = Log().put().put().rotate().put()
    reader = LogRangeReader(log.fs, PATHS)
    assert as_groups(list(reader.frames(CREATION, log.at(1)))) == log.groups[:1]
    assert as_groups(list(reader.frames(log.at(2), log.end))) == log.groups[2:]
    assert as_groups(list(reader.frames(CREATION, log.end))) == log.groups


def test_a_reader_that_was_not_read_to_the_end_begins_anew() -> None:
    log = Log().put().put().put()
    reader = LogRangeReader(log.fs, PATHS)
    frames = reader.frames(CREATION, log.at(2))
    next(frames)
    del frames
    assert as_groups(list(reader.frames(log.at(1), log.end))) == log.groups[1:]


def test_files_are_closed_also_where_the_range_is_left_early() -> None:
    log = Log().put().put()
    fs = RecordingFileSystem(log.fs)
    frames = frames_between(fs, PATHS, CREATION, log.end)
    next(frames)
    assert len(fs.ops("open")) == 1
    assert len(fs.ops("close")) == 0
    del frames
    assert len(fs.ops("close")) == 1


def test_a_range_that_ends_before_it_begins_is_a_mistake() -> None:
    log = Log().put()
    with pytest.raises(ValueError, match="before 2"):
        next(frames_between(log.fs, PATHS, log.end, CREATION))


def _second_frame(log: Log) -> int:
    """Return where the second group of the log begins."""
    return [frame.offset for frame in frames_between(log.fs, PATHS, CREATION, log.end)][1]


def _changed(position: Position) -> Position:
    return position._replace(chain=bytes(16))


def _refused(log: Log, after: Position, upto: Position) -> Corruption:
    with pytest.raises(Corruption) as caught:
        between(log, after, upto)
    return caught.value


def test_a_range_must_begin_at_the_position_that_it_names() -> None:
    log = Log().put().put().put()
    refused = _refused(log, _changed(log.at(2)), log.end)
    assert "revision 3 has another history here" in refused.what
    assert (refused.path, refused.offset) == (log.segments()[0], _second_frame(log))
    inside = Log().put(3).put()
    refused = _refused(inside, log.at(1), inside.end)
    assert "the group goes beyond revision 2" in refused.what
    assert refused.offset == 4096


def test_a_range_must_end_at_the_position_that_it_names() -> None:
    log = Log().put().put().put()
    refused = _refused(log, CREATION, _changed(log.at(2)))
    assert "revision 3 has another history here" in refused.what
    assert (refused.path, refused.offset) == (log.segments()[0], _second_frame(log))
    inside = Log().put(3).put()
    assert "the group goes beyond revision 2" in _refused(inside, CREATION, log.at(1)).what
    assert _refused(log, CREATION, log.end._replace(revision=99)).offset == log.log.writer.segment.offset


def test_an_epoch_that_the_log_does_not_know_is_refused() -> None:
    log = Log().put().restart().put()
    strange = log.end._replace(epoch=Epoch(1, EPOCH.nonce + 1))
    assert "has another history" not in _refused(log, CREATION, strange).what
    assert _refused(log, strange._replace(revision=2), log.end)


def test_a_log_that_begins_behind_the_range_is_refused() -> None:
    log = Log().put().rotate().put()
    log.fs.remove(log.segments()[0])
    refused = _refused(log, CREATION, log.end)
    assert (refused.path, refused.what) == (PATHS.wal, "the log begins at revision 3, but revision 2 is needed")
    log.fs.remove(log.segments()[0])
    assert "has no segment" in _refused(log, CREATION, log.end).what


def test_a_missing_or_foreign_segment_inside_is_refused() -> None:
    log = Log().put().rotate().put().rotate().put()
    first, second, third = log.segments()
    kept = read_file(log.fs, second)
    log.fs.remove(second)
    refused = _refused(log, CREATION, log.end)
    assert (refused.path, refused.offset) == (third, 0)
    assert "a segment is missing or from another history" in refused.what
    header = fmt.decode_segment_header(kept)
    for wrong in (header._replace(previous_segment_id=1), header._replace(previous=_changed(header.previous))):
        log.fs.plant(second, fmt.encode_segment_header(wrong) + kept[4096:])
        refused = _refused(log, CREATION, log.end)
        assert (refused.path, refused.offset) == (second, 0)
        assert "from another history" in refused.what
    log.fs.plant(second, read_file(log.fs, first))
    assert "does not fit its name" in _refused(log, CREATION, log.end).what


def test_no_byte_of_a_range_can_change_unnoticed() -> None:
    log = Log().put().put(2).mark().rotate().put().put()
    begin, end = 1, 4
    after, upto = log.at(begin), log.at(end)
    second_frame = _second_frame(log)
    for path in log.segments():
        data = read_file(log.fs, path)
        used = len(data.rstrip(b"\0"))
        for at in range(min(used + 8, len(data))):
            log.fs.plant(path, data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
            try:
                assert between(log, after, upto) == log.groups[begin:end]
            except Corruption as error:
                assert error.path in log.segments()
                continue
            first = path == log.segments()[0]
            # What was skipped is looked at by its header alone, and what lies behind the end not at all.
            assert (first and 4096 <= at < second_frame) or at >= used, (path, at)
        log.fs.plant(path, data)


def test_a_length_beyond_the_file_is_refused_before_it_is_read(counted: list[int]) -> None:
    log = Log().put()
    path = log.segments()[0]
    data = bytearray(read_file(log.fs, path))
    data[4096 + 4 : 4096 + 8] = b"\xff" * 4
    log.fs.plant(path, bytes(data))
    refused = _refused(log, CREATION, log.end)
    assert (refused.offset, refused.what) == (4096, "a frame that was durable does not check")
    assert max(counted) < 1 << 30


def _planted(log: Log, number: int, **wrong: object) -> Corruption:
    """Build a frame of a log of five groups again, sound but for a field, and return how ranges with it are refused."""
    frame = list(frames_between(log.fs, PATHS, CREATION, log.end))[number]
    header = frame.header._replace(**wrong)  # type: ignore[arg-type]
    seed = fmt.crc_seed(header.segment_id)
    built, _ = fmt.build_frame(
        fmt.MARK,  # its chain is written as it is given
        header.segment_id,
        seed,
        header.first_revision,
        header.commits,
        (header.durable_length, header.durable_upto),
        header.time_ms,
        header.chain,
        frame.payload,
    )
    head = header.kind + built[4:64] + header.flags.to_bytes(4, "little")
    body = built[72:]
    crc = crc32c(crc32c(seed, head), body).to_bytes(4, "little")
    data = read_file(log.fs, frame.path)
    log.fs.plant(frame.path, data[: frame.offset] + head + crc + body + data[frame.offset + len(built) :])
    refused = _refused(log, log.at(2), log.end)
    assert (refused.path, refused.offset) == (frame.path, frame.offset)
    log.fs.plant(frame.path, data)
    return refused


def test_sound_frames_that_contradict_those_before_them_are_refused() -> None:
    log = Log().put().put().put().put().put()
    assert "revision 5 is missing; 6 follows" in _planted(log, 3, first_revision=6).what
    assert "the chain of history is broken" in _planted(log, 3, chain=bytes(16)).what
    assert "does not check" in _planted(log, 3, segment_id=99).what
    assert "does not check" in _planted(log, 3, flags=1).what
    assert between(log, log.at(2), log.end) == log.groups[2:]


def test_frames_that_are_skipped_must_be_frames_of_the_segment() -> None:
    log = Log().put().put().put().put().put()
    assert "revision 3 is missing; 4 follows" in _planted(log, 1, first_revision=4).what
    assert "there is no frame" in _planted(log, 1, segment_id=99).what
    assert "there is no frame" in _planted(log, 1, flags=1).what
    assert between(log, log.at(2), log.end) == log.groups[2:]
