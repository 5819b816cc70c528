"""Frames and segment headers as bytes: constants, build, parse. Pure; reader and writer share this file and nothing else.

``docs/log_format.md`` describes the same byte by byte, with the reasons. In short:

    segment  = header block (4096 bytes), frames, and when sealed one seal frame at the very end
    frame    = header (72 bytes), payload padded with zeros to a multiple of 8
    group    = frame whose payload is the commits that one sync makes durable
    mark     = frame without payload that carries the durable revision forward
    seal     = frame whose payload says how the segment ended

The CRC-32C of a frame is seeded with the segment's unguessable id and covers header and payload, so that bytes left over
from another segment never check. ``durable_length`` is pebble's "sync offset" idea (cockroachdb/pebble, ``record/record.go``).
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from kvserver.base.coding import chain_hash, crc32c
from kvserver.base.types import CHAIN_LENGTH, Epoch, Position

FORMAT_VERSION = 1

SEGMENT_MAGIC = b"KVWALSEG"
SEGMENT_HEADER_LENGTH = 4096
_SEGMENT_FIELDS = struct.Struct("<8sII16sQ QQ QQQ16s QQ QQQQ16s")
_SEGMENT_CRC = struct.Struct("<I")

FRAME_MAGIC = b"KVF"
GROUP = b"KVFg"
MARK = b"KVFm"
SEAL = b"KVFs"
FRAME_TYPES = (GROUP, MARK, SEAL)
FRAME_HEADER_LENGTH = 72
_FRAME_FIELDS = struct.Struct("<4sIQQIIQQ16sI")  # 68 bytes, the CRC follows
_FRAME_CRC = struct.Struct("<I")
_FRAME_CHAINED_LENGTH = 48  # the fields before the chain itself
ALIGNMENT = 8

SEAL_PAYLOAD = struct.Struct("<QQQ")  # last revision, group frames, time in ms
SEAL_FRAME_LENGTH = FRAME_HEADER_LENGTH + SEAL_PAYLOAD.size
FRAME_OVERHEAD = FRAME_HEADER_LENGTH + ALIGNMENT


class SegmentHeader(NamedTuple):
    """The first block of a segment: which log it belongs to and where in history it begins."""

    cluster_id: bytes
    segment_id: int
    epoch: Epoch
    branch: Position
    """The position of the parent epoch at which this segment's epoch began."""
    first_revision: int
    created_ms: int
    previous_segment_id: int
    """0 for the first segment of a store."""
    previous: Position
    """Where the log stood before this segment."""

    def start_chain(self) -> bytes:
        """Return the chain value before the first frame."""
        if self.previous.epoch == self.epoch:
            return self.previous.chain
        return epoch_chain(self.cluster_id, self.epoch, self.branch)


class FrameHeader(NamedTuple):
    """The fixed fields of a frame."""

    kind: bytes
    payload_length: int
    segment_id: int
    first_revision: int
    commits: int
    durable_length: int
    """Bytes of this segment that were durable before the frame was written."""
    durable_upto: int
    """The revision that was durable before the frame was written."""
    time_ms: int
    chain: bytes
    flags: int

    @property
    def last_revision(self) -> int:
        """Return the newest revision at the frame's end."""
        return self.first_revision + self.commits - 1

    @property
    def frame_length(self) -> int:
        """Return the bytes from this frame's begin to the next one's."""
        return FRAME_HEADER_LENGTH + padded(self.payload_length)


def padded(length: int) -> int:
    """Return the length rounded up to the alignment of frames."""
    return (length + ALIGNMENT - 1) & ~(ALIGNMENT - 1)


def epoch_chain(cluster_id: bytes, epoch: Epoch, branch: Position) -> bytes:
    """Return the chain value with which an epoch begins."""
    fields = struct.pack("<QQQQQ", *epoch, *branch.epoch, branch.revision)
    return chain_hash(b"kvserver epoch", cluster_id, fields, branch.chain)


def creation_chain(cluster_id: bytes) -> bytes:
    """Return the chain value of the store's creation, before its first epoch."""
    return chain_hash(b"kvserver store", cluster_id)


def encode_segment_header(header: SegmentHeader) -> bytes:
    """Return the header block."""
    fields = _SEGMENT_FIELDS.pack(
        SEGMENT_MAGIC,
        FORMAT_VERSION,
        SEGMENT_HEADER_LENGTH,
        header.cluster_id,
        header.segment_id,
        *header.epoch,
        *header.branch.epoch,
        header.branch.revision,
        header.branch.chain,
        header.first_revision,
        header.created_ms,
        header.previous_segment_id,
        *header.previous.epoch,
        header.previous.revision,
        header.previous.chain,
    )
    block = fields.ljust(SEGMENT_HEADER_LENGTH - _SEGMENT_CRC.size, b"\0")
    return block + _SEGMENT_CRC.pack(crc32c(0, block))


def decode_segment_header(block: bytes) -> SegmentHeader:
    """Return the header of a block. Raises ValueError that says what does not check."""
    if len(block) < SEGMENT_HEADER_LENGTH:
        raise ValueError(f"the segment header is cut off after {len(block)} of {SEGMENT_HEADER_LENGTH} bytes")
    fields = _SEGMENT_FIELDS.unpack_from(block)
    magic, version, length = fields[:3]
    if magic != SEGMENT_MAGIC:
        raise ValueError("the file does not begin as a segment does")
    if version != FORMAT_VERSION:
        raise ValueError(f"the segment is of format version {version}; this software reads version {FORMAT_VERSION}")
    body = block[: SEGMENT_HEADER_LENGTH - _SEGMENT_CRC.size]
    (crc,) = _SEGMENT_CRC.unpack_from(block, len(body))
    if length != SEGMENT_HEADER_LENGTH or crc32c(0, body) != crc:
        raise ValueError("the checksum of the segment header does not match")
    return SegmentHeader(
        cluster_id=fields[3],
        segment_id=fields[4],
        epoch=Epoch(fields[5], fields[6]),
        branch=Position(Epoch(fields[7], fields[8]), fields[9], fields[10]),
        first_revision=fields[11],
        created_ms=fields[12],
        previous_segment_id=fields[13],
        previous=Position(Epoch(fields[14], fields[15]), fields[16], fields[17]),
    )


def crc_seed(segment_id: int) -> int:
    """Return the CRC value with which every frame of a segment begins."""
    return crc32c(0, segment_id.to_bytes(8, "little"))


def build_frame(
    kind: bytes,
    segment_id: int,
    seed: int,
    first_revision: int,
    count: int,
    durable: tuple[int, int],
    time_ms: int,
    chain: bytes,
    payload: bytes,
) -> tuple[bytes, bytes]:
    """Return a frame's bytes and the chain value behind it.

    ``durable`` is (bytes of this segment, revision) durable before. Marks and seals carry the chain unchanged, so that
    one revision has one chain whatever idleness and rotation put around it.
    """
    length = len(payload)
    body = payload + bytes(-length % ALIGNMENT)
    head = _FRAME_FIELDS.pack(
        kind, length, segment_id, first_revision, count, durable[0], durable[1], time_ms, bytes(CHAIN_LENGTH), 0
    )
    if kind == GROUP:
        chain = chain_hash(chain, head[:_FRAME_CHAINED_LENGTH], body)
    head = head[:_FRAME_CHAINED_LENGTH] + chain + head[_FRAME_CHAINED_LENGTH + CHAIN_LENGTH :]
    crc = crc32c(crc32c(seed, head), body)
    return b"".join((head, _FRAME_CRC.pack(crc), body)), chain


def parse_frame_header(data: bytes, offset: int) -> FrameHeader | None:
    """Return the header fields at an offset, unchecked but for the magic; None where none can be."""
    if offset + FRAME_HEADER_LENGTH > len(data):
        return None
    header = FrameHeader._make(_FRAME_FIELDS.unpack_from(data, offset))
    return header if header.kind in FRAME_TYPES else None


def check_frame(data: bytes, offset: int, segment_id: int, seed: int) -> FrameHeader | None:
    """Return the header of the frame at an offset if the whole frame checks, else None. The chain is the reader's to check."""
    header = parse_frame_header(data, offset)
    if header is None or header.segment_id != segment_id or header.flags != 0:
        return None
    if offset + header.frame_length > len(data) or not frame_checks(data, offset, header, seed):
        return None
    return header


def frame_checks(data: bytes, offset: int, header: FrameHeader, seed: int) -> bool:
    """Say whether the checksum of a frame that is whole in the data matches."""
    crc_at = offset + FRAME_HEADER_LENGTH - _FRAME_CRC.size
    body_at = crc_at + _FRAME_CRC.size
    crc = crc32c(crc32c(seed, data[offset:crc_at]), data[body_at : offset + header.frame_length])
    return _FRAME_CRC.pack(crc) == data[crc_at:body_at]


def next_chain(chain: bytes, header: FrameHeader, data: bytes, offset: int) -> bytes:
    """Return the chain value behind a checked frame, computed from the value before it."""
    if header.kind != GROUP:
        return chain
    head = data[offset : offset + _FRAME_CHAINED_LENGTH]
    body = data[offset + FRAME_HEADER_LENGTH : offset + header.frame_length]
    return chain_hash(chain, head, body)
