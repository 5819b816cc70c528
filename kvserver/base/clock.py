"""The only door to time. Everything that reads a clock or waits is handed a ``Clock``."""

from __future__ import annotations

import threading
import time
from typing import Protocol


class Clock(Protocol):
    """What the floors need to know of time."""

    def now_ms(self) -> int:
        """Return the wall-clock time in milliseconds since 1970; it may jump."""

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start; it never goes back."""

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> bool:
        """Wait on a held condition until it is notified (True) or the time is over (False)."""


class SystemClock:
    """The machine's own clocks."""

    def now_ms(self) -> int:
        """Return the wall-clock time in milliseconds since 1970."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Return seconds of the monotonic clock."""
        return time.monotonic()

    def wait(self, condition: threading.Condition, timeout_s: float | None) -> bool:
        """Wait on a held condition."""
        return condition.wait(timeout_s)
