"""Reads archived segments, which anybody may have written: everything is checked, by name, and nothing allocated on their word.

What is read first is the header, the index and the trailer; they are held against fixed limits, each other and the entry of the
manifest. A block is decompressed only if its stored bytes check and claim exactly the length that is expected. All that comes out
is checked again as a segment of the log (``wal.checker``), chain and all, and its end compared with the entry.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future

from kvserver.archive.compression import Decompressor
from kvserver.archive.dictionary import Dictionary
from kvserver.archive.errors import damaged
from kvserver.archive.names import ArchiveNames, SegmentId
from kvserver.archive.records import SegmentEntry
from kvserver.archive.segment_format import (
    HEADER_LENGTH,
    TRAILER_LENGTH,
    ArchiveHeader,
    ArchiveTrailer,
    BlockIndex,
    FrameIndex,
    decode_header,
    decode_index,
    decode_trailer,
    entry_of,
)
from kvserver.archive.store import Store
from kvserver.base.coding import crc32c
from kvserver.base.errors import Corruption
from kvserver.base.fs import File
from kvserver.wal import format as fmt
from kvserver.wal.checker import SegmentChecker, SegmentFacts

GetDictionary = Callable[[int], Dictionary]
"""``dictionary.Dictionaries`` is one."""

DEFAULT_AHEAD = 4
"""Blocks that are decompressed, or wait for it, before the one that is being looked at."""


class ArchivedSegment:
    """An archived segment whose header, index and trailer were checked. Safe for several threads."""

    def __init__(
        self,
        store: Store,
        name: str,
        header: ArchiveHeader,
        trailer: ArchiveTrailer,
        blocks: list[BlockIndex],
        decompressor: Decompressor,
    ) -> None:
        self.name = name
        self.header = header
        self.trailer = trailer
        self.blocks = blocks
        self.offsets = list(itertools.accumulate((block.stored_length for block in blocks), initial=HEADER_LENGTH))
        """Where in the object each block begins, and where the last one ends."""
        self._store = store
        self._decompressor = decompressor

    def raw_blocks(self, pool: Executor | None = None, ahead: int = DEFAULT_AHEAD) -> Iterator[bytes]:
        """Yield the raw segment block by block, in one pass over the object. Raises Corruption; StoreError.

        With a pool, its threads decompress up to ``ahead`` blocks before they are asked for.
        """
        if pool is not None:
            return raw_blocks_parallel(self, pool, ahead)
        return (self.unpack(number, stored) for number, stored in enumerate(self.stored_blocks()))

    def block(self, number: int) -> bytes:
        """Return one raw block, by reading no other. Raises Corruption; StoreError."""
        length = self.blocks[number].stored_length
        return self.unpack(number, self._store.read(self.name, self.offsets[number], length))

    def stored_blocks(self) -> Iterator[bytes]:
        """Yield the blocks as they are stored, not checked, in one pass over the object. Raises Corruption; StoreError."""
        stream = self._store.stream(self.name, HEADER_LENGTH)
        pieces: list[bytes] = []
        have = 0
        try:
            for number, block in enumerate(self.blocks):
                while have < block.stored_length:
                    piece = next(stream, None)
                    if piece is None:
                        raise damaged(self.name, self.offsets[number] + have, f"the object ends in the middle of block {number}")
                    pieces.append(piece)
                    have += len(piece)
                data = b"".join(pieces)
                have -= block.stored_length
                pieces = [data[block.stored_length :]] if have else []
                yield data[: block.stored_length]
        finally:
            close = getattr(stream, "close", None)
            if close is not None:
                close()

    def unpack(self, number: int, stored: bytes) -> bytes:
        """Return the raw bytes of a stored block, checked. Raises Corruption."""
        block = self.blocks[number]
        if crc32c(0, stored) != block.stored_crc:
            raise damaged(self.name, self.offsets[number], f"the checksum of block {number} does not match")
        try:
            raw = self._decompressor.decompress(stored, block.raw_length)
        except ValueError as error:
            raise damaged(self.name, self.offsets[number], f"block {number}: {error}") from error
        if crc32c(0, raw) != block.raw_crc:
            raise damaged(self.name, self.offsets[number], f"block {number} holds other bytes than the index speaks of")
        return raw


def raw_blocks_parallel(segment: ArchivedSegment, pool: Executor, ahead: int = DEFAULT_AHEAD) -> Iterator[bytes]:
    """Yield the raw segment block by block while a pool of threads decompresses up to ``ahead`` blocks before they are asked for.

    The object is read by the caller's thread. Raises Corruption; StoreError.
    """
    waiting: collections.deque[Future[bytes]] = collections.deque()
    try:
        for number, stored in enumerate(segment.stored_blocks()):
            waiting.append(pool.submit(segment.unpack, number, stored))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def open_segment(store: Store, names: ArchiveNames, entry: SegmentEntry, dictionaries: GetDictionary) -> ArchivedSegment:
    """Return an archived segment that a manifest lists; reads its header, index and trailer.

    Raises Corruption where they do not check or are not what the entry says, or a dictionary is missing; StoreError.
    """
    name = names.segment(entry.id)
    header = _read_header(store, names, name, entry.id)
    found = (header.segment_id, header.raw_length, header.dictionary_id)
    if found != (entry.segment_id, entry.raw_length, entry.dictionary_id):
        raise damaged(name, 0, "its header is not that of the segment that the manifest lists")
    segment = _open(store, name, header, entry.stored_length, dictionaries)
    trailer = segment.trailer
    if (trailer.start, trailer.end) != (entry.start, entry.end):
        raise damaged(name, segment.trailer.index_offset, "it begins or ends elsewhere than the manifest says")
    if (trailer.first_time_ms, trailer.last_time_ms) != (entry.first_time_ms, entry.last_time_ms):
        raise damaged(name, segment.trailer.index_offset, "it is of another time than the manifest says")
    return segment


def check_segment(
    store: Store,
    names: ArchiveNames,
    entry: SegmentEntry,
    dictionaries: GetDictionary,
    pool: Executor | None = None,
) -> SegmentFacts:
    """Read every byte of an archived segment and return what is known of it. A pool decompresses ahead.

    Raises Corruption where anything does not check or is not what the entry says; StoreError.
    """
    pass_through = _Pass(open_segment(store, names, entry, dictionaries))
    for raw in pass_through.segment.raw_blocks(pool):
        pass_through.feed(raw)
    return pass_through.finish(entry)


def write_raw(
    store: Store,
    names: ArchiveNames,
    entry: SegmentEntry,
    dictionaries: GetDictionary,
    file: File,
    pool: Executor | None = None,
) -> SegmentFacts:
    """Write the raw segment into an empty file and return what is known of it; nothing is synced. A pool decompresses ahead.

    What does not check is not written, but the file may hold the blocks before it. Raises as ``check_segment``; OSError.
    """
    pass_through = _Pass(open_segment(store, names, entry, dictionaries))
    offset = 0
    for raw in pass_through.segment.raw_blocks(pool):
        pass_through.feed(raw)
        file.pwrite(raw, offset)
        offset += len(raw)
    return pass_through.finish(entry)


def frame_headers(
    store: Store, names: ArchiveNames, entry: SegmentEntry, dictionaries: GetDictionary
) -> Iterator[fmt.FrameHeader]:
    """Yield the headers of the groups of an archived segment, each after all of its frame was checked.

    Raises as ``check_segment``; of a segment that is damaged the groups before the damage are yielded.
    """
    pass_through = _Pass(open_segment(store, names, entry, dictionaries), keep_groups=True)
    for raw in pass_through.segment.raw_blocks():
        pass_through.feed(raw)
        yield from pass_through.take_groups()
    pass_through.finish(entry)


def read_entry(store: Store, names: ArchiveNames, id: SegmentId, dictionaries: GetDictionary) -> SegmentEntry:
    """Return the entry of an object that no manifest lists yet, after reading every byte of it.

    For whoever finds a name taken: two objects of one name hold the same segment, though perhaps compressed in another way.
    Raises Corruption where the object is not the segment that its name says; StoreError.
    """
    name = names.segment(id)
    header = _read_header(store, names, name, id)
    stored_length = store.length(name)
    pass_through = _Pass(_open(store, name, header, stored_length, dictionaries))
    for raw in pass_through.segment.raw_blocks():
        pass_through.feed(raw)
    facts = pass_through.facts()
    entry = entry_of(facts, stored_length, header.dictionary_id)
    if entry.id != id:
        raise damaged(name, 0, "it holds another segment than its name says")
    return entry


class _Pass:
    """One pass over all raw bytes of a segment, which checks them as those of a log and against header, index and trailer."""

    def __init__(self, segment: ArchivedSegment, keep_groups: bool = False) -> None:
        """``keep_groups``: whoever feeds also takes the groups."""
        self.segment = segment
        self._index = FrameIndex(segment.header.block_bytes, segment.header.blocks)
        self._checker = SegmentChecker(segment.name, on_frame=self._note if keep_groups else self._index.note)
        self._groups: list[fmt.FrameHeader] = []

    def feed(self, raw: bytes) -> None:
        """Check the next raw bytes. Raises Corruption."""
        try:
            self._checker.feed(raw)
        except Corruption as error:
            raise self._inside(error) from error

    def take_groups(self) -> list[fmt.FrameHeader]:
        """Return the groups that were whole since the last call."""
        groups, self._groups = self._groups, []
        return groups

    def facts(self) -> SegmentFacts:
        """Return what is known of the segment, now that all of it was fed. Raises Corruption."""
        try:
            facts = self._checker.finish()
        except Corruption as error:
            raise self._inside(error) from error
        name, header, trailer = self.segment.name, self.segment.header, self.segment.trailer
        for number, block in enumerate(self.segment.blocks):
            if block[4:] != self._index.fields(number):
                raise damaged(name, trailer.index_offset, f"the index has other frames begin in block {number} than do")
        if (facts.header.cluster_id, facts.header.segment_id, facts.header.epoch) != header[:3]:
            raise damaged(name, 0, "it holds another segment than its header says")
        if (facts.start, facts.end, facts.groups, facts.raw_length, facts.raw_crc, facts.first_time_ms, facts.last_time_ms) != (
            *(trailer.start, trailer.end, trailer.groups, trailer.raw_length, trailer.raw_crc),
            *(trailer.first_time_ms, trailer.last_time_ms),
        ):
            raise damaged(name, trailer.index_offset, "it holds another segment than its trailer says")
        return facts

    def finish(self, entry: SegmentEntry) -> SegmentFacts:
        """Return what is known of the segment, now that all of it was fed; it is what the entry says. Raises Corruption."""
        facts = self.facts()
        if entry_of(facts, entry.stored_length, entry.dictionary_id) != entry:
            raise damaged(self.segment.name, 0, "it holds another segment than the manifest lists")
        return facts

    def _note(self, offset: int, frame: fmt.FrameHeader) -> None:
        self._index.note(offset, frame)
        if frame.kind == fmt.GROUP:
            self._groups.append(frame)

    def _inside(self, error: Corruption) -> Corruption:
        """Return the error that the raw segment does not check, at the block in which that place lies."""
        block = min(error.offset // self.segment.header.block_bytes, len(self.segment.blocks) - 1)
        what = f"the segment in it does not check at its offset {error.offset}: {error.what}"
        return damaged(self.segment.name, self.segment.offsets[block], what)


def _read_header(store: Store, names: ArchiveNames, name: str, id: SegmentId) -> ArchiveHeader:
    """Read an object's header and hold it to the object's name. Raises Corruption; StoreError."""
    try:
        header = decode_header(store.read(name, 0, HEADER_LENGTH))
    except ValueError as error:
        raise damaged(name, 0, str(error)) from error
    if header.cluster_id != names.cluster_id:
        raise damaged(name, 0, f"it belongs to the cluster {header.cluster_id.hex()}")
    if (header.epoch.number, header.first_revision, header.last_revision) != id[:3]:
        raise damaged(name, 0, "its header does not fit its name")
    return header


def _open(store: Store, name: str, header: ArchiveHeader, stored_length: int, dictionaries: GetDictionary) -> ArchivedSegment:
    """Read index and trailer, whose lengths follow from the header. Raises Corruption; StoreError."""
    ending = header.index_length + TRAILER_LENGTH
    index_offset = stored_length - ending
    if not HEADER_LENGTH < index_offset <= header.max_stored_length - ending:
        raise damaged(name, 0, f"an object of {stored_length} bytes cannot hold {header.blocks} blocks and their index alone")
    data = store.read(name, index_offset, ending + 1)
    if len(data) != ending:
        what = "goes on where it must end" if len(data) > ending else "has ended before"
        raise damaged(name, stored_length, f"the object {what}")
    try:
        trailer = decode_trailer(data[header.index_length :])
        found = (trailer.index_offset, trailer.index_length, trailer.raw_length, trailer.segment_id)
        if found != (index_offset, header.index_length, header.raw_length, header.segment_id):
            raise ValueError("the trailer is not that of the segment that the header speaks of")
        blocks = decode_index(header, trailer, data[: header.index_length])
    except ValueError as error:
        raise damaged(name, index_offset, str(error)) from error
    dictionary = dictionaries(header.dictionary_id) if header.dictionary_id else None
    return ArchivedSegment(store, name, header, trailer, blocks, Decompressor(dictionary))
