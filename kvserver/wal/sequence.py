"""What the frames of a segment must say of each other: the one owner of the rules by which a frame that checks is accepted.

Whoever walks a segment keeps one ``FrameSequence``: recovery and inspection (``reader``), a flush (``log_range``), and whoever
has a whole sealed segment pushed through it (``checker``). Whether the bytes of a frame check is another matter, and
``format.check_frame``'s.
"""

from __future__ import annotations

from kvserver.base.errors import Corruption
from kvserver.base.types import Position
from kvserver.wal import format as fmt


class FrameSequence:
    """Where a walk over the frames of a segment stands. Not safe for several threads."""

    def __init__(self, name: object, header: fmt.SegmentHeader) -> None:
        self._name = name
        self.header = header
        self.offset = fmt.SEGMENT_HEADER_LENGTH
        """Where the next frame would begin."""
        self.revision = header.first_revision - 1
        self.chain = header.start_chain()
        self.groups = 0
        self.time_ms = header.created_ms
        """The highest time so far."""
        self.proven_length = 0
        """Bytes of the segment that its own later frames prove to have been durable."""

    @property
    def start(self) -> Position:
        """Return the position before the first frame; behind ``header.previous`` where the segment begins an epoch."""
        return Position(self.header.epoch, self.header.first_revision - 1, self.header.start_chain())

    @property
    def position(self) -> Position:
        """Return the position behind the last frame that was accepted."""
        return Position(self.header.epoch, self.revision, self.chain)

    def accept(self, frame: fmt.FrameHeader, chain: bytes) -> None:
        """Hold a frame to those before it and step over it. Raises Corruption.

        ``chain`` is the value behind the frame as whoever walks has computed it; the frame's own, to take that on trust.
        """
        if frame.first_revision != self.revision + 1:
            raise self.corruption(f"revision {self.revision + 1} is missing; {frame.first_revision} follows")
        if frame.durable_length > self.offset or frame.durable_upto > self.revision:
            raise self.corruption("the frame claims more to be durable than there is before it")
        if chain != frame.chain:
            raise self.corruption("the chain of history is broken here")
        if frame.kind == fmt.GROUP:
            self.groups += 1
        elif frame.commits:
            raise self.corruption("the frame claims commits, and frames of its kind have none")
        self.chain = chain
        self.revision += frame.commits
        self.offset += frame.frame_length
        if frame.time_ms > self.time_ms:
            self.time_ms = frame.time_ms
        if frame.durable_length > self.proven_length:
            self.proven_length = frame.durable_length

    def check_seal(self, offset: int, payload: bytes) -> None:
        """Check that the seal at an offset speaks of what was accepted before it. Raises Corruption."""
        if len(payload) != fmt.SEAL_PAYLOAD.size or fmt.SEAL_PAYLOAD.unpack(payload)[:2] != (self.revision, self.groups):
            raise self.corruption("the seal does not fit what it seals", offset)

    def corruption(self, what: str, offset: int | None = None) -> Corruption:
        """Return the error that something is wrong at an offset; where the walk stands, if none is given."""
        return Corruption(self._name, self.offset if offset is None else offset, what)
