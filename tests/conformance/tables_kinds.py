"""The kinds of ``Tables`` that the suite runs on, and what it needs to do to each of them from outside."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from kvserver.base.fs import FileSystem, OsFileSystem, opened
from kvserver.storage.rocks import RocksTables, open_reader
from kvserver.storage.tables import TableReader, Tables
from support.memfs import MemoryFileSystem
from support.twin_tables import TwinTables

CACHE_BYTES = 1 << 20


class Kind(Protocol):
    """One data folder with tables of some kind in it."""

    fs: FileSystem
    folder: Path
    """The tables' own."""
    building: Path
    """Where tables are built; on the same file system."""

    def open(self) -> Tables:
        """Open the tables for writing."""

    def open_reader(self, tables: Tables) -> TableReader:
        """Open them for reading beside who has them open for writing."""


class RocksKind:
    """Tables in RocksDB, on the machine's own file system."""

    def __init__(self, root: Path) -> None:
        self.fs: FileSystem = OsFileSystem()
        self.folder = root / "tables"
        self.building = root / "building"
        self.fs.make_dir(self.building)

    def open(self) -> Tables:
        """Open the tables for writing."""
        return RocksTables.open(self.folder, CACHE_BYTES)

    def open_reader(self, tables: Tables) -> TableReader:
        """Open them read-only."""
        return open_reader(self.folder, CACHE_BYTES)


class TwinKind:
    """The twin, on some file system."""

    def __init__(self, fs: FileSystem, root: Path) -> None:
        self.fs = fs
        self.folder = root / "tables"
        self.building = root / "building"
        fs.make_dir(self.building)

    def open(self) -> Tables:
        """Open the tables for writing."""
        return TwinTables(self.fs, self.folder)

    def open_reader(self, tables: Tables) -> TableReader:
        """Return a reader of the open tables."""
        assert isinstance(tables, TwinTables)
        return tables.reader()


KINDS: dict[str, Callable[[Path], Kind]] = {
    "rocks": RocksKind,
    "twin in memory": lambda root: TwinKind(MemoryFileSystem(), root),
    "twin on disk": lambda root: TwinKind(OsFileSystem(), root),
}


@contextlib.contextmanager
def open_tables(kind: Kind) -> Iterator[Tables]:
    """Open the tables and close them at the end of the block."""
    tables = kind.open()
    try:
        yield tables
    finally:
        tables.close()


def build(kind: Kind, tables: Tables, changes: Mapping[bytes, bytes | None], name: str = "new.sst") -> Path:
    """Build a table with these rows, and the removal of those that are None."""
    path = kind.building / name
    writer = tables.new_table(path)
    for key, value in sorted(changes.items()):
        if value is None:
            writer.delete(key)
        else:
            writer.put(key, value)
    assert writer.finish() > 0
    return path


def ingest(kind: Kind, tables: Tables, changes: Mapping[bytes, bytes | None]) -> None:
    """Build a table and take it in."""
    tables.ingest(build(kind, tables, changes))


def table_files(kind: Kind) -> list[Path]:
    """Return the files that hold rows."""
    return [kind.folder / name for name in kind.fs.list_dir(kind.folder) if name.endswith((".sst", ".table"))]


def flip_bit(fs: FileSystem, path: Path, offset: int) -> None:
    """Change one bit of a file; a negative offset counts from its end."""
    with opened(fs.open(path, writable=True)) as file:
        at = offset % file.size()
        file.pwrite(bytes([file.pread(1, at)[0] ^ 0x10]), at)
