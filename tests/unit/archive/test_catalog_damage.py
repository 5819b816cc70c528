"""An archive whose records are missing, exchanged, of others or lies: all of it is named, and nothing passes through it."""

from __future__ import annotations

import random
from typing import Any

import pytest

from kvserver.archive import catalog_reading
from kvserver.archive.catalog import Catalog, read_catalog
from kvserver.archive.manifest_chain import epoch_start
from kvserver.archive.records import (
    BackupRecord,
    Closing,
    ClusterRecord,
    PointRecord,
    RetentionRecord,
    encode_backup,
    encode_cluster,
    encode_point,
    encode_retention,
)
from kvserver.archive.store import StoreUnavailable
from kvserver.base.errors import Corruption, KvError
from kvserver.base.types import Epoch, Position
from support.archives import ArchiveScene, family
from support.fault_store import UNAVAILABLE, FaultStore, StoreFault, failing_store_calls, stale_listing
from support.log_scenes import flip


def catalog_of(scene: ArchiveScene) -> Catalog:
    return read_catalog(scene.store, scene.cluster_id)


def spans(catalog: Catalog) -> list[tuple[int, int]]:
    return [(run.begin.revision, run.end.revision) for run in catalog.runs]


def simple(segments: int = 4) -> ArchiveScene:
    scene = ArchiveScene()
    scene.begin()
    for _ in range(segments):
        scene.segment(1)
    return scene


def only_problem(scene: ArchiveScene, text: str) -> Catalog:
    """Return the catalog, whose first problem says this."""
    catalog = catalog_of(scene)
    assert text in catalog.problems[0], catalog.problems
    return catalog


def test_a_missing_record_leaves_a_hole_that_nothing_passes() -> None:
    scene = simple()
    scene.store.delete(scene.names.manifest(1, 1))
    catalog = only_problem(scene, f"{scene.names.manifest(1, 1)}: the record is missing")
    assert spans(catalog) == [(1, 2), (3, 5)]
    assert any("revisions 3 to 3 (epoch 1) is missing" in problem for problem in catalog.problems)
    scene.store.delete(scene.names.manifest(1, 2))
    assert "and those after it up to 00000002" in catalog_of(scene).problems[0]


def test_a_manifest_that_lies_about_the_record_before_it_passes_nothing_on() -> None:
    scene = simple()
    scene.rewrite(3, previous_sha256=bytes(32))
    catalog = only_problem(scene, "one of them was exchanged")
    assert spans(catalog) == [(1, 4), (4, 5)]  # nothing is missing, and yet nothing proves that it is one history


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"cluster_id": bytes(16)}, "it is of another cluster"),
        ({"epoch": Epoch(1, 5)}, "it is of another epoch than the records before it"),
        ({"epoch": Epoch(2, 5)}, "under another name"),
        ({"number": 2}, "under another name"),
        ({"branch": Position(Epoch(0, 0), 1, bytes(16))}, "it is of another epoch than the records before it"),
    ],
)
def test_a_record_that_belongs_elsewhere_is_not_used(changes: dict[str, Any], text: str) -> None:
    scene = simple()
    scene.rewrite(1, **changes)
    assert spans(only_problem(scene, text)) == [(1, 2), (3, 5)]


def test_a_duplicated_and_reordered_records_are_not_used() -> None:
    scene = simple()
    one, two = scene.names.manifest(1, 1), scene.names.manifest(1, 2)
    scene.objects[two] = scene.objects[one]
    assert spans(only_problem(scene, "under another name")) == [(1, 3), (4, 5)]
    scene = simple()
    scene.objects[one], scene.objects[two] = scene.objects[two], scene.objects[one]
    assert spans(only_problem(scene, "under another name")) == [(1, 2), (4, 5)]


def test_entries_that_are_out_of_order_or_repeated_pass_nothing_on() -> None:
    scene = simple()
    scene.rewrite(1, entries=[scene.entries[2]])
    catalog = only_problem(scene, "begins at")
    assert spans(catalog)[0] == (1, 2)
    scene = simple()
    scene.rewrite(1, entries=[scene.entries[0]])
    assert spans(only_problem(scene, "begins at")) == [(1, 2), (3, 5)]
    scene = simple()
    scene.rewrite(1, entries=[])
    assert spans(catalog_of(scene)) == [(1, 2), (3, 5)]


def test_an_entry_of_another_epoch_is_not_used() -> None:
    scene = simple()
    foreign = scene.entries[1]
    other = Epoch(1, 5)
    scene.rewrite(1, entries=[foreign._replace(start=foreign.start._replace(epoch=other), end=foreign.end._replace(epoch=other))])
    assert spans(only_problem(scene, "it lists a segment of epoch 1")) == [(1, 2), (3, 5)]


def test_what_follows_a_closing_is_not_used() -> None:
    scene = simple(3)
    scene.rewrite(1, closing=Closing(Epoch(2, 5), scene.entries[1].end))
    catalog = catalog_of(scene)
    assert any("follows the record that closes the manifest" in problem for problem in catalog.problems)
    assert spans(catalog) == [(1, 3)]


def test_two_nodes_with_one_number_are_found() -> None:
    scene = simple(2)
    scene.begin()
    scene.segment(1)
    scene.rewrite(0, epoch=Epoch(2, 99), entries=[])
    only_problem(scene, "two nodes have used one number")
    scene.begin(close=False)
    scene.segment(1)
    catalog = catalog_of(scene)
    assert sum("two nodes have used one number" in problem for problem in catalog.problems) == 2
    assert [leg.epoch.number for run in catalog.runs for leg in run.legs] == [3]


def test_a_closing_that_contradicts_the_next_epoch_is_a_fork() -> None:
    scene = simple(2)
    past = scene.entries[0].end
    scene.manifest.close(Epoch(2, 0), past)
    scene.begin(close=False)
    scene.segment(1)
    scene.rewrite(2, in_epoch=1, closing=Closing(scene.epoch, past))
    catalog = only_problem(scene, "history is forked: epoch 2 begins at")
    assert catalog.archived == scene.position


def test_an_epoch_whose_parent_is_not_older_ends_the_line() -> None:
    scene = simple(1)
    scene.begin(branch=scene.position._replace(epoch=Epoch(2, 5)), close=False)
    scene.segment(1)
    assert any("not older" in problem for problem in catalog_of(scene).problems)


def test_an_epoch_that_is_left_before_it_begins_ends_the_line() -> None:
    scene = simple(2)
    scene.begin()
    scene.segment(1)
    epoch = scene.epoch
    scene.begin(branch=scene.position._replace(revision=1), close=False)
    scene.segment(1)
    assert any(f"epoch {epoch.number} leaves it" in problem for problem in catalog_of(scene).problems)


def test_a_missing_epoch_parts_the_runs_and_is_named() -> None:
    scene = simple(2)
    scene.begin()
    scene.segment(1)
    scene.begin()
    scene.segment(1)
    for name in [name for name in scene.objects if name.startswith(scene.names.epoch_manifest(2))]:
        scene.store.delete(name)
    catalog = only_problem(scene, "the manifests before epoch 3 are missing")
    assert spans(catalog) == [(1, 3), (4, 5)]


def test_what_was_given_up_may_be_missing_and_nothing_above() -> None:
    scene = simple()
    for number in (0, 1):
        scene.store.delete(scene.names.manifest(1, number))
    assert len(catalog_of(scene).problems) == 2
    for floor, whole in ((3, False), (4, True), (5, True)):
        data = encode_retention(RetentionRecord(scene.cluster_id, floor, 0))
        scene.objects[scene.names.retention] = data
        catalog = catalog_of(scene)
        assert (catalog.problems == ()) is whole, floor
        assert spans(catalog) == [(3, 5)]
        assert catalog.floor == floor
    del scene.objects[scene.names.retention]
    assert read_catalog(scene.store, scene.cluster_id, floor=4).problems == ()


def test_records_of_another_cluster_are_not_used() -> None:
    scene = simple()
    backup = scene.backup()
    other = bytes(16)
    scene.objects[scene.names.backup(backup.id)] = encode_backup(backup._replace(cluster_id=other))
    scene.objects[scene.names.point("p")] = encode_point(PointRecord("p", other, 1, 1, "", 1))
    scene.objects[scene.names.retention] = encode_retention(RetentionRecord(other, 1000, 1))
    scene.objects[scene.names.cluster] = encode_cluster(ClusterRecord(other, b"", None, "", 1))
    catalog = catalog_of(scene)
    assert (catalog.backups, catalog.points, catalog.retention) == ((), (), None)
    assert [problem.partition(":")[0] for problem in catalog.problems] == [
        scene.names.cluster,
        scene.names.retention,
        scene.names.backup(backup.id),
        scene.names.point("p"),
    ]
    assert catalog.archived == scene.position


def test_a_record_under_another_ones_name_is_not_used() -> None:
    scene = simple()
    backup: BackupRecord = scene.backup()
    other = f"{backup.position.revision + 1:016x}-{backup.made_ms:016x}"
    scene.objects[scene.names.backup(other)] = encode_backup(backup)
    scene.objects[scene.names.backup(backup.id)] = encode_backup(backup._replace(position=scene.entries[0].end))
    scene.objects[scene.names.point("p")] = encode_point(PointRecord("q", scene.cluster_id, 1, 1, "", 1))
    catalog = catalog_of(scene)
    assert (catalog.backups, catalog.points) == ((), ())
    assert len(catalog.problems) == 3


def test_names_that_are_none_are_not_read() -> None:
    scene = simple()
    prefix = scene.names.prefix
    for name in ("manifest/00000001/0.json", "manifest/1/00000009.json", "backups/x.json", "manifest/00000001/00000009.json.tmp"):
        scene.objects[prefix + name] = b"nothing"
    assert catalog_of(scene).problems == ()


def test_more_records_than_are_read_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = simple()
    scene.backup()
    scene.backup()
    monkeypatch.setattr(catalog_reading, "MAX_BACKUPS", 1)
    with pytest.raises(Corruption, match="more than 1 records"):
        catalog_of(scene)


def test_a_listing_that_lags_behind_hides_no_segment() -> None:
    store = FaultStore(ArchiveScene().store)
    scene = ArchiveScene(store, bytes(range(16)))
    scene.begin()
    for _ in range(4):
        scene.segment(1)
    store.add(stale_listing(3, forever=True))
    assert catalog_of(scene).archived == scene.position


def test_a_store_that_fails_at_any_call_is_said_to_have_failed() -> None:
    scene = family(length=1)
    whole = catalog_of(scene)
    for store in failing_store_calls(lambda: scene.store, StoreFault(error=UNAVAILABLE)):
        try:
            catalog = read_catalog(store, scene.cluster_id)
        except StoreUnavailable:
            assert store.fired
        else:
            assert not store.fired
            assert catalog == whole


@pytest.mark.parametrize("seed", range(300))
def test_whatever_is_done_to_the_records_no_run_leads_anywhere_else(seed: int) -> None:
    """Damage of any kind may cost history; it never adds any, joins what does not belong together, or ends in a crash."""
    scene = family(length=2)
    scene.gap(1)
    scene.segment(2)
    chance = random.Random(seed)
    names = [name for name in scene.objects if "/log/" not in name and "/files/" not in name]
    for _ in range(chance.randint(1, 3)):
        name = chance.choice([one for one in names if one in scene.objects])
        data = scene.objects[name]
        match chance.randrange(4):
            case 0:
                scene.objects[name] = flip(data, chance.randrange(len(data)))
            case 1:
                scene.objects[name] = data[: chance.randrange(len(data))]
            case 2:
                del scene.objects[name]
            case 3:
                other = chance.choice([one for one in names if one in scene.objects])
                scene.objects[name], scene.objects[other] = scene.objects[other], data
    true = {(entry.start, entry.end) for entry in scene.entries}
    ends = {entry.end for entry in scene.entries} | {branch for _, branch in scene.epochs}
    ends |= {epoch_start(scene.cluster_id, *epoch) for epoch in scene.epochs}
    try:
        catalog = catalog_of(scene)
    except KvError:
        return
    for run in catalog.runs:
        at = run.begin
        for leg in run.legs:
            assert leg.begin == at
            for entry in leg.entries:
                assert (entry.start, entry.end) in true
                assert entry.start.revision == at.revision
                at = entry.end
            if not leg.entries:
                at = epoch_start(leg.cluster_id, leg.epoch, leg.branch)
            at = leg.upto if leg.upto is not None else at
        assert run.end == at
        assert run.end in ends
