"""Data folders looked at while no server runs on them: whether one does, and how far the log in them goes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from kvctl.failures import CtlError


@contextlib.contextmanager
def standing_still(root: Path) -> Iterator[None]:
    """Keep servers off a data folder while the block runs; raise CtlError where one runs, or where it is none."""
    from kvserver.base.environment import Environment
    from kvserver.base.fs import OsFileSystem
    from kvserver.base.paths import DataPaths
    from kvserver.storage.restore_record import read_restore_record

    fs, paths = OsFileSystem(), DataPaths(root)
    restoring = read_restore_record(Environment(fs=fs), paths)
    if restoring is not None:
        raise CtlError("TARGET_UNUSABLE", f"{root} is not restored yet", f"go on with: {restoring.command}")
    if not paths.tables.is_dir():
        hint = "name the folder given to kvserver serve --data-dir, a checkpoint, or a restored folder"
        raise CtlError("NOT_A_DATA_DIR", f"{root} holds no tables", hint)
    if not paths.lock.exists():  # a checkpoint: nobody was ever there, and nothing is to be written into it
        yield
        return
    try:
        lock = fs.lock(paths.lock)
    except BlockingIOError:
        message = f"{root} is in use by a server"
        raise CtlError("FOLDER_IN_USE", message, "ask the server, with -E; or stop it first") from None
    try:
        yield
    finally:
        lock.release()


def log_end(root: Path) -> int:
    """Return the last revision of the log in a data folder; 0 where there is none. Raises Corruption, OSError."""
    from kvserver.base.fs import OsFileSystem
    from kvserver.base.paths import DataPaths
    from kvserver.wal.inspection import read_segment
    from kvserver.wal.recovery import list_segments

    fs, paths = OsFileSystem(), DataPaths(root)
    names = list_segments(fs, paths) if paths.wal.is_dir() else []
    if not names:
        return 0
    reader = read_segment(fs, paths, names[-1])
    for _ in reader.frames():
        pass
    return reader.revision
