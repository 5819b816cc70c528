"""The database of one node: open, write, read, close. The class to read first.

Everything but ``open`` and ``close`` belongs to one event loop and does not block it; disk is touched by the log's threads.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

from kvserver.base import failpoints
from kvserver.base.environment import Environment
from kvserver.base.errors import KvError
from kvserver.base.events import Listener, LogPoisoned, ignore
from kvserver.base.options import EngineOptions
from kvserver.base.paths import DataPaths
from kvserver.base.register import Register
from kvserver.base.types import Identity, Version
from kvserver.commit.marks import Marks
from kvserver.commit.pipeline import AnyTicket, CommitPipeline
from kvserver.commit.requests import Request
from kvserver.commit.state import NamespaceEntry
from kvserver.commit.ticket import Ticket
from kvserver.engine.opening import Opened, open_folder
from kvserver.engine.scan import ScanChunk, ScanOptions, order_keys, scan
from kvserver.storage.ranges import KeySpan
from kvserver.wal.group_commit import Control, GroupCommitter, GroupDone, Submission

Answer = TypeVar("Answer")
Post = Callable[[Callable[[], None]], None]
"""``post(callback)``: have the callback called on the event loop, from any thread."""


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


class Database:
    """One store. Make it with ``open``."""

    def __init__(self, env: Environment, options: EngineOptions, opened: Opened, post: Post, listener: Listener) -> None:
        self.identity: Identity = opened.identity
        self.history = opened.history
        self.marks = Marks(opened.position.revision)
        self._env = env
        self._options = options
        self._lock = opened.lock
        self._log = opened.log
        self._space = opened.space
        self._post = post
        self._opened_at = opened.position
        self._listener = listener
        self._committer: GroupCommitter[AnyTicket] = GroupCommitter(opened.log, options.wal, self._deliver, listener, env.clock)
        self.state = opened.state
        self.pipeline = CommitPipeline(self.state, self.marks, self, options.pipeline)
        self._space.on_change = self._space_changed

    @classmethod
    def open(
        cls,
        data_dir: Path,
        register: Callable[[Environment, DataPaths], Register],
        register_kind: str,
        post: Post,
        options: EngineOptions | None = None,
        env: Environment | None = None,
        listener: Listener = ignore,
        threads: bool = True,
    ) -> Database:
        """Open a data folder, creating it if there is none. Raises OpenRefused, Corruption, OSError.

        Without ``threads`` nothing moves by itself: ``run_log_once`` does a turn of the log on the caller's thread.
        """
        options = options or EngineOptions()
        env = env or Environment()
        paths = DataPaths(data_dir)
        opened = open_folder(env, paths, options, lambda at: register(env, at), register_kind, listener)
        database = cls(env, options, opened, post, listener)
        if threads:
            opened.space.start()
            database._committer.start()
        return database

    # -- writing --------------------------------------------------------------------------------------------------

    def submit(self, request: Request, convert: Callable[[Any], Answer], memory: bool = False) -> Ticket[Answer]:
        """Carry out a write or a run of reads in order; see ``CommitPipeline.submit``."""
        return self.pipeline.submit(request, convert, memory)

    async def prepare_span(self, namespace: int) -> None:
        """Order the namespace's keys before a deletion of a span, so that ``submit`` does not hold the loop with it."""
        await order_keys(self.state.memtable, namespace)

    # -- reading --------------------------------------------------------------------------------------------------

    def namespace_id(self, name: str) -> int:
        """Return the id of a visible namespace. Raises UnknownNamespace, for writes too: its creation may yet be taken back."""
        return self.state.namespace_id(name, self.marks.visible)

    def namespaces(self) -> list[NamespaceEntry]:
        """Return the namespaces that readers may know of, by name."""
        visible = self.marks.visible
        entries = (entry for entry in self.state.namespaces.values() if entry.create_revision <= visible)
        return sorted(entries, key=lambda entry: entry.name)

    def get(self, namespace: int, key: bytes, revision: int) -> Version | None:
        """Return the version of a key at a visible revision."""
        return self.state.memtable.get(namespace, key, revision)

    def scan(self, namespace: int, span: KeySpan, revision: int, options: ScanOptions) -> AsyncIterator[ScanChunk]:
        """Yield the chunks of a scan at a visible revision."""
        return scan(self.state.memtable, namespace, span, revision, options)

    def reading_at(self, revision: int, session: tuple[int, int] | None) -> Ticket[int]:
        """Return a ticket of the revision to read at: the one asked for (0: the newest visible), not before the session's.

        The answer raises RevisionError for a revision that does not exist yet, and for a session that is not part of
        this node's history.
        """
        wanted = revision
        try:
            if session is not None and session[1]:
                self.history.require(*session)
                wanted = max(wanted, session[1])
        except KvError as error:
            ticket: Ticket[int] = Ticket(None, int)
            ticket.fail(error)
            return ticket
        ticket = self.pipeline.when_visible(wanted or self.marks.visible)
        ticket.convert_with(lambda _: revision or self.marks.visible)
        return ticket

    # -- looking after it -----------------------------------------------------------------------------------------

    def seal_by_age(self) -> None:
        """Seal the open segment if its time has come; to be called every second or so."""
        if self._log.may_seal():
            self.pipeline.request_seal()

    def log_figures(self) -> LogFigures:
        """Return what the log looks like. Read beside the log thread: each figure is true of some moment just past."""
        error = self._space.error
        return LogFigures(
            segments=len(self._log.sealed) + 1,
            total_bytes=self._log.total_bytes(),
            groups=self._committer.groups,
            syncs=self._log.syncs,
            bytes_written=self._log.bytes_written,
            chain=(self.pipeline.position or self._opened_at).chain,
            space_error=str(error) if error is not None else "",
        )

    @property
    def failure(self) -> BaseException | None:
        """Return why the log failed, None while it has not. May be asked on any thread, and after ``close``."""
        return self.pipeline.failure or self._committer.error or self._space.failure

    def run_log_once(self) -> bool:
        """Do one turn of the log and one of the space keeper on this thread; only where opened without threads."""
        self._space.step()
        return self._committer.run_once()

    def close(self) -> None:
        """End cleanly: write what was handed over, a last mark, the seal. After a failure of the log: just let go."""
        failpoints.hit("engine.close.before_final_sync")
        try:
            self._committer.stop()
            while self._committer.run_once():  # without threads, what was handed over is still in the queue
                pass
            self._space.close()
            if self._committer.error is None and self._space.failure is None:
                self._log.close()
                failpoints.hit("engine.close.after_final_sync")
        finally:
            self._log.abandon()
            self._lock.release()

    # -- the pipeline's view of the log ---------------------------------------------------------------------------

    def submit_to_log(self, item: Submission[AnyTicket] | Control) -> None:
        """Hand a submission to the log thread."""
        self._committer.submit(item)

    def room(self) -> int:
        """Return the room that is ready."""
        return self._space.room()

    def space_error(self) -> OSError | None:
        """Return why more room cannot be had."""
        return self._space.error

    def _deliver(self, done: GroupDone[AnyTicket]) -> None:
        """Pass a group to the event loop; called on the log thread."""
        self._post(lambda: self.pipeline.on_group_done(done))

    def _space_changed(self) -> None:
        """Have what waits for room looked at again; called on the space thread."""
        if self.pipeline.waiting:
            self._post(self.pipeline.admit_waiting)
        if self._space.failure is not None:
            failure = self._space.failure
            self._listener(LogPoisoned(str(failure) or repr(failure)))
            self._post(lambda: self.pipeline.on_group_done(GroupDone([], self._log.position, failure)))
