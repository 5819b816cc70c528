"""The view: memtables above tables of any generation, for whoever still holds rows of it."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvserver.base.errors import Corruption
from kvserver.base.types import Version
from kvserver.storage.rows import data_key, encode_version
from kvserver.storage.view import PastRowNeeded, RowMissing, TableRows, View
from kvserver.wal.commit_record import DELETE, PUT, Effect

KEYS = [b"a", b"b", b"c"]


class Reference:
    """A view, what the tables below it hold, and every state of every key so far."""

    def __init__(self) -> None:
        self.view = View()
        self.revision = 1
        self.states: list[dict[bytes, Version]] = [{}, {}]
        """By revision."""
        self.tables = TableRows(0, 1, {})

    @property
    def now(self) -> dict[bytes, Version]:
        """Return the newest state."""
        return self.states[-1]

    def put(self, key: bytes, exact: bool = False) -> None:
        """Put a key, with figures or without."""
        self.revision += 1
        before = self.now.get(key)
        create, version = (before.create_revision, before.version + 1) if before else (self.revision, 1)
        value = b"%d" % self.revision
        if exact:
            self.view.active.apply([Effect(PUT, 1, key, value, create, version)], self.revision)
        else:
            self.view.active.put_run(1, [key], [value], self.revision)
        self.states.append({**self.now, key: Version(key, value, create, self.revision, version)})

    def delete(self, key: bytes) -> None:
        """Delete a key that exists."""
        if key in self.now:
            self.revision += 1
            self.view.active.apply([Effect(DELETE, 1, key, b"")], self.revision)
            self.states.append({name: version for name, version in self.now.items() if name != key})

    def freeze(self) -> None:
        """Begin another memtable."""
        if self.view.active.size_bytes:
            self.view.freeze(self.revision)

    def flush(self) -> None:
        """Write the oldest frozen memtable into the tables."""
        if self.view.frozen:
            held = self.states[self.view.frozen[-1].revision]
            self.view.flushed()
            rows = dict.fromkeys((data_key(1, key) for key in KEYS), None) | {
                data_key(1, key): encode_version(one.mod_revision, one.create_revision, one.version, one.value)
                for key, one in held.items()
            }
            self.tables = TableRows(self.view.generation, self.view.flushed_revision, rows)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from(KEYS), st.booleans()),
        st.tuples(st.just("put"), st.sampled_from(KEYS), st.booleans()),
        st.tuples(st.just("delete"), st.sampled_from(KEYS)),
        st.sampled_from([("freeze",), ("flush",), ("flush",), ("pin",), ("unpin",), ("release",)]),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_rows_of_any_pinned_generation_and_the_memtables_above_them_are_the_whole(workload: list[tuple[object, ...]]) -> None:
    reference = Reference()
    view = reference.view
    pins = []
    for name, *arguments in workload:
        if name == "pin":
            pins.append(view.pin(reference.tables))
        elif name == "unpin":
            pins = pins[1:]
        elif name == "release":
            view.unneeded()
        else:
            getattr(reference, str(name))(*arguments)
    pins.append(view.pin(reference.tables))
    for pin in pins:
        for key in KEYS:
            newest = reference.now.get(key)
            revision, exists = view.newest(1, key, pin)
            assert exists == (newest is not None)
            assert not exists or (newest is not None and revision == newest.mod_revision)
            for at in range(pin.rows.flushed_revision, reference.revision + 1):
                assert view.find(1, key, at, pin.rows) == reference.states[at].get(key)


# What is kept, and for how long


def test_a_flushed_memtable_stays_while_rows_from_before_its_flush_are_in_use() -> None:
    reference = Reference()
    view = reference.view
    early = view.pin(reference.tables)
    reference.put(b"a")
    reference.freeze()
    reference.flush()
    late = view.pin(reference.tables)
    reference.put(b"b")
    reference.freeze()
    reference.flush()
    assert [len(view.sources(generation)) for generation in (0, 1, 2)] == [3, 2, 1]
    assert view.unneeded() == []
    del early
    gc.collect()
    assert len(view.unneeded()) == 1
    assert [len(view.sources(generation)) for generation in (1, 2)] == [2, 1]
    assert view.newest(1, b"b", late) == (3, True)
    del late
    gc.collect()
    assert len(view.unneeded()) == 1
    assert view.unneeded() == []


def test_a_pin_without_rows_is_of_the_tables_as_they_are() -> None:
    reference = Reference()
    before = reference.view.pin()
    reference.put(b"a")
    reference.freeze()
    reference.flush()
    assert reference.view.newest(1, b"a", before) == (2, True)
    assert reference.view.newest(1, b"b", before) == (0, False), "there were no tables, so nothing had to be read"
    with pytest.raises(RowMissing):
        reference.view.newest(1, b"b", reference.view.pin())


def test_bytes_that_are_in_no_table_count_until_they_are() -> None:
    reference = Reference()
    reference.put(b"a")
    one = reference.view.unflushed_bytes
    reference.freeze()
    reference.put(b"a")
    assert reference.view.unflushed_bytes == 2 * one
    reference.flush()
    assert reference.view.unflushed_bytes == one


def test_whether_anything_lies_below() -> None:
    reference = Reference()
    reference.put(b"a")
    reference.freeze()
    assert not reference.view.has_tables
    reference.flush()
    assert reference.view.has_tables
    assert View(is_bottom=False, flushed_revision=9).has_tables


# What is needed from the tables is said


def test_a_row_that_was_not_read_is_asked_for_by_its_key() -> None:
    view = View(is_bottom=False, flushed_revision=5)
    view.active.put_run(1, [b"a"], [b"v"], 6)
    with pytest.raises(RowMissing) as missing:
        view.find(1, b"a", 6, view.nothing_read())
    assert missing.value.row_key == data_key(1, b"a"), "which version it is, only the row says"
    with pytest.raises(RowMissing):
        view.find(1, b"b", 6, view.nothing_read())
    assert view.newest(1, b"a", view.pin()) == (6, True), "that it exists, memory knows"


def test_figures_once_found_are_kept() -> None:
    view = View(is_bottom=False, flushed_revision=5)
    view.active.put_run(1, [b"a", b"a"], [b"v", b"w"], 6)
    rows = view.nothing_read()._replace(rows={data_key(1, b"a"): encode_version(4, 3, 2, b"old")})
    assert view.find(1, b"a", 6, rows) == Version(b"a", b"v", 3, 6, 3)
    assert view.find(1, b"a", 7, view.nothing_read()) == Version(b"a", b"w", 3, 7, 4)


def test_a_row_too_new_sends_to_history_and_no_row_at_all_too() -> None:
    view = View(is_bottom=False, flushed_revision=5)
    rows = view.nothing_read()._replace(rows={data_key(1, b"a"): encode_version(4, 4, 1, b""), data_key(1, b"b"): None})
    assert view.find(1, b"a", 4, rows) is not None
    for key, at in ((b"a", 3), (b"b", 4)):
        with pytest.raises(PastRowNeeded):
            view.find(1, key, at, rows)
    assert view.find(1, b"b", 5, rows) is None


def test_a_row_that_cannot_be_is_corruption() -> None:
    view = View(is_bottom=False, flushed_revision=5)
    rows = view.nothing_read()._replace(rows={data_key(1, b"a"): b"short"})
    with pytest.raises(Corruption):
        view.find(1, b"a", 5, rows)
