"""Flushes: memory into tables, in steps of which each leaves a store that opens.

    1  freeze     the active memtable takes no more commits; another one is begun above it
    2  cut        the log ends a frame with exactly the frozen memtable's last commit, and durably so
    3  build      a helper reads that range of the log and builds one table, in a file beside the tables
    4  ingest     the table is taken in, atomically and durably, and with it the row that says how far the tables are
    5  release    memory lets the memtable go, and the log the segments that nobody needs any more

A crash before 4 loses nothing but work: the log still has it all, and the half-built file is removed at the next open. After 4
the next open replays the log from the new position on. Nothing is flushed before it is visible (2 waits for the sync), because
tables take nothing back.

What cannot be flushed stays in memory, is tried again, and counts: above ``memory_limit_bytes`` writes wait in line, and are
refused while a failure lasts. Tables that are not merged yet count in the same way, because 3 waits for the merging: RocksDB's
own brake does not see what is ingested.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import NamedTuple

from kvserver.base import failpoints
from kvserver.base.environment import Environment
from kvserver.base.errors import Corruption, NotServing
from kvserver.base.events import FlushFailing, FlushRecovered, Listener, TableFlushed
from kvserver.base.options import TableOptions
from kvserver.base.paths import DataPaths
from kvserver.base.types import Position
from kvserver.commit.pipeline import CommitPipeline
from kvserver.commit.refusals import flush_failed, log_failed
from kvserver.commit.replay import ReplayPipeline
from kvserver.commit.ticket import Ticket, answered, complete_all
from kvserver.engine.obsolete_files import FLUSH, Holds, SegmentDeleter
from kvserver.engine.shedding import Shedder
from kvserver.engine.table_access import TablesBeside
from kvserver.engine.worker import Post, Worker
from kvserver.storage.flush_job import FlushBuilder, FlushJob, FlushOutcome
from kvserver.storage.rows import Statistics
from kvserver.storage.tables import TableFigures, Tables

MERGE_POLL_S = 0.05


class FlushFloor(NamedTuple):
    """What the flusher stands on."""

    env: Environment
    paths: DataPaths
    options: TableOptions
    tables: Tables
    beside: TablesBeside
    builder: FlushBuilder
    worker: Worker
    holds: Holds
    deleter: SegmentDeleter
    post: Post
    listener: Listener


class Flusher:
    """Freezes, flushes and releases. Belongs to the event loop; builds run on the thread ``flush``, ingests on ``tables``."""

    def __init__(
        self, floor: FlushFloor, pipeline: CommitPipeline | ReplayPipeline, cluster_id: bytes, flushed: Position, buckets: int
    ) -> None:
        self._floor = floor
        self._pipeline = pipeline
        self._state = pipeline.state
        self._view = pipeline.state.view
        self._marks = pipeline.marks
        self._cluster_id = cluster_id
        self._flushed = flushed
        self._bucket_revisions = buckets
        self._is_busy = False
        self._retry_at_s = 0.0
        self._waiting: list[tuple[int, Ticket[int]]] = []
        self._shedder = Shedder(floor.post, floor.env.clock)
        self._closing = False
        self._merged = threading.Condition()
        self.statistics: dict[int, Statistics] = {}
        """Of every namespace, as of the flushed revision."""
        self.flushes = 0
        self.error: Exception | None = None
        """Why the last flush failed; None once one did not."""
        self.figures = floor.tables.figures()
        """What the tables looked like a second ago, or behind the last flush."""
        self.before_freeze: Callable[[], None] = lambda: None
        """Makes memory end where a group of the log does, where it may not."""
        self.after_flush: Callable[[], None] = lambda: None
        self._cleared = False
        pipeline.on_cut = self._on_cut

    @property
    def position(self) -> Position:
        """Return what the tables hold."""
        return self._flushed

    # -- asking ---------------------------------------------------------------------------------------------------

    @property
    def is_held_up(self) -> bool:
        """Say whether memory is being written into tables, or could not be: then waiting is what gives room."""
        return self._is_busy or self.error is not None

    def consider(self) -> None:
        """Freeze the active memtable if it is full, and flush what is frozen; to be called often."""
        if self._pipeline.failure is not None or self._closing:
            self.give_up()
            return
        active, options = self._view.active, self._floor.options
        if active.size_bytes >= options.memtable_bytes or active.most_keys >= options.memtable_keys:
            self._freeze()
        self._begin()

    def flush(self) -> Ticket[int]:
        """Flush all that was submitted so far; return a ticket of the flushed revision. Its answer raises KvError."""
        ticket: Ticket[int] = Ticket(None, lambda outcome: int(outcome))
        if self._pipeline.failure is not None or self._closing:
            ticket.fail(self._no_flush())
            return ticket
        if self._view.active.size_bytes:
            self._freeze()
        if not self._view.frozen:
            return answered(self._marks.flushed)
        self._waiting.append((self._view.frozen[0].revision, ticket))
        self._retry_at_s = 0.0
        self._begin()
        return ticket

    def flush_up_to(self, revision: int) -> None:
        """See that a revision is flushed before long, without a new memtable for each time this is asked."""
        if all(frozen.revision < revision for frozen in self._view.frozen) and not self._closing:
            self._freeze()
        self._begin()

    def tick(self) -> None:
        """Do what time makes due; to be called every second or so."""
        if not self.flushes and not self._cleared:  # what a crash kept from being removed after its ingest
            self._cleared = True
            self._floor.worker.run(self._floor.deleter.delete_obsolete, _nobody)
        self._shedder.add(self._view.unneeded())
        self.consider()
        self._floor.beside.run(self._floor.tables.figures, self._set_figures)

    def close(self) -> None:
        """Begin nothing any more. May be called on any thread; ``give_up`` follows on the event loop."""
        self._closing = True
        with self._merged:
            self._merged.notify_all()

    def give_up(self) -> None:
        """Tell those who wait for a flush that there will be none."""
        waiting, self._waiting = self._waiting, []
        for _, ticket in waiting:
            ticket.fail(self._no_flush())

    def _no_flush(self) -> NotServing:
        return log_failed() if self._pipeline.failure is not None else NotServing("the node is stopping and does not flush")

    def _set_figures(self, figures: TableFigures | Exception) -> None:
        if isinstance(figures, TableFigures):
            self.figures = figures

    # -- 1, 2: freeze and cut -------------------------------------------------------------------------------------

    def _freeze(self) -> None:
        self.before_freeze()
        self._view.freeze(self._marks.applied)
        self._pipeline.request_cut()

    def _on_cut(self, position: Position) -> None:
        frozen = next(frozen for frozen in reversed(self._view.frozen) if frozen.position is None)
        assert frozen.revision == position.revision <= self._marks.visible, "the log was cut at another place than memory"
        frozen.position = position
        failpoints.hit("engine.flush.after_cut")
        self._begin()

    # -- 3: build -------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Begin to flush the oldest frozen memtable, unless one is being flushed or must not be yet."""
        frozen = self._view.frozen[-1] if self._view.frozen else None
        if frozen is None or frozen.position is None or self._is_busy or self._closing:
            return
        if frozen.revision > self._marks.visible:  # of what was recovered, not all may have been shown
            return
        floor = self._floor
        if self._pipeline.failure is not None or floor.env.clock.monotonic() < self._retry_at_s:
            return
        self._is_busy = True
        job = FlushJob(
            cluster_id=self._cluster_id,
            after=self._flushed,
            upto=frozen.position,
            keep_from=self._state.oldest_readable(self._marks.visible),
            bucket_revisions=self._bucket_revisions,
            time_ms=floor.env.clock.now_ms(),
            target=floor.paths.table_being_built(frozen.revision),
        )

        def build() -> FlushOutcome:
            self._await_merging()
            return floor.builder.build(job)

        floor.worker.run(build, lambda outcome: self._on_built(job, outcome))

    def _await_merging(self) -> None:
        """Wait while too many tables are not merged with others; on the flush thread."""
        options = self._floor.options
        while not self._closing:
            figures = self._floor.tables.figures()
            few = figures.level0_files <= options.max_level0_files
            if few and figures.pending_compaction_bytes <= options.max_pending_compaction_bytes:
                return
            if figures.background_error:
                return  # nothing is merged until something is written: the ingest finds out whether that is possible
            with self._merged:
                self._floor.env.clock.wait(self._merged, MERGE_POLL_S)

    # -- 4: ingest ------------------------------------------------------------------------------------------------

    def _on_built(self, job: FlushJob, outcome: FlushOutcome | Exception) -> None:
        if isinstance(outcome, Exception):
            self._fail(outcome)
            return
        failpoints.hit("engine.flush.after_build")

        def take_in(tables: Tables) -> None:
            tables.ingest(job.target)
            failpoints.hit("engine.flush.after_ingest")

        self._floor.beside.ingest(take_in, job.upto.revision, lambda result: self._on_ingested(job, outcome, result))

    def _fail(self, error: Exception) -> None:
        """Keep what was frozen and try again later."""
        self._is_busy = False
        self._retry_at_s = self._floor.env.clock.monotonic() + self._floor.options.flush_retry_ms / 1000
        if self._closing:
            self.give_up()
            return
        if self.error is None or str(self.error) != str(error):
            where = f"{error.message}" if isinstance(error, Corruption) else str(error) or repr(error)
            self._floor.listener(FlushFailing(where))
        self.error = error
        waiting, self._waiting = self._waiting, []
        for _, ticket in waiting:
            ticket.fail(flush_failed(error))
        self._pipeline.admit_waiting()  # those that wait for memory are refused now

    # -- 5: release -----------------------------------------------------------------------------------------------

    def _on_ingested(self, job: FlushJob, outcome: FlushOutcome, result: Exception | None) -> None:
        if result is not None:
            self._fail(result)
            return
        revision = job.upto.revision
        self._view.flushed()
        self._flushed = job.upto
        self._marks.flushed = revision
        self.statistics.update(outcome.statistics)
        self.flushes += 1
        self._is_busy = False
        floor = self._floor
        floor.listener(TableFlushed(revision, outcome.rows, outcome.history_rows, outcome.table_bytes, outcome.seconds))
        if self.error is not None:
            self.error = None
            floor.listener(FlushRecovered())
        floor.holds.set(FLUSH, revision + 1)
        floor.worker.run(floor.deleter.delete_obsolete, _nobody)
        failpoints.hit("engine.flush.after_release")
        self._shedder.add(self._view.unneeded())
        floor.beside.run(floor.tables.figures, lambda figures: self._answer(revision, figures))
        self._begin()
        self._pipeline.admit_waiting()
        self.after_flush()

    def _answer(self, revision: int, figures: TableFigures | Exception) -> None:
        """Answer those who wait for a revision, when the figures that they may ask for next are those behind the flush."""
        self._set_figures(figures)
        reached = [ticket for wanted, ticket in self._waiting if wanted <= revision]
        self._waiting = [(wanted, ticket) for wanted, ticket in self._waiting if wanted > revision]
        for ticket in reached:
            ticket.decide(revision)
        complete_all(reached)


def _nobody(result: object) -> None:
    """Tell nobody: what could not be deleted is reported where it happens, and tried again."""
