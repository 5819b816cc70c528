"""The log of a follower: chunks of somebody else's log, checked, written exactly where they lay, and synced.

``take`` checks a chunk whole before it writes a byte of it (``chunk``); ``sync`` makes durable what was taken, all of it by one
call, and only then does ``end`` move. What lies on disk between the two may vanish in any part, so nothing of it is
acknowledged, shown or shipped on.

The bytes are those of the primary, seal frames too: nothing is ever decided here. A segment is written under a prepared name.
``sync`` gives it its own when it is durable, after the one before it was cut to its length and synced: so a name in the
folder stands for what a crash cannot take back, and of segments that have a successor nothing is in doubt.

The first segment behind tables (a copy of the store was fetched, and no log) begins somewhere before their end and has to pass
exactly through it. Until it does it has no name, and the log ends where the tables do: a crash leaves a log that begins again,
never one that is shorter than the tables.

A write that fails (the disk is full) has put nothing beyond doubt: the chunk was not taken, what it left behind the end is cut
off, durably, before anything is written there again. A sync that fails is final, as everywhere: the kernel reports it once.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import threading

from kvserver.base.clock import Clock
from kvserver.base.events import Listener, SegmentSealed, ignore
from kvserver.base.fs import FileSystem
from kvserver.base.paths import DataPaths
from kvserver.base.types import CREATION_REVISION, NO_EPOCH, Epoch, LogEnd, Position
from kvserver.wal import format as fmt
from kvserver.wal.chunk import Before, Checked, ChunkChecker
from kvserver.wal.chunk import ChunkRefused as ChunkRefused
from kvserver.wal.chunk import ReceivedGroup as ReceivedGroup
from kvserver.wal.node_log import LogExtent
from kvserver.wal.receiving import ReceivingSegment
from kvserver.wal.recovery import RecoveredLog
from kvserver.wal.segment import SegmentInfo
from kvserver.wal.sequence import FrameSequence
from kvserver.wal.space import SyncFailed


class ReceivedLog:
    """Takes chunks on one thread at a time. ``take`` and ``sync`` block; ``end`` and all figures may be read on any thread.

    The list of sealed segments is never changed, only replaced, under a lock and together with the newest segment, as in
    ``LogWriter``. The newest segment is not in the list, sealed or not: it alone proves where the log stands, so the deleter
    must not have it.
    """

    def __init__(
        self,
        fs: FileSystem,
        paths: DataPaths,
        clock: Clock,
        cluster_id: bytes,
        base: Position | None,
        recovered: RecoveredLog,
        listener: Listener = ignore,
    ) -> None:
        """Go on behind what was recovered as a follower; ``base`` is the position that the tables hold. Raises OSError.

        The clock is not asked: all times are those of the frames.
        """
        self._fs = fs
        self._paths = paths
        self._listener = listener
        self._checker = ChunkChecker(cluster_id, base)
        self._creation = Position(NO_EPOCH, CREATION_REVISION, fmt.creation_chain(cluster_id))
        self._met = base is None or bool(recovered.segments)
        """The log passes through the tables' position, as far as it was taken."""
        self._segments_changing = threading.Lock()
        self._folder_syncing = threading.Lock()
        self._sealed = recovered.segments[:-1]
        self._last = recovered.segments[-1] if recovered.segments else None
        self._last_is_sealed = self._last is not None and recovered.open_groups is None
        self._receiving: list[ReceivingSegment] = []
        """Those of which something was taken and is not durable, oldest first; the last one may be open."""
        self._end = recovered.end
        self._numbers = itertools.count()
        self._failure: BaseException | None = None
        self.epochs: list[tuple[Epoch, Position]] = []
        """Epochs whose first segment came since the open and is durable, oldest first; never changed, only replaced."""
        self.syncs = 0
        self.bytes_written = 0
        if self._last is not None and recovered.open_groups is not None:
            self._receiving = [
                ReceivingSegment.resume(fs, self._last, self._end.offset, recovered.open_groups, recovered.time_ms)
            ]

    # -- what a follower does -------------------------------------------------------------------------------------------

    def take(self, segment_id: int, offset: int, data: bytes) -> list[ReceivedGroup]:
        """Check a chunk, write it, and return the groups in it that are behind the tables; durable only after ``sync``.

        Raises ChunkRefused, and OSError where it cannot be written; then the log is as before, and may be given it again.
        """
        self._raise_failure()
        if offset:
            segment = self._continued(segment_id, offset)
            checked = self._checker.walk(segment.walk, data, 0, self._met)
            if not data:
                raise ChunkRefused(f"segment {segment_id:016x}, at offset {offset}: the chunk is empty")
            self._write(segment, data, offset)
            segment.walk = checked.walk
        else:
            segment, checked = self._begin(segment_id, data)
        segment.is_sealed = checked.is_sealed
        segment.taken_bytes += len(data)
        self._met = checked.met
        return checked.groups

    def sync(self) -> None:
        """Make everything durable that was taken, then move ``end``. Raises OSError; that is final."""
        self._raise_failure()
        try:
            durable = [segment for segment in self._receiving if segment.taken_bytes]
            for segment in durable:
                segment.secure()
                self.syncs += 1
                if self._met and not segment.is_named:
                    self._give_name(segment)
            if self._met:
                for segment in durable:
                    self._count(segment)
                self._receiving = [segment for segment in self._receiving if not segment.is_sealed]
        except BaseException as error:
            self._failure = error
            raise

    # -- what it has in common with the log of a primary ----------------------------------------------------------------

    @property
    def end(self) -> LogEnd:
        """Return where the log durably ends."""
        return self._end

    @property
    def position(self) -> Position:
        """Return the position of the durable end."""
        return self._end.position

    @property
    def sealed(self) -> list[SegmentInfo]:
        """Return the segments before the newest one, oldest first; each of them has a successor whose name is durable."""
        return self._sealed

    def extent(self) -> LogExtent:
        """Return the segments and the durable end, as they are at one moment."""
        with self._segments_changing:
            return LogExtent(self._sealed, self._last, self._last_is_sealed)

    def sealed_revision(self) -> int:
        """Return the last revision that no unsealed segment can hold."""
        extent = self.extent()
        if extent.last is None or extent.last_is_sealed:
            return self._end.position.revision
        return extent.last.header.first_revision - 1

    def total_bytes(self) -> int:
        """Return the bytes of all segments, as far as they are durable."""
        return sum(info.length_bytes for info in self.extent().segments())

    def first_revision(self) -> int:
        """Return the first revision of the oldest segment; without any, of the one that comes next."""
        segments = self.extent().segments()
        return segments[0].header.first_revision if segments else self._end.position.revision + 1

    def forget(self, oldest: SegmentInfo) -> None:
        """Take the oldest sealed segment, whose file was removed, off the list. Raises ValueError for any other segment."""
        with self._segments_changing:
            if not self._sealed or self._sealed[0] != oldest:
                raise ValueError(f"{oldest.path.name} is not the oldest sealed segment")
            self._sealed = self._sealed[1:]

    def sync_folder(self) -> None:
        """Sync the log's folder for the deleter; waits while a segment is given its name. Raises OSError."""
        with self._folder_syncing:
            self._fs.sync_dir(self._paths.wal)

    def may_seal(self) -> bool:
        """Say that nothing is sealed for its age: the primary decides."""
        return False

    def can_seal(self) -> bool:
        """Say that nothing can be sealed: the primary decides."""
        return False

    def close(self) -> None:
        """Cut what was taken and not synced, so that nothing lies behind the durable end; close the files. Raises OSError."""
        try:
            for segment in self._receiving:
                if not segment.is_named:
                    segment.drop(self._fs)
                elif self._failure is None and (segment.taken_bytes or segment.may_be_longer):
                    segment.file.truncate(self._end.offset)
                    segment.file.sync()
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Close the files as they are, after a failure."""
        segments, self._receiving = self._receiving, []
        for segment in segments:
            segment.file.close()
        if self._failure is None:
            self._failure = OSError(errno.EBADF, "the log is closed")

    # -- taking ---------------------------------------------------------------------------------------------------------

    def _continued(self, segment_id: int, offset: int) -> ReceivingSegment:
        """Return the segment that a chunk goes on with. Raises ChunkRefused where it does not go on exactly at its end."""
        where = f"segment {segment_id:016x}, at offset {offset}"
        newest = self._receiving[-1] if self._receiving else None
        if newest is None or newest.is_sealed:
            if self._newest_id() == segment_id:
                raise ChunkRefused(f"{where}: the segment is here whole, with its seal")
            raise ChunkRefused(f"{where}: the segment's begin is not here")
        here, end = newest.segment_id, newest.walk.offset
        if here != segment_id:
            raise ChunkRefused(f"{where}: segment {here:016x} is being received, and has no seal yet")
        if offset > end:
            raise ChunkRefused(f"{where}: the bytes from {end} on are missing")
        if offset < end:
            raise ChunkRefused(f"{where}: bytes up to {end} are here already")
        return newest

    def _begin(self, segment_id: int, data: bytes) -> tuple[ReceivingSegment, Checked]:
        """Check and write the first chunk of a segment."""
        before = self._before(segment_id, data)
        walk = self._checker.begin(segment_id, data, before, self._creation)
        checked = self._checker.walk(walk, data, fmt.SEGMENT_HEADER_LENGTH, self._met)
        segment = self._create(checked.walk, data)
        if not self._met:  # of what came before the segment in which the tables end nothing is needed, nor of a first attempt
            for earlier in self._receiving:
                earlier.drop(self._fs)
            self._receiving = []
        self._receiving = [*self._receiving, segment]
        return segment, checked

    def _before(self, segment_id: int, data: bytes) -> Before | None:
        """Return what a new segment has to follow; None: it is the first. Raises ChunkRefused where none can begin now."""
        if not self._receiving:
            return None if self._last is None else Before(self._last.header, self._last.end)
        newest = self._receiving[-1]
        header = newest.walk.header
        if not self._met:
            with contextlib.suppress(ValueError):  # what does not parse is refused a moment later
                follows = fmt.decode_segment_header(data[: fmt.SEGMENT_HEADER_LENGTH]).previous_segment_id
                if newest.is_sealed and follows == header.segment_id:
                    return Before(header, newest.walk.position)
            return None  # the log still ends with the tables: whoever sends begins again
        if header.segment_id == segment_id:
            raise ChunkRefused(f"segment {segment_id:016x}, at offset 0: bytes up to {newest.walk.offset} are here already")
        if not newest.is_sealed:
            what = f"segment {header.segment_id:016x} is being received, and has no seal yet"
            raise ChunkRefused(f"segment {segment_id:016x}, at offset 0: {what}")
        return Before(header, newest.walk.position)

    def _write(self, segment: ReceivingSegment, data: bytes, offset: int) -> None:
        try:
            segment.write(data, offset)
        except SyncFailed as error:
            self._failure = error
            raise

    def _create(self, walk: FrameSequence, data: bytes) -> ReceivingSegment:
        while True:
            with contextlib.suppress(FileExistsError):  # one of an earlier process that could not be removed
                return ReceivingSegment.create(self._fs, self._paths.prepared(next(self._numbers)), walk, data)

    def _newest_id(self) -> int:
        """Return the id of the newest segment; 0: there is none."""
        if self._receiving:
            return self._receiving[-1].segment_id
        return self._last.header.segment_id if self._last is not None else 0

    # -- making durable -------------------------------------------------------------------------------------------------

    def _give_name(self, segment: ReceivingSegment) -> None:
        with self._folder_syncing:
            segment.give_name(self._fs, self._paths.segment(segment.name()))

    def _count(self, segment: ReceivingSegment) -> None:
        """Let a segment that is durable as far as it was taken be the newest one."""
        info = segment.info()
        if info.header.epoch != self._end.position.epoch:
            self.epochs = [*self.epochs, (info.header.epoch, info.header.branch)]
        with self._segments_changing:
            if self._last is not None and self._last.name != info.name:
                self._sealed = [*self._sealed, self._last]
            self._last, self._last_is_sealed = info, segment.is_sealed
            self._end = LogEnd(info.end, info.header.segment_id, info.length_bytes)
        self.bytes_written += segment.taken_bytes
        segment.taken_bytes = 0
        if segment.is_sealed:
            segment.file.close()
            self._listener(SegmentSealed(info.path.name, info.end.revision, info.length_bytes))

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
