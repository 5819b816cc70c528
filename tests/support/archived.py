"""A segment in an archive, and what may be done to its object: damage it, or forge another whose checksums all match."""

from __future__ import annotations

from typing import Any

import pytest

from kvserver.archive.records import SegmentEntry
from kvserver.archive.segment_format import (
    HEADER_LENGTH,
    TRAILER_LENGTH,
    ArchiveHeader,
    ArchiveTrailer,
    BlockIndex,
    decode_header,
    decode_index,
    decode_trailer,
    encode_header,
    encode_index,
    encode_trailer,
)
from kvserver.archive.segment_reading import check_segment
from kvserver.base.coding import crc32c
from kvserver.base.errors import Corruption
from kvserver.base.limits import KIB
from support.memory_store import MemoryStore
from support.segments import NAMES, RawSegment

BLOCK = 4 * KIB
SMALL = RawSegment().put("a", "b", time_ms=1500).mark().put("c", value=b"12345").seal()
LARGER = RawSegment().put("a", value=bytes(range(250)) * 20).put("b", value=bytes(9000)).put("c").mark().seal()


def no_dictionaries(id: int) -> Any:
    raise AssertionError(f"the dictionary {id} was asked for")


class Archived:
    """A segment in an archive, and what may be done to its object."""

    def __init__(self, segment: RawSegment = LARGER, **options: Any) -> None:
        self.store = MemoryStore()
        self.segment = segment
        self.entry = segment.archive(self.store, **{"block_bytes": BLOCK, **options})
        self.name = NAMES.segment(self.entry.id)
        self.data = self.store.objects[self.name]

    def check(self) -> Any:
        return check_segment(self.store, NAMES, self.entry, no_dictionaries)

    def put(self, data: bytes) -> Archived:
        """Put other bytes in the object's place."""
        self.store.objects[self.name] = data
        return self

    def refusal(self, entry: SegmentEntry | None = None) -> Corruption:
        """Return the error; it names the object, or the one whose entry is given."""
        entry = entry or self.entry
        with pytest.raises(Corruption) as refused:
            check_segment(self.store, NAMES, entry, no_dictionaries)
        assert refused.value.path == NAMES.segment(entry.id)
        assert "kvctl archive verify" in refused.value.hint
        return refused.value

    def parts(self) -> tuple[ArchiveHeader, list[bytes], list[BlockIndex], ArchiveTrailer]:
        """Take the object apart."""
        header, trailer = decode_header(self.data), decode_trailer(self.data[-TRAILER_LENGTH:])
        index = decode_index(header, trailer, self.data[trailer.index_offset : -TRAILER_LENGTH])
        blocks, at = [], HEADER_LENGTH
        for block in index:
            blocks.append(self.data[at : at + block.stored_length])
            at += block.stored_length
        return header, blocks, index, trailer

    def forge(
        self, header: ArchiveHeader, blocks: list[bytes], index: list[BlockIndex], trailer: ArchiveTrailer, true_to: bool = True
    ) -> Archived:
        """Make an object of parts whose checksums all match; with ``true_to`` the trailer tells the truth of the index."""
        if true_to:
            offset = HEADER_LENGTH + sum(map(len, blocks))
            data = encode_index(index)
            trailer = trailer._replace(index_offset=offset, index_length=len(data), index_crc=crc32c(0, data))
        made = b"".join((encode_header(header), *blocks, encode_index(index), encode_trailer(trailer)))
        self.entry = self.entry._replace(stored_length=len(made))
        return self.put(made)

    def forge_block(self, number: int, stored: bytes, **changes: Any) -> Archived:
        """Exchange one stored block; the index speaks the truth of its stored bytes."""
        header, blocks, index, trailer = self.parts()
        blocks[number] = stored
        index[number] = index[number]._replace(stored_length=len(stored), stored_crc=crc32c(0, stored), **changes)
        return self.forge(header, blocks, index, trailer)
