"""What a restore of the newest archived revision would take, over archives of every kind."""

from __future__ import annotations

from kvserver.archive.catalog import read_catalog
from kvserver.archive.outlook import Outlook, outlook_of
from support.archives import ArchiveScene


def look(scene: ArchiveScene) -> Outlook:
    return outlook_of(read_catalog(scene.store, scene.cluster_id))


def raw_bytes(scene: ArchiveScene, first: int = 0) -> int:
    return sum(entry.raw_length for entry in scene.entries[first:])


def test_where_nothing_is_archived_nothing_is_to_be_said() -> None:
    scene = ArchiveScene()
    assert look(scene) == Outlook(0, True, 0, 0)
    scene.begin()
    scene.segment()
    assert look(scene) == Outlook(0, True, 0, 0), "a segment without a commit"


def test_from_the_creation_on_all_of_the_log_is_replayed() -> None:
    scene = ArchiveScene()
    scene.begin()
    for _ in range(3):
        scene.segment(2)
    assert look(scene) == Outlook(7, True, 0, raw_bytes(scene))


def test_from_the_newest_backup_on_only_what_lies_behind_it() -> None:
    scene = ArchiveScene()
    scene.begin()
    scene.segment(2)
    scene.backup()
    scene.segment(2)
    scene.backup()
    assert look(scene) == Outlook(5, True, 5, 0)
    scene.begin()
    scene.segment(3)
    assert look(scene) == Outlook(8, True, 5, raw_bytes(scene, first=2))


def test_behind_a_gap_only_a_new_backup_helps() -> None:
    scene = ArchiveScene()
    scene.begin()
    scene.segment(2)
    scene.backup()
    scene.gap(2)
    scene.segment(1)
    assert look(scene) == Outlook(6, False, 0, 0), "the backup lies before the gap"
    scene.backup()
    assert look(scene) == Outlook(6, True, 6, 0)


def test_a_log_that_begins_later_than_the_store_needs_a_backup() -> None:
    scene = ArchiveScene()
    scene.begin()
    scene.gap(4)
    scene.segment(1)
    assert look(scene) == Outlook(6, False, 0, 0)


def test_a_fork_goes_back_through_the_store_it_was_forked_from() -> None:
    scene = ArchiveScene()
    scene.begin()
    scene.segment(2)
    scene.backup()
    scene.segment(2)
    fork = scene.fork()
    fork.begin()
    fork.segment(1)
    found = look(fork)
    assert (found.revision, found.is_possible, found.base_revision) == (6, True, 3)
    assert found.replay_bytes == raw_bytes(scene, first=1) + raw_bytes(fork)
