"""The service Replication: spoken between the nodes of one cluster.

What a node does stands behind ``Node``; here is what of it can be asked over the wire. A chunk is compressed here, because how is
agreed on with the first answer and nothing beneath needs to know; a large one on another thread, which does not hold the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Protocol

from kvproto.v1 import replication_pb2 as pb
from kvserver.base.limits import KIB
from kvserver.base.types import Epoch
from kvserver.replication.messages import (
    Accepted,
    Ack,
    CheckpointPart,
    Chunk,
    Description,
    Envelope,
    Hello,
    NodeIdentity,
    Promised,
)
from kvserver.replication.tail_compression import NONE, ChunkCompressor
from kvserver.service import replication_convert as convert
from kvserver.service.context import CallContext
from kvserver.service.methods import DuplexMethod, Method, ScanMethod, UnaryMethod
from kvserver.service.validation import invalid_field

NAME = "kvproto.v1.Replication"

INLINE_BYTES = 32 * KIB
"""So much is compressed on the loop, in less time than another thread would take to begin."""


class Node(Protocol):
    """What a node does for other ones. Everything raises KvError."""

    def describe(self) -> Description:
        """Say who it is and how far."""

    def ship(self, hello: Hello, acks: AsyncIterator[Ack]) -> AsyncGenerator[Envelope, None]:
        """Ship its log; the first envelope says whether, or why not."""

    def checkpoint(self, identity: NodeIdentity) -> AsyncGenerator[CheckpointPart, None]:
        """Send a copy of the store."""

    async def promise(self, epoch: Epoch, candidate: NodeIdentity) -> Promised:
        """Refuse lower epochs from now on; durable on return."""


class ReplicationService:
    """Converts, and asks the node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def methods(self) -> list[Method]:
        """Return the methods."""
        return [
            UnaryMethod(NAME, "Describe", pb.DescribeRequest, self.describe),
            DuplexMethod(NAME, "Follow", pb.FollowRequest, self.follow),
            ScanMethod(NAME, "FetchCheckpoint", pb.FetchCheckpointRequest, self.fetch_checkpoint),
            UnaryMethod(NAME, "Promise", pb.PromiseRequest, self.promise),
        ]

    def describe(self, request: pb.DescribeRequest, context: CallContext) -> pb.DescribeResponse:
        """Say who the node is."""
        return convert.to_description(self._node.describe())

    async def promise(self, request: pb.PromiseRequest, context: CallContext) -> pb.PromiseResponse:
        """Refuse lower epochs from now on."""
        return convert.to_promised(await self._node.promise(*convert.from_promise_request(request)))

    async def fetch_checkpoint(
        self, request: pb.FetchCheckpointRequest, context: CallContext
    ) -> AsyncGenerator[pb.FetchCheckpointResponse, None]:
        """Send a copy of the store."""
        async with aclosing(self._node.checkpoint(convert.from_checkpoint_request(request))) as parts:
            async for part in parts:
                yield convert.to_part(part)

    async def follow(
        self, requests: AsyncIterator[pb.FollowRequest], context: CallContext
    ) -> AsyncGenerator[pb.FollowResponse, None]:
        """Ship the log to a follower."""
        first = await anext(requests, None)
        if first is None:
            raise invalid_field("kind", "never came: the call ended before its first request")
        compressor = ChunkCompressor(NONE)
        async with aclosing(self._node.ship(convert.from_hello(first), _acks(requests))) as envelopes:
            async for envelope in envelopes:
                body = envelope.body
                if isinstance(body, Accepted):
                    compressor = ChunkCompressor(body.compression)
                if isinstance(body, Chunk) and len(body.data) > INLINE_BYTES and compressor.works:
                    yield await asyncio.to_thread(convert.to_envelope, envelope, compressor)
                else:
                    yield convert.to_envelope(envelope, compressor)


async def _acks(requests: AsyncIterator[pb.FollowRequest]) -> AsyncIterator[Ack]:
    """Yield the acknowledgements that come after the hello. Raises InvalidRequest."""
    async for request in requests:
        yield convert.from_ack(request)
