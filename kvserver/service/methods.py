"""The table of what is served: each service lists its methods here in a form that any transport can carry.

A unary handler returns the answer, a ticket of it, or (where it must wait before it can begin) an awaitable of either; it
raises KvError. Nothing forces a coroutine, a task or a future on a call that can be answered at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, Protocol, TypeAlias

from google.protobuf.message import Message

from kvserver.commit.ticket import Ticket
from kvserver.service.context import CallContext

Outcome: TypeAlias = "Message | Ticket[Any]"
UnaryHandler: TypeAlias = "Callable[[Any, CallContext], Outcome | Awaitable[Outcome]]"
ScanHandler: TypeAlias = "Callable[[Any, CallContext], AsyncGenerator[Message, None]]"
DuplexHandler: TypeAlias = "Callable[[AsyncIterator[Any], CallContext], AsyncGenerator[Message, None]]"


class Pending(Protocol):
    """The answer to one frame of a stream, which may come later."""

    def on_done(self, callback: Callable[[], None]) -> None:
        """Have the callback called when the answer may be told; at once if it may be told already."""

    def response(self) -> Message:
        """Return the answer. Only when it may be told. Never raises KvError: failures are part of it."""


class Session(Protocol):
    """One stream of frames."""

    def handle(self, frame: Any) -> Pending | Awaitable[Pending]:
        """Carry a frame out; the next one must not be handed in before this returned, and was awaited where it can be."""


@dataclasses.dataclass(frozen=True, slots=True)
class UnaryMethod:
    """One request, one answer."""

    service: str
    name: str
    request: type[Message]
    handler: UnaryHandler
    writes: bool = False
    """Whether it can change anything: decides how a passed deadline is answered."""


@dataclasses.dataclass(frozen=True, slots=True)
class ScanMethod:
    """One request, a stream of answers."""

    service: str
    name: str
    request: type[Message]
    handler: ScanHandler


@dataclasses.dataclass(frozen=True, slots=True)
class FrameMethod:
    """A stream of frames and a stream of their answers."""

    service: str
    name: str
    request: type[Message]
    session: Callable[[CallContext], Session]


@dataclasses.dataclass(frozen=True, slots=True)
class DuplexMethod:
    """A stream of requests and a stream of answers that go their own ways.

    The handler reads requests as it likes, raises KvError to end the call, and is closed where the caller hangs up. A request
    that is no message is met where it is read, as InvalidRequest.
    """

    service: str
    name: str
    request: type[Message]
    handler: DuplexHandler


Method: TypeAlias = UnaryMethod | ScanMethod | FrameMethod | DuplexMethod
