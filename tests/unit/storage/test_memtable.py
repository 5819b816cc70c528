"""The memtable against a dict of lists: every past revision stays readable, order is kept for who asks for it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kvserver.base.types import Version
from kvserver.storage.memtable import VERSION_OVERHEAD_BYTES, Memtable
from kvserver.wal.commit_record import DELETE, PUT, Effect

keys = st.lists(st.sampled_from(b"ab\xff"), min_size=1, max_size=3).map(bytes)
values = st.binary(max_size=3)
namespaces = st.sampled_from([0, 1, 2])
ends = st.one_of(st.just(b""), keys)

Entry = tuple[int, bytes | None, int, int]
"""mod revision, value (None: deleted), create revision, version."""


class MemtableAgainstLists(RuleBasedStateMachine):
    """Random commits into a memtable and into lists of versions, oldest first."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Memtable()
        self.rows: dict[tuple[int, bytes], list[Entry]] = {}
        self.revision = 1
        self.size = 0
        self.ordered: dict[int, set[bytes]] = {0: set(), 1: set(), 2: set()}
        self.fresh: dict[int, list[bytes]] = {0: [], 1: [], 2: []}

    @initialize(start=st.integers(1, 1000))
    def begin(self, start: int) -> None:
        self.revision = start

    def note(self, namespace: int, key: bytes, value: bytes | None, exact: tuple[int, int] | None = None) -> None:
        versions = self.rows.setdefault((namespace, key), [])
        if not versions:
            self.fresh[namespace].append(key)
        _, before, create, version = versions[-1] if versions else (0, None, 0, 0)
        if value is None:
            versions.append((self.revision, None, 0, 0))
        elif exact:
            versions.append((self.revision, value, *exact))
        elif before is None:
            versions.append((self.revision, value, self.revision, 1))
        else:
            versions.append((self.revision, value, create, version + 1))
        self.size += len(key) + len(value or b"") + VERSION_OVERHEAD_BYTES

    @rule(namespace=namespaces, pairs=st.lists(st.tuples(keys, values), min_size=1, max_size=6))
    def put_run(self, namespace: int, pairs: list[tuple[bytes, bytes]]) -> None:
        """Insert commits of one put each, the same key perhaps several times."""
        self.table.put_run(namespace, [key for key, _ in pairs], [value for _, value in pairs], self.revision + 1)
        for key, value in pairs:
            self.revision += 1
            self.note(namespace, key, value)

    @rule(
        writes=st.dictionaries(
            st.tuples(namespaces, keys), st.one_of(st.none(), st.tuples(values, st.booleans())), min_size=1, max_size=5
        )
    )
    def commit(self, writes: dict[tuple[int, bytes], tuple[bytes, bool] | None]) -> None:
        """Insert one commit of puts, with exact figures or relative ones, and deletes."""
        self.revision += 1
        effects = []
        for (namespace, key), put in writes.items():
            if put is None:
                effects.append(Effect(DELETE, namespace, key, b""))
                self.note(namespace, key, None)
            else:
                exact = (7, self.revision) if put[1] else None
                effects.append(Effect(PUT, namespace, key, put[0], *(exact or (0, 0))))
                self.note(namespace, key, put[0], exact)
        self.table.apply(effects, self.revision)

    @rule(namespace=namespaces, at_most=st.integers(0, 4))
    def catch_up(self, namespace: int, at_most: int) -> None:
        """Merge a slice of the new keys, oldest first."""
        self.table.catch_up(namespace, at_most)
        self.ordered[namespace].update(self.fresh[namespace][:at_most])
        del self.fresh[namespace][:at_most]

    @rule(namespace=namespaces, start=ends, end=ends, reverse=st.booleans())
    def walk(self, namespace: int, start: bytes, end: bytes, reverse: bool) -> None:
        """Compare a walk over a span, which may be inverted, with the sorted keys."""
        found = list(self.table.keys(namespace, start, end, reverse))
        wanted = sorted(key for key in self.ordered[namespace] if start <= key and (not end or key < end))
        assert found == (wanted[::-1] if reverse else wanted)

    @invariant()
    def every_revision_is_as_it_was(self) -> None:
        for (namespace, key), versions in self.rows.items():
            for index, (revision, value, create, version) in enumerate(versions):
                until = versions[index + 1][0] - 1 if index + 1 < len(versions) else self.revision + 5
                seen = None if value is None else Version(key, value, create, revision, version)
                assert self.table.get(namespace, key, revision) == seen
                assert self.table.get(namespace, key, until) == seen
            assert self.table.get(namespace, key, versions[0][0] - 1) is None
            newest = self.table.newest(namespace, key)
            assert newest is not None
            assert newest[:4] == versions[-1]

    @invariant()
    def the_figures_are_right(self) -> None:
        newest = {name: versions[-1] for name, versions in self.rows.items()}
        assert self.table.live_keys() == sum(row[1] is not None for (namespace, _), row in newest.items() if namespace)
        assert self.table.size_bytes == self.size
        for namespace, fresh in self.fresh.items():
            assert self.table.unordered(namespace) == len(fresh)


TestMemtableAgainstLists = MemtableAgainstLists.TestCase
TestMemtableAgainstLists.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_a_key_that_was_never_there_is_in_no_namespace() -> None:
    table = Memtable()
    table.put_run(1, [b"a"], [b"1"], 2)
    assert table.newest(1, b"b") is None
    assert table.newest(2, b"a") is None
    assert table.get(2, b"a", 100) is None


def test_namespaces_do_not_mix() -> None:
    table = Memtable()
    table.put_run(1, [b"a"], [b"one"], 2)
    table.put_run(2, [b"a"], [b"two"], 3)
    table.apply([Effect(DELETE, 1, b"a", b"")], 4)
    assert table.get(1, b"a", 4) is None
    assert table.get(2, b"a", 4) == Version(b"a", b"two", 3, 3, 1)
    assert table.live_keys() == 1


def test_the_systems_own_keys_are_not_counted() -> None:
    table = Memtable()
    table.put_run(0, [b"a"], [b""], 2)
    assert table.live_keys() == 0


def test_an_empty_value_is_a_value() -> None:
    table = Memtable()
    table.put_run(1, [b"a"], [b""], 2)
    assert table.get(1, b"a", 2) == Version(b"a", b"", 2, 2, 1)
    table.put_run(1, [b"a"], [b""], 3)
    assert table.get(1, b"a", 3) == Version(b"a", b"", 2, 3, 2)


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="argument"):
        Memtable().put_run(1, [b"a"], [], 2)


def test_a_walk_goes_on_where_new_keys_are_not_merged_yet() -> None:
    table = Memtable()
    table.put_run(1, [b"b", b"d"], [b"", b""], 2)
    table.catch_up(1)
    walk = table.keys(1, b"", b"")
    assert next(walk) == b"b"
    table.put_run(1, [b"c"], [b""], 4)
    assert list(walk) == [b"d"]
    table.catch_up(1)
    assert list(table.keys(1, b"", b"")) == [b"b", b"c", b"d"]


@given(st.integers(1, 400))
def test_a_long_past_stays_readable(versions: int) -> None:
    table = Memtable()
    table.put_run(1, [b"a"] * versions, [b"%d" % number for number in range(versions)], 2)
    for number in {0, versions // 2, versions - 1}:
        assert table.get(1, b"a", number + 2) == Version(b"a", b"%d" % number, 2, number + 2, number + 1)
