"""Removes files of backups that no backup names any more, out of the way of backups that are being made.

A backup's files are there before its record is, and of equal files there is one: while a backup is being made, files that no
record names may be what it has just sent, or what it has found there and relies on. Nothing tells how old an object is. So both
sides announce themselves first, and look for the other one after that:

    a backup     1  creates ``uploads/<id>``          a sweep     1  writes itself into ``RETENTION``
                 2  refuses if a sweep is under way               2  removes nothing if a backup is announced
                 3  sends files, writes the record                3  reads which files are named, removes the others
                 4  removes ``uploads/<id>``                      4  takes itself out of ``RETENTION``

Whichever came second sees the first one, so the steps 3 never run at the same time. What a crash leaves behind counts for a
while only: an announced backup for ``UPLOAD_MS``, a sweep for ``SWEEP_MS`` since it last wrote itself down, which it does before
the first file, and again every few files or minutes; after that whoever comes takes its place, and a sweep that finds itself
replaced stops.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

from kvserver.archive.catalog_reading import read_backups
from kvserver.archive.names import ArchiveNames, backup_id, parse_file, parse_upload
from kvserver.archive.records import RetentionRecord
from kvserver.archive.retention_record import change_retention, read_retention
from kvserver.archive.store import ObjectInfo, Store, StoreError
from kvserver.base.environment import Environment
from kvserver.base.errors import Code, Refused

_HOUR_MS = 3_600_000

UPLOAD_MS = 7 * 24 * _HOUR_MS
"""A backup that is announced for longer has failed."""

SWEEP_MS = 1 * _HOUR_MS
"""A sweep that has said nothing for longer has failed."""

_BATCH = 32
_SILENT_MS = 60_000
"""So many files are removed, in so long, before a sweep looks again whether it still may: a store may answer very late."""


class Sweep(NamedTuple):
    """What a sweep removed, or would remove."""

    files: tuple[ObjectInfo, ...]
    postponed: str = ""
    """Why nothing was removed though there may be something; the next one will see to it."""

    @property
    def length(self) -> int:
        """Return the bytes of the files."""
        return sum(file.length for file in self.files)


@contextlib.contextmanager
def announced_backup(env: Environment, store: Store, names: ArchiveNames) -> Iterator[None]:
    """Keep sweeps away while a backup is being made, from before its first file is looked for until its record is there.

    Raises Refused where a sweep is under way, Corruption, StoreError.
    """
    now_ms = env.clock.now_ms()
    name = names.upload(backup_id(env.random_id(), now_ms))
    store.create(name, [b"a backup is being made\n"])
    try:
        _replace_failed_sweep(store, names, now_ms)
        yield
    finally:
        with contextlib.suppress(StoreError):  # it counts for a while, and no longer
            store.delete(name)


def unnamed_files(store: Store, names: ArchiveNames, without: frozenset[str] = frozenset()) -> Sweep:
    """Return the files that no backup names, but for those of the ids in ``without``; removes nothing. Raises StoreError."""
    backups, problems = read_backups(store, names)
    if problems:
        return Sweep((), f"a record that cannot be read may name any file: {problems[0]}")
    named = {names.file(file.sha256) for backup in backups if backup.id not in without for file in backup.files}
    listed = (info for info in store.list(names.files) if parse_file(info.name) is not None)
    return Sweep(tuple(info for info in listed if info.name.startswith(names.files) and info.name not in named))


def sweep_files(
    env: Environment, store: Store, names: ArchiveNames, on_removed: Callable[[ObjectInfo], None] = lambda info: None
) -> Sweep:
    """Remove the files that no backup names; nothing, if a backup is being made. Raises Corruption, StoreError.

    A crash in the middle leaves files that the next one removes.
    """
    token = f"{env.random_id():016x}"

    def begin(record: RetentionRecord) -> RetentionRecord:
        if record.sweep not in ("", token) and env.clock.now_ms() - record.sweep_ms < SWEEP_MS:
            raise _Busy
        return record._replace(sweep=token, sweep_ms=env.clock.now_ms())

    def go_on(record: RetentionRecord) -> RetentionRecord:
        if record.sweep != token:
            raise _Busy
        return record._replace(sweep_ms=env.clock.now_ms())

    def end(record: RetentionRecord) -> RetentionRecord:
        return record._replace(sweep="", sweep_ms=0) if record.sweep == token else record

    removed: list[ObjectInfo] = []
    try:
        change_retention(store, names, begin)
        if backups := _announced(env, store, names):
            return Sweep((), f"{backups} backup{'s are' if backups > 1 else ' is'} being made")
        unnamed = unnamed_files(store, names)
        heard_ms = 0
        for index, info in enumerate(unnamed.files):
            if index % _BATCH == 0 or env.clock.now_ms() - heard_ms > _SILENT_MS:
                heard_ms = env.clock.now_ms()
                change_retention(store, names, go_on)
            store.delete(info.name)
            removed.append(info)
            on_removed(info)
        return unnamed
    except _Busy:
        return Sweep(tuple(removed), "files are being removed by another process")
    finally:
        with contextlib.suppress(StoreError):  # counts for a while, and no longer
            change_retention(store, names, end)


class _Busy(Exception):
    pass


def _announced(env: Environment, store: Store, names: ArchiveNames) -> int:
    """Return how many backups are being made; what failed ones have left behind is removed."""
    count = 0
    for info in list(store.list(names.uploads)):
        upload = parse_upload(info.name)
        if upload is None or info.name != names.upload(upload):
            continue
        if env.clock.now_ms() - int(upload.partition("-")[2], 16) < UPLOAD_MS:
            count += 1
        else:
            store.delete(info.name)
    return count


def _replace_failed_sweep(store: Store, names: ArchiveNames, now_ms: int) -> None:
    """Take a sweep that has failed out of the record. Raises Refused where one is under way."""
    record = read_retention(store, names)
    if record is None or not record.sweep:
        return
    if now_ms - record.sweep_ms < SWEEP_MS:
        raise Refused(
            Code.ARCHIVE_UNAVAILABLE,
            "files that no backup names are being removed from the archive at this moment",
            "make the backup when that has ended; what a crash has left behind counts for an hour",
        )
    failed = record.sweep
    change_retention(store, names, lambda now: now._replace(sweep="", sweep_ms=0) if now.sweep == failed else now)
