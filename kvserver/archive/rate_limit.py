"""A limit on bytes a second, shared by several threads: a bucket that fills with time and is emptied by work."""

from __future__ import annotations

import threading

from kvserver.base.clock import Clock

BURST_S = 0.1
"""What was not used up can be used later, for so long."""


class RateLimiter:
    """Lets bytes pass at a rate. Safe for several threads, which are served in the order in which they ask."""

    def __init__(self, clock: Clock, bytes_per_s: int) -> None:
        """``bytes_per_s``: 0 for no limit. Raises ValueError below that."""
        if bytes_per_s < 0:
            raise ValueError("a rate cannot be negative")
        self._clock = clock
        self._bytes_per_s = bytes_per_s
        self._changed = threading.Condition()
        self._free_at_s = clock.monotonic()
        """When all that was asked for so far will have passed."""
        self._closed = False

    def take(self, length: int) -> None:
        """Wait until so many bytes more may pass. Returns at once when the limiter is closed, however long the line is."""
        if not self._bytes_per_s:
            return
        with self._changed:
            now = self._clock.monotonic()
            begin_s = max(self._free_at_s, now - BURST_S)
            self._free_at_s = begin_s + length / self._bytes_per_s
            while not self._closed and (rest_s := begin_s - self._clock.monotonic()) > 0:
                self._clock.wait(self._changed, rest_s)

    def close(self) -> None:
        """Let everybody pass from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
