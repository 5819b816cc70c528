"""Removal of segments when the power fails at any step of it: the next start finds everything that is not in tables."""

from __future__ import annotations

import functools
import random
import threading
from typing import TypeVar

import pytest

from kvserver.base import failpoints
from kvserver.base.paths import parse_segment
from kvserver.base.types import Epoch, Position
from kvserver.engine.obsolete_files import FLUSH, Holds, SegmentDeleter
from support.crashes import CrashPoint, all_states, record_crash_points, states
from support.histories import at, four_segments, random_history, recover_from
from support.logs import CREATION, PATHS, Group, SmallLog
from support.memfs import MemoryFileSystem
from support.recordfs import Entry, Op, RecordingFileSystem

T = TypeVar("T")


@pytest.fixture(autouse=True)
def _disarm() -> object:
    yield
    failpoints.disarm_all()


@pytest.mark.parametrize("flushed", [4, 6, 7, 10, 13])
def test_power_lost_at_any_step_of_a_removal_leaves_what_the_next_start_needs(flushed: int) -> None:
    history = four_segments()
    base = at(history, flushed)

    def remove(fs: RecordingFileSystem[MemoryFileSystem]) -> None:
        SegmentDeleter(fs, PATHS, history.log.writer, Holds(flushed + 1)).delete_obsolete()

    seen = 0
    for point in record_crash_points(history.fs, remove):
        for state in all_states(point.disk, ordered_names=False):
            seen += 1
            found = recover_from(state.disk, base, begun=history.epoch)
            assert (found.groups, found.log.position) == (history.behind(base), history.end), str(state)
    assert seen >= 2


def test_a_removal_half_undone_by_a_loss_of_power_is_done_again() -> None:
    history = four_segments()
    fs = history.without(history.segments()[1].path)
    found = recover_from(fs, history.end)
    log = SmallLog(fs, new_segment_id=lambda: 99).begin(Epoch(2, 22), found.log)
    job = SegmentDeleter(fs, PATHS, log.writer, Holds(14))
    assert [name.first_revision for name in job.delete_obsolete()] == [2, 8, 11]
    assert recover_from(fs, history.end, begun=Epoch(2, 22)).log.position == log.writer.position


ROTATION = [name for name in failpoints.NAMES if name.startswith(("wal.seal.", "wal.create."))]


@pytest.mark.parametrize("name", ROTATION)
def test_a_removal_in_the_middle_of_a_rotation_leaves_a_log(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is in the segment that is being sealed is flushed already; nothing but it shows where the log stands."""
    history = four_segments()
    base = history.end
    job = SegmentDeleter(history.fs, PATHS, history.log.writer, Holds(base.revision + 1))
    syncing = threading.Event()
    sync_folder = history.log.writer.sync_folder

    def sync() -> None:
        syncing.set()
        sync_folder()

    monkeypatch.setattr(history.log.writer, "sync_folder", sync)
    thread = threading.Thread(target=job.delete_obsolete)
    checked = 0

    def remove_and_lose_power() -> None:
        nonlocal checked
        failpoints.disarm_all()  # recovery seals, too
        thread.start()
        assert syncing.wait(10), "nothing was removed"
        for state in states(history.fs.clone(), random.Random(1), 300, ordered_names=False):
            assert recover_from(state.disk, base, begun=history.epoch).log.position == base
            checked += 1

    failpoints.arm(name, remove_and_lose_power)
    history.log.writer.rotate()
    thread.join(10)
    assert checked
    assert not thread.is_alive()
    assert recover_from(history.fs, base, begun=history.epoch).log.position == base


def test_a_removal_does_not_sync_the_folder_while_a_segment_gets_its_name() -> None:
    """The kernel reports a name that was lost once, to whoever syncs next: that must be the log."""
    history = four_segments()
    thread = threading.Thread(target=history.log.writer.sync_folder)

    def let_it_try() -> None:
        thread.start()
        thread.join(0.05)
        assert thread.is_alive()

    failpoints.arm("wal.create.after_rename", let_it_try)
    history.log.writer.rotate()
    thread.join(10)
    assert not thread.is_alive()


def life(fs: RecordingFileSystem[MemoryFileSystem], rng: random.Random) -> None:
    """Write, flush, remove and start again at random; mark what was promised: groups, the tables' end, the epoch."""
    ids = iter(range(1000, 9999))
    base, positions = CREATION, [CREATION]
    for epoch in range(1, rng.randrange(3, 5)):
        found = recover_from(fs, base) if epoch > 1 else None
        log = SmallLog(fs, new_segment_id=lambda: next(ids)).begin(Epoch(epoch, 7 * epoch), found.log if found else None)
        fs.mark("begun", Epoch(epoch, 7 * epoch))
        holds = Holds(base.revision + 1, log.writer.first_revision())
        job = SegmentDeleter(fs, PATHS, log.writer, holds)
        positions.append(log.writer.position)
        for _ in range(rng.randrange(7)):
            fs.mark("group", log.put(*"abc"[: rng.randrange(1, 4)]))
            positions.append(log.writer.position)
            if rng.random() < 0.6:
                log.writer.rotate()
            if rng.random() < 0.5:
                base = positions[rng.randrange(positions.index(base), len(positions))]
                fs.mark("base", base)
                holds.set(FLUSH, base.revision + 1)
                job.delete_obsolete()


def test_power_lost_at_any_step_of_random_lives() -> None:
    """Whatever a loss of power leaves, also of names in any choice: what was promised and is not in tables is in the log."""
    removed = 0
    for seed in range(12):
        rng = random.Random(seed)
        disk = MemoryFileSystem()
        disk.make_dir(PATHS.wal)
        for point in record_crash_points(disk, functools.partial(life, rng=rng)):
            removed += is_removal(point.entries)
            base, begun = newest(point, "base", Position), newest(point, "begun", Epoch)
            durable = base.revision if base else 1
            promised = [g for g in point.marks("group") if isinstance(g, Group) and g.first_revision > durable]
            for state in states(point.disk, rng, 4, ordered_names=False):
                found = recover_from(state.disk, base, begun=begun).groups
                assert found[: len(promised)] == promised, str(state)
                assert len(found) <= len(promised) + 1
    assert removed > 20


def is_removal(entries: list[Entry]) -> bool:
    """Say whether the last call was the removal of a segment."""
    last = next((entry for entry in reversed(entries) if isinstance(entry, Op)), None)
    return last is not None and last.kind == "remove" and parse_segment(last.path.name) is not None


def newest(point: CrashPoint, name: str, kind: type[T]) -> T | None:
    """Return what was marked last under a name."""
    found = [value for value in point.marks(name) if isinstance(value, kind)]
    return found[-1] if found else None


@pytest.mark.parametrize("seed", range(60))
def test_removal_never_takes_what_a_start_needs(seed: int) -> None:
    rng = random.Random(seed)
    history = random_history(rng)
    holds = Holds(2)
    job = SegmentDeleter(history.fs, PATHS, history.log.writer, holds)
    for index in sorted(rng.randrange(len(history.positions)) for _ in range(4)):
        base = history.positions[index]
        holds.set(FLUSH, base.revision + 1)
        job.delete_obsolete()
        found = recover_from(history.fs.clone(), base, begun=history.epoch)
        assert (found.groups, found.log.position) == (history.behind(base), history.end)
