"""The enumeration of power losses: complete where it says so, and never without the extremes."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import pytest

from kvserver.base.fs import create_once, write_new_file
from support.crashes import (
    CrashState,
    TooManyStates,
    all_states,
    count_states,
    every_cut,
    record_crash_points,
    sampled_states,
    states,
    tears,
)
from support.memdisk import LOST, WHOLE, Survival
from support.memfs import MemoryFile, MemoryFileSystem
from support.recordfs import Op, RecordingFileSystem

ROOT = Path("/data")
FILE = ROOT / "file"


@pytest.fixture
def fs() -> MemoryFileSystem:
    fs = MemoryFileSystem()
    fs.make_dir(ROOT)
    return fs


@pytest.fixture
def file(fs: MemoryFileSystem) -> MemoryFile:
    fs.plant(FILE, b"....")
    return fs.open(FILE, writable=True)


def contents(found: Iterable[CrashState]) -> list[bytes]:
    return [state.disk.contents()[FILE] for state in found]


def names(found: Iterable[CrashState]) -> set[tuple[str, ...]]:
    return {tuple(state.disk.list_dir(ROOT)) for state in found}


def test_when_all_is_synced_there_is_one_state(fs: MemoryFileSystem, file: MemoryFile) -> None:
    file.pwrite(b"data", 0)
    file.datasync()
    assert contents(all_states(fs)) == [b"data"]
    assert contents(sampled_states(fs, random.Random(1), 50)) == [b"data"]
    assert str(next(all_states(fs))) == "nothing was unsynced"


def test_a_write_inside_the_file_tears_into_old_and_new(fs: MemoryFileSystem, file: MemoryFile) -> None:
    file.pwrite(b"ABCD", 0)
    found = contents(all_states(fs))
    assert set(found) == {b"....", b"ABCD", b"AB..", b"ABC.", b"..CD", b"A..D"}
    assert len(found) == len(set(found)) == count_states(fs)


def test_a_write_that_grows_the_file_tears_into_zeros_too(fs: MemoryFileSystem, file: MemoryFile) -> None:
    file.pwrite(b"ABCD", 4)
    assert set(contents(all_states(fs))) == {
        b"....",
        b"....ABCD",
        b"....AB",
        b"....ABC",
        b"....\0\0\0\0",
        b"....AB\0\0",
        b"....ABC\0",
        b"....\0\0CD",
        b"....A\0\0D",
    }


def test_long_writes_tear_at_a_sector_of_the_disk(fs: MemoryFileSystem, file: MemoryFile) -> None:
    file.pwrite(b"x" * 1000, 100)
    (item,) = fs.unsynced()
    assert Survival(((0, 412),)) in tears(item)
    assert Survival(((412, 1000),)) in tears(item)


def test_every_cut_is_before_each_byte(fs: MemoryFileSystem, file: MemoryFile) -> None:
    file.pwrite(b"ABC", 4)
    (item,) = fs.unsynced()
    found = {fs.power_loss(lambda _, fate=fate: fate).contents()[FILE] for fate in every_cut(item)}  # type: ignore[misc]
    assert found == {b"....", b"....A", b"....AB", b"....\0\0\0", b"....A\0\0", b"....AB\0"}


def test_a_write_of_one_byte_is_kept_or_lost(fs: MemoryFileSystem, file: MemoryFile) -> None:
    file.pwrite(b"A", 0)
    file.truncate(2)
    assert set(contents(all_states(fs))) == {b"....", b"A...", b"..", b"A."}


def test_the_states_are_the_product_of_the_changes(fs: MemoryFileSystem, file: MemoryFile) -> None:
    file.pwrite(b"AB", 0)
    file.pwrite(b"CD", 2)
    one = {b"..", b"AB", b"A.", b".B"}
    other = {b"..", b"CD", b"C.", b".D"}
    assert set(contents(all_states(fs))) == {a + b for a in one for b in other}


def test_names_are_lost_from_the_end_unless_any_subset_is_asked_for(fs: MemoryFileSystem) -> None:
    for name in ("1", "2", "3"):
        fs.create(ROOT / name)
    assert count_states(fs) == 4
    assert names(all_states(fs)) == {(), ("1",), ("1", "2"), ("1", "2", "3")}
    assert count_states(fs, ordered_names=False) == 8
    assert len(names(all_states(fs, ordered_names=False))) == 8
    rng = random.Random(1)
    assert names(sampled_states(fs, rng, 100)) == names(all_states(fs))
    assert names(sampled_states(fs, rng, 100, ordered_names=False)) == names(all_states(fs, ordered_names=False))


def test_names_of_two_folders_are_lost_independently_but_for_renames_between_them(fs: MemoryFileSystem) -> None:
    fs.make_dir(ROOT / "a")
    fs.make_dir(ROOT / "b")
    fs.create(ROOT / "a" / "1")
    fs.create(ROOT / "b" / "2")
    fs.rename(ROOT / "a" / "1", ROOT / "b" / "1")
    found = {(tuple(state.disk.list_dir(ROOT / "a")), tuple(state.disk.list_dir(ROOT / "b"))) for state in all_states(fs)}
    assert found == {((), ()), (("1",), ()), ((), ("2",)), (("1",), ("2",)), ((), ("1", "2"))}
    assert count_states(fs) == 5


def test_too_many_states_are_refused_and_sampled_instead(fs: MemoryFileSystem, file: MemoryFile) -> None:
    for number in range(8):
        file.pwrite(b"ABCD", 4 * number)
    assert count_states(fs) > 1_000_000
    with pytest.raises(TooManyStates):
        all_states(fs)
    found = contents(states(fs, random.Random(1), limit=200))
    assert len(found) == 200
    assert len(set(found)) > 150
    assert found == contents(states(fs, random.Random(1), limit=200))
    file.datasync()
    assert len(contents(states(fs, random.Random(1), limit=200))) == 1


def test_samples_always_hold_the_extremes(fs: MemoryFileSystem, file: MemoryFile) -> None:
    for number in range(6):
        file.pwrite(b"ABCD", 4 * number)
    fates = {tuple(fate for _, fate in state.fates) for state in sampled_states(fs, random.Random(1), count=0)}
    assert (LOST,) * 6 in fates
    assert (WHOLE,) * 6 in fates
    for index in range(6):
        assert (*(WHOLE,) * index, LOST, *(WHOLE,) * (5 - index)) in fates
        assert (*(LOST,) * index, WHOLE, *(LOST,) * (5 - index)) in fates
    for tear in tears(fs.unsynced()[-1]):
        assert (*(WHOLE,) * 5, tear) in fates
        assert (*(LOST,) * 5, tear) in fates


def test_samples_tear_everywhere(fs: MemoryFileSystem, file: MemoryFile) -> None:
    file.pwrite(b"ABCD", 0)
    found = set(contents(sampled_states(fs, random.Random(1), 500)))
    assert {b"A...", b"AB..", b"ABC.", b"...D", b"..CD", b".BCD", b".BC.", b"A..D", b"AB.D"} <= found


def test_a_state_says_what_became_of_each_change(fs: MemoryFileSystem, file: MemoryFile) -> None:
    file.pwrite(b"ABCD", 4)
    file.truncate(6)
    fs.create(ROOT / "new")
    texts = [str(state) for state in all_states(fs)]
    assert "write /data/file 4+4: lost; truncate /data/file to 6: whole; create /data/new: lost" in texts
    assert "write /data/file 4+4: bytes 0 to 2, length kept; truncate /data/file to 6: lost; create /data/new: whole" in texts


def test_crash_points_stand_after_each_change_with_what_was_promised_by_then(fs: MemoryFileSystem) -> None:
    def program(recording: RecordingFileSystem[MemoryFileSystem]) -> None:
        with_file = recording.create(FILE)
        with_file.pwrite(b"A", 0)
        with_file.size()
        with_file.datasync()
        recording.mark("ack", 1)
        recording.exists(FILE)
        recording.sync_dir(ROOT)
        recording.mark("ack", 2)

    points = record_crash_points(fs, program)
    lasts = [[entry.kind for entry in point.entries if isinstance(entry, Op)] for point in points]
    assert lasts == [
        [],
        ["create"],
        ["create", "pwrite", "size"],
        ["create", "pwrite", "size", "datasync", "exists"],
        ["create", "pwrite", "size", "datasync", "exists", "sync_dir"],
    ]
    assert [point.marks("ack") for point in points] == [[], [], [], [1], [1, 2]]
    assert [count_states(point.disk) for point in points] == [1, 2, 6, 2, 1]


def test_create_once_leaves_nothing_or_all(fs: MemoryFileSystem) -> None:
    """The helper of the floors under test, in every state at every moment."""
    checked = 0
    for point in record_crash_points(fs, lambda recording: create_once(recording, FILE, ROOT / "tmp", b"claim")):
        for state in all_states(point.disk, ordered_names=False):
            assert state.disk.contents().get(FILE, b"claim") == b"claim"
            checked += 1
        kept = [state for state in all_states(point.disk) if state.disk.exists(FILE)]
    assert len(kept) == 1
    assert checked > 20


def test_write_new_file_without_a_synced_folder_may_vanish(fs: MemoryFileSystem) -> None:
    write_new_file(fs, FILE, b"data")
    assert names(all_states(fs)) == {(), ("file",)}
