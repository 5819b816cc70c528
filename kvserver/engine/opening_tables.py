"""Opens the tables of a store: how far they are, whose they are, and what the catalogue was there."""

from __future__ import annotations

import contextlib
import dataclasses

from kvserver.base.environment import Environment
from kvserver.base.errors import Corruption
from kvserver.base.options import TableOptions
from kvserver.base.paths import DataPaths
from kvserver.base.types import CREATION_REVISION, NO_EPOCH, Identity, Position
from kvserver.commit.state import CATALOGUE_SPAN, State
from kvserver.engine.table_kit import TableKit
from kvserver.storage.origin import Origin
from kvserver.storage.rows import (
    FLUSHED_KEY,
    STATISTICS,
    TIMES,
    Flushed,
    Statistics,
    decode_flushed,
    decode_statistics,
    decode_time,
)
from kvserver.storage.tables import Tables
from kvserver.storage.view import View
from kvserver.wal.format import creation_chain

_ALL = 1 << 31


@dataclasses.dataclass(slots=True)
class OpenedTables:
    """The tables, and what they say of themselves."""

    tables: Tables
    state: State
    """Catalogue and empty memory above the tables."""
    position: Position | None
    """What they hold; None: nothing was ever flushed."""
    bucket_revisions: int
    statistics: dict[int, Statistics]
    times: list[tuple[int, int]]
    """(time_ms, revision) of past flushes, oldest first."""


def open_tables(
    env: Environment, paths: DataPaths, options: TableOptions, kit: TableKit, identity: Identity, origin: Origin | None
) -> OpenedTables:
    """Open them. Raises Corruption, OSError."""
    env.fs.make_dir(paths.building)
    for name in env.fs.list_dir(paths.building):
        env.fs.remove(paths.building / name)
    with contextlib.ExitStack() as undo:
        tables = kit.open_tables(env, paths, options)
        undo.callback(tables.close)
        opened = _load(tables, paths, options, identity, origin)
        undo.pop_all()
    return opened


def _load(tables: Tables, paths: DataPaths, options: TableOptions, identity: Identity, origin: Origin | None) -> OpenedTables:
    (row,) = tables.get_many([FLUSHED_KEY])
    if row is None:
        is_copy = origin is not None and origin.position.revision > CREATION_REVISION
        if is_copy or tables.rows(b"", b"", limit=1):
            raise Corruption(paths.tables, 0, "the row that says how far the tables are is missing")
        return OpenedTables(tables, State(), None, options.bucket_revisions, {}, [])
    try:
        flushed = decode_flushed(row)
    except ValueError as error:
        raise Corruption(paths.tables, 0, str(error)) from error
    _check_owner(paths, flushed, identity, origin)
    revision = flushed.position.revision
    state = State(View(is_bottom=False, flushed_revision=revision))
    state.load(tables.rows(*CATALOGUE_SPAN, limit=_ALL))
    statistics = {
        int.from_bytes(key[1:], "big"): decode_statistics(value)
        for key, value in tables.rows(STATISTICS, _behind(STATISTICS), limit=_ALL)
    }
    times = [decode_time(key, value) for key, value in tables.rows(TIMES, _behind(TIMES), limit=_ALL)]
    notes = [(time_ms, at) for at, time_ms in times]
    return OpenedTables(tables, state, flushed.position, flushed.bucket_revisions, statistics, notes)


def _check_owner(paths: DataPaths, flushed: Flushed, identity: Identity, origin: Origin | None) -> None:
    """Check that the tables are this store's, or those of the store that it is a copy of, where it was copied."""
    if flushed.cluster_id == identity.cluster_id:
        return
    if origin is not None and flushed.cluster_id == origin.cluster_id and flushed.position == origin.position:
        return
    raise Corruption(
        paths.tables,
        0,
        f"the tables belong to another cluster ({flushed.cluster_id.hex()}) or to another moment of it",
        "put the folder tables/ back from a copy of this data folder",
    )


def _behind(prefix: bytes) -> bytes:
    return bytes((prefix[0] + 1,))


def flushed_position(opened: OpenedTables, cluster_id: bytes) -> Position:
    """Return the position up to which the tables hold everything."""
    return opened.position or Position(NO_EPOCH, CREATION_REVISION, creation_chain(cluster_id))
