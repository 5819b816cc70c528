"""Segments of the log built frame by frame, and put into an archive, with anything in them set wrong on request."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Self

from kvserver.archive.names import ArchiveNames
from kvserver.archive.records import SegmentEntry
from kvserver.archive.segment_writing import CompressOptions, SegmentCompressor
from kvserver.archive.store import Store
from kvserver.base.fs import File
from kvserver.base.types import Position
from kvserver.wal import format as fmt
from support.logs import CLUSTER_ID, CREATION, EPOCH, payload_of
from support.memfs import MemoryFileSystem

NAMES = ArchiveNames(CLUSTER_ID)

HEADER = fmt.SegmentHeader(
    cluster_id=CLUSTER_ID,
    segment_id=7,
    epoch=EPOCH,
    branch=CREATION,
    first_revision=2,
    created_ms=1000,
    previous_segment_id=0,
    previous=CREATION,
)


class RawSegment:
    """A segment as it lies in ``wal/``; every call adds a frame and returns the segment."""

    def __init__(self, header: fmt.SegmentHeader = HEADER) -> None:
        self.header = header
        self.data = fmt.encode_segment_header(header)
        self.revision = header.first_revision - 1
        self.chain = header.start_chain()
        self.groups = 0
        self.offsets: list[int] = []

    @property
    def end(self) -> Position:
        """Return the position behind the last frame."""
        return Position(self.header.epoch, self.revision, self.chain)

    def add(
        self,
        kind: bytes = fmt.GROUP,
        commits: int = 1,
        payload: bytes = b"",
        first_revision: int | None = None,
        durable: tuple[int, int] | None = None,
        chain: bytes | None = None,
        time_ms: int = 2000,
    ) -> Self:
        """Add a frame; what is not given is what the writer would write. ``chain`` is the one before it."""
        frame, self.chain = fmt.build_frame(
            kind,
            self.header.segment_id,
            fmt.crc_seed(self.header.segment_id),
            self.revision + 1 if first_revision is None else first_revision,
            commits,
            durable or (len(self.data), self.revision),
            time_ms,
            self.chain if chain is None else chain,
            payload or (payload_of(*map(str, range(commits))) if kind == fmt.GROUP else b""),
        )
        self.offsets.append(len(self.data))
        self.data += frame
        self.revision += commits
        self.groups += kind == fmt.GROUP
        return self

    def put(self, *keys: str, value: bytes = b"value", time_ms: int = 2000) -> Self:
        """Add a group of one put for each key."""
        return self.add(commits=len(keys), payload=payload_of(*keys, value=value), time_ms=time_ms)

    def mark(self, time_ms: int = 2000) -> Self:
        """Add a mark."""
        return self.add(fmt.MARK, commits=0, time_ms=time_ms)

    def seal(self, time_ms: int = 3000) -> Self:
        """Add the seal."""
        payload = fmt.SEAL_PAYLOAD.pack(self.revision, self.groups, time_ms)
        return self.add(fmt.SEAL, commits=0, payload=payload, time_ms=time_ms)

    def file(self) -> File:
        """Return the segment as an open file."""
        path = Path("/wal/segment")
        fs = MemoryFileSystem()
        fs.make_dir(path.parent)
        fs.plant(path, self.data)
        return fs.open(path)

    def compressor(self, **options: Any) -> SegmentCompressor:
        """Return what compresses it."""
        return SegmentCompressor(
            self.file(), self.header, self.end, len(self.data), "segment", dataclasses.replace(CompressOptions(), **options)
        )

    def archive(self, store: Store, names: ArchiveNames = NAMES, **options: Any) -> SegmentEntry:
        """Put it into an archive and return its entry."""
        compressor = self.compressor(**options)
        parts = list(compressor.parts())
        store.create(names.segment(compressor.entry.id), parts)
        return compressor.entry


def in_pieces(data: bytes, length: int) -> list[bytes]:
    """Return the data cut into pieces."""
    return [data[at : at + length] for at in range(0, len(data), length)]
