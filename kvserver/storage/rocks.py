"""Tables kept in RocksDB: the only module that imports ``rocksdict``. Why, and what is assumed of it: ``docs/tables.md``.

RocksDB is used as a store of sorted files and nothing else. Its own log is off, its memtable holds nothing but a range deletion
on its way into a file, and every other row arrives in a file that ``ingest`` takes in. Habits of the binding shape the code:

- Stepping an iterator that has ended kills the process, and ``items()`` takes a damaged block for the end of the rows. So rows
  are walked with the raw iterator, which is stepped only while it is valid and asked for its status when it is not; it never
  leaves this module.
- An upper bound is not copied: the iterator looks into the bytes object it was given, which has to live as long. Setting a
  lower bound sets the upper one instead, so none is ever set.
- Without ``column_families`` a folder is opened with the options found in it, and a cache of 8 MiB, whatever was asked for.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    Checkpoint,
    ChecksumType,
    CompactOptions,
    DBCompressionType,
    IngestExternalFileOptions,
    Options,
    Rdict,
    ReadOptions,
    SstFileWriter,
    WriteOptions,
)

from kvserver.base.clock import SystemClock
from kvserver.base.errors import KvError
from kvserver.base.fs import OsFileSystem
from kvserver.base.limits import KIB, MIB
from kvserver.storage.gate import Gate
from kvserver.storage.rocks_errors import FailureWatch, error_of, last_failure, missing_current, opening_error_of
from kvserver.storage.sst_check import check_table, check_tables
from kvserver.storage.tables import Row, TableFigures, TablesClosed
from kvserver.storage.write_behind import WriteBehind

_LEVELS = 7
_NEVER = 1 << 30
_FAILURES = "background-errors"
_OPEN_ATTEMPTS = 5
_FILES = OsFileSystem()


def _cache(size_bytes: int) -> Cache:
    """Return a cache of parts of tables.

    The clock cache, because the default one is cut into shards too small for the index and filter of a table of many small
    rows, which are then read again at every lookup (3 million rows of 8 bytes: 22 to 31 µs a key, with the clock cache 2.5).
    """
    return Cache.new_hyper_clock_cache(size_bytes, 0)


def _table_options(cache: Cache | None) -> BlockBasedOptions:
    """Return how a table file is laid out, and where the parts of it that were read are kept."""
    table = BlockBasedOptions()
    table.set_format_version(5)
    # Not CRC-32C, which the binding computes without the processor's help: a cold get took four times as long. Not XXH3, a tenth
    # faster than this, which ``sst_check`` could not compute.
    table.set_checksum_type(ChecksumType.xxhash64())
    table.set_block_size(8 * KIB)
    table.set_bloom_filter(10, False)
    if cache is not None:
        table.set_block_cache(cache)
        # Indexes and filters compete for the same memory as rows: what the tables need stays bounded, however many there are.
        table.set_cache_index_and_filter_blocks(True)
        table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    return table


def _options(cache: Cache | None, max_open_files: int, merge_at_files: int = 6) -> Options:
    """Return the options of tables, alike for who writes, who reads and who builds a file."""
    options = Options(raw_mode=True)
    options.set_block_based_table_factory(_table_options(cache))
    options.set_compression_type(DBCompressionType.lz4())
    options.set_paranoid_checks(True)
    options.set_is_fd_close_on_exec(True)
    options.set_max_open_files(max_open_files)
    options.set_skip_stats_update_on_db_open(True)
    options.set_keep_log_file_num(3)
    options.set_max_log_file_size(4 * MIB)
    options.set_write_buffer_size(1 * MIB)
    # Few merges, each of much: docs/adr/0013 has the figures. A second one runs only where the first does not keep up.
    options.set_max_background_jobs(3)
    options.set_level_zero_file_num_compaction_trigger(merge_at_files)
    # Level 0 is merged by its size too, as RocksDB has it: it has to fit the number of files.
    options.set_max_bytes_for_level_base(512 * MIB * merge_at_files // 6)
    options.set_target_file_size_base(32 * MIB)
    # Admission is the engine's. A range deletion that RocksDB held back would hold the interpreter's lock while it waits.
    options.set_level_zero_slowdown_writes_trigger(_NEVER)
    options.set_level_zero_stop_writes_trigger(_NEVER)
    options.set_soft_pending_compaction_bytes_limit(0)
    options.set_hard_pending_compaction_bytes_limit(0)
    return options


@contextlib.contextmanager
def _named_errors(folder: Path) -> Iterator[None]:
    """Turn what the binding raises into errors of this program."""
    try:
        yield
    except (OSError, ValueError, KvError, TablesClosed):
        raise
    except Exception as error:
        raise error_of(str(error), folder) from error


class RocksReader:
    """Tables opened for reading, as they were at that moment, while another process may have them open for writing."""

    def __init__(self, path: Path, database: Rdict) -> None:
        self._path = path
        self._database = database
        self._gate = Gate(path)

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the rows of the keys, None where there is none; all of one moment. Other threads run meanwhile."""
        with self._gate, _named_errors(self._path):
            return cast("list[bytes | None]", self._database.get(list(keys)))

    def rows(self, start: bytes, end: bytes, limit: int, max_bytes: int = 0, reverse: bool = False) -> list[Row]:
        """Return the rows with start <= key < end; all of one moment. No other thread runs while a block is read from disk."""
        if limit <= 0 or (end and start >= end):
            return []
        with self._gate, _named_errors(self._path):
            return _walk(self._database, start, end, limit, max_bytes or _NEVER, reverse)

    def close(self) -> None:
        """Let go of the files, once no call is under way any more."""
        first = self._gate.shut()
        self._gate.wait_until_empty()
        if first:
            self._database.close()


class RocksTables(RocksReader):
    """The tables of a folder, open for writing. Safe for several threads: what changes the set of tables goes one at a time.

    Reads and ``compact`` run beside it. After a full disk RocksDB refuses to change anything with the same error until some five
    seconds after space has returned, by itself; reads go on throughout. After any other error of the disk it may refuse until the
    tables are opened again.
    """

    def __init__(self, path: Path, database: Rdict) -> None:
        super().__init__(path, database)
        self._changing = threading.Lock()
        self._watch = FailureWatch()
        self._without_log = WriteOptions()
        # In this version of the binding it is an attribute; its stub says that it is a method.
        self._without_log.disable_wal = True  # type: ignore[method-assign,assignment]
        self._moving = IngestExternalFileOptions()
        self._moving.set_move_files(True)
        self._write_behind = WriteBehind(path, _FILES, self._live_files()).start()

    @classmethod
    def open(cls, path: Path, block_cache_bytes: int, merge_at_files: int = 6) -> RocksTables:
        """Open the tables of a folder, or create them where there is none yet; the folder above it exists.

        ``merge_at_files``: merging begins when so many were ingested. Raises Corruption for tables that do not check,
        BlockingIOError where another process has them open, OSError.
        """
        _FILES.make_dir(path)
        if not _FILES.exists(path / "CURRENT"):
            _clear_for_creation(path)
        options = _options(_cache(block_cache_bytes), 512, merge_at_files)
        return cls(path, _open(path, options, AccessType.read_write()))

    def new_table(self, path: Path) -> RocksTableWriter:
        """Begin a table in a file of its own, on the same file system; a file of this name is replaced, not overwritten."""
        return RocksTableWriter(path)

    def ingest(self, path: Path) -> None:
        """Take a finished table in as the newest. Holds the interpreter's lock across some syncs of the disk.

        Raises Corruption for a file that is no table, FileNotFoundError, OSError; then nothing was taken in.
        """
        with self._gate, self._changing, _named_errors(self._path):
            if not _FILES.exists(path):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
            self._database.ingest_external_file([str(path)], self._moving)

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Remove the rows with start <= key < end; durable on return. An empty end is refused (ValueError).

        After an OSError they may be hidden without being gone for good: ask again.
        """
        if not end:
            raise ValueError("a range of rows to remove has an end")
        if start >= end:
            return
        with self._gate, self._changing, _named_errors(self._path):
            self._database.delete_range(start, end, self._without_log)
            self._database.flush()

    def compact(self, start: bytes, end: bytes) -> None:
        """Merge the tables that hold rows of the range (end empty: no end). Other threads run meanwhile; it can take minutes.

        Raises what kept it from ending (OSError, Corruption). Closing the tables ends it early, without an error.
        """
        with self._gate, _named_errors(self._path):
            options = CompactOptions()
            options.set_exclusive_manual_compaction(False)
            failures = self._number(_FAILURES)
            self._database.flush()  # it says so where nothing can be written, and compact_range does not
            self._database.compact_range(start, end or None, options)
            if self._number(_FAILURES) != failures:
                raise error_of(last_failure(_FILES, self._path), self._path)
            self._watch.succeeded(failures)

    def checkpoint(self, target: Path) -> None:
        """Make a copy in a new folder (FileExistsError): hard links, a list of its own. Holds the interpreter's lock in syncs."""
        with self._gate, self._changing, _named_errors(self._path):
            if _FILES.exists(target):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
            Checkpoint(self._database).create_checkpoint(str(target))
            _sync_folder(target)
            _sync_folder(target.parent)

    def verify(self, still_wanted: Callable[[], bool] = lambda: True) -> list[str]:
        """Read every byte of every table, past all caches, and return what is wrong with each damaged one, while it is wanted.

        A table merged away meanwhile counts as sound: its rows were read, with their checksums, by who merged it.
        """
        with self._gate, _named_errors(self._path):
            return check_tables(_FILES, self._path, self._live_files, still_wanted)

    def _live_files(self) -> dict[str, int]:
        return {file["name"].lstrip("/"): file["size"] for file in self._database.live_files()}

    def figures(self) -> TableFigures:
        """Return what the tables look like. A failure to merge counts until a merge has succeeded, or none is due any more."""
        with self._gate, _named_errors(self._path):
            files = [self._number(f"num-files-at-level{level}") for level in range(_LEVELS)]
            return TableFigures(
                files=sum(files),
                total_bytes=self._number("live-sst-files-size"),
                level0_files=files[0],
                pending_compaction_bytes=self._number("estimate-pending-compaction-bytes"),
                background_error=self._background_error(files[0]),
            )

    def _background_error(self, level0_files: int) -> str:
        failures = self._number(_FAILURES)
        at_rest = not self._number("compaction-pending") and not self._number("num-running-compactions")
        return last_failure(_FILES, self._path) if self._watch.failing(failures, at_rest, level0_files) else ""

    def _number(self, name: str) -> int:
        return int(self._database.property_int_value(f"rocksdb.{name}") or 0)

    def close(self) -> None:
        """Let go of the files, once no call is under way any more; a ``compact`` under way is ended first."""
        if self._gate.shut():
            self._database.cancel_all_background(False)
            self._gate.wait_until_empty()
            # It flushes first and is told that a shutdown is in progress. Nothing is in memory that is not in a file.
            with contextlib.suppress(Exception):
                self._database.close()
            self._write_behind.close()
        self._gate.wait_until_empty()


class RocksTableWriter:
    """Writes one table file, with the filters that reads need."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._remove_file()  # it may be a second name of a table taken in before a crash, and would be written over
        self._writer = SstFileWriter(_options(None, max_open_files=-1))
        with _named_errors(path):
            self._writer.open(str(path))
        self._rows = 0

    def put(self, key: bytes, value: bytes) -> None:
        """Add a row."""
        try:
            self._writer[key] = value
        except Exception as error:
            raise self._refusal(error) from error
        self._rows += 1

    def delete(self, key: bytes) -> None:
        """Add the removal of a row that older tables may hold."""
        try:
            del self._writer[key]
        except Exception as error:
            raise self._refusal(error) from error
        self._rows += 1

    def finish(self) -> int:
        """Make the table and its name durable, close it, return its bytes. It was read back: Corruption if it does not check."""
        if not self._rows:
            raise ValueError("a table without rows cannot be finished")
        with _named_errors(self._path):
            self._writer.finish()
            _sync_folder(self._path.parent)
            # RocksDB has told the system to forget what it wrote, so this reads the disk. It also has the newest rows, which are
            # the likeliest to be asked for, back in the page cache: without it a get of one took 60 to 170 µs instead of 6.
            return check_table(_FILES, self._path)

    def abandon(self) -> None:
        """Close and remove what was written."""
        del self._writer
        self._remove_file()

    def _remove_file(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            _FILES.remove(self._path)

    def _refusal(self, error: Exception) -> Exception:
        text = str(error)
        return ValueError(text) if "strict ascending order" in text else error_of(text, self._path)


def open_reader(path: Path, block_cache_bytes: int) -> RocksReader:
    """Open the tables of a folder for reading, as they are now, while another process writes and merges them.

    All files are opened at once, so that those merged away meanwhile stay readable. Raises Corruption, OSError.
    """
    options = _options(_cache(block_cache_bytes), max_open_files=-1)
    pause, attempt = threading.Condition(), 1
    while True:
        if not _FILES.exists(path / "CURRENT"):
            raise missing_current(path, _FILES.list_dir(path))
        try:
            return RocksReader(path, _open(path, options, AccessType.read_only(False)))
        except Exception:
            # A file named in the list read a moment ago may be gone: merged away. The next list does not name it.
            if attempt == _OPEN_ATTEMPTS:
                raise
        with pause:
            SystemClock().wait(pause, 0.02 * attempt)
        attempt += 1


def _open(path: Path, options: Options, access: AccessType) -> Rdict:
    try:
        return Rdict(str(path), options, {"default": options}, access)
    except Exception as error:
        raise opening_error_of(str(error), path) from error


def _clear_for_creation(path: Path) -> None:
    """Make ready to create tables in a folder without a list of tables; what a creation that was cut short left is removed."""
    names = _FILES.list_dir(path)
    if any(name.endswith(".sst") for name in names):
        raise missing_current(path, names)
    for name in names:
        if name.startswith("MANIFEST-") or name.endswith(".dbtmp"):
            _FILES.remove(path / name)


def _sync_folder(path: Path) -> None:
    """Make the names in a folder durable; it may be renamed later, so no descriptor of it is kept."""
    with contextlib.closing(OsFileSystem()) as files:
        files.sync_dir(path)


def _walk(database: Rdict, start: bytes, end: bytes, limit: int, max_bytes: int, reverse: bool) -> list[Row]:
    """Return rows in order; ``end`` lives until the iterator is gone, which looks into it."""
    options = ReadOptions()
    if end:
        options.set_iterate_upper_bound(end)
    rows: list[Row] = []
    held_bytes = 0
    iterator = database.iter(options)
    try:
        if reverse:
            iterator.seek_to_last()
        else:
            iterator.seek(start)
        while iterator.valid():
            key: bytes = iterator.key()
            if reverse and key < start:
                return rows
            value: bytes = iterator.value()
            rows.append((key, value))
            held_bytes += len(key) + len(value)
            if len(rows) >= limit or held_bytes >= max_bytes:
                return rows
            if reverse:
                iterator.prev()
            else:
                iterator.next()
        iterator.status()
        return rows
    finally:
        # An error's traceback would keep the iterator alive, and with it the database, past its closing.
        del iterator
