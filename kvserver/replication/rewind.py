"""Takes a node back to the last position that it shares with the cluster, and keeps what it has to give up.

    1  find    the frame of this log that ends exactly at the common position: epoch, revision and chain
    2  keep    every segment that holds commits behind it gets a second name in ``lost/``, as it is
    3  tell    which revisions are lost, exactly, and in which files they are
    4  cut     the log as far as that frame is put together in ``incoming/``, and takes the place of the old one (``engine.swap``)

Nothing is ever cut in place. Segments before the cut are linked, the one that is cut is copied up to the frame's end and stays
open, as if no more of it had been received; what follows is fetched from the source as after any other interruption. A crash
before the marker is written leaves the old log, one after it the new one, and in both cases what was kept in ``lost/``, under a
name that follows from what is lost: the same rewind, begun again, keeps it once.

The cut is made behind the *first* place at which the log stands at the common position. Marks and a seal do not move the
position, but they are bytes: those behind it may be this node's own, while the source has others there.

Tables are not cut. Where they hold more than the common position, be it the begin of an epoch that was given up, they are
exchanged for those of the newest base that does not (``engine.rewind_base``), with what the log has behind it up to there
(``rewind_tables``). Where none leads there, nothing is changed here but for what is kept, and the caller fetches a new copy of
the store. What of the lost revisions is in tables alone, because its segments went, is in no file; the event says from where on
it is. A base beyond the common position holds what was given up, and is removed.

A folder in ``lost/`` is laid out as a data folder is, so ``kvctl wal dump DATA_DIR/lost/NAME`` reads it, and the log before the
lost commits that lies in the same segments.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import closing, suppress
from typing import NamedTuple

from kvserver.base import failpoints
from kvserver.base.environment import Environment
from kvserver.base.errors import Code, Corruption, ReplicationError
from kvserver.base.events import Listener, ignore
from kvserver.base.fs import FileSystem, opened, read_file, remove_tree
from kvserver.base.limits import MIB
from kvserver.base.paths import DataPaths, SegmentName, is_damaged, is_torn, parse_segment
from kvserver.base.replication_events import LogRewound, SuffixLost
from kvserver.base.types import CREATION_REVISION, Position
from kvserver.engine.database import Database
from kvserver.engine.rewind_base import Base, clear_bases, find_bases
from kvserver.engine.swap import begin_swap, discard_incoming, finish_swap
from kvserver.replication.home import FollowerFloor
from kvserver.replication.rewind_tables import tables_at, tables_position
from kvserver.wal.reader import SegmentReader
from kvserver.wal.recovery import list_segments

_COPY_BYTES = 1 * MIB


class Rewound(NamedTuple):
    """What a rewind did."""

    lost_revisions: int
    kept_in: str
    """The folder of what was lost; empty where nothing was, or nothing of it is in the log."""
    needs_copy: bool
    """The tables are beyond the common position, and no base is of use: nothing was cut, a new copy of the store is needed."""
    base_revision: int = 0
    """Of the base out of which the tables were made that took the place of those beyond the position; 0: they stayed."""


class Cut(NamedTuple):
    """Where a log is cut."""

    segment: SegmentName
    offset: int
    """Bytes of that segment that stay; 0: none."""


def prepare(floor: FollowerFloor, common: Position, still_wanted: Callable[[], bool]) -> Base | None:
    """Make tables that end at the common position, in ``incoming/``, and return the base that led there; None where none does.

    The store may be open: what is read of it does not change. It takes as long as its tables and the log are large. Raises
    NotServing once it is not wanted any more, Corruption, OSError.
    """
    fs, paths = floor.env.fs, floor.paths
    discard_incoming(floor.env, paths)
    cut = find_cut(fs, paths, list_segments(fs, paths), common)
    if cut is None:
        return None
    path = paths.segment(cut.segment)
    cluster_id = SegmentReader(path, read_file(fs, path)).header.cluster_id
    try:
        bases = _usable_bases(floor.env, paths, common)
    except OSError:  # a copy of the store will do
        return None
    return tables_at(floor, bases, common, cluster_id, still_wanted)


async def prepare_beside(floor: FollowerFloor, database: Database | None, common: Position) -> Base | None:
    """Prepare tables on a thread, where those of an open store hold more; cancelled, it returns when the thread has ended.

    So whoever wants a promise or the end of the node waits for a moment only, and nobody else uses ``incoming/`` meanwhile.
    """
    if database is None or not is_beyond(database.flusher.position, common):
        return None
    wanted = True
    work = asyncio.ensure_future(floor.beside(lambda: prepare(floor, common, lambda: wanted), "rewind-tables"))
    try:
        return await asyncio.shield(work)
    finally:
        wanted = False
        await asyncio.wait([work])


def go_back(floor: FollowerFloor, common: Position, prepared: Base | None) -> Rewound:
    """Take a node's store back that was closed; ``prepared``: what ``prepare`` returned. Raises as ``rewind``."""
    if prepared is None:
        discard_incoming(floor.env, floor.paths)
    with closing(floor.open_tables(floor.paths)) as tables:  # asked only now: a flush may have ended while it was closed
        flushed = tables_position(floor.paths, tables)
    return rewind(floor.env, floor.paths, common, flushed, floor.listener, prepared)


def rewind(
    env: Environment,
    paths: DataPaths,
    common: Position,
    flushed: Position | None,
    listener: Listener = ignore,
    prepared: Base | None = None,
) -> Rewound:
    """Carry the steps out on a store that nobody has open. ``flushed``: what its tables hold.

    ``prepared``: the base that led to the tables in ``incoming/``; None: there are none. Raises ReplicationError (WRONG_PEER)
    where the log does not pass through the common position, Corruption, OSError; then the store is as it was, but for the
    bases beyond it.
    """
    fs = env.fs
    names = list_segments(fs, paths)
    cut = find_cut(fs, paths, names, common)
    if cut is None:
        _check_may_lack(fs, paths, names, common, flushed)
    end = _end_revision(fs, paths, names, flushed)
    lost = max(0, end - common.revision)
    kept_in = ""
    if lost:
        behind = [name for name in names if cut is None or name >= cut.segment]
        kept_in = _keep(fs, paths, behind, common, end, listener)
    failpoints.hit("rewind.after_kept")
    with suppress(OSError):  # one that stays proves nothing, and leads nowhere; where none can be listed, none is removed
        clear_bases(env, paths, _usable_bases(env, paths, common))
    base = None
    if is_beyond(flushed, common):
        if prepared is None or cut is None:
            return Rewound(lost, kept_in, True)
        base = prepared
    else:
        remove_tree(fs, paths.incoming)
    _cut(env, paths, cut, base)
    base_revision = base.revision if base is not None else 0
    listener(LogRewound(common.revision, common.epoch.number, lost, base_revision))
    return Rewound(lost, kept_in, False, base_revision)


def _usable_bases(env: Environment, paths: DataPaths, common: Position) -> list[Base]:
    """Return the bases that hold nothing beyond a position, oldest first. Raises OSError."""
    return [base for base in find_bases(env, paths) if not is_beyond(base.origin.position, common)]


def is_beyond(flushed: Position | None, common: Position) -> bool:
    """Say whether tables hold what lies behind a position: commits, or the begin of an epoch without any.

    Such a begin is part of their position, and the log that is cut before it passes through that no more.
    """
    if flushed is None or flushed.revision != common.revision:
        return flushed is not None and flushed.revision > common.revision
    return flushed != common and flushed.epoch.number >= common.epoch.number


# -- 1: find -------------------------------------------------------------------------------------------------------------


def find_cut(fs: FileSystem, paths: DataPaths, names: list[SegmentName], common: Position) -> Cut | None:
    """Return where the log first stands at a position; None where it never does. Raises Corruption, OSError."""
    found: Cut | None = None
    for name in reversed(names):
        if name.first_revision > common.revision + 1:
            continue
        reader = SegmentReader(paths.segment(name), read_file(fs, paths.segment(name)))
        offset = _first_at(reader, common)
        if offset is not None:
            found = Cut(name, offset)
        elif reader.header.previous == common:
            found = Cut(name, 0)
        elif found is not None or name.first_revision <= common.revision:
            break  # the segments before this one end before the position
    return found


def _first_at(reader: SegmentReader, position: Position) -> int | None:
    """Return the offset at which a segment first stands at a position; at its begin only where its epoch begins there."""
    header = reader.header
    if header.epoch != position.epoch:
        return None
    if reader.start == position:
        return reader.offset if header.previous != position else None
    for _ in reader.frames():
        if reader.position == position:
            return reader.offset
    return None


def _check_may_lack(
    fs: FileSystem, paths: DataPaths, names: list[SegmentName], common: Position, flushed: Position | None
) -> None:
    """Check that a log which does not pass through a position may not: tables hold what was there, or there is nothing."""
    if flushed == common or (flushed is None and not names and common.revision == CREATION_REVISION):
        return
    begins_behind = not names or names[0].first_revision > common.revision + 1
    if is_beyond(flushed, common) and begins_behind:
        return
    where = f"epoch {common.epoch.number}, revision {common.revision}"
    raise ReplicationError(
        Code.WRONG_PEER,
        f"this log does not pass through {where} (chain {common.chain.hex()}), which the source says both have",
        "see which epochs each node knows with: kvctl cluster history; to give this node's store up: kvctl reinit NODE",
    )


def _end_revision(fs: FileSystem, paths: DataPaths, names: list[SegmentName], flushed: Position | None) -> int:
    """Return the last revision that the store holds."""
    end = flushed.revision if flushed is not None else 0
    if names:
        path = paths.segment(names[-1])
        reader = SegmentReader(path, read_file(fs, path))
        for _ in reader.frames():
            pass
        end = max(end, reader.revision)
    return end


# -- 2 and 3: keep, tell -------------------------------------------------------------------------------------------------


def _keep(fs: FileSystem, paths: DataPaths, names: list[SegmentName], common: Position, end: int, listener: Listener) -> str:
    """Give every segment that holds lost commits a second name, durably, and tell of it; return the folder."""
    holding = []
    for name in names:
        path = paths.segment(name)
        reader = SegmentReader(path, read_file(fs, path))
        for _ in reader.frames():
            pass
        if reader.revision > max(common.revision, name.first_revision - 1):
            holding.append((name, reader.position))
    kept_in, first_kept = "", 0
    if holding:
        last = holding[-1][1]
        kept = paths.lost_history(common.revision + 1, last.revision, last.chain)
        fs.make_dir(kept.wal)
        for name, _ in holding:
            if not fs.exists(kept.segment(name)):
                fs.link(paths.segment(name), kept.segment(name))
                failpoints.hit("rewind.after_link")
        fs.sync_dir(kept.wal)
        kept_in = str(kept.root)
        first_kept = max(common.revision + 1, holding[0][0].first_revision)
    files = tuple(paths.segment(name).name for name, _ in holding)
    listener(SuffixLost(common.revision + 1, end, common.epoch.number, kept_in, files, first_kept))
    return kept_in


# -- 4: cut --------------------------------------------------------------------------------------------------------------


def _cut(env: Environment, paths: DataPaths, cut: Cut | None, base: Base | None) -> None:
    """Put the log together as far as the cut, and let it take the place of the old one; None: nothing of the log stays.

    With a base, tables that it has led to are in ``incoming/`` already, and are exchanged too.
    """
    fs = env.fs
    shorter = DataPaths(paths.incoming)
    fs.make_dir(shorter.wal)
    for text in fs.list_dir(paths.wal):
        name = parse_segment(text)
        if name is None:
            if is_torn(text) or is_damaged(text):  # they are there to be looked at, whatever the log is
                fs.link(paths.wal / text, shorter.wal / text)
        elif cut is not None and name < cut.segment:
            fs.link(paths.wal / text, shorter.wal / text)
        elif cut is not None and name == cut.segment and cut.offset:
            _copy(fs, paths, shorter, cut)
    fs.sync_dir(shorter.wal)
    failpoints.hit("rewind.after_cut")
    begin_swap(env, paths, [paths.wal.name] if base is None else [paths.wal.name, paths.tables.name])
    finish_swap(env, paths)


def _copy(fs: FileSystem, paths: DataPaths, shorter: DataPaths, cut: Cut) -> None:
    with opened(fs.open(paths.segment(cut.segment))) as whole, opened(fs.create(shorter.segment(cut.segment))) as part:
        at = 0
        while at < cut.offset:
            data = whole.pread(min(_COPY_BYTES, cut.offset - at), at)
            if not data:
                raise Corruption(paths.segment(cut.segment), at, "the segment became shorter while it was read")
            part.pwrite(data, at)
            at += len(data)
        part.sync()
