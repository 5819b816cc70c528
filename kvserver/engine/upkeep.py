"""What is given up, and how its space returns: history behind its window, and the keys of dropped namespaces.

How far back history can be read is moved by a commit, so that every node that replays the log does the same; this decides when
to make that commit, in steps of a bucket. The rows go afterwards, all of a bucket at once, once no revision that needs one of
them can be read. A window by time needs to know which revision was when: from a note every second, and for the time before
the start from the rows that flushes leave.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable

from kvserver.base.clock import Clock
from kvserver.base.events import HistoryGivenUp, Listener, NamespaceRemoved, UpkeepFailing
from kvserver.base.options import TableOptions
from kvserver.commit.pipeline import CommitPipeline
from kvserver.commit.replay import ReplayPipeline
from kvserver.commit.requests import CompactHistory, ForgetAnswers
from kvserver.commit.state import NamespaceEntry
from kvserver.engine.flushing import Flusher
from kvserver.engine.worker import Worker
from kvserver.storage.rows import bucket_prefix, data_prefix, time_key
from kvserver.storage.tables import Tables, TablesClosed

MAX_SCAN_PIN_S = 600.0
"""A scan keeps the window from passing it for so long; then it ends with COMPACTED."""

NOTES = 4_096
"""Notes of which revision was when. When they are full, every other one goes."""


class ScanPin:
    """A scan at a revision is under way, since a time by the monotonic clock."""

    __slots__ = ("__weakref__", "revision", "since_s")

    def __init__(self, revision: int, since_s: float) -> None:
        self.revision = revision
        self.since_s = since_s


class Upkeep:
    """Gives up history, and gives space back. Belongs to the event loop; the tables' part is done on the thread ``upkeep``."""

    def __init__(
        self,
        pipeline: CommitPipeline | ReplayPipeline,
        flusher: Flusher,
        tables: Tables,
        worker: Worker,
        clock: Clock,
        options: TableOptions,
        buckets: int,
        listener: Listener,
    ) -> None:
        self._pipeline = pipeline
        self._state = pipeline.state
        self._marks = pipeline.marks
        self._flusher = flusher
        self._tables = tables
        self._worker = worker
        self._clock = clock
        self._options = options
        self._bucket_revisions = buckets
        self._listener = listener
        self._notes: deque[tuple[int, int]] = deque()
        self._scans: weakref.WeakSet[ScanPin] = weakref.WeakSet()
        self._removed_below = 0
        """Buckets below this one hold nothing any more."""
        self._is_busy = False
        self._error = ""
        self._namespaces_done: set[int] = set()
        self._is_forgetting = False

    def remember(self, notes: list[tuple[int, int]]) -> None:
        """Take in which revision was when, (time_ms, revision), oldest first, from before the start."""
        self._notes.extend(notes)

    def pin_scan(self, revision: int) -> ScanPin:
        """Return what keeps the window from passing a scan's revision, while it lives."""
        pin = ScanPin(revision, self._clock.monotonic())
        self._scans.add(pin)
        return pin

    def tick(self) -> None:
        """Do what time makes due; to be called every second or so."""
        self._note()
        if isinstance(self._pipeline, CommitPipeline):  # a follower gives up what the commits of its primary give up
            self._move_window()
            self._forget_answers()
        self.return_space()

    # -- the window -----------------------------------------------------------------------------------------------

    def _note(self) -> None:
        now_ms, visible = self._clock.now_ms(), self._marks.visible
        while self._notes and self._notes[-1][0] > now_ms:  # the clock was ahead: what it said then would stop the window
            self._notes.pop()
        if self._options.history_ms and (not self._notes or self._notes[-1][1] != visible):
            self._notes.append((now_ms, visible))
            if len(self._notes) > NOTES:
                self._notes = deque(list(self._notes)[::2])

    def _move_window(self) -> None:
        """Make the commit that moves the oldest readable revision, where the window has left a whole bucket behind."""
        wanted = self._behind_window()
        now_s = self._clock.monotonic()
        for pin in self._scans:
            if now_s - pin.since_s < MAX_SCAN_PIN_S:
                wanted = min(wanted, pin.revision)
        wanted -= wanted % self._bucket_revisions
        if wanted > self._state.newest_compaction[1] and self._pipeline.failure is None:
            self._pipeline.submit(CompactHistory(wanted), lambda done: done)

    def _behind_window(self) -> int:
        """Return the oldest revision that is within the window by time and by number."""
        options, visible = self._options, self._marks.visible
        by_number = visible - options.history_revisions + 1 if options.history_revisions else 0
        by_time = 0
        if options.history_ms:
            oldest_ms = self._clock.now_ms() - options.history_ms
            while len(self._notes) > 1 and self._notes[1][0] <= oldest_ms:
                self._notes.popleft()
            if self._notes and self._notes[0][0] <= oldest_ms:
                by_time = self._notes[0][1]
        return max(by_number, by_time, 0)

    def _forget_answers(self) -> None:
        """Make the commits that remove what is remembered of writes behind their window, one after the other."""
        answers = self._state.answers
        before_ms = self._clock.now_ms() - answers.window_ms
        if self._is_forgetting or self._pipeline.failure is not None or not answers.has_older(before_ms):
            return
        self._is_forgetting = True
        forgotten = self._pipeline.submit(ForgetAnswers(before_ms), lambda done: done)

        def on_done() -> None:
            self._is_forgetting = False
            if forgotten.succeeded:  # else the next tick tries again
                self._forget_answers()

        forgotten.on_done(on_done)

    # -- space ----------------------------------------------------------------------------------------------------

    def return_space(self) -> None:
        """Remove what nobody can read any more from the tables, one thing at a time."""
        if self._is_busy or self._pipeline.failure is not None:
            return
        dropped = self._next_dropped()
        if dropped is not None:
            if dropped.drop_revision > self._marks.flushed:
                self._flusher.flush_up_to(dropped.drop_revision)  # what memory holds of it must not come after the removal
            else:
                self._remove_namespace(dropped)
            return
        oldest = self._state.oldest_readable(self._marks.visible)
        # A bucket's rows were superseded below its end; they are needed to read at revisions below that.
        bound = (oldest + 1) // self._bucket_revisions
        if bound > self._removed_below:
            self._remove_history(bound, oldest)

    def _next_dropped(self) -> NamespaceEntry | None:
        visible = self._marks.visible
        for entry in self._state.dropped.values():
            if entry.id not in self._namespaces_done and entry.drop_revision <= visible:
                return entry
        return None

    def _remove_namespace(self, entry: NamespaceEntry) -> None:
        start, end = data_prefix(entry.id), data_prefix(entry.id + 1)

        def work() -> bool:
            if not self._tables.rows(start, end, limit=1):
                return False
            self._tables.delete_range(start, end)
            self._tables.compact(start, end)
            return True

        def then(removed: bool) -> None:
            self._namespaces_done.add(entry.id)
            if removed:
                self._listener(NamespaceRemoved(entry.name, entry.id))

        self._run(work, then)

    def _remove_history(self, bound: int, oldest: int) -> None:
        start, end = bucket_prefix(0), bucket_prefix(bound)

        def work() -> bool:
            if not self._tables.rows(start, end, limit=1):
                return False
            self._tables.delete_range(start, end)
            self._tables.delete_range(time_key(0), time_key(oldest))
            self._tables.compact(start, end)
            return True

        def then(removed: bool) -> None:
            self._removed_below = bound
            if removed:
                self._listener(HistoryGivenUp(oldest))

        self._run(work, then)

    def _run(self, work: Callable[[], bool], then: Callable[[bool], None]) -> None:
        self._is_busy = True

        def done(result: bool | Exception) -> None:
            self._is_busy = False
            if isinstance(result, TablesClosed):
                return
            if isinstance(result, Exception):
                if str(result) != self._error:
                    self._listener(UpkeepFailing(str(result)))
                self._error = str(result)
                return
            self._error = ""
            then(result)
            self.return_space()

        self._worker.run(work, done)
