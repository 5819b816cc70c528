"""What is sent again without the caller's doing, and after which pause."""

from __future__ import annotations

import dataclasses
import math
import random
import time

from kvclient import _errors as errors

REFUSALS = frozenset({"OVERLOADED", "NOT_WRITTEN", "MEMORY_FULL", "ARCHIVE_BEHIND", "NOT_SERVING", "NOT_PRIMARY", "STALE"})
"""Codes by which a server promises that nothing was carried out, for a reason that passes by itself, or at another node."""

HOP_ROOM_S = 0.25
"""A call that has less time left is not sent on: without an answer its outcome would be open, and so far it is certain."""

MAX_HOPS = 64
"""How often a call is sent on by nodes that are not the primary, at most; its own limit of time comes first, as a rule."""


@dataclasses.dataclass(frozen=True, slots=True)
class Retry:
    """How often a call is sent at most, and the pauses between.

    Sent again is only what cannot happen twice: a read, or what a server refused before anything of it was carried out. A
    write whose outcome is unknown is not, unless with ``idempotent``: then writes carry a key under which nodes remember them
    for ten minutes, and a repeat is answered as the first one was. To be sent on to the primary is no attempt. Pauses
    double from ``first_pause_s`` to ``max_pause_s``, each shortened at random by up to half, so that callers who were refused
    together do not come back together. ``Retry(attempts=1)`` sends everything once. All of it happens within the call's own
    ``timeout_s``.
    """

    attempts: int = 5
    first_pause_s: float = 0.02
    max_pause_s: float = 1.0
    idempotent: bool = False

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be at least 1, not {self.attempts}")
        if not 0 < self.first_pause_s <= self.max_pause_s:
            raise ValueError("pauses must be above 0, and the first one not longer than the longest")

    def may_repeat(self, error: errors.KvClientError, attempt: int) -> bool:
        """Return whether an operation that a server refused so, at its n-th attempt, is sent again."""
        passes = error.code in REFUSALS or errors.is_behind(error)
        return passes and error.from_server and attempt < self.attempts

    def may_hop(self, error: errors.KvClientError, hops: int) -> bool:
        """Return whether an operation that came to a node that is not primary, or no more, goes on to another one.

        It did so many times before.
        """
        return error.code in ("NOT_PRIMARY", "FENCED") and error.from_server and self.attempts > 1 and hops < MAX_HOPS

    def pause_s(self, attempt: int) -> float:
        """Return how long to wait behind the n-th attempt, in seconds."""
        longest: float = min(self.max_pause_s, self.first_pause_s * 2.0 ** min(attempt - 1, 64))
        return longest * random.uniform(0.5, 1.0)

    def next_pause_s(self, error: errors.KvClientError, attempt: int, left_s: float, *, writes: bool) -> float | None:
        """Return how long to wait before a call is sent again; None where it is not, or where no time is left for it.

        A read whose connection broke, or which was answered under an epoch that is over, is sent again at the next connection.
        """
        broken_read = not writes and isinstance(error, errors.Unavailable | errors.Fenced) and not error.from_server
        if not broken_read and not self.may_repeat(error, attempt):
            return None
        pause_s = self.pause_s(attempt)
        return pause_s if attempt < self.attempts and pause_s < left_s else None


class Tries:
    """How often one call was sent so far, and whether it is sent again."""

    def __init__(self, retry: Retry, deadline: float = math.inf) -> None:
        self._retry = retry
        self.deadline = deadline
        """By the monotonic clock."""
        self._attempt = 1
        self._hops = 0

    def next_pause_s(self, error: errors.KvClientError, *, writes: bool) -> float | None:
        """Return how long to wait before the call is sent again behind this error; None where it is not."""
        left_s = self.deadline - time.monotonic()
        if self._retry.may_hop(error, self._hops):
            self._hops += 1
            pause_s = self._retry.pause_s(self._hops)
            return pause_s if pause_s + HOP_ROOM_S < left_s else None
        allowed = self._retry.next_pause_s(error, self._attempt, left_s, writes=writes)
        self._attempt += 1
        return allowed


DEFAULT_RETRY = Retry()
"""What clients do unless they are told otherwise."""
