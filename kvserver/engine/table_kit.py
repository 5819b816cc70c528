"""Which tables a database is opened with, and who builds them: RocksDB and a helper process, or what a test hands in."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable

from kvserver.base.environment import Environment
from kvserver.base.errors import Corruption
from kvserver.base.events import Listener
from kvserver.base.limits import MIB
from kvserver.base.options import TableOptions
from kvserver.base.paths import DataPaths
from kvserver.base.types import CREATION_REVISION
from kvserver.engine.flush_helper import HelperProcess
from kvserver.storage.flush_job import FlushBuilder
from kvserver.storage.rows import FLUSHED_KEY, decode_flushed
from kvserver.storage.tables import Tables
from kvserver.wal.recovery import list_segments

_GAP_HINT = (
    "nothing was changed; put back what is missing (tables/ as it was when the log was last written, or the segments before), "
    "or open a checkpoint in another folder"
)


@dataclasses.dataclass(frozen=True, slots=True)
class TableKit:
    """How tables are opened, and how their builder is made."""

    open_tables: Callable[[Environment, DataPaths, TableOptions], Tables]
    """Open the tables below ``paths.tables``, making them where there are none. Raises Corruption, OSError."""
    make_builder: Callable[[Environment, DataPaths, TableOptions, Tables, Listener], FlushBuilder]


FOLLOWER_NICENESS = 10
"""A follower's helper comes after what keeps the follower close to its primary; docs/adr/0014 has the figures."""

HELPER_CACHE_BYTES = 32 * MIB
"""The helper's own cache of parts of tables; it looks up each key of a flush once, in order."""


def rocks(failpoints: str = "", niceness: int = 0) -> TableKit:
    """Return what a server runs on: RocksDB, and a helper process of this niceness, in which these failpoints are armed."""

    def open_tables(env: Environment, paths: DataPaths, options: TableOptions) -> Tables:
        from kvserver.storage.rocks import RocksTables  # 20 ms that whoever brings other tables need not spend

        _refuse_gap(env, paths)
        return RocksTables.open(paths.tables, options.block_cache_bytes)

    def make_builder(
        env: Environment, paths: DataPaths, options: TableOptions, tables: Tables, listener: Listener
    ) -> FlushBuilder:
        return HelperProcess(paths, HELPER_CACHE_BYTES, listener, failpoints, niceness)

    return TableKit(open_tables, make_builder)


def _refuse_gap(env: Environment, paths: DataPaths) -> None:
    """Raise Corruption where the log begins behind what the tables hold.

    Asked before they are opened for writing: RocksDB takes a list of tables that was cut for an older one, and removes the
    tables that it does not name. Recovery would refuse the folder too, but then they are gone.
    """
    from kvserver.storage.rocks import open_reader

    segments = list_segments(env.fs, paths)
    if not segments or segments[0].first_revision <= CREATION_REVISION + 1:
        return
    flushed = CREATION_REVISION
    if env.fs.exists(paths.tables) and env.fs.list_dir(paths.tables):
        with contextlib.closing(open_reader(paths.tables, MIB)) as tables:
            (row,) = tables.get_many([FLUSHED_KEY])
        if row is not None:
            try:
                flushed = decode_flushed(row).position.revision
            except ValueError as error:
                raise Corruption(paths.tables, 0, str(error)) from error
    first = segments[0].first_revision
    if first > flushed + 1:
        what = f"the log begins at revision {first}, but the tables end at {flushed}: what lies between is missing"
        raise Corruption(paths.tables, 0, what, _GAP_HINT)
