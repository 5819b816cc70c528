"""How a node speaks to another one: the interface.

``kvserver.transport.peer`` does it over gRPC, tests in memory or through faults.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from kvserver.base.types import Epoch
from kvserver.replication.messages import Ack, CheckpointPart, Description, Envelope, Hello, NodeIdentity, Promised


class FollowCall(Protocol):
    """A log that is being shipped here."""

    def __aiter__(self) -> AsyncIterator[Envelope]:
        """Yield what the other node sends. Raises KvError as it sends one; NotServing where the connection breaks."""

    async def ack(self, ack: Ack) -> None:
        """Say how far this node is."""

    async def close(self) -> None:
        """Hang up. Twice does no harm."""


class Peer(Protocol):
    """Another node. Errors: KvError as it answers one; NotServing where it cannot be reached in time."""

    address: str

    async def describe(self, timeout_s: float) -> Description:
        """Ask who it is and how far."""

    async def follow(self, hello: Hello) -> FollowCall:
        """Begin to be shipped its log; the first envelope says whether, or why not."""

    def fetch_checkpoint(self, identity: NodeIdentity) -> AsyncIterator[CheckpointPart]:
        """Fetch a copy of the store."""

    async def promise(self, epoch: Epoch, candidate: NodeIdentity, timeout_s: float) -> Promised:
        """Ask it to refuse lower epochs."""

    async def close(self) -> None:
        """Let go of the connection. Twice does no harm."""


Peers = Callable[[str], Peer]
"""Makes a peer of an address, HOST:PORT; connects when it is first asked something."""
