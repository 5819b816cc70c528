"""Gives up old backups and old log, in steps each of which leaves an archive that is whole.

    1  floor      ``RETENTION`` says from which revision on history is promised; it only ever goes up
    2  proof      all is read again: a point that was named before the floor rose is seen now, one that comes later sees the floor
    3  backups    their records, oldest first
    4  files      those that no backup names, out of the way of backups that are being made (``file_sweep``)
    5  segments   those that end below the floor and that nothing needs, listed or left behind by a crash
    6  records    of manifests, oldest first, of which nothing is left

Before the first step everything is decided and proven once (``retention_plan``). A crash leaves objects below the floor, which
the next run removes, and nothing that anybody misses. Two at the same time do no harm: both have proven what they do.
"""

from __future__ import annotations

from collections.abc import Callable

from kvserver.archive.file_sweep import sweep_files
from kvserver.archive.names import ArchiveNames
from kvserver.archive.retention_plan import (
    Kept,
    RetentionPlan,
    RetentionPolicy,
    RetentionRefused,
    plan_retention,
    what_needs,
)
from kvserver.archive.retention_record import change_retention
from kvserver.archive.store import Store
from kvserver.base import failpoints
from kvserver.base.environment import Environment

__all__ = ["Kept", "RetentionPlan", "RetentionPolicy", "RetentionRefused", "plan_retention", "retain", "what_needs"]

OnRemoved = Callable[[str], None]
"""Called with the name of each object that was removed."""


def retain(
    env: Environment,
    store: Store,
    cluster_id: bytes,
    policy: RetentionPolicy,
    dry_run: bool = False,
    on_removed: OnRemoved = lambda name: None,
) -> RetentionPlan:
    """Give up what a policy does not keep, and return what went; with ``dry_run`` what would go, and nothing is touched.

    Raises RetentionRefused, before anything is removed, where it is not proven that what is to be kept can still be restored;
    ValueError for a policy that keeps nothing, RevisionError (NO_RESTORE_PLAN) where the archive holds nothing of the cluster,
    Corruption, StoreError. What ``on_removed`` raises ends it.
    """
    plan = plan_retention(store, cluster_id, policy, env.clock.now_ms())
    if dry_run or not plan.first_revision:
        return plan
    names = ArchiveNames(cluster_id)
    first_revision, now_ms = plan.first_revision, env.clock.now_ms()
    written = change_retention(
        store,
        names,
        lambda record: (
            record
            if record.first_revision >= first_revision
            else record._replace(first_revision=first_revision, written_ms=now_ms)
        ),
    )
    failpoints.hit("retention.after_floor")
    plan = plan_retention(store, cluster_id, policy, now_ms, floor=written.first_revision)
    for backup in plan.backups:
        _remove(store, names.backup(backup.id), on_removed)
        failpoints.hit("retention.after_backup")
    swept = sweep_files(env, store, names, lambda info: on_removed(info.name))
    for segment in plan.segments:
        _remove(store, segment.name, on_removed)
        failpoints.hit("retention.after_segment")
    for record in plan.records:
        _remove(store, record, on_removed)
    return plan.after_sweep(swept)


def _remove(store: Store, name: str, on_removed: OnRemoved) -> None:
    store.delete(name)
    on_removed(name)
