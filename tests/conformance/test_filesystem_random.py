"""Random calls on the operating system's file system and on the one in memory have the same outcomes, errors included."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from kvserver.base.fs import File, FileSystem, OsFileSystem
from support.faultfs import FaultFileSystem
from support.memfs import MemoryFileSystem
from support.recordfs import RecordingFileSystem

CALLS = 300
PLACES = ("a", "b", "c", "folder", "folder/a", "folder/b", "other/a", "a/below", "made/a")

Call = Callable[["World"], object]


class World:
    """One of the two file systems, and the files that are open on it."""

    def __init__(self, fs: FileSystem, root: Path) -> None:
        self.fs = fs
        self.root = root
        self.files: list[File] = []
        fs.make_dir(root / "folder")

    def outcome(self, call: Call) -> object:
        """Return what the call returns, or the number of its error."""
        try:
            return call(self)
        except OSError as error:
            return f"error {error.errno}"

    def add(self, file: File) -> str:
        """Keep an open file."""
        self.files.append(file)
        return "opened"

    def tree(self) -> dict[str, list[str]]:
        """Return the names in both folders."""
        return {name: self.fs.list_dir(self.root / name) for name in (".", "folder")}


def random_call(rng: random.Random, open_files: int) -> Call:
    """Return a call that can be made on either world."""
    one, two = rng.choice(PLACES), rng.choice(PLACES)
    offset, length = rng.randrange(2000), rng.randrange(1200)
    data = rng.randbytes(length)
    writable = rng.random() < 0.8
    of_names: list[Call] = [
        lambda world: world.add(world.fs.create(world.root / one)),
        lambda world: world.fs.link(world.root / one, world.root / two),
        lambda world: world.fs.remove(world.root / one),
        lambda world: world.fs.exists(world.root / one),
        lambda world: world.fs.info(world.root / one),
        lambda world: world.fs.make_dir(world.root / "made"),
        lambda world: world.fs.remove_dir(world.root / "made"),
        lambda world: world.fs.sync_dir(world.root / "folder"),
    ]
    if one != "folder":  # opening a folder for reading and renaming one after a sync: the systems differ there
        of_names.append(lambda world: world.fs.rename(world.root / one, world.root / two))
        of_names.append(lambda world: world.add(world.fs.open(world.root / one, writable)))
    number = rng.randrange(max(1, open_files))
    of_files: list[Call] = [
        lambda world: world.files[number].pwrite(data, offset),
        lambda world: world.files[number].pread(length, offset),
        lambda world: world.files[number].size(),
        lambda world: world.files[number].truncate(offset),
        lambda world: world.files[number].datasync(),
    ]
    return rng.choice(of_files if open_files and rng.random() < 0.5 else of_names)


@pytest.mark.parametrize("seed", range(20))
def test_both_do_the_same(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    real = World(OsFileSystem(), tmp_path / "real")
    memory = MemoryFileSystem()
    model = World(FaultFileSystem(RecordingFileSystem(memory)), Path("/model"))
    errors = 0
    for _ in range(CALLS):
        call = random_call(rng, len(real.files))
        wanted, found = real.outcome(call), model.outcome(call)
        assert found == wanted, call.__code__.co_names
        assert len(real.files) == len(model.files)
        errors += isinstance(wanted, str) and wanted.startswith("error")
    assert model.tree() == real.tree()
    contents = {path.relative_to("/model").as_posix(): data for path, data in memory.contents().items()}
    assert contents == {
        path.relative_to(real.root).as_posix(): path.read_bytes() for path in real.root.rglob("*") if path.is_file()
    }
    assert 10 < errors < CALLS - 10
    for file in real.files:
        file.close()
