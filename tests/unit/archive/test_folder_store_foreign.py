"""The store in a folder: links, pipes, folders and files that others have planted in it lead nowhere and harm nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kvserver.archive.folder_store import FolderStore
from kvserver.archive.store import ObjectInfo, StoreRefused, StoreUnavailable
from kvserver.base.fs import OsFileSystem


@pytest.fixture
def archive(tmp_path: Path) -> tuple[FolderStore, Path, Path]:
    """Give a store on the real disk, its folder, and a folder outside that nothing may touch."""
    root, outside = tmp_path / "archive", tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_bytes(b"secret")
    store = FolderStore(OsFileSystem(), root)
    store.create("a/b", [b"mine"])
    return store, root, outside


def all_calls(store: FolderStore, name: str) -> list[Callable[[], object]]:
    return [
        lambda: store.create(name, [b"x"]),
        lambda: store.read(name),
        lambda: list(store.stream(name)),
        lambda: store.length(name),
        lambda: store.delete(name),
        lambda: store.held(name),
        lambda: store.replace(name, b"x", None),
    ]


@pytest.mark.parametrize("target", ["secret", "missing", "."])
def test_a_link_in_the_place_of_an_object_is_not_followed(archive: tuple[FolderStore, Path, Path], target: str) -> None:
    store, root, outside = archive
    (root / "a" / "link").symlink_to(outside / target)
    for call in all_calls(store, "a/link"):
        with pytest.raises(StoreRefused, match="a/link is neither a file nor a folder"):
            call()
    assert list(store.list("")) == [ObjectInfo("a/b", 4)]
    assert {path.name for path in outside.iterdir()} == {"secret"}


def test_a_link_in_the_place_of_a_folder_is_not_followed(archive: tuple[FolderStore, Path, Path]) -> None:
    store, root, outside = archive
    (root / "link").symlink_to(outside)
    (root / "inside").symlink_to(root / "a")
    for name in ("link/secret", "link/new", "link/deep/new", "inside/b"):
        for call in all_calls(store, name):
            with pytest.raises(StoreRefused, match="neither a file nor a folder"):
                call()
        with pytest.raises(StoreRefused):
            list(store.list(f"{name.partition('/')[0]}/"))
        with pytest.raises(StoreRefused):
            store.folders(f"{name.partition('/')[0]}/")
    assert list(store.list("")) == [ObjectInfo("a/b", 4)]
    assert list(store.folders("")) == ["a/"]
    assert {path.name for path in outside.iterdir()} == {"secret"}
    assert (outside / "secret").read_bytes() == b"secret"


def test_links_in_the_folder_of_writers_are_not_followed(tmp_path: Path) -> None:
    root, outside = tmp_path / "archive", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (root / ".writing").symlink_to(outside)
    store = FolderStore(OsFileSystem(), root)
    for write in (lambda: store.create("a", [b"x"]), lambda: store.replace("a", b"x", None)):
        with pytest.raises(StoreRefused, match="neither a file nor a folder"):
            write()
    (root / ".writing").unlink()
    (root / ".writing").mkdir()
    (root / ".writing" / "0.tmp").symlink_to(outside / "made")
    with pytest.raises(StoreRefused, match=r"0\.tmp is neither"):
        store.create("a", [b"x"])
    (root / ".writing" / "0.tmp").unlink()
    store.replace("a", b"x", None)
    (lock,) = (root / ".writing").iterdir()
    lock.unlink()
    lock.symlink_to(outside / "made")
    with pytest.raises(StoreRefused, match=r"\.lock is neither"):
        store.replace("a", b"y", store.held("a").token)  # type: ignore[union-attr]
    assert list(outside.iterdir()) == []


def test_a_pipe_in_the_place_of_an_object_is_not_waited_for(archive: tuple[FolderStore, Path, Path]) -> None:
    store, root, _ = archive
    os.mkfifo(root / "a" / "pipe")
    with pytest.raises(StoreRefused):
        store.read("a/pipe")
    assert list(store.list("")) == [ObjectInfo("a/b", 4)]


def test_foreign_names_are_left_out_of_listings(archive: tuple[FolderStore, Path, Path]) -> None:
    store, root, _ = archive
    for name in ("ü", "a b", "#x", "lost+found", ".nfs0001", "x" * 129, "tab\t"):
        (root / "a" / name).write_bytes(b"")
    (root / "lost+found").mkdir()
    deep = root / "a" / "1/2/3/4/5/6/7/8/9"
    deep.mkdir(parents=True)
    (deep / "x").write_bytes(b"")
    assert list(store.list("")) == [ObjectInfo("a/b", 4)]


def test_a_folder_or_a_file_in_the_wrong_place_is_refused_by_name(archive: tuple[FolderStore, Path, Path]) -> None:
    store, _, _ = archive
    with pytest.raises(StoreRefused, match="archive/a: Is a directory") as caught:
        store.create("a", [b"x"])
    assert "remove the folder" in caught.value.hint
    with pytest.raises(StoreRefused, match="archive/a: Is a directory"):
        store.replace("a", b"x", None)
    store.delete("a")
    for write in (lambda: store.create("a/b/c", [b"x"]), lambda: store.replace("a/b/c", b"x", None)):
        with pytest.raises(StoreRefused, match=r"File exists|Not a directory"):
            write()
    assert store.read("a/b") == b"mine"


def test_a_file_in_the_place_of_the_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "archive").write_bytes(b"")
    store = FolderStore(OsFileSystem(), tmp_path / "archive")
    for ask in (lambda: store.create("a", [b""]), lambda: list(store.list("")), lambda: store.folders("")):
        with pytest.raises(StoreRefused, match=r"Not a directory|File exists"):
            ask()


def test_the_archive_itself_may_lie_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "archive").symlink_to(tmp_path / "disk")
    store = FolderStore(OsFileSystem(), tmp_path / "archive")
    store.create("a/b", [b"x"])
    store.create("c", [b"y"])
    assert (tmp_path / "disk" / "a" / "b").read_bytes() == b"x"
    assert [info.name for info in store.list("")] == ["a/b", "c"]


@pytest.mark.parametrize("is_mount_point", [True, False])
def test_a_folder_whose_disk_is_unmounted_is_not_written_to_until_it_is_back(
    archive: tuple[FolderStore, Path, Path], is_mount_point: bool
) -> None:
    """What was written below the mount point would be hidden as soon as the disk is back."""
    store, root, outside = archive
    root.rename(outside / "unmounted")
    if is_mount_point:
        root.mkdir()
    for write in (
        lambda: store.create("a/c", [b"x"]),
        lambda: store.create("new/c", [b"x"]),
        lambda: store.replace("R", b"x", None),
    ):
        with pytest.raises(StoreUnavailable, match="was there and is gone; mount its disk again"):
            write()
    assert not root.exists() or list(root.iterdir()) == []
    if is_mount_point:
        root.rmdir()
    (outside / "unmounted").rename(root)
    store.create("a/c", [b"again"])
    assert (store.read("a/b"), store.read("a/c")) == (b"mine", b"again")


def test_reading_makes_nothing(tmp_path: Path) -> None:
    store = FolderStore(OsFileSystem(), tmp_path / "none" / "archive")
    assert list(store.list("")) == list(store.folders("")) == []
    assert store.held("R") is None
    store.delete("a/b")
    assert list(tmp_path.iterdir()) == []
