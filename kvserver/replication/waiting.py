"""What the tasks of a follower need to wait: for a moment or an event, for a thread, for what must not be left half-way."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")

Sleep = Callable[[float], Awaitable[None]]
"""``sleep(seconds)``: ``asyncio.sleep``, or that of a test."""


class Beside(Protocol):
    """Does what blocks somewhere else than on the event loop."""

    async def __call__(self, work: Callable[[], Result], name: str) -> Result:
        """Return what the work returns, or raise what it raises; it goes on when the caller is cancelled."""


async def on_thread(work: Callable[[], Result], name: str) -> Result:
    """Do the work on a thread of its own, for which nobody waits when the process ends: a store may hang."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Result] = loop.create_future()

    def tell(result: Result | None, error: BaseException | None) -> None:
        if outcome.done():  # nobody waits any more
            return
        if error is not None:
            outcome.set_exception(error)
        else:
            outcome.set_result(result)  # type: ignore[arg-type]

    def run() -> None:
        result, error = None, None
        try:
            result = work()
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(tell, result, error)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await outcome


async def pause(sleep: Sleep, seconds: float, event: asyncio.Event) -> bool:
    """Wait until the event is set (True) or the time is over (False)."""
    if event.is_set():
        return True
    tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(sleep(seconds))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_all(tasks)
    return event.is_set()


async def end_all(tasks: list[asyncio.Future[Any]]) -> None:
    """Cancel tasks and wait until they have ended; what they ended with is nobody's."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def to_the_end(work: Coroutine[Any, Any, Result]) -> Result:
    """Carry work out to its end, also where the caller is cancelled meanwhile, who then hears of that afterwards."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        raise
