"""The recording file system: every call stands in the list, with its outcome, in order."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from kvserver.base.fs import create_once
from support.faultfs import Fault, FaultFileSystem, FaultPlan
from support.memfs import MemoryFileSystem
from support.recordfs import Entry, Mark, Op, RecordingFileSystem

ROOT = Path("/data")
FILE = ROOT / "file"


@pytest.fixture
def fs() -> RecordingFileSystem[MemoryFileSystem]:
    inner = MemoryFileSystem()
    inner.make_dir(ROOT)
    return RecordingFileSystem(inner)


def test_every_call_is_recorded_in_order(fs: RecordingFileSystem[MemoryFileSystem]) -> None:
    file = fs.create(FILE)
    file.pwrite(b"data", 3)
    file.pread(2, 1)
    file.size()
    file.truncate(5)
    file.datasync()
    fs.mark("ack", 7)
    file.sync()
    file.close()
    fs.open(FILE)
    fs.link(FILE, ROOT / "second")
    fs.rename(ROOT / "second", ROOT / "third")
    fs.remove(ROOT / "third")
    fs.exists(FILE)
    fs.list_dir(ROOT)
    fs.make_dir(ROOT / "folder")
    fs.sync_dir(ROOT)
    fs.free_bytes(ROOT)
    fs.lock(ROOT / "LOCK").release()
    assert fs.entries == [
        Op("create", FILE),
        Op("pwrite", FILE, offset=3, length=4),
        Op("pread", FILE, offset=1, length=2),
        Op("size", FILE),
        Op("truncate", FILE, length=5),
        Op("datasync", FILE),
        Mark("ack", 7),
        Op("sync", FILE),
        Op("close", FILE),
        Op("open", FILE),
        Op("link", FILE, ROOT / "second"),
        Op("rename", ROOT / "second", ROOT / "third"),
        Op("remove", ROOT / "third"),
        Op("exists", FILE),
        Op("list_dir", ROOT),
        Op("make_dir", ROOT / "folder"),
        Op("sync_dir", ROOT),
        Op("free_bytes", ROOT),
        Op("lock", ROOT / "LOCK"),
        Op("release", ROOT / "LOCK"),
    ]


def test_a_failed_call_is_recorded_with_its_error(fs: RecordingFileSystem[MemoryFileSystem]) -> None:
    with pytest.raises(FileNotFoundError):
        fs.open(FILE)
    assert fs.entries == [Op("open", FILE, error=errno.ENOENT)]


def test_ops_can_be_picked_by_kind_and_path(fs: RecordingFileSystem[MemoryFileSystem]) -> None:
    create_once(fs, FILE, ROOT / "tmp", b"data")
    assert [op.kind for op in fs.ops("sync", "sync_dir", "link")] == ["sync", "link", "sync_dir"]
    assert [op.kind for op in fs.ops(path=FILE)] == ["link"]
    assert [op.kind for op in fs.ops(path=ROOT / "tmp")] == [
        "exists", "create", "pwrite", "sync", "close", "link", "remove",
    ]  # fmt: skip


def test_the_list_handed_out_is_a_copy(fs: RecordingFileSystem[MemoryFileSystem]) -> None:
    fs.entries.append(Mark("mine"))
    assert fs.entries == []


def test_while_a_listener_looks_no_other_call_is_made() -> None:
    inner = MemoryFileSystem()
    seen: list[int] = []

    def look(entry: Entry) -> None:
        if isinstance(entry, Op) and entry.kind == "pwrite":
            if not other.ident:
                other.start()
                other.join(0.1)
            seen.append(sum(map(len, inner.contents().values())))

    fs = RecordingFileSystem(inner, on_entry=look)
    file = fs.create(Path("/file"))
    other = threading.Thread(target=lambda: file.pwrite(b"y", 1))
    file.pwrite(b"x", 0)
    other.join(10)
    assert seen == [1, 2]


def test_a_failed_sync_above_reaches_the_page_cache_below(fs: RecordingFileSystem[MemoryFileSystem]) -> None:
    failing = FaultFileSystem(fs, FaultPlan([Fault(kinds={"datasync"})]))
    file = failing.create(FILE)
    file.pwrite(b"data", 0)
    with pytest.raises(OSError, match="Input/output error"):
        file.datasync()
    assert fs.entries[-1] == Op("drop_unsynced", FILE)
    assert [item.abandoned for item in fs.inner.unsynced()] == [True, False]
