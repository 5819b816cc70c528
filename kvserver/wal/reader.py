"""Reads one segment: its header, then frame after frame as far as they check. Changes nothing on disk."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator
from pathlib import Path

from kvserver.base.errors import Corruption
from kvserver.base.fs import FileSystem, opened
from kvserver.base.types import Position
from kvserver.wal import format as fmt


class End(enum.Enum):
    """How a segment ends."""

    SEALED = "sealed"
    """A seal frame, and nothing behind it but space."""
    OPEN = "open"
    """The last frame is followed by nothing but space."""
    BAD = "bad"
    """What follows the last good frame is not a frame and not space."""
    TRAILING = "trailing"
    """Something that is not space follows the seal frame."""


@dataclasses.dataclass(slots=True)
class Frame:
    """A frame that checked."""

    offset: int
    header: fmt.FrameHeader
    payload: bytes


class SegmentReader:
    """Walks a segment held in memory. After ``frames`` is exhausted, the attributes tell how it ended."""

    def __init__(self, path: Path, data: bytes) -> None:
        """Check the header. Raises Corruption."""
        self.path = path
        self.data = data
        try:
            self.header = fmt.decode_segment_header(data)
        except ValueError as error:
            raise Corruption(path, 0, str(error)) from error
        self._seed = fmt.crc_seed(self.header.segment_id)
        self.offset = fmt.SEGMENT_HEADER_LENGTH
        """Where the next frame would begin."""
        self.revision = self.header.first_revision - 1
        self.chain = self.header.start_chain()
        self.groups = 0
        self.time_ms = self.header.created_ms
        self.proven_length = 0
        """Bytes of the segment that its own later frames prove to have been durable."""
        self.end = End.OPEN

    @property
    def start(self) -> Position:
        """Return the position before the first frame; behind ``header.previous`` where the segment begins an epoch."""
        return Position(self.header.epoch, self.header.first_revision - 1, self.header.start_chain())

    @property
    def position(self) -> Position:
        """Return the position behind the last good frame."""
        return Position(self.header.epoch, self.revision, self.chain)

    def frames(self) -> Iterator[Frame]:
        """Yield the frames that check, in order. Raises Corruption for one that checks but contradicts those before it."""
        while True:
            header = fmt.check_frame(self.data, self.offset, self.header.segment_id, self._seed)
            if header is None:
                self.end = End.OPEN if self._only_space_from(self.offset) else End.BAD
                return
            self._accept(header)
            begin = self.offset
            self.offset += header.frame_length
            if header.kind == fmt.SEAL:
                self._check_seal(begin, header)
                self.end = End.SEALED if self._only_space_from(self.offset) else End.TRAILING
                return
            body = begin + fmt.FRAME_HEADER_LENGTH
            yield Frame(begin, header, self.data[body : body + header.payload_length])

    def find_later_frame(self, offset: int) -> fmt.FrameHeader | None:
        """Return the frame behind a bad place that proves most, or None where no frame of this segment follows."""
        best: fmt.FrameHeader | None = None
        at = offset + fmt.ALIGNMENT
        while (at := self.data.find(fmt.FRAME_MAGIC, at)) >= 0:
            if at % fmt.ALIGNMENT == 0:
                header = fmt.check_frame(self.data, at, self.header.segment_id, self._seed)
                if header is not None and (best is None or header.durable_length > best.durable_length):
                    best = header
            at += 1
        return best

    def bad_revisions(self) -> tuple[int, int]:
        """Return the revisions that the frame at the bad place says it holds; (0, 0) where it cannot be told."""
        header = fmt.parse_frame_header(self.data, self.offset)
        if header is None or header.first_revision != self.revision + 1 or not header.commits:
            return 0, 0
        return header.first_revision, header.last_revision

    def _accept(self, header: fmt.FrameHeader) -> None:
        """Check a frame against what came before it and step over it. Raises Corruption."""
        if header.first_revision != self.revision + 1:
            raise Corruption(self.path, self.offset, f"revision {self.revision + 1} is missing; {header.first_revision} follows")
        if header.durable_length > self.offset or header.durable_upto > self.revision:
            raise Corruption(self.path, self.offset, "the frame claims more to be durable than there is before it")
        chain = fmt.next_chain(self.chain, header, self.data, self.offset)
        if chain != header.chain:
            raise Corruption(self.path, self.offset, "the chain of history is broken here")
        self.chain = chain
        self.revision += header.commits
        self.groups += header.kind == fmt.GROUP
        self.time_ms = max(self.time_ms, header.time_ms)
        self.proven_length = max(self.proven_length, header.durable_length)

    def _check_seal(self, begin: int, header: fmt.FrameHeader) -> None:
        """Check that a seal speaks of what was read before it. Raises Corruption."""
        body = begin + fmt.FRAME_HEADER_LENGTH
        payload = self.data[body : body + header.payload_length]
        fits = len(payload) == fmt.SEAL_PAYLOAD.size
        if not fits or fmt.SEAL_PAYLOAD.unpack(payload)[:2] != (self.revision, self.groups):
            raise Corruption(self.path, begin, "the seal does not fit what it seals")

    def _only_space_from(self, offset: int) -> bool:
        """Say whether nothing but zeros follows; made for many megabytes."""
        step = 1 << 20
        return not any(self.data[at : at + step].strip(b"\0") for at in range(offset, len(self.data), step))


def read_head(fs: FileSystem, path: Path) -> tuple[SegmentReader, int]:
    """Return a reader of a segment's header block alone, and the length of the file in bytes. Raises Corruption, OSError."""
    with opened(fs.open(path)) as file:
        return SegmentReader(path, file.pread(fmt.SEGMENT_HEADER_LENGTH, 0)), file.size()
