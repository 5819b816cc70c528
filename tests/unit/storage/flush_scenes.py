"""Flushes without a log or a disk: groups, tables as a dict, a table as a list of rows, and the model they are held to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from kvserver.base.types import CREATION_REVISION, Epoch, Position
from kvserver.storage import rows
from kvserver.storage.flush_build import build_table
from kvserver.storage.flush_job import FlushJob, FlushOutcome
from kvserver.storage.rows import Statistics
from kvserver.storage.tables import Row
from kvserver.wal import format as fmt
from kvserver.wal.commit_record import DELETE, PUT, Effect, encode_commit, encode_put_run
from kvserver.wal.log_range import RangeFrame

EPOCH = Epoch(1, 7)
CLUSTER_ID = bytes(range(16))
BUCKET = 4
NOTHING = Statistics(0, 0, 0)


class DictTables:
    """Tables as one dict of rows."""

    def __init__(self) -> None:
        self.rows_held: dict[bytes, bytes] = {}
        self.asked: list[int] = []

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        assert list(keys) == sorted(keys), "sorted keys are read faster"
        self.asked.append(len(keys))
        return [self.rows_held.get(key) for key in keys]

    def rows(self, start: bytes, end: bytes, limit: int, max_bytes: int = 0, reverse: bool = False) -> list[Row]:
        raise AssertionError("a flush does not scan")

    def close(self) -> None:
        pass

    def ingest(self, writer: ListWriter) -> None:
        for key, value in writer.rows:
            if value is None:
                del self.rows_held[key]  # KeyError: a removal of what is not there is a wasted row
            else:
                self.rows_held[key] = value

    def span(self, start: bytes, end: bytes) -> Iterator[Row]:
        return ((key, self.rows_held[key]) for key in sorted(self.rows_held) if start <= key < end)


class ListWriter:
    """A table as a list of rows; None is a removal."""

    def __init__(self) -> None:
        self.rows: list[tuple[bytes, bytes | None]] = []
        self.abandoned = False

    def put(self, key: bytes, value: bytes) -> None:
        self._add(key, value)

    def delete(self, key: bytes) -> None:
        self._add(key, None)

    def _add(self, key: bytes, value: bytes | None) -> None:
        if self.rows and self.rows[-1][0] >= key:
            raise ValueError(f"{key!r} does not follow {self.rows[-1][0]!r}")
        self.rows.append((key, value))

    def finish(self) -> int:
        return len(self.rows)

    def abandon(self) -> None:
        self.abandoned = True


class Live(NamedTuple):
    """A version as readers see it."""

    value: bytes
    create_revision: int
    mod_revision: int
    version: int


Name = tuple[int, bytes]


class Model:
    """Every version resolved when it is written, and the state kept at every revision."""

    def __init__(self) -> None:
        self.states: list[dict[Name, Live]] = [{}] * (CREATION_REVISION + 1)

    @property
    def revision(self) -> int:
        return len(self.states) - 1

    def commit(self, effects: list[Effect]) -> None:
        state = dict(self.states[-1])
        revision = self.revision + 1
        for effect in effects:
            name = effect.namespace, effect.key
            before = state.pop(name, None)
            if effect.op == DELETE:
                continue
            if effect.version:
                create, version = effect.create_revision, effect.version
            elif before is None:
                create, version = revision, 1
            else:
                create, version = before.create_revision, before.version + 1
            state[name] = Live(effect.value, create, revision, version)
        self.states.append(state)

    def statistics(self, namespace: int) -> Statistics:
        found = [(key, live.value) for (owner, key), live in self.states[-1].items() if owner == namespace]
        return Statistics(len(found), sum(len(key) for key, _ in found), sum(len(value) for _, value in found))


def frame_of(first_revision: int, commits: list[bytes]) -> RangeFrame:
    payload = b"".join(commits)
    header = fmt.FrameHeader(fmt.GROUP, len(payload), 9, first_revision, len(commits), 0, 0, 0, bytes(16), 0)
    return RangeFrame(4096, header, payload, Path("/data/wal/segment"), Epoch(1, 11))


def position(revision: int) -> Position:
    return Position(EPOCH, revision, revision.to_bytes(16, "big"))


def job_of(after: int, upto: int, keep_from: int = 0) -> FlushJob:
    return FlushJob(CLUSTER_ID, position(after), position(upto), keep_from, BUCKET, 1000 + upto, Path("/data/building/x"))


class Store:
    """Commits that wait for a flush, and the tables that the flushes before made."""

    def __init__(self) -> None:
        self.tables = DictTables()
        self.flushed = CREATION_REVISION
        self.revision = CREATION_REVISION
        self.keep_from = 0
        self.frames: list[RangeFrame] = []
        self.dropped: set[int] = set()

    def group(self, commits: list[list[Effect]]) -> None:
        """Add a group; a commit of one blind put is encoded by the fast path."""
        encoded = [
            encode_put_run(effect.namespace, [effect.key], [effect.value])
            if (effect := commit[0]).op == PUT and not effect.version and len(commit) == 1
            else encode_commit(commit)
            for commit in commits
        ]
        self.frames.append(frame_of(self.revision + 1, encoded))
        self.revision += len(commits)

    def flush(self, keep_from: int = 0) -> tuple[FlushOutcome, ListWriter]:
        """Build the table of what waits, take it in, remove the rows of namespaces that it drops, as the engine does."""
        self.keep_from = max(self.keep_from, keep_from)
        job, writer = job_of(self.flushed, self.revision, self.keep_from), ListWriter()
        outcome = build_table(job, iter(self.frames), self.tables, writer)
        self.tables.ingest(writer)
        for namespace in self.dropped:
            begin, end = rows.data_span(namespace, b"", b"")
            for key, _ in list(self.tables.span(begin, end)):
                del self.tables.rows_held[key]
        self.flushed, self.frames = self.revision, []
        assert outcome.rows == len(writer.rows) == outcome.table_bytes
        assert outcome.history_rows == sum(key[:1] == rows.HISTORY for key, _ in writer.rows)
        return outcome, writer

    def read(self, namespace: int, key: bytes, revision: int) -> Live | None:
        """Read as the rows are meant: the newest if it is old enough, else the first past version that outlived the revision."""
        row = self.tables.rows_held.get(rows.data_key(namespace, key))
        found = rows.decode_version(row) if row is not None else None
        if found is None or found.mod_revision > revision:
            found = self._past(namespace, key, revision)
        if found is None or found.mod_revision > revision:
            return None
        return Live(found.value, found.create_revision, found.mod_revision, found.version)

    def _past(self, namespace: int, key: bytes, revision: int) -> rows.Stored | None:
        for bucket in range((revision + 1) // BUCKET, self.flushed // BUCKET + 1):
            begin = rows.history_key(bucket, namespace, key, revision + 1)
            end = rows.history_key(bucket, namespace, key, 2**64 - 1)
            for _, row in self.tables.span(begin, end):
                return rows.decode_version(row)
        return None


def put(key: bytes, value: bytes = b"v", namespace: int = 1, exact: tuple[int, int] = (0, 0)) -> Effect:
    return Effect(PUT, namespace, key, value, *exact)


def delete(key: bytes, namespace: int = 1) -> Effect:
    return Effect(DELETE, namespace, key, b"")
