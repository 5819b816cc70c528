"""What retention leaves behind: records that still list what is gone, archives without log, points whose segments got lost."""

from __future__ import annotations

import random

import pytest

from kvserver.archive.backup import delete_backup
from kvserver.archive.catalog import read_catalog
from kvserver.archive.outlook import outlook_of
from kvserver.archive.plan import RestorePlan, RestoreTarget, make_plan, possible_spans
from kvserver.archive.retention import RetentionRefused, what_needs
from kvserver.archive.verify import verify_archive
from kvserver.base.errors import Refused, RevisionError
from support.archives import GROUP_MS, ArchiveScene
from support.fault_store import FaultStore, StoreFault
from support.retaining import backups_of, check_whole, environment, long_lived, possible, retained


def in_one_record(segments: int = 3) -> ArchiveScene:
    """Return an archive with one record, which lists segments below a backup and two above it."""
    scene = ArchiveScene()
    scene.begin()
    entries = [scene.put(2) for _ in range(segments)]
    at = scene.position
    scene.record(*entries, scene.put(2), scene.put(2))
    scene.backup(at=at)
    return scene


def planned(scene: ArchiveScene, target: RestoreTarget) -> RestorePlan:
    return make_plan(scene.store, scene.cluster_id, target)


def check_plans(scene: ArchiveScene) -> None:
    """Check that every revision that is said to be possible has a plan whose objects are all there."""
    catalog = read_catalog(scene.store, scene.cluster_id)
    for span in possible_spans(catalog):
        for revision in range(span.first_revision, span.last_revision + 1):
            plan = make_plan(scene.store, scene.cluster_id, RestoreTarget(revision), catalog=catalog)
            names = {scene.names.segment(entry.id) for leg in plan.legs for entry in leg.entries}
            names |= {scene.names.file(file.sha256) for file in plan.base.files} if plan.base is not None else set()
            assert names <= scene.objects.keys(), revision


# A record that lists what is gone beside what is not


def test_what_is_gone_is_not_possible_though_a_record_still_lists_it() -> None:
    scene = in_one_record()
    end = scene.position
    done = retained(scene, keep_backups=1)
    assert len(done.segments) == 3 and not done.records
    assert possible(scene) == [7, 8, 9, 10, 11]
    check_plans(scene)
    check_whole(scene)
    (span,) = verify_archive(scene.store, scene.cluster_id).restorable
    assert (span.first_revision, span.last_revision) == (7, 11)
    with pytest.raises(RevisionError, match="revision 5 was given up by retention"):
        planned(scene, RestoreTarget(5))
    with pytest.raises(RevisionError, match="lies before the oldest commit"):
        planned(scene, RestoreTarget(time_ms=scene.time_of[5]))
    assert read_catalog(scene.store, scene.cluster_id).archived == end


def test_the_only_base_is_not_deleted_because_a_record_still_lists_the_store_s_beginning() -> None:
    scene = in_one_record()
    retained(scene, keep_backups=1)
    (base,) = backups_of(scene)
    assert what_needs(scene.store, scene.cluster_id, base.id) == ["revisions 7 to 11"]
    with pytest.raises(Refused, match="nothing could be restored without it"):
        delete_backup(environment(scene), scene.store, scene.cluster_id, base.id)
    assert backups_of(scene) == [base]


def test_the_base_of_a_point_is_not_deleted_because_a_record_still_lists_the_store_s_beginning() -> None:
    scene = in_one_record()
    scene.point("p", 8)
    base = backups_of(scene)[0]
    scene.backup()
    retained(scene, keep_backups=1)
    with pytest.raises(Refused, match=r"the point p \(revision 8\) could not be restored"):
        delete_backup(environment(scene), scene.store, scene.cluster_id, base.id)


@pytest.mark.parametrize("seed", range(120))
def test_with_records_of_several_segments_what_is_possible_is_there(seed: int) -> None:
    scene, chance = ArchiveScene(), random.Random(seed)
    for _ in range(chance.randint(1, 3)):
        scene.begin()
        for _ in range(chance.randint(1, 3)):
            listed = [scene.put(*[chance.randint(1, 3)] * chance.randint(0, 2)) for _ in range(chance.randint(1, 4))]
            scene.record(*listed)
            if chance.random() < 0.7 and scene.position.revision > 1:
                ends = [scene.position, *(end for at, end in scene.frame_ends.items() if at > listed[0].start.revision)]
                scene.backup(at=chance.choice(ends))
    points = [one for one in chance.sample(range(2, scene.position.revision + 2), chance.randint(0, 1)) if one in possible(scene)]
    for revision in points:
        scene.point(f"p{revision}", revision)
    before = possible(scene)
    floor = retained(scene, keep_backups=chance.randint(1, 2)).first_revision
    check_whole(scene)
    check_plans(scene)
    after = possible(scene)
    assert set(points) <= set(after)
    assert [one for one in after if one >= floor - 1] == [one for one in before if one >= floor - 1]
    assert read_catalog(scene.store, scene.cluster_id).archived == scene.position
    assert retained(scene, keep_backups=1).first_revision >= floor
    scene.begin()
    scene.segment(2)
    check_plans(scene)
    check_whole(scene)
    if floor:
        assert possible(scene)[-2:] == [scene.position.revision - 1, scene.position.revision]


def test_what_was_given_up_before_a_gap_is_not_missed() -> None:
    scene = ArchiveScene()
    scene.begin()
    scene.record(scene.put(2), scene.put(2))
    scene.backup()
    scene.gap(1)
    scene.segment(2)
    end = scene.backup().position
    retained(scene, keep_backups=2)
    check_whole(scene)
    assert possible(scene) == [5, 8]
    assert read_catalog(scene.store, scene.cluster_id).archived == end


# An archive without log


def emptied() -> ArchiveScene:
    """Return an archive whose newest backup is at the end of its log, all of which was given up."""
    scene = ArchiveScene()
    scene.begin()
    scene.segment(2)
    scene.record(scene.put(1), scene.put(1, 1))
    scene.backup()
    retained(scene, keep_backups=1)
    assert not list(scene.store.list(scene.names.segments))
    return scene


def test_an_archive_all_of_whose_log_was_given_up_stands_where_it_stood() -> None:
    scene = emptied()
    catalog = read_catalog(scene.store, scene.cluster_id)
    assert catalog.archived == scene.position and not catalog.problems
    assert catalog.newest_time_ms == scene.time_of[6]
    assert possible(scene) == [6]
    assert planned(scene, RestoreTarget()).position == scene.position
    assert outlook_of(catalog).is_possible and outlook_of(catalog).base_revision == 6
    check_whole(scene)


@pytest.mark.parametrize("next_epoch", [False, True])
def test_what_is_archived_then_goes_on_from_the_backup(next_epoch: bool) -> None:
    scene = emptied()
    if next_epoch:
        scene.begin()
        scene.segment()
    scene.segment(1, 1)
    assert possible(scene) == [6, 7, 8]
    check_plans(scene)
    check_whole(scene)
    retained(scene, keep_backups=1)
    assert possible(scene) == [6, 7, 8]


def test_times_of_such_an_archive() -> None:
    scene = emptied()
    assert planned(scene, RestoreTarget(time_ms=scene.time_of[6])).revision == 6
    with pytest.raises(RevisionError, match="after the newest archived commit"):
        planned(scene, RestoreTarget(time_ms=scene.time_of[6] + 1))
    with pytest.raises(RevisionError, match="before the oldest commit"):
        planned(scene, RestoreTarget(time_ms=scene.time_of[6] - 1))


def test_a_time_between_a_backup_and_the_log_behind_it_is_the_backup_s_though_older_log_was_kept() -> None:
    scene = long_lived()
    scene.point("p", 6)
    retained(scene, keep_backups=1)
    (*_, base) = backups_of(scene)
    assert scene.time_of[base.position.revision + 1] - base.time_ms >= GROUP_MS
    assert planned(scene, RestoreTarget(time_ms=base.time_ms + 1)).revision == base.position.revision
    with pytest.raises(RevisionError, match="lies in a gap"):
        planned(scene, RestoreTarget(time_ms=base.time_ms - 1))


# What was kept below what is promised, and got lost


def lost_point() -> ArchiveScene:
    """Return an archive with a point below what is promised, without the segment that was kept for it."""
    scene = long_lived()
    scene.point("p", 6)
    retained(scene, keep_backups=1)
    (needed,) = planned(scene, RestoreTarget(6)).legs[-1].entries
    scene.store.delete(scene.names.segment(needed.id))
    return scene


def test_a_point_whose_segment_is_lost_is_missed() -> None:
    report = verify_archive(lost_point().store, lost_point().cluster_id)
    assert report.problems == ("the point p, revision 6, cannot be restored",)


def test_nothing_goes_that_a_lost_point_may_still_need() -> None:
    scene = lost_point()
    before = dict(scene.objects)
    with pytest.raises(RetentionRefused, match=r"the point p \(revision 6\) cannot be restored as the archive is") as refused:
        retained(scene, keep_backups=1)
    assert "kvctl archive point delete p" in refused.value.hint
    assert scene.objects == before


def test_a_fork_s_only_base_is_not_deleted() -> None:
    scene = long_lived(2)
    fork = scene.fork(scene.frame_ends[7])
    fork.begin()
    fork.segment(2)
    for number in (0, 1):
        scene.store.delete(scene.names.manifest(1, number))
    before = possible(fork)
    base = backups_of(scene)[0]
    with pytest.raises(Refused, match=f"the fork {fork.cluster_id.hex()}"):
        delete_backup(environment(scene), scene.store, scene.cluster_id, base.id)
    assert possible(fork) == before
    delete_backup(environment(scene), scene.store, scene.cluster_id, base.id, force=True)
    assert base not in backups_of(scene)


def test_what_is_gone_behind_a_fork_does_not_part_the_fork_from_what_it_needs() -> None:
    scene = ArchiveScene()
    scene.begin()
    scene.record(scene.put(2, 2), scene.put(3))
    fork = scene.fork(scene.entries[0].end)
    fork.begin()
    fork.segment(1)
    scene.backup()
    retained(scene, keep_backups=1)
    assert possible(fork) == [2, 3, 4, 5, 6]
    assert possible(scene) == [2, 3, 4, 5, 8]
    check_whole(fork)


# Verify


@pytest.mark.parametrize("at", range(1, 60))
def test_what_retention_removes_meanwhile_is_no_damage(at: int) -> None:
    scene = long_lived()
    store = FaultStore(scene.store, [StoreFault(at=at, error=None, action=lambda: retained(scene, keep_backups=1))])
    report = verify_archive(store, scene.cluster_id, workers=1)
    assert report.is_whole, (report.damaged, report.problems)
    assert 23 in possible(scene)


def test_an_epoch_that_parts_at_a_frame_from_another_history_is_found() -> None:
    scene = ArchiveScene()
    scene.begin()
    scene.segment(1, 1, 1)
    branch = scene.frame_ends[3]
    scene.begin(branch=branch)
    scene.segment(1)
    assert verify_archive(scene.store, scene.cluster_id).is_whole
    other = ArchiveScene()
    other.begin()
    other.segment(1, 1, 1)
    other.begin(branch=branch._replace(chain=bytes(16)))
    other.segment(1)
    (damage,) = verify_archive(other.store, other.cluster_id).damaged
    assert "where the next epoch parts" in damage.what
