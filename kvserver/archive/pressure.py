"""The ladder that is climbed when the archive falls behind: from how much waits, and how full the disk is, to what is done.

    KEEPING_UP   nothing
    HURRYING     behind by a quarter of the queue: all workers, the fastest level
    SLOWING      by half: groups of commits are paced, the more the longer the queue is
    REFUSING     by all of it: no write is given a revision
    DROPPING     the same, where the operator has said that writes matter more than the archive: the oldest segments are
                 given up, and a gap is recorded

What waits is counted from the first segment that is not archived to the last one that is sealed, whatever of that lies in the
archive already behind a segment that cannot be archived: one that is stuck must show. A disk that fills up shortens the queue.
Each step is left only at three quarters of where it is entered, so that a figure on the border is not told again and again.

Pure: no clock, no disk, no thread.
"""

from __future__ import annotations

import enum
from typing import Literal, NamedTuple

from kvserver.base.limits import MIB

MAX_PACE_MS = 100
"""A group of commits begins at least so long after the one before when the queue is full."""

DISK_RESERVE_BYTES = 256 * MIB
"""What the queue must leave of the disk to flushes, tables and the ballast."""

LEAST_TO_BLAME = 16
"""Less than this part of the queue is no reason for a full disk."""

LEFT_AT = 0.75

OnFull = Literal["refuse", "gap"]


class Step(enum.IntEnum):
    """A step of the ladder."""

    KEEPING_UP = 0
    HURRYING = 1
    SLOWING = 2
    REFUSING = 3
    DROPPING = 4


class Pressure(NamedTuple):
    """What is to be done."""

    step: Step
    pace_ms: int
    """How far apart groups of commits are to begin; 0: as they come."""


NO_PRESSURE = Pressure(Step.KEEPING_UP, 0)


class Ladder:
    """Remembers on which step it stands. Not safe for several threads."""

    def __init__(self, queue_bytes: int, on_full: OnFull = "refuse", reserve_bytes: int = DISK_RESERVE_BYTES) -> None:
        """``queue_bytes``: what may wait before writes are refused, or segments given up (``on_full``)."""
        top = Step.REFUSING if on_full == "refuse" else Step.DROPPING
        self._queue_bytes = queue_bytes
        self._reserve_bytes = reserve_bytes
        self._entered_at = ((Step.HURRYING, 0.25), (Step.SLOWING, 0.5), (top, 1.0))
        self.pressure = NO_PRESSURE

    def weigh(self, unarchived_bytes: int, free_bytes: int | None) -> Pressure:
        """Return what is to be done now. ``free_bytes``: of the log's disk; None where that cannot be told."""
        load = self.load(unarchived_bytes, free_bytes)
        step = Step.KEEPING_UP
        for candidate, entered_at in self._entered_at:
            leaves_at = entered_at * LEFT_AT
            entered = load >= entered_at if entered_at == 1.0 else load > entered_at
            if entered or (self.pressure.step >= candidate and load > leaves_at):
                step = candidate
        self.pressure = Pressure(step, self._pace_ms(step, load))
        return self.pressure

    def load(self, unarchived_bytes: int, free_bytes: int | None) -> float:
        """Return how full the queue is: 1 is full, be it by its own limit or because the disk holds no more of it."""
        queue_bytes = self._queue_bytes
        if free_bytes is not None and unarchived_bytes * LEAST_TO_BLAME >= queue_bytes:
            queue_bytes = min(queue_bytes, unarchived_bytes + max(0, free_bytes - self._reserve_bytes))
        return unarchived_bytes / queue_bytes

    def excess_bytes(self, unarchived_bytes: int, free_bytes: int | None) -> int:
        """Return how much must be given up for the top step to be left; 0 on any other step than DROPPING."""
        if self.pressure.step is not Step.DROPPING:
            return 0
        load = self.load(unarchived_bytes, free_bytes)
        return max(0, round(unarchived_bytes * (1 - LEFT_AT / load))) if load > LEFT_AT else 0

    def _pace_ms(self, step: Step, load: float) -> int:
        if step < Step.SLOWING:
            return 0
        return min(MAX_PACE_MS, max(0, round(MAX_PACE_MS * (load - 0.5) / 0.5)))
