"""What a merge writes is handed to the disk while it grows."""

from __future__ import annotations

import errno
import random
import threading
from pathlib import Path

import pytest

from kvserver.base import fs
from kvserver.base.fs import OsFileSystem
from kvserver.base.limits import MIB
from kvserver.storage import rocks
from kvserver.storage.rocks import RocksTables
from kvserver.storage.write_behind import GIVEN_UP_LOOKS, PAGE_BYTES, STEP_BYTES, WriteBehind

PATIENCE_S = 30.0


class Watched(OsFileSystem):
    """Notes what is handed over, by file."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges: list[tuple[str, int, int]] = []
        self.some = threading.Event()
        self.full = False

    def write_soon(self, path: Path, offset: int, length: int) -> None:
        if self.full:
            raise OSError(errno.EMFILE, "too many open files")
        self.ranges.append((path.name, offset, length))
        self.some.set()


def grow(path: Path, size: int) -> None:
    with path.open("ab") as file:
        file.write(bytes(size))


@pytest.fixture
def disk() -> Watched:
    return Watched()


def test_what_was_added_to_a_new_file_is_handed_over_once(tmp_path: Path, disk: Watched) -> None:
    grow(tmp_path / "1.sst", 5 * STEP_BYTES)
    behind = WriteBehind(tmp_path, disk, ["1.sst"])
    assert behind.step() == 0, "it is complete"
    grow(tmp_path / "2.sst", 2 * STEP_BYTES)
    assert behind.step() == 2 * STEP_BYTES
    assert behind.step() == 0
    grow(tmp_path / "2.sst", STEP_BYTES)
    grow(tmp_path / "1.sst", STEP_BYTES)
    assert behind.step() == STEP_BYTES
    assert disk.ranges == [("2.sst", 0, 2 * STEP_BYTES), ("2.sst", 2 * STEP_BYTES, STEP_BYTES)]


def test_little_waits_for_more_and_other_files_are_none_of_its_business(tmp_path: Path, disk: Watched) -> None:
    behind = WriteBehind(tmp_path, disk, [])
    grow(tmp_path / "1.sst", STEP_BYTES - 1)
    grow(tmp_path / "MANIFEST-1", 2 * STEP_BYTES)
    assert behind.step() == 0
    grow(tmp_path / "1.sst", 1)
    assert behind.step_growing() == STEP_BYTES
    grow(tmp_path / "1.sst", STEP_BYTES + PAGE_BYTES - 1)
    assert behind.step_growing() == STEP_BYTES, "up to the last whole page"


def test_a_file_that_stays_as_it_is_is_forgotten(tmp_path: Path, disk: Watched) -> None:
    behind = WriteBehind(tmp_path, disk, [])
    grow(tmp_path / "1.sst", STEP_BYTES)
    grow(tmp_path / "2.sst", STEP_BYTES)
    grow(tmp_path / "slow.sst", STEP_BYTES)
    assert behind.step() == 3 * STEP_BYTES
    (tmp_path / "1.sst").unlink()
    for _ in range(GIVEN_UP_LOOKS):
        grow(tmp_path / "slow.sst", 1)
        behind.step()
    grow(tmp_path / "2.sst", STEP_BYTES)
    grow(tmp_path / "slow.sst", STEP_BYTES)
    behind.step()
    assert disk.ranges[3:] == [("slow.sst", STEP_BYTES, STEP_BYTES)]


def test_what_cannot_be_handed_over_is_handed_over_later(tmp_path: Path, disk: Watched) -> None:
    behind = WriteBehind(tmp_path, disk, [])
    grow(tmp_path / "1.sst", STEP_BYTES)
    disk.full = True
    assert behind.step() == 0
    disk.full = False
    assert behind.step() == STEP_BYTES


def test_the_system_takes_it(tmp_path: Path) -> None:
    grow(tmp_path / "1.sst", STEP_BYTES)
    disk = OsFileSystem()
    disk.write_soon(tmp_path / "1.sst", 0, STEP_BYTES)
    with pytest.raises(OSError, match=r"1\.sst"):
        disk.write_soon(tmp_path / "1.sst", -1, STEP_BYTES)
    with pytest.raises(FileNotFoundError):
        disk.write_soon(tmp_path / "2.sst", 0, STEP_BYTES)


def test_the_system_is_asked_to_begin_and_not_to_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int, int]] = []
    monkeypatch.setattr(fs, "_sync_file_range", lambda fd, offset, length, flags: asked.append((offset, length, flags)))
    grow(tmp_path / "1.sst", STEP_BYTES)
    OsFileSystem().write_soon(tmp_path / "1.sst", PAGE_BYTES, STEP_BYTES - PAGE_BYTES)
    assert asked == [(PAGE_BYTES, STEP_BYTES - PAGE_BYTES, 2)], "SYNC_FILE_RANGE_WRITE alone"


def test_where_the_system_has_no_such_call_nothing_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fs, "_sync_file_range", None)
    OsFileSystem().write_soon(tmp_path / "not there", 0, STEP_BYTES)


def test_a_thread_looks_until_it_is_closed(tmp_path: Path, disk: Watched) -> None:
    behind = WriteBehind(tmp_path, disk, [])
    behind.start()
    thread = behind._thread
    assert thread is not None
    grow(tmp_path / "1.sst", STEP_BYTES)
    assert disk.some.wait(PATIENCE_S)
    behind.close()
    behind.close()
    assert not thread.is_alive()


def test_a_merge_of_the_tables_is_handed_over(tmp_path: Path, disk: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rocks, "_FILES", disk)
    tables = RocksTables.open(tmp_path / "tables", MIB)
    noise = random.Random(1)
    for number in range(2):
        writer = tables.new_table(tmp_path / f"{number}.sst")
        for key in range(4_000):
            writer.put(b"%08d" % key, noise.randbytes(1024))
        writer.finish()
        tables.ingest(tmp_path / f"{number}.sst")
    tables.compact(b"0", b"9")
    (merged,) = tables._live_files()
    while True:
        disk.some.clear()  # before the look: what comes between the two is not missed
        if merged in {name for name, _, _ in disk.ranges}:
            break
        assert disk.some.wait(PATIENCE_S), "nobody hands the output of the merge over"
    tables.close()
