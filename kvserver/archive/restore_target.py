"""The folder that a restore makes: whether it may be used, whether there is room, and what was begun in it before."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from kvserver.base.environment import Environment
from kvserver.base.errors import Code, InvalidRequest, KvError, Refused
from kvserver.base.limits import MIB
from kvserver.base.paths import DataPaths
from kvserver.storage.restore_record import RestoreRecord

_ANOTHER = "name a folder that does not exist yet with --target-dir"
_SPARE_BYTES = 64 * MIB
"""Beside what the tables and the log take: lists of tables, filters, a table being merged."""


@contextlib.contextmanager
def target_folder(env: Environment, store_url: str, target: Path) -> Iterator[DataPaths]:
    """Make the folder and hold its lock while the block runs. What the disk refuses in the block is said by name.

    Raises InvalidRequest (TARGET_UNUSABLE) for a folder that cannot be used, before anything in it is touched.
    """
    if not target.is_absolute() or "\0" in str(target):
        raise unusable(target, "is not an absolute path")
    _check_apart(store_url, target)
    paths = DataPaths(target)
    try:
        _make(env, target)
        _check_content(env, paths)
        try:
            lock = env.fs.lock(paths.lock)
        except BlockingIOError:
            raise unusable(target, "is in use by another process", "wait for the other one to end, or end it") from None
        try:
            _check_content(env, paths)
            yield paths
        finally:
            lock.release()
    except OSError as error:
        raise refused(target, error) from error


def require_same(paths: DataPaths, found: RestoreRecord, wanted: RestoreRecord, asked_alike: bool) -> None:
    """Raise InvalidRequest unless what was begun in the folder is what is wanted now: of one revision, or asked for alike."""
    same = (found.archive_url, found.cluster_id, found.take_over) == (wanted.archive_url, wanted.cluster_id, wanted.take_over)
    if same and (found.revision == wanted.revision or asked_alike):
        return
    how = ", to take it over," if found.take_over else ""
    what = f"holds another restore that did not end: cluster {found.cluster_id.hex()}{how} to revision {found.revision}"
    hint = f"go on with that: {found.command}; or name another folder"
    raise unusable(paths.root, f"{what} from {found.archive_url}", hint)


def room_bytes(base_bytes: int, raw_bytes: int, ahead_bytes: int) -> int:
    """Return the most room that a restore may take while it runs; often it is far less, but only the end of it tells."""
    return base_bytes + raw_bytes + min(ahead_bytes, raw_bytes) + _SPARE_BYTES


def require_space(env: Environment, target: Path, needed_bytes: int) -> None:
    """Raise Refused (DISK_FULL) unless so many bytes can be written below the folder."""
    free_bytes = env.fs.free_bytes(target)
    if free_bytes < needed_bytes:
        raise Refused(
            Code.DISK_FULL,
            f"the disk of {target} has {free_bytes // MIB:,} MiB free; the restore may need {needed_bytes // MIB:,} MiB",
            "free space, or name a folder on a larger disk; it may need less: try with --no-space-check",
        )


def unusable(target: Path, why: str, hint: str = _ANOTHER) -> InvalidRequest:
    """Return the error that nothing can be restored into a folder."""
    return InvalidRequest(Code.TARGET_UNUSABLE, f"nothing can be restored into {target}: it {why}", hint)


def refused(target: Path, error: OSError) -> KvError:
    """Return the error that the disk refuses."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "free space and run the same command again: it goes on where it was"
        return Refused(Code.DISK_FULL, f"the disk of {target} is full", hint)
    where = f" ({error.filename})" if error.filename else ""
    return unusable(target, f"cannot be written: {error.strerror or error}{where}", "name another folder, or see to its disk")


def _make(env: Environment, target: Path) -> None:
    try:
        env.fs.make_dir(target)
    except (FileExistsError, NotADirectoryError):
        raise unusable(target, "is a file, or lies below one") from None


def _check_content(env: Environment, paths: DataPaths) -> None:
    names = env.fs.list_dir(paths.root)
    if paths.restore.name in names:
        return
    strangers = set(names) - {paths.lock.name, paths.restore_temporary.name, "lost+found"}
    if not strangers:
        return
    if paths.identity.name in names:
        raise unusable(paths.root, "holds a store already")
    if paths.origin.name in names:
        raise unusable(paths.root, "holds a whole copy of a store already", f"start it: kvserver serve --data-dir {paths.root}")
    raise unusable(paths.root, f"is not empty: it holds {min(strangers)!r}")


def _check_apart(store_url: str, target: Path) -> None:
    """Check that the folder does not lie within the archive. Nothing is opened: it only tells whether names lead to one place."""
    parts = urlsplit(store_url)
    if parts.scheme != "file":
        return
    archive = Path(os.path.realpath(unquote(parts.path)))
    real = Path(os.path.realpath(target))
    if archive in (real, *real.parents):
        raise unusable(target, "lies within the archive")
