"""Makes a sealed segment into an object of the archive: read, checked and compressed block by block, nothing held whole.

The last part comes only after all of the segment has been checked, and a store keeps nothing of an object whose parts end in an
error: what is in the archive was whole when it was put there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from kvserver.archive.compression import Compressor
from kvserver.archive.dictionary import Dictionary
from kvserver.archive.records import SegmentEntry
from kvserver.archive.segment_format import (
    DEFAULT_BLOCK_BYTES,
    HEADER_LENGTH,
    NO_FRAME,
    ArchiveHeader,
    ArchiveTrailer,
    BlockIndex,
    FrameIndex,
    encode_header,
    encode_index,
    encode_trailer,
    entry_of,
)
from kvserver.base.coding import crc32c
from kvserver.base.errors import Corruption
from kvserver.base.fs import File
from kvserver.base.types import Position
from kvserver.wal import format as fmt
from kvserver.wal.checker import SegmentChecker, SegmentFacts


@dataclasses.dataclass(frozen=True)
class CompressOptions:
    """How a segment is compressed. None of it changes what the segment is called."""

    level: int = 1
    block_bytes: int = DEFAULT_BLOCK_BYTES
    """Raw bytes of a block: what is decompressed at once, and held in memory while it is compressed."""
    dictionary: Dictionary | None = None


def _no_throttle(length: int) -> None:
    pass


class SegmentCompressor:
    """Compresses one segment. For one thread; reading, checksums and compression let others run."""

    def __init__(
        self,
        file: File,
        header: fmt.SegmentHeader,
        end: Position,
        raw_length: int,
        name: object,
        options: CompressOptions,
        throttle: Callable[[int], None] = _no_throttle,
    ) -> None:
        """``header``, ``end`` and ``raw_length`` say which segment it must be; ``name`` is what errors call it.

        ``throttle`` is called before each block with the raw bytes about to be read, and may take its time. Raises ValueError for
        what no reader would take: blocks too small or too large, a length that no segment has; for a level that zstd has not.
        """
        self._file = file
        self._segment = header
        self._end = end
        self._name = name
        self._throttle = throttle
        self._compressor = Compressor(options.level, options.dictionary)
        self._dictionary_id = 0 if options.dictionary is None else options.dictionary.id
        self._header = ArchiveHeader(
            cluster_id=header.cluster_id,
            segment_id=header.segment_id,
            epoch=header.epoch,
            first_revision=header.first_revision,
            last_revision=end.revision,
            raw_length=raw_length,
            block_bytes=options.block_bytes,
            dictionary_id=self._dictionary_id,
        )
        self._header_bytes = encode_header(self._header)
        self._facts: SegmentFacts | None = None
        self.stored_length = 0
        """Bytes of the object so far."""
        self.stored_crc = 0
        """The CRC-32C of those bytes: what a read-back must come to. It looks for accidents, and costs a tenth of a SHA-256."""

    @property
    def facts(self) -> SegmentFacts:
        """Return what is known of the segment, once all parts were taken."""
        if self._facts is None:
            raise ValueError("not all parts of the segment were taken")
        return self._facts

    @property
    def entry(self) -> SegmentEntry:
        """Return the entry of the manifest, once all parts were taken."""
        return entry_of(self.facts, self.stored_length, self._dictionary_id)

    def parts(self) -> Iterator[bytes]:
        """Yield the object's bytes, in pieces of about one compressed block; once.

        Raises Corruption, before the last piece, if the segment does not check or is not the one that was named; OSError.
        The chain is not computed: the checksums of the frames cover it, and it must come to ``end``.
        """
        index = FrameIndex(self._header.block_bytes, self._header.blocks)
        checker = SegmentChecker(self._name, prove_chain=False, on_frame=index.note)
        blocks: list[BlockIndex] = []
        yield self._part(self._header_bytes)
        for number in range(self._header.blocks):
            raw = self._read(number)
            checker.feed(raw)
            stored = self._compressor.compress(raw)
            checksums = (len(stored), len(raw), crc32c(0, stored), crc32c(0, raw))
            blocks.append(BlockIndex(*checksums, NO_FRAME, 0, 0, 0))
            yield self._part(stored)
        facts = checker.finish()
        self._check_is_named(facts)
        blocks = [BlockIndex(*block[:4], *index.fields(number)) for number, block in enumerate(blocks)]
        yield self._part(encode_index(blocks) + encode_trailer(self._trailer(facts, blocks)))
        self._facts = facts

    def _part(self, data: bytes) -> bytes:
        self.stored_crc = crc32c(self.stored_crc, data)
        self.stored_length += len(data)
        return data

    def _read(self, number: int) -> bytes:
        offset, length = number * self._header.block_bytes, self._header.raw_length_of(number)
        self._throttle(length)
        raw = self._file.pread(length, offset)
        if len(raw) != length:
            what = f"the file ends here; the segment has {self._header.raw_length} bytes"
            raise Corruption(self._name, offset + len(raw), what)
        return raw

    def _check_is_named(self, facts: SegmentFacts) -> None:
        """Check that the segment is the one that was named. Raises Corruption."""
        if facts.header != self._segment:
            raise Corruption(self._name, 0, "the segment's header is not the one that it had")
        if facts.end != self._end:
            what = f"the segment ends at revision {facts.end.revision} of epoch {facts.end.epoch.number}, "
            wanted = f"and not where it did, at revision {self._end.revision} of epoch {self._end.epoch.number}"
            chain = " with this chain" if facts.end[:2] == self._end[:2] else ""
            raise Corruption(self._name, facts.raw_length, f"{what}{wanted}{chain}")

    def _trailer(self, facts: SegmentFacts, blocks: list[BlockIndex]) -> ArchiveTrailer:
        return ArchiveTrailer(
            index_offset=HEADER_LENGTH + sum(block.stored_length for block in blocks),
            index_length=self._header.index_length,
            index_crc=crc32c(0, encode_index(blocks)),
            raw_length=facts.raw_length,
            raw_crc=facts.raw_crc,
            groups=facts.groups,
            segment_id=facts.header.segment_id,
            first_time_ms=facts.first_time_ms,
            last_time_ms=facts.last_time_ms,
            start=facts.start,
            end=facts.end,
        )
