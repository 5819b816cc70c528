"""An answer that may come later, without a coroutine, a task or a future unless somebody awaits it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator, Iterable
from typing import Any, Generic, TypeVar

from kvserver.base.errors import Code, KvError, Refused

Answer = TypeVar("Answer")


class Ticket(Generic[Answer]):
    """Holds what a request will be answered.

    The outcome is known as soon as the request was carried out; ``done`` becomes true when it may be told. Handlers that
    need the answer either register one callback or await the ticket. Belongs to the event loop.
    """

    __slots__ = ("_callback", "_convert", "_holds", "_outcome", "_reached", "done", "memory", "pin", "request", "waiting_bytes")

    def __init__(self, request: Any, convert: Callable[[Any], Answer], memory: bool = False) -> None:
        self.request = request
        self.memory = memory
        """The caller wants the answer before the write is durable."""
        self.done = False
        self.waiting_bytes = -1
        """Bytes for which it stands in line for admission; below 0: it does not stand in line."""
        self.pin: Any = None
        """What was read from the tables to judge the request by."""
        self._convert = convert
        self._holds = 0
        self._reached = False
        self._outcome: Any = None
        self._callback: Callable[[], None] | None = None

    @property
    def waiting(self) -> bool:
        """Say whether the request still stands in line: nothing of it was carried out."""
        return self.waiting_bytes >= 0

    @property
    def succeeded(self) -> bool:
        """Say whether there is an answer, and it is no error."""
        return self.done and not isinstance(self._outcome, BaseException)

    @property
    def outcome(self) -> object:
        """Return what will be answered, as far as it is known."""
        return self._outcome

    @property
    def is_held(self) -> bool:
        """Say whether something that the answer needs is not there yet."""
        return self._holds > 0

    def decide(self, outcome: object) -> None:
        """Set what will be answered: a result, or an exception to be raised."""
        self._outcome = outcome

    def convert_with(self, convert: Callable[[Any], Answer]) -> None:
        """Make the answer from the outcome in another way."""
        self._convert = convert

    def complete(self) -> None:
        """Let the answer be told, as soon as nothing holds it back."""
        if self._holds:
            self._reached = True
        elif not self.done:
            self.done = True
            callback, self._callback = self._callback, None  # or the two would keep each other alive
            if callback is not None:
                callback()

    def hold(self) -> None:
        """Hold the answer back, whoever completes it, until ``let_go``: something that it needs is not there yet."""
        self._holds += 1

    def let_go(self) -> None:
        """End a hold; the answer is told if it was completed meanwhile."""
        self._holds = max(0, self._holds - 1)
        if self._reached and not self._holds:
            self.complete()

    def fail(self, error: KvError) -> None:
        """Answer with an error, at once, unless the answer was told already."""
        if not self.done:
            self.fail_with(error)
            self.complete()

    def fail_with(self, error: KvError) -> None:
        """Set an error as the answer, which nothing holds back any more; ``complete`` tells it."""
        self._holds = 0
        self.decide(error)

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


def complete_all(tickets: Iterable[Ticket[Any]]) -> None:
    """Tell all answers; a callback that raises keeps nobody else's from being told. Raises the first such error, at the end."""
    first: Exception | None = None
    for ticket in tickets:
        try:
            ticket.complete()
        except Exception as error:
            first = first or error
    if first is not None:
        raise first
