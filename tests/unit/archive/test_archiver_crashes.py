"""Kills at every step of the archiver: what is listed is sound, nothing is lost, nothing went before it was archived."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kvserver.archive.archiver import ArchiverOptions
from kvserver.archive.folder_store import FolderStore
from kvserver.base import failpoints
from kvserver.base.fs import FileSystem
from kvserver.base.paths import parse_segment
from support.archiving import World
from support.crashes import CrashPoint, record_crash_points, states
from support.fault_store import FaultStore, StoreFault, failing_store_calls
from support.faultfs import ProcessKilled
from support.memfs import MemoryFileSystem
from support.memory_store import MemoryStore
from support.recordfs import Op, RecordingFileSystem

NAMES = [name for name in failpoints.ARCHIVE_NAMES if name.startswith("archive.")]


@pytest.fixture(autouse=True)
def _disarm() -> Iterator[None]:
    yield
    failpoints.disarm_all()


Step = Callable[[World], None]
LIFE: tuple[Step, ...] = (
    lambda world: world.segments(2),
    lambda world: world.flush(),
    lambda world: world.archive(),
    lambda world: world.restart(),
    lambda world: world.segments(1),
    lambda world: world.flush(),
    lambda world: world.archive(),
    lambda world: world.restart(),
    lambda world: world.archive(),
    lambda world: world.segments(2),
    lambda world: world.archive(),
)
"""Three epochs, one of them without a write; most of the log is flushed, so that only the archive keeps it."""


def live(world: World, after_kill: Callable[[World], None] = lambda world: None) -> int:
    """Live that life; whenever the process is killed, judge what is there, and start again. Return how often it was."""
    kills = 0
    for step in LIFE:
        try:
            step(world)
        except ProcessKilled:
            kills += 1
            after_kill(world)
            world.crash()
            world.judge()
            world.archive()
        world.judge()
    assert world.archived == world.database.marks.visible
    assert len(world.entries()) == len({entry.segment_id for entry in world.entries()}) == len(world.raw)
    return kills


def kill() -> None:
    """End the process."""
    raise ProcessKilled


@pytest.mark.parametrize("name", NAMES)
def test_a_kill_at_any_failpoint_at_any_time(name: str) -> None:
    at = 0
    while True:
        at += 1
        left = [at]

        def count(left: list[int] = left) -> None:
            left[0] -= 1
            if not left[0]:
                kill()

        failpoints.arm(name, count)
        kills = live(World())
        failpoints.disarm_all()
        if not kills:
            break
    assert at > (2 if name == "archive.after_closing" else 5), "the place was passed several times"


@pytest.mark.parametrize("performed", [False, True], ids=["before", "after"])
def test_a_kill_at_any_call_of_the_store(performed: bool) -> None:
    runs = 0
    for store in failing_store_calls(MemoryStore, StoreFault(kills=True, error=None, performed=performed)):
        runs += 1
        assert live(World(store), forget_the_fault) == store.dead, "a call that fails by itself ends no process"
    assert runs > 40


@pytest.mark.parametrize("parts", [0, 1, 2])
def test_a_kill_in_the_middle_of_any_upload(parts: int) -> None:
    for store in failing_store_calls(MemoryStore, StoreFault(calls={"create"}, kills=True, error=None, parts=parts)):
        assert live(World(store), forget_the_fault) == (1 if store.fired else 0)


def forget_the_fault(world: World) -> None:
    """Let the next process reach the store."""
    assert isinstance(world.store, FaultStore)
    world.store = world.store.inner


@pytest.mark.parametrize("seed", range(12))
def test_kills_at_random_and_several_times(seed: int) -> None:
    rng = random.Random(seed)

    def perhaps() -> None:
        if rng.random() < 0.05:
            kill()

    world = World(options=ArchiverOptions(queue_bytes=1 << 30))
    for _ in range(25):
        step = rng.choice([*LIFE, lambda world: world.write(1)])
        for name in NAMES:
            failpoints.arm(name, perhaps)
        try:
            step(world)
        except ProcessKilled:
            failpoints.disarm_all()
            world.crash()
        failpoints.disarm_all()
        world.judge()
    world.seal()
    world.archive()
    world.judge()
    assert world.archived == world.database.marks.visible


ARCHIVE = Path("/archive")


def test_power_lost_at_any_step_leaves_every_segment_in_the_log_or_in_the_archive() -> None:
    """Log and archive lie on one disk, and all that was not synced may be lost at once, in any choice."""
    base = MemoryFileSystem()
    base.make_dir(ARCHIVE)
    keep: list[World] = []

    def program(fs: RecordingFileSystem[MemoryFileSystem]) -> None:
        world = World(store_on(fs), base, fs=lambda disk: fs)
        keep.append(world)
        for number in range(2):
            world.segments(2)
            fs.mark("sealed", (world.database.sealed_segments()[-1].end.revision, dict(world.raw)))
            world.flush()
            world.archive()
            if not number:
                world.restart()

    rng = random.Random(1)
    points = [point for point in record_crash_points(base, program) if point.marks("sealed")]
    removals = [point for point in points if is_removal(point)]
    seen = 0
    for point in [*removals, *rng.sample(points, 25)]:
        marks: list[Any] = point.marks("sealed")
        revision, raw = marks[-1]
        for state in itertools.islice(states(point.disk, rng, 1, ordered_names=False), 3):  # nothing kept, all kept, one lost
            after = reopened(state.disk.clone(), keep[0], raw)
            after.archive()
            assert after.archiver.figures().error == "", str(state)
            assert after.archived >= revision, str(state)
            after.judge()
            seen += 1
    assert removals
    assert seen > 40


def is_removal(point: CrashPoint) -> bool:
    """Say whether a segment has just gone."""
    last = next((entry for entry in reversed(point.entries) if isinstance(entry, Op)), None)
    return last is not None and last.kind == "remove" and parse_segment(last.path.name) is not None


def store_on(fs: FileSystem) -> FolderStore:
    """Return a store on the disk of the log."""
    return FolderStore(fs, ARCHIVE, random.Random(7).randbytes)


def reopened(disk: MemoryFileSystem, before: World, raw: dict[Any, bytes]) -> World:
    """Return the node as it starts on what is left of its disk, with the memory of what it had sealed."""
    after = World.__new__(World)
    after.__dict__.update(before.__dict__)
    after.store, after.disk = store_on(disk), disk
    after._fs = lambda disk: disk
    after.raw = dict(raw)
    after.events = []
    after.open()
    return after
