"""Where the archive goes on: what the log has that it lacks, and several epochs listed by one call that may fail anywhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest

from kvserver.archive.continuation import NOTHING, Continuation, Standing, unarchived, without_holes
from kvserver.archive.errors import ArchiveFenced
from kvserver.archive.records import ClusterRecord, SegmentEntry
from kvserver.archive.store import Store, StoreError
from kvserver.base.types import Epoch, Position
from kvserver.wal.segment import SegmentInfo
from support.archiving import World
from support.fault_store import FaultStore, StoreFault, ambiguous, failing_store_calls
from support.memory_store import MemoryStore


def three_epochs() -> World:
    """Return a log of three epochs, each with two sealed segments with commits and an empty one at its end; and its archive."""
    world = World()
    for number in range(3):
        world.segments(2)
        if number < 2:
            world.restart()
    return world


def standing_after(info: SegmentInfo) -> Standing:
    """Return where the archive stands when this segment is the last one listed."""
    return Standing(info.end, info.header.segment_id, None)


# What the archive lacks


def test_all_is_lacking_while_nothing_is_archived() -> None:
    sealed = three_epochs().database.sealed_segments()
    assert len(sealed) == 8
    assert unarchived(sealed, NOTHING) == sealed
    assert unarchived([], NOTHING) == []


def test_what_follows_the_last_one_listed_is_lacking_also_where_that_holds_nothing() -> None:
    sealed = three_epochs().database.sealed_segments()
    assert sum(info.end == before.end for before, info in itertools.pairwise(sealed)) == 2
    for index, info in enumerate(sealed):
        assert unarchived(sealed, standing_after(info)) == sealed[index + 1 :]
        assert unarchived(sealed[index + 1 :], standing_after(info)) == sealed[index + 1 :], "and it is gone from the log"


def test_behind_a_position_whose_segment_is_not_known_the_log_goes_on_with_what_follows_it() -> None:
    """A store that was restored to take its cluster over begins where an epoch was left, within a segment."""
    sealed = three_epochs().database.sealed_segments()
    assert unarchived(sealed, Standing(sealed[0].header.previous, 0, None)) == sealed


def test_an_archive_that_ends_before_the_log_begins_lacks_all_of_it() -> None:
    sealed = three_epochs().database.sealed_segments()
    for index in range(2, len(sealed)):
        if sealed[index - 1].header.previous.revision < sealed[index].header.previous.revision:
            assert unarchived(sealed[index:], standing_after(sealed[index - 2])) == sealed[index:]


@pytest.mark.parametrize(
    "change",
    [
        lambda end: end._replace(chain=bytes(16)),
        lambda end: end._replace(revision=end.revision + 1),
        lambda end: end._replace(epoch=Epoch(end.epoch.number, 77)),
        lambda end: end._replace(epoch=Epoch(end.epoch.number + 9, 77), revision=end.revision + 90),
    ],
    ids=["chain", "inside", "nonce", "ahead"],
)
def test_an_archive_that_ends_elsewhere_is_of_another_history(change: Callable[[Position], Position]) -> None:
    sealed = three_epochs().database.sealed_segments()
    with pytest.raises(ArchiveFenced, match="no segment of this node's log ends"):
        unarchived(sealed, Standing(change(sealed[3].end), 5, None))


def test_an_archive_that_has_gone_on_behind_the_same_position_is_of_another_history() -> None:
    """It ends where a segment of this log ends, but lists another segment there."""
    sealed = three_epochs().database.sealed_segments()
    with pytest.raises(ArchiveFenced):
        unarchived(sealed, Standing(sealed[4].end, 12345, None))


def test_segments_before_a_hole_were_archived_once_and_came_back() -> None:
    sealed = three_epochs().database.sealed_segments()
    assert without_holes([*sealed[:2], *sealed[4:]]) == sealed[4:]
    assert without_holes([]) == []
    assert unarchived([sealed[0], *sealed[3:]], standing_after(sealed[3])) == sealed[4:]


# Several epochs at once


def continuation(world: World, store: Store) -> Continuation:
    """Return one for the node's archive in a store."""
    record = ClusterRecord(world.names.cluster_id, b"", None, "tester", 1)
    return Continuation(store, world.names, record, world.log.epochs(), frozenset(), "tester", world.clock)


def tried(step: Callable[[], object]) -> None:
    """Take a step again until it does not fail."""
    for _ in range(10):
        try:
            step()
            return
        except StoreError:
            pass
    raise AssertionError("it fails again and again")


FAULTS = {"failed": StoreFault(), "done unheard": ambiguous(True), "undone unheard": ambiguous(False)}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("missing", [(), (3, 4, 5), (1, 2), (2, 3, 4, 5)], ids=["whole", "an epoch", "a tail", "tail and epoch"])
def test_epochs_listed_by_one_call_are_the_same_however_often_it_fails(fault: StoreFault, missing: Sequence[int]) -> None:
    """A call made again must not close the manifest that it has come to meanwhile."""
    world = three_epochs()
    world.archive()
    entries = [entry for index, entry in enumerate(world.entries()) if index not in missing]
    for store in failing_store_calls(lambda: without_manifests(world), fault):
        line = continuation(world, store)
        tried(lambda line=line: line.resume(world.database.sealed_segments()))  # type: ignore[misc]
        tried(lambda line=line: line.append(entries))  # type: ignore[misc]
        assert line.standing == Standing(entries[-1].end, entries[-1].segment_id, None)
        after = World.__new__(World)
        after.__dict__.update(world.__dict__)
        after.store = store
        assert listed(after) == entries
        catalog = after.catalog()
        assert catalog is not None
        assert catalog.problems == ()
        assert [part.closing is not None for part in catalog.epochs] == [True, True, False]
        assert sum(gap.last_revision - gap.first_revision + 1 for part in catalog.epochs for gap in part.gaps) == lost(
            world, missing
        )


def test_what_was_given_up_before_an_epoch_was_closed_is_not_listed_when_the_log_still_has_it() -> None:
    world = three_epochs()
    world.archive()
    entries, sealed = world.entries(), world.database.sealed_segments()
    store = without_manifests(world)
    line = continuation(world, store)
    line.resume(sealed)
    line.append(entries[:1])
    assert [gap.last_revision for gap in line.close_older()] == [entries[2].start.revision]
    again = continuation(world, store)
    assert unarchived(sealed, again.resume(sealed)) == sealed[3:]
    assert again.append(entries[3:]) == []


def without_manifests(world: World) -> MemoryStore:
    """Return a copy of the archive in which nothing is listed."""
    store = world.sound_store()
    assert isinstance(store, MemoryStore)
    copy = store.copy()
    for info in list(copy.list(world.names.manifests)):
        copy.delete(info.name)
    return copy


def listed(world: World) -> list[SegmentEntry]:
    """Return what the manifests list."""
    assert isinstance(world.store, FaultStore)
    world.store.heal()
    return world.entries()


def lost(world: World, missing: Sequence[int]) -> int:
    """Return how many commits the segments hold that are left out."""
    sealed = world.entries()
    return sum(sealed[index].end.revision - sealed[index].start.revision for index in missing)
