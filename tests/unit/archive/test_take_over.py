"""A restore that takes the old cluster over: the same cluster, a higher epoch, and an old node that may not archive any more."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from kvserver.archive.catalog import read_catalog
from kvserver.archive.errors import ArchiveFenced
from kvserver.archive.names import ArchiveNames
from kvserver.archive.plan import RestoreTarget, make_plan
from kvserver.archive.points import create_point, delete_point
from kvserver.archive.records import RetentionRecord, encode_retention
from kvserver.archive.restore import restore
from kvserver.base.environment import Environment
from kvserver.base.errors import RevisionError
from kvserver.base.paths import DataPaths
from kvserver.commit.requests import Put
from kvserver.replication.local_register import LocalRegister
from kvserver.storage.content_hash import content_hash
from support.archived_store import ArchivedStore, all_of, twin_options
from support.archiving import World

TARGET = Path("/restored/it")
PATHS = DataPaths(TARGET)


@pytest.fixture
def old() -> ArchivedStore:
    """Epochs 1 (revisions 2 to 4, one frame), 2 (nothing) and 3 (5 and 6, one frame), archived; the node runs on."""
    old = ArchivedStore()
    old.group(Put(1, b"a", b"1"), Put(1, b"b", b"2"), Put(1, b"a", b"3"))
    old.restart()
    old.restart()
    old.group(Put(1, b"c", b"4"), Put(1, b"d", b"5"))
    old.archive()
    return old


def taken_over(old: ArchivedStore, revision: int | None = None) -> ArchivedStore:
    """Restore with taking over, and open what comes of it; its archive is the old one's."""
    old.restore(revision, TARGET, take_over=True)
    return ArchivedStore(old.fs, old.store, PATHS, seed=60)


def test_it_is_the_same_cluster_on_another_node_in_a_higher_epoch(old: ArchivedStore) -> None:
    before = all_of(old.database)
    new = taken_over(old)
    assert new.cluster_id == old.cluster_id
    assert new.database.identity.node_id != old.database.identity.node_id
    assert new.database.identity.node_name == "taker"
    assert new.database.history.current.number == 5, "4 was claimed to close the old one's manifest"
    new.database.history.require(3, 6)
    new.database.history.require(1, 4)
    assert all_of(new.database) == before
    records = LocalRegister(old.fs, PATHS).records()
    assert [record.epoch.number for record in records] == [1, 2, 3, 4, 5]
    known = {part.epoch.number: part.epoch for part in read_catalog(old.store, old.cluster_id).epochs}
    assert all(known.get(record.epoch.number, record.epoch) == record.epoch for record in records)


def test_the_old_node_is_fenced_whether_it_runs_on_or_starts_again(old: ArchivedStore) -> None:
    new = taken_over(old)
    old.group(Put(1, b"late", b""))
    with pytest.raises(ArchiveFenced):
        old.archive()
    old.restart()
    old.group(Put(1, b"later", b""))
    with pytest.raises(ArchiveFenced):
        old.archive()
    catalog = read_catalog(new.store, new.cluster_id)
    assert not catalog.problems
    assert catalog.archived is not None
    assert catalog.archived.revision == 6


@pytest.mark.parametrize("revision", [2, 3, 4, 5, 6, None])
def test_history_goes_on_through_it_wherever_it_parted(old: ArchivedStore, revision: int | None) -> None:
    """Also inside a frame, and in an epoch that others have followed since."""
    parting = revision or 6
    states = {at: all_of(old.restored(at)) for at in range(2, parting + 1)}
    new = taken_over(old, revision)
    new.group(Put(1, b"new", b"1"), Put(1, b"a", b"2"))
    new.restart()
    new.group(Put(1, b"newer", b""))
    newest = new.hash()
    new.archive()
    catalog = read_catalog(new.store, new.cluster_id)
    assert not catalog.problems, catalog.problems
    for at, state in states.items():
        copy = new.restored(at)
        assert all_of(copy) == state
        copy.close()
    copy = new.restored()
    assert copy.marks.visible == parting + 3
    assert content_hash(copy._tables).sha256 == newest.sha256
    copy.close()


def test_it_can_be_taken_over_again(old: ArchivedStore) -> None:
    new = taken_over(old, 5)
    new.group(Put(1, b"new", b"1"))
    new.archive()
    new.database.close()
    old.restore(6, Path("/again"), take_over=True)
    third = ArchivedStore(old.fs, old.store, DataPaths(Path("/again")), seed=90)
    assert third.database.history.current.number == 7
    assert third.cluster_id == old.cluster_id
    assert all_of(third.database)["", b"new"].value == b"1"
    third.group(Put(1, b"third", b""))
    third.archive()
    assert not read_catalog(third.store, third.cluster_id).problems


def test_a_store_that_was_never_archived_beyond_its_record_is_taken_over_from_a_backup() -> None:
    old = ArchivedStore()
    old.group(Put(1, b"a", b"1"))
    old.backup()
    new = taken_over(old)
    assert new.cluster_id == old.cluster_id
    assert new.database.history.current.number > 1
    assert all_of(new.database) == all_of(old.database)


@pytest.mark.parametrize("revision", range(2, 8))
def test_the_archiver_goes_on_from_wherever_it_parted(revision: int) -> None:
    """Also where others have closed the epoch that was left, at a later position: that is no part of history any more."""
    world = World()
    for restarts in (2, 1, 0):
        world.segments(2)
        for _ in range(restarts):
            world.restart()
    world.archive()
    store = world.sound_store()
    env = Environment(world.disk, world.clock, random.Random(3).randbytes)
    plan = make_plan(store, world.names.cluster_id, RestoreTarget(revision))
    restore(env, store, plan, TARGET, twin_options(world.disk, take_over=True))
    taker = World(store, world.disk, paths=PATHS)
    for _ in range(2):
        taker.segments(2)
        taker.archive()
        archived = taker.archived
        assert archived == taker.database.marks.visible
        taker.restart()
    catalog = read_catalog(store, taker.names.cluster_id)
    assert not catalog.problems
    assert [(run.begin.revision, run.end.revision) for run in catalog.runs] == [(1, archived)]


def test_a_point_behind_the_revision_is_named_before_anything_is_done(old: ArchivedStore) -> None:
    create_point(old.store, old.cluster_id, "release", RestoreTarget(revision=6), "", old.env.clock)
    with pytest.raises(RevisionError, match="the point release names revision 6") as refused:
        old.restore(4, TARGET, take_over=True)
    assert "kvctl archive point delete release" in refused.value.hint
    assert not old.fs.exists(TARGET)
    delete_point(old.store, old.cluster_id, "release")
    taken_over(old, 4)


def test_a_revision_that_retention_has_given_up_is_no_place_to_go_on_from(old: ArchivedStore) -> None:
    names = ArchiveNames(old.cluster_id)
    old.store.replace(names.retention, encode_retention(RetentionRecord(old.cluster_id, 7, 0)), None)
    with pytest.raises(RevisionError, match="retention has given up what lies below revision 6"):
        old.restore(4, TARGET, take_over=True)
    old.restore(4, TARGET)
