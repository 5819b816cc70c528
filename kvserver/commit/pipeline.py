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
    I2  ``visible <= durable`` and, where the policy names a quorum, ``visible <= replicated``. Readers read at ``visible``; it
        moves only when a group's sync has returned, and the quorum has acknowledged it. Which quorums must have it is
        settled in the turn in which the commit of a policy gets its revision: it is never shown by the old rule alone.
    I3  Every answer carries the highest revision that it shows something of, and is held until that is visible. A failed
        condition, an absent key and a read within a stream show things as much as a success does. Such an answer goes
        through the same queue as a submission without bytes, and so comes back when all before it is durable. What comes
        back durable and not yet visible is kept, in order (``showing``), and counts: above a bound nothing is admitted.
    I4  A submission's bytes and who waits for them cross to the log thread as one item, before the sync they share.
    I5  What has a revision has its place on disk: a submission is admitted only while the log has room ready for it.
        What is not admitted waits in line, in order, or is refused; nothing of it was carried out, so NOT_WRITTEN is true.
    I6  After a failed write or sync nothing new is evaluated, shown or acknowledged any more. Writes that had a revision are
        answered OUTCOME_UNKNOWN; the process ends.
    I7  After ``fence`` nothing new is evaluated, shown or acknowledged either: another node is primary. What the log brings
        back is durable here, and told OUTCOME_UNKNOWN. Reads at what is visible go on, and so does the process.

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

from kvserver.base.errors import Corruption, KvError, NotServing, OutcomeUnknown
from kvserver.base.options import PipelineOptions
from kvserver.base.types import Position
from kvserver.commit.admission import Admission
from kvserver.commit.evaluate import evaluate
from kvserver.commit.keyed import judge
from kvserver.commit.log_port import CLAIM_OVERHEAD, Log
from kvserver.commit.marks import Marks
from kvserver.commit.reading import Reader
from kvserver.commit.refusals import log_failed, no_such_revision_yet, policy_unmet, repeated, write_refused
from kvserver.commit.requests import Committed, Found, Keyed, Put, PutRun, ReadRun, Request, RunDone, Single, size_bytes
from kvserver.commit.showing import AnyTicket, Showing, Unanswered, unanswered
from kvserver.commit.state import State
from kvserver.commit.ticket import Ticket, answered, complete_all
from kvserver.storage.view import Pin
from kvserver.wal.commit_record import encode_commit, encode_put_run
from kvserver.wal.group_commit import CUT, SEAL, SEAL_NOW, GroupDone, Submission

__all__ = ["AnyTicket", "CommitPipeline"]

Answer = TypeVar("Answer")


class CommitPipeline(Admission):
    """Takes requests, gives tickets. All methods belong to the event loop."""

    def __init__(self, state: State, marks: Marks, log: Log, options: PipelineOptions, reader: Reader) -> None:
        super().__init__(log, options)
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
        self.on_failure: Callable[[BaseException], None] = lambda error: None
        """Called once, when the pipeline has failed."""
        self.on_visible: Callable[[], None] = lambda: None
        """Called when something has become visible by ``set_replicated``."""
        self._closing = False
        self._showing = Showing(marks, options, lambda position: self.on_cut(position))
        state.on_policy = self._await_policy

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
        if self._over is not None or self._blocked(in_batch=False):
            return self.submit_ticket(ticket)
        self._carry_out(ticket, 0)
        return ticket

    def submit_ticket(self, ticket: Ticket[Answer]) -> Ticket[Answer]:
        """Do what ``submit`` does for a ticket that was made before."""
        if self._over is not None:
            ticket.fail(repeated(self._over))
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
        ticket = self._waits_for(revision)
        if ticket.done:
            return ticket
        if self._full:
            ticket.fail(policy_unmet(len(self._waiting), self.why_unmet()))
        elif self.marks.replicated is None:
            self._hand_over(b"", 0, ticket)
        else:
            self._showing.await_visible(revision, ticket)
            self._full = self._showing.is_full
        return ticket

    def when_durable(self, revision: int) -> Ticket[int]:
        """Return a ticket that is answered when a revision is on this node's disk, whether the quorum has it or not."""
        if revision <= self.marks.durable:
            return answered(revision)
        ticket = self._waits_for(revision)
        if not ticket.done:
            self._showing.await_durable(revision, ticket)
        return ticket

    def _waits_for(self, revision: int) -> Ticket[int]:
        ticket: Ticket[int] = Ticket(None, lambda outcome: int(outcome))
        if self._over is not None:
            ticket.fail(repeated(self._over))
        elif revision > self.marks.assigned:
            ticket.fail(no_such_revision_yet(revision, self.marks.visible))
        else:
            ticket.decide(revision)
        return ticket

    def request_seal(self, now: bool = False) -> bool:
        """Have the open segment sealed behind what is under way, while what comes waits: if it is old enough, or ``now``.

        Say whether the log was asked: it is not while it is busy with the last time.
        """
        asks = self._over is None and not self._sealing
        if asks:
            self._sealing = True
            self._log.submit_to_log(SEAL_NOW if now else SEAL)
        return asks

    def request_cut(self) -> None:
        """Have a frame of the log end with what was submitted so far; ``on_cut`` tells where that is."""
        if self.failure is None:
            self._log.submit_to_log(CUT)

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
            elif isinstance(request, Keyed):
                self._carry_out_keyed(ticket, request)
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
        first = self.marks.assigned + 1
        self._assign(ticket, RunDone(first, commits), encode_put_run(request.namespace, request.keys, request.values), commits)
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

    def _carry_out_keyed(self, ticket: AnyTicket, request: Keyed) -> None:
        step = judge(request, self.state, self.marks.assigned, ticket.pin)
        if step.commits:
            self._assign(ticket, step.outcome, step.data, step.commits)
            step.apply(self.state)
            self.marks.applied = self.marks.assigned
            self._answer_memory(ticket)
        else:
            self._decide(ticket, step.outcome, step.depends_on)

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
        if done.control is SEAL or done.control is SEAL_NOW:
            self._sealing = False
        self._room = self._log.room() - self._unwritten_bytes
        if self._over is not None:
            self.marks.move_durable(done.position.revision)
            if done.control is CUT and done.position.revision <= self.marks.visible:
                self.on_cut(done.position)
            self._refuse(unanswered(done.submissions), self._over)
            return
        try:
            self._showing.came_back(done)
        finally:
            self._go_on()
        if self._closing:
            self.close()

    def set_replicated(self, revision: int | None) -> None:
        """Note what the policy's quorum has, None: none is waited for; show and answer what that makes visible."""
        if self._over is not None:
            return
        before = self.marks.visible
        try:
            self._showing.move_replicated(revision)
        finally:
            self._go_on()
            if self.marks.visible > before:
                self.on_visible()

    def _await_policy(self) -> None:
        """Hold the commit of a policy, which has its revision now, until somebody says what the quorums have (I2).

        Called in the middle of carrying it out, so nobody else is called from here.
        """
        self.state.forget_policies(self.marks.visible)
        if self.marks.replicated is None and self.state.needs_quorum(self.marks.visible):
            self.marks.move_replicated(0)

    def _go_on(self) -> None:
        self._full = self._showing.is_full
        if self._waiting:
            self.admit_waiting()

    # -- the end --------------------------------------------------------------------------------------------------

    def fence(self, error: KvError) -> None:
        """Carry out, show and acknowledge nothing from now on, because another node is primary (I7). Twice does no harm: the
        last error is what later requests are answered with."""
        if self.failure is not None:
            return
        self._over = error
        self.marks.move_replicated(0)
        self._refuse([], error)

    def close(self) -> None:
        """Tell those who would have to wait, for the quorum or in line, that the node ends; to be called when nothing new is
        submitted. What the log still brings back is told as ever where it becomes visible at once."""
        self._closing = True
        if self._over is None:
            self._refuse([], NotServing("the node is stopping; nothing of this request was written"))

    def _fail(self, error: BaseException, submissions: list[Submission[AnyTicket]]) -> None:
        """Answer everything with what can be said truthfully after the log failed (I6)."""
        self._over = log_failed()
        if self.failure is None:
            self.failure = error
            self.on_failure(error)
        self._refuse(unanswered(submissions), self._over)

    def _refuse(self, submitted: list[Unanswered], error: KvError) -> None:
        """Tell those whose commits may or may not be kept so, and everybody else the error: nothing of theirs was written."""
        told: list[AnyTicket] = []
        for ticket, has_commits in (*self._showing.take_all(), *submitted):
            if not ticket.done:
                ticket.fail_with(OutcomeUnknown() if has_commits else repeated(error))
                told.append(ticket)
        while self._waiting:
            ticket = self._waiting[0]
            self._line.leave()
            if not ticket.done:
                ticket.decide(repeated(error))
                told.append(ticket)
        complete_all(told)
