"""Work that may take hours, or hang: helper processes, and what waits for them to end.

What blocks is done on threads that nobody waits for when the process ends (``kvserver.replication.waiting.on_thread``): the event
loop's own pool of threads is small, and the process waits for it at its end; neither fits an upload to a store that has stopped
answering.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from kvserver.archive.helper import Fields, Helper
from kvserver.base.errors import Code, KvError

Result = TypeVar("Result")


class HelperRun:
    """One helper process, from before its start to its end. ``run`` blocks; ``end`` may be called on any thread, at any time."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        """Over the two below: a process must not be started after it was decided that there is to be none."""
        self._helper: Helper | None = None
        self._ended = False

    def run(self, start: Callable[[], Helper]) -> Fields:
        """Start a helper and return its result. Raises KvError: what it ended with, or that it was ended."""
        with self._guard:
            if self._ended:
                raise was_ended()
            helper = self._helper = start()
        try:
            return helper.result()
        except KvError:
            if self._ended:
                raise was_ended() from None
            raise

    @property
    def ended(self) -> bool:
        """Say whether nobody wants it any more."""
        return self._ended

    def end(self) -> None:
        """End the process, in the middle of its work."""
        with self._guard:
            self._ended = True
            if self._helper is not None:
                self._helper.kill()


def was_ended() -> KvError:
    """Return what a helper that was ended fails with."""
    return KvError(
        Code.NOT_SERVING, "it was ended before it was done: nobody waited for it, or the node is stopping", "try again"
    )


class UnderWay:
    """Tasks that go on when their caller hangs up, and are waited for, with a bound, when the server ends."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def keep(self, work: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
        """Begin a task; an error that nobody awaits is nobody's."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._end)
        return task

    def _end(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever wanted to know was told; asyncio need not complain

    async def wait(self, timeout_s: float) -> None:
        """Wait until all have ended, or the time is over."""
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=timeout_s)
