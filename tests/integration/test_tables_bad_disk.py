"""A disk that fills while tables are written or merged: writes wait or are refused by name, reads go on, nothing is lost.

Each test needs root, for a file system of a few MiB; elsewhere it is skipped, and says so.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from integration.processes import Process
from integration.tables_scenes import Held, assert_all_there, client
from kvclient import Client, KvClientError, NotWritten, Put

MIB = 1 << 20
PATIENCE_S = 40.0
FLAGS = ("--segment-mb", "16", "--memtable-mb", "1", "--memory-limit-mb", "4", "--history-revisions", "1")

pytestmark = pytest.mark.root


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MiB."""
    if os.geteuid() != 0:
        pytest.skip("not root: what a full disk does to flushes and merges is NOT shown here")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True, text=True)
    if mount.returncode != 0:
        pytest.skip(f"no file system can be mounted here ({mount.stderr.strip()}): a full disk is NOT shown")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def until(condition: Callable[[], object]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


def fill(disk: Path, left_bytes: int = 0) -> Path:
    """Take the space of a disk, all but so many bytes; return the file that has it."""
    filler = disk / "filler"
    fd = os.open(filler, os.O_WRONLY | os.O_CREAT)
    try:
        while left_bytes == 0 or shutil.disk_usage(disk).free > left_bytes:
            os.write(fd, bytes(64 * 1024 if left_bytes else 4096))
    except OSError as error:
        assert error.errno == errno.ENOSPC
    finally:
        os.close(fd)
    return filler


class Writer:
    """Writes keys of its own, and knows what was acknowledged."""

    def __init__(self, kv: Client) -> None:
        self.kv = kv
        self.model: dict[bytes, Held] = {}
        self._rng = random.Random(1)
        self._number = 0

    def commit(self) -> None:
        """Write some 40 KB. Half of the keys are new, half replace older ones."""
        values = {b"k%06d" % self._rng.randrange(2 * self._number + 40): self._rng.randbytes(1000) for _ in range(20)}
        values |= {b"n%06d" % (self._number + at): self._rng.randbytes(1000) for at in range(20)}
        self._number += 20
        revision = self.kv.write([Put(key, value) for key, value in values.items()]).revision
        self.model.update({key: Held(value, revision) for key, value in values.items()})

    def until_refused(self) -> NotWritten:
        """Write until it is refused."""
        with pytest.raises(NotWritten) as caught:
            for _ in range(5000):
                self.commit()
        return caught.value

    def takes(self) -> bool:
        """Say whether writes are taken; they must not fail in any other way than before."""
        try:
            self.commit()
        except KvClientError as error:
            assert error.code in ("DISK_FULL", "DISK_UNAVAILABLE"), error
            return False
        return True


def assert_survived(server: Process, writer: Writer, disk: Path) -> None:
    """Check what holds once space has returned: it goes on by itself, and a kill takes nothing with it."""
    kv = writer.kv
    until(writer.takes)
    for _ in range(60):
        writer.commit()
    until(lambda: kv.status().warnings == ())
    kv.flush()
    assert_all_there(kv, writer.model)
    writer.commit()
    server.signal(signal.SIGKILL)
    server.wait()
    with Process("--data-dir", str(disk / "data"), *FLAGS) as second, client(second) as again:
        assert_all_there(again, writer.model)
        again.flush()
        assert again.status().warnings == ()
        assert second.stop() == 0


def test_a_disk_that_fills_during_a_flush(disk: Path) -> None:
    with Process("--data-dir", str(disk / "data"), *FLAGS) as server, client(server) as kv:
        writer = Writer(kv)
        for _ in range(40):
            writer.commit()
        kv.flush()
        flushed = kv.status().flushed_revision
        filler = fill(disk)
        refusal = writer.until_refused()
        assert refusal.code == "DISK_FULL"
        assert "nothing was written" in refusal.message and "free space" in refusal.hint
        status = kv.status()
        assert flushed <= status.flushed_revision < status.visible_revision
        assert any("cannot be written into tables" in warning and "No space left" in warning for warning in status.warnings)
        assert_all_there(kv, writer.model)
        assert not writer.takes()
        with pytest.raises(NotWritten) as caught:
            kv.flush()
        assert caught.value.code == "DISK_FULL"
        filler.unlink()
        assert_survived(server, writer, disk)
        assert any("can be written into tables again" in line for line in server.errors)


def test_a_disk_that_fills_during_a_merge(disk: Path) -> None:
    """The flush that makes a merge due still fits; what the merge writes does not."""
    with Process("--data-dir", str(disk / "data"), *FLAGS) as server, client(server) as kv:
        writer = Writer(kv)
        while kv.status().level0_files < 5:  # one more makes a merge due
            for _ in range(18):
                writer.commit()
            kv.flush()
        filler = fill(disk, left_bytes=2 * MIB)
        for _ in range(18):
            writer.commit()
        kv.flush()
        until(lambda: any("not merged" in warning and "No space left" in warning for warning in kv.status().warnings))
        refusal = writer.until_refused()
        assert refusal.code == "DISK_FULL"
        assert_all_there(kv, writer.model)
        filler.unlink()
        assert_survived(server, writer, disk)


def test_a_disk_that_is_too_small_and_then_is_enlarged(disk: Path) -> None:
    """Nobody takes the space but the store itself: log, tables and merges run into the end in whatever order."""
    with Process("--data-dir", str(disk / "data"), *FLAGS) as server, client(server) as kv:
        writer = Writer(kv)
        refusal = writer.until_refused()
        assert refusal.code == "DISK_FULL"
        assert_all_there(kv, writer.model)
        assert kv.status().warnings
        subprocess.run(["mount", "-o", "remount,size=256m", str(disk)], check=True)
        assert_survived(server, writer, disk)


def test_a_start_on_a_full_disk_is_refused_and_loses_nothing(disk: Path) -> None:
    with Process("--data-dir", str(disk / "data"), *FLAGS) as server, client(server) as kv:
        writer = Writer(kv)
        for _ in range(60):
            writer.commit()
        kv.flush()
        writer.commit()
        server.signal(signal.SIGKILL)
        server.wait()
    for leftover in (disk / "data" / "wal").glob("prepared-*.tmp"):
        leftover.unlink()  # as the start does, which gains room by it
    filler = fill(disk)
    with Process("--data-dir", str(disk / "data"), *FLAGS) as server:
        assert server.wait() == 1
        assert any("No space left" in line for line in server.errors), server.errors
        assert any("32 MiB free" in line for line in server.errors), server.errors
    filler.unlink()
    with Process("--data-dir", str(disk / "data"), *FLAGS) as server, client(server) as kv:
        assert_all_there(kv, writer.model)
        kv.flush()
        assert server.stop() == 0
