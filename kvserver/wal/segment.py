"""One open segment: append a frame and sync it, seal it. No threads, no queue, no decisions."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from kvserver.base import failpoints
from kvserver.base.fs import File, FileSystem
from kvserver.base.paths import DataPaths, SegmentName
from kvserver.base.types import Position
from kvserver.wal import format as fmt
from kvserver.wal.reader import SegmentReader
from kvserver.wal.space import Prepared


@dataclasses.dataclass(frozen=True, slots=True)
class SegmentInfo:
    """What is known of a segment from its name, its header and its end."""

    name: SegmentName
    path: Path
    header: fmt.SegmentHeader
    end: Position
    length_bytes: int


class SegmentWriter:
    """Appends frames to one segment.

    Invariant: a frame is written only after everything before it is durable, so every frame tells the truth in
    ``durable_length`` and ``durable_upto``, and recovery may take any later frame as proof of what came before it.
    Not safe for several threads; any OSError leaves the segment unusable, because what reached the disk is then unknown.
    """

    def __init__(self, path: Path, file: File, header: fmt.SegmentHeader) -> None:
        self.path = path
        self.header = header
        self.offset = fmt.SEGMENT_HEADER_LENGTH
        self.revision = header.first_revision - 1
        self.chain = header.start_chain()
        self.groups = 0
        self.ends_with_mark = False
        self._file = file
        self._seed = fmt.crc_seed(header.segment_id)

    @classmethod
    def resume(cls, reader: SegmentReader, file: File) -> SegmentWriter:
        """Return a writer that stands where a reader ended, so that recovery can seal what it read."""
        writer = cls(reader.path, file, reader.header)
        writer.offset = reader.offset
        writer.revision = reader.revision
        writer.chain = reader.chain
        writer.groups = reader.groups
        return writer

    @property
    def position(self) -> Position:
        """Return the position behind the last frame."""
        return Position(self.header.epoch, self.revision, self.chain)

    def info(self) -> SegmentInfo:
        """Return what is known of the segment now."""
        name = SegmentName(self.header.epoch.number, self.header.first_revision)
        return SegmentInfo(name, self.path, self.header, self.position, self.offset)

    def append(self, kind: bytes, count: int, payload: bytes, time_ms: int) -> None:
        """Write one frame and sync it. Raises OSError."""
        frame, chain = self._build(kind, count, payload, time_ms)
        failpoints.hit("wal.before_write")
        self._file.pwrite(frame, self.offset)
        failpoints.hit("wal.after_write")
        self._file.datasync()
        failpoints.hit("wal.after_sync")
        self._advance(kind, count, len(frame), chain)

    def seal(self, time_ms: int) -> None:
        """Write the seal frame, cut the file behind it, sync and close it. Raises OSError."""
        payload = fmt.SEAL_PAYLOAD.pack(self.revision, self.groups, time_ms)
        frame, chain = self._build(fmt.SEAL, 0, payload, time_ms)
        failpoints.hit("wal.seal.before_trailer")
        self._file.pwrite(frame, self.offset)
        failpoints.hit("wal.seal.after_trailer")
        self._file.truncate(self.offset + len(frame))
        failpoints.hit("wal.seal.after_truncate")
        self._file.sync()
        failpoints.hit("wal.seal.after_sync")
        self._advance(fmt.SEAL, 0, len(frame), chain)
        self._file.close()

    def close(self) -> None:
        """Close the file as it is."""
        self._file.close()

    def _build(self, kind: bytes, count: int, payload: bytes, time_ms: int) -> tuple[bytes, bytes]:
        durable = (self.offset, self.revision)
        return fmt.build_frame(
            kind, self.header.segment_id, self._seed, self.revision + 1, count, durable, time_ms, self.chain, payload
        )

    def _advance(self, kind: bytes, count: int, length: int, chain: bytes) -> None:
        self.offset += length
        self.revision += count
        self.chain = chain
        self.groups += kind == fmt.GROUP
        self.ends_with_mark = kind == fmt.MARK


def create_segment(
    fs: FileSystem, paths: DataPaths, prepared: Prepared, header: fmt.SegmentHeader, confirm_synced: Callable[[], None]
) -> SegmentWriter:
    """Make a prepared file into a segment: header, sync, name, sync of the folder. Raises OSError.

    ``confirm_synced`` raises if a sync of the file failed elsewhere meanwhile. Only after all of it may a frame be
    acknowledged from it: a segment whose name is lost is lost with all it holds.
    """
    path = paths.segment(SegmentName(header.epoch.number, header.first_revision))
    prepared.file.pwrite(fmt.encode_segment_header(header), 0)
    failpoints.hit("wal.create.after_header")
    prepared.file.datasync()
    confirm_synced()
    failpoints.hit("wal.create.after_header_sync")
    fs.rename(prepared.path, path)
    failpoints.hit("wal.create.after_rename")
    fs.sync_dir(paths.wal)
    failpoints.hit("wal.create.after_dir_sync")
    prepared.path = path
    return SegmentWriter(path, prepared.file, header)
