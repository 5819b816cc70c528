"""The archiver when somebody else writes to its archive, or the node is not what it was: it stops, and keeps the log."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from kvserver.archive.archiver import ArchiverOptions
from kvserver.archive.backup import create_backup
from kvserver.archive.failures import MAX_RETRY_MS
from kvserver.archive.manifest import EpochManifest
from kvserver.archive.plan import RestoreTarget, make_plan
from kvserver.archive.records import ClusterRecord, encode_cluster
from kvserver.archive.restore import restore
from kvserver.base.archive_events import ArchiveFencedOff
from kvserver.base.environment import Environment
from kvserver.base.paths import DataPaths
from kvserver.base.types import Epoch
from support.archived_store import twin_options
from support.archiving import World
from support.stores import run_settling
from support.twin_tables import TwinTables


def retry(world: World, times: int = 12) -> None:
    """Let the archiver work, and time pass, until nothing fails any more."""
    for _ in range(times):
        world.archive()
        if not world.archiver.figures().error:
            return
        world.clock.advance_ms(MAX_RETRY_MS)


def ends_well(world: World) -> None:
    """Check that everything is archived and sound after all."""
    retry(world)
    assert world.archiver.figures().error == ""
    assert world.archived == world.database.sealed_segments()[-1].end.revision if world.database.sealed_segments() else True
    world.judge()


def test_another_clusters_record_under_the_prefix_is_damage_and_nothing_is_written() -> None:
    world = World()
    world.segments(1)
    world.store.create(world.names.cluster, [encode_cluster(ClusterRecord(bytes(16), b"", None, "x", 1))])
    retry(world, 2)
    assert "another cluster" in world.archiver.figures().error
    assert len(list(world.store.list(""))) == 1


def copy_of(world: World) -> World:
    """Return a second node on a copy of the first one's folder, with the same archive."""
    return World(world.store, world.disk.clone())


def fenced(world: World) -> str:
    """Let the archiver work; return why it may not archive any more."""
    world.archive()
    figures = world.archiver.figures()
    assert len(world.of(ArchiveFencedOff)) == (1 if figures.fenced else 0)
    return figures.fenced


def test_of_two_nodes_on_one_archive_one_is_fenced() -> None:
    world = World()
    world.segments(2)
    world.archive()
    world.database.close()
    twin = copy_of(world)
    world.open()
    for node in (world, twin):
        node.segments(1)
        node.flush()
    assert fenced(world) == ""
    before = twin.on_disk()
    assert "nonce" in fenced(twin)
    assert twin.on_disk() == before, "a fenced node keeps its log"
    assert fenced(world) == ""
    world.judge()


def test_whoever_comes_second_to_a_record_is_fenced() -> None:
    """Both have begun the same epoch number, and have seen the archive before either of them went on with it."""
    world = World()
    world.segments(1)
    world.archive()
    world.database.close()
    twin = copy_of(world)
    world.open()
    for node in (world, twin):
        node.segments(1)
        assert node.archiver.run_once(), "it asks where the archive stands"
    for _ in range(2):
        assert [bool(fenced(node)) for node in (twin, world)] == [False, True]
    twin.judge()


def test_a_fenced_node_stays_fenced_and_climbs_the_ladder() -> None:
    world = World(options=ArchiverOptions(queue_bytes=1 << 20))
    world.segments(1)
    world.archive()
    epoch, branch = world.log.epochs()[-1]
    EpochManifest.open(world.store, world.names, epoch, branch, "other", world.clock).close(
        Epoch(9, 99), world.database.sealed_segments()[-1].end if world.database.sealed_segments() else branch
    )
    world.segments(1)
    assert "another node has written record 1" in fenced(world)
    for _ in range(40):
        world.write(5, value_bytes=8000)
        world.seal()
    world.flush()
    assert not world.archiver.run_once()
    assert world.archiver.figures().step.name == "REFUSING"
    assert min(world.on_disk()) <= 4
    world.restart()
    world.events.clear()
    assert "epoch 9" in fenced(world)


def test_a_node_set_back_to_an_old_copy_of_its_folder_is_fenced() -> None:
    """It would go on from a state that the archive is ahead of, and what was acknowledged since would be lost silently."""
    world = World()
    world.segments(1)
    world.archive()
    old = world.disk.clone()
    world.segments(2)
    world.archive()
    world.database.close()
    old.kill()
    back = World(world.store, old.clone())
    back.segments(3)
    back.flush()
    kept = back.on_disk()
    assert "set back" in fenced(back)
    assert back.on_disk() == kept
    assert back.database.marks.archived == 0


def test_an_archive_that_goes_on_with_an_epoch_of_nobody_is_not_touched() -> None:
    world = World()
    world.segments(1)
    world.archive()
    store = world.sound_store()
    (epoch, branch), *_ = world.log.epochs()
    far = EpochManifest.open(store, world.names, Epoch(7, 7), world.database.history._epochs[0][1], "x", world.clock)
    far.close(Epoch(8, 8), branch)
    for info in list(store.list(world.names.epoch_manifest(epoch.number))):
        store.delete(info.name)
    world.restart()
    assert "epoch 7" in fenced(world)


@pytest.mark.parametrize("revision", [None, 4, 2])
def test_a_store_that_takes_its_cluster_over_goes_on_and_the_old_node_is_fenced(revision: int | None) -> None:
    world = World()
    world.write(1)
    run_settling(world.database, world.database.checkpoint(Path("/copies/1")))
    env = Environment(world.disk, world.clock, random.Random(3).randbytes)
    world.segments(2)
    world.archive()
    store = world.sound_store()
    create_backup(env, store, Path("/copies/1"), world.names.cluster_id, open_tables=lambda path: TwinTables(world.disk, path))
    plan = make_plan(store, world.names.cluster_id, RestoreTarget(revision, None))
    restore(env, store, plan, Path("/taken"), twin_options(world.disk, take_over=True))
    taker = World(store, world.disk, paths=DataPaths(Path("/taken")))
    assert taker.names.cluster_id == world.names.cluster_id
    taker.segments(2)
    for _ in range(2):
        assert fenced(taker) == ""
        assert taker.archived == taker.database.marks.visible
        taker.restart()
        taker.segments(1)
    catalog = taker.catalog()
    assert catalog is not None
    assert catalog.problems == ()
    assert catalog.runs[-1].begin.revision == 1
    world.segments(1)
    assert "another node" in fenced(world)
    for _ in range(2):
        world.restart()
        world.events.clear()
        assert fenced(world)
