"""Which compression the tail of the log gets, and that nothing hostile comes out of it."""

from __future__ import annotations

import pytest
import zstandard

from kvserver.base.errors import Code, ReplicationError
from kvserver.replication.tail_compression import (
    MAX_CHUNK_BYTES,
    MIN_BYTES,
    ChunkCompressor,
    ChunkDecompressor,
    choose,
    is_loopback,
)

TEXT = b"the same words again and again " * 1000


@pytest.mark.parametrize(
    ("offered", "setting", "address", "chosen"),
    [
        (("zstd", "none"), "auto", "127.0.0.1:7401", "none"),
        (("zstd", "none"), "auto", "[::1]:7401", "none"),
        (("zstd", "none"), "auto", "localhost:7401", "none"),
        (("zstd", "none"), "auto", ":7401", "none"),
        (("zstd", "none"), "auto", "10.0.0.7:7401", "zstd"),
        (("zstd", "none"), "auto", "kv-1.kv:7401", "zstd"),
        (("none",), "auto", "10.0.0.7:7401", "none"),
        (("brotli",), "zstd", "10.0.0.7:7401", "none"),
        ((), "zstd", "10.0.0.7:7401", "none"),
        (("zstd",), "zstd", "127.0.0.1:7401", "zstd"),
        (("zstd",), "none", "10.0.0.7:7401", "none"),
    ],
)
def test_what_is_chosen(offered: tuple[str, ...], setting: str, address: str, chosen: str) -> None:
    assert choose(offered, setting, address) == chosen


def test_a_setting_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="brotli"):
        choose(("zstd",), "brotli", "10.0.0.7:1")
    assert not is_loopback("2001:db8::1")


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("data", [b"x", TEXT, bytes(MAX_CHUNK_BYTES)])
def test_what_is_compressed_comes_back(compression: str, data: bytes) -> None:
    packed, raw_length = ChunkCompressor(compression).compress(data)
    assert (raw_length > 0) == (compression == "zstd" and len(data) >= MIN_BYTES)
    assert ChunkDecompressor(compression).decompress(packed, raw_length) == data


def test_what_does_not_shrink_is_sent_as_it_is() -> None:
    data = bytes(hash((number, "x")) & 0xFF for number in range(4096))
    packed = zstandard.ZstdCompressor().compress(data)
    assert ChunkCompressor("zstd").compress(packed) == (packed, 0)


@pytest.mark.parametrize(
    ("compression", "data", "raw_length"),
    [
        ("zstd", b"no frame at all", 100),
        ("zstd", zstandard.ZstdCompressor(write_checksum=True).compress(bytes(1 << 20)), 4096),
        ("zstd", zstandard.ZstdCompressor(write_checksum=True).compress(bytes(1 << 26)), 1 << 26),
        ("zstd", zstandard.ZstdCompressor(write_checksum=True).compress(TEXT)[:-1], len(TEXT)),
        ("zstd", zstandard.ZstdCompressor(write_checksum=True).compress(TEXT) * 2, len(TEXT)),
        ("zstd", zstandard.ZstdCompressor().compress(TEXT), len(TEXT)),
        ("none", zstandard.ZstdCompressor(write_checksum=True).compress(TEXT), len(TEXT)),
        ("none", bytes(MAX_CHUNK_BYTES + 1), 0),
    ],
)
def test_what_is_hostile_is_refused(compression: str, data: bytes, raw_length: int) -> None:
    with pytest.raises(ReplicationError) as caught:
        ChunkDecompressor(compression).decompress(data, raw_length)
    assert caught.value.code is Code.WRONG_PEER


def test_a_compression_that_is_not_known_is_refused() -> None:
    for make in (ChunkCompressor, ChunkDecompressor):
        with pytest.raises(ReplicationError, match="lz4"):
            make("lz4")
