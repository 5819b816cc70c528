"""Retention on random archives under random policies: all that is to be kept is there, and all that may go is gone."""

from __future__ import annotations

import random

import pytest

from kvserver.archive.catalog import read_catalog
from kvserver.archive.lineage import locate
from kvserver.archive.plan import RestoreTarget, make_plan
from kvserver.archive.records import BackupRecord
from kvserver.archive.retention import RetentionPolicy, retain
from kvserver.archive.verify import verify_archive
from support.archive_model import ArchiveModel
from support.archives import GROUP_MS
from support.retaining import backups_of, check_whole, environment, possible


@pytest.mark.parametrize("seed", range(150))
def test_all_that_is_to_be_kept_can_be_restored_and_nothing_else_is_left(seed: int) -> None:
    model = ArchiveModel(seed)
    scene, chance = model.scene, random.Random(seed)
    before = possible(scene)
    points = chance.sample(before, min(len(before), chance.randint(0, 2)))
    for revision in points:
        scene.point(f"p{revision}", revision)
    policy = RetentionPolicy(chance.randint(0, 3), chance.choice([0, 1, 5, 12]) * GROUP_MS)
    if policy == RetentionPolicy():
        policy = RetentionPolicy(keep_backups=1)
    usable = _on_the_log(model)
    check_whole(scene)
    done = retain(environment(scene), scene.store, scene.cluster_id, policy)
    check_whole(scene)
    after = possible(scene)
    assert set(after) <= set(before)
    assert set(points) <= set(after)
    kept_from = _kept_from(usable, policy, scene.now_ms)
    if kept_from is None:
        assert after == before and not done.first_revision
        return
    assert done.first_revision == kept_from + 1
    assert [revision for revision in after if revision >= kept_from] == [one for one in before if one >= kept_from]
    newest = [backup.id for backup in usable][-policy.keep_backups :] if policy.keep_backups else []
    assert set(newest) <= {backup.id for backup in backups_of(scene)}
    if not points:
        floors = [entry.end.revision for part in read_catalog(scene.store, scene.cluster_id).epochs for entry in part.entries]
        objects = [name for name in scene.objects if name.startswith(scene.names.segments)]
        assert len(objects) == sum(end > kept_from for end in floors)
        assert verify_archive(scene.store, scene.cluster_id).leftovers == ()
    if policy.keep_ms:
        _check_window(model, policy, kept_from)


def _on_the_log(model: ArchiveModel) -> list[BackupRecord]:
    """Return the backups that the log of history passes through, oldest first."""
    known, runs = model.backups, read_catalog(model.scene.store, model.scene.cluster_id).runs
    return [
        one
        for one in backups_of(model.scene)
        if (one.position.revision, one.position.epoch.number) in known and locate(runs, one.position)
    ]


def _kept_from(usable: list[BackupRecord], policy: RetentionPolicy, now_ms: int) -> int | None:
    """Return the revision of the oldest backup that a policy keeps; None where nothing may go."""
    kept = []
    if policy.keep_backups:
        if len(usable) < policy.keep_backups:
            return None
        kept.append(usable[-policy.keep_backups])
    if policy.keep_ms:
        before = [one for one in usable if one.time_ms <= now_ms - policy.keep_ms]
        if not before:
            return None
        kept.append(before[-1])
    return min(one.position.revision for one in kept)


def _check_window(model: ArchiveModel, policy: RetentionPolicy, kept_from: int) -> None:
    """Check that every moment of the window leads where it did, gaps aside."""
    scene = model.scene
    for revision, time_ms in scene.time_of.items():
        if time_ms < scene.now_ms - policy.keep_ms or not model.can(revision) or revision in model.missing:
            continue
        last = max(at for at, when in scene.time_of.items() if when <= time_ms)
        if last in model.missing or last + 1 in model.missing or last < kept_from:
            continue
        assert make_plan(scene.store, scene.cluster_id, RestoreTarget(time_ms=time_ms)).revision == last
