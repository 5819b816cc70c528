"""Reads one segment: its header, then frame after frame as far as they check. Changes nothing on disk."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Iterator
from pathlib import Path

from kvserver.base.errors import Corruption
from kvserver.base.fs import FileSystem, opened
from kvserver.wal import format as fmt
from kvserver.wal.sequence import FrameSequence


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


class SegmentReader(FrameSequence):
    """Walks a segment held in memory. After ``frames`` is exhausted, the attributes tell how it ended."""

    def __init__(self, path: Path, data: bytes) -> None:
        """Check the header. Raises Corruption."""
        self.path = path
        self.data = data
        try:
            super().__init__(path, fmt.decode_segment_header(data))
        except ValueError as error:
            raise Corruption(path, 0, str(error)) from error
        self._seed = fmt.crc_seed(self.header.segment_id)
        self.end = End.OPEN

    def frames(self) -> Iterator[Frame]:
        """Yield the frames that check, in order. Raises Corruption for one that checks but contradicts those before it."""
        while True:
            header = fmt.check_frame(self.data, self.offset, self.header.segment_id, self._seed)
            if header is None:
                self.end = End.OPEN if self._only_space_from(self.offset) else End.BAD
                return
            begin = self.offset
            self.accept(header, fmt.next_chain(self.chain, header, self.data, begin))
            body = begin + fmt.FRAME_HEADER_LENGTH
            payload = self.data[body : body + header.payload_length]
            if header.kind == fmt.SEAL:
                self.check_seal(begin, payload)
                self.end = End.SEALED if self._only_space_from(self.offset) else End.TRAILING
                return
            yield Frame(begin, header, payload)

    def find_later_frame(self, offset: int) -> fmt.FrameHeader | None:
        """Return the frame behind a bad place that proves most, or None where no frame of this segment follows."""
        return max(self._later_frames(offset), key=lambda header: header.durable_length, default=None)

    def find_last_revision(self, offset: int) -> int:
        """Return the newest revision of the frames that check behind a bad place; 0 where no frame of this segment follows."""
        return max((header.last_revision for header in self._later_frames(offset)), default=0)

    def _later_frames(self, offset: int) -> Iterator[fmt.FrameHeader]:
        at = offset + fmt.ALIGNMENT
        while (at := self.data.find(fmt.FRAME_MAGIC, at)) >= 0:
            if at % fmt.ALIGNMENT == 0:
                header = fmt.check_frame(self.data, at, self.header.segment_id, self._seed)
                if header is not None:
                    yield header
            at += 1

    def bad_revisions(self) -> tuple[int, int]:
        """Return the revisions that the frame at the bad place says it holds; (0, 0) where it cannot be told."""
        header = fmt.parse_frame_header(self.data, self.offset)
        if header is None or header.first_revision != self.revision + 1 or not header.commits:
            return 0, 0
        return header.first_revision, header.last_revision

    def _only_space_from(self, offset: int) -> bool:
        """Say whether nothing but zeros follows; made for many megabytes."""
        step = 1 << 20
        return not any(self.data[at : at + step].strip(b"\0") for at in range(offset, len(self.data), step))


def read_head(fs: FileSystem, path: Path) -> tuple[SegmentReader, int]:
    """Return a reader of a segment's header block alone, and the length of the file in bytes. Raises Corruption, OSError."""
    with opened(fs.open(path)) as file:
        return SegmentReader(path, file.pread(fmt.SEGMENT_HEADER_LENGTH, 0)), file.size()
