"""The line of history through an archive's epochs: branches, restarts, gaps, forks, and which backups lie on it."""

from __future__ import annotations

import pytest

from kvserver.archive.catalog import Catalog, choose_cluster, cluster_ids, list_clusters, read_catalog, without
from kvserver.archive.lineage import creation
from kvserver.archive.records import SegmentEntry
from kvserver.base.errors import Code, RevisionError
from kvserver.base.types import Epoch, Position
from support.archives import ArchiveScene, family
from support.logs import CLUSTER_ID
from support.memory_store import MemoryStore


def catalog_of(scene: ArchiveScene) -> Catalog:
    return read_catalog(scene.store, scene.cluster_id)


def spans(catalog: Catalog) -> list[tuple[int, int]]:
    return [(run.begin.revision, run.end.revision) for run in catalog.runs]


def entries(catalog: Catalog) -> list[SegmentEntry]:
    return [entry for run in catalog.runs for leg in run.legs for entry in leg.entries]


def simple(segments: int = 3) -> ArchiveScene:
    scene = ArchiveScene()
    scene.begin()
    for _ in range(segments):
        scene.segment(2)
    return scene


def test_something_of_everything_is_one_run() -> None:
    scene = family()
    catalog = catalog_of(scene)
    assert catalog.problems == ()
    assert catalog.archived == scene.position
    (run,) = catalog.runs
    assert run.begin == creation(CLUSTER_ID) and run.from_creation
    assert [part.epoch for part in catalog.epochs] == [epoch for epoch, _ in scene.epochs]
    assert [backup.position.revision for backup in catalog.backups] == [4, 19]
    assert catalog.newest_time_ms == scene.now_ms


def test_an_epoch_counts_up_to_the_branch_of_the_next_and_no_further() -> None:
    scene = simple(2)
    parting, left_out = scene.position, scene.segment(3)
    scene.begin(branch=parting)
    scene.segment(1)
    catalog = catalog_of(scene)
    assert left_out in catalog.epochs[0].entries
    assert left_out not in entries(catalog)
    assert spans(catalog) == [(1, 6)]
    assert catalog.runs[0].legs[0].upto == parting
    assert catalog.problems == ()


def test_a_branch_may_lie_inside_a_segment_and_inside_a_frame() -> None:
    for revision in (4, 5, 6):
        scene = ArchiveScene()
        scene.begin()
        scene.segment(2)
        scene.segment(2, 2)
        branch = scene.frame_ends.get(revision, scene.position._replace(revision=revision, chain=b"cut in the midst"[:16]))
        scene.begin(branch=branch)
        scene.segment(1)
        catalog = catalog_of(scene)
        assert catalog.problems == ()
        assert spans(catalog) == [(1, revision + 1)]
        assert catalog.runs[0].legs[0].last_revision == revision


def test_a_branch_that_is_not_the_logs_own_position_is_a_fork() -> None:
    scene = simple(2)
    scene.begin(branch=scene.position._replace(chain=bytes(16)))
    scene.segment(1)
    catalog = catalog_of(scene)
    assert spans(catalog) == [(1, 5), (5, 6)]
    assert any("history is forked" in problem for problem in catalog.problems)


def test_a_closed_epoch_ends_where_it_was_closed_before_anything_of_the_next_is_archived() -> None:
    scene = simple(2)
    parting = scene.position
    scene.segment(3)
    scene.manifest.close(Epoch(2, 5), parting)
    catalog = catalog_of(scene)
    assert catalog.archived == parting
    assert catalog.problems == ()


def test_a_closing_may_lead_back_to_an_older_epoch() -> None:
    """A store that was restored to the past takes its cluster over: everything behind that is no part of history any more."""
    scene = simple(2)
    past = scene.position
    scene.segment(1)
    scene.begin()
    scene.segment(1)
    abandoned = scene.epoch
    scene.manifest.close(Epoch(3, 5), past)
    assert catalog_of(scene).archived == past
    assert catalog_of(scene).abandoned == (abandoned,)
    scene.begin(number=4, branch=past)
    scene.segment(2)
    catalog = catalog_of(scene)
    assert catalog.archived == scene.position
    assert catalog.abandoned == (abandoned,)
    assert [leg.epoch.number for leg in catalog.runs[0].legs] == [1, 4]
    assert catalog.problems == ()


def test_epochs_without_a_commit_keep_the_run_whole() -> None:
    scene = simple(1)
    for _ in range(3):
        scene.begin()
        scene.segment()
    scene.begin()
    scene.segment(1)
    catalog = catalog_of(scene)
    assert spans(catalog) == [(1, 4)]
    assert [len(leg.entries) for leg in catalog.runs[0].legs] == [1, 0, 0, 0, 1]
    for leg, following in zip(catalog.runs[0].legs, catalog.runs[0].legs[1:], strict=False):
        assert leg.upto == following.begin == following.branch


def test_an_explicit_gap_parts_runs_and_is_no_problem() -> None:
    scene = simple(2)
    gap = scene.gap(2, 1)
    scene.segment(1)
    catalog = catalog_of(scene)
    assert spans(catalog) == [(1, 5), (gap.last_revision, gap.last_revision + 1)]
    assert catalog.epochs[0].gaps == (gap,)
    assert catalog.problems == ()
    assert catalog.archived == scene.position


def test_an_archive_without_the_store_s_beginning_is_no_problem() -> None:
    scene = ArchiveScene()
    scene.begin()
    scene.raw_segment(3)
    for epoch in (2, 3):
        scene.begin(close=epoch == 3)  # of the first epoch nothing is archived
        scene.segment(2)
    catalog = catalog_of(scene)
    assert len(catalog.epochs) == 2
    assert spans(catalog) == [(4, 8)]
    assert not catalog.runs[0].from_creation
    assert catalog.problems == ()


def test_legs_lead_from_a_position_to_a_revision() -> None:
    scene = family()
    catalog = catalog_of(scene)
    first, second = catalog.backups
    legs = catalog.legs(first.position, 9)
    assert [(leg.epoch.number, leg.begin.revision, leg.last_revision) for leg in legs] == [(1, 4, 7), (2, 7, 11)]
    assert legs[0].begin == first.position
    assert legs[1].begin == legs[0].upto == legs[1].branch
    assert catalog.legs(first.position, 4) == []
    assert [leg.epoch.number for leg in catalog.legs(second.position, None)] == [5]
    assert [leg.epoch.number for leg in catalog.legs(first.position, None)] == [1, 2, 3, 5]
    inside = scene.frame_ends[6]
    (leg,) = catalog.legs(inside, 7)
    assert leg.begin == inside and leg.entries[0].start.revision == 4


@pytest.mark.parametrize("revision", [3, 24, 100])
def test_legs_to_where_the_log_does_not_lead_are_refused(revision: int) -> None:
    catalog = catalog_of(family())
    with pytest.raises(RevisionError, match=f"not to {revision}") as caught:
        catalog.legs(catalog.backups[0].position, revision)
    assert caught.value.code is Code.NO_RESTORE_PLAN


def test_legs_from_a_position_of_another_history_are_refused() -> None:
    scene = family()
    catalog = catalog_of(scene)
    at = catalog.backups[0].position
    strangers = [at._replace(chain=bytes(16)), at._replace(epoch=Epoch(1, 5)), scene.position._replace(revision=500)]
    strangers.append(scene.entries[2].end)  # behind the branch
    for stranger in strangers:
        with pytest.raises(RevisionError, match="does not pass through"):
            catalog.legs(stranger, 23)


def test_a_backup_of_what_is_no_part_of_history_any_more_is_no_base() -> None:
    scene = simple(2)
    parting = scene.position
    kept = scene.backup()
    scene.segment(3)
    behind = scene.backup()
    scene.begin(branch=parting)
    scene.segment(1)
    early = scene.backup()
    scene.segment(1)
    other = scene.backup(at=scene.entries[0].end._replace(chain=bytes(16)))
    ahead = scene.backup(at=scene.position._replace(revision=500))
    catalog = catalog_of(scene)
    assert catalog.bases() == [kept, early, ahead]
    assert "no part of history any more" in catalog.misfit(behind)
    assert "by another history" in catalog.misfit(other)
    assert catalog.problems == ()


def test_a_backup_of_an_epoch_that_was_replaced_is_no_base() -> None:
    scene = simple(2)
    past = scene.position
    scene.begin()
    scene.segment(1)
    lost = scene.backup()
    scene.begin(branch=past)
    scene.segment(5)
    catalog = catalog_of(scene)
    assert catalog.bases() == []
    assert "no part of history any more" in catalog.misfit(lost)


def test_a_catalog_without_segments_and_backups_has_the_holes_that_are_left() -> None:
    scene = simple(4)
    backup = scene.backup()
    catalog = catalog_of(scene)
    reduced = without(catalog, scene.cluster_id, {scene.entries[1].id}, {backup.id})
    assert spans(reduced) == [(1, 3), (5, 9)]
    assert reduced.backups == ()
    assert without(catalog, bytes(16), {scene.entries[1].id}, {backup.id}).runs == catalog.runs


# Forks


def test_a_fork_goes_on_from_its_parent() -> None:
    parent = simple(3)
    base = parent.backup(at=parent.frame_ends[3])
    at = parent.frame_ends[5]
    parent.begin()
    parent.segment(4)
    newer = parent.backup()
    fork = parent.fork(at)
    fork.begin()
    fork.segment(2)
    catalog = catalog_of(fork)
    assert catalog.problems == ()
    assert spans(catalog) == [(1, 7)]
    assert [leg.cluster_id for leg in catalog.runs[0].legs] == [parent.cluster_id, fork.cluster_id]
    assert catalog.bases() == [base]
    assert "newer" in catalog.misfit(newer)
    assert [leg.cluster_id for leg in catalog.legs(base.position, 7)] == [parent.cluster_id, fork.cluster_id]


def test_a_fork_in_the_midst_of_a_frame_begins_where_the_frame_was_cut() -> None:
    parent = simple(1)
    cut = parent.position._replace(revision=2, chain=bytes(range(16)))
    fork = parent.fork(cut)
    fork.begin()
    fork.segment(1)
    own = fork.backup(at=cut, owner_id=parent.cluster_id)
    catalog = catalog_of(fork)
    assert catalog.problems == ()
    assert spans(catalog) == [(1, 3)]
    assert catalog.bases() == [own]
    assert [leg.cluster_id for leg in catalog.legs(cut, 3)] == [fork.cluster_id]


def test_a_fork_of_a_fork_goes_back_to_the_first() -> None:
    first = simple(1)
    second = first.fork()
    second.begin()
    second.segment(1)
    third = second.fork()
    third.begin()
    third.segment(1)
    assert [leg.cluster_id for leg in catalog_of(third).runs[0].legs] == [one.cluster_id for one in (first, second, third)]
    unwritten = second.fork(at=first.position, cluster_id=bytes(range(16)))
    assert unwritten.position == first.position
    catalog = catalog_of(unwritten)
    assert catalog.archived == first.position


def test_a_fork_whose_parent_lies_elsewhere_stands_alone() -> None:
    parent = simple(2)
    fork = ArchiveScene(MemoryStore(), bytes(range(16)), (parent.cluster_id, parent.position))
    fork.begin()
    fork.segment(1)
    catalog = catalog_of(fork)
    assert catalog.parent is None
    assert spans(catalog) == [(5, 6)]
    assert catalog.problems == ()


def test_forks_in_a_circle_are_not_walked_for_ever() -> None:
    store = MemoryStore()
    one, two = bytes([1] * 16), bytes([2] * 16)
    at = Position(Epoch(1, 1), 5, bytes(16))
    ArchiveScene(store, one, (two, at))
    ArchiveScene(store, two, (one, at)).begin()
    assert any("a fork of itself" in problem for problem in catalog_of_problems(store, one))


def catalog_of_problems(store: MemoryStore, cluster_id: bytes) -> tuple[str, ...]:
    found = read_catalog(store, cluster_id)
    problems = found.problems
    while found.parent is not None:
        found = found.parent
        problems += found.problems
    return problems


# Which cluster


def test_a_cluster_is_chosen_by_the_beginning_of_its_id_or_by_being_alone() -> None:
    scene = simple(1)
    store, own = scene.store, scene.cluster_id
    assert choose_cluster(store, None) == own
    assert choose_cluster(store, own.hex()[:3]) == own
    fork = scene.fork(cluster_id=b"\xff" * 16)
    assert cluster_ids(store) == [own, fork.cluster_id]
    assert [record.parent_cluster_id for record in list_clusters(store)] == [b"", own]
    assert choose_cluster(store, own.hex()) == own
    assert choose_cluster(store, "f") == fork.cluster_id
    for text in (None, "", "0a", "x" * 500, "../01", "é", "F"):
        with pytest.raises(RevisionError) as caught:
            choose_cluster(store, text)
        assert own.hex() in caught.value.hint
        assert len(caught.value.message) < 300


def test_an_archive_without_clusters_says_so() -> None:
    with pytest.raises(RevisionError, match="holds no cluster"):
        choose_cluster(MemoryStore(), None)
    with pytest.raises(RevisionError, match="holds nothing of cluster 0000"):
        read_catalog(MemoryStore(), bytes(16))
