"""An archived segment's header, index and trailer as bytes: what is written is read, and nothing else is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.archive.names import ArchiveNames, parse_segment
from kvserver.archive.segment_format import (
    BLOCK_INDEX_LENGTH,
    HEADER_LENGTH,
    MAX_BLOCK_BYTES,
    MAX_RAW_LENGTH,
    MIN_BLOCK_BYTES,
    MIN_RAW_LENGTH,
    NO_FRAME,
    TRAILER_LENGTH,
    ArchiveHeader,
    ArchiveTrailer,
    BlockIndex,
    FrameIndex,
    content_hash,
    decode_header,
    decode_index,
    decode_trailer,
    encode_header,
    encode_index,
    encode_trailer,
    max_stored_length,
    segment_id_of,
)
from kvserver.base.coding import crc32c
from kvserver.base.limits import MIB
from kvserver.base.types import Epoch, Position
from kvserver.wal import format as fmt
from support.segments import RawSegment

U32, U64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
CHAINS = st.binary(min_size=16, max_size=16)
POSITIONS = st.builds(Position, st.builds(Epoch, U64, U64), U64, CHAINS)
TRAILERS = st.builds(ArchiveTrailer, U64, U32, U32, U64, U32, U32, U64, U64, U64, POSITIONS, POSITIONS)
ARCHIVED = ArchiveHeader(bytes(range(16)), 7, Epoch(1, 9), 2, 5, 10_000, 4096, 0)
BLOCKS = [
    BlockIndex(300, 4096, 1, 2, NO_FRAME, 0, 0, 0),
    BlockIndex(20, 4096, 3, 4, 0, 2, 2, 7),
    BlockIndex(9, 1808, 5, 6, 9, 1, 5, 8),
]


def trailer_of(blocks: list[BlockIndex], **changes: Any) -> ArchiveTrailer:
    index = encode_index(blocks)
    offset = HEADER_LENGTH + sum(block.stored_length for block in blocks)
    nowhere = Position(Epoch(1, 9), 1, bytes(16))
    made = ArchiveTrailer(offset, len(index), crc32c(0, index), 10_000, 0, 1, 7, 1, 2, nowhere, nowhere)
    return made._replace(**changes)


@st.composite
def headers(draw: st.DrawFn) -> ArchiveHeader:
    block_bytes = draw(st.integers(MIN_BLOCK_BYTES, MAX_BLOCK_BYTES))
    raw_length = draw(st.integers(MIN_RAW_LENGTH, min(MAX_RAW_LENGTH, block_bytes << 16)))
    first = draw(st.integers(1, (1 << 64) - 1))
    last = draw(st.integers(first - 1, (1 << 64) - 1))
    return ArchiveHeader(draw(CHAINS), draw(U64), Epoch(draw(U64), draw(U64)), first, last, raw_length, block_bytes, draw(U32))


@given(headers())
def test_a_header_is_read_as_it_was_written(header: ArchiveHeader) -> None:
    data = encode_header(header)
    assert len(data) == HEADER_LENGTH
    assert decode_header(data) == header
    assert decode_header(data + b"behind") == header
    lengths = [header.raw_length_of(number) for number in (0, header.blocks - 1)]
    assert header.raw_length == (header.blocks - 1) * header.block_bytes + lengths[-1]
    assert all(0 < length <= header.block_bytes for length in lengths)


@given(TRAILERS)
def test_a_trailer_is_read_as_it_was_written(trailer: ArchiveTrailer) -> None:
    data = encode_trailer(trailer)
    assert len(data) == TRAILER_LENGTH
    assert decode_trailer(data) == trailer


def test_an_index_is_read_as_it_was_written() -> None:
    data = encode_index(BLOCKS)
    assert len(data) == len(BLOCKS) * BLOCK_INDEX_LENGTH == ARCHIVED.index_length
    assert decode_index(ARCHIVED, trailer_of(BLOCKS), data) == BLOCKS


@pytest.mark.parametrize("part", ["header", "trailer", "index"])
def test_every_flipped_bit_and_every_truncation_is_found(part: str) -> None:
    data, decode = {
        "header": (encode_header(ARCHIVED), decode_header),
        "trailer": (encode_trailer(trailer_of(BLOCKS)), decode_trailer),
        "index": (encode_index(BLOCKS), lambda data: decode_index(ARCHIVED, trailer_of(BLOCKS), data)),
    }[part]
    decode(data)
    for at in range(len(data)):
        for bit in range(8):
            with pytest.raises(ValueError, match=r"checksum|does not begin|does not end|format version"):
                decode(data[:at] + bytes([data[at] ^ (1 << bit)]) + data[at + 1 :])
        with pytest.raises(ValueError, match=r"cut off|does not end|checksum|does not begin"):
            decode(data[:at])


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"raw_length": MIN_RAW_LENGTH - 1}, "a segment of 4191 bytes"),
        ({"raw_length": 0}, "a segment of 0 bytes"),
        ({"raw_length": MAX_RAW_LENGTH + 1, "block_bytes": MAX_BLOCK_BYTES}, "a segment of 4294967296 bytes"),
        ({"raw_length": (1 << 64) - 1}, "a segment of 18446744073709551615 bytes"),
        ({"block_bytes": 0}, "blocks of 0 bytes"),
        ({"block_bytes": MIN_BLOCK_BYTES - 1}, "blocks of 4095 bytes"),
        ({"block_bytes": MAX_BLOCK_BYTES + 1}, "blocks of 8388609 bytes"),
        ({"block_bytes": MIN_BLOCK_BYTES, "raw_length": 300 * MIB}, "blocks of 4096 bytes for a segment of 314572800"),
        ({"first_revision": 7}, "begin at revision 7 and end at 5"),
    ],
)
def test_a_header_beyond_the_limits_is_neither_written_nor_read(changes: dict[str, Any], why: str) -> None:
    header = ARCHIVED._replace(**changes)
    with pytest.raises(ValueError, match=why):
        encode_header(header)
    fields = (*header[:2], *header.epoch, *header[3:])
    body = encode_header(ARCHIVED)[:16] + _packed(fields)
    with pytest.raises(ValueError, match=why):
        decode_header(body + crc32c(0, body).to_bytes(4, "little"))


def _packed(fields: tuple[Any, ...]) -> bytes:
    lengths = (16, 8, 8, 8, 8, 8, 8, 4, 4)
    return b"".join(
        field if isinstance(field, bytes) else field.to_bytes(length, "little")
        for field, length in zip(fields, lengths, strict=True)
    )


def test_another_version_and_another_kind_of_object_are_refused_by_name() -> None:
    data = encode_header(ARCHIVED)
    with pytest.raises(ValueError, match="format version 2; this software reads version 1"):
        decode_header(data[:8] + b"\2" + data[9:])
    with pytest.raises(ValueError, match="does not begin as an archived segment does"):
        decode_header(b"KVWALSEG" + data[8:])


def test_a_header_or_a_trailer_of_another_length_is_refused() -> None:
    data = encode_header(ARCHIVED)
    body = data[:12] + (HEADER_LENGTH + 4).to_bytes(4, "little") + data[16:-4]
    with pytest.raises(ValueError, match="the checksum of the header"):
        decode_header(body + crc32c(0, body).to_bytes(4, "little"))
    with pytest.raises(ValueError, match="does not end as an archived segment does"):
        decode_trailer(b"x" + encode_trailer(trailer_of(BLOCKS)))


@pytest.mark.parametrize(
    ("number", "changes", "why"),
    [
        (0, {"raw_length": 4095}, "gives block 0 4095 raw bytes, not 4096"),
        (2, {"raw_length": 4096}, "gives block 2 4096 raw bytes, not 1808"),
        (1, {"raw_length": 0xFFFFFFFF}, "gives block 1 4294967295 raw bytes"),
        (1, {"stored_length": 0}, "gives block 1 0 stored bytes"),
        (1, {"stored_length": max_stored_length(4096) + 1}, "gives block 1 5137 stored bytes"),
        (0, {"frame_offset": 0}, "a frame begin in block 0 where none can"),
        (1, {"frames": 0}, "a frame begin in block 1 where none can"),
        (1, {"frame_offset": 4096}, "a frame begin in block 1 where none can"),
        (1, {"frame_offset": NO_FRAME}, "a frame begin in block 1 where none can"),
    ],
)
def test_an_index_that_cannot_be_is_refused(number: int, changes: dict[str, Any], why: str) -> None:
    blocks = [block._replace(**changes) if at == number else block for at, block in enumerate(BLOCKS)]
    with pytest.raises(ValueError, match=why):
        decode_index(ARCHIVED, trailer_of(blocks), encode_index(blocks))


@pytest.mark.parametrize("by", [-1, 1, -300])
def test_blocks_that_leave_a_gap_or_overlap_the_index_are_refused(by: int) -> None:
    trailer = trailer_of(BLOCKS)
    with pytest.raises(ValueError, match="the blocks end at offset"):
        decode_index(ARCHIVED, trailer._replace(index_offset=trailer.index_offset + by), encode_index(BLOCKS))


def test_an_index_of_more_or_fewer_blocks_is_refused() -> None:
    for blocks in (BLOCKS[:2], [*BLOCKS, BLOCKS[2]], []):
        with pytest.raises(ValueError, match="the checksum of the index"):
            decode_index(ARCHIVED, trailer_of(blocks), encode_index(blocks))


def test_the_frame_index_notes_the_first_frame_that_begins_in_each_block() -> None:
    segment = RawSegment().put("a", time_ms=5).put("b", value=bytes(9000), time_ms=6).mark(time_ms=7).seal(time_ms=8)
    index = FrameIndex(4096, 4)
    for offset in segment.offsets:
        frame = fmt.parse_frame_header(segment.data, offset)
        assert frame is not None
        index.note(offset, frame)
    last = segment.offsets[2] - 3 * 4096
    assert [index.fields(number) for number in range(4)] == [
        (NO_FRAME, 0, 0, 0),
        (0, 2, 2, 5),
        (NO_FRAME, 0, 0, 0),
        (last, 2, 4, 7),
    ]


def test_the_name_is_bound_to_every_part_of_what_the_segment_is() -> None:
    segment = RawSegment().put("a").seal()
    length = len(segment.data)
    base = content_hash(segment.header, segment.end, length)
    others = [
        content_hash(segment.header._replace(segment_id=8), segment.end, length),
        content_hash(segment.header._replace(created_ms=8), segment.end, length),
        content_hash(segment.header._replace(cluster_id=bytes(16)), segment.end, length),
        content_hash(segment.header, segment.end._replace(revision=9), length),
        content_hash(segment.header, segment.end._replace(chain=bytes(16)), length),
        content_hash(segment.header, segment.end, length + 8),
    ]
    assert len({base, *others}) == 7
    assert len(base) == 16


def test_the_id_of_a_segment_makes_a_name_that_parses_back_into_it() -> None:
    for segment in (RawSegment().put("a", "b").seal(), RawSegment().seal()):
        id = segment_id_of(segment.header, segment.end, len(segment.data))
        assert id[:3] == (1, 2, segment.revision)
        assert parse_segment(ArchiveNames(bytes(16)).segment(id)) == id
