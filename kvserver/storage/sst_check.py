"""Checks one table file, every byte of it, without RocksDB: by the format's own checksums, past every cache, offline too.

The format is RocksDB's block-based table, version 5, with XXH64 (``kvserver.storage.rocks`` writes no other):

    blocks, one behind the other: rows, filter, properties, index, list of the blocks that hold no rows
    footer, 53 bytes: kind of checksum, where the list and the index are, version, magic

A block is followed by five bytes: how it is compressed, and half a checksum over both. The index names the blocks of rows. Blocks
that do not lie one behind the other from the first byte to the footer are damage too, so that no byte goes unchecked. RocksDB has
the same check, but the binding does not pass it on; reading all rows instead leaves out filters, and rows that a removal covers.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import zstandard

from kvserver.base.errors import Corruption
from kvserver.base.fs import File, FileSystem, opened
from kvserver.base.limits import MIB

_FOOTER_LENGTH = 53
_MAGIC = 0x88E241B785F4CFF7
_VERSION = 5
_XXH64 = 3
_TRAILER_LENGTH = 5
_END = struct.Struct("<IQ")
_U32 = struct.Struct("<I")
_PLAIN, _LZ4 = 0, 4
_FASTEST = -100
_COMPRESSORS = threading.local()  # one serves one thread at a time
_MAX_INDEX_BYTES = 256 * MIB
_READ_BYTES = 1 * MIB

Span = tuple[int, int]
"""Offset and length of a block, its trailer not counted."""


def check_table(fs: FileSystem, path: Path) -> int:
    """Check a table file and return its length. Raises Corruption at the first place that does not check; OSError."""
    with opened(fs.open(path)) as file:
        size = file.size()
        try:
            list_span, index_span = _parse_footer(path, file.pread(_FOOTER_LENGTH, max(0, size - _FOOTER_LENGTH)), size)
            others = [span for _, value in _entries(_block(path, file, list_span), delta=False) for span in [_span(value, 0)[0]]]
            rows = list(_index(_block(path, file, index_span)))
            _check_cover(path, [*rows, *others, list_span, index_span], size - _FOOTER_LENGTH)
            _check_blocks(path, file, rows)
            for span in others:
                _block(path, file, span, unpack=False)
        except (IndexError, ValueError, struct.error) as error:
            raise Corruption(path, 0, f"the parts of a table do not fit together: {error}") from error
        return size


def check_tables(
    fs: FileSystem, folder: Path, live: Callable[[], Mapping[str, int]], still_wanted: Callable[[], bool] = lambda: True
) -> list[str]:
    """Check all tables of a folder, while that is wanted, and return what is wrong with each damaged one.

    ``live`` names them, with the length that each should have. One that it names no more when damage is found counts as sound: it
    was merged away meanwhile, its rows were read, with their checksums, by who did it.
    """
    findings = []
    for name, length in live().items():
        if not still_wanted():
            break
        try:
            if check_table(fs, folder / name) != length:
                raise Corruption(folder / name, 0, f"it has another length than the {length} bytes that it was given")
        except (Corruption, OSError) as error:
            if name in live():
                findings.append(str(error))
    return findings


def _parse_footer(path: Path, footer: bytes, size: int) -> tuple[Span, Span]:
    """Return where the list of other blocks and the index are."""
    if len(footer) < _FOOTER_LENGTH:
        raise Corruption(path, 0, f"a table cannot be as short as {size} bytes")
    at = size - _FOOTER_LENGTH
    version, magic = _END.unpack_from(footer, _FOOTER_LENGTH - _END.size)
    if magic != _MAGIC:
        raise Corruption(path, at, "the end of a table is not there: it was cut, or this is another kind of file")
    if version != _VERSION or footer[0] != _XXH64:
        raise Corruption(path, at, f"a table of version {version} with checksums of kind {footer[0]} is not ours")
    list_span, next_at = _span(footer, 1)
    index_span, next_at = _span(footer, next_at)
    if any(footer[next_at : _FOOTER_LENGTH - _END.size]):
        raise Corruption(path, at, "the end of a table holds what does not belong there")
    return list_span, index_span


def _check_cover(path: Path, spans: list[Span], end: int) -> None:
    expected = 0
    for offset, length in sorted(spans):
        if offset != expected:
            raise Corruption(path, expected, "blocks of a table do not lie one behind the other")
        expected = offset + length + _TRAILER_LENGTH
    if expected != end:
        raise Corruption(path, expected, "blocks of a table do not end where they should")


def _check_blocks(path: Path, file: File, spans: list[Span]) -> None:
    """Check the blocks of rows, which follow each other, reading many at once."""
    window, window_at = b"", 0
    for offset, length in spans:
        whole = length + _TRAILER_LENGTH
        if offset + whole > window_at + len(window):
            window, window_at = file.pread(max(_READ_BYTES, whole), offset), offset
        at = offset - window_at
        _check(path, offset, window[at : at + whole], whole)


def _check(path: Path, offset: int, block: bytes, length: int) -> None:
    if len(block) != length:
        raise Corruption(path, offset, f"a block of {length} bytes ends after {len(block)}")
    if xxh64(block[:-4]) != block[-4:]:
        raise Corruption(path, offset, f"the checksum of a block of {length} bytes does not match")


def xxh64(data: bytes) -> bytes:
    """Return the lower half of the XXH64 of data, as RocksDB writes it.

    No library here offers it by that name, but every zstd frame ends with it (RFC 8878, 3.1.1): so the data is compressed, in the
    fastest way there is, and the rest of the frame thrown away. 4 µs for 8 KiB; other threads run meanwhile.
    """
    try:
        compressor = _COMPRESSORS.fastest
    except AttributeError:
        compressor = _COMPRESSORS.fastest = zstandard.ZstdCompressor(level=_FASTEST, write_checksum=True)
    return bytes(compressor.compress(data)[-4:])


def _block(path: Path, file: File, span: Span, unpack: bool = True) -> bytes:
    """Return the content of one block that was checked."""
    offset, length = span
    if length > _MAX_INDEX_BYTES:
        raise Corruption(path, offset, f"a block of {length} bytes cannot be")
    block = file.pread(length + _TRAILER_LENGTH, offset)
    _check(path, offset, block, length + _TRAILER_LENGTH)
    content, kind = block[:length], block[length]
    if not unpack or kind == _PLAIN:
        return content
    if kind != _LZ4:
        raise Corruption(path, offset, f"a block compressed in the way {kind} is not ours")
    unpacked_length, at = _varint(content, 0)
    if unpacked_length > _MAX_INDEX_BYTES:
        raise Corruption(path, offset, f"a block of {unpacked_length} bytes cannot be")
    return _unpack_lz4(content[at:], unpacked_length)


def _index(block: bytes) -> Iterator[Span]:
    """Return the blocks of rows. Lengths within a run are given as differences to the one before."""
    offset = length = 0
    for shared, value in _entries(block, delta=True):
        if shared:
            number, _ = _varint(value, 0)
            offset += length + _TRAILER_LENGTH
            length += (number >> 1) ^ -(number & 1)
        else:
            (offset, length), _ = _span(value, 0)
        yield offset, length


def _entries(block: bytes, delta: bool) -> Iterator[tuple[int, bytes]]:
    """Return, for each entry of a block, how much of its key it shares with the one before, and its value.

    With ``delta`` no length stands before a value: it is one number where something is shared, else two.
    """
    runs = _U32.unpack_from(block, len(block) - 4)[0]
    end = len(block) - 4 - 4 * runs
    if end < 0:
        raise ValueError("a block is shorter than its list of runs")
    at = 0
    while at < end:
        shared, at = _varint(block, at)
        unshared, at = _varint(block, at)
        if delta:
            value_at = at = at + unshared
            _, at = _varint(block, at)
            if not shared:
                _, at = _varint(block, at)
        else:
            length, at = _varint(block, at)
            value_at = at + unshared
            at = value_at + length
        yield shared, block[value_at:at]
    if at != end:
        raise ValueError("the entries of a block do not end where they should")


def _span(data: bytes, at: int) -> tuple[Span, int]:
    offset, at = _varint(data, at)
    length, at = _varint(data, at)
    return (offset, length), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, the lowest first, and where it ends. Raises IndexError at the end of the data."""
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is longer than 64 bits")


def _unpack_lz4(data: bytes, length: int) -> bytes:
    """Return what an LZ4 block holds: literal bytes and copies of what came before, in turns. Only for indexes: it is slow."""
    out = bytearray()
    at = 0
    while True:
        token = data[at]
        literal, at = _lz4_length(data, at + 1, token >> 4)
        out += data[at : at + literal]
        at += literal
        if at >= len(data):
            break
        distance = data[at] | data[at + 1] << 8
        copied, at = _lz4_length(data, at + 2, token & 15)
        copied += 4
        start = len(out) - distance
        if distance == 0 or start < 0 or len(out) + copied > length:
            raise ValueError("a compressed block copies from where nothing is")
        if distance >= copied:
            out += out[start : start + copied]
        else:
            out += (bytes(out[start:]) * (copied // distance + 1))[:copied]
    if len(out) != length:
        raise ValueError("a compressed block has another length than it says")
    return bytes(out)


def _lz4_length(data: bytes, at: int, nibble: int) -> tuple[int, int]:
    if nibble == 15:
        while True:
            byte = data[at]
            at += 1
            nibble += byte
            if byte != 255:
                break
    return nibble, at
