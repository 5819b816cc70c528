"""The pipeline of a follower: what was received is inserted, shown when the primary shows it, and nothing else is written.

It has the surface of ``CommitPipeline``, so that whatever stands on a pipeline (flushes, upkeep, services) stands on this one
too. What differs is where commits come from, and who says what may be seen:

    F1  Every write is refused with the address of the primary, before anything of it is looked at.
    F2  ``durable >= applied >= visible``: a group is synced, then inserted, then shown. ``visible`` is the lower of ``applied``
        and of what the primary was heard to show in this connection. A mark of an earlier connection says nothing: whoever
        is followed now may have another history behind it.
    F3  ``applied`` moves by whole groups. A large group is inserted over several turns of the event loop, commit by commit, and
        until it is whole nobody can tell: readers read at ``visible``, which is below it.
    F4  A revision that does not exist yet may be about to be received, so who asks for one waits, until the time allowed is
        over. Waits end in order of revision, and all of them when the node stops or its log fails.
    F5  Memory is cut for a flush at the end of a group, and the cut is told when the whole of it is visible: tables take nothing
        back, and what is not visible may be.

Nothing is sealed or compacted here: the primary's seals are among the bytes received, its compactions among the commits.
"""

from __future__ import annotations

import heapq
import itertools
import struct
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, TypeVar

from kvserver.base.errors import Corruption, KvError, NotPrimary, NotServing
from kvserver.base.limits import KIB
from kvserver.base.types import Position
from kvserver.commit.marks import Marks
from kvserver.commit.reading import Reader
from kvserver.commit.refusals import log_failed, repeated
from kvserver.commit.requests import Found, ReadRun, Request
from kvserver.commit.state import State
from kvserver.commit.ticket import Ticket, answered, complete_all
from kvserver.storage.view import Pin
from kvserver.wal.chunk import ReceivedGroup
from kvserver.wal.commit_record import PUT, RECORD_LENGTH

Answer = TypeVar("Answer")

COMMIT_COST = 128
"""What a commit of one blind put costs to insert beside its bytes, counted in bytes."""

EFFECT_COST = 512
"""The same for each effect of any other commit: three to four microseconds."""

TURN_COST = 256 * KIB
"""What may be inserted in one turn of the event loop, counted so: fifteen hundred small puts, about two milliseconds."""

SMALL_COST = 4 * KIB
"""A group that would cost so little if all its commits were blind puts is inserted without a look at them ..."""

UNSEEN_FACTOR = 4
"""... and counts so many times, because they may be others."""

_HEAD = struct.Struct("<IBBHBB")
"""How a commit begins: length, kind, flags, effects; then op and flags of the first effect."""

_PRUNE_FROM = 64


class VisibleTicket(Ticket[int]):
    """The answer of somebody who waits for a revision; it knows when nobody does any more."""

    __slots__ = ("gone",)

    def __init__(self) -> None:
        super().__init__(None, lambda outcome: int(outcome))
        self.gone = False
        """Whoever waited gave up: there is nobody to be told."""

    def __await__(self) -> Generator[Any, None, int]:
        """Wait for the answer; a wait that is cancelled leaves a ticket that may be forgotten."""
        try:
            return (yield from super().__await__())
        finally:
            self.gone = not self.done


class ReplayPipeline:
    """Takes groups that were received, and gives tickets to readers. All methods belong to the event loop."""

    def __init__(self, state: State, marks: Marks, reader: Reader, position: Position) -> None:
        """Begin behind what was recovered, which ends at ``position``."""
        self.state = state
        self.marks = marks
        self.on_cut: Callable[[Position], None] = lambda position: None
        """Called with the position at which memory was cut, once for each ``request_cut``, in order."""
        self.position: Position | None = None
        """Where the log durably ends, as far as the event loop has heard; None before the first group."""
        self.failure: BaseException | None = None
        self.commits = 0
        """Commits inserted since the start."""
        self.refused = 0
        self.on_failure: Callable[[BaseException], None] = lambda error: None
        """Called once, when the log has failed."""
        self.refusing: KvError | None = None
        """Of no effect here: every write is refused."""
        self.primary = ""
        """The address of who takes writes, as far as this node knows; set by whoever hears of it."""
        self.on_room: Callable[[], None] = lambda: None
        """Called when memory has been written into tables, or cannot be."""
        self.on_end: Callable[[], None] = lambda: None
        """Called when nothing becomes visible any more: it failed, was fenced or is closed."""
        self._reader = reader
        self._heard = marks.visible
        self._applied = position
        self._group: ReceivedGroup | None = None
        """The group that is being inserted."""
        self._at = 0
        self._next_revision = 0
        self._cuts: deque[Position] = deque()
        self._waits: list[tuple[int, int, VisibleTicket]] = []
        self._numbers = itertools.count()
        self._prune_above = _PRUNE_FROM
        self._end: Callable[[], KvError] | None = None
        """Makes the error that says why nothing becomes visible any more; None while it may."""
        self.on_visible: Callable[[], None] = lambda: None
        """Of no effect here: whoever inserts or hears knows."""
        self.why_unmet: Callable[[], str] = lambda: ""
        """Of no effect here: the primary alone waits for a quorum."""
        state.on_policy = lambda: state.forget_policies(marks.visible)

    # -- asking ---------------------------------------------------------------------------------------------------

    def submit(
        self, request: Request, convert: Callable[[Any], Answer], memory: bool = False, pin: Pin | None = None
    ) -> Ticket[Answer]:
        """Carry out a run of reads; refuse anything else. Never raises."""
        return self.submit_ticket(Ticket(request, convert, memory))

    def submit_ticket(self, ticket: Ticket[Answer]) -> Ticket[Answer]:
        """Do what ``submit`` does for a ticket that was made before."""
        if self.failure is not None:
            ticket.fail(log_failed())
        elif isinstance(ticket.request, ReadRun):
            self._read(ticket, ticket.request)
        else:
            self.refused += 1
            ticket.fail(NotPrimary(self.primary))
        return ticket

    def refuse(self) -> Ticket[Any]:
        """Return the answer to whoever asks for what a primary alone does."""
        return self.submit_ticket(Ticket(None, lambda outcome: outcome))

    def read_now(self, request: ReadRun, convert: Callable[[Any], Answer]) -> Ticket[Answer]:
        """Read the newest visible state."""
        return self.submit_ticket(Ticket(request, convert))

    def _read(self, ticket: Ticket[Any], request: ReadRun) -> None:
        revision = self.marks.visible
        try:
            self.state.require_live(request.namespace, revision)
        except KvError as error:
            ticket.fail(error)
            return
        found = self._reader.read(request.namespace, request.keys, revision)

        def on_found() -> None:
            try:
                ticket.decide(Found(found.answer(), revision))
            except KvError as error:
                ticket.decide(error)
            ticket.complete()

        found.on_done(on_found)

    def when_visible(self, revision: int) -> Ticket[int]:
        """Return a ticket that is answered, with the revision, when it is visible, whether it exists yet or not."""
        if revision <= self.marks.visible:
            return answered(revision)
        ticket = VisibleTicket()
        self.join(ticket, revision)
        return ticket

    def when_durable(self, revision: int) -> Ticket[int]:
        """Return a ticket that is answered when a revision is on this node's disk; where it is not yet, when it is visible."""
        return answered(revision) if revision <= self.marks.durable else self.when_visible(revision)

    def join(self, ticket: VisibleTicket, revision: int) -> None:
        """Have a ticket answered when a revision is visible, at once if it is."""
        ticket.decide(revision)
        if revision <= self.marks.visible:
            ticket.complete()
        elif self.failure is not None:
            ticket.fail(log_failed())
        elif self._end is not None:
            ticket.fail(self._end())
        else:
            if len(self._waits) >= self._prune_above:
                self._waits = [wait for wait in self._waits if not wait[2].gone]
                heapq.heapify(self._waits)
                self._prune_above = max(_PRUNE_FROM, 2 * len(self._waits))
            heapq.heappush(self._waits, (revision, next(self._numbers), ticket))

    def request_seal(self, now: bool = False) -> bool:
        """Say that the log was not asked to seal: the primary alone seals."""
        return False

    def request_cut(self) -> None:
        """Tell ``on_cut`` the end of the last group that was inserted, once all up to there is visible."""
        if self.failure is None:
            self._cuts.append(self._applied)
            self._tell_cuts()

    def set_replicated(self, revision: int | None) -> None:
        """Do nothing: what a policy lets be seen is part of what the primary says that it shows."""

    @property
    def unwritten(self) -> int:
        """Return how many submissions the log has not brought back yet: none are made here."""
        return 0

    @property
    def waiting(self) -> int:
        """Return how many wait for a revision; who gave up is counted for a while."""
        return len(self._waits)

    def admit_waiting(self) -> None:
        """Go on with what waited for room in memory."""
        self.on_room()

    # -- what was received ----------------------------------------------------------------------------------------

    @property
    def is_inserting(self) -> bool:
        """Say whether a group was begun and is not whole yet."""
        return self._group is not None

    def received(self, position: Position) -> None:
        """Note that everything up to a position is on disk."""
        self.position = position
        self.marks.assigned = self.marks.durable = position.revision

    def begin(self, group: ReceivedGroup) -> None:
        """Begin to insert the group behind those that were inserted. Raises ValueError for any other one."""
        if self._group is not None or group.first_revision != self.marks.applied + 1:
            raise ValueError(f"a group from revision {group.first_revision} on does not follow {self.marks.applied}")
        self._group, self._at, self._next_revision = group, 0, group.first_revision

    def insert(self, most_cost: int) -> int:
        """Insert a part of the group that was begun; return what it cost, at least one commit's share."""
        group = self._group
        assert group is not None, "a group is begun first"
        left = count = group.first_revision + group.count - self._next_revision
        stop = len(group.payload)
        cost = UNSEEN_FACTOR * (left * COMMIT_COST + stop - self._at)
        try:
            if cost > min(most_cost, UNSEEN_FACTOR * SMALL_COST):
                count, stop, cost = _part(group.payload, self._at, left, most_cost)
            whole = not self._at and stop == len(group.payload)
            self.state.replay_group(self._next_revision, count, group.payload if whole else group.payload[self._at : stop])
        except ValueError as error:  # its checksum is right, so it was written so: nothing behind it can be right here
            self._group = None
            self.fail(Corruption("the log", 0, f"the group from revision {group.first_revision} on: {error}"))
            return cost
        self._next_revision += count
        self._at = stop
        if count == left:
            self._end_group(group)
        return cost

    def finish(self) -> None:
        """Insert the rest of a group that was begun, so that memory ends where a group does."""
        while self._group is not None:
            self.insert(1 << 62)

    def apply(self, group: ReceivedGroup) -> None:
        """Insert a whole group at once."""
        self.begin(group)
        self.finish()

    def _end_group(self, group: ReceivedGroup) -> None:
        self._group = None
        self._applied = group.position
        self.commits += group.count
        self.marks.applied = group.first_revision + group.count - 1
        self._show()

    # -- what may be seen -----------------------------------------------------------------------------------------

    def hear(self, visible: int) -> None:
        """Note what the primary shows, as it said in this connection."""
        if visible > self._heard and self._end is None:
            self._heard = visible
            self._show()

    def contact_lost(self) -> None:
        """Forget what was heard in the connection that ended; what is visible stays so."""
        self._heard = self.marks.visible

    def _show(self) -> None:
        """Show what may be seen, and tell those who wait for it, in order of revision."""
        visible = min(self.marks.applied, self._heard)
        if visible <= self.marks.visible or self._end is not None:
            return
        self.marks.visible = visible
        reached: list[Ticket[Any]] = []
        while self._waits and self._waits[0][0] <= visible:
            reached.append(heapq.heappop(self._waits)[2])
        self._tell_cuts()
        complete_all(reached)

    def _tell_cuts(self) -> None:
        while self._cuts and self._cuts[0].revision <= self.marks.visible:
            self.on_cut(self._cuts.popleft())

    # -- the end --------------------------------------------------------------------------------------------------

    def fence(self, error: KvError) -> None:
        """Show nothing more from now on; who waits is told the error."""
        self._stop(lambda: repeated(error))

    def close(self) -> None:
        """Tell those who wait for a revision that it will not come while this store is open."""
        self._stop(lambda: NotServing("the node is stopping, or changes its part"))

    def _stop(self, why: Callable[[], KvError]) -> None:
        if self._end is None:
            self._end = why
            self._give_up(why)

    def fail(self, error: BaseException) -> None:
        """Note that the log failed, or holds what cannot be inserted; everything is answered so from now on."""
        if self.failure is None:
            self.failure = error
            self._give_up(log_failed)
            self.on_failure(error)

    def _give_up(self, error: Callable[[], KvError]) -> None:
        waits, self._waits = self._waits, []
        told = [ticket for _, _, ticket in sorted(waits, key=lambda wait: wait[:2])]
        for ticket in told:
            ticket.fail_with(error())
        try:
            complete_all(told)
        finally:
            self.on_end()


def _part(payload: bytes, at: int, most_commits: int, most_cost: int) -> tuple[int, int, int]:
    """Return how many commits from an offset on stay within a cost, one at least, where they end, and what they cost.

    Raises ValueError where one does not fit into the payload.
    """
    end, count, spent = len(payload), 0, 0
    while count < most_commits:
        if at + _HEAD.size > end:
            raise ValueError("a commit is cut off in its head")
        length, _, _, effects, op, flags = _HEAD.unpack_from(payload, at)
        if length < RECORD_LENGTH or at + length > end:
            raise ValueError(f"a commit says it is {length} bytes long, which does not fit")
        cost = length + (COMMIT_COST if effects == 1 and op == PUT and not flags else EFFECT_COST * effects)
        if count and spent + cost > most_cost:
            break
        spent += cost
        at += length
        count += 1
    return count, (end if count == most_commits else at), spent
