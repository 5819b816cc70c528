"""What a member does for other nodes (``kvserver.service.replication.Node``)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from kvserver.base.errors import NotServing
from kvserver.base.types import Epoch
from kvserver.replication.messages import Accepted, Ack, CheckpointPart, Description, Envelope, Hello, NodeIdentity, Promised
from kvserver.server.ports import MemberPort


class NodeReplication:
    """Belongs to the event loop."""

    def __init__(self, member: MemberPort) -> None:
        self._member = member

    def describe(self) -> Description:
        """Say who it is and how far."""
        return self._member.parts.describe()

    async def ship(self, hello: Hello, acks: AsyncIterator[Ack]) -> AsyncGenerator[Envelope, None]:
        """Ship its log. Raises NotServing between two parts."""
        shipping = self._member.parts.shipping
        if shipping is None:
            raise _changing()
        self._member.parts.raise_distrusted()
        source = self._member.parts.copies
        async with aclosing(shipping.ship(hello, acks)) as envelopes:
            async for envelope in envelopes:
                if source is not None and isinstance(envelope.body, Accepted):
                    source.following(hello.identity.name)  # its slot holds what it needs from here on
                yield envelope

    async def checkpoint(self, identity: NodeIdentity) -> AsyncGenerator[CheckpointPart, None]:
        """Send a copy of the store."""
        source = self._member.parts.copies
        if source is None:
            raise _changing()
        self._member.parts.raise_distrusted()
        async with aclosing(source.parts(identity)) as parts:
            async for part in parts:
                yield part

    async def promise(self, epoch: Epoch, candidate: NodeIdentity) -> Promised:
        """Refuse lower epochs from now on."""
        return await self._member.promise(epoch, candidate)


def _changing() -> NotServing:
    return NotServing("the node is changing its part; ask again in a moment")
