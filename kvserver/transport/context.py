"""A call of grpc.aio, and what serves it, as the other modules of this floor name them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Serve = Callable[[Any, Any], Awaitable[Any]]
"""What grpc.aio calls: with the request's bytes (of a stream: something unused) and its own context."""


class GrpcContext:
    """A call of grpc.aio as services see it."""

    __slots__ = ("_context",)

    def __init__(self, context: Any) -> None:
        self._context = context

    def remaining_s(self) -> float | None:
        """Return the seconds until the caller's deadline, 0 when it has passed; None where there is none."""
        remaining: float | None = self._context.time_remaining()
        return remaining

    def peer(self) -> str:
        """Return the address of the caller."""
        return str(self._context.peer())

    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Return the pairs that the caller sent beside the request."""
        return tuple((key, value) for key, value in self._context.invocation_metadata())
