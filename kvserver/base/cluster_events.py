"""What happens to a node as a part of its cluster, as events: see ``kvserver.base.events``."""

from __future__ import annotations

import dataclasses

from kvserver.base.events import Event


@dataclasses.dataclass(frozen=True, slots=True)
class PartChanged(Event):
    """The node plays another part."""

    old: str
    new: str
    epoch: int
    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class QuorumChanged(Event):
    """The policy's quorum is given up, or returned to."""

    degraded: bool
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class QuorumLost(Event):
    """Too few members acknowledge: nothing is shown or acknowledged until they do."""

    missing: str


@dataclasses.dataclass(frozen=True, slots=True)
class QuorumMet(Event):
    """Enough members acknowledge again."""


@dataclasses.dataclass(frozen=True, slots=True)
class AcknowledgementSuspect(Event):
    """A member's acknowledgement contradicts what was heard under its name before."""

    node: str
    what: str


@dataclasses.dataclass(frozen=True, slots=True)
class ContentCompared(Event):
    """The content was compared with the primary's, and is equal."""

    revision: int
    sha256: str


@dataclasses.dataclass(frozen=True, slots=True)
class ContentDiffers(Event):
    """The content is not equal to the primary's at the same revision."""

    revision: int
    mine: str
    theirs: str
    times: int
    """In a row."""
