"""The database of one node: open, write, read, close. The class to read first.

Everything but ``open`` and ``close`` belongs to one event loop and does not block it. What blocks is done by threads that each
do one thing after the other: ``log-writer`` and ``log-space`` (the log; ``log-receiver`` on a follower), ``tables`` (reads and
ingests), ``flush`` (waits for the helper that builds tables, removes segments), ``upkeep`` (gives space back).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from kvserver.base import failpoints
from kvserver.base.environment import Environment
from kvserver.base.errors import KvError
from kvserver.base.events import CheckpointMade, Listener, ignore
from kvserver.base.options import EngineOptions
from kvserver.base.paths import DataPaths
from kvserver.base.register import NodeRecord, Register
from kvserver.base.types import Epoch, Identity, Position, Role, Version
from kvserver.commit.marks import Marks
from kvserver.commit.pipeline import CommitPipeline
from kvserver.commit.reading import Reader, compacted
from kvserver.commit.replay import ReplayPipeline
from kvserver.commit.requests import Request, spans_of
from kvserver.commit.state import NamespaceEntry
from kvserver.commit.ticket import Ticket
from kvserver.engine.archiving import Archiving
from kvserver.engine.checkpoint import CheckpointDone, check_target, make_checkpoint, origin_of
from kvserver.engine.flushing import Flusher, FlushFloor
from kvserver.engine.following import Following
from kvserver.engine.freshness import Contact, FollowerReads
from kvserver.engine.history import HistoryBounds, HistoryFound, read_history
from kvserver.engine.leading import Leading
from kvserver.engine.log_side import LogSide
from kvserver.engine.observers import Observers
from kvserver.engine.obsolete_files import Holds, LogHolds, SegmentDeleter
from kvserver.engine.opening import Opened, OpenRequest, open_folder
from kvserver.engine.opening_tables import flushed_position
from kvserver.engine.scan import Scan, ScanChunk, ScanOptions, order_keys
from kvserver.engine.table_access import TablesBeside
from kvserver.engine.table_kit import TableKit
from kvserver.engine.upkeep import Upkeep
from kvserver.engine.worker import Post, Worker, told_by
from kvserver.storage.past import TableState
from kvserver.storage.ranges import KeySpan
from kvserver.storage.view import Pin
from kvserver.wal.log import LogWriter

Answer = TypeVar("Answer")
ANY_REVISION = 1 << 62


class Database(LogSide):
    """One store. Make it with ``open``."""

    def __init__(self, asked: OpenRequest, opened: Opened, post: Post) -> None:
        env, options, listener = asked.env, asked.options, asked.listener
        self.identity: Identity = opened.identity
        self.history = opened.history
        self.needs_revision = opened.needs_revision
        """As a follower: what this node may have acknowledged and lost; up to there it fetches again. 0: nothing."""
        flushed = flushed_position(opened.tables, self.identity.cluster_id)
        self.role = asked.role
        self._env = env
        self._paths = asked.paths
        self._lock = opened.lock
        self._log = opened.log
        self._space = opened.space
        self._tables = opened.tables.tables
        self._post = post
        self._opened_at = opened.position
        self._listener = listener
        self._observers = Observers()
        self.state = opened.state
        buckets = opened.tables.bucket_revisions
        self._beside = TablesBeside(self._tables, TableState(flushed.revision, buckets), post)
        self._make_sides(asked, opened, flushed)
        self._flush_worker = Worker("flush", post)
        self._upkeep_worker = Worker("upkeep", post)
        self._builder = asked.kit.make_builder(env, asked.paths, options.tables, self._tables, listener)
        self._holds = Holds(self.marks.flushed + 1, opened.log.first_revision())
        deleter = SegmentDeleter(env.fs, asked.paths, opened.log, self._holds, listener)
        self._log_holds = LogHolds(self._holds, lambda: self._flush_worker.run(deleter.delete_obsolete, lambda deleted: None))
        self._archiving = Archiving(self.pipeline, opened.log, self._holds, self._flush_worker, deleter)
        if asked.hold_archive:
            self._archiving.hold_everything()
        floor = FlushFloor(
            env,
            asked.paths,
            options.tables,
            self._tables,
            self._beside,
            self._builder,
            self._flush_worker,
            self._holds,
            deleter,
            post,
            listener,
        )
        self.flusher = Flusher(floor, self.pipeline, self.identity.cluster_id, flushed, buckets)
        self.flusher.statistics.update(opened.tables.statistics)
        self._upkeep = Upkeep(
            self.pipeline, self.flusher, self._tables, self._upkeep_worker, env.clock, options.tables, buckets, listener
        )
        self._upkeep.remember(opened.tables.times)
        self.flusher.after_flush = self._upkeep.return_space
        self._connect(options)

    def _make_sides(self, asked: OpenRequest, opened: Opened, flushed: Position) -> None:
        """Make the marks, the reader, the pipeline and what moves the log, as the role has them."""
        env, options, listener = asked.env, asked.options, asked.listener
        end = opened.position.revision
        self.contact = None
        self._follower_reads = None
        if isinstance(opened.log, LogWriter):
            assert opened.space is not None, "a primary's log has its space"
            self.marks = Marks(end, flushed.revision, waits=self.state.needs_quorum(flushed.revision))
            self.reader = Reader(self.state, self.marks, self._beside)
            leading = Leading(opened.log, opened.space, options.wal, env.clock, self._post, listener)
            self._leading, self._following, self._side = leading, None, leading
            self.pipeline = CommitPipeline(self.state, self.marks, leading, options.pipeline, self.reader)
            return
        self.marks = Marks(end, flushed.revision)
        self.marks.visible = flushed.revision  # what is in tables was shown; of the rest only the primary knows
        self.reader = Reader(self.state, self.marks, self._beside)
        replay = ReplayPipeline(self.state, self.marks, self.reader, opened.position)
        self.pipeline = replay
        self._leading, self._following = None, Following(opened.log, replay, self.history, self._post, listener)
        self._side = self._following
        self.contact = Contact(env.clock, opened.last_word_ms)
        self._follower_reads = FollowerReads(replay, self.history, self.contact)

    def _connect(self, options: EngineOptions) -> None:
        """Let the parts hear of each other."""
        flusher, pipeline = self.flusher, self.pipeline
        pipeline.on_visible = self._moved
        if self._leading is not None:
            self._leading.flush_error = lambda: flusher.error
            self._leading.on_group = self._on_group
            self._leading.on_room = self._on_room
        if self._following is not None and self._follower_reads is not None and isinstance(pipeline, ReplayPipeline):
            limit = options.pipeline.memory_limit_bytes
            view = self.state.view
            self._following.must_wait = lambda: bool(limit) and view.unflushed_bytes >= limit and flusher.is_held_up
            self._following.on_begun = pipeline.on_end = self._follower_reads.retry
            self._following.on_moved = self._on_inserted
            flusher.before_freeze = pipeline.finish

    @classmethod
    def open(
        cls,
        data_dir: Path,
        register: Callable[[Environment, DataPaths], Register],
        register_kind: str,
        post: Post,
        kit: TableKit,
        options: EngineOptions | None = None,
        env: Environment | None = None,
        listener: Listener = ignore,
        threads: bool = True,
        hold_archive: bool = False,
        role: Role = Role.PRIMARY,
        claimed: Epoch | None = None,
        cluster_id: bytes | None = None,
        node: NodeRecord | None = None,
        must_refetch: Callable[[int], None] = lambda revision: None,
    ) -> Database:
        """Open a data folder, creating it if there is none. Raises OpenRefused, Corruption, ReplicationError, OSError.

        ``register_kind``: the id of the register, which the folder keeps. ``claimed``: the epoch that this node has claimed for
        becoming primary; without it a primary claims one. ``cluster_id``: the cluster that a new folder becomes a node of.
        ``hold_archive``: keep the whole log until ``on_archived`` says how much of it is archived.
        ``must_refetch``: told, before a follower's log is cut, up to which revision it may have acknowledged what goes.
        Without ``threads`` nothing moves by itself: ``run_log_once`` and ``run_tables_once`` do a turn on the caller's thread.
        """
        env = env or Environment()
        asked = OpenRequest(
            env=env,
            paths=DataPaths(data_dir),
            options=options or EngineOptions(),
            register=lambda at: register(env, at),
            register_kind=register_kind,
            kit=kit,
            listener=listener,
            hold_archive=hold_archive,
            role=role,
            claimed=claimed,
            cluster_id=cluster_id,
            node=node,
            must_refetch=must_refetch,
        )
        opened = open_folder(asked)
        database = cls(asked, opened, post)
        if threads:
            database._side.start()
            for worker in database._workers():
                worker.start()
        return database

    # -- writing --------------------------------------------------------------------------------------------------

    def submit(
        self, request: Request, convert: Callable[[Any], Answer], memory: bool = False, pin: Pin | None = None
    ) -> Ticket[Answer]:
        """Carry out a write or a run of reads in order; see ``CommitPipeline.submit``.

        A write that must be judged by what lies in tables, and comes without what ``prepare`` read, is submitted when that was
        read: later than others that were given here after it. Who needs their order prepares first.
        """
        if pin is not None or self.role is Role.FOLLOWER or not self.reader.needs_tables(request):
            return self.pipeline.submit(request, convert, memory, pin)
        ticket = Ticket(request, convert, memory)
        ticket.waiting_bytes = 0  # nothing of it was carried out yet
        prepared = self.reader.prepare([request])

        def on_prepared() -> None:
            ticket.waiting_bytes = -1
            if ticket.done:  # gave up
                return
            try:
                ticket.pin = prepared.answer()
            except KvError as error:
                ticket.fail(error)
                return
            self.pipeline.submit_ticket(ticket)

        prepared.on_done(on_prepared)
        return ticket

    async def prepare(self, requests: Sequence[Request]) -> Pin:
        """Read what judging the requests needs from the tables, and order the keys that deletions of spans walk.

        To be handed to ``submit`` with each of them. Raises KvError where the tables fail. A follower reads nothing: there
        ``submit`` refuses what writes.
        """
        if self.role is Role.FOLLOWER:
            return self.state.view.pin()
        for request in requests:
            for span in spans_of(request):
                await order_keys(self.state.view.memtables(), span.namespace)
        return await self.reader.prepare(requests)

    # -- reading --------------------------------------------------------------------------------------------------

    def namespace_id(self, name: str) -> int:
        """Return the id of a visible namespace. Raises UnknownNamespace, for writes too: its creation may yet be taken back."""
        return self.state.namespace_id(name, self.marks.visible)

    def namespaces(self) -> list[NamespaceEntry]:
        """Return the namespaces that readers may know of, by name."""
        return self.state.namespaces_at(self.marks.visible)

    def read(self, namespace: int, keys: Sequence[bytes], revision: int) -> Ticket[list[Version | None]]:
        """Return a ticket of the versions of keys at a visible revision."""
        return self.reader.read(namespace, keys, revision)

    def scan(self, namespace: int, span: KeySpan, revision: int, options: ScanOptions) -> AsyncIterator[ScanChunk]:
        """Yield the chunks of a scan at a visible revision. Raises KvError, also half-way, where that is given up."""
        pin = self._upkeep.pin_scan(revision)

        def still_readable() -> None:
            self.reader.require_readable(namespace, pin.revision)

        return Scan(self.state, self._beside, (namespace, span), revision, options, still_readable).chunks()

    def key_history(self, namespace: int, key: bytes, below: int, limit: int, max_bytes: int) -> Ticket[HistoryFound]:
        """Return a ticket of what visible commits below a revision (0: all) did to a key, newest first."""
        bounds = HistoryBounds(min(below or ANY_REVISION, self.marks.visible + 1), limit, max_bytes)
        return read_history(self.state, self._beside, namespace, key, lambda: self.oldest_readable, bounds)

    @property
    def oldest_readable(self) -> int:
        """Return the oldest revision that can be read at."""
        return self.state.oldest_readable(self.marks.visible)

    def reading_at(self, revision: int, session: tuple[int, int] | None, max_lag_ms: int = 0) -> Ticket[int]:
        """Return a ticket of the revision to read at: the one asked for (0: the newest visible), not before the session's.

        The answer raises RevisionError for a revision that does not exist yet or was given up, and for a session that is not
        part of this node's history. A follower waits for what does not exist yet, and for the first word of its primary; it
        raises RevisionError (STALE) where it is more than ``max_lag_ms`` behind (0: it may be).
        """
        if self._follower_reads is not None:
            return self._follower_reads.reading_at(revision, session, max_lag_ms)
        # Behind a restart the newest state is that of the log's end: it may have been shown before, quorum or not.
        wanted = revision or (self.marks.opened if self.marks.opened > self.marks.visible else 0)
        try:
            if session is not None and session[1]:
                self.history.require(*session)
                wanted = max(wanted, session[1])
            if revision and revision < self.oldest_readable:
                raise compacted(revision, self.oldest_readable)
        except KvError as error:
            ticket: Ticket[int] = Ticket(None, int)
            ticket.fail(error)
            return ticket
        ticket = self.pipeline.when_visible(wanted or self.marks.visible)
        ticket.convert_with(lambda _: revision or self.marks.visible)
        return ticket

    # -- looking after it -----------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Do what time makes due: seal by age, flush, give up history and space; to be called every second or so."""
        if self._log.may_seal():
            self.pipeline.request_seal()
        self._archiving.tick()
        self._log_holds.tick()
        self.flusher.tick()
        self._upkeep.tick()

    def flush(self) -> Ticket[int]:
        """Write what memory holds into a table; return a ticket of the flushed revision."""
        return self.flusher.flush()

    async def checkpoint(self, target: Path, scratch: bool = False, flushing: Ticket[int] | None = None) -> CheckpointDone:
        """Make a copy of the store, as of now, in a folder that does not exist yet. Raises KvError.

        ``scratch``: it lies within the data folder, belongs to whoever wanted it, and is no event.
        ``flushing``: of a flush that was begun before; behind it the tables are copied as they stand. None: flush now.
        """
        if not scratch:
            # A folder of a network may hang: not on the event loop, nor where everybody reads.
            await told_by(self._flush_worker, lambda: check_target(self._env, self._paths.root, target))
        await (flushing if flushing is not None else self.flush())

        def work() -> CheckpointDone:
            # On the thread that ingests, so that the tables stand still at the position that they name.
            origin = origin_of(self._tables, self.identity, self.history, self.flusher.position, self._env.clock.now_ms())
            return make_checkpoint(self._env, self._tables, target, origin)

        made = await told_by(self._beside, work)
        if not scratch:
            self._listener(CheckpointMade(str(target), made.position.revision, made.table_files, made.table_bytes))
        return made

    # -- life -----------------------------------------------------------------------------------------------------

    @property
    def failure(self) -> BaseException | None:
        """Return why the log failed, None while it has not. May be asked on any thread, and after ``close``."""
        return self.pipeline.failure or self._side.failure

    def run_log_once(self) -> bool:
        """Do one turn of the log, and one of the space keeper, on this thread; only where opened without threads."""
        return self._side.run_once()

    def run_tables_once(self) -> bool:
        """Do one job of each of the other threads on this one; say whether there was any. Only where opened without threads."""
        ran = [worker.run_once() for worker in self._workers()]
        return any(ran)

    def close(self) -> None:
        """End cleanly: write what was handed over, a last mark, the seal. After a failure of the log: just let go.

        What memory holds is not flushed: the next start reads it back from the log. A follower writes no mark and no seal: its
        log stays a part of the primary's, byte for byte.
        """
        failpoints.hit("engine.close.before_final_sync")
        self.flusher.close()
        self._post(self.flusher.give_up)
        self._post(self._archiving.close)
        self._post(self._end_waits)
        self._builder.close()
        try:
            self._side.stop()
            if self._side.failure is None:
                self._log.close()
                failpoints.hit("engine.close.after_final_sync")
        finally:
            self._log.abandon()
            self._tables.close()  # before the threads are waited for: it ends a compaction, which can take minutes
            for worker in self._workers():
                worker.stop()
            self._lock.release()

    def _workers(self) -> tuple[Worker, ...]:
        return self._beside, self._flush_worker, self._upkeep_worker
