"""Archived segments that somebody has exchanged or made up: each is refused by name, in bounded memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import zstandard

from kvserver.archive.names import ArchiveNames
from kvserver.archive.segment_format import BLOCK_INDEX_LENGTH, HEADER_LENGTH, TRAILER_LENGTH
from kvserver.archive.segment_reading import ArchivedSegment, check_segment, open_segment, read_entry
from kvserver.base.coding import crc32c
from kvserver.base.errors import Corruption
from kvserver.base.limits import KIB, MIB
from kvserver.base.types import Epoch, Position
from support.archived import BLOCK, LARGER, SMALL, Archived, no_dictionaries
from support.logs import EPOCH
from support.segments import HEADER, NAMES, RawSegment, in_pieces

# Objects that check and are not what they should be


def test_a_segment_of_another_cluster_is_refused() -> None:
    archived = Archived()
    other = ArchiveNames(bytes(16))
    archived.store.objects[other.segment(archived.entry.id)] = archived.data
    with pytest.raises(Corruption, match="it belongs to the cluster 0102"):
        check_segment(archived.store, other, archived.entry, no_dictionaries)


def _other_header(**changes: Any) -> RawSegment:
    segment = RawSegment(HEADER._replace(**changes))
    return segment.put("a", value=bytes(range(250)) * 20).put("b", value=bytes(9000)).put("c").mark().seal()


@pytest.mark.parametrize(
    "other",
    [
        _other_header(epoch=Epoch(2, 5)),
        _other_header(epoch=Epoch(EPOCH.number, 5)),
        _other_header(first_revision=3, previous=HEADER.previous._replace(revision=2)),
        _other_header(segment_id=8),
        _other_header(created_ms=1001),
        _other_header(previous=HEADER.previous._replace(chain=bytes(16))),
        RawSegment().put("a").seal(),
        RawSegment().put("z", value=bytes(range(250)) * 20).put("b", value=bytes(9000)).put("c").mark().seal(),
    ],
    ids=["epoch", "nonce", "revision", "id", "created", "previous", "shorter", "forked history"],
)
def test_another_segment_under_the_name_is_refused(other: RawSegment) -> None:
    archived, foreign = Archived(), Archived(other)
    assert archived.entry.id != foreign.entry.id or archived.entry == foreign.entry
    archived.put(foreign.data)
    error = archived.refusal(archived.entry._replace(stored_length=foreign.entry.stored_length))
    assert any(word in error.what for word in ("header", "begins or ends elsewhere", "another segment"))
    with pytest.raises(Corruption):
        read_entry(archived.store, NAMES, archived.entry.id, no_dictionaries)


@pytest.mark.parametrize(
    "changes",
    [
        {"segment_id": 9},
        {"raw_length": 20_000},
        {"raw_length": 0},
        {"raw_length": (1 << 64) - 1},
        {"stored_length": 0},
        {"stored_length": (1 << 64) - 1},
        {"stored_length": 300},
        {"dictionary_id": 0x8000},
        {"first_time_ms": 1},
        {"last_time_ms": 1},
        {"start": Position(EPOCH, 1, bytes(16))},
        {"end": Position(EPOCH, 4, bytes(16))},
        {"previous": Position(EPOCH, 1, bytes(16))},
    ],
    ids=str,
)
def test_a_manifest_that_lies_is_refused(changes: dict[str, Any]) -> None:
    archived = Archived()
    archived.refusal(archived.entry._replace(**changes))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"segment_id": 9}, "its header is not that of the segment"),
        ({"raw_length": 20_000}, "its header is not that of the segment"),
        ({"dictionary_id": 0x8000}, "its header is not that of the segment"),
        ({"stored_length": 40}, "cannot hold 5 blocks and their index alone"),
        ({"stored_length": HEADER_LENGTH + TRAILER_LENGTH + 5 * BLOCK_INDEX_LENGTH}, "cannot hold 5 blocks"),
        ({"stored_length": (1 << 64) - 1}, "cannot hold 5 blocks and their index alone"),
        ({"stored_length": 500}, "goes on where it must end"),
        ({"stored_length": 5_000}, "has ended before"),
        ({"start": Position(EPOCH, 1, bytes(16))}, "begins or ends elsewhere"),
        ({"end": Position(EPOCH, 4, bytes(16))}, "begins or ends elsewhere"),
        ({"first_time_ms": 1}, "of another time"),
        ({"last_time_ms": 1}, "of another time"),
    ],
    ids=str,
)
def test_a_manifest_that_lies_is_found_before_a_block_is_read(changes: dict[str, Any], why: str) -> None:
    archived = Archived()
    with pytest.raises(Corruption, match=why):
        open_segment(archived.store, NAMES, archived.entry._replace(**changes), no_dictionaries)


@pytest.mark.parametrize("changes", [{"epoch_number": 2}, {"first_revision": 3}, {"last_revision": 9}], ids=str)
def test_an_object_under_a_name_that_its_header_does_not_fit_is_refused(changes: dict[str, int]) -> None:
    archived = Archived()
    id = archived.entry.id._replace(**changes)
    archived.store.objects[NAMES.segment(id)] = archived.data
    with pytest.raises(Corruption, match="its header does not fit its name"):
        open_segment(archived.store, NAMES, archived.entry._replace(id=id), no_dictionaries)
    with pytest.raises(Corruption, match="its header does not fit its name"):
        read_entry(archived.store, NAMES, id, no_dictionaries)


def test_an_entry_whose_hash_is_another_ones_is_refused() -> None:
    archived = Archived()
    entry = archived.entry._replace(id=archived.entry.id._replace(content_hash=bytes(16)))
    archived.store.objects[NAMES.segment(entry.id)] = archived.data
    assert "another segment than the manifest lists" in archived.refusal(entry).what
    with pytest.raises(Corruption, match="another segment than its name says"):
        read_entry(archived.store, NAMES, entry.id, no_dictionaries)


def test_the_entry_of_an_object_is_read_from_the_object_alone() -> None:
    for segment in (SMALL, LARGER, RawSegment().seal()):
        archived = Archived(segment, level=3, block_bytes=5000)
        assert read_entry(archived.store, NAMES, archived.entry.id, no_dictionaries) == archived.entry


# Lies within an object whose checksums all match


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stored_crc", 1),
        ("raw_crc", 1),
        ("frame_offset", 7),
        ("frames", 3),
        ("first_revision", 77),
        ("first_time_ms", 77),
        ("raw_length", 4095),
        ("stored_length", 40),
    ],
)
def test_an_index_that_lies_is_refused(field: str, value: int) -> None:
    archived = Archived()
    header, blocks, index, trailer = archived.parts()
    index[1] = index[1]._replace(**{field: value})
    archived.forge(header, blocks, index, trailer).refusal()


@pytest.mark.parametrize(
    "changes",
    [
        {"groups": 9},
        {"raw_crc": 9},
        {"raw_length": 9},
        {"segment_id": 9},
        {"first_time_ms": 9},
        {"last_time_ms": 9},
        {"index_offset": 9},
        {"index_length": 9},
        {"index_crc": 9},
        {"start": Position(EPOCH, 1, bytes(16))},
        {"end": Position(EPOCH, 4, bytes(16))},
    ],
    ids=str,
)
def test_a_trailer_that_lies_is_refused(changes: dict[str, Any]) -> None:
    archived = Archived()
    header, blocks, index, trailer = archived.parts()
    archived.forge(header, blocks, index, trailer._replace(**changes), true_to=False).refusal()


@pytest.mark.parametrize(
    "changes",
    [
        {"cluster_id": bytes(16)},
        {"segment_id": 9},
        {"epoch": Epoch(EPOCH.number, 9)},
        {"epoch": Epoch(9, EPOCH.nonce)},
        {"first_revision": 1},
        {"last_revision": 9},
        {"raw_length": len(LARGER.data) - 8},
        {"raw_length": 1 << 31, "block_bytes": 8 * MIB},
        {"block_bytes": 5000},
        {"dictionary_id": 9},
    ],
    ids=str,
)
def test_a_header_that_lies_is_refused(changes: dict[str, Any]) -> None:
    archived = Archived()
    header, blocks, index, trailer = archived.parts()
    archived.forge(header._replace(**changes), blocks, index, trailer).refusal()


def test_blocks_in_another_order_twice_or_left_out_are_refused() -> None:
    archived = Archived()
    header, blocks, index, trailer = archived.parts()
    assert len(blocks) == 5
    for order in ([0, 2, 1, 3, 4], [1, 0, 2, 3, 4], [0, 1, 1, 3, 4], [0, 0, 2, 3, 4], [0, 1, 2, 4, 3]):
        archived.forge(header, [blocks[at] for at in order], [index[at] for at in order], trailer).refusal()
    archived.forge(header, blocks[:4], index[:4], trailer).refusal()
    archived.forge(header, [*blocks, blocks[4]], [*index, index[4]], trailer).refusal()


def test_a_frame_that_is_damaged_below_right_checksums_is_found_by_the_rules_of_the_log() -> None:
    archived = Archived()
    at = LARGER.offsets[0] + 100
    data = LARGER.data[:at] + bytes([LARGER.data[at] ^ 1]) + LARGER.data[at + 1 :]
    header, _, index, trailer = archived.parts()
    compress = zstandard.ZstdCompressor(write_checksum=True).compress
    raws = in_pieces(data, BLOCK)
    blocks = [compress(raw) for raw in raws]
    index = [
        block._replace(stored_length=len(stored), stored_crc=crc32c(0, stored), raw_crc=crc32c(0, raw))
        for block, stored, raw in zip(index, blocks, raws, strict=True)
    ]
    error = archived.forge(header, blocks, index, trailer).refusal()
    assert error.offset == HEADER_LENGTH + len(blocks[0])
    assert f"does not check at its offset {LARGER.offsets[0]}" in error.what


# zstd frames that are not ours


def _compressed(raw: bytes, **options: Any) -> bytes:
    return zstandard.ZstdCompressor(**{"write_checksum": True, **options}).compress(raw)


def _streamed(raw: bytes) -> bytes:
    compressor = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    return compressor.compress(raw) + compressor.flush()


def _with_content_size(stored: bytes, size: int) -> bytes:
    """Claim another content size, in a field of eight bytes."""
    assert stored[4] & 0b11100000 == 0b01100000  # one segment, a size of two bytes
    return stored[:4] + bytes([stored[4] | 0b11000000]) + size.to_bytes(8, "little") + stored[7:]


RAW = LARGER.data[BLOCK : 2 * BLOCK]
WINDOWED = zstandard.ZstdCompressionParameters.from_level(1, window_log=27, write_checksum=True, source_size=BLOCK)
NOT_OURS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a bomb": (lambda: _compressed(bytes(256 * MIB)), "claims a content of 268435456 bytes, not of 4096 bytes"),
    "a bomb that says nothing": (lambda: _streamed(bytes(256 * MIB)), "claims a content of no stated length"),
    "a bomb that lies": (lambda: _with_content_size(_compressed(bytes(60_000)), BLOCK), "does not decompress"),
    "a huge claim": (lambda: _with_content_size(_compressed(RAW), 1 << 62), "claims a content of 4611686018427387904"),
    "no stated length": (lambda: _streamed(RAW), "claims a content of no stated length"),
    "no checksum": (lambda: _compressed(RAW, write_checksum=False), "has no checksum"),
    "one byte less": (lambda: _compressed(RAW[:-1]), "claims a content of 4095 bytes"),
    "two frames": (lambda: _compressed(RAW) + _compressed(b"x"), "does not decompress"),
    "something behind": (lambda: _compressed(RAW) + bytes(9), "does not decompress"),
    "cut off": (lambda: _compressed(RAW)[:-1], "does not decompress"),
    "cut to its header": (lambda: _compressed(RAW)[:5], "no zstd frame"),
    "a skippable frame": (lambda: b"\x50\x2a\x4d\x18" + BLOCK.to_bytes(4, "little") + bytes(BLOCK), "has no checksum"),
    "not zstd": (lambda: b"x" * 100, "it is no zstd frame"),
    "another content": (lambda: _compressed(bytes(BLOCK)), "other bytes than the index speaks of"),
}


@pytest.mark.parametrize("kind", NOT_OURS)
def test_a_zstd_frame_that_is_not_ours_is_refused_in_bounded_memory(kind: str) -> None:
    make, why = NOT_OURS[kind]
    stored = make()
    archived = Archived()
    _, blocks, _, _ = archived.parts()
    offset = HEADER_LENGTH + len(blocks[0])
    segment = _with_block(archived, 1, stored)
    tracemalloc.start()
    try:
        with pytest.raises(Corruption, match=why) as refused:
            segment.unpack(1, stored)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (refused.value.path, refused.value.offset) == (archived.name, offset)
    assert peak < 1 * MIB
    if len(stored) < 5 * KIB:
        assert archived.forge_block(1, stored).refusal().offset == offset


def _with_block(archived: Archived, number: int, stored: bytes) -> ArchivedSegment:
    """Return the opened segment with one block exchanged."""
    segment = open_segment(archived.store, NAMES, archived.entry, no_dictionaries)
    segment.blocks[number] = segment.blocks[number]._replace(stored_length=len(stored), stored_crc=crc32c(0, stored))
    return segment


def test_a_window_beyond_the_block_is_refused() -> None:
    compressor = zstandard.ZstdCompressor(compression_params=WINDOWED).compressobj(size=BLOCK)
    stored = compressor.compress(RAW[:100]) + compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    stored += compressor.compress(RAW[100:]) + compressor.flush()
    # Its descriptor says: no window of its own but the content's. Say instead that there is one, of 128 MiB.
    descriptor, size = stored[4], stored[5:7]
    assert descriptor & 0b11100000 == 0b01100000
    wide = stored[:4] + bytes([descriptor & 0b11011111]) + bytes([17 << 3]) + size + stored[7:]
    assert zstandard.get_frame_parameters(wide).window_size == 128 * MIB
    assert "claims a window of 134217728 bytes" in Archived().forge_block(1, wide).refusal().what
