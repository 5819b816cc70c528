"""One segment of a follower's log while it is received: its file, which has a name of its own only when it is durable."""

from __future__ import annotations

import contextlib
from pathlib import Path

from kvserver.base import failpoints
from kvserver.base.fs import File, FileSystem
from kvserver.base.paths import SegmentName
from kvserver.wal import format as fmt
from kvserver.wal.segment import SegmentInfo
from kvserver.wal.sequence import FrameSequence
from kvserver.wal.space import SyncFailed


class ReceivingSegment:
    """Writes what was checked elsewhere. Not safe for several threads."""

    __slots__ = ("file", "is_named", "is_sealed", "may_be_longer", "path", "taken_bytes", "walk")

    def __init__(self, file: File, path: Path, walk: FrameSequence, is_named: bool) -> None:
        self.file = file
        self.path = path
        """Where the file lies now."""
        self.walk = walk
        """Behind the last frame that was taken."""
        self.is_named = is_named
        self.is_sealed = False
        """Its seal was taken."""
        self.taken_bytes = 0
        """How much was taken since the last sync."""
        self.may_be_longer = False
        """A write failed: anything may lie behind what was taken."""

    @property
    def segment_id(self) -> int:
        """Return the segment's id."""
        return self.walk.header.segment_id

    @classmethod
    def resume(cls, fs: FileSystem, info: SegmentInfo, offset: int, groups: int, time_ms: int) -> ReceivingSegment:
        """Return a segment that has a name, to go on at an offset behind which nothing lies. Raises OSError."""
        walk = FrameSequence(info.path, info.header)
        walk.offset, walk.revision, walk.chain = offset, info.end.revision, info.end.chain
        walk.groups, walk.time_ms = groups, time_ms
        return cls(fs.open(info.path, writable=True), info.path, walk, is_named=True)

    @classmethod
    def create(cls, fs: FileSystem, path: Path, walk: FrameSequence, data: bytes) -> ReceivingSegment:
        """Write the first chunk of a segment into a file under a prepared name. An OSError leaves nothing."""
        segment = cls(fs.create(path), path, walk, is_named=False)
        try:
            segment.file.pwrite(data, 0)
        except BaseException:
            segment.drop(fs)
            raise
        failpoints.hit("wal.create.after_header")
        return segment

    def name(self) -> SegmentName:
        """Return the name that it has or will have."""
        return name_of(self.walk.header)

    def info(self) -> SegmentInfo:
        """Return what is known of it, as far as it was taken."""
        return SegmentInfo(self.name(), self.path, self.walk.header, self.walk.position, self.walk.offset)

    def write(self, data: bytes, offset: int) -> None:
        """Write the next bytes. An OSError leaves the segment as it was, but for SyncFailed, which is final."""
        if self.may_be_longer:
            self.file.truncate(offset)
            try:
                self.file.datasync()  # else a power loss may bring it back behind what is written now
            except OSError as error:
                raise SyncFailed(error.errno, error.strerror, self.path.name) from error
        failpoints.hit("wal.before_write")
        self.may_be_longer = True
        self.file.pwrite(data, offset)
        self.may_be_longer = False
        failpoints.hit("wal.after_write")

    def secure(self) -> None:
        """Make durable what was taken, and where it is sealed the length. Raises OSError, which is final."""
        if self.is_sealed:
            self.file.truncate(self.walk.offset)
            failpoints.hit("wal.seal.after_truncate")
            self.file.sync()
            failpoints.hit("wal.seal.after_sync")
        else:
            self.file.datasync()
            failpoints.hit("wal.after_sync")

    def give_name(self, fs: FileSystem, path: Path) -> None:
        """Give a segment that is durable its name. Until it has that for good, what it holds is as good as lost."""
        failpoints.hit("wal.create.after_header_sync")
        fs.rename(self.path, path)
        failpoints.hit("wal.create.after_rename")
        fs.sync_dir(path.parent)
        failpoints.hit("wal.create.after_dir_sync")
        self.path, self.is_named = path, True

    def drop(self, fs: FileSystem) -> None:
        """Remove a file that has no name; what cannot be removed now is removed at the next open."""
        self.file.close()
        with contextlib.suppress(OSError):
            fs.remove(self.path)


def name_of(header: fmt.SegmentHeader) -> SegmentName:
    """Return the name of the segment that begins so."""
    return SegmentName(header.epoch.number, header.first_revision)
