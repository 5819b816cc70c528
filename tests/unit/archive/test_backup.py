"""Base backups: what is in one, what is sent, what crashes and bad stores leave, what verify finds, what deleting takes along."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvserver.archive.backup import create_backup, read_backup, verify_backup
from kvserver.archive.backup_files import BackupProgress
from kvserver.archive.catalog import read_catalog
from kvserver.archive.file_sweep import UPLOAD_MS, sweep_files
from kvserver.archive.folder_store import FolderStore
from kvserver.archive.names import ArchiveNames, parse_file, parse_upload
from kvserver.archive.plan import RestoreTarget, make_plan
from kvserver.archive.restore import restore
from kvserver.archive.store import ObjectExists, StoreError
from kvserver.base import failpoints
from kvserver.base.environment import Environment
from kvserver.base.errors import Code, Corruption, InvalidRequest
from kvserver.base.fs import File, read_file
from kvserver.base.paths import DataPaths
from kvserver.commit.requests import CompactHistory, Put
from kvserver.storage.content_hash import content_hash
from kvserver.storage.origin import Origin, write_origin
from kvserver.storage.rocks import RocksTables, open_reader
from kvserver.storage.rows import FLUSHED_KEY, Flushed, data_key, encode_flushed, encode_version
from support.archived_store import ArchivedStore, all_of
from support.backups import files, kill, objects, restored
from support.fault_store import FaultStore, StoreFault, ambiguous, failing_store_calls, partial_upload
from support.faultfs import ProcessKilled
from support.memfs import MemoryFile, MemoryFileSystem
from support.memory_store import MemoryStore
from support.twin_tables import TwinTables

# What is in one


def test_a_backup_says_what_it_is_of(kept: ArchivedStore) -> None:
    kept.group(CompactHistory(3))
    kept.restart()
    kept.group(Put(1, b"c", b"4"))
    record = kept.backup()
    position = kept.database.flusher.position
    assert (record.cluster_id, record.owner_id, record.position) == (kept.cluster_id, kept.cluster_id, position)
    assert record.id == f"{position.revision:016x}-{kept.clock.now_ms():016x}"
    assert (record.oldest_readable_revision, record.node_name, record.made_ms) == (3, "tester", kept.clock.now_ms())
    assert [epoch.number for epoch, _ in record.epochs] == [1, 2]
    assert record.time_ms == kept.clock.now_ms(), "the flush that made it the newest was a moment ago"
    assert record.length == sum(len(objects(kept)[kept.names.file(file.sha256)]) for file in record.files)
    assert read_backup(kept.store, kept.cluster_id, record.id) == record
    assert read_catalog(kept.store, kept.cluster_id).backups == (record,)


def test_of_equal_files_there_is_one_and_it_is_sent_once(kept: ArchivedStore) -> None:
    first: list[BackupProgress] = []
    kept.backup(progress=first.append)
    assert first[0] == BackupProgress(1, 0, first[-1].total_bytes, 0, 0)
    assert (first[-1].files_done, first[-1].bytes_done) == (1, first[-1].total_bytes)
    assert first[-1].sent_bytes == first[-1].total_bytes
    kept.group(Put(1, b"c", b"4"))
    second: list[BackupProgress] = []
    record = kept.backup(progress=second.append)
    last = second[-1]
    assert (last.files, last.files_done, last.bytes_done) == (2, 2, last.total_bytes)
    assert last.sent_bytes == last.total_bytes - first[-1].total_bytes
    assert len(files(kept)) == 2
    assert kept.backup().files == record.files, "nothing was written meanwhile"


def test_a_backup_of_a_store_that_never_held_anything_can_be_restored() -> None:
    kept = ArchivedStore()
    record = kept.backup()
    assert (record.position.revision, record.time_ms, record.files) == (1, 0, [])


def test_the_backup_of_a_fork_that_was_not_written_to_names_its_parent_as_owner(kept: ArchivedStore) -> None:
    kept.archive()
    kept.restore(target=Path("/fork"))
    kept.database.close()
    fork = ArchivedStore(kept.fs, kept.store, DataPaths(Path("/fork")), seed=50)
    record = fork.backup()
    assert (record.cluster_id, record.owner_id) == (fork.cluster_id, kept.cluster_id)
    copy = restored(fork, "/fork of the fork")
    assert all_of(copy) == all_of(fork.database)
    fork.group(Put(1, b"mine", b""))
    assert fork.backup().owner_id == fork.cluster_id


@pytest.mark.parametrize("workers", [1, 3])
def test_real_tables_are_backed_up_without_what_rocksdb_makes_for_itself(tmp_path: Path, workers: int) -> None:
    env, names = Environment(), ArchiveNames(b"c" * 16)
    store = FolderStore(env.fs, tmp_path / "archive")
    kept = ArchivedStore()
    position = kept.backup().position
    tables = RocksTables.open(tmp_path / "tables", 1 << 20)
    sent = []
    for number in range(3):
        writer = tables.new_table(tmp_path / "new.sst")
        for key in range(200):
            writer.put(data_key(1, b"%d-%03d" % (number, key)), encode_version(2, 2, 1, b"x" * 500))
        writer.put(FLUSHED_KEY, encode_flushed(Flushed(b"c" * 16, position, 7, 4)))
        writer.finish()
        tables.ingest(tmp_path / "new.sst")
        checkpoint = DataPaths(tmp_path / f"copy{number}")
        env.fs.make_dir(checkpoint.root)
        tables.checkpoint(checkpoint.tables)
        write_origin(env, checkpoint, Origin(b"c" * 16, "n", position, [], 0))
        (checkpoint.tables / "LOG").write_bytes(b"noise")
        (checkpoint.tables / "LOCK").write_bytes(b"")
        progress: list[BackupProgress] = []
        record = create_backup(env, store, checkpoint.root, names.cluster_id, progress.append, workers)
        sent.append(progress[-1].sent_bytes)
        assert {file.path for file in record.files} >= {"CURRENT"}
        assert not [file.path for file in record.files if file.path.startswith("LO")]
    tables.close()
    assert sent[2] < record.length / 2, "the tables of the first two were there"
    assert verify_backup(store, names.cluster_id, record.id) == []
    plan = make_plan(store, names.cluster_id, RestoreTarget())
    target = tmp_path / "restored"
    done = restore(env, store, plan, target)
    assert (done.position, done.tables) == (position, 0)
    reader = open_reader(DataPaths(target).tables, 1 << 20)
    assert content_hash(reader).keys == 600
    reader.close()


# What is no checkpoint


def test_what_is_no_checkpoint_is_refused(kept: ArchivedStore) -> None:
    with pytest.raises(InvalidRequest, match="is no checkpoint") as refused:
        create_backup(kept.env, kept.store, Path("/nothing"), kept.cluster_id)
    assert refused.value.code is Code.TARGET_UNUSABLE
    monday = DataPaths(kept.checkpoint())
    kept.group(Put(1, b"z", b""))
    tuesday = DataPaths(kept.checkpoint())
    kept.fs.plant(monday.origin, read_file(kept.fs, tuesday.origin))
    with pytest.raises(Corruption, match="of another moment"):
        create_backup(kept.env, kept.store, monday.root, kept.cluster_id, open_tables=lambda path: TwinTables(kept.fs, path))
    assert objects(kept).keys() == {kept.names.cluster}


class TurnedFile(MemoryFile):
    """A file whose bytes are others when they are read again."""

    reads = 0

    def pread(self, length: int, offset: int) -> bytes:
        data = super().pread(length, offset)
        TurnedFile.reads += bool(data)
        return bytes(reversed(data)) if TurnedFile.reads > 1 else data


def test_a_file_that_reads_differently_the_second_time_is_not_kept_under_a_wrong_name(kept: ArchivedStore) -> None:
    folder = kept.checkpoint()

    class Turning(MemoryFileSystem):
        def open(self, path: Path, writable: bool = False) -> File:
            file = super().open(path, writable)
            if path.parent == DataPaths(folder).tables:
                file.__class__ = TurnedFile
            return file

    turning = Turning()
    turning._world = kept.fs._world
    TurnedFile.reads = 0
    env = dataclasses.replace(kept.env, fs=turning)
    with pytest.raises(Corruption, match="different bytes"):
        create_backup(env, kept.store, folder, kept.cluster_id, open_tables=lambda path: TwinTables(kept.fs, path))
    assert not files(kept)


def test_a_file_of_another_length_in_the_archive_is_damage(kept: ArchivedStore) -> None:
    record = kept.backup()
    name = kept.names.file(record.files[0].sha256)
    objects(kept)[name] += b"x"
    with pytest.raises(Corruption, match=rf"has {record.files[0].length + 1} bytes") as found:
        kept.backup()
    assert found.value.path == name


# Crashes, and stores that fail


@pytest.mark.parametrize("name", ["backup.after_checkpoint", "backup.after_files", "backup.after_record"])
def test_a_crash_leaves_no_half_backup_and_the_next_one_uses_what_was_sent(kept: ArchivedStore, name: str) -> None:
    failpoints.arm(name, kill)
    with pytest.raises(ProcessKilled):
        kept.backup()
    failpoints.disarm_all()
    catalog = read_catalog(kept.store, kept.cluster_id)
    assert len(catalog.backups) == (name == "backup.after_record")
    assert not catalog.problems
    progress: list[BackupProgress] = []
    kept.backup(progress=progress.append)
    assert bool(progress[-1].sent_bytes) == (name == "backup.after_checkpoint")
    assert all_of(restored(kept)) == all_of(kept.database)


@pytest.mark.parametrize(
    "fault", [StoreFault(), StoreFault(performed=True), StoreFault(kills=True)], ids=["fails", "performed", "killed"]
)
def test_a_store_that_fails_at_any_call_leaves_a_backup_or_none(fault: StoreFault) -> None:
    kept = ArchivedStore()
    kept.group(Put(1, b"a", b"1"), Put(1, b"b", b"2"))
    checkpoint, inner = kept.checkpoint(), kept.store
    assert isinstance(inner, MemoryStore)
    made = failed = 0
    for store in failing_store_calls(inner.copy, fault):
        kept.clock.advance_ms(1)
        tables: dict[str, Any] = {"open_tables": lambda path: TwinTables(kept.fs, path), "workers": 1}
        try:
            create_backup(kept.env, store, checkpoint, kept.cluster_id, **tables)
            made += 1
        except (StoreError, ProcessKilled):
            failed += 1
        store.heal()
        store.dead = False
        kept.store = store.inner
        kept.clock.advance_ms(UPLOAD_MS)
        listed = [backup.id for backup in read_catalog(kept.store, kept.cluster_id).backups]
        for id in listed:
            assert verify_backup(kept.store, kept.cluster_id, id, workers=1) == []
        kept.clock.advance_ms(1)
        create_backup(kept.env, kept.store, checkpoint, kept.cluster_id, **tables)
        assert not sweep_files(kept.env, kept.store, kept.names).postponed
        assert not [name for name in objects(kept) if parse_upload(name)], "what a crash announced does not stay for ever"
    assert failed > 2
    assert made


def test_an_answer_that_was_lost_is_settled_by_reading_back(kept: ArchivedStore) -> None:
    inner = kept.store
    of_record: Callable[[str], bool] = lambda name: name.startswith(kept.names.backups)  # noqa: E731
    kept.store = FaultStore(inner, [dataclasses.replace(ambiguous(True, calls={"create"}), where=of_record)])
    record = kept.backup()
    assert read_backup(inner, kept.cluster_id, record.id) == record
    kept.store = FaultStore(inner, [dataclasses.replace(ambiguous(False, calls={"create"}), where=of_record)])
    with pytest.raises(StoreError):
        kept.backup()
    assert len(read_catalog(inner, kept.cluster_id).backups) == 1


def test_an_upload_that_breaks_off_is_no_file(kept: ArchivedStore) -> None:
    kept.store = FaultStore(kept.store, [dataclasses.replace(partial_upload(1), where=lambda name: bool(parse_file(name)))])
    with pytest.raises(StoreError):
        kept.backup()
    assert not files(kept)


def test_a_record_that_is_another_backups_is_not_written_over(kept: ArchivedStore) -> None:
    record = kept.backup()
    kept.clock.jump_wall_ms(-1)
    name = kept.names.backup(record.id)
    objects(kept)[name] += b" "
    with pytest.raises(ObjectExists):
        kept.backup()


@pytest.mark.parametrize("workers", [1, 3])
def test_what_the_listener_raises_ends_it(kept: ArchivedStore, workers: int) -> None:
    class HungUp(Exception):
        pass

    def hang_up(progress: BackupProgress) -> None:
        if progress.bytes_done:
            raise HungUp

    with pytest.raises(HungUp):
        kept.backup(progress=hang_up, workers=workers)
    assert not read_catalog(kept.store, kept.cluster_id).backups
    assert not [name for name in objects(kept) if parse_upload(name)]
