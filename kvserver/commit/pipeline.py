"""The commit pipeline: order, log, memory, answer.

The idea in two steps. A write is put into the log and into memory; when the log is synced, it is shown and answered. The
sync takes a hundred microseconds or many milliseconds, so (1) memory is filled while the sync is under way, and (2) one
sync serves every write that arrived during the one before.

    event loop    evaluate, assign the revision, encode, hand to the log ─┬─ insert in the memtable ─ ... ─ answer the group
    log thread                                                           └─ one write, one sync ───────────┘

Why that is harder than it sounds: between the insert and the end of the sync, memory holds writes that a crash takes back.
Nobody may learn of them. These invariants keep it so:

    I1  Order of submission is order of revision is order in the log is order of visibility. ``_carry_out`` has no ``await``
        in it; one event loop runs it; the queue to the log thread keeps order.
    I2  ``visible <= durable``. Readers read at ``visible``; it moves only when a group's sync has returned.
    I3  Every answer carries the highest revision that it shows something of, and is held until that is visible. A failed
        condition, an absent key and a read within a stream show things as much as a success does. Such an answer goes
        through the same queue as a submission without bytes, and so comes back when all before it is durable.
    I4  A submission's bytes and who waits for them cross to the log thread as one item, before the sync they share.
    I5  What has a revision has its place on disk: a submission is admitted only while the log has room ready for it.
        What is not admitted waits in line, in order, or is refused; nothing of it was carried out, so NOT_WRITTEN is true.
    I6  After a failed write or sync nothing new is evaluated, shown or acknowledged any more. Writes that had a revision are
        answered OUTCOME_UNKNOWN; the process ends.

Evaluation sees the newest state, not the visible one: a condition on a key that the write before it changed must be judged
by that change, although nobody has been told of it yet. I3 is what makes that safe.

Tried and left: waiting some microseconds for every group to fill (it fills by itself, and a lone writer pays for nothing);
one future a commit (one callback a group is what a hundred thousand commits a second can afford); handing a new group over
only when the event loop hears of the last one's end (the log thread idles for as long as the loop is busy).

The stages are pebble's (cockroachdb/pebble, ``commit.go``); holding every answer, negative ones too, until what it shows is
durable is this project's.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypeVar

from kvserver.base.errors import Code, KvError, NotServing, OutcomeUnknown, Refused, RevisionError
from kvserver.base.options import PipelineOptions
from kvserver.base.types import Position
from kvserver.commit.evaluate import evaluate, read_run
from kvserver.commit.marks import Marks
from kvserver.commit.requests import Committed, Put, PutRun, ReadRun, Request, RunDone, Single, size_bytes
from kvserver.commit.state import State
from kvserver.commit.ticket import Ticket, answered
from kvserver.storage.memtable import VERSION_OVERHEAD_BYTES
from kvserver.wal.commit_record import encode_commit, encode_put_run
from kvserver.wal.format import FRAME_OVERHEAD
from kvserver.wal.group_commit import SEAL, Control, GroupDone, Submission

Answer = TypeVar("Answer")
AnyTicket = Ticket[Any]

CLAIM_OVERHEAD = 2 * FRAME_OVERHEAD
"""What a submission may cost beside its bytes: a frame of its own and a mark behind it."""


class Log(Protocol):
    """What the pipeline needs of the log: a queue into it, and how much room it has."""

    def submit_to_log(self, item: Submission[AnyTicket] | Control) -> None:
        """Hand over a submission; the group it went into comes back through ``on_group_done``."""

    def room(self) -> int:
        """Return how many bytes of frames fit into the room that is ready."""

    def space_error(self) -> OSError | None:
        """Return why more room cannot be had, None while it can."""


class CommitPipeline:
    """Takes requests, gives tickets. All methods belong to the event loop."""

    def __init__(self, state: State, marks: Marks, log: Log, options: PipelineOptions) -> None:
        self.state = state
        self.marks = marks
        self.position: Position | None = None
        """Where the log durably ends, as far as the event loop has heard; None before the first group."""
        self.failure: BaseException | None = None
        self.commits = 0
        """Commits made since the start."""
        self.refused = 0
        self.on_failure: Callable[[BaseException], None] = lambda error: None
        """Called once, when the pipeline has failed."""
        self._log = log
        self._options = options
        self._waiting: deque[AnyTicket] = deque()
        self._waiting_bytes = 0
        self._unwritten_bytes = 0
        self._unwritten = 0
        self._room = log.room()
        """The log's room when it was last asked, less what was claimed since."""
        self._sealing = False

    # -- asking ---------------------------------------------------------------------------------------------------

    def submit(self, request: Request, convert: Callable[[Any], Answer], memory: bool = False) -> Ticket[Answer]:
        """Carry a request out, or put it in line; return the ticket of its answer, made from the result by ``convert``.

        Never raises: refusals and failed conditions are answers too. ``memory``: answer before it is durable.
        """
        ticket = Ticket(request, convert, memory)
        if self.failure is not None:
            ticket.fail(log_failed())
            return ticket
        size = size_bytes(request)
        if self._waiting or not self._admits(size):
            self._stand_in_line(ticket, size)
        else:
            self._carry_out(ticket, size)
        return ticket

    def when_visible(self, revision: int) -> Ticket[int]:
        """Return a ticket that is answered, with the revision, when it is visible. Its answer raises RevisionError for a
        revision that was not given out yet."""
        if revision <= self.marks.visible:
            return answered(revision)
        ticket: Ticket[int] = Ticket(None, lambda outcome: int(outcome))
        if self.failure is not None:
            ticket.fail(log_failed())
        elif revision > self.marks.assigned:
            ticket.fail(
                RevisionError(
                    Code.FUTURE_REVISION,
                    f"revision {revision} does not exist yet; the newest is {self.marks.visible}",
                    "ask for an existing revision, or for the newest one by naming none",
                )
            )
        else:
            ticket.decide(revision)
            self._hand_over(b"", 0, ticket)
        return ticket

    def request_seal(self) -> None:
        """Have the open segment sealed, if it is old enough, behind what is under way; what comes meanwhile waits."""
        if self.failure is None and not self._sealing:
            self._sealing = True
            self._log.submit_to_log(SEAL)

    @property
    def unwritten(self) -> int:
        """Return how many submissions the log has not brought back yet."""
        return self._unwritten

    @property
    def waiting(self) -> int:
        """Return how many requests stand in line."""
        return len(self._waiting)

    # -- admission ------------------------------------------------------------------------------------------------

    def _admits(self, size: int, in_batch: bool = False) -> bool:
        """Say whether a request of this size may be carried out now; ``in_batch``: together with others that waited."""
        if not size:
            return not self._blocked(in_batch)
        if self._blocked(in_batch) or (
            self._unwritten_bytes and self._unwritten_bytes + size > self._options.max_unwritten_bytes
        ):
            return False
        if size + CLAIM_OVERHEAD > self._room:
            self._room = self._log.room() - self._unwritten_bytes
        return size + CLAIM_OVERHEAD <= self._room

    def _blocked(self, in_batch: bool) -> bool:
        return self._sealing or (self._unwritten > 0 and not self._options.overlap and not in_batch)

    def _stand_in_line(self, ticket: AnyTicket, size: int) -> None:
        error = self._space_refusal(size)
        if self._line_is_full(size):
            self._drop_those_who_gave_up()
        if error is None and self._line_is_full(size):
            error = Refused(
                Code.OVERLOADED,
                f"{len(self._waiting)} requests wait for the log already",
                "try again after a pause; see the rate with: kvctl status",
            )
        if error is not None:
            self.refused += 1
            ticket.fail(error)
            return
        ticket.waiting_bytes = size
        self._waiting_bytes += size
        self._waiting.append(ticket)
        if len(self._waiting) == 1:  # room gained since it was asked for was told to nobody, as nobody waited yet
            self.admit_waiting()

    def _line_is_full(self, size: int) -> bool:
        options = self._options
        return len(self._waiting) >= options.max_waiting or self._waiting_bytes + size > options.max_waiting_bytes

    def _drop_those_who_gave_up(self) -> None:
        self._waiting = deque(ticket for ticket in self._waiting if not ticket.done)
        self._waiting_bytes = sum(ticket.waiting_bytes for ticket in self._waiting)

    def _space_refusal(self, size: int) -> KvError | None:
        """Return the refusal of a write for which there is no room on disk and none can be had; None where it may wait."""
        reason = self._log.space_error()
        if reason is None or not size:
            return None
        if self._log.room() - self._unwritten_bytes >= size + CLAIM_OVERHEAD:
            return None
        return space_refusal(reason)

    def admit_waiting(self) -> None:
        """Carry out what waits in line and fits now, in order; refuse what never will."""
        in_batch = not self._unwritten  # without overlap, all that waited for one group make the next
        while self._waiting and self.failure is None:
            ticket = self._waiting[0]
            size = ticket.waiting_bytes
            if ticket.done:  # gave up
                self._leave_line()
            elif self._admits(size, in_batch):
                self._leave_line()
                self._carry_out(ticket, size)
            else:
                error = None if self._blocked(in_batch) else self._space_refusal(size)
                if error is None:
                    return
                self._leave_line()
                self.refused += 1
                ticket.fail(error)

    def _leave_line(self) -> None:
        ticket = self._waiting.popleft()
        self._waiting_bytes -= ticket.waiting_bytes
        ticket.waiting_bytes = -1

    # -- carrying out ---------------------------------------------------------------------------------------------

    def _carry_out(self, ticket: AnyTicket, size: int) -> None:
        """Evaluate, assign, encode, hand to the log, insert. No ``await`` in here, ever (I1)."""
        request = ticket.request
        try:
            if isinstance(request, ReadRun):
                found = read_run(request, self.state)
                self._decide(ticket, found, found.depends_on)
                return
            self._check_memory(size)
            if isinstance(request, PutRun):
                self._carry_out_run(ticket, request)
            elif isinstance(request, Put) and request.if_revision is None:
                self._carry_out_put(ticket, request)
            else:
                self._carry_out_single(ticket, request)
        except KvError as error:
            self._decide(ticket, error, error.depends_on)
        except Exception as error:  # out of memory, say, between two steps: log and memory may differ now
            ticket.fail(OutcomeUnknown())
            self._fail(error, [])

    def _carry_out_run(self, ticket: AnyTicket, request: PutRun) -> None:
        commits = len(request.keys)
        data = encode_put_run(request.namespace, request.keys, request.values)
        first = self.marks.assigned + 1
        self._assign(ticket, RunDone(first, commits), data, commits)
        self.state.memtable.put_run(request.namespace, request.keys, request.values, first)
        self.marks.applied = self.marks.assigned
        self._answer_memory(ticket)

    def _carry_out_put(self, ticket: AnyTicket, request: Put) -> None:
        """Carry out what most requests are: nothing has to be evaluated, so it is a run of one."""
        namespace, keys, values = request.namespace, [request.key], [request.value]
        revision = self.marks.assigned + 1
        self._assign(ticket, Committed(revision, revision, 1, 0), encode_put_run(namespace, keys, values), 1)
        self.state.memtable.put_run(namespace, keys, values, revision)
        self.marks.applied = revision
        self._answer_memory(ticket)

    def _carry_out_single(self, ticket: AnyTicket, request: Single) -> None:
        done = evaluate(request, self.state, self.marks.assigned)
        if not done.effects:
            self._decide(ticket, Committed(0, done.depends_on, 0, 0), done.depends_on)
            return
        revision = self.marks.assigned + 1
        committed = Committed(revision, revision, done.put, done.deleted, done.namespace_id)
        self._assign(ticket, committed, encode_commit(done.effects), 1)
        self.state.apply(done.effects, revision)
        self.marks.applied = revision
        self._answer_memory(ticket)

    def _assign(self, ticket: AnyTicket, outcome: object, data: bytes, commits: int) -> None:
        """Give the commits their revisions and hand them to the log, which may write them while memory is filled."""
        self.marks.assigned += commits
        self.commits += commits
        ticket.decide(outcome)
        self._hand_over(data, commits, None if ticket.memory else ticket)

    def _answer_memory(self, ticket: AnyTicket) -> None:
        """Answer a MEMORY write; not before it is in memory, because who is called back may ask for more at once."""
        if ticket.memory:
            ticket.complete()

    def _decide(self, ticket: AnyTicket, outcome: object, depends_on: int) -> None:
        """Answer without a commit: at once if all that the answer shows is visible, else when it is (I3)."""
        ticket.decide(outcome)
        if depends_on <= self.marks.visible:
            ticket.complete()
        else:
            self._hand_over(b"", 0, ticket)

    def _hand_over(self, data: bytes, commits: int, ticket: AnyTicket | None) -> None:
        claimed = len(data) + CLAIM_OVERHEAD if data else 0
        self._unwritten_bytes += claimed
        self._unwritten += 1
        self._room -= claimed
        self._log.submit_to_log(Submission(data, commits, ticket, claimed))

    def _check_memory(self, size: int) -> None:
        limit = self._options.memory_limit_bytes
        held = self.state.memtable.size_bytes
        if limit and held + size + VERSION_OVERHEAD_BYTES > limit:
            raise Refused(
                Code.MEMORY_FULL,
                f"the store holds {held} bytes in memory and was told to hold at most {limit}",
                "start the server with a higher --memory-limit-mb",
            )

    # -- coming back ----------------------------------------------------------------------------------------------

    def on_group_done(self, done: GroupDone[AnyTicket]) -> None:
        """Show and answer a group that the log brought back; then carry out what waited for it."""
        for submission in done.submissions:
            self._unwritten_bytes -= submission.claimed_bytes
        self._unwritten -= len(done.submissions)
        failure = done.error or self.failure
        if failure is not None:
            self._fail(failure, done.submissions)
            return
        if done.control is SEAL:
            self._sealing = False
        self.position = done.position
        self.marks.move_durable(done.position.revision)
        self._room = self._log.room() - self._unwritten_bytes
        try:
            complete_all(submission.waiter for submission in done.submissions if submission.waiter is not None)
        finally:
            if self._waiting:
                self.admit_waiting()

    def _fail(self, error: BaseException, submissions: list[Submission[AnyTicket]]) -> None:
        """Answer everything with what can be said truthfully after the log failed (I6)."""
        self._enter_failure(error)
        told = [submission.waiter for submission in submissions if submission.waiter is not None]
        for submission in submissions:
            if submission.waiter is not None and not submission.waiter.done:
                submission.waiter.decide(OutcomeUnknown() if submission.commits else log_failed())
        while self._waiting:
            ticket = self._waiting[0]
            self._leave_line()
            if not ticket.done:
                ticket.decide(log_failed())
                told.append(ticket)
        complete_all(told)

    def _enter_failure(self, error: BaseException) -> None:
        if self.failure is None:
            self.failure = error
            self.on_failure(error)


def complete_all(tickets: Iterable[AnyTicket]) -> None:
    """Tell all answers; a callback that raises keeps nobody else's from being told. Raises the first such error, at the end."""
    first: Exception | None = None
    for ticket in tickets:
        try:
            ticket.complete()
        except Exception as error:
            first = first or error
    if first is not None:
        raise first


def log_failed() -> NotServing:
    """Return the answer to everything after the log failed; what it answers was not written."""
    return NotServing("the log failed, the node is ending; nothing of this request was written", Code.LOG_FAILED)


def space_refusal(reason: OSError) -> Refused:
    """Return the refusal of a write for which the log gets no room."""
    if reason.errno in (errno.ENOSPC, errno.EDQUOT):
        return Refused(
            Code.DISK_FULL,
            "the disk of the data folder is full; nothing was written",
            "free space there; the node goes on by itself within a second or two",
        )
    return Refused(
        Code.DISK_UNAVAILABLE,
        f"the log gets no room on disk ({reason.strerror or reason}); nothing was written",
        "see the server's log; the node goes on by itself once the disk can be written",
    )
