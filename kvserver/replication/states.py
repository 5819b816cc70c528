"""The states of a follower, and the one table that says what leads from which state to which.

    EMPTY ── a source is found ──► RESTORING ── the copy is in its place ──┐
                                       ▲                                   ▼
                                       │     ┌───────────────────────► CONNECTING ◄── anything breaks
          the archive lacks it ────────┤     │                             │ accepted
                                       │  to its end                       ▼
    WAL_GONE ── the archive has it ────┼─► CATCHUP_ARCHIVE           CATCHUP_STREAM ◄──► STREAMING
       ▲                               │
       └── the source's log begins     └── tables are beyond it ── DIVERGED ── rewound ──► CONNECTING
           behind this node's end

    FENCED: the source is of a lower epoch than was promised.  FAILED: somebody has to do something.

``CONNECTING`` is no state of its own in the design's list. It is here because most of a follower's troubles are in it: a source
that cannot be reached, a disk that is full, a primary that nobody knows. Without it a follower would be said to catch up while
nothing moves, or what it did before would decide what can happen to it next.

What is not in the table is a mistake in the program and raises. Every step of it is an event with a sentence that says why, and
is counted. A state whose reason changes is an event too: one line for each thing that a person may want to know, and no more.

``FAILED`` always says what ends it (``Lasting``). An operator alone ends what would come back unchanged: a loop, a store that
cannot be opened, a log that contradicts itself. Another source ends what is wrong with the one that was named: it belongs to
another cluster, sends bytes that do not check. Time ends what other machines cause and may mend without this one: a circle of
followers, an archive that is down when nothing else is left. A full disk and an unreachable source are no failures at all: the
follower stays in the state in which it can go on, says so, and tries again.
"""

from __future__ import annotations

import collections
import enum

from kvserver.base.events import Listener, ignore
from kvserver.base.replication_events import StateChanged


class FollowerState(enum.Enum):
    """What a follower does."""

    EMPTY = "EMPTY"
    """It has no store, and looks for somebody to copy one from."""
    RESTORING = "RESTORING"
    """It fetches a copy of the store. A store that it has goes on being there until the copy is whole."""
    CONNECTING = "CONNECTING"
    """It has a store, and is not being shipped a log: it looks for its source, or waits before it tries again."""
    CATCHUP_ARCHIVE = "CATCHUP_ARCHIVE"
    """It takes archived segments."""
    CATCHUP_STREAM = "CATCHUP_STREAM"
    """It is being shipped a log, and is behind."""
    STREAMING = "STREAMING"
    """It is being shipped a log, and has what there is."""
    WAL_GONE = "WAL_GONE"
    """The source does not have the log any more that it needs."""
    DIVERGED = "DIVERGED"
    """Its history is not the source's."""
    FENCED = "FENCED"
    """The source is of a lower epoch than this node has promised to obey."""
    FAILED = "FAILED"
    """It does nothing until what is said is mended."""


class Happening(enum.Enum):
    """What can happen to a follower."""

    SOURCE_FOUND = "there is a node or an archive to copy the store from"
    COPY_TAKEN = "a copy of the store was fetched and has taken its place"
    HAS_STORE = "there is a store after all"
    HAS_NO_STORE = "there is no store"
    ACCEPTED = "the source ships its log from exactly where this one ends"
    CAUGHT_UP = "nothing, or little, is left to be shipped"
    FELL_BEHIND = "much is left to be shipped"
    LOG_GONE = "the source's log begins behind where this one ends"
    ARCHIVE_HAS_IT = "the archive goes on exactly where this log ends"
    ARCHIVE_LACKS_IT = "there is no archive, or it does not go on where this log ends"
    ARCHIVE_ENDED = "the archive was taken to its end"
    PARTED = "the source's history left this one at an earlier position"
    REWOUND = "the log was cut back to the common position"
    NEEDS_COPY = "the tables are beyond the common position"
    LOWER_EPOCH = "the source is of a lower epoch than was promised"
    SOURCE_CHANGED = "there is another source, or it is of a higher epoch now"
    SET_BACK = "it cannot go on for now, and tries again after a pause"
    REFUSED = "this source must not be followed"
    GAVE_UP = "trying again is of no use"
    RETRIED = "the time after which a failure is tried again is over"
    REINIT = "an operator wants the store fetched anew"


class Lasting(enum.Enum):
    """What ends a failure."""

    OPERATOR = "an operator: restart the node, or fetch its store anew with kvctl reinit"
    SOURCE = "another source"
    TIME = "time: it is tried again"


_S, _H = FollowerState, Happening

TRANSITIONS: dict[tuple[FollowerState, Happening], FollowerState] = {
    (_S.EMPTY, _H.SOURCE_FOUND): _S.RESTORING,
    (_S.EMPTY, _H.HAS_STORE): _S.CONNECTING,
    (_S.EMPTY, _H.LOWER_EPOCH): _S.FENCED,
    (_S.EMPTY, _H.SET_BACK): _S.EMPTY,
    (_S.EMPTY, _H.REFUSED): _S.FAILED,
    (_S.EMPTY, _H.GAVE_UP): _S.FAILED,
    (_S.EMPTY, _H.REINIT): _S.RESTORING,
    (_S.RESTORING, _H.COPY_TAKEN): _S.CONNECTING,
    (_S.RESTORING, _H.LOWER_EPOCH): _S.FENCED,
    (_S.RESTORING, _H.SET_BACK): _S.RESTORING,
    (_S.RESTORING, _H.REFUSED): _S.FAILED,
    (_S.RESTORING, _H.GAVE_UP): _S.FAILED,
    (_S.RESTORING, _H.REINIT): _S.RESTORING,
    (_S.CONNECTING, _H.ACCEPTED): _S.CATCHUP_STREAM,
    (_S.CONNECTING, _H.HAS_NO_STORE): _S.EMPTY,
    (_S.CONNECTING, _H.LOG_GONE): _S.WAL_GONE,
    (_S.CONNECTING, _H.PARTED): _S.DIVERGED,
    (_S.CONNECTING, _H.LOWER_EPOCH): _S.FENCED,
    (_S.CONNECTING, _H.SET_BACK): _S.CONNECTING,
    (_S.CONNECTING, _H.REFUSED): _S.FAILED,
    (_S.CONNECTING, _H.GAVE_UP): _S.FAILED,
    (_S.CONNECTING, _H.REINIT): _S.RESTORING,
    (_S.CATCHUP_STREAM, _H.CAUGHT_UP): _S.STREAMING,
    (_S.CATCHUP_STREAM, _H.LOG_GONE): _S.WAL_GONE,
    (_S.CATCHUP_STREAM, _H.LOWER_EPOCH): _S.FENCED,
    (_S.CATCHUP_STREAM, _H.SOURCE_CHANGED): _S.CONNECTING,
    (_S.CATCHUP_STREAM, _H.SET_BACK): _S.CONNECTING,
    (_S.CATCHUP_STREAM, _H.REFUSED): _S.FAILED,
    (_S.CATCHUP_STREAM, _H.GAVE_UP): _S.FAILED,
    (_S.CATCHUP_STREAM, _H.REINIT): _S.RESTORING,
    (_S.STREAMING, _H.FELL_BEHIND): _S.CATCHUP_STREAM,
    (_S.STREAMING, _H.LOG_GONE): _S.WAL_GONE,
    (_S.STREAMING, _H.LOWER_EPOCH): _S.FENCED,
    (_S.STREAMING, _H.SOURCE_CHANGED): _S.CONNECTING,
    (_S.STREAMING, _H.SET_BACK): _S.CONNECTING,
    (_S.STREAMING, _H.REFUSED): _S.FAILED,
    (_S.STREAMING, _H.GAVE_UP): _S.FAILED,
    (_S.STREAMING, _H.REINIT): _S.RESTORING,
    (_S.WAL_GONE, _H.ARCHIVE_HAS_IT): _S.CATCHUP_ARCHIVE,
    (_S.WAL_GONE, _H.ARCHIVE_LACKS_IT): _S.RESTORING,
    (_S.WAL_GONE, _H.SET_BACK): _S.WAL_GONE,
    (_S.WAL_GONE, _H.GAVE_UP): _S.FAILED,
    (_S.WAL_GONE, _H.REINIT): _S.RESTORING,
    (_S.CATCHUP_ARCHIVE, _H.ARCHIVE_ENDED): _S.CONNECTING,
    (_S.CATCHUP_ARCHIVE, _H.SET_BACK): _S.CONNECTING,
    (_S.CATCHUP_ARCHIVE, _H.GAVE_UP): _S.FAILED,
    (_S.CATCHUP_ARCHIVE, _H.REINIT): _S.RESTORING,
    (_S.DIVERGED, _H.REWOUND): _S.CONNECTING,
    (_S.DIVERGED, _H.NEEDS_COPY): _S.RESTORING,
    (_S.DIVERGED, _H.SET_BACK): _S.CONNECTING,
    (_S.DIVERGED, _H.GAVE_UP): _S.FAILED,
    (_S.DIVERGED, _H.REINIT): _S.RESTORING,
    (_S.FENCED, _H.SOURCE_CHANGED): _S.CONNECTING,
    (_S.FENCED, _H.SET_BACK): _S.FENCED,
    (_S.FENCED, _H.REFUSED): _S.FAILED,
    (_S.FENCED, _H.GAVE_UP): _S.FAILED,
    (_S.FENCED, _H.REINIT): _S.RESTORING,
    (_S.FAILED, _H.SOURCE_CHANGED): _S.CONNECTING,
    (_S.FAILED, _H.RETRIED): _S.CONNECTING,
    (_S.FAILED, _H.REINIT): _S.RESTORING,
}


class StateMachine:
    """Where a follower stands in the table. Belongs to the event loop."""

    def __init__(self, begin: FollowerState, why: str, listener: Listener = ignore) -> None:
        self.state = begin
        self.reason = why
        self.lasting: Lasting | None = None
        """Of a failure: what ends it."""
        self.counts: collections.Counter[tuple[str, str]] = collections.Counter()
        """How often it went from one state to another, by their names."""
        self._listener = listener

    def happen(self, happening: Happening, why: str, lasting: Lasting | None = None) -> None:
        """Go where the table says. ``lasting`` is what ends a failure, and goes with one only.

        Raises RuntimeError for what cannot happen in this state: a mistake in the program.
        """
        old = self.state
        new = TRANSITIONS.get((old, happening))
        if new is None:
            raise RuntimeError(f"a follower that is {old.value} cannot have it that {happening.value}: {why}")
        if (new is FollowerState.FAILED) != (lasting is not None):
            raise RuntimeError(f"what ends a failure is said of failures, and of all of them: {old.value}, {happening.value}")
        if new is old and why == self.reason:
            return
        self.state, self.reason, self.lasting = new, why, lasting
        if new is not old:
            self.counts[old.value, new.value] += 1
        self._listener(StateChanged(old.value, new.value, why))

    def suffer(self, happening: Happening, why: str, lasting: Lasting | None = None) -> None:
        """Go where the table says about something that went wrong; to FAILED where it says nothing."""
        try:
            self.happen(happening, why, lasting)
        except RuntimeError as mistake:
            old, self.state = self.state, FollowerState.FAILED
            self.reason, self.lasting = f"a mistake in the program: {mistake}", Lasting.OPERATOR
            self.counts[old.value, self.state.value] += old is not self.state
            self._listener(StateChanged(old.value, self.state.value, self.reason))
