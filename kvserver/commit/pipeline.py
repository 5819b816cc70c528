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

Tried and left: waiting for every group to fill (it fills by itself); one future a commit (one callback a group is what a
hundred thousand commits a second can afford); handing a group over only when the loop hears of the last one's end.

The stages are pebble's (cockroachdb/pebble, ``commit.go``); holding every answer, negative ones too, until what it shows is
durable is this project's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from kvserver.base.errors import Corruption, KvError, OutcomeUnknown
from kvserver.base.options import PipelineOptions
from kvserver.base.types import Position
from kvserver.commit.evaluate import evaluate
from kvserver.commit.line import WaitingLine
from kvserver.commit.log_port import CLAIM_OVERHEAD, Log
from kvserver.commit.marks import Marks
from kvserver.commit.reading import Reader
from kvserver.commit.refusals import log_failed, no_such_revision_yet, overloaded, repeated, space_refusal, write_refused
from kvserver.commit.requests import Committed, Found, Put, PutRun, ReadRun, Request, RunDone, Single, size_bytes
from kvserver.commit.state import State
from kvserver.commit.ticket import Ticket, answered, complete_all
from kvserver.storage.view import Pin
from kvserver.wal.commit_record import encode_commit, encode_put_run
from kvserver.wal.group_commit import CUT, SEAL, SEAL_NOW, GroupDone, Submission

Answer = TypeVar("Answer")
AnyTicket = Ticket[Any]


class CommitPipeline:
    """Takes requests, gives tickets. All methods belong to the event loop."""

    def __init__(self, state: State, marks: Marks, log: Log, options: PipelineOptions, reader: Reader) -> None:
        self.state = state
        self.marks = marks
        self.on_cut: Callable[[Position], None] = lambda position: None
        """Called with the position at which the log was cut, once for each ``request_cut``, in order."""
        self._reader = reader
        self.position: Position | None = None
        """Where the log durably ends, as far as the event loop has heard; None before the first group."""
        self.failure: BaseException | None = None
        self.commits = 0
        """Commits made since the start."""
        self.refused = 0
        self.on_failure: Callable[[BaseException], None] = lambda error: None
        """Called once, when the pipeline has failed."""
        self.refusing: KvError | None = None
        """What writes are refused with, before they get a revision, for a reason that lies elsewhere; None: they are not.

        Whoever changes it calls ``admit_waiting``. A rule of admission like any other, so it costs nothing more than it.
        """
        self._log = log
        self._options = options
        self._line = WaitingLine(options)
        self._waiting = self._line.tickets
        self._unwritten_bytes = 0
        self._unwritten = 0
        self._room = log.room()
        """The log's room when it was last asked, less what was claimed since."""
        self._sealing = False

    # -- asking ---------------------------------------------------------------------------------------------------

    def submit(
        self, request: Request, convert: Callable[[Any], Answer], memory: bool = False, pin: Pin | None = None
    ) -> Ticket[Answer]:
        """Carry a request out, or put it in line; return the ticket of its answer, made from the result by ``convert``.

        Never raises: refusals and failed conditions are answers too. ``memory``: answer before it is durable. ``pin``: what
        judging it needs from the tables (``Reader.prepare``); without it, memory must know.
        """
        ticket = Ticket(request, convert, memory)
        is_blind = isinstance(request, PutRun | ReadRun) or (isinstance(request, Put) and request.if_revision is None)
        ticket.pin = pin or (None if is_blind else self.state.view.pin())
        return self.submit_ticket(ticket)

    def read_now(self, request: ReadRun, convert: Callable[[Any], Answer]) -> Ticket[Answer]:
        """Read the newest state past those who stand in line: for whoever has no write of its own among them."""
        ticket = Ticket(request, convert)
        if self.failure is not None or self._blocked(in_batch=False):
            return self.submit_ticket(ticket)
        self._carry_out(ticket, 0)
        return ticket

    def submit_ticket(self, ticket: Ticket[Answer]) -> Ticket[Answer]:
        """Do what ``submit`` does for a ticket that was made before."""
        if self.failure is not None:
            ticket.fail(log_failed())
            return ticket
        size = size_bytes(ticket.request)
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
            ticket.fail(no_such_revision_yet(revision, self.marks.visible))
        else:
            ticket.decide(revision)
            self._hand_over(b"", 0, ticket)
        return ticket

    def request_seal(self, now: bool = False) -> bool:
        """Have the open segment sealed behind what is under way, while what comes waits: if it is old enough, or ``now``.

        Say whether the log was asked: it is not while it is busy with the last time.
        """
        asks = self.failure is None and not self._sealing
        if asks:
            self._sealing = True
            self._log.submit_to_log(SEAL_NOW if now else SEAL)
        return asks

    def request_cut(self) -> None:
        """Have a frame of the log end with what was submitted so far; ``on_cut`` tells where that is."""
        if self.failure is None:
            self._log.submit_to_log(CUT)

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
        return self._sealing or (self._unwritten > 0 and not self._options.overlap and not in_batch)

    def _stand_in_line(self, ticket: AnyTicket, size: int) -> None:
        error = self._refusal(size)
        if error is None and not self._line.takes(size):
            error = overloaded(len(self._waiting))
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

    def admit_waiting(self) -> None:
        """Carry out what waits in line and fits now, in order; refuse what never will."""
        in_batch = not self._unwritten  # without overlap, all that waited for one group make the next
        while self._waiting and self.failure is None:
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

    # -- carrying out ---------------------------------------------------------------------------------------------

    def _carry_out(self, ticket: AnyTicket, size: int) -> None:
        """Evaluate, assign, encode, hand to the log, insert. No ``await`` in here, ever (I1)."""
        request = ticket.request
        try:
            if isinstance(request, ReadRun):
                self._carry_out_reads(ticket, request)
                return
            if isinstance(request, PutRun):
                self._carry_out_run(ticket, request)
            elif isinstance(request, Put) and request.if_revision is None:
                self._carry_out_put(ticket, request)
            else:
                self._carry_out_single(ticket, request)
        except Corruption as error:  # of a row that was read beforehand
            self._decide(ticket, write_refused(error), 0)
        except KvError as error:
            self._decide(ticket, error, error.depends_on)
        except Exception as error:  # out of memory, say, between two steps: log and memory may differ now
            ticket.fail(OutcomeUnknown())
            self._fail(error, [])

    def _carry_out_run(self, ticket: AnyTicket, request: PutRun) -> None:
        if self.state.dropped:
            self.state.require_live(request.namespace)
        commits = len(request.keys)
        data = encode_put_run(request.namespace, request.keys, request.values)
        first = self.marks.assigned + 1
        self._assign(ticket, RunDone(first, commits), data, commits)
        self.state.memtable.put_run(request.namespace, request.keys, request.values, first)
        self.marks.applied = self.marks.assigned
        self._answer_memory(ticket)

    def _carry_out_put(self, ticket: AnyTicket, request: Put) -> None:
        """Carry out what most requests are: nothing has to be evaluated, so it is a run of one."""
        if self.state.dropped:
            self.state.require_live(request.namespace)
        namespace, keys, values = request.namespace, [request.key], [request.value]
        revision = self.marks.assigned + 1
        self._assign(ticket, Committed(revision, revision, 1, 0), encode_put_run(namespace, keys, values), 1)
        self.state.memtable.put_run(namespace, keys, values, revision)
        self.marks.applied = revision
        self._answer_memory(ticket)

    def _carry_out_single(self, ticket: AnyTicket, request: Single) -> None:
        done = evaluate(request, self.state, self.marks.assigned, ticket.pin)
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

    def _carry_out_reads(self, ticket: AnyTicket, request: ReadRun) -> None:
        """Read the newest state as it is now. What lies in tables comes later: the answer waits for it, the stream does not."""
        namespace, keys = request.namespace, request.keys
        self.state.require_live(namespace)
        depends_on = self.state.view.depends_on(namespace, keys)
        found = self._reader.read(namespace, keys, self.marks.assigned)
        if found.done:
            self._decide(ticket, Found(found.answer(), depends_on), depends_on)
            return
        ticket.hold()

        def on_found() -> None:
            if ticket.done:  # the log failed meanwhile, and that was told
                return
            try:
                ticket.decide(Found(found.answer(), depends_on))
            except KvError as error:
                ticket.decide(error)
            ticket.let_go()

        found.on_done(on_found)
        self._decide(ticket, None, depends_on)

    def _memory_is_full(self) -> bool:
        limit = self._options.memory_limit_bytes
        return bool(limit) and self.state.view.unflushed_bytes >= limit

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
        self.position = done.position
        self.marks.move_durable(done.position.revision)
        if done.control is SEAL or done.control is SEAL_NOW:
            self._sealing = False
        elif done.control is CUT:
            self.on_cut(done.position)
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
                submission.waiter.fail_with(OutcomeUnknown() if submission.commits else log_failed())
        while self._waiting:
            ticket = self._waiting[0]
            self._line.leave()
            if not ticket.done:
                ticket.decide(log_failed())
                told.append(ticket)
        complete_all(told)

    def _enter_failure(self, error: BaseException) -> None:
        if self.failure is None:
            self.failure = error
            self.on_failure(error)
