"""What is assumed of RocksDB across the end of a process, and of a full disk: an ingest is whole and durable on return."""

from __future__ import annotations

import errno
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvserver.storage.rocks import RocksTables
from support.tables_writer import CACHE_BYTES, KEYS, own_key

ROOT = Path(__file__).parents[3]
ALL = 1 << 20


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}


# A process that is killed


def run_until_killed(folder: Path, number: int, after: int, delay_s: float) -> tuple[int, int]:
    """Run the writer, kill it some moment after so many lines; return the last numbers taken and removed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "support.tables_writer", str(folder), str(number)],
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(after)]
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    lines += process.stdout.readlines()
    process.wait()
    process.stdout.close()
    said = {"taken": number - 1, "removed": 0}
    for line in lines:
        if line.endswith("\n"):
            what, which = line.split()
            said[what] = int(which)
    return said["taken"], said["removed"]


def test_a_kill_at_any_moment_loses_no_table_and_leaves_none_half(tmp_path: Path) -> None:
    chance = random.Random(1)
    last = removed = 0
    for _ in range(12):
        taken, gone = run_until_killed(tmp_path, last + 1, chance.randint(1, 12), chance.random() * 0.01)
        removed = max(removed, gone)
        tables = RocksTables.open(tmp_path / "tables", CACHE_BYTES)
        (value,) = set(tables.get_many(KEYS))
        assert value is not None
        last = int(value)
        assert last >= taken > 0
        own = [key for key, _ in tables.rows(b"own", b"owo", ALL)]
        if own:
            # All that were removed and said so are gone; the others are there, up to the last, without a gap.
            first = int(own[0][3:])
            assert own == [own_key(number) for number in range(first, last + 1)] and first > removed
        else:
            assert last % 5 == 0
        assert tables.verify() == []
        tables.close()


# What is synced before a call returns


_TRACED = """
import os, sys
from pathlib import Path
from kvserver.storage.rocks import RocksTables

folder = Path(sys.argv[1])
tables = RocksTables.open(folder / "tables", 1 << 20)
for number in range(2):
    os.write(2, b"BEGIN build\\n")
    writer = tables.new_table(folder / "building.sst")
    writer.put(b"a", b"1")
    writer.finish()
    os.write(2, b"BEGIN ingest\\n")
    tables.ingest(folder / "building.sst")
    os.write(2, b"BEGIN delete_range\\n")
    tables.delete_range(b"a", b"b")
    os.write(2, b"BEGIN checkpoint\\n")
    tables.checkpoint(folder / f"copy{number}")
    os.write(2, b"BEGIN nothing\\n")
tables.close()
"""
_CALL = re.compile(
    r"(fsync|fdatasync|link|rename|unlink|write)\((?:AT_FDCWD\S* )?(?:\d+<([^>]*)>|\"([^\"]*)\"(?:, \"([^\"]*)\")?)"
)


def traced_calls(folder: Path) -> dict[str, list[tuple[str, str]]]:
    """Return the last round's calls to the system by what was being done: (call, file name)."""
    trace = folder / "trace"
    source = folder / "traced.py"
    source.write_text(textwrap.dedent(_TRACED))
    calls = "trace=fsync,fdatasync,link,linkat,rename,renameat,renameat2,unlink,unlinkat,write"
    command = ["strace", "-f", "-y", "-o", str(trace), "-e", calls, sys.executable, str(source), str(folder)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    found: dict[str, list[tuple[str, str]]] = {}
    current: list[tuple[str, str]] = []
    for line in trace.read_text().splitlines():
        if begin := re.search(r'"BEGIN (\w+)', line):
            current = found[begin[1]] = []
        elif match := _CALL.search(line):
            path = match[4] or match[2] or match[3]
            current.append((match[1], Path(path).relative_to(folder).as_posix() if path.startswith(str(folder)) else path))
    return found


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[tuple[str, str]]]:
    if shutil.which("strace") is None:
        pytest.skip("strace is not on this machine: what RocksDB syncs before a call returns is NOT shown here")
    return traced_calls(tmp_path_factory.mktemp("traced"))


def position(calls: list[tuple[str, str]], names: tuple[str, ...], pattern: str, last: bool = False) -> int:
    """Return where a call of these names was made on a file of this name."""
    found = [at for at, (call, path) in enumerate(calls) if call in names and re.fullmatch(pattern, path)]
    assert found, (names, pattern, calls)
    return found[-1] if last else found[0]


SYNC = ("fsync", "fdatasync")


def test_a_finished_table_is_synced_and_so_is_its_name(calls: dict[str, list[tuple[str, str]]]) -> None:
    build = calls["build"]
    written = position(build, ("write",), r"building\.sst", last=True)
    synced = position(build, SYNC, r"building\.sst", last=True)
    assert written < synced < position(build, SYNC, r"\.", last=True)


def test_an_ingest_syncs_table_folder_and_list_before_it_returns(calls: dict[str, list[tuple[str, str]]]) -> None:
    ingest = calls["ingest"]
    linked = position(ingest, ("link",), r"tables/\d+\.sst")
    table = position(ingest, SYNC, r"tables/\d+\.sst")
    folder = position(ingest, SYNC, r"tables", last=True)
    listed = position(ingest, ("write",), r"tables/MANIFEST-\d+", last=True)
    durable = position(ingest, SYNC, r"tables/MANIFEST-\d+", last=True)
    removed = position(ingest, ("unlink",), r"building\.sst")
    assert linked < table < listed < durable < removed
    assert linked < folder < listed


def test_a_range_deletion_is_in_a_synced_table_before_it_returns(calls: dict[str, list[tuple[str, str]]]) -> None:
    removal = calls["delete_range"]
    table = position(removal, SYNC, r"tables/\d+\.sst")
    folder = position(removal, SYNC, r"tables")
    listed = position(removal, ("write",), r"tables/MANIFEST-\d+", last=True)
    assert max(table, folder) < listed < position(removal, SYNC, r"tables/MANIFEST-\d+", last=True)


@pytest.mark.parametrize("what", ["build", "ingest", "delete_range", "checkpoint"])
def test_nothing_goes_through_a_log_of_rocksdb(calls: dict[str, list[tuple[str, str]]], what: str) -> None:
    assert [path for call, path in calls[what] if call == "write" and path.endswith(".log")] == []


def test_a_checkpoint_is_synced_with_its_name_before_it_returns(calls: dict[str, list[tuple[str, str]]]) -> None:
    copy = calls["checkpoint"]
    listed = position(copy, SYNC, r"copy1\.tmp/MANIFEST-\d+")
    current = position(copy, SYNC, r"copy1\.tmp/CURRENT")
    renamed = position(copy, ("rename",), r"copy1(\.tmp)?")
    assert max(listed, current) < renamed < position(copy, SYNC, r"copy1", last=True) < position(copy, SYNC, r"\.", last=True)


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB; needs root."""
    if os.geteuid() != 0:
        pytest.skip("not root: what a full disk does to the tables is NOT shown here")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)], capture_output=True, text=True)
    if mount.returncode != 0:
        pytest.skip(f"no file system can be mounted here ({mount.stderr.strip()}): a full disk is NOT shown")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def build(tables: RocksTables, path: Path, value: bytes) -> None:
    writer = tables.new_table(path)
    for key in KEYS:
        writer.put(key, value)
    writer.finish()


def fill(path: Path) -> None:
    """Take all space that is left."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(fd, b"x" * 4096)
    except OSError as error:
        assert error.errno == errno.ENOSPC
    finally:
        os.close(fd)


@pytest.mark.root
def test_a_full_disk_refuses_changes_keeps_reads_and_heals_when_space_returns(small_disk: Path) -> None:
    tables = RocksTables.open(small_disk / "tables", CACHE_BYTES)
    build(tables, small_disk / "new.sst", b"1")
    tables.ingest(small_disk / "new.sst")
    build(tables, small_disk / "new.sst", b"2")
    fill(small_disk / "filler")
    with pytest.raises(OSError) as caught:
        tables.delete_range(b"zzz", b"zzzz")
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError) as caught:
        tables.checkpoint(small_disk / "copy")
    assert caught.value.errno == errno.ENOSPC
    with pytest.raises(OSError) as caught:
        tables.compact(b"", b"")
    assert caught.value.errno == errno.ENOSPC
    assert tables.get_many(KEYS) == [b"1"] * len(KEYS)

    (small_disk / "filler").unlink()
    deadline = time.monotonic() + 60
    while True:
        try:
            tables.ingest(small_disk / "new.sst")
            break
        except OSError as error:
            assert error.errno == errno.ENOSPC and time.monotonic() < deadline
            time.sleep(0.2)
    assert tables.get_many(KEYS) == [b"2"] * len(KEYS)
    tables.checkpoint(small_disk / "copy")
    tables.compact(b"", b"")
    assert tables.verify() == [] and tables.figures().background_error == ""
    tables.close()


@pytest.mark.root
def test_merging_on_a_full_disk_is_reported_and_goes_on_when_space_returns(small_disk: Path) -> None:
    tables = RocksTables.open(small_disk / "tables", CACHE_BYTES)
    number = 0
    chance = random.Random(1)
    with pytest.raises(OSError) as caught:
        while True:
            writer = tables.new_table(small_disk / "new.sst")
            for row in range(20_000):
                writer.put(b"%08d" % (row * 1000 + number), chance.randbytes(100))
            writer.finish()
            tables.ingest(small_disk / "new.sst")
            number += 1
    assert caught.value.errno == errno.ENOSPC
    writer.abandon()
    before = tables.rows(b"", b"", ALL)
    with pytest.raises(OSError) as caught:
        tables.compact(b"", b"")
    assert caught.value.errno == errno.ENOSPC
    assert "No space left" in tables.figures().background_error
    assert tables.rows(b"", b"", ALL) == before

    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    deadline = time.monotonic() + 60
    while tables.figures().background_error:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    tables.compact(b"", b"")
    assert tables.figures().level0_files == 0 and tables.rows(b"", b"", ALL) == before
    assert tables.verify() == []
    tables.close()
