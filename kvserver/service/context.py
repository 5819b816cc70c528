"""What a handler may ask about the call that it serves. Asked lazily, because most handlers ask nothing."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from kvserver.base.errors import Code, DeadlinePassed, Refused


class CallContext(Protocol):
    """One call, as far as a service may know of it."""

    def remaining_s(self) -> float | None:
        """Return the seconds until the caller's deadline, 0 when it has passed; None where there is none."""

    def peer(self) -> str:
        """Return the address of the caller, for people."""

    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Return the pairs that the caller sent beside the request."""


@dataclasses.dataclass(frozen=True, slots=True)
class FixedContext:
    """A context whose answers are given: for callers in the same process, and for tests."""

    seconds: float | None = None
    address: str = "in-process"
    pairs: tuple[tuple[str, str | bytes], ...] = ()

    def remaining_s(self) -> float | None:
        """Return the seconds given."""
        return self.seconds

    def peer(self) -> str:
        """Return the address given."""
        return self.address

    def metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """Return the pairs given."""
        return self.pairs


def not_written() -> Refused:
    """Return the answer to a write whose deadline passed before anything was done about it."""
    return Refused(Code.NOT_WRITTEN, "the time allowed ran out before the write was begun", "it is safe to try again")


def deadline_passed() -> DeadlinePassed:
    """Return the answer to a read whose deadline passed before anything was done about it."""
    return DeadlinePassed("the time allowed ran out before the request was begun")
