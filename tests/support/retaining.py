"""What the tests of retention share: archives with a past to give up, and what must hold of one whatever happened to it."""

from __future__ import annotations

import random

from kvserver.archive.catalog import read_catalog
from kvserver.archive.plan import RestoreTarget, make_plan
from kvserver.archive.records import BackupRecord
from kvserver.archive.retention import RetentionPlan, RetentionPolicy, retain
from kvserver.archive.store import Store
from kvserver.archive.verify import verify_archive
from kvserver.base.environment import Environment
from support.archives import ArchiveScene
from support.clocks import ManualClock
from support.memfs import MemoryFileSystem


def environment(scene: ArchiveScene) -> Environment:
    """Return a world in which it is as late as in the scene."""
    return Environment(MemoryFileSystem(), ManualClock(now_ms=scene.now_ms), random.Random(0).randbytes)


def retained(scene: ArchiveScene, keep_backups: int = 0, keep_ms: int = 0, store: Store | None = None) -> RetentionPlan:
    """Carry out a policy."""
    policy = RetentionPolicy(keep_backups, keep_ms)
    return retain(environment(scene), store if store is not None else scene.store, scene.cluster_id, policy)


def long_lived(backups: int = 4) -> ArchiveScene:
    """Return an archive with so many backups, each in an epoch of its own behind two segments, with revisions in between."""
    scene = ArchiveScene()
    for _ in range(backups):
        scene.begin()
        scene.segment(1, 2)
        scene.segment(1)
        scene.backup()
        scene.segment(2)
    return scene


def backups_of(scene: ArchiveScene) -> list[BackupRecord]:
    """Return the backups, oldest first."""
    return list(read_catalog(scene.store, scene.cluster_id).backups)


def possible(scene: ArchiveScene) -> list[int]:
    """Return every revision that there is a plan for."""
    catalog = read_catalog(scene.store, scene.cluster_id)
    found = []
    for revision in range(1, scene.position.revision + 1):
        try:
            make_plan(scene.store, scene.cluster_id, RestoreTarget(revision), catalog=catalog)
        except Exception:
            continue
        found.append(revision)
    return found


def check_whole(scene: ArchiveScene) -> None:
    """Check that the archive verifies."""
    report = verify_archive(scene.store, scene.cluster_id)
    assert report.is_whole, (report.damaged, report.problems)
