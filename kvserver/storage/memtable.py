"""The memtable: every key's versions, newest first, and the keys in order when order is asked for.

A key's versions are a chain of tuples ``(mod_revision, value, create_revision, version, older)``; a deletion has the value
None. A put that did not need to know what was there before, in a memtable that has something below it, is *relative*: its
create_revision is negative, the revision of the first such put with its sign changed, and its version counts from there.
Whoever needs the figures adds those of the version below (``figures``), which ``bases`` keeps once somebody has looked.

Linked rather than one flat tuple: a put then costs the same whatever the key's past (flat: 0.4 µs at 100 versions, 43 at
10,000; linked: 0.1), and such tuples leave the garbage collector's sight just as well (docs/adr/0003).

Writers insert the newest state; a reader at a revision walks past what is newer. Nothing here locks: one event loop owns it.

Order costs only those who ask: new keys are collected and merged into the sorted index in slices (``catch_up``), because
one large merge would hold the loop (100,000 keys: 45 ms).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, TypeAlias

from sortedcontainers import SortedList

from kvserver.base.types import Version
from kvserver.wal.commit_record import PUT, Effect

Chain: TypeAlias = "tuple[int, bytes | None, int, int, Chain | None]"
Base: TypeAlias = "tuple[int, int]"
"""create_revision and version of what lies below a memtable's versions of a key."""

ABSENT: Base = (0, 0)
"""Nothing, or a deletion, lies below."""

VERSION_OVERHEAD_BYTES = 200
"""What a version costs beside its key and value: tuple, integers, dict slot, byte headers. Measured: 180 to 230."""

MERGE_SLICE = 2_000
"""New keys merged into the index in one step: about 1.5 ms."""


SPARES = 64
"""Dicts for memtables that the garbage collector never walks."""

_spares: list[dict[bytes, Chain]] = []


def make_spares(freeze: Callable[[], object]) -> None:
    """Make dicts for the memtables to come; ``freeze`` (``gc.freeze``) takes them out of the collector's sight for good.

    A full collection would walk every key of every memtable (27 ms at 500,000 keys) and find nothing: versions are tuples of
    plain values, which leave the collector's sight by themselves. A dict that was emptied is used again.
    """
    spares: list[dict[bytes, Any]] = [{b"": []} for _ in range(SPARES - len(_spares))]  # an empty one is not in sight yet
    freeze()
    for spare in spares:
        spare.clear()
    _spares.extend(spares)


def figures(version: Chain, base: Base) -> Base:
    """Return create_revision and version of one version, with what lies below its memtable."""
    create, number = version[2], version[3]
    if create >= 0:
        return create, number
    return (base[0], base[1] + number) if base[1] else (-create, number)


class NamespaceTable:
    """The keys of one namespace."""

    __slots__ = ("bases", "chains", "index", "live_keys", "put_bytes")

    def __init__(self) -> None:
        self.chains: dict[bytes, Chain] = _spares.pop() if _spares else {}
        self.bases: dict[bytes, Base] = {}
        """What was found below, for the keys with relative versions that somebody asked for."""
        self.index: SortedList = SortedList()
        self.live_keys = 0
        """Keys more, or fewer, than below, where every key is taken for a new one unless it is known not to be."""
        self.put_bytes = 0

    @property
    def unordered(self) -> int:
        """How many keys are not in the index yet: those that came last, as dicts keep the order in which keys came."""
        return len(self.chains) - len(self.index)

    def catch_up(self, at_most: int) -> None:
        """Merge new keys into the index, oldest first, so many at most."""
        ordered = len(self.index)
        self.index.update(list(islice(self.chains, ordered, ordered + at_most)))


class Memtable:
    """All namespaces' keys.

    ``is_bottom``: nothing lies below, no table and no older memtable, so a key that is not here does not exist.
    """

    def __init__(self, is_bottom: bool = True) -> None:
        self._tables: dict[int, NamespaceTable] = {}
        self.is_bottom = is_bottom
        self.size_bytes = 0
        self.most_keys = 0
        """How many keys the largest namespace has."""
        self._shed_chain: Chain | None = None

    def table(self, namespace: int) -> NamespaceTable:
        """Return a namespace's table, making it at first use."""
        table = self._tables.get(namespace)
        if table is None:
            table = self._tables[namespace] = NamespaceTable()
        return table

    def find(self, namespace: int) -> NamespaceTable | None:
        """Return a namespace's table; None where nothing was written to it."""
        return self._tables.get(namespace)

    def live_keys(self) -> int:
        """Return how many keys it adds to those below (see ``NamespaceTable``), the system's own left out."""
        tables = list(self._tables.items())  # metrics ask from another thread
        return sum(table.live_keys for namespace, table in tables if namespace)

    def shed(self, at_most: int) -> bool:
        """Let go of so many versions, of a memtable that nobody reads any more; say whether any are left.

        Letting go of a large memtable, or of all versions of one key, at once would hold the loop for tens of milliseconds.
        """
        for namespace, table in list(self._tables.items()):
            table.index.clear()
            chain, chains, bases = self._shed_chain, table.chains, table.bases
            while at_most > 0 and (chain is not None or chains or bases):
                at_most -= 1
                if chain is not None:
                    chain = chain[4]
                elif chains:
                    chain = chains.popitem()[1][4]
                else:
                    bases.popitem()
            self._shed_chain = chain
            if chain is not None or chains or bases:
                return True
            del self._tables[namespace]
            chains.clear()  # emptied one by one it keeps the room of all its keys
            if len(_spares) < SPARES:
                _spares.append(chains)
        return False

    def put_run(self, namespace: int, keys: list[bytes], values: list[bytes], first_revision: int) -> None:
        """Insert many commits of one blind put each; the n-th has revision ``first_revision + n``."""
        table = self.table(namespace)
        chains = table.chains
        get = chains.get
        created = 0
        revision = first_revision
        sign = 1 if self.is_bottom else -1
        for key, value in zip(keys, values, strict=True):
            older = get(key)
            if older is None:
                chains[key] = (revision, value, sign * revision, 1, None)
                created += 1
            elif older[1] is None:
                chains[key] = (revision, value, revision, 1, older)
                created += 1
            else:
                chains[key] = (revision, value, older[2], older[3] + 1, older)
            revision += 1
        table.live_keys += created
        put_bytes = sum(map(len, keys)) + sum(map(len, values))
        table.put_bytes += put_bytes
        self.most_keys = max(self.most_keys, len(chains))
        self.size_bytes += put_bytes + len(keys) * VERSION_OVERHEAD_BYTES

    def apply(self, effects: list[Effect], revision: int) -> None:
        """Insert one commit."""
        for effect in effects:
            table = self.table(effect.namespace)
            key = effect.key
            older = table.chains.get(key)
            if effect.op == PUT:
                create, version = self._figures(effect, older, revision)
                table.chains[key] = (revision, effect.value, create, version, older)
                table.live_keys += version == 1
            else:
                table.chains[key] = (revision, None, 0, 0, older)
                table.live_keys -= 1  # a deletion of what did not exist makes no effect
            size = len(key) + len(effect.value)
            table.put_bytes += size
            self.most_keys = max(self.most_keys, len(table.chains))
            self.size_bytes += size + VERSION_OVERHEAD_BYTES

    def _figures(self, effect: Effect, older: Chain | None, revision: int) -> Base:
        """Return create_revision and version of a put: as the commit says, or one more than what was there."""
        if effect.version:
            return effect.create_revision, effect.version
        if older is None:
            return (revision if self.is_bottom else -revision), 1
        if older[1] is None:
            return revision, 1
        return older[2], older[3] + 1

    def newest(self, namespace: int, key: bytes) -> Chain | None:
        """Return the key's chain, whatever its newest version is: a deletion, or not visible yet."""
        table = self._tables.get(namespace)
        return table.chains.get(key) if table is not None else None

    def at(self, namespace: int, key: bytes, revision: int) -> Chain | None:
        """Return the key's chain from the version on that was in force at a revision; None where it is not of this memtable."""
        table = self._tables.get(namespace)
        chain = table.chains.get(key) if table is not None else None
        while chain is not None and chain[0] > revision:
            chain = chain[4]
        return chain

    def get(self, namespace: int, key: bytes, revision: int) -> Version | None:
        """Return the version of a key that a reader at the revision sees, where nothing lies below; None: it does not exist."""
        chain = self.at(namespace, key, revision)
        if chain is None or chain[1] is None:
            return None
        return Version(key, chain[1], chain[2], chain[0], chain[3])

    def unordered(self, namespace: int) -> int:
        """Return how many keys are not in the namespace's order yet."""
        table = self._tables.get(namespace)
        return table.unordered if table is not None else 0

    def catch_up(self, namespace: int, at_most: int = MERGE_SLICE) -> None:
        """Merge new keys into the namespace's order, oldest first, so many at most."""
        self.table(namespace).catch_up(at_most)

    def keys(self, namespace: int, start: bytes, end: bytes, reverse: bool = False) -> Iterator[bytes]:
        """Yield the ordered keys k with start <= k < end (end empty: no end), deleted ones included.

        Leaves out what ``catch_up`` has not merged. The iterator ends its use at the next merge.
        """
        upper = end if end else None
        keys: Iterator[bytes] = self.table(namespace).index.irange(start, upper, inclusive=(True, False), reverse=reverse)
        return keys
