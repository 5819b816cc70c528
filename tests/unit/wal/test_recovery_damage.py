"""Every flipped bit and every truncation of a small log: refused, or nothing is lost but the group nothing proves.

The oracle knows the log as it was written. What it allows is exact: damage anywhere but in the last frame of the last
segment is refused; damage there costs that frame, and the cut bytes are kept and reported.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from kvserver.base.errors import Corruption
from kvserver.base.events import TornTailCut
from kvserver.base.fs import read_file
from kvserver.wal import format as fmt
from kvserver.wal.recovery import list_segments
from support.logs import PATHS, Group, SmallLog, recover_log
from support.memfs import MemoryFileSystem

SPACE_LEFT = 200
"""Bytes of zero-filled space left behind the last frame; more of the same shows nothing new."""


MAGIC_FIELD = range(4)
FIRST_REVISION_FIELD = range(16, 24)
COMMITS_FIELD = range(24, 28)
"""The bytes of a frame's header by which a torn one's revisions are told; where they are damaged, so is the report."""


@dataclasses.dataclass(frozen=True)
class Frame:
    """A frame as it was written, with the group that it holds, if any."""

    begin: int
    end: int
    group: Group | None


@dataclasses.dataclass(frozen=True)
class Written:
    """A log of two segments, and the frames of the second one."""

    first: tuple[Path, bytes]
    last: tuple[Path, bytes]
    groups: list[Group]
    frames: list[Frame]

    def frames_up_to(self, length: int) -> list[Frame]:
        return [frame for frame in self.frames if frame.end <= length]


def end_with_group(log: SmallLog) -> None:
    """As a kill leaves it in the middle of work."""


def end_with_mark(log: SmallLog) -> None:
    """As a kill leaves it in an idle moment."""
    log.writer.write_mark()


def end_with_seal(log: SmallLog) -> None:
    """As a clean end leaves it."""
    log.writer.close()


ENDS = [end_with_group, end_with_mark, end_with_seal]


@functools.cache
def write(end: Callable[[SmallLog], None]) -> Written:
    fs = MemoryFileSystem()
    log = SmallLog(fs).begin()
    log.put("a", "b")
    log.put("c")
    log.put("d", value=bytes(40))
    log.writer.rotate()
    frames: list[Frame] = []
    for keys in (["a"], ["b", "c"], ["d", "e", "f"]):
        begin = log.writer.segment.offset
        frames.append(Frame(begin, begin + fmt.FRAME_HEADER_LENGTH, None))
        group = log.put(*keys)
        frames[-1] = Frame(begin, log.writer.segment.offset, group)
    end(log)
    if end is not end_with_group:
        frames.append(Frame(frames[-1].end, frames[-1].end + fmt.FRAME_HEADER_LENGTH, None))
    if end is end_with_seal:
        frames.append(Frame(frames[-1].end, frames[-1].end + fmt.SEAL_FRAME_LENGTH, None))
    first, last = (PATHS.segment(name) for name in list_segments(fs, PATHS))
    data = read_file(fs, last)
    assert len(data.rstrip(b"\0")) > frames[-1].end - 8
    return Written((first, read_file(fs, first)), (last, data[: frames[-1].end + SPACE_LEFT]), log.groups, frames)


def planted(log: Written, first: bytes | None = None, last: bytes | None = None) -> MemoryFileSystem:
    fs = MemoryFileSystem()
    fs.plant(log.first[0], log.first[1] if first is None else first)
    fs.plant(log.last[0], log.last[1] if last is None else last)
    return fs


def check_refused(log: Written, path: Path, what: object, **changed: bytes) -> None:
    fs = planted(log, **changed)
    before = fs.contents()
    with pytest.raises(Corruption) as refused:
        recover_log(fs)
    assert refused.value.path == path, what
    assert refused.value.hint
    assert fs.contents() == before, f"{what}: something was changed although it was refused"


def check_cut(log: Written, last: bytes, begin: int, what: object) -> list[TornTailCut]:
    """Recover; what is found must end exactly at ``begin``, what was behind it must be kept. Return what was reported."""
    fs = planted(log, last=last)
    found = recover_log(fs)
    wanted = log.groups[:3] + [frame.group for frame in log.frames_up_to(begin) if frame.group]
    assert found.groups == wanted, what
    tail = last[begin:].rstrip(b"\0")
    reports = [event for event in found.events if isinstance(event, TornTailCut)]
    names = [name for name in fs.list_dir(PATHS.wal) if name.endswith(".torn")]
    assert [report.kept_as for report in reports] == names == [PATHS.torn(log.last[0], begin).name] * bool(tail), what
    for report in reports:
        assert (report.segment, report.offset, report.length_bytes) == (log.last[0].name, begin, len(tail))
        assert read_file(fs, PATHS.wal / report.kept_as) == tail
    again = recover_log(fs)
    assert (again.groups, again.log.position, again.events) == (wanted, found.log.position, []), what
    return reports


def flips(data: bytes, bits: Iterable[int]) -> Iterable[tuple[int, bytes]]:
    changed = bytearray(data)
    for bit in bits:
        changed[bit // 8] ^= 1 << bit % 8
        yield bit, bytes(changed)
        changed[bit // 8] ^= 1 << bit % 8


def header_bits() -> Iterable[int]:
    """One bit of every byte; that each bit of a header counts is shown beside the format."""
    return [8 * byte + byte % 8 for byte in range(fmt.SEGMENT_HEADER_LENGTH)]


def test_any_flipped_bit_of_a_sealed_segment_is_refused() -> None:
    log = write(end_with_mark)
    path, data = log.first
    bits = [*header_bits(), *range(8 * fmt.SEGMENT_HEADER_LENGTH, 8 * len(data))]
    for bit, damaged in flips(data, bits):
        check_refused(log, path, f"bit {bit}", first=damaged)


def test_any_flipped_bit_of_the_open_segments_header_is_refused() -> None:
    log = write(end_with_mark)
    path, data = log.last
    for bit, damaged in flips(data, header_bits()):
        check_refused(log, path, f"bit {bit}", last=damaged)


@pytest.mark.parametrize("end", ENDS)
def test_any_flipped_bit_that_a_later_frame_proves_is_refused(end: Callable[[SmallLog], None]) -> None:
    log = write(end)
    path, data = log.last
    for bit, damaged in flips(data, range(8 * fmt.SEGMENT_HEADER_LENGTH, 8 * log.frames[-1].begin)):
        check_refused(log, path, f"bit {bit}", last=damaged)


@pytest.mark.parametrize("end", ENDS)
def test_any_flipped_bit_of_the_last_frame_costs_that_frame_alone(end: Callable[[SmallLog], None]) -> None:
    log = write(end)
    frame = log.frames[-1]
    for bit, damaged in flips(log.last[1], range(8 * frame.begin, 8 * frame.end)):
        reports = check_cut(log, damaged, frame.begin, f"bit {bit}")
        assert len(reports) == 1
        said = (reports[0].first_revision, reports[0].last_revision)
        byte = bit // 8 - frame.begin
        if frame.group is None:
            assert said == (0, 0) or byte in COMMITS_FIELD
        elif byte in MAGIC_FIELD or byte in FIRST_REVISION_FIELD:
            assert said == (0, 0)
        elif byte not in COMMITS_FIELD:
            assert said == (frame.group.first_revision, frame.group.first_revision + frame.group.commits - 1)


@pytest.mark.parametrize("end", ENDS)
def test_any_flipped_bit_of_the_space_behind_costs_nothing(end: Callable[[SmallLog], None]) -> None:
    log = write(end)
    path, data = log.last
    begin = log.frames[-1].end
    for bit, damaged in flips(data, range(8 * begin, 8 * len(data), 7)):
        if end is end_with_seal:
            check_refused(log, path, f"bit {bit}", last=damaged)
        else:
            reports = check_cut(log, damaged, begin, f"bit {bit}")
            assert [(report.first_revision, report.last_revision) for report in reports] == [(0, 0)]


def test_any_truncation_of_a_sealed_segment_is_refused() -> None:
    log = write(end_with_mark)
    path, data = log.first
    for length in range(len(data)):
        check_refused(log, path, f"length {length}", first=data[:length])


@pytest.mark.parametrize("end", ENDS)
def test_any_truncation_of_the_last_segment_leaves_the_whole_frames_before_it(end: Callable[[SmallLog], None]) -> None:
    log = write(end)
    path, data = log.last
    for length in range(0, fmt.SEGMENT_HEADER_LENGTH, 1 if end is end_with_mark else 61):
        check_refused(log, path, f"length {length}", last=data[:length])
    for length in range(fmt.SEGMENT_HEADER_LENGTH, len(data)):
        whole = log.frames_up_to(length)
        begin = whole[-1].end if whole else fmt.SEGMENT_HEADER_LENGTH
        reports = check_cut(log, data[:length], begin, f"length {length}")
        torn = [frame for frame in log.frames if frame.begin <= length < frame.end]
        if torn and torn[0].group and length - begin >= fmt.FRAME_HEADER_LENGTH:
            group = torn[0].group
            said = [(report.first_revision, report.last_revision) for report in reports]
            assert said == [(group.first_revision, group.first_revision + group.commits - 1)]


@pytest.mark.parametrize("end", ENDS)
def test_zeros_in_place_of_any_end_leave_the_whole_frames_before_it(end: Callable[[SmallLog], None]) -> None:
    """What a power loss leaves of a group whose length reached the disk and whose bytes did not, or did in part."""
    log = write(end)
    data = log.last[1]
    for length in range(log.frames[-1].begin, log.frames[-1].end, 5):
        torn = data[:length] + bytes(len(data) - length)
        check_cut(log, torn, log.frames[-1].end if torn == data else log.frames[-1].begin, f"zeros from {length} on")
