"""The folders that a restore is given: begun before, in use, too small, or holding something."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from kvserver.archive.folder_store import FolderStore
from kvserver.archive.names import parse_segment
from kvserver.archive.plan import RestoreTarget, make_plan
from kvserver.archive.restore import restore
from kvserver.archive.store import StoreUnavailable
from kvserver.base.errors import Code, Corruption, InvalidRequest, KvError, OpenRefused, Refused
from kvserver.base.fs import OsFileSystem, read_file
from kvserver.base.limits import MIB
from kvserver.base.paths import DataPaths
from kvserver.base.record_file import decode_record, encode_record
from kvserver.commit.requests import CreateNamespace, Put, PutRun
from kvserver.storage.restore_record import read_restore_record
from support.archived_store import ArchivedStore, all_of, twin_options
from support.archives import ArchiveScene
from support.fault_store import FaultStore, StoreFault
from support.faultfs import Fault, FaultFileSystem, FaultPlan
from support.memory_store import MemoryStore

TARGET = Path("/restored/it")
PATHS = DataPaths(TARGET)


@pytest.fixture
def kept() -> ArchivedStore:
    """Revisions 2 to 9 in two epochs, a backup at 5, all of it archived."""
    kept = ArchivedStore()
    kept.group(Put(1, b"a", b"1"), Put(1, b"b", b"2"), Put(1, b"a", b"3"))
    kept.group(CreateNamespace("team"))
    kept.backup()
    kept.restart()
    kept.group(Put(1, b"a", b"4"), Put(2, b"t", b"5"))
    kept.seal()
    kept.group(PutRun(1, [b"c", b"d"], [b"6", b"7"]))
    kept.archive()
    return kept


def refusal(kept: ArchivedStore, target: Path = TARGET, revision: int | None = None, **options: Any) -> KvError:
    with pytest.raises(KvError) as refused:
        kept.restore(revision, target, **options)
    assert refused.value.hint
    return refused.value


# What was begun before


def interrupted(kept: ArchivedStore, at: int) -> None:
    """Restore to the newest revision, and let the store fail at the n-th segment."""
    store, plan = kept.store, kept.plan()
    where = {"calls": {"stream"}, "where": lambda name: parse_segment(name) is not None}
    kept.store = FaultStore(store, [StoreFault(at, **where)])  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailable):
        kept.restore(plan, TARGET, job_bytes=1)
    kept.store = store


def test_the_same_command_goes_on_where_it_was(kept: ArchivedStore) -> None:
    plan = kept.plan()
    interrupted(kept, 2)
    record = read_restore_record(kept.env, PATHS)
    assert record is not None
    assert (record.revision, record.base_done, record.target) == (9, True, str(TARGET))
    with pytest.raises(OpenRefused) as refused:
        kept.open_copy(TARGET)
    assert record.command in refused.value.hint
    done = kept.restore(plan, TARGET)
    assert 0 < done.raw_bytes < plan.raw_bytes
    assert all_of(kept.open_copy(TARGET)) == all_of(kept.database)


@pytest.mark.parametrize("target", [RestoreTarget(), RestoreTarget(revision=9)], ids=["latest", "its revision"])
def test_what_was_asked_for_alike_goes_on_though_the_archive_has_grown(kept: ArchivedStore, target: RestoreTarget) -> None:
    interrupted(kept, 2)
    kept.group(Put(1, b"later", b""))
    kept.backup()
    kept.archive()
    done = kept.restore(make_plan(kept.store, kept.cluster_id, target), TARGET)
    assert done.revision == 9
    assert kept.open_copy(TARGET).marks.visible == 9


def test_another_restore_in_the_folder_is_refused_with_the_command_of_the_first(kept: ArchivedStore) -> None:
    interrupted(kept, 1)
    before = kept.fs.contents()
    store = kept.store
    assert isinstance(store, MemoryStore)
    other = store.copy()
    other.url = "memory://elsewhere"
    for error in (refusal(kept, revision=4), refusal(kept, take_over=True)):
        assert (error.code, "another restore that did not end" in error.message) == (Code.TARGET_UNUSABLE, True)
        assert "kvctl restore --archive memory://archive --cluster" in error.hint
        assert "--to-revision 9 --target-dir /restored/it" in error.hint
    kept.store = other
    assert "from memory://archive" in refusal(kept).message
    kept.store = store
    assert kept.fs.contents() == before
    kept.restore(target=TARGET)


def test_a_plan_in_the_folder_that_does_not_check_is_corruption(kept: ArchivedStore) -> None:
    interrupted(kept, 1)
    fields = decode_record("x", read_file(kept.fs, PATHS.restore))
    for plan in ({}, {**fields["plan"], "legs": [{}]}, {**fields["plan"], "revision": -1}):
        kept.fs.plant(PATHS.restore, encode_record({**fields, "plan": plan}))
        with pytest.raises(Corruption) as refused:
            kept.restore(target=TARGET)
        assert (refused.value.path, "restore again" in refused.value.hint) == (PATHS.restore, True)


def test_a_whole_result_is_not_written_over(kept: ArchivedStore) -> None:
    kept.restore(target=TARGET)
    error = refusal(kept)
    assert "holds a whole copy of a store already" in error.message
    assert f"kvserver serve --data-dir {TARGET}" in error.hint
    kept.open_copy(TARGET).close()
    assert "holds a store already" in refusal(kept).message


# Folders


@pytest.mark.parametrize("name", ["notes.txt", "tables", "wal", "RESTORE.tmp2", ".hidden"])
def test_a_folder_that_holds_something_is_refused_and_left_alone(kept: ArchivedStore, name: str) -> None:
    kept.fs.plant(TARGET / name, b"years of work")
    before = kept.fs.contents()
    error = refusal(kept)
    assert (error.code, "not empty" in error.message, repr(name) in error.message) == (Code.TARGET_UNUSABLE, True, True)
    assert isinstance(error, InvalidRequest)
    assert kept.fs.contents() == before


@pytest.mark.parametrize("name", ["lost+found", "LOCK", "RESTORE.tmp"])
def test_what_a_new_disk_or_a_crash_leaves_is_nothing(kept: ArchivedStore, name: str) -> None:
    kept.fs.plant(TARGET / name, b"")
    kept.restore(target=TARGET)
    assert kept.open_copy(TARGET).marks.visible == 9


def test_folders_that_cannot_be_used_are_refused_by_name(kept: ArchivedStore) -> None:
    kept.fs.plant(Path("/file"), b"")
    for target, why in (
        (Path("relative"), "not an absolute path"),
        (Path("/file"), "is a file"),
        (Path("/file/below"), "is a file"),
        (Path("/nul\0byte"), "not an absolute path"),
    ):
        error = refusal(kept, target)
        assert (error.code, why in error.message) == (Code.TARGET_UNUSABLE, True), error.message


def test_a_folder_within_the_archive_is_refused(kept: ArchivedStore, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    (tmp_path / "link").symlink_to(archive)
    kept.store = FolderStore(OsFileSystem(), archive)
    store = MemoryStore(kept.store.url)
    for target in (archive, archive / "inside", tmp_path / "link" / "inside", tmp_path / "x" / ".." / "archive" / "y"):
        plan = _plan_of_nothing()
        with pytest.raises(InvalidRequest, match="within the archive"):
            restore(kept.env, store, plan, target, twin_options(kept.fs))
    assert list(archive.iterdir()) == []


def _plan_of_nothing() -> Any:
    scene = ArchiveScene()
    scene.begin()
    scene.segment(1)
    return make_plan(scene.store, scene.cluster_id, RestoreTarget())


def test_a_folder_in_use_is_refused(kept: ArchivedStore) -> None:
    kept.fs.make_dir(TARGET)
    lock = kept.fs.another_process().lock(PATHS.lock)
    error = refusal(kept)
    assert (error.code, "in use by another process" in error.message) == (Code.TARGET_UNUSABLE, True)
    lock.release()
    kept.restore(target=TARGET)


# Room


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(kept: ArchivedStore) -> None:
    kept.fs.free_space_bytes = 64 * MIB
    error = refusal(kept)
    assert isinstance(error, Refused)
    assert (error.code, "64 MiB free" in error.message) == (Code.DISK_FULL, True)
    assert kept.fs.list_dir(TARGET) == ["LOCK"]
    kept.restore(target=TARGET, check_space=False)


def test_a_disk_that_fills_up_is_named_and_the_same_command_goes_on(kept: ArchivedStore) -> None:
    for at in range(1, 200):
        target = Path(f"/full/{at}")
        disk = FaultFileSystem(kept.fs, FaultPlan([Fault(at, errno.ENOSPC, {"create", "pwrite"}, forever=True)]))
        try:
            kept.restore(target=target, fs=disk, job_bytes=1)
        except KvError as error:
            assert (error.code, "full" in error.message) == (Code.DISK_FULL, True), error
            assert "goes on where it was" in error.hint
            kept.restore(target=target)
        else:
            break
        assert all_of(kept.open_copy(target)) == all_of(kept.database)
    else:
        raise AssertionError("it never came through")
    assert at > 10
