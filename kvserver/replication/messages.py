"""What the nodes of a cluster tell each other, as values; ``protos/kvproto/v1/replication.proto`` is the same for the wire."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from kvserver.base.types import NO_EPOCH, Epoch, LogEnd, Position

EpochBegin: TypeAlias = "tuple[Epoch, Position]"
"""An epoch, and the position of its parent at which it began."""


class NodeIdentity(NamedTuple):
    """Who a node is."""

    cluster_id: bytes
    """Empty: it belongs to no cluster yet."""
    name: str
    node_id: str
    address: str
    register_id: str


class Description(NamedTuple):
    """Who a node is, which part it plays and how far it is."""

    identity: NodeIdentity
    role: str
    """"primary", "follower", or "none" while that changes."""
    state: str
    reason: str
    epoch: Epoch
    promised: Epoch
    end: LogEnd
    applied: int
    visible: int
    heard: int
    """The highest durable revision that it has heard of a primary; of a primary its own."""
    heard_ms: int
    follows: str
    primary: str
    server_version: str
    lag_revisions: int = 0
    lag_ms: int = 0
    lag_bytes: int = 0


class Hello(NamedTuple):
    """A follower introduces itself."""

    identity: NodeIdentity
    promised: Epoch
    end: LogEnd
    epochs: list[EpochBegin]
    """The epochs of its history, oldest first, as far as it knows them."""
    compressions: tuple[str, ...] = ("none",)
    """Those that it can undo, best first."""
    only_log: bool = False
    """It wants to catch up with the log, and is no follower: a candidate."""


class Ack(NamedTuple):
    """How far a follower is."""

    epoch: Epoch
    """The newest epoch whose first segment header is durable on the follower."""
    received: int
    durable: int
    applied: int
    durable_bytes: int
    """Bytes of chunks made durable in this call, before compression."""


class ShippedMarks(NamedTuple):
    """What every message of a shipper says beside its body."""

    epoch: Epoch = NO_EPOCH
    durable: int = 0
    visible: int = 0
    archived: int = 0
    """0: there is no archive, or nothing is known of it."""
    time_ms: int = 0
    primary: str = ""
    pending_bytes: int = 0
    hash_point: int = 0
    held_by_all: int = 0
    """What every node that follows the primary has durably, and the archive; 0: nothing is known of it."""


class Accepted(NamedTuple):
    """The log is shipped from where it was asked for."""

    segment_id: int
    offset: int
    epochs: list[EpochBegin]
    compression: str = "none"


class Gone(NamedTuple):
    """The log that a follower needs is not here any more."""

    oldest: int
    archived: int


class Diverged(NamedTuple):
    """A follower's history parted from this node's."""

    common: Position
    """The last position that both share."""
    epoch: Epoch
    """The epoch that goes on from there here."""
    epochs: list[EpochBegin]


class Chunk(NamedTuple):
    """Bytes of a segment as they lie on disk: whole frames, and with offset 0 the header block before them. Not compressed."""

    segment_id: int
    offset: int
    data: bytes


class HashAt(NamedTuple):
    """What the content hashed to at a revision."""

    revision: int
    hash: bytes


class Envelope(NamedTuple):
    """One message of a shipper; without a body it is a sign of life."""

    marks: ShippedMarks
    body: Accepted | Gone | Diverged | Chunk | HashAt | None = None


class CheckpointPart(NamedTuple):
    """A piece of a copy of the store."""

    file: str
    data: bytes
    sha256: bytes = b""
    """With a file's last piece: of the whole file."""
    total_files: int = 0
    total_bytes: int = 0
    position: Position | None = None
    """Only in the last part."""
    epochs: tuple[EpochBegin, ...] = ()


class Promised(NamedTuple):
    """Whether a node refuses lower epochs now, and how far it is."""

    promised: bool
    identity: NodeIdentity
    end: LogEnd
    highest: Epoch
    complete: bool
    heard: int
