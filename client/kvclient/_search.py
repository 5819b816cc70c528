"""The search for a node to speak to: pure, and shared by both clients.

A node says by its health whether it is the primary. One that is not may know who is, and that may be a node that nobody
named. So a search goes over the endpoints, follows such words, and tries no address twice in a round. When a round is over
without success there are three cases:

- no node answered: it is Unavailable at once, or with ``wait_for_ready`` another round after a pause;
- nodes answered, and none is primary (a failover, as a rule): another round after a pause, as long as there is time;
- there is a second choice (the primary for who wanted a follower, a node that was left a moment ago): it is taken.
"""

from __future__ import annotations

import enum
from typing import Literal, TypeAlias

from kvclient import _errors as errors
from kvclient._endpoints import Endpoints

ReadFrom: TypeAlias = Literal["primary", "followers", "any"]
"""Where a read may be served: by the primary, by a follower (by the primary where none is to be had), by any node."""

PROBE = b"\x0a\x07primary"
"""A health check of the name ``primary``, which a node serves while it is that."""

_SERVING = b"\x08\x01"


class Seek(enum.Enum):
    """What a connection looks for."""

    NODE = "node"
    """The first endpoint that answers: whoever asks means that very node."""
    PRIMARY = "primary"
    FOLLOWERS = "followers"
    ANY = "any"


class Role(enum.Enum):
    """What a node is, by its health."""

    PRIMARY = "primary"
    OTHER = "other"
    UNKNOWN = "unknown"
    """It does not know the question: a node that is alone, or something else that answers."""


def role_of(health: bytes | None) -> Role:
    """Return what the answer to the probe says; None: the probe was answered by an error that only a living node sends."""
    if health is None:
        return Role.UNKNOWN
    return Role.PRIMARY if health == _SERVING else Role.OTHER


def seek_of(read_from: str) -> Seek:
    """Return what a choice of a caller means; raise ValueError where it is none."""
    if read_from not in ("primary", "followers", "any"):
        raise ValueError(f"read_from is 'primary', 'followers' or 'any', not {read_from!r}")
    return Seek(read_from)


class Search:
    """One search, round by round; ``endpoints.current`` is what is to be probed next."""

    def __init__(self, endpoints: Endpoints, seek: Seek, avoided: frozenset[str]) -> None:
        self._endpoints = endpoints
        self._seek = seek
        self._avoided = avoided
        self._tried: set[str] = set()
        self._second_choice = ""
        self._taking = ""
        self._heard = False
        self.rounds = 0
        """Rounds that are over."""
        self.settled = False
        """What was taken is a second choice."""

    def takes(self, role: Role) -> bool:
        """Say whether the current node, which has answered, is what is looked for."""
        current = self._endpoints.current
        self._heard = True
        if self._taking == current:
            self.settled = True
            return True
        fits = {
            Seek.NODE: True,
            Seek.PRIMARY: role is not Role.OTHER,
            Seek.FOLLOWERS: role is not Role.PRIMARY,
            Seek.ANY: True,
        }[self._seek]
        if fits and current not in self._avoided:
            return True
        usable = fits or self._seek is Seek.FOLLOWERS
        if usable and (not self._second_choice or role is Role.PRIMARY):
            self._second_choice = current
        return False

    @property
    def asks_for_primary(self) -> bool:
        """Whether a node that is not taken is asked who is primary."""
        return self._seek is Seek.PRIMARY

    def go_on(self, address: str = "") -> bool:
        """Turn to the address that a node named, or to the next endpoint; return False where the round is over."""
        endpoints = self._endpoints
        self._tried.add(endpoints.current)
        if address and address not in self._tried and endpoints.go_to(address):
            return True
        for _ in range(len(endpoints)):
            endpoints.turn()
            if endpoints.current not in self._tried:
                return True
        return False

    def next_round(self, wait_for_ready: bool) -> bool | None:
        """Begin another round; return whether it begins with a pause, None where there is none."""
        self._tried.clear()
        self.rounds += 1
        if self._second_choice and self._endpoints.go_to(self._second_choice):
            self._taking, self._second_choice = self._second_choice, ""
            return False
        if wait_for_ready or (self._heard and self._seek is Seek.PRIMARY):
            return True
        return None

    def nobody(self) -> errors.NotPrimary | None:
        """Return the error of a search that met nodes, none of which is primary; None where it met none."""
        return errors.nobody_primary(str(self._endpoints)) if self._heard and self._seek is Seek.PRIMARY else None
