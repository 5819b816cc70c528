"""The register: where epochs are claimed, and what all nodes of a cluster see alike.

``kvserver.replication`` has the kinds there are.
A cluster has exactly one, fixed in the identity of its nodes. A register of a single node lies in its data folder; one of several
nodes lies in a folder that all of them see, or in object storage. Whatever is in it is created once and never changed, but for
the records of nodes (where each is spoken to).
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

from kvserver.base.types import Epoch, Position


class NodeRecord(NamedTuple):
    """One node as the register knows it."""

    name: str
    node_id: str
    address: str
    """Where it is spoken to, HOST:PORT; empty for a node that nobody speaks to."""


class EpochRecord(NamedTuple):
    """One epoch as the register knows it."""

    epoch: Epoch
    node_id: str
    claimed_ms: int
    branch: Position | None
    """Where in history it began; None while that is not recorded: then nothing was acknowledged under it."""
    begun: bool = False
    """Its first segment was durable: a log without it has lost something."""
    node: str = ""
    """The name of the node that claimed it; empty in the register of a single node."""


class PolicyNote(NamedTuple):
    """Somebody gave the policy's quorum up for now, or returned to it; written before it takes effect."""

    number: int
    """1, 2 and so on."""
    epoch: Epoch
    node: str
    time_ms: int
    degraded: bool
    reason: str


class Register(Protocol):
    """Create-once records. Every call blocks, so none is made on the event loop.

    Errors are OSError or ReplicationError (REGISTER_UNAVAILABLE) where it cannot be reached, Corruption where a record does
    not check.
    """

    id: str
    """What the nodes of a cluster compare to know that they see the same register; "local" for that of a single node."""
    url: str
    """Its address as people may see it; empty for that of a single node."""

    def records(self) -> list[EpochRecord]:
        """Return all epochs ever claimed, oldest first."""

    def claim(self, epoch: Epoch, node: NodeRecord, now_ms: int) -> None:
        """Claim an epoch; FileExistsError where its number is taken."""

    def record_branch(self, epoch: Epoch, branch: Position) -> None:
        """Record where a claimed epoch begins; FileExistsError where that was done before."""

    def record_begun(self, epoch: Epoch) -> None:
        """Record that the epoch's first segment is durable; FileExistsError where that was done before."""

    def nodes(self) -> list[NodeRecord]:
        """Return the nodes that have joined, by name; none in the register of a single node."""

    def join(self, node: NodeRecord) -> None:
        """Write where a node is spoken to, in place of what was said of its name before."""

    def notes(self) -> list[PolicyNote]:
        """Return what was noted about the policy, oldest first."""

    def add_note(self, note: PolicyNote) -> None:
        """Add a note; FileExistsError where its number is taken."""
