"""Checks a whole sealed segment that is pushed through it in pieces of any size: on its way into the archive and out of it.

The rules are those of recovery (``sequence``), and stricter where a sealed segment allows no doubt: it must be whole, end with
its seal, and have nothing behind it. Commits are not parsed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kvserver.base.coding import crc32c
from kvserver.base.errors import Corruption
from kvserver.base.limits import KIB, MAX_LOG_FRAME_BYTES
from kvserver.base.types import Position
from kvserver.wal import format as fmt
from kvserver.wal.sequence import FrameSequence

MAX_FRAME_LENGTH = MAX_LOG_FRAME_BYTES + fmt.FRAME_OVERHEAD
"""A longer frame is refused before its bytes are waited for."""

_SMALL_PIECE_BYTES = 64 * KIB

OnFrame = Callable[[int, fmt.FrameHeader], None]
"""Told of each frame that was accepted: its offset in the segment, its header."""


class SegmentFacts(NamedTuple):
    """What is known of a sealed segment that was checked whole."""

    header: fmt.SegmentHeader
    start: Position
    """Before its first frame; of its own epoch."""
    end: Position
    groups: int
    raw_length: int
    raw_crc: int
    """The CRC-32C of all its bytes."""
    first_time_ms: int
    """The time of its first group; of its header where it has none."""
    last_time_ms: int
    """The highest time in it."""


class SegmentChecker:
    """Checks one segment. Holds at most one frame of it, and a piece. Not safe for several threads.

    With ``prove_chain`` the chain of history is computed from the bytes; that is a SHA-256 over all of them. Without it the chain
    is taken from the frames, whose checksums cover it: enough where the end that comes out is compared with a known position.
    """

    def __init__(self, name: object, prove_chain: bool = True, on_frame: OnFrame | None = None) -> None:
        self._name = name
        self._prove_chain = prove_chain
        self._on_frame = on_frame
        self._walk: FrameSequence | None = None
        self._seed = 0
        self._sealed = False
        self._first_time_ms: int | None = None
        self._length = 0
        self._crc = 0
        self._pieces: list[bytes | bytearray] = []
        """What was pushed and not yet checked: less than ``_needed`` bytes."""
        self._waiting = 0
        self._needed = fmt.SEGMENT_HEADER_LENGTH

    def feed(self, piece: bytes) -> None:
        """Check the next bytes of the segment. Raises Corruption, and is then of no use any more."""
        self._length += len(piece)
        self._crc = crc32c(self._crc, piece)
        at = 0
        while self._waiting:  # complete what began in the pieces before; nothing else of this one is copied
            missing = piece[at : at + self._needed - self._waiting]
            at += len(missing)
            if self._waiting + len(missing) < self._needed:
                self._keep(missing)
                return
            data = b"".join((*self._pieces, missing))
            self._pieces, self._waiting = [], 0
            self._keep(data[self._check(data, 0) :])
        self._keep(piece[self._check(piece, at) :])

    def finish(self) -> SegmentFacts:
        """Return what is known of the segment, now that all of it was pushed. Raises Corruption."""
        walk = self._walk
        if walk is None:
            what = f"the segment header is cut off after {self._length} of {fmt.SEGMENT_HEADER_LENGTH} bytes"
            raise Corruption(self._name, 0, what)
        if self._waiting:
            raise walk.corruption("the segment is cut off in the middle of a frame")
        if not self._sealed:
            raise walk.corruption("the segment ends without its seal")
        first_time_ms = walk.header.created_ms if self._first_time_ms is None else self._first_time_ms
        return SegmentFacts(
            walk.header, walk.start, walk.position, walk.groups, self._length, self._crc, first_time_ms, walk.time_ms
        )

    def _keep(self, piece: bytes) -> None:
        """Keep bytes until there are enough; many small ones are kept as one."""
        self._waiting += len(piece)
        if not piece:
            return
        if len(piece) >= _SMALL_PIECE_BYTES:
            self._pieces.append(piece)
        elif self._pieces and isinstance(self._pieces[-1], bytearray):
            self._pieces[-1] += piece
        else:
            self._pieces.append(bytearray(piece))

    def _check(self, data: bytes, at: int) -> int:
        """Check what is whole in the data from an offset on, set how many bytes the next frame needs; return where it begins."""
        end = len(data)
        walk = self._walk
        if walk is None:
            if end - at < self._needed:
                return at
            walk = self._begin(data[at : at + self._needed])
            at += self._needed
        segment_id, seed = walk.header.segment_id, self._seed
        while True:
            self._needed = fmt.FRAME_HEADER_LENGTH
            if self._sealed and at < end:
                raise walk.corruption("something follows the seal")
            if end - at < self._needed:
                return at
            frame = fmt.parse_frame_header(data, at)
            if frame is None or frame.segment_id != segment_id or frame.flags:
                raise walk.corruption("there is no frame where one must be")
            self._needed = frame.frame_length
            if self._needed > MAX_FRAME_LENGTH:
                raise walk.corruption(f"the frame claims {self._needed} bytes; none has more than {MAX_FRAME_LENGTH}")
            if end - at < self._needed:
                return at
            if not fmt.frame_checks(data, at, frame, seed):
                raise walk.corruption("the checksum of the frame does not match")
            self._accept(walk, frame, data, at)
            at += self._needed

    def _begin(self, block: bytes) -> FrameSequence:
        try:
            header = fmt.decode_segment_header(block)
        except ValueError as error:
            raise Corruption(self._name, 0, str(error)) from error
        if header.previous.revision + 1 != header.first_revision:
            raise Corruption(self._name, 0, "the segment's first revision is not the one behind the position that it follows")
        self._seed = fmt.crc_seed(header.segment_id)
        self._walk = FrameSequence(self._name, header)
        return self._walk

    def _accept(self, walk: FrameSequence, frame: fmt.FrameHeader, data: bytes, at: int) -> None:
        begin = walk.offset
        if frame.kind != fmt.GROUP:
            chain = walk.chain
        elif self._prove_chain:
            chain = fmt.next_chain(walk.chain, frame, data, at)
        else:
            chain = frame.chain
        walk.accept(frame, chain)
        if frame.kind == fmt.GROUP:
            if self._first_time_ms is None:
                self._first_time_ms = frame.time_ms
        elif frame.kind == fmt.SEAL:
            body = at + fmt.FRAME_HEADER_LENGTH
            walk.check_seal(begin, data[body : body + frame.payload_length])
            self._sealed = True
        if self._on_frame is not None:
            self._on_frame(begin, frame)
