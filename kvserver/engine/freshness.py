"""How far a follower is behind its primary in time, and which reads have to wait for that, or are refused.

Behind in time means: how old is the oldest thing that the primary was heard to show and that is not inserted here. Nothing of
that kind, and a word of the primary not long ago: 0. Without a word, the time since the last one counts, because nothing is
known of what was shown since. After a start the last frame of the log is the last word: it is older than anything that is
missing. A node that follows a follower is behind by what both of them are.

A read at the newest revision waits for the first contact since the start, because until then nothing says what the newest is, and
what this node held when it stopped may be hours old. A read at a past revision that is visible has one answer for all time, and
gets it at once. A session that names a revision or an epoch that has not come yet waits for it: it was seen elsewhere, so it
exists. All waits end when the node stops, and when nobody waits any more.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import NamedTuple

from kvserver.base.clock import Clock
from kvserver.base.errors import Code, KvError, NotServing, RevisionError
from kvserver.commit.reading import compacted
from kvserver.commit.refusals import log_failed
from kvserver.commit.replay import ReplayPipeline, VisibleTicket
from kvserver.commit.ticket import Ticket, complete_all
from kvserver.engine.epochs import EpochHistory

SILENCE_S = 2.0
"""A word of the primary says for so long that nothing newer is shown; it sends a sign of life every second."""

_MOST_UNREACHED = 1_024
_PRUNE_FROM = 64


class Contact:
    """What was heard of the primary, and when. Belongs to the event loop; ``lag_ms`` may be asked on any thread."""

    def __init__(self, clock: Clock, last_word_ms: int) -> None:
        """``last_word_ms``: the time of the newest thing that was recovered."""
        self._clock = clock
        self._last_word_s = clock.monotonic() - max(0, clock.now_ms() - last_word_ms) / 1000
        self._connected = False
        self._source_lag_ms = 0
        self._unreached: deque[tuple[int, float]] = deque()
        """(revision, since when) of what is shown there and not inserted here, oldest first."""
        self.was_made = False
        """There was contact since the start."""

    def heard(self, visible: int, applied: int, source_lag_ms: int = 0) -> None:
        """Note a word of whoever is followed: what it shows, and how far it is behind itself."""
        now_s = self._clock.monotonic()
        was_silent = self._is_silent(now_s)
        self.reached(applied)
        newest = self._unreached[-1][0] if self._unreached else applied
        if visible > newest:
            since_s = now_s if self._unreached or not was_silent else self._last_word_s
            if len(self._unreached) == _MOST_UNREACHED:  # few are needed to tell the time; the oldest one is kept
                self._unreached = deque(list(self._unreached)[::2])
            self._unreached.append((visible, since_s))
        self._last_word_s = now_s
        self._source_lag_ms = source_lag_ms
        self._connected = self.was_made = True

    def reached(self, applied: int) -> None:
        """Note how far this node is."""
        while self._unreached and self._unreached[0][0] <= applied:
            self._unreached.popleft()

    def lost(self) -> None:
        """Note that the connection ended; what it said counts for the time until then."""
        if self._unreached:
            self._last_word_s = min(self._last_word_s, self._unreached[0][1])
            self._unreached.clear()
        self._connected = False

    def lag_ms(self) -> int:
        """Return how many milliseconds this node is behind, at least."""
        now_s = self._clock.monotonic()
        since_s = now_s
        if self._is_silent(now_s):
            since_s = self._last_word_s
        with contextlib.suppress(IndexError):  # the event loop may take it away in this moment
            since_s = min(since_s, self._unreached[0][1])
        return round((now_s - since_s) * 1000) + self._source_lag_ms

    def _is_silent(self, now_s: float) -> bool:
        return not self._connected or now_s - self._last_word_s > SILENCE_S


class _Asked(NamedTuple):
    """A read, before it is known at which revision it is carried out."""

    revision: int
    session: tuple[int, int] | None
    max_lag_ms: int


class FollowerReads:
    """Says at which revision a read is carried out, as soon as that can be said. Belongs to the event loop."""

    def __init__(self, pipeline: ReplayPipeline, history: EpochHistory, contact: Contact) -> None:
        self._pipeline = pipeline
        self._marks = pipeline.marks
        self._history = history
        self._contact = contact
        self._blocked: list[tuple[VisibleTicket, _Asked]] = []
        """Those that wait for contact, or for an epoch."""
        self._prune_above = _PRUNE_FROM
        self._closed = False

    @property
    def waiting(self) -> int:
        """Return how many wait for contact or for an epoch; who gave up is counted for a while."""
        return len(self._blocked)

    def reading_at(self, revision: int, session: tuple[int, int] | None, max_lag_ms: int) -> Ticket[int]:
        """Return a ticket of the revision to read at. Its answer raises RevisionError, also where that shows only later."""
        asked = _Asked(revision, session if session is not None and session[1] else None, max_lag_ms)
        ticket = VisibleTicket()
        ticket.convert_with(lambda _: self._judged(asked))
        if not self._settle(ticket, asked):
            if len(self._blocked) >= self._prune_above:
                self._blocked = [one for one in self._blocked if not one[0].gone]
                self._prune_above = max(_PRUNE_FROM, 2 * len(self._blocked))
            self._blocked.append((ticket, asked))
        return ticket

    def retry(self) -> None:
        """Look again at those who wait: there was contact, or an epoch was begun."""
        if self._blocked:
            blocked, self._blocked = self._blocked, []
            still = [(ticket, asked) for ticket, asked in blocked if not ticket.gone and not self._settle(ticket, asked)]
            self._blocked = [*still, *self._blocked]

    def close(self) -> None:
        """Tell those who wait that it will not come while this store is open."""
        self._closed = True
        blocked, self._blocked = self._blocked, []
        for ticket, _ in blocked:
            ticket.fail_with(self._no_more())
        complete_all(ticket for ticket, _ in blocked)

    def _settle(self, ticket: VisibleTicket, asked: _Asked) -> bool:
        """Have a ticket wait for a revision, or fail, if that can be said now; say whether it could."""
        try:
            wanted = self._wanted(asked)
        except KvError as error:
            ticket.fail(error)
            return True
        if wanted is not None:
            self._pipeline.join(ticket, wanted)
        elif self._closed or self._pipeline.failure is not None:
            ticket.fail(self._no_more())
        else:
            return False
        return True

    def _wanted(self, asked: _Asked) -> int | None:
        """Return the revision that must be visible before the read; None: that cannot be said yet. Raises KvError."""
        if asked.session is not None:
            epoch_number, _ = asked.session
            if not self._history.knows(epoch_number) and (
                epoch_number > self._history.current.number or not self._contact.was_made
            ):
                return None  # not yet: it has not come here, or this node has not been told of the time before its log
            self._history.require(*asked.session)
        oldest = self._pipeline.state.oldest_readable(self._marks.visible)
        if asked.revision and asked.revision < oldest:
            raise compacted(asked.revision, oldest)
        if not asked.revision:
            self._check_lag(asked.max_lag_ms)
            if not self._contact.was_made:
                return None
        return max(asked.revision, asked.session[1] if asked.session is not None else 0) or self._marks.visible

    def _judged(self, asked: _Asked) -> int:
        """Return the revision to read at, now that all is visible that it needs. Raises KvError."""
        if asked.session is not None:
            self._history.require(*asked.session)  # an epoch that began meanwhile may have left it out
        if asked.revision:
            return asked.revision
        self._check_lag(asked.max_lag_ms)
        return self._marks.visible

    def _check_lag(self, max_lag_ms: int) -> None:
        if max_lag_ms <= 0:
            return
        lag_ms = self._contact.lag_ms()
        if lag_ms > max_lag_ms:
            raise stale(lag_ms, max_lag_ms)

    def _no_more(self) -> KvError:
        return log_failed() if self._pipeline.failure is not None else NotServing("the node is stopping, or changes its part")


def stale(lag_ms: int, max_lag_ms: int) -> RevisionError:
    """Return the answer to a read that wants less delay than this node has."""
    error = RevisionError(
        Code.STALE,
        f"this node is {lag_ms} ms behind its primary, and the read allows {max_lag_ms} ms",
        "read from the primary or from another follower, or allow more",
    )
    error.details["lag_ms"] = str(lag_ms)
    return error
