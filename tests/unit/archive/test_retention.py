"""Retention: what goes, what never goes, and that any moment at which it stops leaves an archive that is whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from kvserver.archive.catalog import read_catalog
from kvserver.archive.manifest import EpochManifest
from kvserver.archive.plan import RestoreTarget, make_plan
from kvserver.archive.retention import RetentionPolicy, RetentionRefused, retain, what_needs
from kvserver.archive.store import StoreError
from kvserver.archive.verify import verify_archive
from kvserver.base import failpoints
from support.archives import GROUP_MS, ArchiveScene
from support.fault_store import FaultStore, StoreFault, ambiguous, failing_store_calls
from support.faultfs import ProcessKilled
from support.log_scenes import flip
from support.memory_store import MemoryStore
from support.retaining import backups_of, check_whole, environment, long_lived, possible, retained


def test_the_newest_backups_and_all_behind_the_oldest_of_them_stay() -> None:
    scene = long_lived()
    before, kept = scene.position, backups_of(scene)[-2:]
    done = retained(scene, keep_backups=2)
    assert backups_of(scene) == kept
    assert done.first_revision == kept[0].position.revision + 1
    assert possible(scene) == list(range(kept[0].position.revision, before.revision + 1))
    assert read_catalog(scene.store, scene.cluster_id).archived == before
    report = verify_archive(scene.store, scene.cluster_id)
    assert report.is_whole and report.leftovers == ()
    assert report.files == 3  # one that they share, and one each


def test_all_that_went_is_told_and_is_gone() -> None:
    scene = long_lived()
    before = dict(scene.objects)
    told: list[str] = []
    policy = RetentionPolicy(keep_backups=1)
    would = retain(environment(scene), scene.store, scene.cluster_id, policy, dry_run=True)
    assert scene.objects == before
    done = retain(environment(scene), scene.store, scene.cluster_id, policy, on_removed=told.append)
    assert dataclasses.replace(done, reason=would.reason) == would
    assert set(before) - set(scene.objects) == set(told)
    assert set(scene.objects) - set(before) == {scene.names.retention}
    fields = done.describe()
    assert (len(fields["backups"]), fields["files"], fields["segments"]) == (3, 3, len(done.segments))
    assert fields["segment_bytes"] == sum(len(before[info.name]) for info in done.segments)
    again = retained(scene, keep_backups=1)
    assert (again.backups, again.files, again.segments, again.records) == ((), (), (), ())


def test_nothing_goes_before_there_are_enough_backups() -> None:
    scene = long_lived(2)
    before = dict(scene.objects)
    done = retained(scene, keep_backups=3)
    assert done.reason == "there are 2 backups, and 3 are to be kept"
    assert not done.first_revision
    done = retained(scene, keep_ms=10**9)
    assert done.reason == "no backup is older than the time that is to be kept"
    assert scene.objects == before


@pytest.mark.parametrize("back", range(1, 14))
def test_every_moment_of_the_window_stays(back: int) -> None:
    scene = long_lived()
    keep_ms = back * GROUP_MS
    window = [time_ms for time_ms in scene.time_of.values() if time_ms >= scene.now_ms - keep_ms]
    retained(scene, keep_ms=keep_ms)
    check_whole(scene)
    catalog = read_catalog(scene.store, scene.cluster_id)
    for time_ms in [*window, scene.now_ms - keep_ms]:
        made = make_plan(scene.store, scene.cluster_id, RestoreTarget(time_ms=time_ms), catalog=catalog)
        assert made.revision == max(revision for revision, at in scene.time_of.items() if at <= time_ms)
    assert len(possible(scene)) < len(scene.time_of) or back == 13


def test_of_two_rules_each_keeps_what_it_keeps() -> None:
    scene = long_lived(5)
    oldest = backups_of(scene)[1]
    keep_ms = scene.now_ms - oldest.time_ms
    retained(scene, keep_backups=1, keep_ms=keep_ms)
    assert backups_of(scene)[0] == oldest
    assert min(possible(scene)) == oldest.position.revision
    retained(scene, keep_backups=2, keep_ms=1)
    assert len(backups_of(scene)) == 2


def test_a_policy_that_keeps_nothing_is_none() -> None:
    scene = long_lived(1)
    for policy in (RetentionPolicy(), RetentionPolicy(-1, 5), RetentionPolicy(5, -1)):
        with pytest.raises(ValueError, match="a policy keeps"):
            retain(environment(scene), scene.store, scene.cluster_id, policy)


def test_what_was_given_up_stays_given_up() -> None:
    scene = long_lived()
    first = retained(scene, keep_backups=1).first_revision
    done = retained(scene, keep_backups=3)
    assert done.first_revision == first
    assert done.reason == "there are 1 backups, and 3 are to be kept"
    assert read_catalog(scene.store, scene.cluster_id).floor == first


# What is kept beside the policy


def test_a_named_point_stays_as_long_as_it_has_its_name() -> None:
    scene = long_lived()
    scene.point("release", 6)
    retained(scene, keep_backups=1)
    check_whole(scene)
    newest = backups_of(scene)[-1].position.revision
    # The backup at 5 leads to it; what lies on the way can be restored too, and what else its segment holds.
    assert possible(scene) == [5, 6, 7, *range(newest, scene.position.revision + 1)]
    scene.store.delete(scene.names.point("release"))
    retained(scene, keep_backups=1)
    check_whole(scene)
    assert possible(scene) == list(range(newest, scene.position.revision + 1))
    assert len(backups_of(scene)) == 1


def test_a_point_that_needs_the_store_s_beginning_keeps_it() -> None:
    scene = long_lived()
    scene.point("early", 3)
    retained(scene, keep_backups=1)
    check_whole(scene)
    assert {2, 3, 4} <= set(possible(scene))
    assert 8 not in possible(scene)


def test_a_fork_without_a_backup_of_its_own_keeps_what_it_needs() -> None:
    scene = long_lived()
    fork = scene.fork(scene.frame_ends[7])
    fork.begin()
    fork.segment(2)
    done = retained(scene, keep_backups=1)
    assert any(f"the fork {fork.cluster_id.hex()}" in kept.what for kept in done.kept)
    check_whole(scene)
    check_whole(fork)
    assert possible(fork) == [5, 6, 7, 8, 9]
    fork.backup()
    retained(scene, keep_backups=1)
    check_whole(scene)
    check_whole(fork)
    assert possible(fork) == [9]
    assert len(backups_of(scene)) == 1


def test_a_point_of_a_fork_keeps_what_it_needs() -> None:
    scene = long_lived()
    fork = scene.fork(scene.frame_ends[7])
    second = fork.fork()
    second.begin()
    second.segment(2)
    second.backup()
    second.point("mine", 6)
    retained(scene, keep_backups=1)
    assert 6 in possible(second)
    check_whole(second)


def test_what_a_backup_is_needed_for_is_told() -> None:
    scene = long_lived(2)
    scene.point("p", 6)
    first = backups_of(scene)[0]
    assert what_needs(scene.store, scene.cluster_id, first.id) == []
    for entry in scene.entries[:2]:
        scene.store.delete(scene.names.segment(entry.id))
    for number in (0, 1):
        scene.store.delete(scene.names.manifest(1, number))
    assert what_needs(scene.store, scene.cluster_id, first.id) == ["point p", "revisions 5 to 10"]


# What is never touched


def test_what_may_be_on_its_way_stays() -> None:
    scene = long_lived()
    above = scene.put(2)
    ahead = scene.backup(at=scene.position._replace(revision=500))
    below = scene.names.segment(scene.entries[0].id._replace(content_hash=bytes(16)))
    scene.objects[below] = b"left behind by a crash"
    done = retained(scene, keep_backups=1)
    assert scene.names.segment(above.id) in scene.objects
    assert below not in scene.objects
    assert ahead in backups_of(scene)
    assert done.first_revision <= scene.entries[-1].end.revision


def test_log_of_no_part_of_history_goes_with_what_is_below() -> None:
    scene = long_lived(2)
    parting = scene.position
    left = scene.segment(1)
    scene.begin(branch=parting)
    scene.segment(2)
    scene.backup()
    retained(scene, keep_backups=1)
    check_whole(scene)
    assert scene.names.segment(left.id) not in scene.objects


def test_the_archiver_goes_on_after_its_old_records_went() -> None:
    scene = ArchiveScene()
    scene.begin()
    for _ in range(4):
        scene.segment(2)
        scene.backup()
    retained(scene, keep_backups=1)
    left = [info.name for info in scene.store.list(scene.names.manifests)]
    assert left == [scene.names.manifest(1, 3)]
    epoch, branch = scene.epochs[-1]
    again = EpochManifest.open(scene.store, scene.names, epoch, branch, "tester", scene.clock)
    again.append([scene.put(1)])
    check_whole(scene)
    assert read_catalog(scene.store, scene.cluster_id).archived == scene.position


def test_whole_epochs_go_and_the_newest_stays() -> None:
    scene = long_lived(4)
    retained(scene, keep_backups=1)
    epochs = {name.split("/")[2] for name in scene.objects if "/manifest/" in name}
    assert epochs == {"00000004"}
    check_whole(scene)


# What must be proven first


def _file_of(scene: ArchiveScene) -> str:
    return scene.names.file(backups_of(scene)[-1].files[1].sha256)


def _newest_segment(scene: ArchiveScene) -> str:
    return scene.names.segment(scene.entries[-1].id)


@pytest.mark.parametrize("name_of", [_file_of, _newest_segment])
@pytest.mark.parametrize("what", ["gone", "shorter"])
def test_an_older_base_does_not_go_for_one_that_is_not_whole(name_of: Callable[[ArchiveScene], str], what: str) -> None:
    scene = long_lived()
    name = name_of(scene)
    data = scene.objects.pop(name)
    if what == "shorter":
        scene.objects[name] = data[:-1]
    before = dict(scene.objects)
    with pytest.raises(RetentionRefused, match=name):
        retained(scene, keep_backups=1)
    assert scene.objects == before


def test_records_that_do_not_fit_together_keep_everything_above_them() -> None:
    scene = long_lived()
    name = scene.names.manifest(4, 0)
    scene.objects[name] = flip(scene.objects[name], 50)
    before = dict(scene.objects)
    with pytest.raises(RetentionRefused, match="records do not fit together"):
        retained(scene, keep_backups=2)
    assert scene.objects == before


def test_a_hole_below_what_is_kept_does_not_keep_it() -> None:
    scene = long_lived()
    scene.store.delete(scene.names.manifest(1, 1))
    name = scene.names.manifest(2, 0)
    scene.objects[name] = flip(scene.objects[name], 50)
    retained(scene, keep_backups=2)
    check_whole(scene)
    assert name not in scene.objects


def test_a_decision_that_takes_too_much_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof does not trust the decision: with rules that keep nothing, nothing is removed."""
    scene = long_lived()
    scene.point("p", 6)
    before = dict(scene.objects)
    decision = "kvserver.archive.retention_plan._Decision"
    monkeypatch.setattr(f"{decision}._keeps", lambda self, backup: False)
    with pytest.raises(RetentionRefused, match="could not be restored any more"):
        retained(scene, keep_backups=2)
    monkeypatch.setattr(f"{decision}._kept", lambda self: iter(()))
    with pytest.raises(RetentionRefused, match=r"revisions \d+ to \d+ could not be restored any more"):
        retained(scene, keep_backups=2)
    assert scene.objects == before


# Kills and failures at every step


def targets(scene: ArchiveScene) -> list[int]:
    """Return what must always be there: the point, the kept backups and everything behind the oldest of them."""
    return [6, *range(backups_of(scene)[-2].position.revision, scene.position.revision + 1)]


def pointed() -> ArchiveScene:
    scene = long_lived()
    scene.point("p", 6)
    return scene


FAILPOINTS = [name for name in failpoints.ARCHIVE_NAMES if name.startswith("retention.")]


@pytest.mark.parametrize("name", FAILPOINTS)
def test_a_kill_at_any_failpoint_leaves_a_whole_archive(name: str) -> None:
    undisturbed = pointed()
    retained(undisturbed, keep_backups=2)
    for passage in range(1, 100):
        scene = pointed()
        kept = targets(scene)
        left = passage

        def kill() -> None:
            nonlocal left
            left -= 1
            if not left:
                raise ProcessKilled

        failpoints.arm(name, kill)
        try:
            retained(scene, keep_backups=2)
        except ProcessKilled:
            pass
        else:
            assert passage > 1, "the failpoint is never passed"
            break
        finally:
            failpoints.disarm_all()
        check_whole(scene)
        assert set(kept) <= set(possible(scene))
        retained(scene, keep_backups=2)
        assert set(scene.objects) == set(undisturbed.objects)
    else:
        raise AssertionError("it never ends")


@pytest.mark.parametrize(
    "fault",
    [
        StoreFault(error=None, kills=True, calls={"create", "delete", "replace"}),
        StoreFault(error=None, kills=True, performed=True, calls={"create", "delete", "replace"}),
        ambiguous(took_effect=True),
        ambiguous(took_effect=False),
    ],
    ids=["killed before", "killed after", "failed and done", "failed"],
)
def test_a_store_that_ends_at_any_call_leaves_a_whole_archive(fault: Any) -> None:
    undisturbed = pointed()
    retained(undisturbed, keep_backups=2)
    scene = pointed()
    whole = dict(scene.objects)
    kept = targets(scene)

    def fresh() -> MemoryStore:
        scene.objects.clear()
        scene.objects.update(whole)
        assert isinstance(scene.store, MemoryStore)
        return scene.store

    for store in failing_store_calls(fresh, fault):
        try:
            retained(scene, keep_backups=2, store=store)
        except (ProcessKilled, StoreError):
            check_whole(scene)
            assert set(kept) <= set(possible(scene))
        scene.now_ms += 3_600_000  # after an hour nobody waits for a sweep that has failed
        retained(scene, keep_backups=2)
        scene.now_ms -= 3_600_000
        assert set(scene.objects) == set(undisturbed.objects)


def test_a_point_that_is_named_between_decision_and_deed_is_kept() -> None:
    scene = long_lived()
    store = FaultStore(scene.store)
    store.add(StoreFault(error=None, calls={"replace"}, action=lambda: scene.point("late", 6)))
    retained(scene, keep_backups=1, store=store)
    assert store.fired == 1
    assert 6 in possible(scene)
    check_whole(scene)
