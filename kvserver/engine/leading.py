"""The log of a primary as the rest of the database sees it: groups in, groups back on the event loop, room kept ready."""

from __future__ import annotations

from collections.abc import Callable

from kvserver.base.clock import Clock
from kvserver.base.errors import KvError
from kvserver.base.events import Listener, LogPoisoned
from kvserver.base.options import WalOptions
from kvserver.commit.pipeline import AnyTicket
from kvserver.commit.refusals import flush_refusal
from kvserver.engine.worker import Post
from kvserver.wal.group_commit import Control, GroupCommitter, GroupDone, Submission
from kvserver.wal.log import LogWriter
from kvserver.wal.space import LogSpace


class Leading:
    """Threads ``log-writer`` and ``log-space``. Without ``start``, ``run_once`` does a turn of each on the caller's thread."""

    def __init__(
        self, log: LogWriter, space: LogSpace, options: WalOptions, clock: Clock, post: Post, listener: Listener
    ) -> None:
        self.space = space
        self.committer: GroupCommitter[AnyTicket] = GroupCommitter(log, options, self._deliver, listener, clock)
        self._log = log
        self._post = post
        self._listener = listener
        self.flush_error: Callable[[], Exception | None] = lambda: None
        """Asks why memory cannot be written into tables."""
        self.on_group: Callable[[GroupDone[AnyTicket]], None] = lambda done: None
        """Called on the event loop with what the log brought back."""
        self.on_room: Callable[[], None] = lambda: None
        """Called on the space thread, after room was gained or lost."""
        space.on_change = self._space_changed

    # -- the pipeline's view of the log ---------------------------------------------------------------------------

    def submit_to_log(self, item: Submission[AnyTicket] | Control) -> None:
        """Hand a submission to the log thread."""
        self.committer.submit(item)

    def room(self) -> int:
        """Return the room that is ready."""
        return self.space.room()

    def space_error(self) -> OSError | None:
        """Return why more room cannot be had."""
        return self.space.error

    def memory_refusal(self) -> KvError | None:
        """Return why full memory cannot be written into tables."""
        error = self.flush_error()
        return flush_refusal(error) if error is not None else None

    # -- life -----------------------------------------------------------------------------------------------------

    @property
    def failure(self) -> BaseException | None:
        """Return why the log failed, None while it has not. May be asked on any thread."""
        return self.committer.error or self.space.failure

    @property
    def groups(self) -> int:
        """Return how many groups were made durable."""
        return self.committer.groups

    def start(self) -> None:
        """Begin to move, on threads."""
        self.space.start()
        self.committer.start()

    def run_once(self) -> bool:
        """Do one turn of the log and one of the space keeper on this thread."""
        self.space.step()
        return self.committer.run_once()

    def stop(self) -> None:
        """Write what was handed over, and end the threads."""
        self.committer.stop()
        while self.committer.run_once():  # without threads, what was handed over is still in the queue
            pass
        self.space.close()

    def _deliver(self, done: GroupDone[AnyTicket]) -> None:
        """Pass a group to the event loop; called on the log thread."""
        self._post(lambda: self.on_group(done))

    def _space_changed(self) -> None:
        """Have what waits for room looked at again; called on the space thread."""
        self.on_room()
        failure = self.space.failure
        if failure is not None:
            self._listener(LogPoisoned(str(failure) or repr(failure)))
            self._post(lambda: self.on_group(GroupDone([], self._log.position, failure)))
