"""Group commit: one thread that makes durable whatever arrived while the last sync was under way.

A submission crosses to the thread as one item, its bytes together with who waits for them, through a queue that is itself
atomic. (Two lists swapped by ``batch, waiters = waiting, []`` on the other side answered 447 of 3.76 million commits that
were not in the written buffer.) Nobody waits for a group to form: while a sync takes 100 µs, the next one forms by itself.

With one exception. Behind a crowd of small submissions, which only many callers of one operation each can be, groups begin
some milliseconds apart: such callers wait for the event loop anyway, and every hand-over between the two threads takes time
from it. A lone caller, and whoever sends frames, never waits (docs/adr/0011).

An answer that depends on revisions already handed over but not yet durable is an item without bytes. It takes its place in
the queue like any other and comes back when everything before it is durable.

After a failure nothing is written any more; every item, then and later, comes back with the error.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from kvserver.base import failpoints
from kvserver.base.clock import Clock, SystemClock
from kvserver.base.events import Listener, LogPoisoned, ignore
from kvserver.base.options import WalOptions
from kvserver.base.types import Position
from kvserver.wal.log import LogWriter

Waiter = TypeVar("Waiter")

CROWD = 12
"""Submissions in one group that make a crowd ..."""

CROWD_BYTES = 4096
"""... if they are smaller than this on average."""

CROWD_PACE_MS = 0.2
"""Each of a crowd puts the next group off by so much, up to the window: so few callers are not made to stand still."""


class Submission(Generic[Waiter]):
    """The bytes of some commits and who waits for them; no bytes for an answer that only waits."""

    __slots__ = ("claimed_bytes", "commits", "data", "waiter")

    def __init__(self, data: bytes, commits: int, waiter: Waiter | None, claimed_bytes: int) -> None:
        self.data = data
        self.commits = commits
        self.waiter = waiter
        self.claimed_bytes = claimed_bytes


class Control:
    """Something for the thread to do between two groups."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


SEAL = Control("seal")
"""End the open segment if it is old enough."""
SEAL_NOW = Control("seal now")
"""End the open segment if it holds commits, whatever its age."""
CUT = Control("cut")
"""End the frame here: the position that comes back is the end of a frame, with exactly what was submitted before."""
STOP = Control("stop")


@dataclasses.dataclass(frozen=True, slots=True)
class GroupDone(Generic[Waiter]):
    """What became of a group: where the log durably ends now, or why nothing can be said."""

    submissions: list[Submission[Waiter]]
    position: Position
    error: BaseException | None = None
    control: Control | None = None
    """The control that was carried out, where there is no group."""


class GroupCommitter(Generic[Waiter]):
    """Takes submissions from one thread, writes them on another, and hands each group back whole by one call.

    ``deliver`` is called on the log thread; it passes the group to the event loop. Without ``start``, ``run_once`` does one
    turn on the caller's thread, so that tests decide when the disk moves.
    """

    def __init__(
        self,
        log: LogWriter,
        options: WalOptions,
        deliver: Callable[[GroupDone[Waiter]], None],
        listener: Listener = ignore,
        clock: Clock | None = None,
    ) -> None:
        self._log = log
        self._options = options
        self._deliver = deliver
        self._listener = listener
        self._queue: queue.SimpleQueue[Submission[Waiter] | Control] = queue.SimpleQueue()
        self._held: Submission[Waiter] | Control | None = None
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._clock = clock or SystemClock()
        self._pause = threading.Condition()
        self._next_group_at_s = 0.0
        self._in_hand: list[Submission[Waiter]] = []
        self.pace_ms = 0
        """Groups of commits begin at least so long after one another; set from any thread, and in force from the next one on."""
        self.groups = 0
        self.error: BaseException | None = None

    def start(self) -> None:
        """Begin to take submissions on a thread."""
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)
        self._thread.start()

    def submit(self, item: Submission[Waiter] | Control) -> None:
        """Hand over a submission; order of submission is order in the log."""
        self._queue.put(item)

    def stop(self) -> None:
        """Write what was handed over, then end the thread."""
        self._queue.put(STOP)
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def run_once(self, wait_s: float = 0.0) -> bool:
        """Do one turn: a group, a control, or (after ``wait_s`` without work) the idle mark. False: stopped, or idle."""
        first = self._take(wait_s)
        if first is None:
            if self.error is None and not self._guarded(self._log.write_mark):
                self._deliver(GroupDone([], self._log.position, self.error))
            return False
        if isinstance(first, Control):
            if first is STOP:
                self._stopped = True
                return False
            if first is CUT:
                self._deliver(GroupDone([], self._log.position, self.error, CUT))
            else:
                self._seal(first)
            return True
        self._commit(self._gather(first))
        return True

    def _run(self) -> None:
        idle_s = self._options.idle_mark_ms / 1000
        while not self._stopped:
            try:
                self._await_crowd()
                if not self.run_once(idle_s) and not self._stopped:
                    self._held = self._queue.get()
            except Exception as error:  # between two guarded steps; the thread must go on, or its waiters wait for ever
                self._poison(error)
                items, self._in_hand = self._in_hand, []
                self._deliver(GroupDone(items, self._log.position, self.error))

    def _await_crowd(self) -> None:
        """Wait until the next group may begin."""
        rest_s = self._next_group_at_s - self._clock.monotonic()
        if rest_s > 0:
            with self._pause:
                self._clock.wait(self._pause, rest_s)

    def _take(self, wait_s: float) -> Submission[Waiter] | Control | None:
        if self._held is not None:
            held, self._held = self._held, None
            return held
        try:
            return self._queue.get(timeout=wait_s) if wait_s else self._queue.get_nowait()
        except queue.Empty:
            return None

    def _gather(self, first: Submission[Waiter]) -> list[Submission[Waiter]]:
        """Return the first submission and what else has arrived, up to the size of a group."""
        items = self._in_hand = [first]
        if not self._options.grouping:
            return items
        size = len(first.data)
        most = self._options.max_group_bytes
        try:
            while True:
                item = self._queue.get_nowait()
                if isinstance(item, Control) or (item.data and size + len(item.data) > most):
                    self._held = item
                    return items
                size += len(item.data)
                items.append(item)
        except queue.Empty:
            return items

    def _commit(self, items: list[Submission[Waiter]]) -> None:
        began_s = self._clock.monotonic()
        commits = sum(item.commits for item in items)
        payload = b"".join([item.data for item in items])
        if commits:
            self._guarded(lambda: self._log.write_group(commits, payload))
        failpoints.hit("wal.before_answer")
        self.groups += 1
        done = GroupDone(items, self._log.position, self.error)
        self._in_hand = []
        crowd = len(items) >= CROWD and len(payload) < len(items) * CROWD_BYTES
        window_ms = min(self._options.group_window_ms, len(items) * CROWD_PACE_MS) if crowd else 0.0
        self._next_group_at_s = began_s + max(window_ms, self.pace_ms if commits else 0) / 1000
        self._deliver(done)

    def _seal(self, control: Control) -> None:
        """Rotate if that is asked for and the next segment is ready, and tell the pipeline that it may go on."""
        if self.error is None and (self._log.may_seal() if control is SEAL else self._log.can_seal()):
            self._guarded(self._log.rotate)
        self._deliver(GroupDone([], self._log.position, self.error, control))

    def _guarded(self, write: Callable[[], None]) -> bool:
        """Write, unless the log has failed already; say whether all is well. A failure is final, whatever it is."""
        if self.error is None:
            try:
                write()
            except Exception as error:
                self._poison(error)
        return self.error is None

    def _poison(self, error: Exception) -> None:
        if self.error is None:
            self.error = error
            self._listener(LogPoisoned(str(error) or repr(error)))
