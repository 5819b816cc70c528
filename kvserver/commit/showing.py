"""What the log brought back: shown and told at once, or kept until the policy's quorum has it too.

While no quorum is waited for, a group is shown and told in the turn in which it comes back, and nothing is kept. With a quorum
a group comes back durable, and may have to wait for the acknowledgements of others, for as long as they are away:

    log ── came_back ──► durable ──► kept, whole and in order ──► visible has reached the group's end ──► told
                                            ▲
                          move_replicated ──┘ what the quorum has

A group is told when all of it is visible, as if its sync had taken so long: its answers show nothing behind its end, those
without a commit too. A cut of the log stands among the groups and is told in the same way, so nothing is flushed that is not
visible. The answers kept count against bounds; above them the pipeline admits nothing more. Whoever waits for a revision and for
no group is told when that one is visible or, where it asked for less than the policy, durable.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from kvserver.base.limits import KIB
from kvserver.base.options import PipelineOptions
from kvserver.base.types import Position
from kvserver.commit.marks import Marks
from kvserver.commit.requests import Found
from kvserver.commit.ticket import Ticket, complete_all
from kvserver.wal.group_commit import CUT, GroupDone, Submission

AnyTicket = Ticket[Any]

Unanswered = tuple[AnyTicket, bool]
"""An answer that was not told, and whether it is about commits."""

UNREAD_BYTES = 64 * KIB
"""What is counted for an answer that the tables have not filled yet."""


class _Kept:
    """A group, or a cut, that is durable and not visible."""

    __slots__ = ("answers", "cut", "revision", "size_bytes")

    def __init__(self, revision: int, answers: list[Unanswered], size_bytes: int, cut: Position | None) -> None:
        self.revision = revision
        self.answers = answers
        self.size_bytes = size_bytes
        self.cut = cut


class Showing:
    """Moves the marks, and tells answers in order. Belongs to the event loop."""

    def __init__(self, marks: Marks, options: PipelineOptions, on_cut: Callable[[Position], None]) -> None:
        self._marks = marks
        self._options = options
        self._on_cut = on_cut
        self._kept: deque[_Kept] = deque()
        self._waits: list[tuple[int, int, AnyTicket]] = []
        """A heap of those who wait until a revision is visible."""
        self._numbers = itertools.count()
        self._awaiting: list[tuple[int, AnyTicket]] = []
        """Those who wait until one is durable."""
        self._telling = False
        self.answers = 0
        """Answers kept."""
        self.size_bytes = 0
        """What they, and commits that nobody waits for, take."""

    @property
    def is_full(self) -> bool:
        """Say whether so much is durable and not visible that nothing may join it."""
        return self.answers >= self._options.max_unreplicated or self.size_bytes >= self._options.max_unreplicated_bytes

    # -- what moves -----------------------------------------------------------------------------------------------

    def came_back(self, done: GroupDone[AnyTicket]) -> None:
        """Show and tell a group that is durable, or keep it."""
        revision = done.position.revision
        self._marks.move_durable(revision)
        is_cut = done.control is CUT
        if not self._kept and not self._waits and revision <= self._marks.visible:
            if is_cut:
                self._on_cut(done.position)
            told = (submission.waiter for submission in done.submissions if submission.waiter is not None)
            complete_all([*self._reached_durable(), *told] if self._awaiting else told)
            return
        if done.submissions or is_cut:
            answers = unanswered(done.submissions)
            size = sum(submission.claimed_bytes for submission in done.submissions) + sum(map(_answer_bytes, answers))
            self._kept.append(_Kept(revision, answers, size, done.position if is_cut else None))
            self.answers += len(answers)
            self.size_bytes += size
        try:
            complete_all(self._reached_durable())
        finally:
            self._tell()

    def move_replicated(self, revision: int | None) -> None:
        """Note what the quorum has (None: none is waited for), and tell what that shows."""
        self._marks.move_replicated(revision)
        self._tell()

    def await_durable(self, revision: int, ticket: AnyTicket) -> None:
        """Have a ticket told when a revision that was handed over is durable, visible or not."""
        self._awaiting.append((revision, ticket))

    def await_visible(self, revision: int, ticket: AnyTicket) -> None:
        """Have a ticket told when a revision that was given out is visible."""
        heapq.heappush(self._waits, (revision, next(self._numbers), ticket))
        self.answers += 1

    def _tell(self) -> None:
        """Tell what has become visible, in order; a callback that makes more visible leaves the telling to this one."""
        if not self._telling and (self._kept or self._waits):
            self._telling = True
            try:
                complete_all(self._reached())
            finally:
                self._telling = False

    def _reached(self) -> Iterator[AnyTicket]:
        kept, waits, marks = self._kept, self._waits, self._marks
        while True:
            if kept and kept[0].revision <= marks.visible:
                group = kept.popleft()
                self.answers -= len(group.answers)
                self.size_bytes -= group.size_bytes
                if group.cut is not None:
                    self._on_cut(group.cut)
                for ticket, _ in group.answers:
                    yield ticket
            elif waits and waits[0][0] <= marks.visible:
                self.answers -= 1
                yield heapq.heappop(waits)[2]
            else:
                return

    def _reached_durable(self) -> list[AnyTicket]:
        durable = self._marks.durable
        reached = [ticket for revision, ticket in self._awaiting if revision <= durable]
        if reached:
            self._awaiting = [wait for wait in self._awaiting if wait[0] > durable]
        return reached

    # -- the end --------------------------------------------------------------------------------------------------

    def take_all(self) -> list[Unanswered]:
        """Take out all answers that were not told, in order: nothing that they wait for will come."""
        taken = [answer for group in self._kept for answer in group.answers]
        taken += [(ticket, False) for _, _, ticket in sorted(self._waits, key=lambda wait: wait[:2])]
        taken += [(ticket, False) for _, ticket in self._awaiting]
        self._kept.clear()
        self._waits.clear()
        self._awaiting = []
        self.answers = self.size_bytes = 0
        return taken


def unanswered(submissions: Iterable[Submission[AnyTicket]]) -> list[Unanswered]:
    """Return who waits for submissions, in order, and whether for commits."""
    return [(one.waiter, one.commits > 0) for one in submissions if one.waiter is not None]


def _answer_bytes(answer: Unanswered) -> int:
    """Return what an answer without commits holds in memory; what commits hold was claimed for them."""
    outcome = answer[0].outcome
    if isinstance(outcome, Found):
        return sum(len(version.value) for version in outcome.versions if version is not None)
    return UNREAD_BYTES if answer[0].is_held else 0
