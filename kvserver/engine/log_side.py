"""What others see of a database's log: the archive, those that ship it to followers, and on a follower whoever receives it."""

from __future__ import annotations

from collections.abc import Callable

from kvserver.base.errors import Code, KvError, ReplicationError
from kvserver.base.paths import DataPaths
from kvserver.base.policy import Policy
from kvserver.base.types import LogEnd, Position, Role
from kvserver.commit.marks import Marks
from kvserver.commit.pipeline import AnyTicket, CommitPipeline
from kvserver.commit.replay import ReplayPipeline
from kvserver.commit.ticket import Ticket
from kvserver.engine.archiving import Archiving
from kvserver.engine.figures import Measured
from kvserver.engine.freshness import Contact, FollowerReads
from kvserver.engine.observers import Observers
from kvserver.engine.obsolete_files import LogHolds
from kvserver.engine.worker import Post
from kvserver.wal.group_commit import GroupDone
from kvserver.wal.segment import SegmentInfo
from kvserver.wal.tail import LogTail


class LogSide(Measured):
    """The part of ``Database`` that is about its log. Belongs to the event loop, but for what says otherwise."""

    role: Role
    marks: Marks
    contact: Contact | None
    """What was heard of the primary; None on the primary itself."""
    _paths: DataPaths
    _post: Post
    _archiving: Archiving
    _follower_reads: FollowerReads | None
    _log_holds: LogHolds
    _observers: Observers

    # -- the archive's view ---------------------------------------------------------------------------------------

    def sealed_segments(self) -> list[SegmentInfo]:
        """Return the segments that will not change any more, oldest first. May be asked on any thread."""
        return self._log.sealed

    def seal(self) -> Ticket[int]:
        """Seal the open segment if it holds commits; return a ticket of the last sealed revision, which covers all so far.

        Its answer raises NotPrimary on a follower, where nothing is sealed.
        """
        if isinstance(self.pipeline, ReplayPipeline):
            return self.pipeline.refuse()
        return self._archiving.seal()

    def on_archived(self, position: Position) -> None:
        """Note that everything up to a position is archived, read back, and listed; the log may let it go.

        Raises ValueError for what is not visible.
        """
        self._archiving.archived(position)

    def on_archive_gave_up(self, position: Position) -> None:
        """Let the log go up to a position that is not archived and never will be, by the operator's own policy."""
        self._archiving.given_up(position)

    def set_pressure(self, refusing: KvError | None, pace_ms: int) -> None:
        """Slow writes down to a group in ``pace_ms``, or refuse them with an error before they get a revision (None: do not)."""
        if self._leading is not None:
            self._leading.committer.pace_ms = pace_ms
        if refusing is not self.pipeline.refusing:
            self.pipeline.refusing = refusing
            self.pipeline.admit_waiting()

    # -- for those that follow ------------------------------------------------------------------------------------

    def log_end(self) -> LogEnd:
        """Return where the log durably ends. May be asked on any thread."""
        return self._log.end

    def tail(self) -> LogTail:
        """Return a reader of the log's bytes for one follower, to be used on one other thread at a time."""
        return LogTail(self._env.fs, self._paths, self._log)

    def observe(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have a callback called on the event loop when the log or what is visible has moved; return what ends that."""
        return self._observers.add(callback)

    def hold(self, name: str, revision: int) -> None:
        """Hold the log from a revision on, in place of what the name held before. Raises HoldRefused where it may be gone."""
        self._log_holds.hold(name, revision)

    def release_hold(self, name: str) -> None:
        """Let go of what a name holds; no harm where it holds nothing."""
        self._log_holds.release(name)

    def policies(self) -> list[Policy]:
        """Return the policies that must hold for the newest revision, oldest first: two while a change is under way."""
        return self.state.policies_at(self.marks.visible)

    # -- as a follower --------------------------------------------------------------------------------------------

    def receive(self, segment_id: int, offset: int, data: bytes) -> Ticket[LogEnd]:
        """Take a chunk of the log that is followed; return a ticket, answered when it is durable and inserted.

        The answer is where the log durably ends then. It raises ReplicationError (WRONG_PEER) for what does not continue this
        log, Refused (DISK_FULL, DISK_UNAVAILABLE) where nothing of it was kept and it may be sent again, NotServing.
        """
        if self._following is None:
            ticket: Ticket[LogEnd] = Ticket(None, lambda end: end)
            ticket.fail(ReplicationError(Code.WRONG_PEER, "a primary takes no log of others", "send it to a follower"))
            return ticket
        return self._following.receive(segment_id, offset, data)

    def hurry(self) -> None:
        """Have all that was handed to ``receive`` answered, whatever memory it takes. Of no effect on a primary."""
        if self._following is not None:
            self._following.hurry()

    def hear(self, visible: int, archived: int = 0, source_lag_ms: int = 0) -> None:
        """Note a word of whoever is followed: what it shows, what is archived (0: nothing is known), how far it is behind itself.

        To be called for every sign of life, in the order of the messages. Of no effect on a primary.
        """
        if self.contact is None or not isinstance(self.pipeline, ReplayPipeline):
            return
        self.contact.heard(visible, self.marks.applied, source_lag_ms)
        self.pipeline.hear(visible)
        if archived:
            self._archiving.heard(archived)
        if self._follower_reads is not None:
            self._follower_reads.retry()
        self._moved()

    def contact_lost(self) -> None:
        """Note that the connection to whoever is followed ended; what it said that it shows counts no more."""
        if self.contact is not None and isinstance(self.pipeline, ReplayPipeline):
            self.contact.lost()
            self.pipeline.contact_lost()

    def lag_ms(self) -> int:
        """Return how many milliseconds this node is behind its primary, at least; 0 on a primary. May be asked on any thread."""
        return self.contact.lag_ms() if self.contact is not None else 0

    def _end_waits(self) -> None:
        """Tell those who wait for what will not come while this store is open."""
        if self._following is not None and self._follower_reads is not None and isinstance(self.pipeline, ReplayPipeline):
            self._following.close()
            self._follower_reads.close()
        self.pipeline.close()

    # -- what the log's threads did -------------------------------------------------------------------------------

    def _on_group(self, done: GroupDone[AnyTicket]) -> None:
        assert isinstance(self.pipeline, CommitPipeline), "a follower writes no groups"
        self.pipeline.on_group_done(done)
        self._moved()

    def _on_inserted(self) -> None:
        if self.contact is not None:
            self.contact.reached(self.marks.applied)
        self._moved()

    def _on_room(self) -> None:
        """Have what waits for room looked at again; called on the space thread."""
        if self.pipeline.waiting:
            self._post(self.pipeline.admit_waiting)
        if self._archiving.waiting and self._log.can_seal():
            self._post(self._archiving.tick)

    def _moved(self) -> None:
        """Have those looked at who wait for the log or for what is visible."""
        self._archiving.consider()
        self.flusher.consider()
        self._observers.tell()
