"""The archiver when it falls behind: the ladder, what is given up by policy, and how long the oldest commit waits."""

from __future__ import annotations

from kvserver.archive.archiver import ArchiverOptions
from kvserver.archive.catalog import read_catalog
from kvserver.archive.pressure import Step
from kvserver.base.archive_events import (
    ArchiveGap,
    ArchivePressureChanged,
)
from support.archiving import World
from support.fault_store import FaultStore, StoreFault


def behind(**options: object) -> World:
    """Return a node whose archive cannot be reached, with a queue of 20 segments."""
    world = World(options=ArchiverOptions(queue_bytes=1 << 20, **options))  # type: ignore[arg-type]
    world.store = FaultStore(world.store)
    return world


def queued(world: World, share: float) -> None:
    """Write segments until they fill this share of the queue, and let the archiver look."""
    while sum(info.length_bytes for info in world.database.sealed_segments()) <= share * world.options.queue_bytes:
        world.write(6, value_bytes=8000)
        world.seal()
    world.archiver._look()


def test_the_ladder_is_climbed_by_what_is_sealed_and_not_archived() -> None:
    world = behind()
    world.log.visible_revision = lambda: 0  # type: ignore[method-assign]
    world.archive()
    for share, step in ((0.1, Step.KEEPING_UP), (0.27, Step.HURRYING), (0.6, Step.SLOWING), (1.0, Step.REFUSING)):
        queued(world, share)
        assert world.archiver.figures().step is step
    assert [step for step, _ in world.log.pressure][-1] is Step.REFUSING
    assert [(event.before, event.step) for event in world.of(ArchivePressureChanged)] == [
        ("KEEPING_UP", "HURRYING"),
        ("HURRYING", "SLOWING"),
        ("SLOWING", "REFUSING"),
    ]
    assert world.archiver.figures().pace_ms == 100
    del world.log.visible_revision
    world.archive()
    assert world.archiver.figures().step is Step.KEEPING_UP
    assert world.log.pressure[-1] == (Step.KEEPING_UP, 0)
    world.judge()


def test_a_start_refuses_nothing_before_the_archive_could_say_what_it_holds() -> None:
    """The log may hold much that is archived and not flushed."""
    world = World(options=ArchiverOptions(queue_bytes=1 << 20))
    queued(world, 1.2)
    world.archive()
    world.crash()
    assert sum(info.length_bytes for info in world.database.sealed_segments()) > 1 << 20
    world.archive()
    assert world.log.pressure == []


def test_whoever_is_behind_compresses_with_the_fastest_level_and_all_workers() -> None:
    world = behind(level=9, workers=1, hurry_workers=3)
    world.log.visible_revision = lambda: 0  # type: ignore[method-assign]
    world.archive()
    assert (world.archiver.figures().level, world.archiver._backlog.workers) == (9, 1)
    queued(world, 0.3)
    assert (world.archiver.figures().level, world.archiver._backlog.workers) == (1, 3)


def test_by_policy_the_oldest_segments_are_given_up_and_the_gap_is_told_and_recorded() -> None:
    world = behind(on_full="gap")
    world.segments(1)
    world.archive()
    world.log.visible_revision = lambda: 0  # type: ignore[method-assign]
    queued(world, 1.0)
    world.flush()
    world.archiver._look()
    assert world.archiver.figures().step in (Step.SLOWING, Step.DROPPING)
    (gap,) = world.of(ArchiveGap)
    assert gap.after_revision == 3
    assert world.log.given_up[-1].revision == gap.last_revision
    assert (world.archived, world.database.marks.archived) == (3, 3)
    assert min(world.on_disk()) == gap.last_revision + 1
    assert world.archiver.figures().given_up_segments > 0
    del world.log.visible_revision
    world.archive()
    assert world.archived == world.database.marks.visible
    assert len(world.of(ArchiveGap)) == 1, "told once"
    catalog = read_catalog(world.sound_store(), world.names.cluster_id)
    assert [(one.first_revision, one.last_revision) for part in catalog.epochs for one in part.gaps] == [
        (gap.first_revision, gap.last_revision)
    ]
    world.judge(gaps=True)


def test_a_start_after_something_was_given_up_records_the_gap_that_the_log_shows() -> None:
    world = behind(on_full="gap")
    world.segments(1)
    world.archive()
    world.log.visible_revision = lambda: 0  # type: ignore[method-assign]
    queued(world, 1.0)
    world.flush()
    world.archiver._look()
    (told,) = world.of(ArchiveGap)
    world.crash()
    world.archive()
    assert world.archived == world.database.marks.visible
    assert [(gap.first_revision, gap.last_revision) for gap in world.of(ArchiveGap)] == [(4, told.last_revision)] * 2
    world.judge(gaps=True)


def overrun(world: World) -> None:
    """Write more than the queue holds, so that nothing but the archive keeps the log, and let the archiver look."""
    queued(world, 1.1)
    world.flush()
    world.archiver._look()


def test_what_is_just_being_listed_stays_in_the_log_when_the_segments_behind_it_are_given_up() -> None:
    world = behind(on_full="gap")
    world.segments(1)
    world.archive()
    world.restart()
    world.segments(1)
    listing: set[int] = set()

    def while_it_is_listed() -> None:
        listing.update(world.archiver._listing)
        overrun(world)

    fault = StoreFault(at=3, calls={"list"}, where=lambda name: "manifest" in name, action=while_it_is_listed)
    world.store = FaultStore(world.sound_store(), [fault])
    while not listing and world.archiver.run_once():
        pass
    there = {info.header.segment_id for info in world.database.sealed_segments()}
    assert listing
    assert listing <= there, "the attempt to list it has failed"
    world.clock.advance_ms(60_000)
    world.archive()
    assert (world.archived, world.archiver.figures().error) == (world.database.marks.visible, "")
    (told,) = world.of(ArchiveGap)
    assert listing <= {entry.segment_id for entry in world.entries()}
    catalog = read_catalog(world.sound_store(), world.names.cluster_id)
    assert [gap.last_revision for part in catalog.epochs for gap in part.gaps] == [told.last_revision]
    assert min(world.on_disk()) > told.last_revision
    world.judge(gaps=True)


def test_segments_on_both_sides_of_what_was_given_up_are_not_listed_as_one_run() -> None:
    """Nothing was flushed, so all of it is still in the log when the attempt to list the first one has failed."""
    world = behind(on_full="gap")
    world.segments(2)
    fault = StoreFault(at=1, calls={"create"}, where=lambda name: "manifest" in name, action=lambda: queued(world, 1.1))
    world.store = FaultStore(world.sound_store(), [fault])
    world.archive()
    world.clock.advance_ms(60_000)
    world.archive()
    assert (world.archived, world.archiver.figures().error) == (world.database.marks.visible, "")
    assert len(world.of(ArchiveGap)) == 1
    assert world.archiver.figures().failures == 1
    world.judge(gaps=True)


def test_an_attempt_that_fails_after_its_segment_was_given_up_is_no_failure_that_lasts() -> None:
    world = behind(on_full="gap")
    world.segments(1)
    fault = StoreFault(calls={"create"}, where=lambda name: name.endswith(".kva"), action=lambda: overrun(world))
    world.store = FaultStore(world.sound_store(), [fault])
    world.archive()
    assert world.archived == world.database.marks.visible
    assert world.archiver.figures().failures == 1
    assert world.archiver.figures().error == ""


def test_how_long_the_oldest_commit_waits_is_told() -> None:
    world = World()
    world.clock.advance_ms(500_000)
    world.write(1)
    world.clock.advance_ms(1_000)
    world.seal()
    world.archiver._look()
    assert world.archiver.figures().oldest_unarchived_ms == 1_000
    world.clock.advance_ms(60_000)
    assert world.archiver.figures().oldest_unarchived_ms == 61_000
    world.archive()
    assert world.archiver.figures().oldest_unarchived_ms == 0
