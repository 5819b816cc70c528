"""What the operating system's file system does beyond the conformance suite: folders replaced, folders made by several."""

from __future__ import annotations

import gc
import os
import resource
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kvserver.base.fs import NameInfo, OsFileSystem


def _open_descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_a_folder_that_was_replaced_is_synced_as_it_is_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real_sync = os.fsync

    def sync(fd: int) -> None:
        synced.append(os.fstat(fd).st_ino)
        real_sync(fd)

    monkeypatch.setattr(os, "fsync", sync)
    fs, folder = OsFileSystem(), tmp_path / "folder"
    folder.mkdir()
    fs.sync_dir(folder)
    before = _open_descriptors()
    folder.rename(tmp_path / "old")
    folder.mkdir()
    fs.sync_dir(folder)
    fs.sync_dir(folder)
    assert synced == [(tmp_path / "old").stat().st_ino, folder.stat().st_ino, folder.stat().st_ino]
    assert _open_descriptors() == before
    fs.remove_dir(folder)
    assert _open_descriptors() == before - 1
    fs.close()


def test_several_threads_make_and_sync_one_folder(tmp_path: Path) -> None:
    for number in range(20):
        fs, path = OsFileSystem(), tmp_path / str(number) / "a" / "b"
        before = _open_descriptors()
        barrier = threading.Barrier(4)

        def make(fs: OsFileSystem = fs, path: Path = path, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            fs.make_dir(path)
            fs.sync_dir(path)

        with ThreadPoolExecutor(4) as pool:
            for made in [pool.submit(make) for _ in range(4)]:
                made.result()
        assert path.is_dir()
        fs.close()
        assert _open_descriptors() == before


def test_syncing_any_number_of_folders_takes_a_bounded_number_of_descriptors(tmp_path: Path) -> None:
    fs, log = OsFileSystem(), tmp_path / "log"
    fs.make_dir(log)
    fs.sync_dir(log)
    before = _open_descriptors()
    for number in range(200):
        folder = tmp_path / str(number)
        folder.mkdir()
        fs.sync_dir(folder)
    assert _open_descriptors() <= before + 64
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        fs.sync_dir(log)  # the first ones need none
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    fs.close()


def test_links_pipes_and_the_like_are_told_apart_without_being_followed(tmp_path: Path) -> None:
    fs = OsFileSystem()
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "dangling").symlink_to("none")
    (tmp_path / "folder-link").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert fs.info(tmp_path / "file") == NameInfo("file", 5)
    for name in ("link", "dangling", "folder-link", "pipe"):
        assert fs.info(tmp_path / name) == NameInfo("other", 0)


def test_a_file_system_that_nobody_has_any_more_holds_no_descriptor(tmp_path: Path) -> None:
    gc.collect()  # what other tests have left would go in between
    before = _open_descriptors()
    OsFileSystem().sync_dir(tmp_path)
    gc.collect()
    assert _open_descriptors() == before
