"""An archived segment as bytes: constants, build, parse. Pure; ``docs/archive_format.md`` describes the same byte by byte.

    object  = header, block, block, ... , index, trailer
    block   = one zstd frame, decodable alone, of one piece of the raw segment
    index   = for each block: its lengths and checksums, and the first frame of the log that begins in it
    trailer = where the index lies, and what the whole segment is

Reading is hostile-input code: what a header, an index or a trailer says is held against fixed limits, against each other and
against the manifest's entry before anything is allocated by it. Raises ValueError, to which whoever reads adds name and offset.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from kvserver.archive.names import SegmentId
from kvserver.archive.records import SegmentEntry
from kvserver.base.coding import chain_hash, crc32c
from kvserver.base.limits import KIB, MIB
from kvserver.base.types import Epoch, Position
from kvserver.wal import format as fmt
from kvserver.wal.checker import SegmentFacts

FORMAT_VERSION = 1

HEADER_MAGIC = b"KVARCSEG"
_HEADER = struct.Struct("<8sII16sQQQQQQII")
_CRC = struct.Struct("<I")
HEADER_LENGTH = _HEADER.size + _CRC.size

_BLOCK = struct.Struct("<IIIIIIQQ")
BLOCK_INDEX_LENGTH = _BLOCK.size
NO_FRAME = 0xFFFFFFFF
"""Stands for ``frame_offset`` where no frame begins in a block."""

_TRAILER = struct.Struct("<QIIQIIQQQ QQQ16s QQQ16s")
TRAILER_MAGIC = b"KVARCEND"
TRAILER_LENGTH = _TRAILER.size + _CRC.size + len(TRAILER_MAGIC)

MIN_RAW_LENGTH = fmt.SEGMENT_HEADER_LENGTH + fmt.SEAL_FRAME_LENGTH
MAX_RAW_LENGTH = (1 << 32) - 1
"""The log counts bytes of a segment in 32 bits."""

DEFAULT_BLOCK_BYTES = 1 * MIB
MIN_BLOCK_BYTES = 4 * KIB
MAX_BLOCK_BYTES = 8 * MIB
MAX_BLOCKS = 1 << 16
_BLOCK_MARGIN = 1 * KIB


class ArchiveHeader(NamedTuple):
    """The first bytes of an archived segment: what it is, known before a byte of the segment is read."""

    cluster_id: bytes
    segment_id: int
    epoch: Epoch
    first_revision: int
    last_revision: int
    raw_length: int
    """Bytes of the segment as it lay in ``wal/``."""
    block_bytes: int
    """Raw bytes of every block but the last."""
    dictionary_id: int
    """0: compressed without one."""

    @property
    def blocks(self) -> int:
        """Return how many blocks there are."""
        return -(-self.raw_length // self.block_bytes)

    @property
    def index_length(self) -> int:
        """Return the bytes of the index."""
        return self.blocks * BLOCK_INDEX_LENGTH

    @property
    def max_stored_length(self) -> int:
        """Return how many bytes the object has at the most."""
        blocks = self.raw_length + (self.raw_length >> 8) + self.blocks * _BLOCK_MARGIN
        return HEADER_LENGTH + blocks + self.index_length + TRAILER_LENGTH

    def raw_length_of(self, block: int) -> int:
        """Return the raw bytes of a block."""
        return min(self.block_bytes, self.raw_length - block * self.block_bytes)


class BlockIndex(NamedTuple):
    """What the index says of one block."""

    stored_length: int
    raw_length: int
    stored_crc: int
    """CRC-32C of the zstd frame: damage is found before anything is decompressed."""
    raw_crc: int
    """CRC-32C of the raw bytes."""
    frame_offset: int
    """Where in the raw block the first frame begins that begins in it; ``NO_FRAME`` where none does."""
    frames: int
    """How many frames of the log begin in it."""
    first_revision: int
    """What the first of them says; 0 where there is none."""
    first_time_ms: int


class ArchiveTrailer(NamedTuple):
    """The last bytes of an archived segment: where its index lies, and what the whole segment is."""

    index_offset: int
    index_length: int
    index_crc: int
    raw_length: int
    raw_crc: int
    groups: int
    segment_id: int
    first_time_ms: int
    last_time_ms: int
    start: Position
    end: Position


class FrameIndex:
    """Notes, for each block of a segment, the first frame that begins in it: by whoever writes the index, and checks it."""

    def __init__(self, block_bytes: int, blocks: int) -> None:
        self._block_bytes = block_bytes
        self._first = [(NO_FRAME, 0, 0)] * blocks
        self._frames = [0] * blocks

    def note(self, offset: int, frame: fmt.FrameHeader) -> None:
        """Take note of a frame that begins at an offset of the raw segment; in order."""
        block, at = divmod(offset, self._block_bytes)
        if not self._frames[block]:
            self._first[block] = (at, frame.first_revision, frame.time_ms)
        self._frames[block] += 1

    def fields(self, block: int) -> tuple[int, int, int, int]:
        """Return ``frame_offset``, ``frames``, ``first_revision`` and ``first_time_ms`` of a block's index."""
        offset, revision, time_ms = self._first[block]
        return offset, self._frames[block], revision, time_ms


def content_hash(header: fmt.SegmentHeader, end: Position, raw_length: int) -> bytes:
    """Return the 16 bytes that stand for a segment in its name.

    Known before the segment is read, and yet bound to every commit in it, through the chain at its end.
    """
    block = fmt.encode_segment_header(header)
    return chain_hash(b"kvserver archived segment", block, end.chain, struct.pack("<QQ", end.revision, raw_length))


def segment_id_of(header: fmt.SegmentHeader, end: Position, raw_length: int) -> SegmentId:
    """Return what the name of a segment in the archive says."""
    return SegmentId(header.epoch.number, header.first_revision, end.revision, content_hash(header, end, raw_length))


def entry_of(facts: SegmentFacts, stored_length: int, dictionary_id: int) -> SegmentEntry:
    """Return the entry of a manifest for a segment that was checked whole."""
    header = facts.header
    return SegmentEntry(
        id=segment_id_of(header, facts.end, facts.raw_length),
        segment_id=header.segment_id,
        start=facts.start,
        previous=header.previous,
        end=facts.end,
        raw_length=facts.raw_length,
        stored_length=stored_length,
        first_time_ms=facts.first_time_ms,
        last_time_ms=facts.last_time_ms,
        dictionary_id=dictionary_id,
    )


def encode_header(header: ArchiveHeader) -> bytes:
    """Return the header's bytes. Raises ValueError for one that no reader would take."""
    _check_header(header)
    body = _HEADER.pack(
        HEADER_MAGIC,
        FORMAT_VERSION,
        HEADER_LENGTH,
        header.cluster_id,
        header.segment_id,
        *header.epoch,
        header.first_revision,
        header.last_revision,
        header.raw_length,
        header.block_bytes,
        header.dictionary_id,
    )
    return body + _CRC.pack(crc32c(0, body))


def decode_header(data: bytes) -> ArchiveHeader:
    """Return the header of an object's first bytes. Raises ValueError that says what does not check."""
    if data[: len(HEADER_MAGIC)] != HEADER_MAGIC[: len(data)]:
        raise ValueError("the object does not begin as an archived segment does")
    if len(data) < HEADER_LENGTH:
        raise ValueError(f"the header is cut off after {len(data)} of {HEADER_LENGTH} bytes")
    fields = _HEADER.unpack_from(data)
    if fields[1] != FORMAT_VERSION:
        raise ValueError(f"it is of format version {fields[1]}; this software reads version {FORMAT_VERSION}")
    if fields[2] != HEADER_LENGTH or _CRC.pack(crc32c(0, data[: _HEADER.size])) != data[_HEADER.size : HEADER_LENGTH]:
        raise ValueError("the checksum of the header does not match")
    header = ArchiveHeader(fields[3], fields[4], Epoch(fields[5], fields[6]), *fields[7:])
    _check_header(header)
    return header


def encode_index(blocks: list[BlockIndex]) -> bytes:
    """Return the index's bytes."""
    return b"".join(_BLOCK.pack(*block) for block in blocks)


def decode_index(header: ArchiveHeader, trailer: ArchiveTrailer, data: bytes) -> list[BlockIndex]:
    """Return the blocks of an index, which lie one behind the other from the header to the index, without gaps.

    Raises ValueError.
    """
    if len(data) != header.index_length or crc32c(0, data) != trailer.index_crc:
        raise ValueError("the checksum of the index does not match")
    blocks = [BlockIndex._make(fields) for fields in _BLOCK.iter_unpack(data)]
    offset = HEADER_LENGTH
    for number, block in enumerate(blocks):
        if block.raw_length != header.raw_length_of(number):
            raise ValueError(f"the index gives block {number} {block.raw_length} raw bytes, not {header.raw_length_of(number)}")
        if not 0 < block.stored_length <= max_stored_length(block.raw_length):
            raise ValueError(f"the index gives block {number} {block.stored_length} stored bytes")
        fits = block.frame_offset < block.raw_length if block.frames else block.frame_offset == NO_FRAME
        if not fits:
            raise ValueError(f"the index has a frame begin in block {number} where none can")
        offset += block.stored_length
    if offset != trailer.index_offset:
        raise ValueError(f"the blocks end at offset {offset}, but the index begins at {trailer.index_offset}")
    return blocks


def encode_trailer(trailer: ArchiveTrailer) -> bytes:
    """Return the trailer's bytes."""
    start, end = trailer.start, trailer.end
    body = _TRAILER.pack(
        trailer.index_offset,
        trailer.index_length,
        trailer.index_crc,
        trailer.raw_length,
        trailer.raw_crc,
        trailer.groups,
        trailer.segment_id,
        trailer.first_time_ms,
        trailer.last_time_ms,
        *(*start.epoch, start.revision, start.chain),
        *(*end.epoch, end.revision, end.chain),
    )
    return body + _CRC.pack(crc32c(0, body)) + TRAILER_MAGIC


def decode_trailer(data: bytes) -> ArchiveTrailer:
    """Return the trailer of an object's last bytes. Raises ValueError."""
    if len(data) != TRAILER_LENGTH or data[-len(TRAILER_MAGIC) :] != TRAILER_MAGIC:
        raise ValueError("the object does not end as an archived segment does")
    if _CRC.pack(crc32c(0, data[: _TRAILER.size])) != data[_TRAILER.size : -len(TRAILER_MAGIC)]:
        raise ValueError("the checksum of the trailer does not match")
    fields = _TRAILER.unpack_from(data)
    start = Position(Epoch(fields[9], fields[10]), fields[11], fields[12])
    end = Position(Epoch(fields[13], fields[14]), fields[15], fields[16])
    return ArchiveTrailer._make((*fields[:9], start, end))


def max_stored_length(raw_length: int) -> int:
    """Return how many bytes zstd makes of so many at the most."""
    return raw_length + (raw_length >> 8) + _BLOCK_MARGIN


def _check_header(header: ArchiveHeader) -> None:
    """Hold a header against fixed limits. Raises ValueError."""
    if not MIN_RAW_LENGTH <= header.raw_length <= MAX_RAW_LENGTH:
        raise ValueError(f"it claims a segment of {header.raw_length} bytes")
    block_bytes = header.block_bytes
    if not MIN_BLOCK_BYTES <= block_bytes <= MAX_BLOCK_BYTES or header.blocks > MAX_BLOCKS:
        raise ValueError(f"it claims blocks of {block_bytes} bytes for a segment of {header.raw_length}")
    if header.first_revision > header.last_revision + 1:
        raise ValueError(f"it claims to begin at revision {header.first_revision} and end at {header.last_revision}")
