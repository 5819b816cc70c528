"""Checkpoints into places that cannot be used, checkpoints that are half made, and checkpoints that are opened twice."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from integration.processes import Process
from integration.tables_scenes import (
    FLAGS,
    Held,
    Scene,
    assert_all_there,
    client,
    cut,
    flip,
    make_scene,
    manifest,
    refused_to_start,
    tables,
    write,
)
from kvclient import KvClientError, NotWritten, TargetUnusable


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return make_scene(tmp_path_factory.mktemp("store") / "data", False)


@pytest.fixture
def copy(scene: Scene, tmp_path: Path) -> Path:
    """A checkpoint of the scene, not opened yet."""
    folder = scene.copy(tmp_path / "data")
    with Process("--data-dir", str(folder), *FLAGS) as server, client(server) as kv:
        kv.checkpoint(str(tmp_path / "copy"))
        assert server.stop() == 0
    return tmp_path / "copy"


# Where none can be made


def _in_use(at: Path) -> Path:
    (at / "used").mkdir()
    (at / "used" / "file").write_text("of somebody")
    return at / "used"


def _file(at: Path) -> Path:
    (at / "file").write_text("of somebody")
    return at / "file"


def _link(at: Path) -> Path:
    (at / "link").symlink_to(at / "data" / "tables")
    return at / "link"


def _below_a_file(at: Path) -> Path:
    return _file(at) / "copy"


TARGETS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a folder in use": (_in_use, "it is not empty"),
    "the data folder": (lambda at: at / "data", "lies within the data folder"),
    "inside the data folder": (lambda at: at / "data" / "copy", "lies within the data folder"),
    "inside by a detour": (lambda at: at / "data" / "wal" / ".." / "copy", "lies within the data folder"),
    "inside by a longer detour": (lambda at: at / "x" / ".." / "data" / "copy", "lies within the data folder"),
    "inside by a link": (lambda at: _link(at) / "copy", "lies within the data folder"),
    "a file": (_file, "is a file"),
    "below a file": (_below_a_file, "lies below one"),
    "a relative path": (lambda at: "copy", "absolute path"),
    "no path": (lambda at: "", "absolute path"),
    "a path with a zero byte": (lambda at: "/tmp/a\0b", "absolute path"),
    "another kind of file system": (lambda at: "/proc/copy", "/proc/copy"),
    "a name that is too long": (lambda at: at / ("n" * 300), "too long"),
}


def names(at: Path) -> list[Path]:
    """Return all names below a folder, but those that come and go as the server works."""
    return sorted(path for path in at.rglob("*") if path.suffix not in (".tmp", ".sst", ".wal"))


def test_a_checkpoint_where_none_can_be_made_is_refused_and_leaves_nothing(scene: Scene, tmp_path: Path) -> None:
    folder = scene.copy(tmp_path / "data")
    with Process("--data-dir", str(folder), *FLAGS) as server, client(server) as kv:
        for name, (make, said) in TARGETS.items():
            at = tmp_path if "data folder" in name or "inside" in name else tmp_path / name.replace(" ", "-")
            at.mkdir(exist_ok=True)
            target = make(at)
            before = names(tmp_path)
            with pytest.raises(TargetUnusable) as caught:
                kv.checkpoint(str(target))
            assert said in caught.value.message, name
            assert caught.value.hint, name
            assert names(tmp_path) == before, name
        command = [sys.executable, "-m", "kvctl", "-E", server.address, "checkpoint", str(folder / "copy")]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        assert told.returncode == 4
        assert "[TARGET_UNUSABLE]" in told.stderr and "hint: " in told.stderr
        assert kv.status().warnings == ()
        (tmp_path / "empty").mkdir()
        assert kv.checkpoint(str(tmp_path / "empty")).revision == kv.status().flushed_revision
        assert_all_there(kv, scene.model)


WITHOUT_PRIVILEGES = (
    "import ctypes; header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()\n"
    "assert ctypes.CDLL(None).capset(header, none) == 0"
)
"""Gives up root's right to write everywhere; whoever is not root has nothing to give up."""


def test_a_checkpoint_without_permission_is_refused(scene: Scene, tmp_path: Path) -> None:
    folder = scene.copy(tmp_path / "data")
    closed = tmp_path / "closed"
    closed.mkdir(0o500)
    with Process("--data-dir", str(folder), *FLAGS, prelude=WITHOUT_PRIVILEGES) as server, client(server) as kv:
        for target in (closed, closed / "copy", closed / "folder" / "copy"):
            with pytest.raises(TargetUnusable) as caught:
                kv.checkpoint(str(target))
            assert "Permission denied" in caught.value.message
        assert list(closed.iterdir()) == []
        closed.chmod(0o700)
        assert kv.checkpoint(str(closed / "copy")).revision == kv.status().flushed_revision
        assert_all_there(kv, scene.model)
        assert server.stop() == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Another file system, of 1 MiB: tables are copied there, not linked, and do not fit; needs root."""
    if os.geteuid() != 0:
        pytest.skip("not root: what a full disk does to a checkpoint is NOT shown here")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, text=True)
    if mount.returncode != 0:
        pytest.skip(f"no file system can be mounted here ({mount.stderr.strip()}): a full disk is NOT shown")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.root
def test_a_checkpoint_on_a_full_disk_is_refused_and_can_be_made_again(scene: Scene, tmp_path: Path, small_disk: Path) -> None:
    folder = scene.copy(tmp_path / "data")
    with Process("--data-dir", str(folder), *FLAGS) as server, client(server) as kv:
        target = small_disk / "copy"
        with pytest.raises(NotWritten) as caught:
            kv.checkpoint(str(target))
        assert caught.value.code == "DISK_FULL"
        assert str(target) in caught.value.message and f"remove {target}" in caught.value.hint
        assert kv.status().warnings == (), "the disk of the store is not full"
        revision = kv.put(b"k", b"goes on").revision
        assert kv.flush().flushed_revision == revision
        if target.exists():
            with Process("--data-dir", str(target), *FLAGS) as half:
                assert half.wait() == 1, "half a checkpoint was opened"
            shutil.rmtree(target)
        subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
        assert kv.checkpoint(str(target)).revision == revision
        with Process("--data-dir", str(target), *FLAGS) as second, client(second) as copied:
            assert_all_there(copied, scene.model | {b"k": Held(b"goes on", revision)})


# Half made, or damaged


def _without_origin(copy: Path) -> None:
    (copy / "ORIGIN").unlink()


def _without_tables(copy: Path) -> None:
    shutil.rmtree(copy / "tables")


def _with_origin_cut(copy: Path) -> None:
    cut(copy / "ORIGIN", 100)


def _with_origin_flipped(copy: Path) -> None:
    flip(copy / "ORIGIN", 60)


def _with_list_cut(copy: Path) -> None:
    cut(manifest(copy), -1)


def _without_a_table(copy: Path) -> None:
    tables(copy)[0].unlink()


def _with_half_a_copy(copy: Path) -> None:
    (copy / "tables").rename(copy / "tables.tmp")


HALVES: dict[Callable[[Path], None], str] = {
    _without_origin: "ORIGIN",
    _without_tables: "tables",
    _with_origin_cut: "ORIGIN",
    _with_origin_flipped: "ORIGIN",
    _with_list_cut: "tables",
    _without_a_table: ".sst",
    _with_half_a_copy: "tables",
}


@pytest.mark.parametrize("halve", HALVES)
def test_a_half_made_or_damaged_checkpoint_is_not_opened(copy: Path, halve: Callable[[Path], None]) -> None:
    halve(copy)
    error, hint = refused_to_start(copy)
    assert HALVES[halve] in error
    assert "hint: " in hint
    refused_to_start(copy)


# Opened twice


def test_two_servers_on_one_checkpoint_are_told_apart_by_the_lock(copy: Path, scene: Scene) -> None:
    with Process("--data-dir", str(copy), *FLAGS) as first, client(first) as kv:
        before = [path.read_bytes() for path in (copy / "IDENTITY", manifest(copy), *sorted((copy / "epochs").iterdir()))]
        error, hint = refused_to_start(copy)
        assert "in use by another process" in error and "--data-dir" in hint
        assert [path.read_bytes() for path in (copy / "IDENTITY", manifest(copy), *sorted((copy / "epochs").iterdir()))] == before
        kv.put(b"k", b"goes on")
        assert kv.count() == len(scene.model) + 1
        assert first.stop() == 0


def test_copies_of_one_checkpoint_are_forks_of_their_own(copy: Path, scene: Scene, tmp_path: Path) -> None:
    twin = shutil.copytree(copy, tmp_path / "twin")
    rng = random.Random(8)
    models = (dict(scene.model), dict(scene.model))
    clusters = set()
    for _ in range(2):
        with Process("--data-dir", str(copy), *FLAGS) as one, Process("--data-dir", str(twin), *FLAGS) as other:
            for server, model in zip((one, other), models, strict=True):
                with client(server) as kv:
                    clusters.add(kv.status().cluster_id)
                    assert_all_there(kv, model)
                    write(kv, model, rng, commits=5)
                    kv.flush()
                    write(kv, model, rng, commits=2)
            assert (one.stop(), other.stop()) == (0, 0)
    assert len(clusters) == 2, "two stores of one cluster id could be taken for one"
    shutil.rmtree(twin / "tables")
    shutil.copytree(copy / "tables", twin / "tables")
    error, _ = refused_to_start(twin)
    assert "[CORRUPTION]" in error and "another cluster" in error


def test_a_token_of_one_fork_is_refused_by_the_other(copy: Path, tmp_path: Path) -> None:
    twin = shutil.copytree(copy, tmp_path / "twin")
    with Process("--data-dir", str(copy), *FLAGS) as one, Process("--data-dir", str(twin), *FLAGS) as other:
        with client(one) as kv, client(other) as second:
            assert second.get(b"nothing", session=kv.session) is None, "up to the checkpoint they are one history"
            for number in range(3):
                kv.put(b"k", b"%d" % number)
            second.put(b"k", b"another")
            with pytest.raises(KvClientError) as caught:
                second.get(b"k", session=kv.session)
            assert caught.value.code in ("HISTORY_LOST", "FUTURE_REVISION")
