"""The hash of what a store holds: the same however it came to be, another one for any difference."""

from __future__ import annotations

import hashlib
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance.tables_kinds import KINDS, ingest, open_tables
from kvserver.base.errors import Corruption
from kvserver.base.paths import DataPaths
from kvserver.base.types import Epoch, Position
from kvserver.commit.requests import CompactHistory, CreateNamespace, Delete, DropNamespace, Put, Request
from kvserver.engine.database import Database
from kvserver.storage import content_hash as module
from kvserver.storage import rows
from kvserver.storage.content_hash import ContentHash, content_hash
from kvserver.storage.resolve import DROPPED_ROW
from kvserver.storage.rows import Flushed, encode_version
from kvserver.storage.tables import Tables
from support.memfs import MemoryFileSystem
from support.stores import do, flush, open_store, run_settling
from support.twin_tables import TwinTables

POSITION = Position(Epoch(1, 7), 50, bytes(16))
MARK = rows.encode_flushed(Flushed(bytes(16), POSITION, 0, 4))
VERSION = encode_version(9, 8, 2, b"value")

HISTORY: list[Request] = [
    Put(1, b"a", b"1"),
    CreateNamespace("team"),
    Put(2, b"a", b"2"),
    Put(1, b"a", b"3"),
    Put(1, b"b\0", b""),
    CreateNamespace("gone"),
    Put(3, b"x", b"y"),
    Delete(1, b"a"),
    Put(1, b"a", b"again", if_revision=0),
    DropNamespace("gone"),
    CompactHistory(5),
    Put(2, b"z", b"\0" * 300),
]


def of_rows(held: dict[bytes, bytes]) -> ContentHash:
    """Return the hash of rows as they are."""
    tables = TwinTables(MemoryFileSystem(), Path("/tables"))
    writer = tables.new_table(Path("/tables/new"))
    for key, value in sorted(held.items()):
        writer.put(key, value)
    writer.finish()
    tables.ingest(Path("/tables/new"))
    return content_hash(tables)


def sound() -> dict[bytes, bytes]:
    """Return the rows of two keys of two namespaces, and of the system's own."""
    return {
        rows.FLUSHED_KEY: MARK,
        rows.data_key(0, b"next-namespace-id"): VERSION,
        rows.data_key(1, b"a"): VERSION,
        rows.data_key(1, b"ab"): VERSION,
        rows.data_key(2, b"a"): VERSION,
    }


def tables_of(database: Database) -> Tables:
    return database._tables


def carried_out(flush_after: Callable[[int], bool]) -> Database:
    database = open_store(MemoryFileSystem())
    for number, request in enumerate(HISTORY):
        do(database, request)
        if flush_after(number):
            flush(database)
    flush(database)
    return database


# Equal states


def test_it_is_the_same_however_often_was_flushed() -> None:
    one = content_hash(tables_of(carried_out(lambda number: False)))
    for dice in range(20):
        chosen = {number for number in range(len(HISTORY)) if random.Random(100 * dice + number).random() < 0.4}
        assert content_hash(tables_of(carried_out(chosen.__contains__))) == one
    assert content_hash(tables_of(carried_out(lambda number: True))) == one
    assert (one.revision, one.keys) == (1 + len(HISTORY), 8)


def test_it_is_the_same_after_merging_and_giving_history_up() -> None:
    database = carried_out(lambda number: True)
    before = content_hash(tables_of(database))
    tables_of(database).delete_range(rows.HISTORY, bytes((rows.HISTORY[0] + 1,)))
    tables_of(database).delete_range(rows.data_prefix(3), rows.data_prefix(4))
    tables_of(database).compact(b"", b"")
    assert content_hash(tables_of(database)) == before


def test_it_is_the_same_in_a_checkpoint_and_in_what_is_opened_from_it() -> None:
    database = carried_out(lambda number: number % 3 == 0)
    before = content_hash(tables_of(database))
    target = Path("/copies/one")
    run_settling(database, database.checkpoint(target))
    fs = database._env.fs
    assert content_hash(TwinTables(fs, target / "tables")) == before
    database.close()
    fork = open_store(fs, paths=DataPaths(target), seed=5)
    assert content_hash(tables_of(fork)) == before
    do(fork, Put(1, b"a", b"of the fork"))
    flush(fork)
    assert content_hash(tables_of(fork)).sha256 != before.sha256


def test_what_is_left_of_a_dropped_namespace_does_not_count() -> None:
    held = sound()
    held[rows.data_key(0, DROPPED_ROW + (2).to_bytes(4, "big"))] = VERSION
    without = {key: value for key, value in held.items() if not key.startswith(rows.data_prefix(2))}
    assert of_rows(held) == of_rows(without)
    last = 0xFFFF_FFFF
    held[rows.data_key(0, DROPPED_ROW + last.to_bytes(4, "big"))] = VERSION
    alone = of_rows(held)
    assert of_rows({**held, rows.data_key(last, b"a"): VERSION}) == alone


def test_history_statistics_and_times_do_not_count() -> None:
    more = sound()
    more[rows.history_key(1, 1, b"a", 7)] = VERSION
    more[rows.statistics_key(1)] = bytes(24)
    more[rows.time_key(7)] = bytes(8)
    assert of_rows(more) == of_rows(sound())


def test_the_size_of_a_chunk_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    held = sound() | {rows.data_key(3, b"%d" % number): VERSION for number in range(30)}
    held[rows.data_key(0, DROPPED_ROW + (2).to_bytes(4, "big"))] = VERSION
    whole = of_rows(held)
    for chunk_rows in range(1, 8):
        monkeypatch.setattr(module, "CHUNK_ROWS", chunk_rows)
        assert of_rows(held) == whole


def test_no_more_is_read_at_once_than_a_chunk_and_dropped_namespaces_are_stepped_over() -> None:
    held = {rows.data_key(2, b"%06d" % number): VERSION for number in range(9_000)}
    held |= {rows.data_key(0, DROPPED_ROW + (2).to_bytes(4, "big")): VERSION, rows.data_key(3, b"a"): b"\0" * 25 + b"v"}
    tables = _Counted(held)
    assert content_hash(tables).keys == 2
    assert tables.given <= 2 * module.CHUNK_ROWS
    assert set(tables.limits) == {(module.CHUNK_ROWS, module.CHUNK_BYTES)}


class _Counted:
    """Rows in memory that count what was asked for."""

    def __init__(self, held: dict[bytes, bytes]) -> None:
        self._held = sorted(held.items())
        self.given = 0
        self.limits: list[tuple[int, int]] = []

    def get_many(self, keys: list[bytes]) -> list[bytes | None]:
        return [dict(self._held).get(key) for key in keys]

    def rows(self, start: bytes, end: bytes, limit: int, max_bytes: int = 0, reverse: bool = False) -> list[tuple[bytes, bytes]]:
        found = [row for row in self._held if start <= row[0] < end][:limit]
        self.given += len(found)
        self.limits.append((limit, max_bytes))
        return found

    def close(self) -> None:
        pass


def test_of_nothing_there_is_a_hash() -> None:
    empty = content_hash(tables_of(open_store(MemoryFileSystem())))
    assert (empty.position, empty.revision, empty.keys, len(empty.sha256)) == (None, 1, 0, 32)
    assert of_rows({rows.FLUSHED_KEY: MARK}).sha256 == empty.sha256


def test_it_is_computed_as_the_document_says() -> None:
    held = sound()
    digest = hashlib.sha256(b"kvserver content 1\n")
    for key in sorted(key for key in held if key[:1] == b"d"):
        row = held[key]
        digest.update(key[1:5] + struct.pack("<II", len(key) - 5, len(row) - 25) + row[1:25] + bytes(8) + key[5:] + row[25:])
    assert of_rows(held).sha256 == digest.digest()


# Different states


@pytest.mark.parametrize(
    "row",
    [
        encode_version(9, 8, 2, b"valuf"),
        encode_version(9, 8, 2, b"valu"),
        encode_version(9, 8, 2, b"value\0"),
        encode_version(9, 8, 3, b"value"),
        encode_version(9, 7, 2, b"value"),
        encode_version(10, 8, 2, b"value"),
        None,
    ],
)
@pytest.mark.parametrize("namespace", [0, 1, 2])
def test_any_difference_of_a_row_counts(namespace: int, row: bytes | None) -> None:
    held = sound()
    key = rows.data_key(namespace, b"next-namespace-id" if namespace == 0 else b"a")
    changed = {**held, key: row} if row is not None else {other: held[other] for other in held if other != key}
    assert of_rows(changed).sha256 != of_rows(held).sha256


def test_a_key_or_a_namespace_more_counts_and_lengths_keep_keys_and_values_apart() -> None:
    held = sound()
    found = {of_rows(held).sha256}
    found.add(of_rows({**held, rows.data_key(1, b""): VERSION}).sha256)
    found.add(of_rows({**held, rows.data_key(3, b"a"): VERSION}).sha256)
    moved = {**held, rows.data_key(1, b"av"): encode_version(9, 8, 2, b"alue")}
    del moved[rows.data_key(1, b"a")]
    found.add(of_rows(moved).sha256)
    assert len(found) == 4


@pytest.mark.parametrize("row", [b"", b"\0" * 24, b"\1" + VERSION[1:]])
def test_a_row_that_cannot_be_is_corruption(row: bytes) -> None:
    with pytest.raises(Corruption, match="none of a version"):
        of_rows({**sound(), rows.data_key(1, b"a"): row})
    with pytest.raises(Corruption, match="known form"):
        of_rows({**sound(), rows.FLUSHED_KEY: b"?"})


# Any rows, on both kinds of tables

_keys = st.builds(rows.data_key, st.integers(0, 4), st.binary(max_size=3))
_values = st.builds(encode_version, st.integers(1, 9), st.integers(1, 9), st.integers(1, 3), st.binary(max_size=4))
_changes = st.lists(st.dictionaries(_keys, st.none() | _values, min_size=1, max_size=8), min_size=1, max_size=4)


@pytest.mark.parametrize("name", ["rocks", "twin in memory"])
@settings(max_examples=15, deadline=None)
@given(changes=_changes)
def test_any_rows_hash_alike_on_every_kind_in_one_table_and_in_many(
    tmp_path_factory: pytest.TempPathFactory, name: str, changes: list[dict[bytes, bytes | None]]
) -> None:
    left: dict[bytes, bytes] = {}
    kind = KINDS[name](tmp_path_factory.mktemp("tables"))
    with open_tables(kind) as tables:
        for change in changes:
            ingest(kind, tables, change)
            left |= {key: value for key, value in change.items() if value is not None}
            left = {key: value for key, value in left.items() if change.get(key, value) is not None}
        assert content_hash(tables).sha256 == (of_rows(left | {rows.FLUSHED_KEY: MARK}).sha256)
        tables.compact(b"", b"")
        assert content_hash(tables).keys == len(left)
