"""Scans: the keys of a span at one revision, in chunks, without holding the event loop.

A chunk is made in two steps. Beside the loop, the tables say what a part of the span held at the revision, and where that part
ends. On the loop, what the memtables hold of that part is laid over it; if they hold so much that the chunk would get large, the
part ends earlier. Each chunk seeks anew, so nothing is kept open in between, and a flush between two chunks does no harm:
what moved into the tables is found there.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable
from itertools import islice

from kvserver.base.limits import SCAN_CHUNK_BYTES, SCAN_CHUNK_KEYS
from kvserver.base.types import Version
from kvserver.commit.reading import Ran, TableAccess
from kvserver.commit.refusals import tables_failed
from kvserver.commit.state import State
from kvserver.commit.ticket import Ticket
from kvserver.storage.memtable import MERGE_SLICE, Chain, Memtable
from kvserver.storage.past import SpanChunk, TableState, span_at
from kvserver.storage.ranges import KeySpan
from kvserver.storage.rows import data_key, encode_version
from kvserver.storage.tables import TableReader
from kvserver.storage.view import PastRowNeeded, TableRows


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


async def order_keys(memtables: list[Memtable], namespace: int) -> None:
    """Bring the keys that exist now into order, in slices, so that the loop stays free in between."""
    for memtable in memtables:
        missing = memtable.unordered(namespace)
        while missing > 0:
            memtable.catch_up(namespace, min(MERGE_SLICE, missing))
            missing -= MERGE_SLICE
            await asyncio.sleep(0)


class Scan:
    """One scan: where it is, and how the next chunk is made.

    Keys that are created meanwhile have newer revisions, so they need not be in the order that the scan walks.
    """

    def __init__(
        self,
        state: State,
        tables: TableAccess,
        place: tuple[int, KeySpan],
        revision: int,
        options: ScanOptions,
        still_readable: Callable[[], None],
    ) -> None:
        """``place``: namespace and span. ``still_readable`` raises KvError once the namespace or the revision is given up."""
        self._view = state.view
        self._tables = tables
        self._namespace, self._span = place
        self._revision = revision
        self._options = options
        self._still_readable = still_readable
        self._count = 0
        self._finished = False

    async def chunks(self) -> AsyncIterator[ScanChunk]:
        """Yield the versions that a reader at the revision sees, in order; the last chunk has ``done``."""
        await order_keys(self._view.memtables(), self._namespace)
        while not self._finished:
            rows, stored = await self._stored()
            self._still_readable()
            chunk = self._next_chunk(rows, stored)
            if chunk.versions or chunk.done:
                yield chunk
            if not chunk.done:
                await asyncio.sleep(0)

    async def _stored(self) -> tuple[TableRows, SpanChunk]:
        """Return what the tables hold of the next part of the span."""
        view = self._view
        if not view.has_tables:
            return view.nothing_read(), SpanChunk({}, None)
        namespace, span, revision, reverse = self._namespace, self._span, self._revision, self._options.reverse
        bounds = (SCAN_CHUNK_KEYS, SCAN_CHUNK_BYTES)

        def job(tables: TableReader, state: TableState) -> SpanChunk:
            return span_at(tables, namespace, span, revision, state, bounds, reverse)

        ticket: Ticket[Ran] = Ticket(None, lambda outcome: outcome)

        def on_result(ran: Ran | Exception) -> None:
            if isinstance(ran, Exception):
                ticket.fail(tables_failed(ran))
                return
            # Before anything else runs on the loop: what lies above these tables is what lies there now.
            ticket.pin = view.pin(TableRows(ran.generation, ran.flushed_revision, {}))
            ticket.decide(ran)
            ticket.complete()

        self._tables.run_job(job, on_result)
        ran = await ticket
        stored: SpanChunk = ran.result  # type: ignore[assignment]
        return ticket.pin.rows, stored

    def _next_chunk(self, rows: TableRows, stored: SpanChunk) -> ScanChunk:
        """Lay the memtables over a part of the span, and return what was found."""
        options = self._options
        keys, cut = self._keys(rows, stored)
        versions: list[Version] = []
        size = 0
        layers = self._view.layers(self._namespace, rows.generation)
        for key in keys:
            if size >= SCAN_CHUNK_BYTES:
                self._span = self._rest(key)
                return ScanChunk(versions, self._count, done=False)
            version = self._version(key, layers, rows, stored)
            if version is None:
                continue
            if options.limit and self._count >= options.limit:
                self._finished = True
                return ScanChunk(versions, self._count, done=True, more=True)
            self._count += 1
            if not options.count_only:
                versions.append(version._replace(value=b"") if options.keys_only else version)
                size += len(key) + (0 if options.keys_only else len(version.value)) + 32
        if cut is None:
            self._finished = True
            return ScanChunk(versions, self._count, done=True)
        self._span = KeySpan(self._span.start, cut) if options.reverse else KeySpan(cut, self._span.end)
        return ScanChunk(versions, self._count, done=False)

    def _keys(self, rows: TableRows, stored: SpanChunk) -> tuple[list[bytes], bytes | None]:
        """Return the keys to look at, in the order asked for, and where the part that they make up ends (None: it is all)."""
        reverse, cut = self._options.reverse, stored.end
        span = self._span if cut is None else KeySpan(cut, self._span.end) if reverse else KeySpan(self._span.start, cut)
        found: set[bytes] = set(stored.found)
        for memtable in self._view.sources(rows.generation):
            seen = list(islice(memtable.keys(self._namespace, *span, reverse), SCAN_CHUNK_KEYS + 1))
            if len(seen) > SCAN_CHUNK_KEYS:  # more than a chunk: end the part before the first one too many
                if reverse:
                    cut = seen.pop() + b"\0"
                    span = KeySpan(cut, span.end)
                else:
                    cut = seen.pop()
                    span = KeySpan(span.start, cut)
            found.update(seen)
        if cut is not None and cut != stored.end:
            found = {key for key in found if (key >= cut if reverse else key < cut)}
        return sorted(found, reverse=reverse), cut

    def _version(self, key: bytes, layers: list[dict[bytes, Chain]], rows: TableRows, stored: SpanChunk) -> Version | None:
        """Return the version of a key in force at the scan's revision. ``layers`` is what lies above the rows."""
        one = stored.found.get(key)
        for chains in layers:
            chain = chains.get(key)
            if chain is not None:
                break
        else:
            return one.of(key) if one is not None else None
        newest, value, create, number, _ = chain
        if newest <= self._revision and create >= 0:  # nothing below has a say in it, as nearly always
            return None if value is None else Version(key, value, create, newest, number)
        row = None if one is None else encode_version(one.mod_revision, one.create_revision, one.version, one.value)
        below = rows._replace(rows={data_key(self._namespace, key): row})
        try:
            return self._view.find(self._namespace, key, self._revision, below)
        except PastRowNeeded:  # all that memory has of the key is newer, and what the tables had then, they said
            return one.of(key) if one is not None else None

    def _rest(self, key: bytes) -> KeySpan:
        """Return the span from a key not yet visited on."""
        if self._options.reverse:
            return KeySpan(self._span.start, key + b"\0")
        return KeySpan(key, self._span.end)
