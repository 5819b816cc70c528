"""The store in a folder: what a power loss, a dying or a second writer, a full disk and a planted link leave of it."""

from __future__ import annotations

import errno
import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvserver.archive.folder_store import FolderStore
from kvserver.archive.store import MAX_HELD_BYTES, ObjectExists, ObjectInfo, ReplaceConflict, StoreRefused, StoreUnavailable
from kvserver.base.errors import Corruption
from kvserver.base.fs import FileSystem
from kvserver.base.limits import MIB
from support.crashes import record_crash_points, states
from support.faultfs import Fault, FaultFileSystem, FaultPlan, ProcessKilled, failing_calls
from support.memfs import MemoryFileSystem
from support.recordfs import RecordingFileSystem

ROOT = Path("/srv/archive")
WRITING = ROOT / ".writing"

Content = bytes | None


def open_folder(fs: FileSystem, seed: int = 0) -> FolderStore:
    return FolderStore(fs, ROOT, random.Random(seed).randbytes)


def content(fs: FileSystem, name: str) -> Content:
    store = open_folder(fs)
    held = store.held(name)
    listed = dict(store.list(""))
    assert listed.get(name) == (len(held.data) if held else None)
    return held.data if held else None


def left_over(fs: FileSystem) -> list[str]:
    return [name for name in fs.list_dir(WRITING) if name.endswith(".tmp")] if fs.exists(WRITING) else []


# Power loss


STEPS: list[tuple[str, str, Callable[[FolderStore], object], Content]] = [
    # what happens, to which object, and its content afterwards
    ("create", "a/1", lambda store: store.create("a/1", [b"first ", b"object"]), b"first object"),
    ("create", "a/b/2", lambda store: store.create("a/b/2", []), b""),
    ("replace", "a/R", lambda store: store.replace("a/R", b"one", None), b"one"),
    ("replace", "a/R", lambda store: store.replace("a/R", b"the second", store.held("a/R").token), b"the second"),  # type: ignore[union-attr]
    ("delete", "a/1", lambda store: store.delete("a/1"), None),
    ("create", "a/1", lambda store: store.create("a/1", iter([b"another"])), b"another"),
]


def test_after_a_power_loss_an_object_is_there_whole_or_not_at_all() -> None:
    def program(fs: RecordingFileSystem[MemoryFileSystem]) -> None:
        store = open_folder(fs)
        for number, (_, _, step, _) in enumerate(STEPS):
            fs.mark("begun", number)
            step(store)
            fs.mark("done", number)

    rng = random.Random(1)
    disk = MemoryFileSystem()
    disk.make_dir(ROOT.parent)
    checked = 0
    for point in record_crash_points(disk, program):
        done = len(point.marks("done"))
        begun = len(point.marks("begun"))
        for state in states(point.disk, rng, limit=60):
            for name in {name for _, name, _, _ in STEPS}:
                promised = [after for _, changed, _, after in STEPS[:done] if changed == name][-1:] or [None]
                allowed = promised + [after for _, changed, _, after in STEPS[done:begun] if changed == name]
                assert content(state.disk, name) in allowed, f"{name} after {done} steps: {state}"
            checked += 1
            open_folder(state.disk, seed=2).create("later", [b"x"])
            assert left_over(state.disk) == []
            assert content(state.disk, "later") == b"x"
    assert checked > 200


def test_who_hears_that_an_object_exists_may_rely_on_it_after_a_power_loss() -> None:
    """Another writer has linked it, and dies before its name is durable."""
    for at in itertools.count(1):
        disk = MemoryFileSystem()
        disk.make_dir(ROOT)
        dying = FaultFileSystem(disk, FaultPlan([Fault(at=at, error=None, kills=True)]))
        try:
            open_folder(dying).create("a/1", [b"content"])
            return
        except ProcessKilled:
            disk.kill()
        store = open_folder(disk, seed=2)
        try:
            store.create("a/1", [b"content"])
        except ObjectExists:
            assert at > 5
        for state in states(disk, random.Random(at), limit=60):
            assert content(state.disk, "a/1") == b"content"


def test_what_was_held_is_held_after_a_power_loss() -> None:
    """Another writer has renamed it, and dies before the name is durable."""
    for at in itertools.count(1):
        disk = MemoryFileSystem()
        token = open_folder(disk).replace("a/R", b"old", None)
        dying = FaultFileSystem(disk, FaultPlan([Fault(at=at, error=None, kills=True)]))
        try:
            open_folder(dying, seed=2).replace("a/R", b"new", token)
            return
        except ProcessKilled:
            disk.kill()
        held = open_folder(disk, seed=3).held("a/R")
        for state in states(disk, random.Random(at), limit=60):
            assert open_folder(state.disk).held("a/R") == held


# Writers that die, and writers beside each other


def test_what_a_dead_writer_left_is_removed_by_the_next_and_what_a_live_one_writes_is_not() -> None:
    disk = MemoryFileSystem()
    dying = FaultFileSystem(disk.another_process(), FaultPlan([Fault(kinds={"sync"}, error=None, kills=True)]))
    with pytest.raises(ProcessKilled):
        open_folder(dying, seed=1).create("a/dead", [b"x"])
    dying.inner.kill()
    assert len(left_over(disk)) == 1

    dead, live = disk.another_process(), disk.another_process()
    lock = dead.lock(WRITING / "00.tmp")  # a second one, whose process is ended below
    assert lock

    def parts() -> Iterator[bytes]:
        assert len(left_over(disk)) == 2  # its own, and the one that is locked
        dead.kill()
        open_folder(disk, seed=3).create("a/other", [b"y"])
        assert len(left_over(disk)) == 1
        yield b"live"

    open_folder(live, seed=2).create("a/live", parts())
    assert content(disk, "a/live") == b"live"
    assert content(disk, "a/other") == b"y"
    assert content(disk, "a/dead") is None
    assert left_over(disk) == []


@pytest.mark.parametrize("seed", [5, 6])
def test_of_two_writers_one_wins_wherever_the_other_comes_between(seed: int) -> None:
    for at in itertools.count(1):
        disk = MemoryFileSystem()
        outcome: list[object] = []

        def other(disk: MemoryFileSystem = disk, outcome: list[object] = outcome) -> None:
            try:
                outcome.append(open_folder(disk.another_process(), seed=seed).create("a/b/c", [b"other's"]))
            except ObjectExists:
                outcome.append("exists")

        fs = FaultFileSystem(disk, FaultPlan([Fault(at=at, error=None, action=other)]))
        try:
            mine: object = open_folder(fs).create("a/b/c", [b"mine"])
        except ObjectExists:
            mine = "exists"
        if not fs.fired:
            break
        assert (mine, outcome) in [(4, ["exists"]), ("exists", [7])]
        assert content(disk, "a/b/c") == (b"mine" if mine == 4 else b"other's")
        assert left_over(disk) == []
    assert at > 8


def test_of_two_replacers_one_wins_wherever_the_other_comes_between() -> None:
    won = set()
    for at in itertools.count(1):
        disk = MemoryFileSystem()
        token = open_folder(disk).replace("a/R", b"begin", None)
        outcome: list[str] = []

        def other(disk: MemoryFileSystem = disk, token: str = token, outcome: list[str] = outcome) -> None:
            try:
                open_folder(disk.another_process(), seed=7).replace("a/R", b"other's", token)
                outcome.append("replaced")
            except ReplaceConflict:
                outcome.append("conflict")

        fs = FaultFileSystem(disk, FaultPlan([Fault(at=at, error=None, action=other)]))
        try:
            open_folder(fs, seed=8).replace("a/R", b"mine", token)
            mine = "replaced"
        except ReplaceConflict:
            mine = "conflict"
        if not fs.fired:
            break
        assert {mine, *outcome} == {"replaced", "conflict"}
        assert content(disk, "a/R") == (b"mine" if mine == "replaced" else b"other's")
        assert left_over(disk) == []
        won.add(mine)
    assert won == {"replaced", "conflict"}


# Calls that fail


@pytest.mark.parametrize("performed", [False, True])
@pytest.mark.parametrize("error", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENOSPC, errno.EROFS])
def test_a_call_that_fails_leaves_the_object_whole_or_absent_and_the_next_try_settles_it(error: int, performed: bool) -> None:
    refusing = error in (errno.ENOSPC, errno.EROFS)
    ends = set()
    for fs in failing_calls(MemoryFileSystem, Fault(error=error, performed=performed)):
        try:
            open_folder(fs).create("a/b", [b"12", b"34"])
            end = "created"
        except StoreUnavailable:
            assert not refusing
            end = "unavailable"
        except StoreRefused as caught:
            assert refusing and caught.hint and str(ROOT) in caught.message
            end = "refused"
        found = content(fs.inner, "a/b")
        assert found == b"1234" or (found is None and end != "created")
        ends.add((end, found is not None))
        fs.inner.kill()  # else a lock that was taken although its call failed would stay
        retry = open_folder(fs.inner, seed=9)
        if found is None:
            retry.create("a/b", [b"1234"])
        else:
            with pytest.raises(ObjectExists):
                retry.create("a/b", [b"1234"])
        assert retry.read("a/b") == b"1234"
        retry.create("a/c", [b""])
        assert left_over(fs.inner) == []
    failed = "refused" if refusing else "unavailable"
    assert ends == {("created", True), (failed, False), (failed, True)}


def test_an_error_that_comes_only_with_closing_is_the_stores() -> None:
    disk = MemoryFileSystem()
    open_folder(disk).create("there", [b"x"])
    calls: list[Callable[[FolderStore], object]] = [
        lambda store: store.create("a", [b"x"]),
        lambda store: store.replace("R", b"x", None),
        lambda store: list(store.stream("there")),
    ]
    for seed, call in enumerate(calls):
        store = open_folder(FaultFileSystem(disk, FaultPlan([Fault(kinds={"close"})])), seed=seed)
        with pytest.raises(StoreUnavailable, match="Input/output error"):
            call(store)


@pytest.mark.parametrize("error", [errno.EIO, errno.EACCES])
def test_a_replacement_that_fails_is_done_or_not(error: int) -> None:
    def make() -> MemoryFileSystem:
        disk = MemoryFileSystem()
        open_folder(disk).replace("R", b"old", None)
        return disk

    for fs in failing_calls(make, Fault(error=error)):
        held = open_folder(fs.inner).held("R")
        assert held is not None
        try:
            open_folder(fs, seed=4).replace("R", b"new", held.token)
            allowed: list[Content] = [b"new"]
        except (StoreUnavailable, StoreRefused):
            allowed = [b"old", b"new"]
        assert content(fs.inner, "R") in allowed


def test_a_full_disk_is_refused_with_what_to_do_and_leaves_nothing() -> None:
    fs = FaultFileSystem(MemoryFileSystem(), FaultPlan(space_bytes=10 * MIB))
    store = open_folder(fs)
    with pytest.raises(StoreRefused, match="No space left") as caught:
        store.create("a", (bytes(MIB) for _ in range(11)))
    assert "make room" in caught.value.hint
    assert content(fs.inner, "a") is None and left_over(fs.inner) == []
    assert store.create("a", (bytes(MIB) for _ in range(10))) == 10 * MIB


def test_a_disk_that_may_only_be_read_can_be_read() -> None:
    disk = MemoryFileSystem()
    open_folder(disk).create("a/b", [b"x"])
    changing = {"create", "lock", "make_dir", "link", "rename", "remove", "pwrite", "sync_dir"}
    store = open_folder(FaultFileSystem(disk, FaultPlan([Fault(kinds=changing, error=errno.EROFS, forever=True)])))  # type: ignore[arg-type]
    assert store.read("a/b") == b"x"
    assert list(store.list("")) == [ObjectInfo("a/b", 1)]
    for write in (lambda: store.create("c", [b""]), lambda: store.delete("a/b"), lambda: store.replace("R", b"", None)):
        with pytest.raises(StoreRefused) as caught:
            write()
        assert caught.value.hint == "mount its file system for writing"


def test_a_store_whose_disk_vanishes_in_the_middle_of_a_stream_says_so() -> None:
    disk = MemoryFileSystem()
    open_folder(disk).create("a", [bytes(MIB)] * 3)
    stream = open_folder(FaultFileSystem(disk, FaultPlan([Fault(at=2, kinds={"pread"}, error=errno.ESTALE)]))).stream("a")
    assert len(next(stream)) == MIB
    with pytest.raises(StoreUnavailable, match="file:///srv/archive cannot be reached"):
        next(stream)


def test_an_object_deleted_while_it_is_read_is_read_to_its_end() -> None:
    store = open_folder(MemoryFileSystem())
    store.create("a", [bytes(MIB)] * 3)
    stream = store.stream("a")
    next(stream)
    store.delete("a")
    assert sum(map(len, stream)) == 2 * MIB


def test_memory_does_not_grow_with_the_object() -> None:
    alive: set[int] = set()

    class Part(bytes):
        def __del__(self) -> None:
            alive.discard(id(self))

    def parts() -> Iterator[bytes]:
        for _ in range(50):
            part = Part(1000)
            alive.add(id(part))
            assert len(alive) <= 3
            yield part

    assert open_folder(MemoryFileSystem()).create("a", parts()) == 50_000


def test_a_replaceable_object_that_is_too_large_is_damaged_and_not_read() -> None:
    fs = RecordingFileSystem(MemoryFileSystem())
    store = open_folder(fs)
    store.create("R", [bytes(MAX_HELD_BYTES // 4)] * 4)
    assert len(store.held("R").data) == MAX_HELD_BYTES  # type: ignore[union-attr]
    store.delete("R")
    store.create("R", [bytes(MAX_HELD_BYTES // 4)] * 4 + [b"x"])
    before = len(fs.ops("pread"))
    with pytest.raises(Corruption, match="16777217 bytes; 16777216 are allowed"):
        store.held("R")
    assert len(fs.ops("pread")) == before
