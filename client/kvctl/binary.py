"""The binary form in which data is saved: any bytes, in blocks that are compressed and checksummed.

``docs/kvctl.md`` describes it byte by byte, and a test compares the two.

    file  = head, block, block, ..., last block
    block = block head, records compressed with zstd

A head of a block has a checksum of its own, so that what is cut off can be told from what is damaged: where a head is sound
its length is, and a file that ends before it was cut. Blocks are numbered by their first record, so that one that is missing
is missed.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from kvctl.batches import Batch, Fault
from kvctl.failures import CtlError
from kvctl.records import parse_object

if TYPE_CHECKING:
    from kvclient import Entry

MAGIC = b"\x89KVD\r\n\x1a\n"
VERSION = 1
WITH_REVISIONS = 1
"""The bit of the flags that says that each record has its revisions and its version."""

BLOCK = b"BLCK"
LAST = b"LAST"
TARGET_BLOCK_BYTES = 1024 * 1024
"""A block ends at the record with which it reaches this size."""
MAX_BLOCK_BYTES = 16 * 1024 * 1024
"""No block is larger, compressed or not: a reader may refuse to hold more."""

_HEAD = struct.Struct("<8sHHI")
_BLOCK_HEAD = struct.Struct("<4sIIIQ")
_CHECKSUMS = struct.Struct("<II")
_CHECKSUM = struct.Struct("<I")
_LENGTHS = struct.Struct("<II")
_REVISIONS = struct.Struct("<QQQ")


class BlockHead(NamedTuple):
    """What stands before a block."""

    kind: bytes
    stored_bytes: int
    """Its length in the file."""
    plain_bytes: int
    """Its length when it is decompressed."""
    records: int
    first_record: int
    """The number of its first record, from 1."""

    @property
    def last_record(self) -> int:
        """The number of its last record."""
        return self.first_record + self.records - 1


class BinaryWriter:
    """Writes entries as a binary export."""

    def __init__(self, write: Callable[[bytes], None], about: Mapping[str, Any], *, with_revisions: bool) -> None:
        import zstandard

        self._compress = zstandard.ZstdCompressor(level=3).compress
        self._write = write
        self._with_revisions = with_revisions
        self._parts: list[bytes] = []
        self._size = 0
        self._records = 0
        self._written_records = 0
        text = json.dumps(about, ensure_ascii=False).encode()
        head = _HEAD.pack(MAGIC, VERSION, WITH_REVISIONS if with_revisions else 0, len(text)) + text
        write(head + _CHECKSUM.pack(zlib.crc32(head)))

    def add(self, entry: Entry) -> None:
        """Write one entry."""
        key, value = entry.key, entry.value
        self._parts.append(_LENGTHS.pack(len(key), len(value)))
        if self._with_revisions:
            self._parts.append(_REVISIONS.pack(entry.create_revision, entry.mod_revision, entry.version))
        self._parts += (key, value)
        self._size += len(key) + len(value)
        self._records += 1
        if self._size >= TARGET_BLOCK_BYTES:
            self._end_block()

    def finish(self) -> None:
        """Write what is left, and the block that says that nothing follows."""
        self._end_block()
        self._write(_block_head(BlockHead(LAST, 0, 0, 0, self._written_records + 1), b""))

    def _end_block(self) -> None:
        if not self._records:
            return
        plain = b"".join(self._parts)
        stored = self._compress(plain)
        head = BlockHead(BLOCK, len(stored), len(plain), self._records, self._written_records + 1)
        self._write(_block_head(head, stored))
        self._write(stored)
        self._written_records += self._records
        self._parts, self._size, self._records = [], 0, 0


def _block_head(head: BlockHead, stored: bytes) -> bytes:
    packed = _BLOCK_HEAD.pack(*head)
    return packed + _CHECKSUMS.pack(zlib.crc32(packed), zlib.crc32(stored))


def _decompressed(head: BlockHead, stored: bytes) -> bytes:
    """Return the records of a block as bytes; raise ValueError where it holds others than its head says."""
    import zstandard

    try:
        if zstandard.frame_content_size(stored) != head.plain_bytes:
            raise ValueError("it does not hold as many bytes as its head says")
        return zstandard.ZstdDecompressor().decompress(stored)
    except zstandard.ZstdError as error:
        raise ValueError(f"it cannot be decompressed: {error}") from error


class BinaryReader:
    """Reads a binary export, block by block; ``name`` is what errors call the file."""

    def __init__(self, chunks: Iterator[bytes], name: str) -> None:
        self._chunks = chunks
        self._name = name
        self._buffer = bytearray()
        self._offset = 0
        self._records = 0
        self._with_revisions = False

    def read_head(self) -> dict[str, Any]:
        """Read the beginning of the file, and return what it says of itself."""
        packed = self._take(_HEAD.size)
        magic, version, flags, length = _HEAD.unpack(packed)
        if magic != MAGIC:
            raise self._damaged(0, "it does not begin like a binary export")
        if version != VERSION or flags & ~WITH_REVISIONS:
            message = f"{self._name} has version {version} (flags {flags}) of the binary form; this kvctl reads version {VERSION}"
            raise CtlError("BAD_INPUT", message, "load it with the kvctl that saved it, or a newer one")
        if length > MAX_BLOCK_BYTES:
            raise self._damaged(0, "the length of its description cannot be")
        text = self._take(length)
        if self._take(_CHECKSUM.size) != _CHECKSUM.pack(zlib.crc32(packed + text)):
            raise self._damaged(0, "the checksum of its beginning does not match")
        self._with_revisions = bool(flags & WITH_REVISIONS)
        try:
            return parse_object(text)
        except ValueError as error:
            raise self._damaged(0, f"its description is {error}") from error

    def batches(self, skip: int) -> Iterator[Batch]:
        """Make a batch of each block; the first ``skip`` records are left out.

        A damaged block whose head is sound is a fault of all its records; everything else that is wrong is a CtlError.
        """
        while True:
            at = self._offset
            head, checksum = self._read_block_head()
            if head.kind == LAST:
                self._check_end()
                return
            stored = self._take(head.stored_bytes)
            self._records = head.last_record
            if head.last_record <= skip:
                continue
            try:
                batch = self._batch(head, checksum, stored, skip)
            except ValueError as error:
                message = f"the block at byte {at} of {self._name} is damaged: {error}"
                batch = Batch([], [], [], [Fault(head.first_record, head.records, "BAD_INPUT", message)], head.last_record)
            yield batch

    def _read_block_head(self) -> tuple[BlockHead, int]:
        """Return the head of the next block, and the checksum of what the block holds."""
        at = self._offset
        packed = self._take(_BLOCK_HEAD.size)
        checksum, stored_checksum = _CHECKSUMS.unpack(self._take(_CHECKSUMS.size))
        head = BlockHead(*_BLOCK_HEAD.unpack(packed))
        if checksum != zlib.crc32(packed) or head.kind not in (BLOCK, LAST):
            raise self._damaged(at, "the head of a block is not sound")
        if head.first_record != self._records + 1:
            raise self._damaged(at, f"a block begins with record {head.first_record}: blocks are missing or out of order")
        if max(head.stored_bytes, head.plain_bytes) > MAX_BLOCK_BYTES:
            raise self._damaged(at, f"a block has {head.plain_bytes} bytes, more than {MAX_BLOCK_BYTES}")
        return head, stored_checksum

    def _batch(self, head: BlockHead, checksum: int, stored: bytes, skip: int) -> Batch:
        """Return the records of a block; raise ValueError that says what is wrong with it."""
        if zlib.crc32(stored) != checksum:
            raise ValueError("its checksum does not match")
        records = list(self._records_of(_decompressed(head, stored)))
        if len(records) != head.records:
            raise ValueError(f"it holds {len(records)} records, not the {head.records} that its head says")
        batch = Batch([], [], [], [], head.last_record)
        for number, (key, value) in enumerate(records, head.first_record):
            if number > skip:
                batch.add(number, key, value)
        return batch

    def _records_of(self, plain: bytes) -> Iterator[tuple[bytes, bytes]]:
        between = _LENGTHS.size + (_REVISIONS.size if self._with_revisions else 0)
        place = 0
        while place < len(plain):
            if place + between > len(plain):
                raise ValueError("a record reaches beyond its end")
            key_bytes, value_bytes = _LENGTHS.unpack_from(plain, place)
            middle = place + between + key_bytes
            end = middle + value_bytes
            if end > len(plain):
                raise ValueError("a record reaches beyond its end")
            yield plain[place + between : middle], plain[middle:end]
            place = end

    def _check_end(self) -> None:
        """Raise CtlError where something stands behind the last block."""
        end = self._offset
        if self._buffer or any(self._chunks):
            raise self._damaged(end, "something stands behind its last block")

    def _take(self, size: int) -> bytes:
        """Return the next bytes; raise CtlError where the file ends before them."""
        while len(self._buffer) < size:
            chunk = next(self._chunks, None)
            if chunk is None:
                raise self._cut()
            self._buffer += chunk
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._offset += size
        return taken

    def _cut(self) -> CtlError:
        length = self._offset + len(self._buffer)
        message = f"{self._name} ends at byte {length}, behind record {self._records}, before its last block: it is not whole"
        hint = "it was cut short when it was written or copied; get it again"
        return CtlError("BAD_INPUT", message, hint, offset=length, record=self._records)

    def _damaged(self, offset: int, what: str) -> CtlError:
        message = f"{self._name} is damaged at byte {offset}, behind record {self._records}: {what}"
        return CtlError("BAD_INPUT", message, "get it again", offset=offset, record=self._records)
