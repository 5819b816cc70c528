"""Backups that are there: what verify finds of them, and what deleting one takes along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kvserver.archive.backup import delete_backup, read_backup, verify_backup
from kvserver.archive.backup_files import BackupProgress
from kvserver.archive.catalog import read_catalog
from kvserver.archive.file_sweep import announced_backup, sweep_files
from kvserver.archive.folder_store import FolderStore
from kvserver.archive.records import PointRecord, encode_point
from kvserver.base import failpoints
from kvserver.base.errors import Corruption, InvalidRequest, Refused
from kvserver.base.fs import OsFileSystem
from kvserver.commit.requests import Put
from support.archived_store import ArchivedStore, all_of
from support.backups import files, kill, objects, restored
from support.faultfs import ProcessKilled
from support.memory_store import MemoryStore

# Verify


def test_every_damage_of_a_file_is_found(kept: ArchivedStore) -> None:
    kept.backup()
    kept.group(Put(1, b"c", b"4"))
    record = kept.backup()
    progress: list[BackupProgress] = []
    assert verify_backup(kept.store, kept.cluster_id, record.id, progress.append) == []
    assert (progress[-1].files_done, progress[-1].bytes_done) == (2, record.length)
    name = kept.names.file(record.files[0].sha256)
    whole = objects(kept)[name]
    for spoilt in (whole[:-1], b"", whole + b"x", whole * 3, whole[:9] + bytes([whole[9] ^ 1]) + whole[10:]):
        objects(kept)[name] = spoilt
        (problem,) = verify_backup(kept.store, kept.cluster_id, record.id)
        assert problem.startswith(f"{name}: damaged")
    del objects(kept)[name]
    (problem,) = verify_backup(kept.store, kept.cluster_id, record.id)
    assert name in problem
    assert "missing" in problem


def test_a_file_is_never_read_beyond_its_length(kept: ArchivedStore) -> None:
    record = kept.backup()
    name = kept.names.file(record.files[0].sha256)
    objects(kept)[name] = bytes(50 << 20)
    pieces = 0

    class Counting(MemoryStore):
        def stream(self, name: str, offset: int = 0) -> Any:
            nonlocal pieces
            for piece in super().stream(name, offset):
                pieces += 1
                yield piece

    counting = Counting()
    counting.objects = objects(kept)
    assert verify_backup(counting, kept.cluster_id, record.id, workers=1)
    assert pieces == 1


@pytest.mark.parametrize("id", ["", "..", "../../etc/passwd", "0" * 33, "0" * 16 + "-" + "0" * 16, "x\0y"])
def test_what_is_no_backup_is_refused_by_name(kept: ArchivedStore, id: str) -> None:
    for ask in (
        lambda: read_backup(kept.store, kept.cluster_id, id),
        lambda: verify_backup(kept.store, kept.cluster_id, id),
        lambda: delete_backup(kept.env, kept.store, kept.cluster_id, id),
    ):
        with pytest.raises(InvalidRequest, match="holds no backup") as refused:
            ask()
        assert "kvctl backup list" in refused.value.hint


def test_a_record_under_another_name_is_damage(kept: ArchivedStore) -> None:
    record = kept.backup()
    other = f"{record.position.revision:016x}-{record.made_ms + 1:016x}"
    objects(kept)[kept.names.backup(other)] = objects(kept)[kept.names.backup(record.id)]
    with pytest.raises(Corruption, match="the record of the backup"):
        verify_backup(kept.store, kept.cluster_id, other)


# Delete


def test_deleting_takes_the_files_that_no_other_backup_names(kept: ArchivedStore) -> None:
    first = kept.backup()
    kept.group(Put(1, b"c", b"4"))
    second = kept.backup()
    swept = delete_backup(kept.env, kept.store, kept.cluster_id, second.id)
    own = {kept.names.file(file.sha256) for file in second.files} - {kept.names.file(file.sha256) for file in first.files}
    assert {info.name for info in swept.files} == own
    assert files(kept) == {kept.names.file(file.sha256) for file in first.files}
    assert verify_backup(kept.store, kept.cluster_id, first.id) == []


def test_a_crash_behind_the_record_leaves_files_that_the_next_sweep_removes(kept: ArchivedStore) -> None:
    first = kept.backup()
    kept.group(Put(1, b"c", b"4"))
    second = kept.backup()
    failpoints.arm("backup.delete.after_record", kill)
    with pytest.raises(ProcessKilled):
        delete_backup(kept.env, kept.store, kept.cluster_id, second.id)
    failpoints.disarm_all()
    assert [one.id for one in read_catalog(kept.store, kept.cluster_id).backups] == [first.id]
    assert len(files(kept)) == 2
    assert len(sweep_files(kept.env, kept.store, kept.names).files) == 1
    assert verify_backup(kept.store, kept.cluster_id, first.id) == []


def test_while_a_backup_is_made_no_file_is_removed_and_none_is_made_while_files_are(kept: ArchivedStore) -> None:
    first = kept.backup()
    kept.archive()
    with announced_backup(kept.env, kept.store, kept.names):
        swept = delete_backup(kept.env, kept.store, kept.cluster_id, first.id)
        assert (swept.files, "is being made" in swept.postponed) == ((), True)
        assert files(kept), "what was there is relied on"
    refused: list[Refused] = []

    def in_the_middle(info: object) -> None:
        with pytest.raises(Refused) as error:
            kept.backup()
        refused.append(error.value)

    assert sweep_files(kept.env, kept.store, kept.names, in_the_middle).files
    assert refused
    record = kept.backup()
    assert verify_backup(kept.store, kept.cluster_id, record.id) == []


def test_a_backup_that_a_point_needs_or_everything_is_not_deleted_unless_forced(kept: ArchivedStore) -> None:
    first = kept.backup()
    with pytest.raises(Refused, match="nothing could be restored without it") as refused:
        delete_backup(kept.env, kept.store, kept.cluster_id, first.id)
    assert "another backup first" in refused.value.hint
    kept.group(Put(1, b"c", b"4"))
    second = kept.backup()
    point = PointRecord("release", kept.cluster_id, first.position.revision, 0, "", 0)
    kept.store.create(kept.names.point("release"), [encode_point(point)])
    with pytest.raises(Refused, match="the point release"):
        delete_backup(kept.env, kept.store, kept.cluster_id, first.id)
    assert verify_backup(kept.store, kept.cluster_id, first.id) == []
    kept.archive()
    delete_backup(kept.env, kept.store, kept.cluster_id, first.id)  # now the log goes back to the creation
    delete_backup(kept.env, kept.store, kept.cluster_id, second.id, force=True)
    assert not files(kept)
    assert all_of(restored(kept)) == all_of(kept.database)


def test_backups_on_a_real_disk_are_durable_objects(tmp_path: Path) -> None:
    """The folder store's files are whole under their names only."""
    kept = ArchivedStore()
    kept.group(Put(1, b"a", b"1"))
    kept.store = FolderStore(OsFileSystem(), tmp_path / "archive")
    record = kept.backup()
    assert verify_backup(kept.store, kept.cluster_id, record.id) == []
