"""What happens around the shipping of the log to followers, as events: see ``kvserver.base.events``."""

from __future__ import annotations

import dataclasses

from kvserver.base.events import Event


@dataclasses.dataclass(frozen=True, slots=True)
class FollowerConnected(Event):
    """A follower is shipped the log."""

    name: str
    node_id: str
    address: str
    revision: int
    """Where its log ends."""
    compression: str


@dataclasses.dataclass(frozen=True, slots=True)
class FollowerDisconnected(Event):
    """A follower is shipped the log no more."""

    name: str
    revision: int
    """What it has acknowledged as durable."""
    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class FollowerRefused(Event):
    """A node wanted to be shipped the log, and was not."""

    name: str
    code: str
    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class FollowerForked(Event):
    """An alarm: a follower has other bytes than this node within one epoch, which has only one writer."""

    name: str
    what: str


@dataclasses.dataclass(frozen=True, slots=True)
class TwoPrimariesMet(Event):
    """An alarm: two epochs have one number, so the nodes do not claim them in the same register."""

    name: str
    number: int
    nonce_here: int
    nonce_there: int


@dataclasses.dataclass(frozen=True, slots=True)
class FollowerWentBack(Event):
    """An alarm: a follower has less than it acknowledged as durable; it counts for nothing until it has that again."""

    name: str
    node_id: str
    acknowledged_revision: int
    revision: int


@dataclasses.dataclass(frozen=True, slots=True)
class SlotLost(Event):
    """The log that a follower needs is not held for it any more; it must take the archive, or a new copy."""

    name: str
    hold_revision: int
    held_bytes: int
    max_bytes: int
    """0: the log was gone before it could be held."""


@dataclasses.dataclass(frozen=True, slots=True)
class SlotDropped(Event):
    """Somebody dropped a follower's slot; nothing of the log is held for it."""

    name: str


@dataclasses.dataclass(frozen=True, slots=True)
class SlotsNotWritten(Event):
    """What is held for whom could not be written down; after a restart more of the log may be held than is needed."""

    reason: str
