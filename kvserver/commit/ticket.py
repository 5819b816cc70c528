"""An answer that may come later, without a coroutine, a task or a future unless somebody awaits it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from typing import Any, Generic, TypeVar

from kvserver.base.errors import Code, KvError, Refused

Answer = TypeVar("Answer")


class Ticket(Generic[Answer]):
    """Holds what a request will be answered.

    The outcome is known as soon as the request was carried out; ``done`` becomes true when it may be told. Handlers that
    need the answer either register one callback or await the ticket. Belongs to the event loop.
    """

    __slots__ = ("_callback", "_convert", "_outcome", "done", "memory", "request", "waiting_bytes")

    def __init__(self, request: Any, convert: Callable[[Any], Answer], memory: bool = False) -> None:
        self.request = request
        self.memory = memory
        """The caller wants the answer before the write is durable."""
        self.done = False
        self.waiting_bytes = -1
        """Bytes for which it stands in line for admission; below 0: it does not stand in line."""
        self._convert = convert
        self._outcome: Any = None
        self._callback: Callable[[], None] | None = None

    @property
    def waiting(self) -> bool:
        """Say whether the request still stands in line: nothing of it was carried out."""
        return self.waiting_bytes >= 0

    def decide(self, outcome: object) -> None:
        """Set what will be answered: a result, or an exception to be raised."""
        self._outcome = outcome

    def convert_with(self, convert: Callable[[Any], Answer]) -> None:
        """Make the answer from the outcome in another way."""
        self._convert = convert

    def complete(self) -> None:
        """Let the answer be told."""
        if not self.done:
            self.done = True
            if self._callback is not None:
                self._callback()

    def fail(self, error: KvError) -> None:
        """Answer with an error, at once, unless the answer was told already."""
        if not self.done:
            self.decide(error)
            self.complete()

    def give_up(self) -> bool:
        """Answer NOT_WRITTEN if the request still stands in line; say whether it did."""
        if not self.waiting or self.done:
            return False
        self.fail(Refused(Code.NOT_WRITTEN, "the time allowed ran out before the write was begun", "it is safe to try again"))
        return True

    def on_done(self, callback: Callable[[], None]) -> None:
        """Have the callback called when the answer may be told; at once if it may be told already."""
        if self.done:
            callback()
        else:
            self._callback = callback

    def answer(self) -> Answer:
        """Return the answer, or raise the error that it is. Only when ``done``."""
        assert self.done, "the answer is not to be told yet"
        if isinstance(self._outcome, BaseException):
            raise self._outcome
        return self._convert(self._outcome)

    def __await__(self) -> Generator[Any, None, Answer]:
        """Wait until the answer may be told, and return it or raise."""
        if not self.done:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._callback = lambda: None if future.done() else future.set_result(None)
            yield from future
        return self.answer()


def answered(answer: Answer) -> Ticket[Answer]:
    """Return a ticket whose answer may be told already."""
    ticket: Ticket[Answer] = Ticket(None, lambda outcome: outcome)
    ticket.decide(answer)
    ticket.complete()
    return ticket
