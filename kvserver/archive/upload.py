"""Puts one sealed segment into the archive and proves that it is there.

    put          compressed block by block on its way; checked as it is read, so that nothing damaged is ever put
    read back    every byte of the object, compared with what was sent

An object whose name is taken was put by an attempt that died before it was listed, or whose answer was lost: it is read whole
and must decode to the same segment. Anything else under the name is damage, and stays for people to look at.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable

from kvserver.archive.dictionary import Dictionaries, Dictionary, dictionary_ids
from kvserver.archive.errors import damaged
from kvserver.archive.log_source import ArchiverOptions
from kvserver.archive.names import ArchiveNames
from kvserver.archive.records import SegmentEntry
from kvserver.archive.segment_format import segment_id_of
from kvserver.archive.segment_reading import read_entry
from kvserver.archive.segment_writing import CompressOptions, SegmentCompressor
from kvserver.archive.store import ObjectExists, Store
from kvserver.base import failpoints
from kvserver.base.coding import crc32c
from kvserver.base.environment import Environment
from kvserver.base.errors import Corruption
from kvserver.base.fs import opened
from kvserver.wal.segment import SegmentInfo

DICTIONARY_LOOK_S = 600.0
"""The archive is asked so often whether there is a newer dictionary."""


@dataclasses.dataclass(frozen=True, slots=True)
class Put:
    """A segment that lies in the archive and was read back."""

    info: SegmentInfo
    entry: SegmentEntry
    """For the manifest."""
    seconds: float
    """How long it took."""


class Uploader:
    """Puts segments of one log into one archive. Safe for several threads; each call blocks."""

    def __init__(
        self,
        env: Environment,
        store: Store,
        names: ArchiveNames,
        options: ArchiverOptions,
        throttle: Callable[[int], None],
    ) -> None:
        """``throttle``: called with the raw bytes about to be read; may take its time, or raise to end the upload."""
        self._env = env
        self._store = store
        self._names = names
        self._options = options
        self._throttle = throttle
        self._dictionaries = Dictionaries(store, names)
        self._looking = threading.Lock()
        self._newest: Dictionary | None = None
        self._look_at_s = 0.0

    def upload(self, info: SegmentInfo, level: int) -> Put:
        """Put a segment, compressed at a level, and read it back.

        Raises Corruption where the segment, or what lies in the archive under its name, does not check; StoreError, OSError.
        """
        begin_s = self._env.clock.monotonic()
        entry = self._put(info, level)
        return Put(info, entry, self._env.clock.monotonic() - begin_s)

    def _put(self, info: SegmentInfo, level: int) -> SegmentEntry:
        name = self._names.segment(segment_id_of(info.header, info.end, info.length_bytes))
        options = CompressOptions(level=level, dictionary=self._dictionary_for(info.length_bytes))
        failpoints.hit("archive.before_put")
        with opened(self._env.fs.open(info.path)) as file:
            compressor = SegmentCompressor(
                file, info.header, info.end, info.length_bytes, info.path.name, options, self._throttle
            )
            try:
                self._store.create(name, compressor.parts())
            except ObjectExists:
                return self._found(info)
        failpoints.hit("archive.after_put")
        self._read_back(name, compressor.stored_length, compressor.stored_crc)
        failpoints.hit("archive.after_read_back")
        return compressor.entry

    def _found(self, info: SegmentInfo) -> SegmentEntry:
        """Return the entry of what lies under the segment's name already, after reading all of it."""
        entry = read_entry(self._store, self._names, segment_id_of(info.header, info.end, info.length_bytes), self._dictionaries)
        failpoints.hit("archive.after_read_back")
        return entry

    def _read_back(self, name: str, length: int, crc: int) -> None:
        """Read the object that was just created, and compare it with what was sent. Raises Corruption."""
        found, read = 0, 0
        for piece in self._store.stream(name):
            found = crc32c(found, piece)
            read += len(piece)
        if (read, found) != (length, crc):
            raise damaged(name, 0, f"it was just put with {length} bytes, and other ones are read back ({read} bytes)")

    def _dictionary_for(self, raw_length: int) -> Dictionary | None:
        """Return the newest dictionary for a small segment; None where there is none, or it cannot be used."""
        if raw_length > self._options.small_segment_bytes:
            return None
        with self._looking:
            now = self._env.clock.monotonic()
            if now >= self._look_at_s:
                ids = dictionary_ids(self._store, self._names)
                try:
                    self._newest = self._dictionaries(ids[-1]) if ids else None
                except Corruption:  # verify names it; a segment is as sound without it, only larger
                    self._newest = None
                self._look_at_s = now + DICTIONARY_LOOK_S
            return self._newest
