"""Reads the groups between two positions of the log, while the log thread goes on writing behind them.

A flush builds tables from these bytes and not from memory, so that it can run in another process. Everything read is
checked as recovery checks it, and so is the end: a range that does not lead from one position exactly to the other is
corruption, never a shorter range.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator
from pathlib import Path

from kvserver.base.errors import Corruption
from kvserver.base.fs import File, FileSystem, opened
from kvserver.base.limits import KIB, MIB
from kvserver.base.paths import DataPaths, SegmentName
from kvserver.base.types import Epoch, Position
from kvserver.wal import format as fmt
from kvserver.wal.reader import Frame
from kvserver.wal.recovery import list_segments
from kvserver.wal.sequence import FrameSequence

READ_WINDOW_BYTES = 2 * MIB
"""Read at once where frames are wanted; a larger frame is read in one piece."""

SKIP_WINDOW_BYTES = 64 * KIB
"""Read at once where only the headers of frames are looked at."""


@dataclasses.dataclass(slots=True)
class RangeFrame(Frame):
    """A group, the file that it lies in, and that one's epoch."""

    path: Path
    epoch: Epoch


class _Segment(FrameSequence):
    """A segment that is read frame by frame, a piece of it in memory at a time, and the position behind the last frame."""

    def __init__(self, path: Path, name: SegmentName, file: File, prove_chain: bool) -> None:
        """Read and check the header. Raises Corruption."""
        self.path = path
        self.name = name
        self._file = file
        self._data = b""
        self._begin = 0
        """Where ``_data`` lies in the file."""
        try:
            super().__init__(path, fmt.decode_segment_header(file.pread(fmt.SEGMENT_HEADER_LENGTH, 0)))
        except ValueError as error:
            raise Corruption(path, 0, str(error)) from error
        if SegmentName(self.header.epoch.number, self.header.first_revision) != name:
            raise Corruption(path, 0, "the segment's header does not fit its name")
        self._seed = fmt.crc_seed(self.header.segment_id)
        self._prove_chain = prove_chain

    def resume(self, offset: int, position: Position) -> None:
        """Stand behind a frame that was read before."""
        self.offset, self.revision, self.chain = offset, position.revision, position.chain

    def skip(self) -> fmt.FrameHeader:
        """Step over a frame that is not wanted, by its header alone. Raises Corruption."""
        at = self._reach(fmt.FRAME_HEADER_LENGTH, SKIP_WINDOW_BYTES)
        header = fmt.parse_frame_header(self._data, at)
        if header is None or header.segment_id != self.header.segment_id or header.flags:
            raise self.corruption("there is no frame where one was")
        self.accept(header, header.chain)
        return header

    def read(self) -> RangeFrame:
        """Read a frame and step over it. Raises Corruption."""
        at = self._reach(fmt.FRAME_HEADER_LENGTH, READ_WINDOW_BYTES)
        header = fmt.parse_frame_header(self._data, at)
        if header is not None and self.offset + header.frame_length <= self._file.size():
            at = self._reach(header.frame_length, READ_WINDOW_BYTES)
            header = fmt.check_frame(self._data, at, self.header.segment_id, self._seed)
        else:
            header = None
        if header is None:
            raise self.corruption("a frame that was durable does not check")
        offset, body = self.offset, at + fmt.FRAME_HEADER_LENGTH
        self.accept(header, fmt.next_chain(self.chain, header, self._data, at) if self._prove_chain else header.chain)
        payload = self._data[body : body + header.payload_length]
        return RangeFrame(offset, header, payload, self.path, self.header.epoch)

    def _reach(self, length: int, window: int) -> int:
        """Have so many bytes from ``offset`` on in memory, or all that there are; return where they begin in ``_data``."""
        at = self.offset - self._begin
        if at + length > len(self._data) or at < 0:
            self._data = b""  # before the next piece is read, so that the two are not held at once
            self._data = self._file.pread(max(length, window), self.offset)
            self._begin, at = self.offset, 0
        return at


@dataclasses.dataclass(frozen=True, slots=True)
class _End:
    """Where the last range ended, so that the next one begins there without a search."""

    name: SegmentName
    segment_id: int
    offset: int
    position: Position


class LogRangeReader:
    """Reads one range after the other. Not safe for several threads."""

    def __init__(self, fs: FileSystem, paths: DataPaths, prove_chain: bool = True) -> None:
        """Without ``prove_chain`` the chain is taken from the frames, whose checksums cover it, for who has proven it before."""
        self._fs = fs
        self._paths = paths
        self._prove_chain = prove_chain
        self._ended: _End | None = None

    def frames(self, after: Position, upto: Position) -> Generator[RangeFrame, None, None]:
        """Yield the groups whose commits r are after.revision < r <= upto.revision, in order.

        Both are ends of frames, and ``upto`` is durable. Segments that end before ``after`` may be gone or go meanwhile.
        Raises Corruption, which names file and offset, for anything that is not this history; OSError.
        """
        if after.revision > upto.revision:
            raise ValueError(f"the range ends at revision {upto.revision}, before {after.revision}, where it begins")
        if after == upto:
            return
        name, resume = self._find(after)
        before: _Segment | None = None
        found = False
        while True:
            path = self._paths.segment(name)
            with opened(self._fs.open(path)) as file:
                segment = _Segment(path, name, file, self._prove_chain)
                if before is not None:
                    _check_continues(before, segment)
                elif resume is not None and segment.header.segment_id == resume.segment_id:
                    segment.resume(resume.offset, resume.position)
                found = found or segment.header.previous == after
                for frame in _walk(segment, after, upto, found):
                    found = True
                    yield frame
            found = found or segment.position == after
            if found and segment.position == upto:
                self._ended = _End(name, segment.header.segment_id, segment.offset, upto)
                return
            before, name = segment, self._behind(segment, upto)

    def _find(self, after: Position) -> tuple[SegmentName, _End | None]:
        """Return the first segment that has to be looked at, and from where on if that is known."""
        ended, self._ended = self._ended, None
        names = list_segments(self._fs, self._paths)
        if ended is not None and ended.position == after and ended.name in names:
            return ended.name, ended
        wanted = after.revision + 1
        behind = [name for name in names if name.first_revision == wanted]
        before = [name for name in names if name.first_revision < wanted]
        if not behind and not before:
            first = f"begins at revision {names[0].first_revision}" if names else "has no segment"
            raise Corruption(self._paths.wal, 0, f"the log {first}, but revision {wanted} is needed")
        return behind[0] if behind else before[-1], None

    def _behind(self, segment: _Segment, upto: Position) -> SegmentName:
        """Return the segment behind one that was read to its seal."""
        for name in list_segments(self._fs, self._paths):
            if name > segment.name:
                return name
        what = f"the log ends at revision {segment.position.revision} and never comes to revision {upto.revision} as it was"
        raise segment.corruption(what)


def frames_between(fs: FileSystem, paths: DataPaths, after: Position, upto: Position) -> Iterator[RangeFrame]:
    """Yield the groups of one range, as ``LogRangeReader.frames`` does."""
    return LogRangeReader(fs, paths).frames(after, upto)


def _walk(segment: _Segment, after: Position, upto: Position, found: bool) -> Iterator[RangeFrame]:
    """Yield the wanted groups of one segment; end at its seal or where the position ``upto`` is reached.

    One revision can have several positions: at the begin of an epoch the chain begins anew. So where the revision fits and
    the position does not, a later segment may have it, but no later frame of the same epoch.
    """
    while True:
        position = segment.position
        found = found or position == after
        if found and position == upto:
            return
        begin = segment.offset
        frame = segment.read() if found else None
        header = frame.header if frame is not None else segment.skip()
        if header.kind == fmt.SEAL:
            return
        if header.kind != fmt.GROUP:
            continue
        goal = upto if found else after
        if segment.revision > goal.revision:
            raise segment.corruption(f"the group goes beyond revision {goal.revision}, where one ended", begin)
        if segment.revision == goal.revision and segment.header.epoch == goal.epoch and segment.chain != goal.chain:
            raise segment.corruption(f"revision {goal.revision} has another history here than it had", begin)
        if frame is not None:
            yield frame


def _check_continues(before: _Segment, segment: _Segment) -> None:
    """Check that a segment begins where the one before it ended. Raises Corruption."""
    header = segment.header
    if header.previous != before.position or header.previous_segment_id != before.header.segment_id:
        what = f"the segment follows revision {header.previous.revision}, but the log before it ends at "
        raise Corruption(segment.path, 0, f"{what}{before.position.revision}; a segment is missing or from another history")
