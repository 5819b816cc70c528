"""The newest state: a group replayed is the same as its commits applied one by one, and names and ids are kept."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.base.errors import UnknownNamespace
from kvserver.base.types import DEFAULT_NAMESPACE, FIRST_NAMESPACE, SYSTEM_NAMESPACE
from kvserver.commit.state import NamespaceEntry, State
from kvserver.storage.rows import data_key, encode_version
from kvserver.storage.view import View
from kvserver.wal.commit_record import DELETE, PUT, Effect, encode_commit, encode_put_run

keys = st.sampled_from([b"a", b"b", b"cc", b"d" * 30])
namespaces = st.sampled_from([SYSTEM_NAMESPACE, 1, 2, 3])
exact = st.one_of(st.just((0, 0)), st.tuples(st.integers(1, 9), st.integers(1, 9)))
puts = st.builds(
    lambda namespace, key, value, figures, lease: Effect(PUT, namespace, key, value, figures[0], figures[1], lease),
    namespaces,
    keys,
    st.binary(max_size=4),
    exact,
    st.sampled_from([0, 0, 0, 5]),
)
blind_puts = st.builds(lambda namespace, key, value: Effect(PUT, namespace, key, value), namespaces, keys, st.binary(max_size=4))
deletes = st.builds(lambda namespace, key: Effect(DELETE, namespace, key, b""), namespaces, keys)
batches = st.lists(st.one_of(puts, deletes), min_size=1, max_size=4, unique_by=lambda effect: (effect.namespace, effect.key))
commits = st.one_of(blind_puts.map(lambda effect: [effect]), blind_puts.map(lambda effect: [effect]), batches)


def content(state: State) -> dict[int, dict[bytes, object]]:
    tables = {namespace: state.memtable.table(namespace) for namespace in (0, 1, 2, 3)}
    return {namespace: dict(table.chains) for namespace, table in tables.items()}


def same(one: State, other: State) -> None:
    assert content(one) == content(other)
    assert one.memtable.size_bytes == other.memtable.size_bytes
    assert one.memtable.live_keys() == other.memtable.live_keys()
    for namespace in (0, 1, 2, 3):
        assert list(one.memtable.table(namespace).chains) == list(other.memtable.table(namespace).chains)
    assert (one.namespaces, one.next_namespace_id) == (other.namespaces, other.next_namespace_id)
    assert (one.dropped, one.newest_compaction) == (other.dropped, other.newest_compaction)


@given(st.lists(st.lists(commits, max_size=8), max_size=4))
def test_replaying_a_group_is_applying_its_commits_one_by_one(groups: list[list[list[Effect]]]) -> None:
    replayed, applied = State(), State()
    revision = 2
    for group in groups:
        replayed.replay_group(revision, len(group), b"".join(map(encode_commit, group)))
        for commit in group:
            applied.apply(commit, revision)
            revision += 1
    same(replayed, applied)


@given(st.lists(st.tuples(keys, st.binary(max_size=4)), min_size=1, max_size=9), namespaces)
def test_a_run_inserted_live_is_the_same_as_replayed(pairs: list[tuple[bytes, bytes]], namespace: int) -> None:
    live, replayed = State(), State()
    names, values = [key for key, _ in pairs], [value for _, value in pairs]
    live.memtable.put_run(namespace, names, values, 2)
    replayed.replay_group(2, len(pairs), encode_put_run(namespace, names, values))
    same(live, replayed)


def test_catalogue_rows_within_a_group_of_puts_are_seen() -> None:
    state = State()
    creating = state.creation_effects("orders")
    put = [Effect(PUT, 1, b"a", b"1")]
    state.replay_group(2, 4, b"".join(map(encode_commit, [put, creating, put, [Effect(PUT, 2, b"a", b"2")]])))
    assert state.namespaces["orders"] == NamespaceEntry("orders", FIRST_NAMESPACE, 3)
    version = state.memtable.get(1, b"a", 9)
    assert version is not None
    assert (version.create_revision, version.mod_revision, version.version) == (2, 4, 2)


def test_a_catalogue_row_on_its_own_is_seen_among_puts() -> None:
    state = State()
    row = [Effect(PUT, SYSTEM_NAMESPACE, b"next-namespace-id", (9).to_bytes(4, "little"))]
    put = [Effect(PUT, 1, b"a", b"1")]
    state.replay_group(2, 3, b"".join(map(encode_commit, [put, row, put])))
    assert state.next_namespace_id == 9


@pytest.mark.parametrize(
    ("payload", "count"),
    [
        (b"", 1),
        (encode_put_run(1, [b"a"], [b"1"]), 0),
        (encode_put_run(1, [b"a"], [b"1"]), 2),
        (encode_put_run(1, [b"a", b"b"], [b"1", b"2"]), 1),
        (encode_put_run(1, [b"a"], [b"1"]) + b"\0", 1),
        (encode_put_run(1, [b"a"], [b"1"]) + bytes(40), 1),
        (encode_put_run(1, [b"a"], [b"1"])[:-1], 1),
        (encode_put_run(1, [b"a"], [b"1"])[:12], 1),
        (b"\xff" * 60, 1),
    ],
)
def test_a_payload_that_is_not_exactly_its_commits_is_refused(payload: bytes, count: int) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        State().replay_group(2, count, payload)


@given(st.lists(commits, min_size=1, max_size=4), st.data())
def test_a_damaged_payload_makes_no_more_than_a_value_error(group: list[list[Effect]], data: st.DataObject) -> None:
    payload = bytearray(b"".join(map(encode_commit, group)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(payload) - 1))
        payload[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ValueError):
        State().replay_group(2, len(group), bytes(payload))


# Namespaces


def test_a_new_store_has_the_namespace_with_the_empty_name() -> None:
    state = State()
    assert state.namespace_id("", revision=1) == DEFAULT_NAMESPACE


def test_an_unknown_namespace_is_refused_with_the_command_that_creates_it() -> None:
    with pytest.raises(UnknownNamespace, match="'orders'") as refused:
        State().namespace_id("orders", revision=9)
    assert refused.value.hint.endswith("kvctl namespace create orders")


def test_ids_are_given_in_order_and_names_are_kept_as_they_are() -> None:
    state = State()
    for revision, name in enumerate(["orders", "Übung/ß", "x" * 255], start=2):
        state.apply(state.creation_effects(name), revision)
    assert [state.namespace_id(name, revision=4) for name in ("orders", "Übung/ß", "x" * 255)] == [2, 3, 4]
    assert state.next_namespace_id == 5


def test_a_namespace_does_not_exist_before_its_creation() -> None:
    state = State()
    state.apply(state.creation_effects("orders"), 7)
    assert state.namespace_id("orders", revision=7) == FIRST_NAMESPACE
    with pytest.raises(UnknownNamespace):
        state.namespace_id("orders", revision=6)


def dropped(state: State, name: str, revision: int) -> int:
    """Drop a namespace; return its number."""
    entry = state.namespaces[name]
    state.apply(state.drop_effects(entry), revision)
    return entry.id


def test_a_dropped_namespace_exists_for_whoever_does_not_see_the_drop() -> None:
    state = State()
    state.apply(state.creation_effects("orders"), 5)
    number = dropped(state, "orders", 8)
    assert state.namespace_id("orders", revision=7) == number
    assert [entry.name for entry in state.namespaces_at(7)] == ["", "orders"]
    assert [entry.name for entry in state.namespaces_at(8)] == [""]
    with pytest.raises(UnknownNamespace):
        state.namespace_id("orders", revision=8)
    with pytest.raises(UnknownNamespace) as refused:
        state.require_live(number)
    assert refused.value.depends_on == 8
    state.require_live(number, 7)
    state.require_live(DEFAULT_NAMESPACE)


def test_a_name_used_again_is_at_each_revision_the_namespace_of_then() -> None:
    state = State()
    state.apply(state.creation_effects("orders"), 2)
    old = dropped(state, "orders", 3)
    state.apply(state.creation_effects("orders"), 4)
    new = state.namespaces["orders"].id
    assert new != old
    assert (state.namespace_id("orders", revision=2), state.namespace_id("orders", revision=4)) == (old, new)
    with pytest.raises(UnknownNamespace):
        state.namespace_id("orders", revision=3)


def test_the_catalogue_loaded_from_tables_is_the_one_that_was_written_there() -> None:
    state = State()
    names = ["orders", "gone", "Übung/ß"]
    for revision, name in enumerate(names, start=2):
        state.apply(state.creation_effects(name), revision)
    number = dropped(state, "gone", 5)
    state.apply(state.creation_effects("gone"), 6)
    again = dropped(state, "orders", 7)
    state.apply(state.compaction_effects(4), 8)
    rows = []
    for key, chain in sorted(state.memtable.table(SYSTEM_NAMESPACE).chains.items()):
        if chain[1] is not None:
            rows.append((data_key(SYSTEM_NAMESPACE, key), encode_version(chain[0], chain[0], 1, chain[1])))
    loaded = State(View(is_bottom=False, flushed_revision=8))
    loaded.load(rows)
    assert loaded.namespaces == state.namespaces
    assert loaded.next_namespace_id == state.next_namespace_id
    assert loaded.newest_compaction == (8, 4)
    assert {number: entry.drop_revision for number, entry in loaded.dropped.items()} == {number: 5, again: 7}
    for held in (number, again):
        with pytest.raises(UnknownNamespace):
            loaded.require_live(held)


def test_history_is_given_up_for_readers_of_the_commit_that_did_it() -> None:
    state = State()
    state.apply(state.compaction_effects(3), 5)
    state.apply(state.compaction_effects(6), 9)
    assert [state.oldest_readable(revision) for revision in (1, 4, 5, 8, 9, 100)] == [1, 1, 3, 3, 6, 6]
    assert state.newest_compaction == (9, 6)
