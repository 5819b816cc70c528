"""Tables that end where a node goes back to: those of a base, and what the node's own log has behind it.

They are put together in ``incoming/`` before anything is decided. The log between base and common position is read as a flush
reads it: every frame is checked, and the chain is proven from the one position to the other. So a base of another history, a log
with a hole or one that begins behind the base make no tables, and the caller fetches a copy of the store instead. It takes the
memory of a flush, however much log that is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from kvserver.archive.restore_log import Group
from kvserver.archive.restore_tables import JOB_BYTES, TableJobs, standing_of
from kvserver.base import failpoints
from kvserver.base.environment import Environment
from kvserver.base.errors import Corruption
from kvserver.base.fs import remove_tree
from kvserver.base.paths import DataPaths
from kvserver.base.types import Position
from kvserver.engine.rewind_base import Base
from kvserver.storage.rows import FLUSHED_KEY, decode_flushed
from kvserver.storage.tables import Tables
from kvserver.wal.log_range import LogRangeReader

OpenTables = Callable[[DataPaths], Tables]


def tables_position(paths: DataPaths, tables: Tables) -> Position | None:
    """Return how far the tables of a folder are; None where they hold nothing. Raises Corruption, OSError."""
    (row,) = tables.get_many([FLUSHED_KEY])
    try:
        return decode_flushed(row).position if row is not None else None
    except ValueError as error:
        raise Corruption(paths.tables, 0, str(error)) from error


def tables_at(
    env: Environment, paths: DataPaths, bases: Sequence[Base], common: Position, cluster_id: bytes, open_tables: OpenTables
) -> Base | None:
    """Put tables that end at a position into ``incoming/``, out of the newest base that leads there; None where none does.

    ``bases``: oldest first, none of them beyond the position. ``cluster_id``: that of the log.
    """
    for base in reversed(bases):
        remove_tree(env.fs, paths.incoming)
        # Whatever is wrong with a base or the log, a disk that refuses included: a copy of the store will do.
        with contextlib.suppress(Corruption, OSError):
            _copy(env, paths, base, open_tables)
            _go_forward(env, paths, base, common, cluster_id, open_tables)
            failpoints.hit("rewind.after_base")
            return base
    remove_tree(env.fs, paths.incoming)
    return None


def _copy(env: Environment, paths: DataPaths, base: Base, open_tables: OpenTables) -> None:
    """Copy the tables of a base, by links, once every byte of them was checked. Raises Corruption, OSError."""
    copy = DataPaths(paths.incoming)
    env.fs.make_dir(copy.wal)
    with contextlib.closing(open_tables(base.paths)) as tables:
        if tables_position(base.paths, tables) != base.origin.position:
            raise Corruption(base.paths.tables, 0, "the tables do not end where the record of their origin says")
        for finding in tables.verify():
            raise Corruption(base.paths.tables, 0, finding)
        tables.checkpoint(copy.tables)


def _go_forward(
    env: Environment, paths: DataPaths, base: Base, common: Position, cluster_id: bytes, open_tables: OpenTables
) -> None:
    """Add what the log has behind a base to the copy of its tables. Raises Corruption, OSError."""
    copy, log = DataPaths(paths.incoming), LogRangeReader(env.fs, paths)

    def groups() -> Iterator[Group]:
        for frame in log.frames(base.origin.position, common):
            yield Group(frame, Position(frame.epoch, frame.header.last_revision, frame.header.chain), cluster_id)

    with contextlib.closing(open_tables(copy)) as tables:
        standing = standing_of(tables, copy, cluster_id, base.origin.position)
        TableJobs(env, copy, tables, JOB_BYTES).run(standing, groups(), lambda position: None)
