"""The archiver when all goes well: order, marks, epochs, restarts, what the archive then holds, and what it costs."""

from __future__ import annotations

import pytest

from kvserver.archive.archiver import AHEAD, ArchiverOptions
from kvserver.archive.dictionary import FIRST_ID, store_dictionary, train
from kvserver.archive.manifest import read_epoch_manifest
from kvserver.base.archive_events import (
    ArchiveNeedsBackup,
    SegmentArchived,
)
from kvserver.base.types import Position
from kvserver.engine.obsolete_files import ARCHIVE
from support.archiving import World
from support.memory_store import MemoryStore


def test_what_is_sealed_is_archived_read_back_and_listed() -> None:
    world = World()
    world.segments(3)
    world.archive()
    assert world.archived == 7
    assert [entry.end.revision for entry in world.entries()] == [3, 5, 7]
    world.judge()
    assert [event.last_revision for event in world.of(SegmentArchived)] == [3, 5, 7]
    assert world.of(ArchiveNeedsBackup) == []
    figures = world.archiver.figures()
    assert (figures.segments, figures.unarchived_segments, figures.unarchived_bytes, figures.error) == (3, 0, 0, "")
    assert figures.raw_bytes == sum(map(len, world.raw.values()))
    assert 0 < figures.stored_bytes < figures.raw_bytes


def test_nothing_is_archived_while_nothing_is_sealed() -> None:
    world = World()
    world.write(5)
    world.archive()
    assert world.entries() == []
    assert (world.archived, world.database.marks.archived) == (1, 0), "the log begins at its creation"


def test_the_log_is_let_go_behind_what_is_archived_and_not_before() -> None:
    world = World()
    world.segments(3)
    world.flush()
    assert world.on_disk() == [2, 4, 6, 8]
    world.archive()
    assert world.on_disk() == [8]
    assert world.database.marks.archived == 7
    assert dict(world.database.holds())[ARCHIVE] == 8
    world.judge()


def test_segments_that_became_ready_together_are_listed_in_one_record() -> None:
    world = World()
    world.segments(5)
    world.archive()
    (epoch, _), *_ = world.log.epochs()
    records = read_epoch_manifest(world.sound_store(), world.names, epoch.number)
    assert sum(len(record.entries) for record in records) == 5
    assert [position.revision for position in world.log.archived] == sorted(
        {position.revision for position in world.log.archived}
    )


def test_the_mark_waits_for_the_oldest_whatever_is_there_behind_it() -> None:
    """The second segment cannot be read: the first is listed, the later ones lie in the archive, and the mark stands still."""
    world = World()
    world.segments(4)
    stuck = world.database.sealed_segments()[1]
    world.flush()
    data = world.disk.contents()[stuck.path]
    world.disk.plant(stuck.path, data[:4200] + bytes([data[4200] ^ 1]) + data[4201:])
    world.archive()
    assert (world.archived, world.database.marks.archived) == (3, 3)
    assert [entry.end.revision for entry in world.entries()] == [3]
    assert len(list(world.sound_store().list(world.names.segments))) == 3
    assert world.on_disk() == [4, 6, 8, 10]
    figures = world.archiver.figures()
    assert (figures.unarchived_segments, figures.failures) == (3, 1)
    assert stuck.path.name in figures.error
    world.disk.plant(stuck.path, data)
    world.clock.advance_ms(10_000)
    world.archive()
    assert (world.archived, world.archiver.figures().error) == (9, "")
    world.judge()


def test_nothing_behind_what_is_visible_is_archived() -> None:
    world = World()
    world.segments(3)
    world.log.visible_revision = lambda: 4  # type: ignore[method-assign]
    world.archive()
    assert world.archived == 3
    world.log.visible_revision = lambda: 5  # type: ignore[method-assign]
    world.archive()
    assert world.archived == 5


# Starts


def test_a_start_goes_on_where_the_archive_ends() -> None:
    world = World()
    world.segments(2)
    world.archive()
    world.restart()
    world.segments(1)
    made = len(world.of(SegmentArchived))
    world.archive()
    assert len(world.of(SegmentArchived)) - made == 2, "the open segment of the first epoch was sealed, empty, at its end"
    assert world.archived == 7
    world.judge()


def test_the_segment_that_a_clean_end_seals_is_archived_by_the_next_start() -> None:
    world = World()
    world.write(3)
    world.archive()
    world.restart()
    world.archive()
    assert world.archived == 4
    world.judge()


def test_a_start_tells_the_log_at_once_what_was_archived_before() -> None:
    world = World()
    world.segments(2)
    world.archive()
    world.restart()
    assert world.database.marks.archived == 0
    assert world.archiver.run_once()
    assert world.database.marks.archived == 5


def test_epochs_are_closed_by_those_that_follow_them() -> None:
    world = World()
    world.segments(1)
    world.archive()
    world.restart()
    world.archive()
    (first, _), (second, branch) = world.log.epochs()
    (*_, last) = read_epoch_manifest(world.sound_store(), world.names, first.number)
    assert last.closing == (second, branch)
    assert read_epoch_manifest(world.sound_store(), world.names, second.number) == []


def test_starts_without_a_write_leave_empty_segments_that_are_archived_too() -> None:
    world = World()
    world.segments(1)
    for _ in range(4):
        world.restart()
    world.segments(1)
    world.archive()
    assert world.archived == 5
    assert len([entry for entry in world.entries() if entry.start.revision == entry.end.revision]) == 4
    world.judge()
    for _ in range(3):
        world.restart()
        world.archive()
        world.judge()


def test_several_epochs_at_once_when_the_archive_comes_late() -> None:
    world = World()
    for _ in range(3):
        world.segments(2)
        world.restart()
    world.flush()
    world.archive()
    assert world.archived == world.database.marks.visible
    world.judge()


def test_a_crash_at_any_time_changes_nothing() -> None:
    world = World()
    world.segments(2)
    world.archiver.run_once()
    world.archiver.run_once()
    world.crash()
    world.archive()
    world.judge()
    assert world.archived == 5


# Compression


def test_the_name_of_a_segment_does_not_depend_on_how_it_is_compressed() -> None:
    world = World(options=ArchiverOptions(level=1))
    world.segments(2, commits=40)
    twin = World(MemoryStore(), world.disk.clone(), ArchiverOptions(level=19))
    world.archive()
    twin.archive()
    for one, other in zip(world.entries(), twin.entries(), strict=False):
        assert one.id == other.id
        assert one.stored_length > other.stored_length


def test_small_segments_are_compressed_with_the_newest_dictionary() -> None:
    world = World()
    world.segments(12)
    samples = list(world.raw.values())
    for number in range(2):
        store_dictionary(world.sound_store(), world.names, train(samples, FIRST_ID + number, 2048))
    world.archive()
    assert {entry.dictionary_id for entry in world.entries()} == {FIRST_ID + 1}
    world.judge()


def test_large_segments_do_without_one() -> None:
    world = World(options=ArchiverOptions(small_segment_bytes=5_000))
    world.segments(12)
    store_dictionary(world.sound_store(), world.names, train(list(world.raw.values()), FIRST_ID, 2048))
    world.write(6, value_bytes=2000)
    world.seal()
    world.archive()
    assert [entry.dictionary_id for entry in world.entries()][-1] == 0
    assert {entry.dictionary_id for entry in world.entries()[:-1]} == {FIRST_ID}


def test_a_damaged_dictionary_keeps_nothing_from_being_archived() -> None:
    store = MemoryStore()
    world = World(store)
    world.segments(12)
    store_dictionary(store, world.names, train(list(world.raw.values()), FIRST_ID, 2048))
    name = world.names.dictionary(FIRST_ID)
    store.objects[name] = store.objects[name][:-5]
    world.archive()
    assert {entry.dictionary_id for entry in world.entries()} == {0}
    assert world.archived == world.database.marks.visible


# Bounds


def test_no_more_than_a_few_segments_are_put_ahead_of_one_that_is_stuck() -> None:
    world = World()
    world.segments(AHEAD + 8, commits=1)
    stuck = world.database.sealed_segments()[0]
    world.disk.remove(stuck.path)
    world.archive()
    assert len(list(world.sound_store().list(world.names.segments))) == AHEAD - 1
    assert world.entries() == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"workers": 0},
        {"workers": 3, "hurry_workers": 2},
        {"queue_bytes": 1},
        {"rate_bytes_per_s": -1},
        {"retry_ms": 0},
        {"on_full": "drop"},
    ],
)
def test_options_that_do_not_fit_together_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        ArchiverOptions(**wrong)  # type: ignore[arg-type]


def test_positions_move_upwards_only() -> None:
    world = World()
    world.segments(2)
    world.archive()
    world.restart()
    world.segments(2)
    world.archive()
    revisions = [position.revision for position in world.log.archived]
    assert revisions == sorted(revisions)
    assert all(isinstance(position, Position) for position in world.log.archived)
