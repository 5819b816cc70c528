"""Base backups: a checkpoint of the store, put into its archive. A restore begins with one, and adds the log behind it.

    1  checkpoint   the engine's: hard links to tables that nobody changes, and where in history they stand
    2  announce     so that no file is removed meanwhile that the backup relies on (``file_sweep``)
    3  files        each is an object named by the hash of its bytes; one that the archive holds already is not sent again
    4  record       last of all: without it there is no backup, and files that nobody names are removed one day

A crash before 4 leaves files that the next backup finds. Deleting goes the other way: the record first, then files that no other
backup names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from kvserver.archive.backup_files import BackupProgress, OnProgress, Upload, check_file, files_of
from kvserver.archive.catalog import Catalog, read_catalog, without
from kvserver.archive.errors import damaged
from kvserver.archive.file_sweep import Sweep, announced_backup, sweep_files
from kvserver.archive.names import ArchiveNames, backup_id
from kvserver.archive.ordered_pool import in_order
from kvserver.archive.plan import possible_spans
from kvserver.archive.records import MAX_RECORD_BYTES, BackupFile, BackupRecord, decode_backup, encode_backup
from kvserver.archive.retention_plan import lost_without
from kvserver.archive.store import ObjectExists, ObjectInfo, ObjectMissing, Store, StoreUnavailable
from kvserver.base import failpoints
from kvserver.base.environment import Environment
from kvserver.base.errors import Code, Corruption, InvalidRequest, KvError, Refused
from kvserver.base.limits import MIB
from kvserver.base.paths import DataPaths
from kvserver.commit.state import CATALOGUE_SPAN, State
from kvserver.storage.origin import Origin, read_origin
from kvserver.storage.rows import FLUSHED_KEY, decode_flushed
from kvserver.storage.tables import TableReader

WORKERS = 4
"""So many files are sent at once."""

OpenTables = Callable[[Path], TableReader]

_CACHE_BYTES = 1 * MIB
_ALL = 1 << 31


class _Facts(NamedTuple):
    """What the tables of a checkpoint say of themselves."""

    time_ms: int
    oldest_readable_revision: int


def create_backup(
    env: Environment,
    store: Store,
    checkpoint: Path,
    cluster_id: bytes,
    progress: OnProgress = lambda progress: None,
    workers: int = WORKERS,
    open_tables: OpenTables | None = None,
) -> BackupRecord:
    """Put a checkpoint, which nobody changes or removes meanwhile, into the archive of a cluster; return its record.

    Blocks. What ``progress`` raises ends it, and then there is no backup. Raises InvalidRequest where the folder is no
    checkpoint, Refused while files are removed from the archive, Corruption, StoreError, OSError.
    """
    paths, names = DataPaths(checkpoint), ArchiveNames(cluster_id)
    origin = read_origin(env, paths)
    if origin is None:
        raise InvalidRequest(Code.TARGET_UNUSABLE, f"{checkpoint} is no checkpoint", "make one with: kvctl checkpoint DIR")
    facts = _facts(paths, origin, open_tables or _open_rocks)
    failpoints.hit("backup.after_checkpoint")
    with announced_backup(env, store, names):
        files = Upload(env.fs, store, names, progress).send(files_of(env.fs, paths.tables), workers)
        failpoints.hit("backup.after_files")
        made_ms = env.clock.now_ms()
        record = BackupRecord(
            id=backup_id(origin.position.revision, made_ms),
            cluster_id=cluster_id,
            owner_id=origin.cluster_id,
            position=origin.position,
            time_ms=facts.time_ms,
            epochs=origin.epochs,
            oldest_readable_revision=facts.oldest_readable_revision,
            files=files,
            node_name=origin.node_name,
            made_ms=made_ms,
        )
        _write_record(store, names, record)
    failpoints.hit("backup.after_record")
    return record


def read_backup(store: Store, cluster_id: bytes, id: str) -> BackupRecord:
    """Return the record of a backup. Raises InvalidRequest where there is none, Corruption, StoreError."""
    names = ArchiveNames(cluster_id)
    try:
        name = names.backup(id)
        record = decode_backup(name, store.read(name, limit=MAX_RECORD_BYTES))
    except ObjectMissing:
        raise _unknown(id, store) from None
    except ValueError as error:
        raise _unknown(id, store) from error
    if record.id != id or record.cluster_id != cluster_id:
        raise damaged(name, 0, f"it is the record of the backup {record.id} of cluster {record.cluster_id.hex()}")
    return record


def verify_backup(
    store: Store,
    cluster_id: bytes,
    id: str,
    progress: OnProgress = lambda progress: None,
    workers: int = WORKERS,
) -> list[str]:
    """Read every byte of a backup; return what is wrong with it, a sentence for each damaged file.

    Raises InvalidRequest where there is no such backup, Corruption where its record does not check, StoreError.
    """
    record, names = read_backup(store, cluster_id, id), ArchiveNames(cluster_id)
    so_far = BackupProgress(len(record.files), 0, record.length, 0, 0)
    progress(so_far)

    def problem_of(file: BackupFile) -> tuple[BackupFile, str]:
        try:
            check_file(store, names, file, lambda length: None)
        except (Corruption, ObjectMissing) as error:
            return file, error.message
        return file, ""

    problems = []
    for file, problem in in_order(problem_of, record.files, workers):
        so_far = so_far._replace(files_done=so_far.files_done + 1, bytes_done=so_far.bytes_done + file.length)
        progress(so_far)
        if problem:
            problems.append(problem)
    return problems


def delete_backup(
    env: Environment,
    store: Store,
    cluster_id: bytes,
    id: str,
    force: bool = False,
    on_removed: Callable[[ObjectInfo], None] = lambda info: None,
) -> Sweep:
    """Delete a backup: its record, then the files that no other backup names; return those.

    Unless forced, refused (Refused) where a named point, a fork, or everything could not be restored any more without it. Raises
    InvalidRequest where there is no such backup, Corruption, StoreError. A crash in the middle leaves files that the next sweep
    removes.
    """
    names = ArchiveNames(cluster_id)
    catalog = read_catalog(store, cluster_id)
    if all(backup.id != id for backup in catalog.backups):
        read_backup(store, cluster_id, id)  # says that there is none, or that its record is damaged
    if not force:
        _require_not_needed(store, catalog, id)
    store.delete(names.backup(id))
    failpoints.hit("backup.delete.after_record")
    return sweep_files(env, store, names, on_removed)


def _require_not_needed(store: Store, catalog: Catalog, id: str) -> None:
    """Raise Refused where what was promised, or everything, cannot be restored without a backup."""
    lost = lost_without(store, catalog, id)
    if lost:
        what = f"the {lost[0].what.removeprefix('the ')} (revision {lost[0].revision}) could not be restored without it"
    elif possible_spans(catalog) and not possible_spans(without(catalog, catalog.cluster_id, (), (id,))):
        what = "nothing could be restored without it"
    else:
        return
    hint = "make another backup first, of the fork where it is one that needs it, or delete the point; or insist with --force"
    raise Refused(Code.NO_RESTORE_PLAN, f"the backup {id} was not deleted: {what}", hint)


def _facts(paths: DataPaths, origin: Origin, open_tables: OpenTables) -> _Facts:
    """Read what the tables say, and check that they are those that the checkpoint's record speaks of. Raises Corruption."""
    with contextlib.closing(open_tables(paths.tables)) as tables:
        (mark,) = tables.get_many([FLUSHED_KEY])
        state = State()
        state.load(tables.rows(*CATALOGUE_SPAN, limit=_ALL))
    if mark is None:
        return _Facts(0, state.oldest_readable(origin.position.revision))
    try:
        flushed = decode_flushed(mark)
    except ValueError as error:
        raise Corruption(paths.tables, 0, str(error)) from error
    if (flushed.cluster_id, flushed.position) != (origin.cluster_id, origin.position):
        raise Corruption(
            paths.tables, 0, "the tables are of another moment than the checkpoint's record", "make another checkpoint"
        )
    return _Facts(flushed.time_ms, state.oldest_readable(origin.position.revision))


def _open_rocks(path: Path) -> TableReader:
    from kvserver.storage.rocks import open_reader

    return open_reader(path, _CACHE_BYTES)


def _write_record(store: Store, names: ArchiveNames, record: BackupRecord) -> None:
    """Create the record. An answer that was lost on the way is settled by reading back. Raises StoreError."""
    name, data = names.backup(record.id), encode_backup(record)
    try:
        store.create(name, [data])
    except (ObjectExists, StoreUnavailable) as error:
        try:
            found = store.read(name, limit=MAX_RECORD_BYTES)
        except (ObjectMissing, ValueError):
            raise error from None
        if found != data:
            raise


def _unknown(id: str, store: Store) -> KvError:
    return InvalidRequest(
        Code.INVALID_FIELD, f"the archive {store.url} holds no backup {id[:64]!r}", "list them with: kvctl backup list"
    )
