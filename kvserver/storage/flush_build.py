"""Builds the table of a flush: newest versions, history, statistics and the new flushed position, from a range of the log.

Every key of the range is looked up in the tables once, because what it displaces becomes history, says which version a
blind put is, and changes the statistics. Rows come out in the order of their keys without being sorted as rows: the keys of
a namespace are sorted, and the history rows of one bucket have the same order as their keys.

The inner loops handle bytes and flat tuples only: a flush is of some hundred thousand keys, and at two microseconds a key
each object counts.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterable, Iterator

from kvserver.base import failpoints
from kvserver.base.clock import Clock, SystemClock
from kvserver.base.errors import Corruption
from kvserver.base.limits import MIB
from kvserver.storage import rows
from kvserver.storage.flush_job import FlushJob, FlushOutcome
from kvserver.storage.resolve import Changes, RangeChanges
from kvserver.storage.tables import TableReader, TableWriter
from kvserver.wal.log_range import RangeFrame

FETCH_KEYS = 512
"""Rows asked for at once, at most."""

FETCH_BYTES = 8 * MIB
"""What one fetch is meant to bring; how many keys that is, is judged by the fetch before."""

KEPT_BYTES = 64 * MIB
"""Displaced rows kept in memory until the history is written; those beyond it are fetched again then."""

_HINT = "restore the tables from a checkpoint"
_unpack_head = struct.Struct("<BQQQ").unpack_from  # a version's: flags, mod_revision, create_revision, version


class _Bucket:
    """The history rows of one bucket, in order."""

    __slots__ = ("keys", "prefix", "values")

    def __init__(self, prefix: bytes) -> None:
        self.keys: list[bytes] = []
        self.values: list[bytes | None] = []
        """None: to be fetched again."""
        self.prefix = prefix
        """What the rows of the namespace at hand begin with."""


class _Fetcher:
    """Looks up many rows, so many at once that large ones do not fill the memory."""

    def __init__(self, tables: TableReader) -> None:
        self._tables = tables
        self._at_once = FETCH_KEYS // 8

    def batches(self, row_keys: list[bytes]) -> Iterator[tuple[int, int, list[bytes | None]]]:
        """Yield begin, end and rows of each part of the keys."""
        begin = 0
        while begin < len(row_keys):
            end = min(begin + self._at_once, len(row_keys))
            found = self._tables.get_many(row_keys[begin:end])
            fitting = FETCH_BYTES * (end - begin) // (1 + sum(map(len, filter(None, found))))
            self._at_once = max(1, min(fitting, 2 * self._at_once, FETCH_KEYS))
            yield begin, end, found
            begin = end


class _Build:
    """The state of one build, and its steps in the order of the rows."""

    def __init__(self, job: FlushJob, tables: TableReader, writer: TableWriter) -> None:
        self._job = job
        self._fetcher = _Fetcher(tables)
        self._writer = writer
        self._buckets: dict[int, _Bucket] = {}
        self._kept_room_bytes = KEPT_BYTES
        self.written = 0
        """Rows written so far, removals included."""

    def data(self, namespace: int, changes: dict[bytes, Changes], before: rows.Statistics) -> rows.Statistics:
        """Write the newest versions of a namespace's keys, collect their history, return what the namespace holds then."""
        for number, bucket in self._buckets.items():
            bucket.prefix = rows.history_prefix(number, namespace)
        put, pack, prefix = self._writer.put, rows.pack_version, rows.data_prefix(namespace)
        after_revision, keep_from = self._job.after.revision, self._job.keep_from
        live_keys, key_bytes, value_bytes = before
        keys = sorted(changes)
        row_keys = [prefix + key for key in keys]
        for begin, end, displaced in self._fetcher.batches(row_keys):
            # All that is far apart in memory is touched here, in loops so short that the processor waits for many places at once.
            chains = [changes[key] for key in keys[begin:end]]
            revisions, values, _, versions, olders = zip(*chains, strict=True)
            for key, row_key, row, chain, revision, value, version, older in zip(
                keys[begin:end], row_keys[begin:end], displaced, chains, revisions, values, versions, olders, strict=True
            ):
                if row is not None:
                    if len(row) < rows.VERSION_LENGTH:
                        raise _damaged(row_key, "it is shorter than its head")
                    flags, mod_revision, create_before, version_before = _unpack_head(row)
                    if flags or mod_revision > after_revision:
                        raise _damaged(row_key, f"it has flags {flags} and is of revision {mod_revision}")
                    value_bytes -= len(row) - rows.VERSION_LENGTH
                if older is not None or version or value is None:
                    newest = self._resolve(namespace, key, chain, row)
                elif row is None:
                    newest = pack(0, revision, revision, 1) + value
                else:
                    newest = pack(0, revision, create_before, version_before + 1) + value
                    if revision > keep_from:
                        self._supersede(namespace, key, revision, row, displaced=True)
                if newest is not None:
                    put(row_key, newest)
                    value_bytes += len(newest) - rows.VERSION_LENGTH
                    if row is None:
                        live_keys += 1
                        key_bytes += len(key)
                elif row is not None:
                    self._writer.delete(row_key)
                    live_keys -= 1
                    key_bytes -= len(key)
                else:
                    self.written -= 1
            self.written += end - begin
        return rows.Statistics(live_keys, key_bytes, value_bytes)

    def _resolve(self, namespace: int, key: bytes, chain: Changes | None, row: bytes | None) -> bytes | None:
        """Return the row of a key's newest version (None: it is deleted); what came before it in the range becomes history.

        The way for keys of several versions, deletions and exact figures.
        """
        steps: list[Changes] = []
        while chain is not None:
            steps.append(chain)
            chain = chain[4]
        live, create_before, version_before = row, 0, 0
        if row is not None:
            _, _, create_before, version_before = _unpack_head(row)
        for revision, value, create, version, _ in reversed(steps):
            if live is not None and revision > self._job.keep_from:
                self._supersede(namespace, key, revision, live, displaced=live is row)
            if value is None:
                live = None
                continue
            if version:
                create_before, version_before = create, version
            elif live is None:
                create_before, version_before = revision, 1
            else:
                version_before += 1
            live = rows.pack_version(0, revision, create_before, version_before) + value
        return live

    def _supersede(self, namespace: int, key: bytes, superseded_at: int, row: bytes, displaced: bool) -> None:
        """Keep a version for the history. One that lies in the tables is only noted once many bytes of such are kept."""
        number = superseded_at // self._job.bucket_revisions
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = _Bucket(rows.history_prefix(number, namespace))
        bucket.keys.append(bucket.prefix + rows.escape(key) + superseded_at.to_bytes(8, "big"))
        if displaced and self._kept_room_bytes < len(row):
            bucket.values.append(None)
            return
        if displaced:
            self._kept_room_bytes -= len(row)
        bucket.values.append(row)

    def history(self) -> int:
        """Write the collected history and return how many rows it is."""
        put = self._writer.put
        count = 0
        for number in sorted(self._buckets):
            bucket = self._buckets.pop(number)
            count += len(bucket.keys)
            again = [_data_key_of(key) for key, row in zip(bucket.keys, bucket.values, strict=True) if row is None]
            fetched = (row for _, _, found in self._fetcher.batches(again) for row in found)
            for key, row in zip(bucket.keys, bucket.values, strict=True):
                kept = row if row is not None else next(fetched)
                if kept is None:
                    raise _damaged(key, "it was there a moment ago")
                put(key, kept)
        self.written += count
        return count

    def end(self, statistics: dict[int, rows.Statistics]) -> None:
        """Write the rows that speak of the store as a whole."""
        job, put = self._job, self._writer.put
        flushed = rows.Flushed(job.cluster_id, job.upto, job.time_ms, job.bucket_revisions)
        put(rows.FLUSHED_KEY, rows.encode_flushed(flushed))
        for namespace in sorted(statistics):
            put(rows.statistics_key(namespace), rows.encode_statistics(statistics[namespace]))
        put(rows.time_key(job.upto.revision), rows.encode_time(job.time_ms))
        self.written += 2 + len(statistics)


def build_table(
    job: FlushJob, frames: Iterable[RangeFrame], tables: TableReader, writer: TableWriter, clock: Clock | None = None
) -> FlushOutcome:
    """Write the table of a job and finish it. ``tables`` must be what they are at ``job.after``.

    Raises Corruption for groups that do not parse and rows that cannot be; OSError. Then the table is abandoned.
    """
    return build_collected(job, lambda: collect(job.after.revision, frames), tables, writer, clock)


def build_collected(
    job: FlushJob, changes: Callable[[], RangeChanges], tables: TableReader, writer: TableWriter, clock: Clock | None = None
) -> FlushOutcome:
    """Do the same with what the groups changed, which is used up by it. Raises as ``build_table``; what ``changes`` raises."""
    clock = clock or SystemClock()
    begun = clock.monotonic()
    build = _Build(job, tables, writer)
    try:
        collected = changes()
        if collected.revision != job.upto.revision:
            raise ValueError(f"the groups end at revision {collected.revision}, the job at {job.upto.revision}")
        statistics = _write_namespaces(build, collected, tables)
        history_rows = build.history()
        build.end(statistics)
        failpoints.hit("flush.build.before_finish")
        table_bytes = writer.finish()
    except Exception:
        with contextlib.suppress(OSError):  # what went wrong first is what counts
            writer.abandon()
        raise
    failpoints.hit("flush.build.after_finish")
    return FlushOutcome(build.written, history_rows, table_bytes, statistics, clock.monotonic() - begun)


def collect(after_revision: int, frames: Iterable[RangeFrame]) -> RangeChanges:
    """Return the changes of groups that follow a revision. Raises Corruption where one does not parse, or does not follow."""
    changes = RangeChanges(after_revision)
    for frame in frames:
        try:
            changes.add_group(frame.header.first_revision, frame.header.commits, frame.payload)
        except ValueError as error:
            raise Corruption(frame.path, frame.offset, str(error)) from error
    return changes


def _write_namespaces(build: _Build, changes: RangeChanges, tables: TableReader) -> dict[int, rows.Statistics]:
    """Write the data of all namespaces in order and return their statistics. A dropped one has no rows, and zeros."""
    numbers = sorted(changes.namespaces.keys() | changes.dropped)
    before = tables.get_many([rows.statistics_key(number) for number in numbers])
    statistics: dict[int, rows.Statistics] = {}
    for number, row in zip(numbers, before, strict=True):
        try:
            held = rows.decode_statistics(row) if row is not None else rows.Statistics(0, 0, 0)
        except struct.error as error:
            raise _damaged(rows.statistics_key(number), str(error)) from error
        touched = changes.namespaces.pop(number, {})
        dropped = number in changes.dropped
        statistics[number] = rows.Statistics(0, 0, 0) if dropped else build.data(number, touched, held)
    return statistics


def _damaged(key: bytes, what: str) -> Corruption:
    """Return the error that a row of the tables cannot be."""
    return Corruption("tables", 0, f"the row {key[:64]!r} cannot be: {what}", _HINT)


def _data_key_of(history_key: bytes) -> bytes:
    """Return the key of the data row that a history row came from."""
    _, namespace, key, _ = rows.parse_history_key(history_key)
    return rows.data_key(namespace, key)
