"""Lets go of memtables whose versions are in tables now, a few at a time.

Freeing a version costs a third of a microsecond, a memtable of 140,000 of them 45 ms. In one piece that would hold the loop; in
pieces that follow each other at once it keeps the loop busy all the same, and the log thread, which needs the interpreter's lock
five times a group, gets it half a millisecond late each time: puts waited for 40 to 70 ms behind every flush. So there is a pause
between two pieces. Where the loop has more to do than that, a piece is as large as the time since the last one allows, up to
a bound that is twice what was let go in a turn without pauses.

What is freed counts against what is made: the collector, which looks when so many objects more were made than freed, would not
look meanwhile, and then at all of them at once (50 ms). So the young ones are looked at here, a few hundred at a time.
"""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from collections.abc import Iterable

from kvserver.base.clock import Clock
from kvserver.engine.worker import Post
from kvserver.storage.memtable import Memtable

VERSIONS = 1_000
"""Versions freed in one piece, 0.3 ms, where the loop is free."""

MOST_VERSIONS = 4_000
"""The largest piece."""

PAUSE_S = 0.002
"""Between two pieces."""


class Shedder:
    """Belongs to the event loop."""

    def __init__(self, post: Post, clock: Clock) -> None:
        """``post`` is asked for the next turn where no event loop runs, as in tests that take turns themselves."""
        self._post = post
        self._clock = clock
        self._memtables: deque[Memtable] = deque()
        self._last_at_s = 0.0

    def add(self, memtables: Iterable[Memtable]) -> None:
        """Let go of memtables that nobody reads any more, after those of before."""
        idle = not self._memtables
        self._memtables.extend(memtables)
        if idle and self._memtables:
            self._last_at_s = self._clock.monotonic()
            self._post(self._shed)

    def _shed(self) -> None:
        now_s = self._clock.monotonic()
        pauses, self._last_at_s = round((now_s - self._last_at_s) / PAUSE_S), now_s
        try:
            if not self._memtables[0].shed(min(VERSIONS * max(1, pauses), MOST_VERSIONS)):
                self._memtables.popleft()
            gc.collect(0)
        finally:  # whatever happens to this piece: nobody asks for the next one otherwise
            if self._memtables:
                self._go_on()

    def _go_on(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._post(self._shed)
        else:
            loop.call_later(PAUSE_S, self._shed)
