"""Tables in memory and in small files of a ``FileSystem``: the twin of those in RocksDB, for tests that cut the power.

    tables = TwinTables(MemoryFileSystem(), Path("/data/tables"))

A table is one file under the root, ``<first>-<last>.table``: the numbers of the changes that it stands for. An ingest links the
finished file under the next number and syncs the folder; so does a range deletion, with a file of one entry. ``compact`` writes
one file for all numbers, and only then removes those that it replaces; a file whose numbers lie within another's is left over
from a crash and is removed when the tables are opened. Numbers that are missing are corruption, as are files that do not check.
"""

from __future__ import annotations

import bisect
import contextlib
import errno
import re
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kvserver.base.coding import crc32c
from kvserver.base.errors import Corruption
from kvserver.base.fs import FileSystem, create_once, opened, read_file
from kvserver.storage.tables import Row, TableFigures, TablesClosed
from support.memfs import os_error

_MAGIC = b"twin table 1\n"
_ENTRY = struct.Struct("<BII")  # what, length of the key, length of the value; both follow
_CHECK = struct.Struct("<II")  # number of entries, CRC-32C of all before it
_PUT, _DELETE, _DELETE_RANGE = 1, 2, 3
_NAME = re.compile(r"([0-9]{8})-([0-9]{8})\.table")
_TEMPORARY = "writing.tmp"


class Entry(NamedTuple):
    """One change: a row, the removal of one, or the removal of a range whose end stands in the value."""

    what: int
    key: bytes
    value: bytes = b""


class _Table(NamedTuple):
    """A file that was taken in."""

    first: int
    last: int
    file_bytes: int
    entries: list[Entry]

    def touches(self, start: bytes, end: bytes) -> bool:
        """Say whether it may change something with start <= key < end (end empty: no end)."""
        return any(
            (not end or entry.key < end) and (entry.value > start if entry.what == _DELETE_RANGE else entry.key >= start)
            for entry in self.entries
        )


def encode(entries: Sequence[Entry]) -> bytes:
    """Return the bytes of a table."""
    parts = [_MAGIC]
    for what, key, value in entries:
        parts += (_ENTRY.pack(what, len(key), len(value)), key, value)
    body = b"".join(parts)
    return body + _CHECK.pack(len(entries), crc32c(0, body))


def decode(path: Path, data: bytes) -> list[Entry]:
    """Return the entries of a table. Raises Corruption."""
    end = len(data) - _CHECK.size
    if end < len(_MAGIC) or not data.startswith(_MAGIC):
        raise Corruption(path, 0, "this is no table of a twin")
    count, check = _CHECK.unpack_from(data, end)
    if crc32c(0, data[:end]) != check:
        raise Corruption(path, 0, "the checksum of a table does not match")
    entries = []
    at = len(_MAGIC)
    while at < end:
        what, key_length, value_length = _ENTRY.unpack_from(data, at)
        key_at = at + _ENTRY.size
        at = key_at + key_length + value_length
        entries.append(Entry(what, data[key_at : key_at + key_length], data[key_at + key_length : at]))
    if len(entries) != count:
        raise Corruption(path, end, "the number of entries of a table does not match")
    return entries


class TwinWriter:
    """Writes one table; nothing reaches the disk before ``finish``, but for the file's name."""

    def __init__(self, fs: FileSystem, path: Path) -> None:
        self._fs = fs
        self._path = path
        self._entries: list[Entry] = []
        if fs.exists(path):
            fs.remove(path)
        self._file = fs.create(path)

    def put(self, key: bytes, value: bytes) -> None:
        """Add a row."""
        self._add(Entry(_PUT, key, value))

    def delete(self, key: bytes) -> None:
        """Add the removal of a row."""
        self._add(Entry(_DELETE, key))

    def _add(self, entry: Entry) -> None:
        if self._entries and entry.key <= self._entries[-1].key:
            raise ValueError("keys must come in rising order, each once")
        self._entries.append(entry)

    def finish(self) -> int:
        """Make the table durable, close it, return its bytes."""
        if not self._entries:
            raise ValueError("a table without rows cannot be finished")
        data = encode(self._entries)
        with opened(self._file):
            self._file.pwrite(data, 0)
            self._file.sync()
        self._fs.sync_dir(self._path.parent)
        return len(data)

    def abandon(self) -> None:
        """Close and remove what was written."""
        self._file.close()
        if self._fs.exists(self._path):
            self._fs.remove(self._path)


class TwinReader:
    """The same tables for somebody who only reads; closing it leaves them open."""

    def __init__(self, tables: TwinTables) -> None:
        self._tables = tables
        self._closed = False

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the rows of the keys."""
        self._check()
        return self._tables.get_many(keys)

    def rows(self, start: bytes, end: bytes, limit: int, max_bytes: int = 0, reverse: bool = False) -> list[Row]:
        """Return the rows of a range."""
        self._check()
        return self._tables.rows(start, end, limit, max_bytes, reverse)

    def close(self) -> None:
        """Refuse everything from now on."""
        self._closed = True

    def _check(self) -> None:
        if self._closed:
            raise TablesClosed("the reader is closed")


class TwinTables:
    """The tables below one folder, which is made where it is missing. Safe for several threads. Raises Corruption."""

    def __init__(self, fs: FileSystem, root: Path) -> None:
        self._fs = fs
        self._root = root
        self._mutex = threading.RLock()
        self._closed = False
        self.pretended_figures: TableFigures | None = None
        """What ``figures`` answers instead of the truth, for tests of whoever looks at it."""
        fs.make_dir(root)
        self._tables = self._load()
        self._live: dict[bytes, bytes] = {}
        self._sorted: list[bytes] | None = None
        for table in self._tables:
            self._apply(table.entries)

    # Reading

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the rows of the keys, None where there is none."""
        with self._open():
            return [self._live.get(key) for key in keys]

    def rows(self, start: bytes, end: bytes, limit: int, max_bytes: int = 0, reverse: bool = False) -> list[Row]:
        """Return the rows with start <= key < end."""
        with self._open():
            keys = self._sorted_keys()
            low = bisect.bisect_left(keys, start)
            high = bisect.bisect_left(keys, end) if end else len(keys)
            found: list[Row] = []
            held_bytes = 0
            for at in range(high - 1, low - 1, -1) if reverse else range(low, high):
                if len(found) >= limit or (max_bytes and held_bytes >= max_bytes):
                    break
                found.append((keys[at], self._live[keys[at]]))
                held_bytes += sum(map(len, found[-1]))
            return found

    def reader(self) -> TwinReader:
        """Return a reader of these tables; it sees what they hold at each moment."""
        return TwinReader(self)

    # Changing

    def new_table(self, path: Path) -> TwinWriter:
        """Begin a table; a file of this name is replaced."""
        return TwinWriter(self._fs, path)

    def ingest(self, path: Path) -> None:
        """Take a finished table in: a second name in the root, durable; then the first name is removed."""
        with self._open():
            data = read_file(self._fs, path)
            entries = decode(path, data)
            number = self._next_number()
            taken = self._free_path(number, number)
            self._fs.link(path, taken)
            try:
                self._fs.sync_dir(self._root)
            except OSError:
                with contextlib.suppress(OSError):
                    self._fs.remove(taken)
                raise
            self._take(_Table(number, number, len(data), entries))
            with contextlib.suppress(OSError):
                self._fs.remove(path)

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Remove the rows with start <= key < end."""
        if not end:
            raise ValueError("a range of rows to remove has an end")
        with self._open():
            if start >= end:
                return
            number = self._next_number()
            entries = [Entry(_DELETE_RANGE, start, end)]
            data = encode(entries)
            create_once(self._fs, self._free_path(number, number), self._root / _TEMPORARY, data)
            self._take(_Table(number, number, len(data), entries))

    def compact(self, start: bytes, end: bytes) -> None:
        """Merge all tables into one, if any may hold something of the range; the old files go once the new one is durable."""
        with self._open():
            old = self._tables
            if not any(table.touches(start, end) for table in old) or (len(old) == 1 and old[0].last > 1):
                return
            entries = [Entry(_PUT, key, self._live[key]) for key in self._sorted_keys()]
            data = encode(entries)
            merged = _Table(1, old[-1].last + 1, len(data), entries)
            create_once(self._fs, self._free_path(merged.first, merged.last), self._root / _TEMPORARY, data)
            self._tables = [merged]
            for table in old:
                self._fs.remove(self._path(table.first, table.last))

    def checkpoint(self, target: Path) -> None:
        """Link every table into a new folder, the newest first: what a crash leaves of it is known by its missing numbers."""
        with self._open():
            if self._fs.exists(target) and self._fs.list_dir(target):
                raise os_error(errno.EEXIST, target)
            self._fs.make_dir(target)
            for table in reversed(self._tables):
                path = self._path(table.first, table.last)
                self._fs.link(path, target / path.name)
            self._fs.sync_dir(target)
            self._fs.sync_dir(target.parent)

    # Looking after them

    def verify(self, still_wanted: Callable[[], bool] = lambda: True) -> list[str]:
        """Read every table again, and return what is wrong with each damaged one."""
        with self._open():
            found = []
            for table in self._tables:
                path = self._path(table.first, table.last)
                try:
                    decode(path, read_file(self._fs, path))
                except (Corruption, OSError) as error:
                    found.append(str(error))
            return found

    def figures(self) -> TableFigures:
        """Return what the tables look like; one that stands for several numbers is merged."""
        with self._open():
            return self.pretended_figures or TableFigures(
                files=len(self._tables),
                total_bytes=sum(table.file_bytes for table in self._tables),
                level0_files=sum(table.first == table.last for table in self._tables),
            )

    def close(self) -> None:
        """Refuse everything from now on."""
        with self._mutex:
            self._closed = True

    # Within

    @contextlib.contextmanager
    def _open(self) -> Iterator[None]:
        with self._mutex:
            if self._closed:
                raise TablesClosed(f"the tables in {self._root} are closed")
            yield

    def _path(self, first: int, last: int) -> Path:
        return self._root / f"{first:08d}-{last:08d}.table"

    def _free_path(self, first: int, last: int) -> Path:
        """Return a path for a new file; what an attempt that failed left there is removed."""
        path = self._path(first, last)
        if self._fs.exists(path):
            self._fs.remove(path)
        return path

    def _next_number(self) -> int:
        return self._tables[-1].last + 1 if self._tables else 1

    def _load(self) -> list[_Table]:
        """Return the tables on disk, the oldest first; remove what a crash left over."""
        spans = []
        for name in self._fs.list_dir(self._root):
            match = _NAME.fullmatch(name)
            if match:
                spans.append((int(match[1]), int(match[2])))
            elif name == _TEMPORARY:
                self._fs.remove(self._root / name)
        tables: list[_Table] = []
        expected = 1
        for first, last in sorted(spans, key=lambda span: (span[0], -span[1])):
            path = self._path(first, last)
            if last < expected:
                self._fs.remove(path)
                continue
            if first != expected:
                raise Corruption(path, 0, f"tables are missing before it, from number {expected}")
            data = read_file(self._fs, path)
            tables.append(_Table(first, last, len(data), decode(path, data)))
            expected = last + 1
        return tables

    def _take(self, table: _Table) -> None:
        self._tables = [*self._tables, table]
        self._apply(table.entries)

    def _apply(self, entries: Sequence[Entry]) -> None:
        self._sorted = None
        for what, key, value in entries:
            if what == _PUT:
                self._live[key] = value
            elif what == _DELETE:
                self._live.pop(key, None)
            else:
                for gone in [held for held in self._live if key <= held < value]:
                    del self._live[gone]

    def _sorted_keys(self) -> list[bytes]:
        if self._sorted is None:
            self._sorted = sorted(self._live)
        return self._sorted
