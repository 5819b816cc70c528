"""The memtable against a dict of lists: every past revision stays readable, order is kept for who asks for it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kvserver.base.types import Version
from kvserver.storage.memtable import ABSENT, VERSION_OVERHEAD_BYTES, Base, Memtable, figures
from kvserver.wal.commit_record import DELETE, PUT, Effect

keys = st.lists(st.sampled_from(b"ab\xff"), min_size=1, max_size=3).map(bytes)
values = st.binary(max_size=3)
namespaces = st.sampled_from([0, 1, 2])
ends = st.one_of(st.just(b""), keys)

Entry = tuple[int, bytes | None, int, int]
"""mod revision, value (None: deleted), create revision, version."""

Name = tuple[int, bytes]


class MemtableAgainstLists(RuleBasedStateMachine):
    """Random commits into a memtable and into lists of versions, oldest first; perhaps above keys that lie below it."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Memtable()
        self.below: dict[Name, Base] = {}
        self.taken_for_new: set[Name] = set()
        """Keys that lie below, put first without a look there."""
        self.rows: dict[Name, list[Entry]] = {}
        self.revision = 1
        self.size = 0
        self.ordered: dict[int, set[bytes]] = {0: set(), 1: set(), 2: set()}
        self.fresh: dict[int, list[bytes]] = {0: [], 1: [], 2: []}

    @initialize(
        start=st.integers(100, 1000),
        below=st.none() | st.dictionaries(st.tuples(namespaces, keys), st.tuples(st.integers(2, 99), st.integers(1, 9))),
    )
    def begin(self, start: int, below: dict[Name, Base] | None) -> None:
        """Begin at the bottom, or above some keys."""
        self.revision = start
        self.table = Memtable(is_bottom=below is None)
        self.below = below or {}

    def state_of(self, name: Name) -> Base:
        """Return create revision and version of a key as it is now; version 0: it does not exist."""
        if name in self.rows:
            return self.rows[name][-1][2:]
        return self.below.get(name, ABSENT)

    def note(self, namespace: int, key: bytes, value: bytes | None, is_exact: bool = False) -> None:
        name = (namespace, key)
        create, version = self.state_of(name)
        if name not in self.rows:
            self.fresh[namespace].append(key)
            if version and value is not None and not is_exact:
                self.taken_for_new.add(name)
        if value is None:
            create = version = 0
        else:
            create, version = (create, version + 1) if version else (self.revision, 1)
        self.rows.setdefault(name, []).append((self.revision, value, create, version))
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
    def commit(self, writes: dict[Name, tuple[bytes, bool] | None]) -> None:
        """Insert one commit of puts, with exact figures or relative ones, and deletes of what exists."""
        self.revision += 1
        effects = []
        for (namespace, key), put in writes.items():
            create, version = self.state_of((namespace, key))
            if put is None:
                if version:
                    effects.append(Effect(DELETE, namespace, key, b""))
                    self.note(namespace, key, None)
                continue
            exact = ((create, version + 1) if version else (self.revision, 1)) if put[1] else (0, 0)
            effects.append(Effect(PUT, namespace, key, put[0], *exact))
            self.note(namespace, key, put[0], put[1])
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
                for at in (revision, until):
                    chain = self.table.at(namespace, key, at)
                    assert chain is not None
                    assert chain[:2] == (revision, value)
                    if value is not None:
                        assert figures(chain, self.below.get((namespace, key), ABSENT)) == (create, version)
                    if self.table.is_bottom:
                        seen = None if value is None else Version(key, value, create, revision, version)
                        assert self.table.get(namespace, key, at) == seen
            assert self.table.at(namespace, key, versions[0][0] - 1) is None
            newest = self.table.newest(namespace, key)
            assert newest is not None
            assert newest[:2] == versions[-1][:2]

    @invariant()
    def the_figures_are_right(self) -> None:
        live = {name for name in self.rows if self.state_of(name)[1] and name[0]}
        touched = {name for name in self.rows if name in self.below and name[0]}
        taken_for_new = {name for name in self.taken_for_new if name[0]}
        assert self.table.live_keys() == len(live) - len(touched) + len(taken_for_new)
        assert self.table.size_bytes == self.size
        assert self.table.most_keys == max((len([n for n in self.rows if n[0] == space]) for space in (0, 1, 2)), default=0)
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


def test_a_memtable_that_nobody_reads_any_more_goes_in_slices() -> None:
    table = Memtable()
    for namespace in (1, 2):
        table.put_run(namespace, [b"%d" % number for number in range(30)], [b""] * 30, 2)
        table.catch_up(namespace)
    table.put_run(3, [b"one key"] * 60, [b""] * 60, 90)
    turns = 1
    while table.shed(20):
        turns += 1
    assert turns >= 6, "versions of one key count too"
    assert table.find(1) is table.find(2) is table.find(3) is None
