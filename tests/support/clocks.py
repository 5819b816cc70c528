"""A clock that stands still until a test moves it.

    clock = ManualClock()
    ...                         # threads wait on it
    clock.await_waiters(1)      # until one of them does
    clock.advance_ms(500)       # whoever's time is over wakes

With ``auto_advance`` a wait with a timeout moves the time itself and returns at once: for tests with one thread.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

_DEFAULT_NOW_MS = 1_750_000_000_000
_DEFAULT_PATIENCE_S = 60.0


class ClockStalled(AssertionError):
    """A thread waited on the clock for long in real time, and nobody moved it or notified the thread."""


@dataclass(eq=False)
class _Waiter:
    condition: threading.Condition
    deadline_us: int
    is_over: bool = False


class ManualClock:
    """A ``Clock`` whose time passes only by ``advance_ms``. Thread-safe.

    A wait without a timeout is the condition's own. A wait with one ends by a notification or when time was advanced
    past it; when neither happens for ``patience_s`` of real time it raises ClockStalled, so that a test fails rather
    than hangs.
    """

    def __init__(
        self,
        now_ms: int = _DEFAULT_NOW_MS,
        auto_advance: bool = False,
        patience_s: float = _DEFAULT_PATIENCE_S,
    ) -> None:
        self._wall_start_ms = now_ms
        self._elapsed_us = 0
        self._auto_advance = auto_advance
        self._patience_s = patience_s
        self._waiters: list[_Waiter] = []
        self._changed = threading.Condition(threading.Lock())

    def now_ms(self) -> int:
        """Return the wall-clock time in milliseconds since 1970."""
        with self._changed:
            return self._wall_start_ms + self._elapsed_us // 1000

    def monotonic(self) -> float:
        """Return the seconds advanced so far; jumps of the wall clock do not count."""
        with self._changed:
            return self._elapsed_us / 1_000_000

    def advance_ms(self, ms: float) -> None:
        """Let time pass, and wake every wait whose timeout is then over. Raises ValueError for a negative time.

        The conditions waited on are acquired one after the other: do not hold one that has a plain, not reentrant,
        lock.
        """
        if ms < 0:
            raise ValueError("time does not go back; see jump_wall_ms")
        with self._changed:
            self._elapsed_us += round(ms * 1000)
            over = [waiter for waiter in self._waiters if waiter.deadline_us <= self._elapsed_us]
            for waiter in over:
                waiter.is_over = True
                self._waiters.remove(waiter)
        for condition in {waiter.condition for waiter in over}:
            with condition:
                condition.notify_all()

    def jump_wall_ms(self, ms: int) -> None:
        """Move the wall clock alone, forwards or back, as a correction of the system's time does."""
        with self._changed:
            self._wall_start_ms += ms

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> bool:
        """Wait on a held condition until it is notified (True) or time was advanced past the timeout (False).

        As with any condition, True may come without cause: when another wait on the same condition is over.
        Raises ClockStalled when neither happens for long.
        """
        if timeout_s is None and not self._auto_advance:
            return condition.wait()
        if timeout_s is None:
            if condition.wait(self._patience_s):
                return True
            raise ClockStalled(f"waited {self._patience_s:g} s of real time, but nobody notified the condition")
        waiter = self._enter(condition, timeout_s)
        if waiter is None:
            return False
        try:
            woken = condition.wait(self._patience_s)
        finally:
            with self._changed:
                if not waiter.is_over:
                    self._waiters.remove(waiter)
        if waiter.is_over:
            return False
        if not woken:
            raise ClockStalled(f"waited {self._patience_s:g} s of real time, but nobody advanced the clock")
        return True

    def await_waiters(self, count: int) -> None:
        """Block until so many threads wait with a timeout, so that advancing reaches them. Raises ClockStalled.

        Who was notified counts until it has woken; whose time is over does not.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: len(self._waiters) >= count, self._patience_s):
                raise ClockStalled(f"{len(self._waiters)} threads wait on the clock, not {count}")

    def _enter(self, condition: threading.Condition, timeout_s: float) -> _Waiter | None:
        """Register a wait; None where it is over already."""
        timeout_us = round(timeout_s * 1_000_000)
        with self._changed:
            if timeout_us <= 0 < timeout_s:
                # Rounding of a deadline left less than a microsecond: let it pass, or who waits in a loop would spin.
                self._elapsed_us += 1
                return None
            if timeout_us <= 0:
                return None
            if self._auto_advance:
                self._elapsed_us += timeout_us
                return None
            waiter = _Waiter(condition, self._elapsed_us + timeout_us)
            self._waiters.append(waiter)
            self._changed.notify_all()
            return waiter
