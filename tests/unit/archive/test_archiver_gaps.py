"""Archives that begin late or were switched off for a while: what is missing is recorded and told, and the rest is sound."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvserver.archive.catalog import read_catalog
from kvserver.archive.failures import MAX_RETRY_MS
from kvserver.archive.manifest import read_epoch_manifest
from kvserver.base.archive_events import (
    ArchiveGap,
    ArchiveNeedsBackup,
)
from support.archiving import World
from support.fault_store import StoreFault, ambiguous, failing_store_calls
from support.memory_store import MemoryStore


def test_an_archive_that_begins_late_says_that_a_backup_is_needed() -> None:
    world = World(hold_archive=False)
    world.segments(3)
    world.flush()
    world.hold_archive = True
    world.restart()
    world.segments(1)
    world.archive()
    (begun,) = world.of(ArchiveNeedsBackup)
    assert begun.from_revision == 7
    assert world.of(ArchiveGap) == []
    assert world.archived == 9
    world.judge(gaps=True)
    assert read_catalog(world.sound_store(), world.names.cluster_id).runs[-1].begin.revision == 7


def test_an_archive_that_begins_within_an_epoch_says_so_in_its_first_record() -> None:
    world = World(hold_archive=False)
    world.segments(3)
    world.flush()
    world.segments(2)
    world.archive()
    (epoch, _), *_ = world.log.epochs()
    first, *_ = read_epoch_manifest(world.sound_store(), world.names, epoch.number)
    assert first.gap is not None
    assert (first.gap.first_revision, first.gap.last_revision) == (2, 7)
    assert [event.from_revision for event in world.of(ArchiveNeedsBackup)] == [7]
    assert world.archived == 11
    world.judge(gaps=True)


def test_what_went_while_the_archive_was_switched_off_is_a_gap() -> None:
    world = World()
    world.segments(2)
    world.archive()
    world.hold_archive = False
    world.restart()
    world.segments(2)
    world.flush()
    world.write(1)
    world.hold_archive = True
    world.restart()
    world.segments(1)
    world.archive()
    (gap,) = world.of(ArchiveGap)
    assert (gap.after_revision, gap.first_revision, gap.last_revision) == (5, 6, 9)
    assert world.archived == world.database.marks.visible
    world.judge(gaps=True)


def test_whole_epochs_that_went_are_a_gap() -> None:
    world = World()
    world.segments(1)
    world.archive()
    world.hold_archive = False
    for _ in range(3):
        world.restart()
        world.segments(1)
        world.flush()
    world.hold_archive = True
    world.restart()
    world.segments(1)
    world.archive()
    assert world.archived == world.database.marks.visible
    catalog = read_catalog(world.sound_store(), world.names.cluster_id)
    assert catalog.problems == ()
    assert [run.end.revision for run in catalog.runs if any(leg.entries for leg in run.legs)] == [3, world.archived]
    assert [(gap.first_revision, gap.last_revision) for part in catalog.epochs for gap in part.gaps] == [(4, 5), (6, 7), (8, 9)]
    assert [(event.first_revision, event.last_revision) for event in world.of(ArchiveGap)] == [(4, 5), (6, 7), (8, 9)]
    for _ in range(2):
        world.restart()
        world.segments(1)
        world.archive()
        assert world.archived == world.database.marks.visible


def test_an_empty_segment_that_went_while_the_archive_was_switched_off_is_nothing_that_is_missing() -> None:
    world = World()
    world.segments(1)
    world.archive()
    world.hold_archive = False
    world.restart()  # the first epoch ends with a segment that holds nothing
    world.write(2)
    world.flush()
    world.write(2)
    world.hold_archive = True
    world.restart()
    assert [info.header.first_revision for info in world.database.sealed_segments()] == [4]
    world.segments(1)
    world.archive()
    assert world.archiver.figures().fenced == ""
    assert world.archived == world.database.marks.visible
    assert world.of(ArchiveGap) == []
    world.judge(gaps=True)
    assert read_catalog(world.sound_store(), world.names.cluster_id).runs[-1].begin.revision == 1


@pytest.mark.parametrize("fault", [StoreFault(), ambiguous(True), ambiguous(False)], ids=["failed", "done", "undone"])
def test_each_gap_is_told_once_whichever_attempt_fails(fault: StoreFault) -> None:
    for store in failing_store_calls(MemoryStore, fault):
        world = World(store.inner)
        world.segments(1)
        world.archive()
        world.hold_archive = False
        for _ in range(2):
            world.restart()
            world.segments(1)
            world.flush()
        world.hold_archive = True
        world.restart()
        world.segments(1)
        world.store = store
        for _ in range(4):
            world.archive()
            world.clock.advance_ms(MAX_RETRY_MS)
        assert world.archived == world.database.marks.visible
        assert [(event.first_revision, event.last_revision) for event in world.of(ArchiveGap)] == [(4, 5), (6, 7)]


# Forks


@pytest.mark.parametrize("same_archive", [True, False])
def test_a_fork_has_an_archive_of_its_own_that_joins_its_parents_where_they_are_together(same_archive: bool) -> None:
    world = World()
    world.segments(2)
    world.archive()
    fork = world.fork(Path("/copies/1"), world.store if same_archive else MemoryStore())
    fork.segments(2)
    fork.archive()
    catalog = read_catalog(fork.sound_store(), fork.names.cluster_id)
    assert catalog.problems == ()
    assert fork.names.cluster_id != world.names.cluster_id
    assert [run.begin.revision for run in catalog.runs if run.end.revision == 9] == [1 if same_archive else 5]
    assert [event.from_revision for event in fork.of(ArchiveNeedsBackup)] == ([] if same_archive else [5])
    for _ in range(2):
        fork.restart()
        fork.segments(1)
        fork.archive()
    assert fork.archived == fork.database.marks.visible == 13
    world.segments(1)
    world.archive()
    world.judge()
