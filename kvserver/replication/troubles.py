"""What goes wrong while a node follows, sorted: what passes, what another source ends, and what somebody has to mend.

The same thing several times in a row, without a step forward between, is no trouble that passes. What counts as a step forward
is told by whoever makes one: bytes that became durable end a row of refused chunks and of logs that were gone; having all that
the source has ends a row of histories that parted, because after each rewind some bytes are taken again.
"""

from __future__ import annotations

import collections
import errno

from kvserver.archive.store import StoreError
from kvserver.base.errors import Code, Corruption, KvError, OpenRefused
from kvserver.base.events import Listener
from kvserver.base.replication_events import ChunkNotTaken
from kvserver.replication.bootstrap import CopyRefused
from kvserver.replication.receiving import IntakeFailed
from kvserver.replication.source_check import Setback, refused, set_back
from kvserver.replication.states import FollowerState, Happening, Lasting

MOST_IN_A_ROW = 5
"""So often the same thing may go wrong without a step forward between."""

_SOURCELESS = (FollowerState.WAL_GONE, FollowerState.CATCHUP_ARCHIVE, FollowerState.DIVERGED)
"""States in which no source is asked anything: what goes wrong in them is not its fault."""


class ArchiveDamaged(Exception):
    """Something in the archive does not check, or does not continue the log although it should."""

    def __init__(self, error: KvError) -> None:
        super().__init__(error.message)
        self.error = error


class Troubles:
    """What went wrong in a row. Belongs to the event loop."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._in_a_row: collections.Counter[str] = collections.Counter()

    def __getitem__(self, what: str) -> int:
        """Return how often something went wrong in a row."""
        return self._in_a_row[what]

    def forget(self, *what: str) -> None:
        """Begin to count anew; nothing named: all of it."""
        for one in what or tuple(self._in_a_row):
            self._in_a_row[one] = 0

    def count(self, what: str) -> int:
        """Count something that went wrong once more; return how often it did in a row."""
        self._in_a_row[what] += 1
        return self._in_a_row[what]

    def again(self, what: str, why: str, lasting: Lasting) -> Setback:
        """Count something that went wrong; after some times in a row it is of no use to go on."""
        times = self.count(what)
        if times < MOST_IN_A_ROW:
            return set_back(why)
        self.forget(what)
        return Setback(Happening.GAVE_UP, f"{times} times in a row: {why}", lasting)

    def sort(self, error: Exception, state: FollowerState, source: str) -> Setback:
        """Say what an error means in the state that it happened in."""
        if state is FollowerState.CATCHUP_ARCHIVE and isinstance(error, StoreError):
            return self.again("archive", error.message, Lasting.OPERATOR)
        setback = self._sorted(error, source)
        if state is FollowerState.FENCED and setback.happening is Happening.LOWER_EPOCH:
            return set_back(setback.why)
        if state in _SOURCELESS and setback.happening in (Happening.LOWER_EPOCH, Happening.REFUSED):
            return Setback(Happening.GAVE_UP, setback.why, setback.lasting or Lasting.OPERATOR)
        return setback

    def _sorted(self, error: Exception, source: str) -> Setback:
        if isinstance(error, IntakeFailed):
            if error.is_chunks_fault:
                return self._chunk(error, source)
            error = error.error
        if isinstance(error, Setback):
            return error
        if isinstance(error, CopyRefused):
            return self.again("copy", error.message, Lasting.SOURCE)
        if isinstance(error, ArchiveDamaged):
            return self.again("archive", f"the archive is damaged: {error.error.message}", Lasting.OPERATOR)
        if isinstance(error, OpenRefused | Corruption) or (isinstance(error, KvError) and error.code is Code.LOG_FAILED):
            return Setback(Happening.GAVE_UP, error.message, Lasting.OPERATOR)
        if isinstance(error, KvError):
            return _answer(error)
        if isinstance(error, OSError):
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            return set_back("this node's disk is full" if full else f"this node's disk fails: {error.strerror or error}")
        return Setback(Happening.GAVE_UP, f"a mistake in the program: {error!r}", Lasting.OPERATOR)

    def _chunk(self, failed: IntakeFailed, source: str) -> Setback:
        times = self.count("chunk")
        self._listener(ChunkNotTaken(source, failed.error.message, times))
        if times < MOST_IN_A_ROW:
            return set_back(f"{source} sent what was not taken: {failed.error.message}")
        self.forget("chunk")
        return refused(f"{source} sent what was not taken {times} times in a row, last: {failed.error.message}")


def _answer(error: KvError) -> Setback:
    if error.code is Code.FENCED:
        return Setback(Happening.LOWER_EPOCH, error.message)
    if error.code is Code.WRONG_PEER:
        return refused(error.message)
    if error.code is Code.DISK_FULL:
        return set_back(f"a disk is full: {error.message}")
    return set_back(error.message)
