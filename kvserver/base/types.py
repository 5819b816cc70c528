"""The small values that every floor speaks in."""

from __future__ import annotations

import dataclasses
import enum
from typing import NamedTuple

SYSTEM_NAMESPACE = 0
"""Id of the system's own namespace: the catalogue, and later leases, policy and idempotency answers, are rows in it."""

DEFAULT_NAMESPACE = 1
"""Id of the namespace with the empty name."""

FIRST_NAMESPACE = 2
"""The lowest id that a created namespace is given."""

CREATION_REVISION = 1
"""The revision that stands for the creation of the store; the first commit is the one after it."""

CHAIN_LENGTH = 16
"""Bytes of a chain hash."""


class Role(enum.Enum):
    """The part that a node plays."""

    PRIMARY = "primary"
    FOLLOWER = "follower"


class Epoch(NamedTuple):
    """One primacy. The same number with another nonce is another primacy, and a reason to halt."""

    number: int
    nonce: int


NO_EPOCH = Epoch(0, 0)
"""Stands before the first epoch of a store."""


class Position(NamedTuple):
    """A place in history: equal positions mean equal state."""

    epoch: Epoch
    revision: int
    chain: bytes


class LogEnd(NamedTuple):
    """Where a log ends on disk: the position behind its last frame, and the place of that frame's end."""

    position: Position
    segment_id: int
    """0: there is no segment, the tables hold everything up to the position."""
    offset: int
    """The length of the segment up to there, in bytes."""


class Version(NamedTuple):
    """One version of a key as readers see it."""

    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int


WITHHELD = Version(b"", b"", 0, 0, 0)
"""Stands for a version that was not read, because those read with it fill an answer already."""


@dataclasses.dataclass(frozen=True, slots=True)
class Identity:
    """What a data folder is: written once, at its creation."""

    cluster_id: bytes
    node_id: str
    node_name: str
    format_version: int
    created_ms: int
    register: str
