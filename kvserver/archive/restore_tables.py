"""Tables out of the log, as a flush builds them: a job of some 64 MiB of groups at a time, each taken in durably.

How far a restore is, the tables say themselves: the row with their position is in the same table as what it speaks of. So after a
crash it goes on from there, and nothing else has to be kept.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from kvserver.archive.restore_log import Group
from kvserver.base import failpoints
from kvserver.base.environment import Environment
from kvserver.base.errors import Corruption
from kvserver.base.limits import MIB
from kvserver.base.options import TableOptions
from kvserver.base.paths import DataPaths
from kvserver.base.types import Position
from kvserver.commit.state import CATALOGUE_SPAN, State
from kvserver.storage.flush_build import build_collected
from kvserver.storage.flush_job import FlushJob
from kvserver.storage.resolve import RangeChanges
from kvserver.storage.rows import FLUSHED_KEY, Flushed, decode_flushed
from kvserver.storage.tables import TableReader, Tables

JOB_BYTES = 64 * MIB
"""A table is built of groups of so many bytes, about: they and what is made of them are in memory meanwhile."""

JOB_COMMITS = 200_000
"""... or of so many commits, where they are small."""

_MERGE_POLL_S = 0.05
_ALL = 1 << 31
_HINT = "remove the folder, and restore again into a new one"

OpenTables = Callable[[Path], Tables]


class Standing(NamedTuple):
    """Where tables are that a restore adds to."""

    cluster_id: bytes
    """Whose they say they are."""
    position: Position
    bucket_revisions: int


def standing_of(tables: TableReader, paths: DataPaths, cluster_id: bytes, unflushed: Position) -> Standing:
    """Return where tables are by their own word; where they hold nothing, at a position of a cluster. Raises Corruption."""
    (row,) = tables.get_many([FLUSHED_KEY])
    if row is None:
        if tables.rows(b"", b"", limit=1):
            raise Corruption(paths.tables, 0, "the row that says how far the tables are is missing", _HINT)
        return Standing(cluster_id, unflushed, TableOptions().bucket_revisions)
    try:
        flushed: Flushed = decode_flushed(row)
    except ValueError as error:
        raise Corruption(paths.tables, 0, str(error), _HINT) from error
    return Standing(flushed.cluster_id, flushed.position, flushed.bucket_revisions)


def oldest_readable(tables: TableReader, revision: int) -> int:
    """Return the oldest revision that tables which are at a revision leave readable."""
    state = State()
    state.load(tables.rows(*CATALOGUE_SPAN, limit=_ALL))
    return state.oldest_readable(revision)


class TableJobs:
    """Builds tables out of groups and takes them in."""

    def __init__(self, env: Environment, paths: DataPaths, tables: Tables, job_bytes: int) -> None:
        self._env = env
        self._paths = paths
        self._tables = tables
        self._job_bytes = job_bytes
        self._merged = threading.Condition()
        env.fs.make_dir(paths.building)
        for name in env.fs.list_dir(paths.building):
            env.fs.remove(paths.building / name)

    def run(self, begin: Standing, groups: Iterator[Group], on_table: Callable[[Position], None]) -> Standing:
        """Take all groups in, which lead on from where the tables are; return where they are then.

        A thread reads the groups of the next table meanwhile. ``on_table`` is told of the position behind each table. Raises
        Corruption, StoreError, OSError; then the tables are where the last one left them.
        """
        at = begin
        batches = _batches(groups, begin.position.revision, self._job_bytes)
        with contextlib.closing(_one_ahead(batches)) as ahead:
            for batch in ahead:
                at = self._build(at, batch)
                on_table(at.position)
        return at

    def _build(self, after: Standing, batch: _Batch) -> Standing:
        upto = batch.last.position
        job = FlushJob(
            cluster_id=batch.last.cluster_id,
            after=after.position,
            upto=upto,
            # What it was where the job begins: it only rises, so no version is missing that can be read at the end.
            keep_from=oldest_readable(self._tables, after.position.revision),
            bucket_revisions=after.bucket_revisions,
            time_ms=batch.time_ms,
            target=self._paths.table_being_built(upto.revision),
        )
        self._await_merging(TableOptions())
        writer = self._tables.new_table(job.target)
        build_collected(job, lambda: batch.changes, self._tables, writer, self._env.clock)
        failpoints.hit("restore.after_table")
        self._tables.ingest(job.target)
        failpoints.hit("restore.after_ingest")
        return Standing(job.cluster_id, upto, after.bucket_revisions)

    def _await_merging(self, options: TableOptions) -> None:
        """Wait while too many tables are not merged with others, as a flush does."""
        while True:
            figures = self._tables.figures()
            few = figures.level0_files <= options.max_level0_files
            if few and figures.pending_compaction_bytes <= options.max_pending_compaction_bytes:
                return
            if figures.background_error:
                return  # nothing is merged until something is written: the ingest finds out whether that is possible
            with self._merged:
                self._env.clock.wait(self._merged, _MERGE_POLL_S)


class _Batch(NamedTuple):
    """What the groups of one table changed."""

    changes: RangeChanges
    last: Group
    time_ms: int


def _batches(groups: Iterator[Group], revision: int, job_bytes: int) -> Iterator[_Batch]:
    """Yield what the groups behind a revision changed, so many bytes of them at a time."""
    changes, time_ms = RangeChanges(revision), 0
    size = commits = 0
    group: Group | None = None
    for group in groups:
        header = group.frame.header
        try:
            changes.add_group(header.first_revision, header.commits, group.frame.payload)
        except ValueError as error:
            raise Corruption(group.frame.path, group.frame.offset, str(error)) from error
        size += len(group.frame.payload)
        commits += header.commits
        time_ms = max(time_ms, header.time_ms)
        if size >= job_bytes or commits >= JOB_COMMITS:
            yield _Batch(changes, group, time_ms)
            changes, time_ms = RangeChanges(header.last_revision), 0
            size = commits = 0
    if group is not None and commits:
        yield _Batch(changes, group, time_ms)


def _one_ahead(batches: Iterator[_Batch]) -> Generator[_Batch, None, None]:
    """Yield batches, while a thread gets the next one: of a build, much lets the interpreter's lock go."""
    with ThreadPoolExecutor(1, thread_name_prefix="restore-read") as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch
