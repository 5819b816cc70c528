"""What the parts of the database count, for status and metrics: as values, and how they are read."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from kvserver.base.environment import Environment
from kvserver.base.types import Position
from kvserver.commit.pipeline import CommitPipeline
from kvserver.commit.replay import ReplayPipeline
from kvserver.commit.state import State
from kvserver.engine.flushing import Flusher
from kvserver.engine.following import Following
from kvserver.engine.leading import Leading
from kvserver.engine.obsolete_files import Holds
from kvserver.engine.table_access import TablesBeside
from kvserver.storage.rows import Statistics
from kvserver.storage.tables import TableFigures
from kvserver.wal.node_log import NodeLog
from kvserver.wal.space import LogSpace


@dataclasses.dataclass(frozen=True, slots=True)
class LogFigures:
    """What the log looks like at the moment."""

    segments: int
    total_bytes: int
    groups: int
    syncs: int
    bytes_written: int
    chain: bytes
    space_error: str


class TableReads(NamedTuple):
    """How much was read from the tables by key."""

    rows: int
    batches: int
    """Multi-gets that read them."""


class Measured:
    """The part of ``Database`` that counts. Its figures are read on the event loop or on threads beside it."""

    state: State
    flusher: Flusher
    pipeline: CommitPipeline | ReplayPipeline
    _beside: TablesBeside
    _env: Environment
    _holds: Holds
    _log: NodeLog
    _opened_at: Position
    _side: Leading | Following
    _leading: Leading | None
    _following: Following | None
    _space: LogSpace | None

    def now_ms(self) -> int:
        """Return the time on this node, in milliseconds since 1970."""
        return self._env.clock.now_ms()

    def statistics(self, namespace: int) -> Statistics:
        """Return what a namespace holds: exact as of the flushed revision; what was put since counts as new."""
        keys, key_bytes, value_bytes = self.flusher.statistics.get(namespace, Statistics(0, 0, 0))
        for memtable in self.state.view.memtables():
            table = memtable.find(namespace)
            if table is not None:
                keys += table.live_keys
                value_bytes += table.put_bytes
        return Statistics(max(0, keys), key_bytes, value_bytes)

    def live_keys(self) -> int:
        """Return how many keys exist in all namespaces, counted like ``statistics``."""
        flushed = sum(one.keys for namespace, one in list(self.flusher.statistics.items()) if namespace)
        return max(0, flushed + self.state.view.live_keys())

    def memory_bytes(self) -> int:
        """Return what is held in memory because it is in no table yet."""
        return self.state.view.unflushed_bytes

    def table_figures(self) -> TableFigures:
        """Return what the tables looked like a second ago, or behind the last flush."""
        return self.flusher.figures

    def table_reads(self) -> TableReads:
        """Return how much was read from the tables since the start."""
        return TableReads(self._beside.reads, self._beside.batches)

    def holds(self) -> list[tuple[str, int]]:
        """Return who keeps segments of the log, and from which revision on."""
        return sorted(self._holds.list().items())

    @property
    def flushes(self) -> int:
        """Return how often memory was flushed since the start."""
        return self.flusher.flushes

    @property
    def flush_error(self) -> str:
        """Return why the last flush failed; empty once one did not."""
        return str(self.flusher.error) if self.flusher.error is not None else ""

    def log_figures(self) -> LogFigures:
        """Return what the log looks like. Read beside the log thread: each figure is true of some moment just past."""
        error = self._space.error if self._space is not None else None
        return LogFigures(
            segments=len(self._log.extent().segments()),
            total_bytes=self._log.total_bytes(),
            groups=self._side.groups,
            syncs=self._log.syncs,
            bytes_written=self._log.bytes_written,
            chain=(self.pipeline.position or self._opened_at).chain,
            space_error=str(error) if error is not None else "",
        )
