"""The drill: it says whether the archive leads back to what the node held, leaves nothing behind, and registers nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from kvserver.archive.drill import DrillReport, drill
from kvserver.archive.drill_main import DrillAsked, report_fields, report_of, start_drill
from kvserver.archive.folder_store import FolderStore
from kvserver.archive.hash_main import hash_fields, hash_folder, hash_of
from kvserver.archive.helper import Helper
from kvserver.archive.names import parse_segment
from kvserver.archive.records import ClusterRecord, encode_cluster
from kvserver.archive.restore import restore
from kvserver.base import failpoints
from kvserver.base.environment import Environment
from kvserver.base.errors import Code, Corruption, InvalidRequest, KvError, RevisionError
from kvserver.base.fs import OsFileSystem
from kvserver.commit.requests import CreateNamespace, Put
from kvserver.storage.content_hash import ContentHash, content_hash
from support.archived_store import ArchivedStore, twin_options
from support.faultfs import ProcessKilled
from support.memory_store import MemoryStore
from support.twin_tables import TwinTables

SCRATCH = Path("/data/scratch/drill")


@pytest.fixture
def kept() -> ArchivedStore:
    kept = ArchivedStore()
    kept.group(Put(1, b"a", b"1"), CreateNamespace("team"))
    kept.backup()
    kept.restart()
    kept.group(Put(1, b"a", b"2"), Put(1, b"b", b"3"))
    return kept


def carried_out(kept: ArchivedStore, expected: ContentHash, **options: Any) -> DrillReport:
    chosen = twin_options(kept.fs, **options)
    return drill(
        kept.env, kept.store, kept.cluster_id, expected, SCRATCH, chosen, open_reader=lambda path: TwinTables(kept.fs, path)
    )


def test_an_archive_that_leads_back_passes_and_nothing_is_left(kept: ArchivedStore) -> None:
    expected = kept.hash()
    kept.archive()
    store = kept.store
    assert isinstance(store, MemoryStore)
    before, objects = kept.fs.contents(), dict(store.objects)
    report = carried_out(kept, expected)
    assert report.ok
    assert (report.revision, report.found.sha256) == (expected.revision, expected.sha256)
    plan = kept.plan()
    assert (report.base_bytes, report.raw_bytes) == (plan.base_bytes, plan.raw_bytes)
    assert plan.base is not None
    assert report.base_id == plan.base.id
    assert "restored as it was" in report.what
    assert (kept.fs.contents(), store.objects) == (before, objects)
    assert not kept.fs.exists(SCRATCH)


def test_a_difference_is_reported_not_raised(kept: ArchivedStore) -> None:
    expected = kept.hash()
    kept.archive()
    for other in (expected._replace(sha256=bytes(32)), expected._replace(keys=expected.keys + 1)):
        report = carried_out(kept, other)
        assert not report.ok
        assert "is not what the node held" in report.what
        assert not kept.fs.exists(SCRATCH)


def test_it_is_of_the_revision_of_the_hash_though_the_archive_is_further(kept: ArchivedStore) -> None:
    expected = kept.hash()
    kept.group(Put(1, b"later", b""), Put(1, b"latest", b""))
    kept.archive()
    assert carried_out(kept, expected).ok


def test_what_cannot_be_restored_raises_and_leaves_nothing(kept: ArchivedStore) -> None:
    expected = kept.hash()
    with pytest.raises(RevisionError) as refused:
        carried_out(kept, expected)  # not archived yet
    assert refused.value.code is Code.NO_RESTORE_PLAN
    kept.archive()
    store = kept.store
    assert isinstance(store, MemoryStore)
    (name, *_) = [kept.names.segment(entry.id) for leg in kept.plan().legs for entry in leg.entries]
    assert parse_segment(name)
    store.objects[name] = store.objects[name][:-1]
    with pytest.raises(Corruption):
        carried_out(kept, expected)
    assert not kept.fs.exists(SCRATCH)


def test_a_folder_that_is_there_is_refused_and_not_removed(kept: ArchivedStore) -> None:
    expected = kept.hash()
    kept.archive()
    kept.fs.plant(SCRATCH / "thesis.tex", b"years of work")
    with pytest.raises(InvalidRequest, match="exists already"):
        carried_out(kept, expected)
    assert kept.fs.exists(SCRATCH / "thesis.tex")


def test_one_that_was_killed_leaves_a_folder_that_the_next_start_empties(kept: ArchivedStore) -> None:
    expected = kept.hash()
    kept.archive()

    process = kept.fs.another_process()
    env = dataclasses.replace(kept.env, fs=process)

    def end() -> None:
        process.kill(for_good=True)
        raise ProcessKilled

    failpoints.arm("restore.after_table", end)
    try:
        with pytest.raises(BaseException):  # noqa: B017 - the dead process cannot even clear away
            drill(env, kept.store, kept.cluster_id, expected, SCRATCH, twin_options(process))
    finally:
        failpoints.disarm_all()
    assert kept.fs.exists(SCRATCH)
    kept.restart()
    assert not kept.fs.exists(SCRATCH)


# Helper processes


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> tuple[ArchivedStore, ContentHash, Path]:
    """An archive in a folder of the machine, the hash of its newest revision, and a folder to work in."""
    root = tmp_path_factory.mktemp("real")
    kept = ArchivedStore()
    kept.store = FolderStore(OsFileSystem(), root / "archive")
    kept.store.create(kept.names.cluster, [encode_cluster(ClusterRecord(kept.cluster_id, b"", None, "n", 0))])
    for number in range(5):
        kept.group(*(Put(1, b"%d" % key, b"%d" % number) for key in range(100)))
        kept.restart()
    expected = kept.hash()
    kept.archive()
    return kept, expected, root


def test_a_helper_carries_a_drill_out_and_tells_how_far_it_is(real: tuple[ArchivedStore, ContentHash, Path]) -> None:
    kept, expected, root = real
    scratch = root / "scratch"
    helper = start_drill(DrillAsked(f"file://{root / 'archive'}", kept.cluster_id, expected, scratch))
    *told, last = helper.answers()
    assert told[0]["stage"] == "base"
    report = report_of(last["result"])
    assert report.ok, report.what
    assert report_of(report_fields(report)) == report
    assert not scratch.exists()
    wrong = DrillAsked(f"file://{root / 'archive'}", kept.cluster_id, expected._replace(keys=1), scratch)
    assert not report_of(start_drill(wrong).result()).ok


def test_a_helper_hashes_a_folder(real: tuple[ArchivedStore, ContentHash, Path]) -> None:
    kept, expected, root = real
    target = root / "restored"
    restore(Environment(), kept.store, kept.plan(), target, None)
    found = hash_folder(target)
    assert found == ContentHash(kept.plan().position, expected.sha256, expected.keys)
    assert hash_of(hash_fields(found)) == found
    empty = content_hash(TwinTables(ArchivedStore().fs, Path("/none")))
    assert hash_of(hash_fields(empty)) == empty


def test_what_a_helper_ends_with_is_raised_here(real: tuple[ArchivedStore, ContentHash, Path]) -> None:
    kept, expected, root = real
    with pytest.raises(KvError) as refused:
        hash_folder(root / "nothing")
    assert refused.value.code is Code.DISK_UNAVAILABLE
    scratch = root / "full"
    scratch.mkdir()
    (scratch / "file").touch()
    asked = DrillAsked(f"file://{root / 'archive'}", kept.cluster_id, expected, scratch)
    with pytest.raises(KvError) as refused:
        start_drill(asked).result()
    assert refused.value.code is Code.TARGET_UNUSABLE
    assert [path.name for path in scratch.iterdir()] == ["file"], "what somebody put there is not removed"
    helper = Helper("kvserver.archive.hash_main", [str(root)])
    helper.kill()
    with pytest.raises(KvError, match="ended by signal 9"):
        helper.result()
    with pytest.raises(KvError, match="ended with exit code 1"):
        Helper("kvserver.archive.no_such_module", []).result()
