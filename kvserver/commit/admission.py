"""Admission: what is carried out now, what waits in line, and what is refused; before anything has a revision.

Room is counted, never asked for at the moment of a write: bytes handed over and not yet durable, room that is ready on disk,
memory that is in no table yet, and what is durable and waits for the policy's quorum. Each of them has a bound, and above it a
request waits in line, in order. It is refused where waiting helps nobody: the reason will not go by itself, or the line is full.
"""

from __future__ import annotations

from collections.abc import Callable

from kvserver.base.errors import KvError
from kvserver.base.options import PipelineOptions
from kvserver.commit.line import WaitingLine
from kvserver.commit.log_port import CLAIM_OVERHEAD, Log
from kvserver.commit.refusals import overloaded, policy_unmet, repeated, space_refusal
from kvserver.commit.showing import AnyTicket
from kvserver.commit.state import State


class Admission:
    """The part of ``CommitPipeline`` that admits. Belongs to the event loop."""

    state: State

    def __init__(self, log: Log, options: PipelineOptions) -> None:
        self.refused = 0
        self.refusing: KvError | None = None
        """What writes are refused with, before they get a revision, for a reason that lies elsewhere; None: they are not.

        Whoever changes it calls ``admit_waiting``. A rule of admission like any other, so it costs nothing more than it.
        """
        self.why_unmet: Callable[[], str] = lambda: ""
        """Says who is missing from the policy's quorum, for messages."""
        self._log = log
        self._options = options
        self._line = WaitingLine(options)
        self._waiting = self._line.tickets
        self._unwritten_bytes = 0
        self._unwritten = 0
        self._room = log.room()
        """The log's room when it was last asked, less what was claimed since."""
        self._sealing = False
        self._full = False
        """So much is durable and waits for the quorum that nothing may join it."""
        self._one_at_a_time = not options.overlap
        self._over: KvError | None = None
        """What everything is answered with now that nothing is carried out any more; None while it is."""

    @property
    def over(self) -> KvError | None:
        """Return what everything is answered with now that nothing is carried out any more; None while it is."""
        return self._over

    @property
    def unwritten(self) -> int:
        """Return how many submissions the log has not brought back yet."""
        return self._unwritten

    @property
    def waiting(self) -> int:
        """Return how many requests stand in line."""
        return len(self._waiting)

    def admit_waiting(self) -> None:
        """Carry out what waits in line and fits now, in order; refuse what never will."""
        in_batch = not self._unwritten  # without overlap, all that waited for one group make the next
        while self._waiting and self._over is None:
            ticket = self._waiting[0]
            size = ticket.waiting_bytes
            if ticket.done:  # gave up
                self._line.leave()
            elif self._admits(size, in_batch):
                self._line.leave()
                self._carry_out(ticket, size)
            else:
                error = None if self._blocked(in_batch) else self._refusal(size)
                if error is None:
                    return
                self._line.leave()
                self.refused += 1
                ticket.fail(error)

    def _carry_out(self, ticket: AnyTicket, size: int) -> None:
        raise NotImplementedError

    def _admits(self, size: int, in_batch: bool = False) -> bool:
        """Say whether a request of this size may be carried out now; ``in_batch``: together with others that waited."""
        if not size:
            return not self._blocked(in_batch)
        if self.refusing is not None or self._memory_is_full():
            return False
        if self._blocked(in_batch) or (
            self._unwritten_bytes and self._unwritten_bytes + size > self._options.max_unwritten_bytes
        ):
            return False
        if size + CLAIM_OVERHEAD > self._room:
            self._room = self._log.room() - self._unwritten_bytes
        return size + CLAIM_OVERHEAD <= self._room

    def _blocked(self, in_batch: bool) -> bool:
        return self._sealing or self._full or (self._one_at_a_time and self._unwritten > 0 and not in_batch)

    def _stand_in_line(self, ticket: AnyTicket, size: int) -> None:
        error = self._refusal(size)
        if error is None and not self._line.takes(size):
            waiting = len(self._waiting)
            error = policy_unmet(waiting, self.why_unmet()) if self._full else overloaded(waiting)
        if error is not None:
            self.refused += 1
            ticket.fail(error)
            return
        self._line.join(ticket, size)
        if len(self._waiting) == 1:  # room gained since it was asked for was told to nobody, as nobody waited yet
            self.admit_waiting()

    def _refusal(self, size: int) -> KvError | None:
        """Return the refusal of a write that is not wanted, or has no room and will get none; None where it may wait."""
        if not size:
            return None
        if self.refusing is not None:
            return repeated(self.refusing)
        if self._memory_is_full():
            refusal = self._log.memory_refusal()
            if refusal is not None:
                return refusal
        reason = self._log.space_error()
        if reason is None:
            return None
        if self._log.room() - self._unwritten_bytes >= size + CLAIM_OVERHEAD:
            return None
        return space_refusal(reason)

    def _memory_is_full(self) -> bool:
        limit = self._options.memory_limit_bytes
        return bool(limit) and self.state.view.unflushed_bytes >= limit
