"""Reads the raw bytes of a node's log for those who follow it, while the log goes on being written behind them.

Only what is durable here is handed out, as the log itself says it, never as long as a file happens to be: behind the durable end
lie zeros, half a frame, or frames that a power loss would take back. What is read is cut at the ends of frames. The frames are
found by their headers alone; whoever receives them proves every byte.

Whoever follows asks for one place after the other. So the last place is remembered, and the file of the last segment stays
open; a place that is asked for the first time is found by a walk over headers from the segment's begin.

A log that was recovered may list segments before a gap: the tables hold them, and a power loss has brought them back. They lead
nowhere and count as gone.
"""

from __future__ import annotations

import itertools
import struct
import weakref
from typing import NamedTuple

from kvserver.base.errors import Corruption
from kvserver.base.fs import File, FileSystem
from kvserver.base.limits import KIB
from kvserver.base.paths import DataPaths
from kvserver.base.types import LogEnd, Position
from kvserver.wal import format as fmt
from kvserver.wal.node_log import LogExtent, NodeLog
from kvserver.wal.segment import SegmentInfo

WALK_WINDOW_BYTES = 256 * KIB
"""Read at once while a place is searched for."""

_HEAD = struct.Struct("<4sIQ")
"""How a frame header begins: kind, payload length, segment id."""


class LogGone(Exception):
    """The part of the log that was asked for is not here any more; it was removed, or lies before a gap."""


class _Place(NamedTuple):
    """A place in the log where a frame ends."""

    segment_id: int
    offset: int
    frame_at: int
    """Where that frame begins; 0: it is the header block."""


class LogTail:
    """Reads for one follower, on one thread at a time; that may be another one than the log's."""

    def __init__(self, fs: FileSystem, paths: DataPaths, log: NodeLog) -> None:
        self._fs = fs
        self._paths = paths
        self._log = log
        self._seen: LogExtent | None = None
        self._unbroken: list[SegmentInfo] = []
        """The sealed segments of the extent last seen that lead to its newest one."""
        self._place: _Place | None = None
        self._files: dict[int, File] = {}
        """The file of the segment last read, by its id."""
        weakref.finalize(self, _close_all, self._files)

    def close(self) -> None:
        """Close the file that is kept open."""
        _close_all(self._files)

    def end(self) -> LogEnd:
        """Return where the log durably ends."""
        return self._log.end

    def oldest_revision(self) -> int:
        """Return the first revision that can be read; where there is no segment, of the next one that is written."""
        segments = self._segments(self._look())
        return segments[0].header.first_revision if segments else self._log.end.position.revision + 1

    def position_at(self, segment_id: int, offset: int) -> Position | None:
        """Return the position behind the frame that ends exactly there; None: no frame ends there, or the segment is gone.

        The end of the header block counts as such a place. Raises Corruption, OSError.
        """
        info = self._find(self._look(), segment_id)
        if info is None or not fmt.SEGMENT_HEADER_LENGTH <= offset <= info.length_bytes:
            return None
        if offset == info.length_bytes:
            return info.end
        try:
            return self._walk_to(info, offset)
        except FileNotFoundError:
            return None

    def begin_for(self, revision: int) -> tuple[int, int] | None:
        """Return where whoever needs the log from a revision on begins: (segment id, 0); None where that is gone.

        It is the segment that holds the revision, or the newest one where it is yet to be written. Where several begin with
        it, all but the last one without a commit, it is the first: their headers prove the way.
        """
        segments = self._segments(self._look())
        if not segments or revision < segments[0].header.first_revision:
            return None
        for info in segments:
            if info.header.first_revision == revision or info.header.first_revision <= revision <= info.end.revision:
                return info.header.segment_id, 0
        return segments[-1].header.segment_id, 0

    def after(self, segment_id: int) -> int | None:
        """Return the id of the segment behind a sealed one; None where it has none yet. Raises LogGone."""
        segments = self._segments(self._look())
        for before, info in itertools.pairwise(segments):
            if before.header.segment_id == segment_id:
                return info.header.segment_id
        if segments and segments[-1].header.segment_id == segment_id:
            return None
        raise _gone(segment_id)

    def is_sealed_end(self, segment_id: int, offset: int) -> bool:
        """Say whether the place is behind the seal of a segment: what comes next is another one."""
        extent = self._look()
        info = self._find(extent, segment_id)
        if info is None or offset != info.length_bytes:
            return False
        return extent.last_is_sealed or extent.last is None or info.header.segment_id != extent.last.header.segment_id

    def pending_bytes(self, segment_id: int, offset: int) -> int:
        """Return the durable bytes behind a place, over all segments; of a segment that is not here, the whole log."""
        pending = 0
        for info in reversed(self._segments(self._look())):
            pending += info.length_bytes
            if info.header.segment_id == segment_id:
                return pending - offset
        return pending

    def read(self, segment_id: int, offset: int, most_bytes: int) -> bytes:
        """Return the durable frames behind a place, whole ones, up to so many bytes but at least one; b"" where there is none.

        From offset 0 on they come with the header block before them. Raises LogGone, also for a place behind the
        durable end, Corruption, OSError.
        """
        info = self._find(self._look(), segment_id)
        if info is None:
            raise _gone(segment_id)
        durable = info.length_bytes
        if 0 < offset < fmt.SEGMENT_HEADER_LENGTH:
            raise ValueError(f"no frame begins at offset {offset}, inside the header block")
        if offset > durable:
            raise LogGone(f"segment {segment_id:016x} durably ends at offset {durable}; it never came to {offset}, or was cut")
        if offset == durable:
            return b""
        first_frame = 0 if offset else fmt.SEGMENT_HEADER_LENGTH
        try:
            file = self._open(info)
        except FileNotFoundError:
            raise _gone(segment_id) from None
        least = first_frame + fmt.FRAME_HEADER_LENGTH
        data = file.pread(min(durable - offset, max(most_bytes, least)), offset)
        if len(data) > first_frame:
            _, length = self._next(info, data, first_frame, offset)
            if offset + first_frame + length > durable:
                raise Corruption(info.path, offset + first_frame, "a frame that was durable claims more than is durable")
            if first_frame + length > len(data):  # the first frame is larger than what was asked for
                data = file.pread(first_frame + length, offset)
        whole = self._whole(info, data, first_frame, offset)
        if whole == 0 or whole < first_frame:
            raise Corruption(info.path, offset, "a frame that was durable is cut off")
        return data if whole == len(data) else data[:whole]

    # -- frames -----------------------------------------------------------------------------------------------------------

    def _whole(self, info: SegmentInfo, data: bytes, at: int, offset: int) -> int:
        """Return how much of the data, read from an offset on, whole frames take, and remember the place behind them."""
        last = -1
        end = len(data)
        while at + fmt.FRAME_HEADER_LENGTH <= end:
            _, length = self._next(info, data, at, offset)
            if at + length > end:
                break
            last, at = at, at + length
        if last >= 0:
            self._place = _Place(info.header.segment_id, offset + at, offset + last)
        return min(at, end)

    def _walk_to(self, info: SegmentInfo, wanted: int) -> Position | None:
        """Return the position behind the frame that ends at an offset; None where none does."""
        place = self._place
        if place is None or place.segment_id != info.header.segment_id or place.offset > wanted:
            place = _Place(info.header.segment_id, fmt.SEGMENT_HEADER_LENGTH, 0)
        at, frame_at = place.offset, place.frame_at
        file = self._open(info)
        data, begin = b"", at
        while at < wanted:
            if at + fmt.FRAME_HEADER_LENGTH > begin + len(data):
                data, begin = file.pread(min(WALK_WINDOW_BYTES, info.length_bytes - at), at), at
            _, length = self._next(info, data, at - begin, begin)
            at, frame_at = at + length, at
        if at > wanted:
            return None
        self._place = _Place(info.header.segment_id, at, frame_at)
        return self._position(info, file, frame_at, at)

    def _position(self, info: SegmentInfo, file: File, frame_at: int, end: int) -> Position:
        """Return the position behind a frame that lies between two offsets. Raises Corruption, OSError."""
        header = info.header
        if not frame_at:
            return Position(header.epoch, header.first_revision - 1, header.start_chain())
        data = file.pread(end - frame_at, frame_at)
        frame = fmt.check_frame(data, 0, header.segment_id, fmt.crc_seed(header.segment_id))
        if frame is None:  # a flipped bit here would be taken for another history
            raise Corruption(info.path, frame_at, "a frame that was durable does not check")
        return Position(header.epoch, frame.last_revision, frame.chain)

    def _next(self, info: SegmentInfo, data: bytes, at: int, begin: int) -> tuple[bytes, int]:
        """Return kind and length of the frame at an offset of data that begins at ``begin`` in the segment. Raises Corruption."""
        if at + fmt.FRAME_HEADER_LENGTH <= len(data):
            kind, payload_length, segment_id = _HEAD.unpack_from(data, at)
            if segment_id == info.header.segment_id and kind in fmt.FRAME_TYPES:
                return kind, fmt.FRAME_HEADER_LENGTH + fmt.padded(payload_length)
        raise Corruption(info.path, begin + at, "there is no frame where one was durable")

    # -- segments ---------------------------------------------------------------------------------------------------------

    def _look(self) -> LogExtent:
        """Return the log as it is now."""
        extent = self._log.extent()
        seen = self._seen
        if seen is None or seen.sealed is not extent.sealed or _id(seen.last) != _id(extent.last):
            self._unbroken = _unbroken(extent)
            self._place = None
            listed = {info.header.segment_id for info in self._segments(extent)}
            for segment_id in [key for key in self._files if key not in listed]:  # a removed file takes room while it is open
                self._files.pop(segment_id).close()
        self._seen = extent
        return extent

    def _segments(self, extent: LogExtent) -> list[SegmentInfo]:
        return self._unbroken if extent.last is None else [*self._unbroken, extent.last]

    def _find(self, extent: LogExtent, segment_id: int) -> SegmentInfo | None:
        if extent.last is not None and extent.last.header.segment_id == segment_id:
            return extent.last
        for info in reversed(self._unbroken):
            if info.header.segment_id == segment_id:
                return info
        return None

    def _open(self, info: SegmentInfo) -> File:
        segment_id = info.header.segment_id
        file = self._files.get(segment_id)
        if file is None:
            _close_all(self._files)
            file = self._files[segment_id] = self._fs.open(self._paths.segment(info.name))
        return file


def _unbroken(extent: LogExtent) -> list[SegmentInfo]:
    """Return the sealed segments behind the last gap."""
    segments = extent.segments()
    first = len(segments) - 1
    while first > 0 and segments[first].header.previous_segment_id == segments[first - 1].header.segment_id:
        first -= 1
    return segments[max(first, 0) : len(extent.sealed)]


def _id(info: SegmentInfo | None) -> int:
    return info.header.segment_id if info is not None else 0


def _gone(segment_id: int) -> LogGone:
    return LogGone(f"segment {segment_id:016x} is not in this log any more")


def _close_all(files: dict[int, File]) -> None:
    while files:
        files.popitem()[1].close()
