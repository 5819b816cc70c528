"""What the engine does for whoever archives its log; of the archive itself it knows nothing.

The archiver reads sealed segments on threads of its own and says how far it is. Until it has said anything the whole log is
held: a node whose archive cannot be reached deletes nothing, however often it is started. It may ask for a segment to be
sealed before its time, so that what was written a moment ago is archived too.
"""

from __future__ import annotations

from kvserver.base.errors import KvError, NotServing
from kvserver.base.types import Position
from kvserver.commit.pipeline import CommitPipeline
from kvserver.commit.refusals import repeated
from kvserver.commit.replay import ReplayPipeline
from kvserver.commit.ticket import Ticket, answered, complete_all
from kvserver.engine.obsolete_files import ARCHIVE, Holds, SegmentDeleter
from kvserver.engine.worker import Worker
from kvserver.wal.node_log import NodeLog


class Archiving:
    """The hold of the archive, and seals on demand. Belongs to the event loop; segments are removed on the thread ``flush``."""

    def __init__(
        self,
        pipeline: CommitPipeline | ReplayPipeline,
        log: NodeLog,
        holds: Holds,
        worker: Worker,
        deleter: SegmentDeleter,
    ) -> None:
        self._pipeline = pipeline
        self._marks = pipeline.marks
        self._log = log
        self._holds = holds
        self._worker = worker
        self._deleter = deleter
        self._held_from: int | None = None
        self._waiting: list[tuple[int, Ticket[int]]] = []
        self._asked = False
        """The log was asked to seal, and nothing has become of it yet."""
        self._closed = False

    # -- the hold -------------------------------------------------------------------------------------------------

    def hold_everything(self) -> None:
        """Hold the log from its first revision on; to be called before anything of it can be deleted."""
        self._held_from = self._log.first_revision()
        self._holds.set(ARCHIVE, self._held_from)

    def archived(self, position: Position) -> None:
        """Note that the archive holds everything up to a position, and let go of it. Raises ValueError past what is visible."""
        self._marks.move_archived(position.revision)
        self.given_up(position)

    def given_up(self, position: Position) -> None:
        """Let go of the log up to a position: it is archived, or never will be."""
        if self._held_from is not None and position.revision >= self._held_from:
            self._held_from = position.revision + 1
            self._holds.set(ARCHIVE, self._held_from)
            self._worker.run(self._deleter.delete_obsolete, _nobody)

    def heard(self, revision: int) -> None:
        """Note that the primary's archive holds everything up to a revision: as a follower, hold what is behind that.

        From the first such word on, whether an archive was known of or not: the archive may need this node's log one day. What is
        not here yet is held whatever was said of it: another primary may give the same revisions to other commits.
        """
        self._marks.move_archived(min(revision, self._marks.visible))
        revision = min(revision, self._marks.durable)
        if self._held_from is None or revision >= self._held_from:
            self._holds.set_from(ARCHIVE, revision + 1)  # nobody may have held it until now
            self._held_from = revision + 1
            self._worker.run(self._deleter.delete_obsolete, _nobody)

    # -- seals ----------------------------------------------------------------------------------------------------

    def seal(self) -> Ticket[int]:
        """Have everything that was given a revision so far sealed; return a ticket of the last sealed revision.

        Waits while the disk has no room for the next segment. Its answer raises NotServing when the log fails or is closed, and
        what the pipeline answers with when another node is primary.
        """
        if self._is_over:
            ticket: Ticket[int] = Ticket(None, lambda outcome: int(outcome))
            ticket.fail(self._no_seal())
            return ticket
        if self._sealed_upto() >= self._marks.assigned:
            return answered(self._sealed_upto())
        ticket = Ticket(None, lambda outcome: int(outcome))
        self._waiting.append((self._marks.assigned, ticket))
        self._ask()
        return ticket

    def consider(self) -> None:
        """Answer those whose revisions are sealed; to be called whenever the log has done something."""
        if not self._waiting:
            return
        if self._is_over:
            self._tell_no_seal()
            return
        upto = self._sealed_upto()
        reached = [ticket for wanted, ticket in self._waiting if wanted <= upto]
        if reached:
            self._waiting = [(wanted, ticket) for wanted, ticket in self._waiting if wanted > upto]
            self._asked = False
            for ticket in reached:
                ticket.decide(upto)
            complete_all(reached)
        self._ask()

    @property
    def waiting(self) -> int:
        """Return how many wait for a seal. May be asked on any thread."""
        return len(self._waiting)

    def tick(self) -> None:
        """Ask again where the next segment was not ready; to be called when one is, and every second or so."""
        self._asked = False
        self.consider()

    def close(self) -> None:
        """Tell those who wait for a seal that there will be none."""
        self._closed = True
        self._tell_no_seal()

    def _ask(self) -> None:
        """Ask the log, once for all who wait: a seal that it could not carry out must not be asked for in a circle."""
        if self._waiting and not self._asked:
            self._asked = self._pipeline.request_seal(now=True)

    def _sealed_upto(self) -> int:
        """Return the revision before the open segment."""
        return self._log.sealed_revision()

    def _tell_no_seal(self) -> None:
        waiting, self._waiting = self._waiting, []
        for _, ticket in waiting:
            ticket.fail(self._no_seal())

    @property
    def _is_over(self) -> bool:
        return self._over is not None or self._closed

    @property
    def _over(self) -> KvError | None:
        return self._pipeline.over if isinstance(self._pipeline, CommitPipeline) else None

    def _no_seal(self) -> KvError:
        over = self._over
        return repeated(over) if over is not None else NotServing("the node is stopping and seals by itself")


def _nobody(result: object) -> None:
    """Tell nobody: what could not be deleted is reported where it happens, and tried again."""
