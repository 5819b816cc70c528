"""Checkpoints: a copy of the store at the end of a flush, from which another store can be opened.

It holds the tables, as hard links where the target is on the same file system, and a record of where it comes from; no log. The
record is written last: a folder without it is not a checkpoint. Made on the thread that ingests, so between two flushes.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import NamedTuple

from kvserver.base import failpoints
from kvserver.base.environment import Environment
from kvserver.base.errors import Code, InvalidRequest, KvError, Refused
from kvserver.base.paths import DataPaths
from kvserver.base.types import Identity, Position
from kvserver.commit.refusals import tables_failed
from kvserver.engine.epochs import EpochHistory
from kvserver.storage.origin import Origin, write_origin
from kvserver.storage.rows import FLUSHED_KEY, decode_flushed
from kvserver.storage.tables import TableFigures, Tables


class CheckpointDone(NamedTuple):
    """A checkpoint was made."""

    position: Position
    table_files: int
    table_bytes: int


def check_target(env: Environment, data_dir: Path, target: Path) -> None:
    """Raise InvalidRequest (TARGET_UNUSABLE) unless a checkpoint can be made there."""
    if not target.is_absolute() or "\0" in str(target):
        raise _unusable(target, "is not an absolute path")
    # Nothing is opened or made by this: it only tells whether two names lead to one folder, by links or by "..".
    real = Path(os.path.realpath(target))
    if Path(os.path.realpath(data_dir)) in (real, *real.parents):
        raise _unusable(target, "lies within the data folder")
    try:
        if env.fs.exists(target) and env.fs.list_dir(target):
            raise _unusable(target, "is in use: it is not empty")
    except NotADirectoryError:
        raise _unusable(target, "is a file") from None
    except OSError as error:
        raise _refused(target, error) from error


def origin_of(tables: Tables, identity: Identity, history: EpochHistory, unflushed: Position, now_ms: int) -> Origin:
    """Return where a copy of the tables comes from, by their own word; ``unflushed``: the position where they hold nothing."""
    (row,) = tables.get_many([FLUSHED_KEY])
    owner, position = identity.cluster_id, unflushed
    if row is not None:  # in a fork that was not written to yet, the tables are still the other store's
        owner, position, _, _ = decode_flushed(row)
    return Origin(owner, identity.node_name, position, history.until(position), now_ms)


def make_checkpoint(env: Environment, tables: Tables, target: Path, origin: Origin) -> CheckpointDone:
    """Make the copy; the tables stand at the origin's position. Raises KvError."""
    paths = DataPaths(target)
    try:
        _make_dir(env, target)
        tables.checkpoint(paths.tables)
        failpoints.hit("engine.checkpoint.after_tables")
        write_origin(env, paths, origin)
        failpoints.hit("engine.checkpoint.after_origin")
    except FileExistsError:
        raise _unusable(target, "is in use: a checkpoint was begun there") from None
    except OSError as error:
        raise _refused(target, error) from error
    except KvError:
        raise
    except Exception as error:
        raise tables_failed(error) from error
    figures: TableFigures = tables.figures()
    return CheckpointDone(origin.position, figures.files, figures.total_bytes)


def _make_dir(env: Environment, target: Path) -> None:
    try:
        env.fs.make_dir(target)
    except FileExistsError:
        raise _unusable(target, "is a file, or lies below one") from None


def _unusable(target: Path, why: str) -> InvalidRequest:
    return InvalidRequest(
        Code.TARGET_UNUSABLE, f"no checkpoint can be made in {target}: it {why}", "name a folder that does not exist yet"
    )


def _refused(target: Path, error: OSError) -> KvError:
    what = error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Refused(Code.DISK_FULL, f"the disk of {target} is full", f"remove {target}, free space, and try again")
    return InvalidRequest(Code.TARGET_UNUSABLE, f"no checkpoint can be made in {target}: {what}", "name another folder")
