"""Tables that end where a node goes back to: those of a base, and what the node's own log has behind it.

They are put together in ``incoming/`` while the store is open, and before anything is decided. The log between base and common
position is read as a flush reads it: every frame is checked, and the chain is proven from the one position to the other. So a
base of another history, a log with a hole or one that begins behind the base make no tables, and the caller fetches a copy of
the store instead. It takes the memory of a flush, however much log that is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence

from kvserver.archive.restore_log import Group
from kvserver.archive.restore_tables import JOB_BYTES, TableJobs, standing_of
from kvserver.base import failpoints
from kvserver.base.errors import Corruption, NotServing
from kvserver.base.fs import remove_tree
from kvserver.base.paths import DataPaths
from kvserver.base.replication_events import RewindBaseFailed
from kvserver.base.types import Position
from kvserver.engine.rewind_base import Base
from kvserver.replication.home import FollowerFloor
from kvserver.storage.rows import FLUSHED_KEY, decode_flushed
from kvserver.storage.tables import Tables
from kvserver.wal.log_range import LogRangeReader


def tables_position(paths: DataPaths, tables: Tables) -> Position | None:
    """Return how far the tables of a folder are; None where they hold nothing. Raises Corruption, OSError."""
    (row,) = tables.get_many([FLUSHED_KEY])
    try:
        return decode_flushed(row).position if row is not None else None
    except ValueError as error:
        raise Corruption(paths.tables, 0, str(error)) from error


def tables_at(
    floor: FollowerFloor, bases: Sequence[Base], common: Position, cluster_id: bytes, still_wanted: Callable[[], bool]
) -> Base | None:
    """Put tables that end at a position into ``incoming/``, out of the newest base that leads there; None where none does.

    ``bases``: oldest first, none of them beyond the position. ``cluster_id``: that of the log. The store may be open. Blocks.
    Raises NotServing once it is not wanted any more.
    """
    fs, incoming = floor.env.fs, floor.paths.incoming
    for base in reversed(bases):
        remove_tree(fs, incoming)
        try:
            _copy(floor, base, still_wanted)
            _go_forward(floor, base, common, cluster_id, still_wanted)
        except (Corruption, OSError) as error:  # a disk that refuses included: a copy of the store will do
            floor.listener(RewindBaseFailed(f"the one at revision {base.revision} cannot be gone back to: {error}"))
            continue
        failpoints.hit("rewind.after_base")
        return base
    remove_tree(fs, incoming)
    return None


def _copy(floor: FollowerFloor, base: Base, still_wanted: Callable[[], bool]) -> None:
    """Copy the tables of a base, by links, once every byte of them was checked. Raises Corruption, OSError, NotServing."""
    copy = DataPaths(floor.paths.incoming)
    floor.env.fs.make_dir(copy.wal)
    with contextlib.closing(floor.open_tables(base.paths)) as tables:
        if tables_position(base.paths, tables) != base.origin.position:
            raise Corruption(base.paths.tables, 0, "the tables do not end where the record of their origin says")
        for finding in tables.verify(still_wanted):
            raise Corruption(base.paths.tables, 0, finding)
        _require(still_wanted)
        tables.checkpoint(copy.tables)


def _go_forward(floor: FollowerFloor, base: Base, common: Position, cluster_id: bytes, still_wanted: Callable[[], bool]) -> None:
    """Add what the log has behind a base to the copy of its tables. Raises Corruption, OSError, NotServing."""
    copy, log = DataPaths(floor.paths.incoming), LogRangeReader(floor.env.fs, floor.paths)

    def groups() -> Iterator[Group]:
        for frame in log.frames(base.origin.position, common):
            _require(still_wanted)
            yield Group(frame, Position(frame.epoch, frame.header.last_revision, frame.header.chain), cluster_id)

    with contextlib.closing(floor.open_tables(copy)) as tables:
        standing = standing_of(tables, copy, cluster_id, base.origin.position)
        TableJobs(floor.env, copy, tables, JOB_BYTES).run(standing, groups(), lambda position: None)


def _require(still_wanted: Callable[[], bool]) -> None:
    if not still_wanted():
        raise NotServing("nobody waits for the tables any more")
