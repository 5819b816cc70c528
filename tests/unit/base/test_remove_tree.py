"""Folders removed with all that is below them."""

from __future__ import annotations

from pathlib import Path

from kvserver.base.fs import OsFileSystem, remove_tree
from support.memfs import MemoryFileSystem


def test_everything_below_goes_and_nothing_else() -> None:
    fs = MemoryFileSystem()
    for name in ("a/b/c", "a/b/d/e", "a/f", "other"):
        fs.plant(Path("/top") / name, b"x")
    fs.make_dir(Path("/top/a/empty"))
    remove_tree(fs, Path("/top/a"))
    remove_tree(fs, Path("/top/a"))
    assert fs.list_dir(Path("/top")) == ["other"]
    remove_tree(fs, Path("/top/other"))
    assert fs.list_dir(Path("/top")) == []


def test_a_link_is_removed_and_not_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    gone = tmp_path / "gone"
    gone.mkdir()
    (gone / "link").symlink_to(kept)
    (gone / "file link").symlink_to(kept / "file")
    remove_tree(OsFileSystem(), gone)
    assert not gone.exists()
    assert (kept / "file").exists()
    (tmp_path / "top").symlink_to(kept)
    remove_tree(OsFileSystem(), tmp_path / "top")
    assert (kept / "file").exists()
