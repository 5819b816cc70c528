"""One view over everything that holds versions: the memtable being written, frozen ones, and the tables below.

    active        takes the newest commits
    frozen        full, newest first; a flush is writing the oldest into a table
    retained      flushed, but somebody still holds rows that were read before the flush
    tables        what every flush so far has written; not in here, because asking them blocks

Newer stands above older, and whoever looks for a version takes the first one found from the top. What comes out of the tables
is only right together with the memtables that lay above those very tables: rows read before a flush and memtables as they are
after it have a hole between them, where the flushed memtable was. So rows carry the *generation* of the tables they were read
from (how often they were flushed), a flushed memtable stays in ``retained`` with the generation that its flush made, and
``sources`` takes the memtables that lie above a given generation. A ``Pin`` says that rows of a generation are still in use.
The event loop owns all of it.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from kvserver.base.errors import Corruption
from kvserver.base.types import CREATION_REVISION, Position, Version
from kvserver.storage.memtable import ABSENT, Base, Chain, Memtable, figures
from kvserver.storage.ranges import KeySpan
from kvserver.storage.rows import Stored, data_key, decode_version


class TableRows(NamedTuple):
    """Rows that were read from the tables, and from which."""

    generation: int
    """How often they had been flushed since the start."""
    flushed_revision: int
    rows: Mapping[bytes, bytes | None]
    """By row key, None where there is none; what is not in here was not looked up."""


class RowMissing(Exception):
    """A row of the tables is needed that was not read."""

    def __init__(self, namespace: int, key: bytes) -> None:
        super().__init__(f"the row of key {key[:64]!r} in namespace {namespace} was not read")
        self.row_key = data_key(namespace, key)


class PastRowNeeded(RowMissing):
    """The newest row of a key is of a later revision than the one read at; the past one lies in the tables' history."""


class Pin:
    """Rows of one generation of the tables, in use: while it lives, the memtables above them stay."""

    __slots__ = ("__weakref__", "rows", "spans")

    def __init__(self, rows: TableRows) -> None:
        self.rows = rows
        self.spans: dict[tuple[int, KeySpan], tuple[list[bytes], bool]] = {}
        """The tables' keys of spans, in order, and whether there are more of them than anybody can use."""


class Frozen:
    """A memtable that takes no more commits."""

    __slots__ = ("memtable", "position", "revision")

    def __init__(self, memtable: Memtable, revision: int) -> None:
        self.memtable = memtable
        self.revision = revision
        self.position: Position | None = None
        """The end of the frame with which it ends; None while the log has not come so far."""


class View:
    """The memtables, from the top."""

    def __init__(self, is_bottom: bool = True, flushed_revision: int = CREATION_REVISION) -> None:
        self.active = Memtable(is_bottom)
        self.flushed_revision = flushed_revision
        """What the tables hold, as far as the event loop has heard."""
        self.frozen: list[Frozen] = []
        """Newest first."""
        self.generation = 0
        """How often the tables were flushed since the start, as far as the event loop has heard."""
        self.has_tables = not is_bottom
        """Whether anything can lie below the memtables."""
        self._above = [self.active]
        self._retained: list[tuple[int, Memtable]] = []
        self._pins: weakref.WeakSet[Pin] = weakref.WeakSet()
        self._bare_pin = Pin(self.nothing_read())

    # -- what there is --------------------------------------------------------------------------------------------

    def memtables(self) -> list[Memtable]:
        """Return the memtables that are in no table yet, newest first."""
        return self._above

    def sources(self, generation: int) -> list[Memtable]:
        """Return the memtables that lie above a generation of the tables, newest first."""
        if not self._retained:
            return self._above
        return self._above + [memtable for made, memtable in self._retained if made > generation]

    def layers(self, namespace: int, generation: int) -> list[dict[bytes, Chain]]:
        """Return the keys of a namespace that the sources hold, with their versions, newest first: to look in at once."""
        tables = (memtable.find(namespace) for memtable in self.sources(generation))
        return [table.chains for table in tables if table is not None]

    @property
    def unflushed_bytes(self) -> int:
        """Return what the memtables hold that is in no table yet."""
        return sum([memtable.size_bytes for memtable in self._above])

    def live_keys(self) -> int:
        """Return how many keys the memtables add to those in the tables."""
        return sum(memtable.live_keys() for memtable in self.memtables())

    # -- how it changes -------------------------------------------------------------------------------------------

    def freeze(self, revision: int) -> Frozen:
        """Let the active memtable take no more commits, and begin another above it."""
        frozen = Frozen(self.active, revision)
        self.frozen.insert(0, frozen)
        self.active = Memtable(is_bottom=False)
        self._above = [self.active, *self._above]
        return frozen

    def flushed(self) -> None:
        """Note that the oldest frozen memtable is in the tables now."""
        self.generation += 1
        self.has_tables = True
        self.flushed_revision = self.frozen[-1].revision
        self._retained.insert(0, (self.generation, self.frozen.pop().memtable))
        self._above = self._above[:-1]
        self._bare_pin = Pin(self.nothing_read())

    def unneeded(self) -> list[Memtable]:
        """Take out, and return, the flushed memtables that no pin needs any more."""
        try:
            needed_above = min((pin.rows.generation for pin in self._pins), default=self.generation)
        except RuntimeError:  # the last hold of a pin ended on another thread in this very moment: look again later
            return []
        gone = [memtable for made, memtable in self._retained if made <= needed_above]
        if gone:
            self._retained = [(made, memtable) for made, memtable in self._retained if made > needed_above]
        return gone

    def nothing_read(self) -> TableRows:
        """Return no rows, of the tables as they are."""
        return TableRows(self.generation, self.flushed_revision, {})

    # -- pins -----------------------------------------------------------------------------------------------------

    def pin(self, rows: TableRows | None = None) -> Pin:
        """Return a pin on rows that were read; without rows: on the tables as they are, for whoever found enough above."""
        pin = self._bare_pin if rows is None else Pin(rows)
        self._pins.add(pin)
        return pin

    # -- looking --------------------------------------------------------------------------------------------------

    def newest(self, namespace: int, key: bytes, pin: Pin) -> tuple[int, bool]:
        """Return the revision of the newest thing that was done to a key, and whether the key exists; (0, False): nothing was.

        Raises RowMissing where the memtables do not say and the pin does not hold the row.
        """
        for memtable in self.sources(pin.rows.generation):
            chain = memtable.newest(namespace, key)
            if chain is not None:
                return chain[0], chain[1] is not None
        stored = self._row(namespace, key, pin.rows)
        return (stored.mod_revision, True) if stored is not None else (0, False)

    def find(self, namespace: int, key: bytes, revision: int, rows: TableRows) -> Version | None:
        """Return the version of a key in force at a revision, from memory and from rows that were read.

        Raises RowMissing where a row is needed that was not read, and PastRowNeeded where the newest row is of a later revision.
        """
        sources = self.sources(rows.generation)
        for place, memtable in enumerate(sources):
            chain = memtable.at(namespace, key, revision)
            if chain is not None:
                return self._version(chain, sources, place, namespace, key, rows)
        stored = self._row(namespace, key, rows)
        if revision < rows.flushed_revision and (stored is None or stored.mod_revision > revision):
            raise PastRowNeeded(namespace, key)
        return stored.of(key) if stored is not None else None

    def depends_on(self, namespace: int, keys: Sequence[bytes]) -> int:
        """Return the newest revision in memory that an answer about the newest state of keys shows something of."""
        layers = self.layers(namespace, self.generation)
        newest = 0
        for key in keys:
            for chains in layers:
                chain = chains.get(key)
                if chain is not None:
                    if chain[0] > newest:
                        newest = chain[0]
                    break
        return newest

    def versions(self, namespace: int, key: bytes, below: int, rows: TableRows) -> Iterator[tuple[int, Version | None]]:
        """Yield the versions of a key that the memtables hold of revisions below one, newest first; None for a deletion."""
        sources = self.sources(rows.generation)
        for place, memtable in enumerate(sources):
            chain = memtable.at(namespace, key, below - 1)
            while chain is not None:
                yield chain[0], self._version(chain, sources, place, namespace, key, rows)
                chain = chain[4]

    def _version(
        self, chain: Chain, sources: list[Memtable], place: int, namespace: int, key: bytes, rows: TableRows
    ) -> Version | None:
        if chain[1] is None:
            return None
        create, version = chain[2], chain[3]
        if create < 0:
            create, version = figures(chain, self._base(sources, place, namespace, key, rows))
        return Version(key, chain[1], create, chain[0], version)

    def _base(self, sources: list[Memtable], place: int, namespace: int, key: bytes, rows: TableRows) -> Base:
        """Return the figures of what lies below one of the sources, and keep them there."""
        table = sources[place].table(namespace)
        base = table.bases.get(key)
        if base is None:
            base = table.bases[key] = self._below(sources, place + 1, namespace, key, rows)
        return base

    def _below(self, sources: list[Memtable], place: int, namespace: int, key: bytes, rows: TableRows) -> Base:
        for lower in range(place, len(sources)):
            chain = sources[lower].newest(namespace, key)
            if chain is not None:
                if chain[1] is None:
                    return ABSENT
                return figures(chain, self._base(sources, lower, namespace, key, rows) if chain[2] < 0 else ABSENT)
        stored = self._row(namespace, key, rows)
        return (stored.create_revision, stored.version) if stored is not None else ABSENT

    def _row(self, namespace: int, key: bytes, rows: TableRows) -> Stored | None:
        if rows.flushed_revision <= CREATION_REVISION:  # there were no tables then, whatever there is now
            return None
        try:
            row = rows.rows[data_key(namespace, key)]
        except KeyError:
            raise RowMissing(namespace, key) from None
        if row is None:
            return None
        try:
            return decode_version(row)
        except ValueError as error:
            raise Corruption("the tables", 0, f"the row of key {key[:64]!r}: {error}") from error
