"""Verifying an archive: every byte of everything is read, and what is damaged is named with what it prevents."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

import pytest

from kvserver.archive.catalog import read_catalog
from kvserver.archive.dictionary import FIRST_ID, store_dictionary, train
from kvserver.archive.plan import RestoreTarget, make_plan, possible_spans
from kvserver.archive.records import RetentionRecord, encode_retention
from kvserver.archive.store import ObjectInfo, StoreUnavailable
from kvserver.archive.verify import Damage, VerifyReport, subtract, verify_archive
from kvserver.base.errors import RevisionError
from support.archives import ArchiveScene, family
from support.fault_store import UNAVAILABLE, StoreFault, failing_store_calls
from support.log_scenes import flip
from support.memory_store import MemoryStore


def verified(scene: ArchiveScene, workers: int = 1) -> VerifyReport:
    return verify_archive(scene.store, scene.cluster_id, workers)


def only_damage(scene: ArchiveScene) -> Damage:
    report = verified(scene)
    assert not report.is_whole
    (one,) = report.damaged
    return one


def simple(segments: int = 3) -> ArchiveScene:
    """Return revisions 2 to 4, 5 to 7 and so on."""
    scene = ArchiveScene()
    scene.begin()
    for _ in range(segments):
        scene.segment(1, 2)
    return scene


@pytest.mark.parametrize("workers", [1, 3])
def test_a_whole_archive_is_found_whole(workers: int) -> None:
    scene = family()
    scene.point("before", 9)
    told: list[tuple[int, int, str]] = []
    report = verify_archive(scene.store, scene.cluster_id, workers, lambda *step: told.append(step))
    assert report.is_whole
    assert (report.damaged, report.problems, report.leftovers, report.lost, report.gaps) == ((), (), (), (), ())
    assert report.segments == len(scene.entries)
    assert report.stored_bytes == sum(entry.stored_length for entry in scene.entries)
    assert report.raw_bytes == sum(map(len, scene.raw.values()))
    files = {name: data for name, data in scene.objects.items() if name.startswith(scene.names.files)}
    assert (report.backups, report.files, report.file_bytes) == (2, len(files), sum(map(len, files.values())))
    total = report.stored_bytes + report.file_bytes
    assert [total] * len(told) == [step[1] for step in told]
    assert [step[0] for step in told] == sorted(step[0] for step in told)
    assert told[-1][0] == total
    assert {step[2] for step in told[1:]} == {scene.names.segment(entry.id) for entry in scene.entries} | set(files)
    assert report.describe()["whole"]


def test_every_object_that_is_gone_is_missed() -> None:
    scene = family(length=1)
    last_record = scene.names.manifest(scene.epoch.number, 0)
    for name, data in list(scene.objects.items()):
        del scene.objects[name]
        report = verified(scene)
        if name.startswith(scene.names.backups) or name == last_record:
            assert report.leftovers, name  # as after a crash: a record that comes last may not have come
        elif b'"closing"' in data:
            assert report.is_whole and not report.lost  # where the epoch was left, the next one tells too
        else:
            assert not report.is_whole, name
            assert names_it(report, name), name
        scene.objects[name] = data
    assert verified(scene).is_whole


def names_it(report: VerifyReport, name: str) -> bool:
    """Say whether the report speaks of an object."""
    return any(name in text for text in [*(one.name for one in report.damaged), *report.problems])


def test_every_flipped_bit_is_found() -> None:
    scene = simple(1)
    scene.backup(files={"CURRENT": b"MANIFEST-000005\n"})
    scene.point("p", 3)
    scene.store.replace(scene.names.retention, encode_retention(RetentionRecord(scene.cluster_id, 1, 0)), None)
    assert verified(scene).is_whole
    for name, data in list(scene.objects.items()):
        for at in range(len(data)):
            scene.objects[name] = flip(data, at)
            report = verified(scene)
            assert not report.is_whole, (name, at)
            assert names_it(report, name), (name, at)
        scene.objects[name] = data


def test_every_truncation_is_found() -> None:
    scene = simple(1)
    scene.backup(files={"CURRENT": b"MANIFEST-000005\n"})
    for name, data in list(scene.objects.items()):
        for length in range(0, len(data.rstrip()), 3):
            scene.objects[name] = data[:length]
            assert not verified(scene).is_whole, (name, length)
        scene.objects[name] = data


def test_objects_that_were_exchanged_are_found() -> None:
    scene = simple(2)
    one, two = (scene.names.segment(entry.id) for entry in scene.entries)
    scene.objects[one], scene.objects[two] = scene.objects[two], scene.objects[one]
    assert {damage.name for damage in verified(scene).damaged} == {one, two}


def test_a_segment_of_another_branch_is_found() -> None:
    """The chain of a segment inside an epoch does not cover where the epoch began; its header says that, and is compared."""
    scene = simple(1)
    honest = scene.raw_segment(1)
    lying = type(honest)(honest.header._replace(branch=honest.header.branch._replace(chain=bytes(16))))
    lying.put("key-5", value=b"value-5", time_ms=scene.now_ms).seal(time_ms=scene.now_ms)
    assert lying.end == honest.end
    scene.record(lying.archive(scene.store, scene.names))
    assert "its epoch begins at another position" in only_damage(scene).what
    scene.backup()
    assert "its epoch begins at another position" in only_damage(scene).what


# What it prevents


def test_a_damaged_segment_prevents_what_is_behind_it_up_to_the_next_backup() -> None:
    scene = simple(2)
    scene.backup()
    scene.segment(1, 2)
    scene.segment(1, 2)
    name = scene.names.segment(scene.entries[0].id)
    scene.objects[name] = flip(scene.objects[name], 300)
    assert only_damage(scene).prevents == "revisions 2 to 6 cannot be restored"
    report = verified(scene)
    assert report.lost == ((2, 6),)
    assert [(span.first_revision, span.last_revision) for span in report.restorable] == [(7, 13)]
    last = scene.names.segment(scene.entries[2].id)
    scene.store.delete(last)
    report = verified(scene)
    assert [damage.prevents for damage in report.damaged] == [
        "revisions 2 to 6 cannot be restored",
        "revisions 8 to 13 cannot be restored",
    ]
    assert report.lost == ((2, 6), (8, 13))


def test_a_damaged_segment_of_no_part_of_history_prevents_nothing() -> None:
    scene = simple(1)
    parting = scene.position
    left = scene.segment(2)
    scene.begin(branch=parting)
    scene.segment(1)
    scene.store.delete(scene.names.segment(left.id))
    assert only_damage(scene) == Damage(scene.names.segment(left.id), "the object is missing", "nothing that is part of history")
    assert verified(scene).lost == ()


def test_a_damaged_backup_prevents_only_what_nothing_else_leads_to() -> None:
    scene = simple(2)
    backup = scene.backup(files={"1.sst": b"rows"})
    name = scene.names.file(hashlib.sha256(b"rows").digest())
    scene.objects[name] = b"rowS"
    leave_out = f"kvctl restore --without-backup {backup.id}"
    assert only_damage(scene).prevents == f"nothing, if restores begin with an older base: {leave_out}"
    scene.store.delete(scene.names.segment(scene.entries[0].id))
    report = verified(scene)
    assert report.lost == ((2, 7),)
    assert report.backups == 1 and backup.id in [one.id for one in read_catalog(scene.store, scene.cluster_id).backups]


def test_what_is_said_to_be_lost_is_what_no_plan_reaches() -> None:
    for seed in range(15):
        scene = family(length=2)
        scene.backup()
        scene.segment(2)
        chance = random.Random(seed)
        names = [name for name in scene.objects if "/log/" in name or "/files/" in name]
        for name in chance.sample(names, chance.randint(1, 4)):
            scene.objects[name] = flip(scene.objects[name], chance.randrange(len(scene.objects[name])))
        before = possible_spans(read_catalog(scene.store, scene.cluster_id))
        report = verified(scene)
        assert list(report.lost) == subtract(before, list(report.restorable))
        bad = {damage.name for damage in report.damaged}
        for revision in range(2, scene.position.revision + 1):
            kept = any(span.first_revision <= revision <= span.last_revision for span in report.restorable)
            assert kept != any(first <= revision <= last for first, last in report.lost)
            assert kept == _reached(scene, revision, bad), (seed, revision)


def _reached(scene: ArchiveScene, revision: int, bad: set[str]) -> bool:
    """Say whether any base and the log behind it, none of it damaged, leads to a revision."""
    catalog = read_catalog(scene.store, scene.cluster_id)
    bases = [base for base in catalog.bases() if not bad & {scene.names.file(file.sha256) for file in base.files}]
    begins = [base.position for base in bases if base.position.revision <= revision] + [catalog.runs[0].begin]
    for begin in begins:
        legs = catalog.legs(begin, revision)
        if not bad & {scene.names.segment(entry.id) for leg in legs for entry in leg.entries}:
            return True
    return False


def test_revisions_are_taken_from_one_another() -> None:
    scene = simple(1)
    (span,) = possible_spans(read_catalog(scene.store, scene.cluster_id))
    of = span._replace
    assert subtract([of(first_revision=1, last_revision=9)], []) == [(1, 9)]
    holes = [of(first_revision=3, last_revision=4), of(first_revision=6, last_revision=20)]
    assert subtract([of(first_revision=1, last_revision=9)], holes) == [(1, 2), (5, 5)]
    assert subtract([span], [span]) == []


# Backups and the log


def test_a_backup_that_the_log_does_not_pass_through_is_found() -> None:
    scene = simple(2)
    good = scene.backup(at=scene.frame_ends[5])
    assert verified(scene).is_whole
    bad = scene.backup(at=good.position._replace(chain=bytes(16)))
    one = only_damage(scene)
    assert one.name == scene.names.backup(bad.id)
    assert "the log does not pass through its position" in one.what
    assert one.prevents == f"nothing, if restores begin with an older base: kvctl restore --without-backup {bad.id}"


def test_a_backup_inside_a_frame_is_found() -> None:
    scene = simple(2)
    bad = scene.backup(at=scene.position._replace(revision=6))
    assert only_damage(scene).name == scene.names.backup(bad.id)


def test_a_backup_where_an_epoch_begins_by_a_cut_is_left_to_the_restore() -> None:
    scene = simple(1)
    cut = scene.position._replace(revision=3, chain=bytes(16))
    scene.begin(branch=cut)
    scene.segment(1)
    scene.backup(at=cut)
    assert verified(scene).is_whole


def test_a_point_that_cannot_be_restored_is_named() -> None:
    scene = simple(2)
    scene.point("release", 6)
    assert verified(scene).is_whole
    scene.store.delete(scene.names.segment(scene.entries[1].id))
    assert "the point release, revision 6, cannot be restored" in verified(scene).problems


# Dictionaries


def test_a_dictionary_is_read_and_missed() -> None:
    scene = simple(1)
    samples = [f"key-{number} value-{number * 7919}".encode() * 3 for number in range(300)]
    dictionary = train(samples, FIRST_ID, size_bytes=1024)
    store_dictionary(scene.store, scene.names, dictionary)
    entry = scene.raw_segment(2).archive(scene.store, scene.names, dictionary=dictionary)
    scene.record(entry)
    report = verified(scene)
    assert report.is_whole and report.dictionaries == 1
    name = scene.names.dictionary(FIRST_ID)
    data = scene.objects[name]
    scene.objects[name] = flip(data, 30)
    assert {damage.name for damage in verified(scene).damaged} == {name, scene.names.segment(entry.id)}
    scene.store.delete(name)
    report = verified(scene)
    assert {damage.name for damage in report.damaged} == {name, scene.names.segment(entry.id)}
    assert report.lost == ((5, 6),)


# What no record names, what is missing on purpose


def test_what_no_record_names_is_reported_and_no_damage() -> None:
    scene = simple(1)
    segment = scene.names.segment(scene.put(2).id)
    strays = [segment, scene.names.file(bytes(32)), scene.names.prefix + "notes.txt", scene.names.prefix + "log/x"]
    for name in strays[1:]:
        scene.objects[name] = b"something"
    report = verified(scene)
    assert report.is_whole
    assert sorted(info.name for info in report.leftovers) == sorted(strays)


def test_what_is_put_and_listed_meanwhile_is_no_leftover() -> None:
    scene = simple(1)

    class Growing(MemoryStore):
        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            yield from [*super().list(prefix)]
            if prefix == scene.names.prefix:
                scene.segment(1)

    growing = Growing()
    growing.objects = scene.objects
    report = verify_archive(growing, scene.cluster_id)
    assert report.is_whole and report.leftovers == ()
    assert report.segments == 2


def test_segments_without_a_manifest_are_a_problem_unless_they_are_the_newest() -> None:
    scene = simple(1)
    for epoch in (2, 3):
        scene.begin(close=False)
        scene.segment(1)
        if epoch == 2:
            scene.store.delete(scene.names.manifest(2, 0))
    assert any("there are segments of the epoch, and no manifest" in problem for problem in verified(scene).problems)
    scene = simple(1)
    scene.begin(close=False)
    scene.put(1)
    assert verified(scene).is_whole


def test_below_what_is_promised_anything_may_be_missing() -> None:
    scene = simple(3)
    scene.backup(at=scene.entries[1].end)
    scene.store.replace(scene.names.retention, encode_retention(RetentionRecord(scene.cluster_id, 8, 0)), None)
    scene.store.delete(scene.names.segment(scene.entries[0].id))
    assert verified(scene).is_whole
    scene.store.delete(scene.names.segment(scene.entries[1].id))
    scene.store.delete(scene.names.manifest(1, 0))
    assert verified(scene).is_whole
    scene.store.delete(scene.names.segment(scene.entries[2].id))
    assert only_damage(scene).name == scene.names.segment(scene.entries[2].id)


def test_gaps_are_reported_and_no_damage() -> None:
    scene = simple(1)
    gap = scene.gap(2)
    scene.segment(1)
    report = verified(scene)
    assert report.is_whole
    assert report.gaps == (gap,)


# The store


def test_a_store_that_fails_leaves_nothing_known() -> None:
    scene = family(length=1)
    for store in failing_store_calls(lambda: scene.store, StoreFault(error=UNAVAILABLE)):
        try:
            report = verify_archive(store, scene.cluster_id)
        except StoreUnavailable:
            assert store.fired
        else:
            assert not store.fired and report.is_whole


def test_what_progress_raises_ends_it() -> None:
    class Enough(Exception):
        pass

    def stop(done: int, total: int, name: str) -> None:
        if done:
            raise Enough

    with pytest.raises(Enough):
        verify_archive(family().store, family().cluster_id, 2, stop)


def test_nothing_to_verify_is_said() -> None:
    with pytest.raises(RevisionError, match="holds nothing of cluster"):
        verify_archive(MemoryStore(), bytes(16))


def test_many_damaged_objects_are_all_named(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = simple(5)
    for entry in scene.entries:
        scene.store.delete(scene.names.segment(entry.id))
    monkeypatch.setattr("kvserver.archive.verify._EXPLAINED", 2)
    report = verified(scene)
    assert len(report.damaged) == 5
    assert [one.prevents for one in report.damaged[1:4]] == [
        "revisions 5 to 16 cannot be restored",
        "see what is lost by all of it",
        "see what is lost by all of it",
    ]
    assert report.lost == ((2, 16),)
    with pytest.raises(Exception, match="is missing"):
        make_plan(scene.store, scene.cluster_id, RestoreTarget(9))


def test_a_manifest_that_lists_a_segment_that_never_was_is_found() -> None:
    scene = simple(2)
    scene.rewrite(1, entries=[scene.entries[1]._replace(stored_length=scene.entries[1].stored_length + 1)])
    assert only_damage(scene).name == scene.names.segment(scene.entries[1].id)
