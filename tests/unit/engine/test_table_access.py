"""The thread that reads for everybody: what one caller asks for must not be another's trouble, nor the server's end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kvserver.base.errors import Corruption
from kvserver.base.limits import FOUND_BYTES, MIB
from kvserver.engine.table_access import FIRST_KEYS, PART_BYTES, TablesBeside
from kvserver.storage.past import TableState
from kvserver.storage.rows import VERSION_LENGTH
from kvserver.storage.view import TableRows
from support.memfs import MemoryFileSystem
from support.twin_tables import TwinTables

LARGE = bytes(1 * MIB)


class Watched(TwinTables):
    """Tables that hold the same row for every key, except for one that is damaged, and note what each read brought."""

    row = b"x" * 100
    brought: list[int]

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        if b"damaged" in keys:
            raise Corruption("000001.sst", 7, "the checksum of a block does not match")
        self.brought.append(len(keys) * len(self.row))
        return [self.row for _ in keys]


@pytest.fixture
def tables() -> Watched:
    made = Watched(MemoryFileSystem(), Path("/tables"))
    made.brought = []
    return made


@pytest.fixture
def beside(tables: Watched) -> TablesBeside:
    return TablesBeside(tables, TableState(9, 100), lambda callback: callback())


def settle(beside: TablesBeside) -> None:
    while beside.run_once():
        pass


def test_what_waits_is_read_as_one(beside: TablesBeside, tables: Watched) -> None:
    told: list[Any] = []
    for number in range(20):
        beside.fetch([b"%d" % number, b"shared"], told.append)
    settle(beside)
    assert len(told) == 20 and len(tables.brought) == 1
    assert all(isinstance(rows, TableRows) and rows.rows[b"shared"] == tables.row for rows in told)


def test_a_damaged_row_fails_those_who_asked_for_it_and_nobody_else(beside: TablesBeside) -> None:
    told: dict[int, Any] = {}
    for number, key in enumerate([b"a", b"damaged", b"b"]):
        beside.fetch([key], lambda rows, number=number: told.__setitem__(number, rows))  # type: ignore[misc]
    settle(beside)
    assert isinstance(told[1], Corruption)
    assert told[0].rows[b"a"] and told[2].rows[b"b"]


def test_large_rows_are_read_a_few_at_a_time_and_no_more_than_an_answer_takes(beside: TablesBeside, tables: Watched) -> None:
    told: list[Any] = []
    beside.fetch([b"%05d" % number for number in range(16_384)], told.append)  # small ones: parts grow
    settle(beside)
    tables.row = LARGE
    tables.brought.clear()
    beside.fetch([b"%05d" % number for number in range(16_384)], told.append)
    settle(beside)
    assert max(tables.brought) <= FIRST_KEYS * len(LARGE)
    assert sum(tables.brought) <= FIRST_KEYS * len(LARGE) + FOUND_BYTES
    assert len(told[0].rows) == 16_384 and len(told[1].rows) == FIRST_KEYS


def test_heads_of_large_rows_are_all_there_and_nothing_else_is_kept(beside: TablesBeside, tables: Watched) -> None:
    told: list[Any] = []
    tables.row = LARGE
    beside.fetch([b"%03d" % number for number in range(200)], told.append, heads_only=True)
    settle(beside)
    assert len(told[0].rows) == 200
    assert {len(row) for row in told[0].rows.values()} == {VERSION_LENGTH}
    assert max(tables.brought[1:]) <= PART_BYTES


def test_small_callers_beside_a_large_one_get_all_that_they_asked_for(beside: TablesBeside, tables: Watched) -> None:
    told: dict[str, Any] = {}
    tables.row = LARGE
    beside.fetch([b"%03d" % number for number in range(300)], lambda rows: told.__setitem__("large", rows))
    beside.fetch([b"zz"], lambda rows: told.__setitem__("small", rows))
    settle(beside)
    assert told["small"].rows == {b"zz": LARGE}
    assert len(told["large"].rows) < 300
