"""Lets go of memtables whose versions are in tables now, a few at a time.

Freeing a version costs half a microsecond, a memtable of 140,000 of them 70 ms. In one piece that would hold the loop; in pieces
that follow each other at once it keeps the loop busy all the same, and the log thread, which needs the interpreter's lock five
times a group, gets it half a millisecond late each time: puts waited for 40 to 70 ms behind every flush. So there is a pause
between two pieces, and the pieces grow with what is left, so that memory never falls behind the fastest writers.

What is freed counts against what is made: the collector, which looks when so many objects more were made than freed, would not
look meanwhile, and then at all of them at once (50 ms). So the young ones are looked at here, a few hundred at a time.
"""

from __future__ import annotations

import asyncio
import gc
from collections import deque
from collections.abc import Iterable

from kvserver.engine.worker import Post
from kvserver.storage.memtable import Memtable

VERSIONS = 500
"""Versions freed in one piece, for each memtable that is left: 0.3 ms."""

PAUSE_S = 0.002
"""Between two pieces."""


class Shedder:
    """Belongs to the event loop."""

    def __init__(self, post: Post) -> None:
        """``post`` is asked for the next turn where no event loop runs, as in tests that take turns themselves."""
        self._post = post
        self._memtables: deque[Memtable] = deque()

    def add(self, memtables: Iterable[Memtable]) -> None:
        """Let go of memtables that nobody reads any more, after those of before."""
        idle = not self._memtables
        self._memtables.extend(memtables)
        if idle and self._memtables:
            self._post(self._shed)

    def _shed(self) -> None:
        if not self._memtables[0].shed(VERSIONS * len(self._memtables)):
            self._memtables.popleft()
        gc.collect(0)
        if not self._memtables:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._post(self._shed)
        else:
            loop.call_later(PAUSE_S, self._shed)
