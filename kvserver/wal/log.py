"""The log of a primary: the open segment, when to end it, and what comes next. No threads of its own but the space keeper's."""

from __future__ import annotations

import threading
from collections.abc import Callable

from kvserver.base.clock import Clock
from kvserver.base.events import Listener, SegmentSealed, ignore
from kvserver.base.fs import FileSystem
from kvserver.base.options import WalOptions
from kvserver.base.paths import DataPaths, SegmentName
from kvserver.base.types import Epoch, LogEnd, Position
from kvserver.wal import format as fmt
from kvserver.wal.node_log import LogExtent
from kvserver.wal.segment import SegmentInfo, SegmentWriter, create_segment
from kvserver.wal.space import SEGMENT_RESERVE, LogSpace, Prepared


class LogWriter:
    """Writes groups, marks and seals, one after the other, each durable on return.

    Written by one thread at a time. After an OSError it must not be written again: what reached the disk is
    unknown, and a sync that failed once may succeed without having written anything.

    ``sealed``, ``end``, ``extent``, ``first_revision``, ``total_bytes``, ``forget`` and ``sync_folder`` may be called on other
    threads meanwhile. The list of sealed segments is never changed, only replaced, together with the open segment and under a
    lock: whoever took it goes on with what he took, and of two threads that replace it (this one at a rotation, the deleter)
    neither undoes what the other did.
    """

    def __init__(
        self,
        fs: FileSystem,
        paths: DataPaths,
        clock: Clock,
        options: WalOptions,
        space: LogSpace,
        new_segment_id: Callable[[], int],
        listener: Listener = ignore,
    ) -> None:
        self._fs = fs
        self._paths = paths
        self._clock = clock
        self._options = options
        self._space = space
        self._new_segment_id = new_segment_id
        self._listener = listener
        self._segment: SegmentWriter | None = None
        self._end: LogEnd | None = None
        """Of the open segment: what both threads that sync it know to be durable."""
        self._sealed: list[SegmentInfo] = []
        self._segments_changing = threading.Lock()
        """Held for moments, never across a call of the disk: the event loop asks for figures."""
        self._folder_syncing = threading.Lock()
        self._time_ms = 0
        self._opened_at_s = 0.0
        """When the open segment was begun, by the clock that does not jump."""
        self.syncs = 0
        self.bytes_written = 0

    def begin_epoch(self, cluster_id: bytes, epoch: Epoch, branch: Position, sealed: list[SegmentInfo], time_ms: int) -> None:
        """Create the epoch's first segment behind what was recovered. Raises OSError."""
        self._time_ms = time_ms
        header = fmt.SegmentHeader(
            cluster_id=cluster_id,
            segment_id=self._new_segment_id(),
            epoch=epoch,
            branch=branch,
            first_revision=branch.revision + 1,
            created_ms=self._now(),
            previous_segment_id=sealed[-1].header.segment_id if sealed else 0,
            previous=branch,
        )
        self._begin(self._space.take_next(), header, sealed)

    @property
    def segment(self) -> SegmentWriter:
        """Return the open segment."""
        assert self._segment is not None, "begin_epoch comes first"
        return self._segment

    @property
    def position(self) -> Position:
        """Return the durable end of the log."""
        return self.segment.position

    @property
    def end(self) -> LogEnd:
        """Return where the log durably ends, a moment later than ``position`` says so."""
        assert self._end is not None, "begin_epoch comes first"
        return self._end

    @property
    def sealed(self) -> list[SegmentInfo]:
        """Return the segments before the open one, oldest first; each of them has a successor whose name is durable."""
        return self._sealed

    def extent(self) -> LogExtent:
        """Return the segments, the open one as far as it is durable, as they are at one moment."""
        with self._segments_changing:
            sealed, segment, end = self._sealed, self.segment, self.end
        header = segment.header
        name = SegmentName(header.epoch.number, header.first_revision)
        return LogExtent(sealed, SegmentInfo(name, segment.path, header, end.position, end.offset), False)

    def sealed_revision(self) -> int:
        """Return the revision before the open segment."""
        return self.segment.header.first_revision - 1

    def total_bytes(self) -> int:
        """Return the bytes of all segments, the open one as far as it is written."""
        with self._segments_changing:
            return sum(info.length_bytes for info in self._sealed) + self.segment.offset

    def first_revision(self) -> int:
        """Return the first revision of the oldest segment; it may hold none yet."""
        with self._segments_changing:
            return (self._sealed[0] if self._sealed else self.segment).header.first_revision

    def forget(self, oldest: SegmentInfo) -> None:
        """Take the oldest sealed segment, whose file was removed, off the list. Raises ValueError for any other segment."""
        with self._segments_changing:
            if not self._sealed or self._sealed[0] != oldest:
                raise ValueError(f"{oldest.path.name} is not the oldest sealed segment")
            self._sealed = self._sealed[1:]

    def sync_folder(self) -> None:
        """Sync the log's folder for the deleter. Raises OSError, which says nothing about the log.

        A failed sync is reported once, to whoever asked. So this one waits while a segment is given its name: of that, the
        log itself must hear.
        """
        with self._folder_syncing:
            self._fs.sync_dir(self._paths.wal)

    def write_group(self, count: int, payload: bytes) -> None:
        """Make the next ``count`` commits durable. Raises OSError."""
        self._append(fmt.GROUP, count, payload)

    def write_mark(self) -> None:
        """Carry the durable revision forward in an empty frame, unless the log ends with one or holds nothing yet."""
        if self.segment.groups and not self.segment.ends_with_mark:
            self._append(fmt.MARK, 0, b"")

    def may_seal(self) -> bool:
        """Say whether the open segment holds commits, has reached the age at which it is sealed, and another is ready."""
        age = self._options.seal_age_ms
        return bool(age) and (self._clock.monotonic() - self._opened_at_s) * 1000 >= age and self.can_seal()

    def can_seal(self) -> bool:
        """Say whether the open segment holds commits and another is ready."""
        return self.segment.groups > 0 and self._space.has_next()

    def rotate(self) -> None:
        """Seal the open segment and open the next one. Raises OSError."""
        old = self.segment
        prepared = self._space.take_next()
        old.seal(self._now())
        self._listener(SegmentSealed(old.path.name, old.revision, old.offset))
        header = old.header._replace(
            segment_id=self._new_segment_id(),
            first_revision=old.revision + 1,
            created_ms=self._now(),
            previous_segment_id=old.header.segment_id,
            previous=old.position,
        )
        self._begin(prepared, header, [old.info()])

    def close(self) -> None:
        """Write a last mark, seal the open segment and close it. Raises OSError."""
        self.write_mark()
        self.segment.seal(self._now())
        self._listener(SegmentSealed(self.segment.path.name, self.segment.revision, self.segment.offset))

    def abandon(self) -> None:
        """Close the files as they are, after a failure."""
        if self._segment is not None:
            self._segment.close()

    def _begin(self, prepared: Prepared, header: fmt.SegmentHeader, sealed: list[SegmentInfo]) -> None:
        """Begin a segment behind others, which count as sealed only now.

        The last of them could be all that proves where the log stood: deleted before its successor is there for good, it
        would leave a folder whose log is lost.
        """
        with self._folder_syncing:
            segment = create_segment(self._fs, self._paths, prepared, header, self._space.confirm_synced)
        with self._segments_changing:
            self._sealed = [*self._sealed, *sealed]
            self._segment = segment
            self._end = LogEnd(segment.position, header.segment_id, segment.offset)
        self._opened_at_s = self._clock.monotonic()

    def _append(self, kind: bytes, count: int, payload: bytes) -> None:
        length = fmt.FRAME_HEADER_LENGTH + fmt.padded(len(payload))
        reserve = fmt.SEAL_FRAME_LENGTH if kind == fmt.MARK else SEGMENT_RESERVE
        end = self.segment.offset + length + reserve
        if end > self._options.segment_bytes or not self._space.await_ready(end):
            self.rotate()
        self.segment.append(kind, count, payload, self._now())
        self._space.confirm_synced()
        self._end = LogEnd(self.segment.position, self.segment.header.segment_id, self.segment.offset)
        self.syncs += 1
        self.bytes_written += length
        self._space.advance(self.segment.offset)

    def _now(self) -> int:
        """Return the time for a frame; it never goes back within the log, whatever the clock does."""
        self._time_ms = max(self._time_ms, self._clock.now_ms())
        return self._time_ms
