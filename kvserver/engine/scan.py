"""Scans: the keys of a span at one revision, in chunks, without holding the event loop."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator

from kvserver.base.limits import SCAN_CHUNK_BYTES, SCAN_CHUNK_KEYS
from kvserver.base.types import Version
from kvserver.storage.memtable import MERGE_SLICE, Memtable
from kvserver.storage.ranges import KeySpan


@dataclasses.dataclass(frozen=True, slots=True)
class ScanOptions:
    """What a scan returns of the keys it visits."""

    limit: int = 0
    """0: no limit."""
    reverse: bool = False
    keys_only: bool = False
    count_only: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class ScanChunk:
    """Part of a scan's result."""

    versions: list[Version]
    count: int
    """Keys found so far, over all chunks."""
    done: bool
    more: bool = False
    """The limit ended the scan although more keys follow."""


async def order_keys(memtable: Memtable, namespace: int) -> None:
    """Bring the keys that exist now into order, in slices, so that the loop stays free in between."""
    missing = memtable.unordered(namespace)
    while missing > 0:
        memtable.catch_up(namespace, min(MERGE_SLICE, missing))
        missing -= MERGE_SLICE
        await asyncio.sleep(0)


async def scan(
    memtable: Memtable, namespace: int, span: KeySpan, revision: int, options: ScanOptions
) -> AsyncIterator[ScanChunk]:
    """Yield the versions that a reader at the revision sees, in order; the last chunk has ``done``.

    Keys that are created meanwhile have newer revisions, so they need not be in the order that the scan walks.
    """
    await order_keys(memtable, namespace)
    walk = _Walk(memtable, namespace, span, revision, options)
    while not walk.finished:
        chunk = walk.next_chunk()
        if chunk.versions or chunk.done:
            yield chunk
        if not chunk.done:
            await asyncio.sleep(0)


class _Walk:
    """Where a scan is: it seeks anew for every chunk, because the order may have changed in between."""

    def __init__(self, memtable: Memtable, namespace: int, span: KeySpan, revision: int, options: ScanOptions) -> None:
        self._memtable = memtable
        self._namespace = namespace
        self._span = span
        self._revision = revision
        self._options = options
        self._count = 0
        self.finished = False

    def next_chunk(self) -> ScanChunk:
        """Visit some keys and return what was found among them."""
        options = self._options
        versions: list[Version] = []
        size = visited = 0
        for key in self._memtable.keys(self._namespace, self._span.start, self._span.end, options.reverse):
            if visited >= SCAN_CHUNK_KEYS or size >= SCAN_CHUNK_BYTES:
                self._span = self._rest(key)
                return ScanChunk(versions, self._count, done=False)
            visited += 1
            version = self._memtable.get(self._namespace, key, self._revision)
            if version is None:
                continue
            if options.limit and self._count >= options.limit:
                self.finished = True
                return ScanChunk(versions, self._count, done=True, more=True)
            self._count += 1
            if not options.count_only:
                versions.append(version._replace(value=b"") if options.keys_only else version)
                size += len(key) + (0 if options.keys_only else len(version.value)) + 32
        self.finished = True
        return ScanChunk(versions, self._count, done=True)

    def _rest(self, key: bytes) -> KeySpan:
        """Return the span from a key not yet visited on."""
        if self._options.reverse:
            return KeySpan(self._span.start, key + b"\0")
        return KeySpan(key, self._span.end)
