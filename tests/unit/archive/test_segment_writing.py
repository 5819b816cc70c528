"""Compressing a segment: the object is what the format says, and a segment that does not check never becomes one."""

from __future__ import annotations

import tracemalloc
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from kvserver.archive.segment_format import (
    HEADER_LENGTH,
    NO_FRAME,
    TRAILER_LENGTH,
    decode_header,
    decode_index,
    decode_trailer,
    segment_id_of,
)
from kvserver.archive.segment_reading import check_segment
from kvserver.archive.segment_writing import CompressOptions, SegmentCompressor
from kvserver.base.coding import crc32c
from kvserver.base.errors import Corruption
from kvserver.base.limits import KIB, MAX_LOG_FRAME_BYTES, MIB
from kvserver.wal import format as fmt
from kvserver.wal.checker import SegmentChecker
from support.memory_store import MemoryStore
from support.segments import HEADER, NAMES, RawSegment

BLOCK = 4 * KIB


def segment_of(groups: int, value_bytes: int = 500) -> RawSegment:
    segment = RawSegment()
    for number in range(groups):
        segment.put(f"key-{number}", f"other-{number}", value=bytes([number % 251]) * value_bytes, time_ms=2000 + number)
    return segment.mark(time_ms=9000).seal(time_ms=9001)


def no_dictionaries(id: int) -> Any:
    raise AssertionError(f"the dictionary {id} was asked for")


def compressor(segment: RawSegment, data: bytes | None = None, **changes: Any) -> SegmentCompressor:
    """Return what compresses the segment, or other bytes in its place."""
    other = RawSegment(segment.header)
    other.data = segment.data if data is None else data
    fields: dict[str, Any] = {"header": segment.header, "end": segment.end, "raw_length": len(segment.data)}
    options = CompressOptions(block_bytes=BLOCK)
    return SegmentCompressor(other.file(), **{**fields, **changes}, name="segment", options=options)


@pytest.mark.parametrize("level", [1, 3])
@pytest.mark.parametrize("block_bytes", [BLOCK, 5000, 1 * MIB])
def test_the_object_is_header_blocks_index_and_trailer(block_bytes: int, level: int) -> None:
    segment = segment_of(20)
    parts = list(segment.compressor(block_bytes=block_bytes, level=level).parts())
    data = b"".join(parts)
    header = decode_header(data)
    trailer = decode_trailer(data[-TRAILER_LENGTH:])
    blocks = decode_index(header, trailer, data[trailer.index_offset : -TRAILER_LENGTH])
    assert (header.cluster_id, header.segment_id, header.epoch) == (HEADER.cluster_id, HEADER.segment_id, HEADER.epoch)
    assert (header.first_revision, header.last_revision, header.dictionary_id) == (2, segment.revision, 0)
    raw, at = b"", HEADER_LENGTH
    for block in blocks:
        stored = data[at : at + block.stored_length]
        frame = zstandard.get_frame_parameters(stored)
        assert (frame.content_size, frame.has_checksum, frame.dict_id) == (block.raw_length, True, 0)
        plain = zstandard.ZstdDecompressor().decompress(stored)
        assert (crc32c(0, stored), crc32c(0, plain)) == (block.stored_crc, block.raw_crc)
        raw, at = raw + plain, at + block.stored_length
    assert raw == segment.data
    assert (trailer.raw_crc, trailer.groups, trailer.end) == (crc32c(0, raw), 20, segment.end)
    assert (trailer.first_time_ms, trailer.last_time_ms) == (2000, 9001)


def test_the_index_says_which_frame_begins_first_in_each_block() -> None:
    segment = segment_of(12)
    compressing = segment.compressor(block_bytes=BLOCK)
    data = b"".join(compressing.parts())
    trailer = decode_trailer(data[-TRAILER_LENGTH:])
    blocks = decode_index(decode_header(data), trailer, data[trailer.index_offset : -TRAILER_LENGTH])
    for number, block in enumerate(blocks):
        inside = [offset for offset in segment.offsets if offset // BLOCK == number]
        assert block.frames == len(inside)
        if not inside:
            assert block[4:] == (NO_FRAME, 0, 0, 0)
            continue
        frame = fmt.parse_frame_header(segment.data, inside[0])
        assert frame is not None
        assert block[4:] == (inside[0] % BLOCK, len(inside), frame.first_revision, frame.time_ms)


def test_the_name_is_known_before_a_byte_is_read_and_independent_of_how_it_is_compressed() -> None:
    segment = segment_of(5)
    named = segment_id_of(segment.header, segment.end, len(segment.data))
    store = MemoryStore()
    for options in ({"level": 1}, {"level": 3}, {"block_bytes": BLOCK}):
        compressing = segment.compressor(**options)
        b"".join(compressing.parts())
        assert compressing.entry.id == named
    segment.archive(store)
    assert list(store.objects) == [NAMES.segment(named)]


def test_the_entry_and_the_hash_are_those_of_the_object() -> None:
    segment = segment_of(3)
    compressing = segment.compressor()
    with pytest.raises(ValueError, match="not all parts"):
        _ = compressing.facts
    data = b"".join(compressing.parts())
    checker = SegmentChecker("segment")
    checker.feed(segment.data)
    assert compressing.facts == checker.finish()
    assert (compressing.stored_length, compressing.stored_crc) == (len(data), crc32c(0, data))
    entry = compressing.entry
    assert (entry.segment_id, entry.previous, entry.start.revision) == (7, HEADER.previous, 1)
    assert (entry.end, entry.raw_length, entry.stored_length) == (segment.end, len(segment.data), len(data))
    assert (entry.first_time_ms, entry.last_time_ms, entry.dictionary_id) == (2000, 9001, 0)


@given(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3000)), max_size=8), st.integers(BLOCK, 3 * BLOCK))
def test_whatever_the_log_holds_comes_back(groups: list[tuple[int, int]], block_bytes: int) -> None:
    segment = RawSegment()
    for number, (puts, length) in enumerate(groups):
        segment.put(*(f"k{number}-{put}" for put in range(puts)), value=bytes(length))
    segment.seal()
    store = MemoryStore()
    entry = segment.archive(store, block_bytes=block_bytes)
    assert check_segment(store, NAMES, entry, no_dictionaries).end == segment.end


def test_the_throttle_is_asked_before_each_block_for_its_raw_bytes() -> None:
    segment = segment_of(20)
    asked: list[int] = []
    options = CompressOptions(block_bytes=BLOCK)
    compressing = SegmentCompressor(segment.file(), HEADER, segment.end, len(segment.data), "segment", options, asked.append)
    parts = compressing.parts()
    next(parts)
    assert asked == []
    next(parts)
    assert asked == [BLOCK]
    list(parts)
    assert sum(asked) == len(segment.data)


# What does not check never becomes an object


def refused(compressing: SegmentCompressor) -> Corruption:
    """Return the error; the store is left without the object, and what was yielded is no object that could be read."""
    store = MemoryStore()
    given: list[bytes] = []

    def parts() -> Any:
        for part in compressing.parts():
            given.append(part)
            yield part

    with pytest.raises(Corruption) as found:
        store.create("segment", parts())
    assert store.objects == {}
    with pytest.raises(ValueError, match="does not end as"):
        decode_trailer(b"".join(given)[-TRAILER_LENGTH:])
    with pytest.raises(ValueError, match="not all parts"):
        _ = compressing.entry
    assert found.value.path == "segment"
    return found.value


def test_every_flipped_byte_of_the_segment_stops_it() -> None:
    segment = RawSegment().put("a").mark().seal()
    for at in range(len(segment.data)):
        data = segment.data[:at] + bytes([segment.data[at] ^ 1]) + segment.data[at + 1 :]
        assert refused(compressor(segment, data)).offset <= at


@pytest.mark.parametrize("length", [0, 100, 4095, 4096, 5000, 12_000])
def test_a_file_that_is_too_short_stops_it(length: int) -> None:
    segment = segment_of(20)
    error = refused(compressor(segment, segment.data[:length]))
    assert (error.offset, "the file ends here" in error.what) == (length, True)


def test_a_segment_that_is_longer_than_was_said_stops_it() -> None:
    segment = segment_of(20)
    assert "in the middle of a frame" in refused(compressor(segment, raw_length=len(segment.data) - 8)).what
    longer = segment.data + bytes(8)
    assert "something follows the seal" in refused(compressor(segment, longer, raw_length=len(longer))).what


def test_a_segment_that_is_not_the_one_named_stops_it() -> None:
    segment = segment_of(5)
    other = RawSegment(HEADER._replace(created_ms=1001))
    for number in range(5):
        other.put(f"key-{number}", f"other-{number}", value=bytes([number]) * 500, time_ms=2000 + number)
    other.mark(time_ms=9000).seal(time_ms=9001)
    assert len(other.data) == len(segment.data)
    assert "header is not the one that it had" in refused(compressor(segment, other.data)).what
    forked = segment.end._replace(chain=bytes(16))
    assert "with this chain" in refused(compressor(segment, end=forked)).what
    assert "not where it did, at revision 99" in refused(compressor(segment, end=segment.end._replace(revision=99))).what


def test_another_history_of_the_same_length_stops_it() -> None:
    segment, other = (RawSegment().put("a", value=value).seal() for value in (b"1", b"2"))
    assert "with this chain" in refused(compressor(segment, other.data)).what


@pytest.mark.parametrize("options", [{"block_bytes": 4095}, {"block_bytes": 8 * MIB + 1}, {"level": 99}])
def test_options_that_no_reader_would_take_are_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"blocks of|level"):
        segment_of(1).compressor(**options)


def test_memory_does_not_grow_with_the_segment() -> None:
    small, large = (_peak(frames) for frames in (2, 6))
    assert large < small + 1 * MIB
    assert large < 4 * MAX_LOG_FRAME_BYTES


def _peak(frames: int) -> int:
    """Return the memory that is taken to compress so many of the largest frames."""
    segment = RawSegment()
    for _ in range(frames):
        segment.add(payload=bytes(MAX_LOG_FRAME_BYTES))
    compressing = segment.seal().compressor()
    tracemalloc.start()
    try:
        for _ in compressing.parts():
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
