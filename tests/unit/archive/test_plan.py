"""Restore plans: which base, which log, where they lead, and by name why there is none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kvserver.archive.catalog import read_catalog
from kvserver.archive.errors import damaged
from kvserver.archive.plan import RestorePlan, RestoreTarget, make_plan, possible_spans, time_text
from kvserver.archive.plan_record import plan_fields, plan_of
from kvserver.archive.records import RetentionRecord, encode_retention
from kvserver.base.errors import Code, Corruption, RevisionError
from support.archives import BEGIN_MS, GROUP_MS, ArchiveScene, family

LATEST = RestoreTarget()


def plan(scene: ArchiveScene, target: RestoreTarget | int = LATEST, **fields: Any) -> RestorePlan:
    target = RestoreTarget(revision=target) if isinstance(target, int) else target
    made = make_plan(scene.store, scene.cluster_id, target, **fields)
    assert plan_of(json.loads(json.dumps(plan_fields(made)))) == made
    json.dumps(made.describe())
    return made


def at_time(scene: ArchiveScene, time_ms: int) -> int:
    return plan(scene, RestoreTarget(time_ms=time_ms)).revision


def refusal(scene: ArchiveScene, target: RestoreTarget | int = LATEST) -> str:
    with pytest.raises(RevisionError) as caught:
        plan(scene, target)
    assert caught.value.code is Code.NO_RESTORE_PLAN
    assert caught.value.hint
    return caught.value.message


def simple(segments: int = 3) -> ArchiveScene:
    """Return revisions 2 to 4, 5 to 7 and so on, each segment of a group of one and a group of two."""
    scene = ArchiveScene()
    scene.begin()
    for _ in range(segments):
        scene.segment(1, 2)
    return scene


def test_the_newest_base_at_or_below_the_target_is_taken() -> None:
    scene = simple(1)
    first = scene.backup()
    scene.segment(1, 2)
    second = scene.backup()
    scene.segment(1, 2)
    chosen = [plan(scene, revision).base for revision in range(2, 11)]
    assert chosen == [None, None, first, first, first, second, second, second, second]
    exact = plan(scene, 7)
    assert (exact.legs, exact.position, exact.segments, exact.stored_bytes) == ((), second.position, 0, 0)
    assert exact.base_bytes == second.length
    assert exact.time_ms == scene.time_of[7]


def test_a_plan_says_what_is_fetched_and_where_it_leads() -> None:
    scene = simple(3)
    backup = scene.backup(at=scene.frame_ends[4])
    made = plan(scene, 7)
    (leg,) = made.legs
    assert leg.entries == (scene.entries[1],)
    assert (made.base, leg.begin, leg.upto) == (backup, backup.position, None)
    assert (made.segments, made.stored_bytes) == (1, scene.entries[1].stored_length)
    assert made.raw_bytes == len(scene.raw[scene.entries[1]])
    assert made.position == scene.frame_ends[7] == scene.entries[1].end
    assert made.time_ms == scene.time_of[7]
    assert made.end == scene.position
    assert made.oldest_possible_revision == 2
    assert made.epochs == tuple(scene.epochs)
    assert made.describe()["log"] == [
        {
            "cluster_id": scene.cluster_id.hex(),
            "epoch": 1,
            "first_revision": 5,
            "last_revision": 7,
            "segments": 1,
            "stored_bytes": scene.entries[1].stored_length,
        }
    ]


def test_a_revision_inside_a_frame_has_no_position_of_its_own() -> None:
    scene = simple(1)
    assert plan(scene, 3).position is None
    assert plan(scene, 3).time_ms == plan(scene, 4).time_ms == scene.time_of[4]
    assert plan(scene, 2).position == scene.frame_ends[2]
    assert plan(scene, 3).describe()["inside_a_frame"]


def test_the_newest_is_the_end_of_the_archive() -> None:
    scene = family()
    made = plan(scene)
    assert (made.revision, made.position) == (23, scene.position)
    assert made.base is not None and made.base.position.revision == 19


def test_a_plan_leads_across_branches_and_restarts() -> None:
    scene = family()
    made = plan(scene, 18)
    assert [(leg.epoch.number, len(leg.entries), leg.last_revision) for leg in made.legs] == [(1, 1, 7), (2, 3, 19)]
    assert [epoch.number for epoch, _ in made.epochs] == [1, 2]
    assert [epoch.number for epoch, _ in plan(scene).epochs] == [1, 2, 3, 5]


def test_what_lies_outside_is_refused_with_what_is_possible() -> None:
    scene = ArchiveScene()
    scene.begin()
    scene.raw_segment(3)
    scene.begin(close=False)
    scene.segment(2)
    assert "holds no backup, and its log does not go back" in refusal(scene)
    backup = scene.backup()
    scene.segment(2)
    possible = f"revision 6 ({time_text(backup.time_ms)}) to 8 ({time_text(scene.now_ms)})"
    for revision, why in ((5, "before the oldest"), (9, "after the newest"), (0, "before the oldest"), (1 << 63, "after")):
        message = refusal(scene, revision)
        assert why in message and possible in message
    assert [plan(scene, revision).revision for revision in (6, 7, 8)] == [6, 7, 8]
    assert plan(scene, 6).oldest_possible_revision == 6


def test_who_asks_for_what_is_not_archived_yet_is_told_how_to_get_it() -> None:
    scene = simple()
    wanted = (RestoreTarget(revision=99), True), (RestoreTarget(time_ms=scene.now_ms + 60_000), True), (RestoreTarget(1), False)
    for target, is_told in wanted:
        with pytest.raises(RevisionError) as caught:
            plan(scene, target)
        assert ("kvctl archive now" in caught.value.hint, "--latest" in caught.value.hint) == (is_told, True)
    name = scene.names.manifest(1, 1)
    scene.objects[name] = scene.objects[name][:-2]
    with pytest.raises(RevisionError) as caught:
        plan(scene, 6)
    assert "kvctl archive verify" in caught.value.hint


def test_one_revision_is_not_called_a_span_and_times_are_told_in_their_order() -> None:
    scene = simple(1)
    gap = scene.gap(1, 1)
    alone = scene.backup()
    scene.segment()
    assert f"; revision {alone.position.revision} ({time_text(alone.time_ms)})" in refusal(scene, gap.first_revision)
    for span in possible_spans(read_catalog(scene.store, scene.cluster_id)):
        assert span.first_time_ms <= span.last_time_ms


def test_an_archive_without_a_commit_has_no_plan() -> None:
    scene = ArchiveScene()
    assert "holds no commit yet" in refusal(scene)
    scene.begin()
    scene.segment()
    assert "nothing can be restored" in refusal(scene)
    scene.segment(1)
    assert plan(scene).revision == 2


def test_a_gap_is_never_planned_across() -> None:
    scene = simple(1)
    before = scene.position.revision
    gap = scene.gap(1, 1)
    scene.segment(2)
    assert plan(scene, before).revision == before
    for revision in (before + 1, gap.last_revision, gap.last_revision + 1):
        assert "lies after the newest one that can be restored" in refusal(scene, revision)
    assert "cannot be reached" in refusal(scene)
    scene.backup()
    scene.segment(1)
    assert plan(scene).base is not None
    for revision in (before + 1, gap.last_revision, gap.last_revision + 1):
        assert "lies in a gap" in refusal(scene, revision)
    assert plan(scene, before).base is None


def test_what_retention_gave_up_is_said_to_be_that() -> None:
    scene = simple(2)
    scene.backup()
    for entry in scene.entries:
        scene.store.delete(scene.names.segment(entry.id))
    for number in (0, 1):
        scene.store.delete(scene.names.manifest(1, number))
    scene.segment(1)
    scene.store.replace(scene.names.retention, encode_retention(RetentionRecord(scene.cluster_id, 8, 0)), None)
    assert "was given up by retention, which promises revisions from 8 on" in refusal(scene, 6)
    assert plan(scene).revision == 8


def test_a_backup_behind_which_the_log_is_missing_is_restored_as_it_is() -> None:
    scene = simple(2)
    ahead = scene.backup(at=scene.position._replace(revision=50))
    assert plan(scene, 50).base == ahead
    assert plan(scene).revision == 50
    assert plan(scene).end == ahead.position
    for revision in (8, 49):
        assert "lies in a gap" in refusal(scene, revision)
    assert "after the newest" in refusal(scene, 51)


# Times


def test_a_time_means_the_last_group_at_or_before_it() -> None:
    scene = simple(2)
    for group, revision in enumerate((2, 4, 5, 7), 1):
        at = BEGIN_MS + group * GROUP_MS
        assert at_time(scene, at) == revision
        if group < 4:
            assert at_time(scene, at + GROUP_MS - 1) == revision
    assert plan(scene, RestoreTarget(time_ms=BEGIN_MS + GROUP_MS)).time_ms == BEGIN_MS + GROUP_MS


def test_of_groups_of_one_moment_the_last_is_meant() -> None:
    scene = ArchiveScene()
    scene.begin()
    for _ in range(3):
        scene.now_ms = BEGIN_MS
        scene.segment(1)
    assert at_time(scene, BEGIN_MS + GROUP_MS) == 4


def test_times_outside_are_refused_with_what_is_possible() -> None:
    scene = simple(2)
    first, last = BEGIN_MS + GROUP_MS, BEGIN_MS + 4 * GROUP_MS
    for time_ms, why in (
        (first - 1, "before the oldest"),
        (0, "before the oldest"),
        (last + 1, "after the newest archived commit"),
    ):
        message = refusal(scene, RestoreTarget(time_ms=time_ms))
        assert why in message
        assert f"revision 2 ({time_text(first)}) to 7 ({time_text(last)})" in message


def test_a_log_that_was_idle_proves_that_nothing_happened() -> None:
    scene = simple(1)
    scene.now_ms += 5000
    scene.segment()
    assert at_time(scene, scene.now_ms) == 4
    assert "after the newest" in refusal(scene, RestoreTarget(time_ms=scene.now_ms + 1))


def test_a_time_before_the_log_is_that_of_the_backup_it_begins_at() -> None:
    scene = simple(2)
    backup = scene.backup()
    end_ms = scene.time_of[7]
    for number in (0, 1):
        scene.store.delete(scene.names.manifest(1, number))
    scene.now_ms += 10_000
    scene.segment(1)
    assert at_time(scene, end_ms) == at_time(scene, end_ms + 5000) == backup.position.revision
    assert "before the oldest" in refusal(scene, RestoreTarget(time_ms=end_ms - 1))


def test_a_time_in_a_gap_is_refused() -> None:
    scene = simple(1)
    scene.gap(1)
    missing_ms = scene.now_ms
    scene.now_ms += 5000
    scene.segment(1)
    scene.backup()
    scene.segment(1)
    for time_ms in (missing_ms - 1, missing_ms, missing_ms + 5000):
        assert "lies in a gap" in refusal(scene, RestoreTarget(time_ms=time_ms))
    assert at_time(scene, missing_ms - GROUP_MS) == 4


def test_times_behind_a_branch_are_those_of_the_epoch_that_parted() -> None:
    scene = simple(1)
    scene.segment(1, 1, 1)
    branch = scene.frame_ends[6]
    left_ms = scene.time_of[7]
    scene.begin(branch=branch)
    scene.segment(1)
    assert scene.now_ms > left_ms
    assert at_time(scene, left_ms) == 6
    assert at_time(scene, scene.now_ms) == 7
    assert plan(scene, RestoreTarget(time_ms=left_ms)).position == branch


def test_a_branch_inside_a_frame_ends_the_frame_s_time() -> None:
    scene = simple(1)
    frame_ms = scene.now_ms
    scene.begin(branch=scene.position._replace(revision=3, chain=bytes(16)))
    scene.segment(1)
    assert at_time(scene, frame_ms) == 3
    assert at_time(scene, scene.now_ms) == 4


def test_a_clock_that_went_back_at_a_change_of_epoch_is_noted() -> None:
    scene = simple(2)
    late_ms = scene.now_ms
    scene.now_ms = BEGIN_MS + GROUP_MS
    scene.begin()
    scene.segment(1, 1)
    made = plan(scene, RestoreTarget(time_ms=BEGIN_MS + 2 * GROUP_MS))
    assert made.revision == 8
    assert "the clock went back" in made.notes[0]
    assert plan(scene, 8).notes == ()
    assert "after the newest" in refusal(scene, RestoreTarget(time_ms=late_ms + 1))


# Forks


def test_a_fork_s_plan_uses_its_parent_up_to_where_it_parted() -> None:
    parent = simple(2)
    backup = parent.backup()
    parent.segment(1, 2)
    fork = parent.fork(parent.frame_ends[8])
    fork.begin()
    fork.segment(2)
    parent.segment(1)
    parent.backup()
    made = plan(fork)
    assert made.base == backup
    assert [(leg.cluster_id, leg.last_revision) for leg in made.legs] == [(parent.cluster_id, 8), (fork.cluster_id, 10)]
    assert [epoch.number for epoch, _ in made.epochs] == [1, 2]
    assert plan(fork, 3).base is None
    assert plan(fork, 8).legs[-1].cluster_id == parent.cluster_id
    assert at_time(fork, parent.time_of[5]) == 5


def test_a_fork_without_its_parent_begins_with_its_own_backup() -> None:
    parent = simple(1)
    fork = parent.fork()
    own = fork.backup(owner_id=parent.cluster_id)
    fork.begin()
    fork.segment(1)
    for name in [name for name in fork.objects if name.startswith(parent.names.prefix)]:
        fork.store.delete(name)
    made = plan(fork)
    assert (made.base, made.revision) == (own, 5)
    assert made.legs[0].begin == own.position
    assert "before the oldest" in refusal(fork, 3)


# Trust


def test_a_segment_that_lies_about_its_times_is_damage() -> None:
    scene = simple(1)
    entry = scene.entries[0]
    scene.rewrite(0, entries=[entry._replace(first_time_ms=entry.first_time_ms - 500)])
    with pytest.raises(Corruption, match="of another time than the manifest says"):
        plan(scene, RestoreTarget(time_ms=entry.first_time_ms - 400))


def test_a_segment_that_is_missing_is_named() -> None:
    scene = simple(1)
    name = scene.names.segment(scene.entries[0].id)
    scene.store.delete(name)
    with pytest.raises(Exception, match=name):
        plan(scene, 2)


def test_a_target_is_one_thing() -> None:
    with pytest.raises(ValueError, match="not both"):
        make_plan(simple(1).store, simple(1).cluster_id, RestoreTarget(2, 5))


def test_times_are_text_whatever_they_are() -> None:
    assert time_text(BEGIN_MS) == "2025-06-15T15:06:40.000Z"
    assert time_text(0) == time_text(None) == "time unknown"
    assert time_text((1 << 64) - 1) == f"{(1 << 64) - 1} ms"


def test_fields_that_are_no_plan_are_refused() -> None:
    scene = family()
    fields = json.loads(json.dumps(plan_fields(plan(scene, 18))))
    line = fields["legs"][1]["segments"][0]
    broken: list[dict[str, Any]] = [{**fields, name: value} for name in fields for value in (None, -1, "x", [1])]
    broken += [
        {name: value for name, value in fields.items() if name not in ("base", "position", left_out)} for left_out in fields
    ]
    legs = fields["legs"]
    for segments in (
        [line + " 1"],
        [line[1:].replace(" ", "")],
        [line, line],
        [None],
        ["é" + line],
        [line.replace(" ", " -", 1)],
    ):
        broken.append({**fields, "legs": [legs[0], {**legs[1], "segments": segments}]})
    for one in broken:
        if set(one) == set(fields) - {"base", "position"}:
            continue  # a plan without a base
        try:
            made = plan_of(one)
        except (ValueError, Corruption):
            continue
        assert made.notes == () and one["position"] == fields["position"], one
    assert damaged("x", 0, "y").what == "y"
