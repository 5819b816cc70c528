"""When something that is done again and again is due. Pure: the time is handed in."""

from __future__ import annotations

FIRST_S = 3_600.0
"""What is done seldom is done for the first time so long after a start: a node that is started each night still does it."""

RETRY_S = 3_600.0
"""What failed is done again after so long, or earlier where it is more frequent."""


class Recurring:
    """One thing that is due every so often; times are in seconds, by a clock that does not jump."""

    def __init__(self, every_s: float, now_s: float, first_in_s: float | None = None) -> None:
        """``every_s`` 0: never. ``first_in_s``: until it is due for the first time, where that is known."""
        self.every_s = every_s
        first_in_s = min(every_s, FIRST_S) if first_in_s is None else first_in_s
        self._due_s = now_s + first_in_s

    def due(self, now_s: float) -> bool:
        """Say whether it is to be done now."""
        return self.every_s > 0 and now_s >= self._due_s

    def done(self, now_s: float, ok: bool) -> None:
        """Note that it was done, or failed, just now."""
        self._due_s = now_s + (self.every_s if ok else min(self.every_s, RETRY_S))

    def at_most_in(self, now_s: float, seconds: float) -> None:
        """Have it due in so long at the latest."""
        self._due_s = min(self._due_s, now_s + seconds)
