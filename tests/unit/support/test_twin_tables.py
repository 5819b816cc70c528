"""The twin of the tables loses nothing and tears nothing, whatever a power loss leaves and whichever call fails."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from kvserver.base.errors import Corruption
from kvserver.base.fs import FileSystem
from kvserver.storage.tables import TableFigures, TablesClosed
from support.crashes import record_crash_points, states
from support.faultfs import Fault, failing_calls
from support.memfs import MemoryFileSystem
from support.recordfs import RecordingFileSystem
from support.twin_tables import TwinTables

DATA = Path("/data")
ROOT = DATA / "tables"
NEW = DATA / "new.sst"
ALL = 1 << 20

Rows = dict[bytes, bytes]


def add(fs: FileSystem, tables: TwinTables, number: int) -> None:
    """Take in a table with a row of its own, and one that every table replaces."""
    if fs.exists(NEW):
        fs.remove(NEW)
    writer = tables.new_table(NEW)
    writer.put(b"last", b"%d" % number)
    writer.put(b"own%d" % number, b"x")
    writer.finish()
    tables.ingest(NEW)


STEPS: list[Callable[[FileSystem, TwinTables], None]] = [
    lambda fs, tables: add(fs, tables, 1),
    lambda fs, tables: add(fs, tables, 2),
    lambda fs, tables: tables.delete_range(b"own1", b"own2"),
    lambda fs, tables: tables.compact(b"", b""),
    lambda fs, tables: add(fs, tables, 3),
    lambda fs, tables: tables.delete_range(b"own2", b"own4"),
    lambda fs, tables: tables.compact(b"", b""),
]
AFTER: list[Rows] = [
    {},
    {b"last": b"1", b"own1": b"x"},
    {b"last": b"2", b"own1": b"x", b"own2": b"x"},
    {b"last": b"2", b"own2": b"x"},
    {b"last": b"2", b"own2": b"x"},
    {b"last": b"3", b"own2": b"x", b"own3": b"x"},
    {b"last": b"3"},
    {b"last": b"3"},
]
"""What the tables hold after so many steps."""


def rows(tables: TwinTables) -> Rows:
    return dict(tables.rows(b"", b"", ALL))


def run(fs: FileSystem, done: list[int]) -> None:
    fs.make_dir(DATA)
    tables = TwinTables(fs, ROOT)
    for number, step in enumerate(STEPS, 1):
        step(fs, tables)
        done.append(number)
        assert rows(tables) == AFTER[number]


def test_a_power_loss_after_any_call_leaves_what_was_done_or_one_step_more() -> None:
    def program(fs: RecordingFileSystem[MemoryFileSystem]) -> None:
        fs.make_dir(DATA)
        tables = TwinTables(fs, ROOT)
        for number, step in enumerate(STEPS, 1):
            step(fs, tables)
            fs.mark("done", number)

    seen = 0
    rng = random.Random(1)
    for point in record_crash_points(MemoryFileSystem(), program):
        done = len(point.marks("done"))
        for state in states(point.disk, rng, limit=60):
            state.disk.make_dir(DATA)
            found = rows(TwinTables(state.disk, ROOT))
            assert found in AFTER[done : done + 2], f"after step {done}: {state}"
            seen += 1
    assert seen > 100


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO])
def test_whichever_call_fails_nothing_that_was_done_is_lost_and_the_step_can_be_done_again(error: int) -> None:
    failed = 0
    for fs in failing_calls(MemoryFileSystem, Fault(error=error)):
        done: list[int] = []
        try:
            run(fs, done)
            continue
        except OSError:
            failed += 1
        fs.make_dir(DATA)
        number = len(done)
        tables = TwinTables(fs, ROOT)
        assert rows(tables) in AFTER[number : number + 2]
        if rows(tables) == AFTER[number]:
            STEPS[number](fs, tables)
        assert rows(tables) == AFTER[number + 1]
        assert tables.verify() == []
    assert failed > 30


def test_a_step_that_failed_can_be_done_again_by_the_same_object() -> None:
    failed = 0
    for fs in failing_calls(MemoryFileSystem, Fault(error=errno.EIO)):
        tables = None
        for number, step in enumerate([None, *STEPS]):
            for attempt in (1, 2):
                try:
                    if tables is None:
                        fs.make_dir(DATA)
                        tables = TwinTables(fs, ROOT)
                    if step is not None:
                        step(fs, tables)
                    break
                except OSError:
                    assert attempt == 1
                    failed += 1
            assert tables is not None and rows(tables) == AFTER[number]
    assert failed > 30


def three(fs: MemoryFileSystem) -> TwinTables:
    fs.make_dir(DATA)
    tables = TwinTables(fs, ROOT)
    for number in (1, 2, 3):
        add(fs, tables, number)
    return tables


def test_a_missing_table_is_corruption() -> None:
    fs = MemoryFileSystem()
    three(fs)
    fs.remove(ROOT / "00000002-00000002.table")
    with pytest.raises(Corruption, match="missing"):
        TwinTables(fs, ROOT)


@pytest.mark.parametrize("data", [b"", b"foreign" * 100, b"twin table 1\n" + b"\0" * 8])
def test_a_foreign_table_is_corruption(data: bytes) -> None:
    fs = MemoryFileSystem()
    three(fs)
    fs.plant(ROOT / "00000002-00000002.table", data)
    with pytest.raises(Corruption):
        TwinTables(fs, ROOT)


def test_a_flipped_bit_is_corruption_wherever_it_is() -> None:
    fs = MemoryFileSystem()
    three(fs)
    path = ROOT / "00000002-00000002.table"
    data = fs.contents()[path]
    for place in range(len(data)):
        fs.plant(path, data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(Corruption):
            TwinTables(fs, ROOT)


def test_a_reader_can_be_closed_alone_and_ends_with_the_tables() -> None:
    tables = three(MemoryFileSystem())
    one, other = tables.reader(), tables.reader()
    one.close()
    with pytest.raises(TablesClosed):
        one.rows(b"", b"", 1)
    assert other.get_many([b"last"]) == [b"3"]
    tables.close()
    with pytest.raises(TablesClosed):
        other.get_many([b"last"])


def test_figures_can_be_pretended() -> None:
    tables = three(MemoryFileSystem())
    assert tables.figures().level0_files == 3
    tables.pretended_figures = TableFigures(level0_files=99)
    assert tables.figures().level0_files == 99
