"""What every kind of ``Tables`` does alike: those in RocksDB and the twin that tests run on."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conformance.tables_kinds import KINDS, Kind, build, flip_bit, ingest, open_tables, table_files
from kvserver.base.errors import Corruption
from kvserver.base.fs import opened, read_file, write_new_file
from kvserver.storage.tables import Row, TableFigures, Tables, TablesClosed

A, B, C, D, E = b"a", b"b", b"c", b"d", b"e"
ALL = 1 << 20


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, tmp_path: Path) -> Kind:
    return KINDS[request.param](tmp_path / "data")


@pytest.fixture
def tables(kind: Kind) -> Iterator[Tables]:
    with open_tables(kind) as tables:
        yield tables


def everything(tables: Tables) -> dict[bytes, bytes]:
    return dict(tables.rows(b"", b"", ALL))


# Building a table


def test_a_finished_table_has_the_bytes_that_finish_says(kind: Kind, tables: Tables) -> None:
    path = kind.building / "new.sst"
    writer = tables.new_table(path)
    writer.put(A, b"1")
    assert writer.finish() == len(read_file(kind.fs, path))
    assert everything(tables) == {}


@pytest.mark.parametrize("second", [B, A, b""])
def test_keys_that_do_not_rise_are_refused(kind: Kind, tables: Tables, second: bytes) -> None:
    writer = tables.new_table(kind.building / "new.sst")
    writer.put(B, b"1")
    with pytest.raises(ValueError):
        writer.put(second, b"2")
    with pytest.raises(ValueError):
        writer.delete(second)
    writer.put(C, b"3")
    writer.finish()
    tables.ingest(kind.building / "new.sst")
    assert everything(tables) == {B: b"1", C: b"3"}


def test_a_table_without_rows_cannot_be_finished(kind: Kind, tables: Tables) -> None:
    writer = tables.new_table(kind.building / "new.sst")
    with pytest.raises(ValueError):
        writer.finish()
    writer.abandon()
    assert kind.fs.list_dir(kind.building) == []


def test_an_abandoned_table_leaves_nothing(kind: Kind, tables: Tables) -> None:
    writer = tables.new_table(kind.building / "new.sst")
    writer.put(A, b"1")
    writer.abandon()
    assert kind.fs.list_dir(kind.building) == []


def test_a_table_of_the_same_name_replaces_a_left_over_one(kind: Kind, tables: Tables) -> None:
    build(kind, tables, {A: b"old", B: b"old"})
    tables.ingest(build(kind, tables, {A: b"new"}))
    assert everything(tables) == {A: b"new"}


def test_building_under_a_name_that_a_table_taken_in_still_has_does_it_no_harm(kind: Kind, tables: Tables) -> None:
    # A crash between taking a table in and removing its first name leaves both names to one file.
    ingest(kind, tables, {A: b"1"})
    (taken,) = table_files(kind)
    kind.fs.link(taken, kind.building / "new.sst")
    build(kind, tables, {A: b"2", B: b"2"})
    assert tables.verify() == []
    tables.close()
    with open_tables(kind) as again:
        assert everything(again) == {A: b"1"}


# Taking tables in


def test_the_newest_table_wins(kind: Kind, tables: Tables) -> None:
    ingest(kind, tables, {A: b"1", B: b"1", C: b"1"})
    ingest(kind, tables, {A: b"2", B: None, D: b"2"})
    assert everything(tables) == {A: b"2", C: b"1", D: b"2"}
    assert tables.get_many([A, B, C, D, E]) == [b"2", None, b"1", b"2", None]
    ingest(kind, tables, {B: b"3"})
    assert tables.get_many([B]) == [b"3"]


def test_the_file_of_a_table_moves(kind: Kind, tables: Tables) -> None:
    ingest(kind, tables, {A: b"1"})
    assert kind.fs.list_dir(kind.building) == []
    assert len(table_files(kind)) == 1


def test_what_was_taken_in_is_there_after_reopening(kind: Kind) -> None:
    for number in range(5):
        with open_tables(kind) as tables:
            ingest(kind, tables, {b"%d" % number: b"x", b"last": b"%d" % number})
    with open_tables(kind) as tables:
        assert everything(tables) == {**{b"%d" % number: b"x" for number in range(5)}, b"last": b"4"}
        assert tables.verify() == []


def test_a_table_that_is_not_there_cannot_be_taken_in(kind: Kind, tables: Tables) -> None:
    with pytest.raises(FileNotFoundError):
        tables.ingest(kind.building / "none.sst")


@pytest.mark.parametrize("content", [b"", b"x" * 10_000])
def test_a_file_that_is_no_table_is_refused(kind: Kind, tables: Tables, content: bytes) -> None:
    ingest(kind, tables, {A: b"1"})
    write_new_file(kind.fs, kind.building / "new.sst", content)
    with pytest.raises(Corruption):
        tables.ingest(kind.building / "new.sst")
    assert everything(tables) == {A: b"1"}
    assert kind.fs.list_dir(kind.building) == ["new.sst"]


def test_a_table_cut_short_is_refused(kind: Kind, tables: Tables) -> None:
    path = build(kind, tables, {b"%04d" % number: b"x" * 50 for number in range(1000)})
    with opened(kind.fs.open(path, writable=True)) as file:
        file.truncate(file.size() - 7)
    with pytest.raises(Corruption):
        tables.ingest(path)
    assert everything(tables) == {}


# Reading


@pytest.fixture
def five(kind: Kind, tables: Tables) -> Tables:
    """Five rows of two bytes each, in two tables, beside one that was removed."""
    ingest(kind, tables, {A: b"1", C: b"1", E: b"1", b"cc": b"1"})
    ingest(kind, tables, {B: b"2", D: b"2", b"cc": None})
    return tables


@pytest.mark.parametrize(
    ("start", "end", "limit", "max_bytes", "forward", "backward"),
    [
        (b"", b"", ALL, 0, b"abcde", b"edcba"),
        (b"b", b"d", ALL, 0, b"bc", b"cb"),
        (b"b", b"dd", ALL, 0, b"bcd", b"dcb"),
        (b"aa", b"cc", ALL, 0, b"bc", b"cb"),
        (b"e", b"", ALL, 0, b"e", b"e"),
        (b"f", b"", ALL, 0, b"", b""),
        (b"", b"a", ALL, 0, b"", b""),
        (b"c", b"c", ALL, 0, b"", b""),
        (b"d", b"b", ALL, 0, b"", b""),
        (b"", b"z", 3, 0, b"abc", b"edc"),
        (b"", b"", 0, 0, b"", b""),
        (b"", b"", 1, 0, b"a", b"e"),
        (b"", b"", ALL, 1, b"a", b"e"),
        (b"", b"", ALL, 2, b"a", b"e"),
        (b"", b"", ALL, 3, b"ab", b"ed"),
        (b"", b"", 1, 100, b"a", b"e"),
        (b"\xff", b"", ALL, 0, b"", b""),
        (b"", b"\0", ALL, 0, b"", b""),
    ],
)
def test_rows_of_a_range(
    five: Tables, start: bytes, end: bytes, limit: int, max_bytes: int, forward: bytes, backward: bytes
) -> None:
    keys = [key for key, _ in five.rows(start, end, limit, max_bytes)]
    assert b"".join(keys) == forward
    keys = [key for key, _ in five.rows(start, end, limit, max_bytes, reverse=True)]
    assert b"".join(keys) == backward


def test_empty_tables_hold_nothing(tables: Tables) -> None:
    assert tables.rows(b"", b"", ALL) == tables.rows(b"", b"", ALL, reverse=True) == tables.rows(b"a", b"b", 1) == []
    assert tables.get_many([]) == []
    assert tables.get_many([A, b""]) == [None, None]
    assert tables.verify() == []
    assert tables.figures() == TableFigures()


def test_many_keys_are_read_in_any_order_and_twice(five: Tables) -> None:
    assert five.get_many([E, A, b"x", A]) == [b"1", b"1", None, b"1"]


def test_empty_values_and_odd_keys_are_kept(kind: Kind, tables: Tables) -> None:
    rows: dict[bytes, bytes | None] = {b"\0": b"", b"\0\0": b"\0", b"\xff" * 300: b"", b"a" * 8192: b"v" * (1 << 20)}
    ingest(kind, tables, rows)
    assert everything(tables) == rows
    assert tables.rows(b"\xff", b"", 1, reverse=True) == [(b"\xff" * 300, b"")]


# Removing, merging


def test_a_range_is_removed_for_good_and_newer_rows_of_it_are_kept(kind: Kind, tables: Tables) -> None:
    ingest(kind, tables, {A: b"1", B: b"1", C: b"1", D: b"1"})
    tables.delete_range(B, D)
    assert everything(tables) == {A: b"1", D: b"1"}
    ingest(kind, tables, {C: b"2"})
    tables.close()
    with open_tables(kind) as again:
        assert everything(again) == {A: b"1", C: b"2", D: b"1"}
        again.compact(b"", b"")
        assert everything(again) == {A: b"1", C: b"2", D: b"1"}
        assert again.get_many([A, B, C, D]) == [b"1", None, b"2", b"1"]


def test_an_empty_range_removes_nothing_and_one_without_end_is_refused(kind: Kind, tables: Tables) -> None:
    ingest(kind, tables, {A: b"1", B: b"1"})
    tables.delete_range(B, B)
    tables.delete_range(B, A)
    with pytest.raises(ValueError):
        tables.delete_range(A, b"")
    assert everything(tables) == {A: b"1", B: b"1"}


def test_merging_gives_the_space_back(kind: Kind, tables: Tables) -> None:
    for number in range(4):
        rows: dict[bytes, bytes | None] = {b"%04d" % key: random.Random(number).randbytes(200) for key in range(1000)}
        ingest(kind, tables, rows)
    tables.delete_range(b"0100", b"0900")
    before = tables.figures()
    tables.compact(b"", b"")
    after = tables.figures()
    assert len(everything(tables)) == 200
    assert after.files == 1 and after.level0_files == 0 and after.background_error == ""
    assert after.total_bytes < before.total_bytes / 10
    assert len(table_files(kind)) == 1


def test_merging_a_range_without_rows_changes_nothing(five: Tables) -> None:
    rows = everything(five)
    five.compact(b"x", b"z")
    five.compact(B, C)
    assert everything(five) == rows


# Copies, damage, closing


def test_a_checkpoint_is_of_its_moment_and_stands_alone(kind: Kind, tables: Tables) -> None:
    target = kind.folder.parent / "copy"
    ingest(kind, tables, {A: b"1", B: b"1"})
    tables.delete_range(B, C)
    tables.checkpoint(target)
    ingest(kind, tables, {A: b"2", C: b"2"})
    tables.compact(b"", b"")
    with pytest.raises(FileExistsError):
        tables.checkpoint(target)
    kind.folder = target
    with open_tables(kind) as copy:
        assert everything(copy) == {A: b"1"}
        assert copy.verify() == []
        ingest(kind, copy, {D: b"copy"})
        copy.compact(b"", b"")
    assert everything(tables) == {A: b"2", C: b"2"}


@pytest.mark.parametrize("place", [0.02, 0.5, 0.9, 0.999])
def test_verify_names_a_damaged_table(kind: Kind, tables: Tables, place: float) -> None:
    rows: dict[bytes, bytes | None] = {b"%06d" % key: random.Random(key).randbytes(60) for key in range(3000)}
    ingest(kind, tables, rows)
    (sound,) = table_files(kind)
    ingest(kind, tables, rows)
    (damaged,) = set(table_files(kind)) - {sound}
    assert tables.verify() == []
    flip_bit(kind.fs, damaged, int(len(read_file(kind.fs, damaged)) * place))
    (finding,) = tables.verify()
    assert damaged.name in finding and sound.name not in finding


def test_closed_tables_refuse_everything(kind: Kind) -> None:
    tables = kind.open()
    ingest(kind, tables, {A: b"1"})
    path = build(kind, tables, {B: b"1"})
    tables.close()
    tables.close()
    calls: list[Callable[[], object]] = [
        lambda: tables.get_many([A]),
        lambda: tables.rows(b"", b"", 1),
        lambda: tables.ingest(path),
        lambda: tables.delete_range(A, B),
        lambda: tables.compact(b"", b""),
        lambda: tables.checkpoint(kind.folder.parent / "copy"),
        tables.verify,
        tables.figures,
    ]
    for call in calls:
        with pytest.raises(TablesClosed):
            call()


# Side by side


def test_a_reader_beside_a_writer_sees_whole_tables_while_they_are_merged(kind: Kind, tables: Tables) -> None:
    def rows(number: int) -> dict[bytes, bytes | None]:
        return {b"%04d" % key: b"%d" % number for key in range(500)}

    ingest(kind, tables, rows(0))
    stop = threading.Event()
    failures: list[BaseException] = []

    def merge() -> None:
        try:
            number = 0
            while not stop.is_set():
                number += 1
                ingest(kind, tables, rows(number))
                tables.compact(b"", b"")
        except BaseException as error:
            failures.append(error)

    merging = threading.Thread(target=merge)
    merging.start()
    try:
        for _ in range(20):
            reader = kind.open_reader(tables)
            found = reader.rows(b"", b"", ALL)
            assert len(found) == 500 and len({value for _, value in found}) == 1
            assert len(set(reader.get_many([b"0000", b"0250", b"0499"]))) == 1
            reader.close()
            reader.close()
            with pytest.raises(TablesClosed):
                reader.get_many([A])
    finally:
        stop.set()
        merging.join()
    assert failures == []


@pytest.mark.parametrize("seed", range(6))
def test_random_changes_agree_with_a_model(kind: Kind, seed: int) -> None:
    chance = random.Random(seed)
    model: dict[bytes, bytes] = {}

    def some_key() -> bytes:
        return bytes(chance.choices(b"abc\0\xff", k=chance.randint(1, 4)))

    tables = kind.open()
    for step in range(60):
        what = chance.random()
        if what < 0.5:
            changes = {some_key(): None if chance.random() < 0.3 else b"%d" % step * chance.randint(0, 4) for _ in range(8)}
            ingest(kind, tables, changes)
            model.update({key: value for key, value in changes.items() if value is not None})
            for gone in [key for key, value in changes.items() if value is None]:
                model.pop(gone, None)
        elif what < 0.65:
            start, end = some_key(), some_key()
            tables.delete_range(start, end)
            model = {key: value for key, value in model.items() if not start <= key < end}
        elif what < 0.75:
            tables.compact(some_key(), chance.choice([b"", some_key()]))
        elif what < 0.85:
            tables.close()
            tables = kind.open()
        for _ in range(5):
            start, end = chance.choice([b"", some_key()]), chance.choice([b"", some_key()])
            limit, max_bytes, reverse = chance.randint(0, 12), chance.choice([0, 1, 5, 20]), chance.random() < 0.5
            expected: list[Row] = []
            for row in sorted(model.items(), reverse=reverse):
                if len(expected) >= limit or (max_bytes and sum(len(key) + len(value) for key, value in expected) >= max_bytes):
                    break
                if start <= row[0] and (not end or row[0] < end):
                    expected.append(row)
            assert tables.rows(start, end, limit, max_bytes, reverse) == expected
        wanted = [some_key() for _ in range(10)]
        assert tables.get_many(wanted) == [model.get(key) for key in wanted]
    assert tables.verify() == []
    tables.close()
