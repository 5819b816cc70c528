"""The tables in RocksDB: opening, options, walking past ends, closing under readers. Damage and crashes: files beside it."""

from __future__ import annotations

import errno
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvserver.base.errors import Corruption
from kvserver.base.fs import OsFileSystem
from kvserver.storage.rocks import RocksTables, open_reader
from kvserver.storage.rocks_errors import FailureWatch, error_of, last_failure, opening_error_of
from kvserver.storage.tables import TablesClosed

CACHE_BYTES = 3 << 20
ALL = 1 << 20
ROOT = Path(__file__).parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "tables"


@pytest.fixture
def tables(folder: Path) -> Iterator[RocksTables]:
    tables = RocksTables.open(folder, CACHE_BYTES)
    yield tables
    tables.close()


def add(tables: RocksTables, rows: dict[bytes, bytes], path: Path) -> None:
    writer = tables.new_table(path)
    for key, value in sorted(rows.items()):
        writer.put(key, value)
    writer.finish()
    tables.ingest(path)


def numbered(count: int, value: bytes = b"v" * 50) -> dict[bytes, bytes]:
    return {b"%06d" % number: value for number in range(count)}


def run_python(source: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(source), *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )


# Opening


def test_another_process_cannot_open_them_for_writing_but_can_read(folder: Path, tables: RocksTables) -> None:
    add(tables, {b"a": b"1"}, folder.parent / "new.sst")
    done = run_python(
        """
        import sys
        from pathlib import Path
        from kvserver.storage.rocks import RocksTables, open_reader
        reader = open_reader(Path(sys.argv[1]), 1 << 20)
        assert reader.get_many([b"a", b"b"]) == [b"1", None]
        reader.close()
        try:
            RocksTables.open(Path(sys.argv[1]), 1 << 20)
        except BlockingIOError as error:
            print(error.errno)
        """,
        folder,
    )
    assert done.stdout == f"{errno.EAGAIN}\n", done.stderr
    add(tables, {b"b": b"1"}, folder.parent / "new.sst")
    assert tables.get_many([b"a", b"b"]) == [b"1", b"1"]


def test_a_reader_opens_nothing_where_no_tables_are(folder: Path) -> None:
    folder.mkdir()
    with pytest.raises(Corruption, match="there are no tables here"):
        open_reader(folder, CACHE_BYTES)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("times", [1, 3])
def test_the_options_are_those_asked_for_however_often_they_were_opened(folder: Path, times: int) -> None:
    for _ in range(times):
        tables = RocksTables.open(folder, CACHE_BYTES)
        assert tables._number("block-cache-capacity") == CACHE_BYTES
        tables.close()
    newest = max(folder.glob("OPTIONS-*")).read_text()
    for line in (
        "format_version=5",
        "checksum=kxxHash64",
        "cache_index_and_filter_blocks=true",
        "filter_policy=bloomfilter",
        "level0_file_num_compaction_trigger=6",
        "compression=kLZ4Compression",
        "max_open_files=512",
        "paranoid_checks=true",
    ):
        assert line in newest, line


def test_new_and_merged_tables_have_filters(folder: Path, tables: RocksTables) -> None:
    for _ in range(2):
        add(tables, numbered(100), folder.parent / "new.sst")
    tables.compact(b"", b"")
    (merged,) = folder.glob("*.sst")
    assert b"fullfilter.rocksdb.BuiltinBloomFilter" in merged.read_bytes()
    add(tables, numbered(100), folder.parent / "new.sst")
    (added,) = set(folder.glob("*.sst")) - {merged}
    assert b"fullfilter.rocksdb.BuiltinBloomFilter" in added.read_bytes()


def test_nothing_is_written_to_a_log_of_rocksdb(folder: Path, tables: RocksTables) -> None:
    add(tables, numbered(100), folder.parent / "new.sst")
    tables.delete_range(b"000010", b"000020")
    assert [path.stat().st_size for path in folder.glob("*.log")] == [0]


def test_memory_for_blocks_stays_bounded(folder: Path, tables: RocksTables) -> None:
    for part in range(4):
        rows = {b"%d%06d" % (part, number): bytes([number % 251]) * 400 for number in range(5000)}
        add(tables, rows, folder.parent / "new.sst")
    for start in range(4):
        tables.rows(b"%d" % start, b"", ALL)
    assert tables._number("block-cache-usage") <= CACHE_BYTES * 1.1
    assert tables._number("estimate-table-readers-mem") < 100_000


def test_a_reader_keeps_what_it_opened_however_much_is_merged_away(folder: Path, tables: RocksTables) -> None:
    rows = numbered(400)
    for first in range(0, 400, 10):
        add(tables, dict(list(rows.items())[first : first + 10]), folder.parent / "new.sst")
    assert tables.figures().files == 40
    reader = open_reader(folder, CACHE_BYTES)
    tables.delete_range(b"0", b"1")
    tables.compact(b"", b"")
    assert list(folder.glob("*.sst")) == [] and tables.rows(b"", b"", ALL) == []
    assert dict(reader.rows(b"", b"", ALL)) == rows
    assert reader.get_many(list(rows)) == list(rows.values())
    reader.close()


# Walking


def test_walking_past_both_ends_leaves_the_process_alive(folder: Path) -> None:
    # In a process of its own: stepping an iterator that has ended kills the process, and no test would tell.
    done = run_python(
        """
        import itertools, sys
        from pathlib import Path
        from kvserver.storage.rocks import RocksTables, open_reader
        folder = Path(sys.argv[1])
        tables = RocksTables.open(folder, 1 << 20)
        keys = [b"", b"\\0", b"a", b"b", b"bb", b"c", b"d", b"e", b"\\xff", b"\\xff" * 9]
        walks = [*itertools.product(keys, keys, [0, 1, 2, 3, 99], [0, 1, 7], [False, True])]

        def walk(tables, held):
            for start, end, limit, max_bytes, reverse in walks:
                found = tables.rows(start, end, limit, max_bytes, reverse)
                wanted = [key for key in held if start <= key and (not end or key < end)]
                if reverse:
                    wanted.reverse()
                got = [key for key, _ in found]
                assert got == wanted[:len(got)], (start, end, reverse, got, wanted)
                assert max_bytes or len(got) == min(limit, len(wanted))

        walk(tables, [])
        for held in ([b"b", b"d"], [b"a", b"b", b"c", b"d"]):
            writer = tables.new_table(folder.parent / "new.sst")
            for key in held:
                writer.put(key, b"x")
            writer.finish()
            tables.ingest(folder.parent / "new.sst")
            walk(tables, held)
        reader = open_reader(folder, 1 << 20)
        walk(reader, held)
        tables.delete_range(b"a", b"e")
        walk(tables, [])
        tables.compact(b"", b"")
        walk(tables, [])
        walk(reader, held)
        tables.close()
        reader.close()
        print("alive")
        """,
        folder,
    )
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


# Closing


def test_closing_waits_for_readers_and_refuses_new_ones(folder: Path, tables: RocksTables) -> None:
    add(tables, numbered(20_000), folder.parent / "new.sst")
    started = threading.Barrier(4)
    outcomes: list[str] = []

    def read() -> None:
        started.wait()
        try:
            while True:
                assert len(tables.rows(b"", b"", ALL)) == 20_000
                assert None not in tables.get_many(sorted(numbered(5000)))
        except TablesClosed:
            outcomes.append("closed")

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    started.wait()
    tables.close()
    for thread in threads:
        thread.join(30)
    assert outcomes == ["closed"] * 3
    RocksTables.open(folder, CACHE_BYTES).close()  # nobody holds its lock any more


def test_closing_ends_a_merge_early(folder: Path, tables: RocksTables) -> None:
    for number in range(3):
        add(tables, numbered(150_000, b"%d" % number * 100), folder.parent / "new.sst")
    merging = threading.Thread(target=tables.compact, args=(b"", b""))
    merging.start()
    while not tables._number("num-running-compactions"):
        time.sleep(0.001)
    tables.close()
    merging.join(10)
    assert not merging.is_alive()
    again = RocksTables.open(folder, CACHE_BYTES)
    assert again.figures().level0_files == 2  # the first went below at once, the merge did not come to its end
    assert again.get_many([b"000000", b"149999"]) == [b"2" * 100] * 2
    again.close()


def test_an_error_does_not_keep_the_tables_open(folder: Path, tables: RocksTables) -> None:
    add(tables, numbered(5000), folder.parent / "new.sst")
    (path,) = folder.glob("*.sst")
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(data)
    kept: list[BaseException] = []
    try:
        tables.rows(b"", b"", ALL)
    except Corruption as error:
        kept.append(error)  # and with it the frames of the walk
    tables.close()
    RocksTables.open(folder, CACHE_BYTES).close()
    assert kept


# Errors


def test_texts_of_rocksdb_become_errors_of_ours() -> None:
    here = Path("/data/tables")
    full = error_of("IO error: No space left on device: While appending to file: /data/tables/000012.sst: No space", here)
    assert isinstance(full, OSError) and full.errno == errno.ENOSPC and full.filename == "/data/tables/000012.sst"
    broken = error_of("IO error: While pread offset 5 len 7: /data/tables/000012.sst: Input/output error", here)
    assert isinstance(broken, OSError) and broken.errno == errno.EIO
    strange = error_of("IO error: something nobody has seen", here)
    assert isinstance(strange, OSError) and strange.errno == errno.EIO
    crowded = error_of("IO error: While open a file for random read: /data/tables/000012.sst: Too many open files", here)
    assert isinstance(crowded, OSError) and crowded.errno == errno.EMFILE
    damaged = error_of("Corruption: block checksum mismatch: in /data/tables/000012.sst offset 4711 size 9", here)
    assert isinstance(damaged, Corruption) and damaged.offset == 4711 and damaged.path == here / "000012.sst"
    assert "doctor" in damaged.hint
    gone = error_of("IO error: No such file or directory: While open: /data/tables/000012.sst: No such file", here)
    assert isinstance(gone, Corruption) and gone.path == here / "000012.sst"
    held = error_of("IO error: While lock file: /data/tables/LOCK: Resource temporarily unavailable", here)
    assert isinstance(held, BlockingIOError)
    assert isinstance(error_of("DB instance already closed", here), TablesClosed)
    assert isinstance(opening_error_of("Invalid argument: leveldb.Other does not match", here), Corruption)


def test_a_failure_is_over_once_a_merge_succeeded_or_none_is_due() -> None:
    watch = FailureWatch()
    assert not watch.failing(0, at_rest=False, level0_files=3)
    assert watch.failing(1, at_rest=True, level0_files=3)
    assert watch.failing(1, at_rest=False, level0_files=4)
    assert not watch.failing(1, at_rest=False, level0_files=2)
    assert watch.failing(2, at_rest=False, level0_files=1)
    assert not watch.failing(2, at_rest=True, level0_files=1)
    watch.succeeded(5)
    assert not watch.failing(5, at_rest=False, level0_files=1)
    assert watch.failing(6, at_rest=False, level0_files=0)


def test_without_an_account_of_a_failure_its_place_is_named(tmp_path: Path) -> None:
    assert str(tmp_path / "LOG") in last_failure(OsFileSystem(), tmp_path)
