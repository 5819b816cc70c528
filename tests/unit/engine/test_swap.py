"""The swap of a store: all of it or nothing, whatever is interrupted, and however often."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from kvserver.base.environment import Environment
from kvserver.base.errors import Corruption
from kvserver.base.paths import DataPaths
from kvserver.engine.swap import begin_swap, discard_incoming, finish_swap, swap_names
from support.crashes import all_states, record_crash_points
from support.logs import PATHS
from support.memfs import MemoryFileSystem, os_error
from support.recordfs import RecordingFileSystem

NAMES = ("wal", "tables", "ORIGIN")
INCOMING = DataPaths(PATHS.incoming)
KEPT = {PATHS.identity: b"identity", PATHS.promise: b"promise", PATHS.lost / "x": b"lost", PATHS.epochs / "1": b"claim"}
OLD = {PATHS.wal / "1": b"old log", PATHS.wal / "2": b"more", PATHS.tables / "1": b"old table", PATHS.origin: b"old origin"}
NEW = {PATHS.tables / "1": b"new table", PATHS.tables / "9": b"another", PATHS.origin: b"new origin"}


def made(old: dict[Path, bytes] = OLD) -> MemoryFileSystem:
    """A store, and a whole copy with an empty log."""
    fs = MemoryFileSystem()
    fs.make_dir(PATHS.root)
    for path, data in (KEPT | old).items():
        fs.plant(path, data)
    for path, data in NEW.items():
        fs.plant(PATHS.incoming / path.relative_to(PATHS.root), data)
    fs.make_dir(INCOMING.wal)
    return fs


def env(fs: object) -> Environment:
    return Environment(fs=fs)  # type: ignore[arg-type]


def content(fs: MemoryFileSystem) -> dict[Path, bytes]:
    return fs.contents()


def test_the_copy_takes_the_place_of_what_there_was() -> None:
    fs = made()
    begin_swap(env(fs), PATHS, NAMES)
    assert finish_swap(env(fs), PATHS)
    assert content(fs) == KEPT | NEW
    assert fs.list_dir(PATHS.wal) == []
    assert set(fs.list_dir(PATHS.root)) == {"IDENTITY", "PROMISE", "lost", "epochs", "wal", "tables", "ORIGIN"}
    assert not finish_swap(env(fs), PATHS)


def test_a_folder_without_a_store_gets_one() -> None:
    fs = made({})
    begin_swap(env(fs), PATHS, NAMES)
    finish_swap(env(fs), PATHS)
    assert content(fs) == KEPT | NEW


def test_only_what_is_named_is_exchanged() -> None:
    fs = made()
    fs.plant(INCOMING.wal / "1", b"shorter")
    begin_swap(env(fs), PATHS, ["wal"])
    finish_swap(env(fs), PATHS)
    expected = {path: data for path, data in OLD.items() if path.parent != PATHS.wal}
    assert content(fs) == KEPT | expected | {PATHS.wal / "1": b"shorter"}


def test_names_that_are_never_exchanged_are_refused() -> None:
    fs = made()
    fs.plant(PATHS.incoming / "IDENTITY", b"another")
    with pytest.raises(ValueError, match="IDENTITY"):
        begin_swap(env(fs), PATHS, ["IDENTITY"])
    assert swap_names(PATHS) == NAMES


@pytest.mark.parametrize("missing", NAMES)
def test_a_copy_that_lacks_a_part_is_not_taken(missing: str) -> None:
    fs = made()
    for path in list(fs.contents()):
        if path.is_relative_to(PATHS.incoming / missing):
            fs.remove(path)
    if fs.exists(PATHS.incoming / missing):
        fs.remove_dir(PATHS.incoming / missing)
    with pytest.raises(FileNotFoundError):
        begin_swap(env(fs), PATHS, NAMES)
    assert not finish_swap(env(fs), PATHS)
    assert {path: data for path, data in content(fs).items() if not path.is_relative_to(PATHS.incoming)} == KEPT | OLD


def swap(fs: RecordingFileSystem[MemoryFileSystem]) -> None:
    begin_swap(env(fs), PATHS, NAMES)
    finish_swap(env(fs), PATHS)


@pytest.mark.parametrize("old", [OLD, {}], ids=["over a store", "into an empty folder"])
@pytest.mark.parametrize("ordered", [True, False])
def test_power_lost_at_any_step_leaves_the_old_store_or_becomes_the_new_one(old: dict[Path, bytes], ordered: bool) -> None:
    seen = new = 0
    for point in record_crash_points(made(old), swap):
        for state in all_states(point.disk, ordered_names=ordered):
            seen += 1
            fs = state.disk
            finished = finish_swap(env(fs), PATHS)
            found = {path: data for path, data in content(fs).items() if not path.is_relative_to(PATHS.incoming)}
            found.pop(PATHS.swap_temporary, None)
            is_new = finished or PATHS.tables / "9" in found
            new += is_new
            assert found == KEPT | (NEW if is_new else old), str(state)
            assert not fs.exists(PATHS.replaced)
            assert not finish_swap(env(fs), PATHS)
            if not is_new:  # the copy is whole, and can still be taken
                begin_swap(env(fs), PATHS, NAMES)
                finish_swap(env(fs), PATHS)
                assert {path: data for path, data in content(fs).items() if path != PATHS.swap_temporary} == KEPT | NEW
    assert seen > 20 and 0 < new < seen


def test_power_lost_again_while_it_is_finished() -> None:
    seen = 0
    for point in record_crash_points(made(), swap):
        for first in list(all_states(point.disk))[::2]:
            if not first.disk.exists(PATHS.swap):
                continue
            for again in record_crash_points(first.disk, lambda fs: finish_swap(env(fs), PATHS)):
                for state in all_states(again.disk):
                    seen += 1
                    finish_swap(env(state.disk), PATHS)
                    found = content(state.disk)
                    found.pop(PATHS.swap_temporary, None)
                    assert found == KEPT | NEW, str(state)
    assert seen > 100


class Failing(RecordingFileSystem[MemoryFileSystem]):
    """Renames fail from the n-th on."""

    def __init__(self, inner: MemoryFileSystem, at: int) -> None:
        super().__init__(inner)
        self._left = at
        self.disk = inner

    def rename(self, old: Path, new: Path) -> None:
        self._left -= 1
        if self._left < 0:
            raise os_error(errno.EIO, old)
        super().rename(old, new)


@pytest.mark.parametrize("at", range(6))
def test_a_disk_that_refuses_a_rename_leaves_what_the_next_start_finishes(at: int) -> None:
    fs = made()
    begin_swap(env(fs), PATHS, NAMES)
    with pytest.raises(OSError, match="error"):
        finish_swap(env(Failing(fs, at)), PATHS)
    assert finish_swap(env(fs), PATHS)
    assert content(fs) == KEPT | NEW


def test_a_marker_that_does_not_check_is_not_acted_on() -> None:
    fs = made()
    begin_swap(env(fs), PATHS, NAMES)
    fs.plant(PATHS.swap, fs.contents()[PATHS.swap].replace(b"tables", b"tablez"))
    with pytest.raises(Corruption):
        finish_swap(env(fs), PATHS)
    assert fs.contents()[PATHS.tables / "1"] == b"old table"


def test_a_part_that_is_nowhere_is_named() -> None:
    fs = made({})
    begin_swap(env(fs), PATHS, NAMES)
    fs.remove(INCOMING.origin)
    with pytest.raises(Corruption, match="ORIGIN"):
        finish_swap(env(fs), PATHS)


def test_a_second_swap_waits_for_the_first() -> None:
    fs = made()
    begin_swap(env(fs), PATHS, NAMES)
    with pytest.raises(FileExistsError):
        begin_swap(env(fs), PATHS, NAMES)
    discard_incoming(env(fs), PATHS)
    assert fs.exists(INCOMING.tables), "it is taking its place"
    finish_swap(env(fs), PATHS)


def test_what_the_swap_before_could_not_remove_is_in_nobodys_way() -> None:
    fs = made()
    for path, data in OLD.items():
        fs.plant(PATHS.replaced / path.relative_to(PATHS.root), data)
    begin_swap(env(fs), PATHS, NAMES)
    finish_swap(env(fs), PATHS)
    assert content(fs) == KEPT | NEW


def test_what_was_not_finished_is_removed_on_request() -> None:
    fs = made()
    discard_incoming(env(fs), PATHS)
    assert content(fs) == KEPT | OLD
    discard_incoming(env(fs), PATHS)
