"""What happens inside, as values: logging and metrics are two listeners, tests a third.

A listener is called on whatever thread the thing happened on and must neither block nor raise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""


@dataclasses.dataclass(frozen=True, slots=True)
class StoreCreated(Event):
    """A data folder was made into a new store."""

    data_dir: str
    cluster_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class TornTailCut(Event):
    """Recovery found a group that was being written when the machine stopped, cut it and kept it aside."""

    segment: str
    offset: int
    length_bytes: int
    first_revision: int
    last_revision: int
    kept_as: str


@dataclasses.dataclass(frozen=True, slots=True)
class LogRecovered(Event):
    """The log was read back and everything in it made durable."""

    segments: int
    commits: int
    revision: int
    bytes_read: int
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class EpochBegun(Event):
    """A new primacy began at this revision."""

    number: int
    nonce: int
    revision: int


@dataclasses.dataclass(frozen=True, slots=True)
class SegmentSealed(Event):
    """A segment got its trailer and will not change any more."""

    segment: str
    last_revision: int
    length_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class SpaceUnavailable(Event):
    """Room for the log could not be made ready; writes are refused once what is ready is used up."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class SpaceAvailable(Event):
    """Room for the log can be made ready again."""


@dataclasses.dataclass(frozen=True, slots=True)
class LogPoisoned(Event):
    """The log failed; nothing is acknowledged any more and the process must end."""

    reason: str


Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Listen to nothing."""
