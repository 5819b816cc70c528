"""The service between nodes: its table is the contract's, and a follower's call is converted both ways."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, cast

import pytest

from kvproto.v1 import replication_pb2 as pb
from kvserver.base.errors import Code, InvalidRequest
from kvserver.base.types import Epoch, LogEnd, Position
from kvserver.replication.messages import Accepted, Ack, Chunk, Envelope, Hello, NodeIdentity, ShippedMarks
from kvserver.service import replication_convert as convert
from kvserver.service.context import FixedContext
from kvserver.service.methods import DuplexMethod, ScanMethod, UnaryMethod
from kvserver.service.replication import INLINE_BYTES, ReplicationService

EPOCH = Epoch(1, 11)
END = LogEnd(Position(EPOCH, 5, bytes(16)), 7, 5000)
HELLO = Hello(NodeIdentity(bytes(16), "b", "id-b", "b:1", "folder:x"), EPOCH, END, [], ("zstd",))
CONTEXT = FixedContext()


class Node:
    """Accepts, ships one small and one large chunk, and then what is acknowledged as a sign of life."""

    def __init__(self) -> None:
        self.hello: Hello | None = None
        self.closed = False

    async def ship(self, hello: Hello, acks: AsyncIterator[Ack]) -> AsyncGenerator[Envelope, None]:
        self.hello = hello
        try:
            yield Envelope(ShippedMarks(), Accepted(7, 5000, [], "zstd"))
            yield Envelope(ShippedMarks(), Chunk(7, 5000, bytes(1000)))
            yield Envelope(ShippedMarks(), Chunk(7, 6000, bytes(INLINE_BYTES + 1)))
            async for ack in acks:
                yield Envelope(ShippedMarks(durable=ack.durable))
        finally:
            self.closed = True


async def _requests(*messages: pb.FollowRequest) -> AsyncIterator[pb.FollowRequest]:
    for message in messages:
        yield message


def test_the_table_is_the_contracts() -> None:
    service = pb.DESCRIPTOR.services_by_name["Replication"]
    methods = ReplicationService(cast(Any, None)).methods()
    assert {method.name for method in methods} == set(service.methods_by_name)
    kinds = {(False, False): UnaryMethod, (False, True): ScanMethod, (True, True): DuplexMethod}
    for method in methods:
        promised = service.methods_by_name[method.name]
        assert method.service == service.full_name
        assert isinstance(method, kinds[promised.client_streaming, promised.server_streaming])
        assert method.request.DESCRIPTOR is promised.input_type


async def test_a_call_is_converted_both_ways() -> None:
    node = Node()
    requests = _requests(convert.to_hello(HELLO), convert.to_ack(Ack(EPOCH, 5, 5, 5, 0)))
    answers = [answer async for answer in ReplicationService(cast(Any, node)).follow(requests, CONTEXT)]
    assert node.hello == HELLO
    assert node.closed
    assert [answer.WhichOneof("kind") for answer in answers] == ["accepted", "chunk", "chunk", None]
    assert [answer.chunk.raw_length for answer in answers[1:3]] == [1000, INLINE_BYTES + 1]
    assert all(len(answer.chunk.data) < 100 for answer in answers)
    assert answers[-1].durable_revision == 5


async def test_a_caller_that_goes_away_closes_the_shipment() -> None:
    node = Node()
    answers = ReplicationService(cast(Any, node)).follow(_requests(convert.to_hello(HELLO)), CONTEXT)
    await anext(answers)
    await answers.aclose()
    assert node.closed


@pytest.mark.parametrize("requests", [(), (convert.to_ack(Ack(EPOCH, 5, 5, 5, 0)),)])
async def test_a_call_begins_with_a_hello(requests: tuple[pb.FollowRequest, ...]) -> None:
    node = Node()
    with pytest.raises(InvalidRequest) as caught:
        await anext(ReplicationService(cast(Any, node)).follow(_requests(*requests), CONTEXT))
    assert caught.value.code is Code.INVALID_FIELD
    assert node.hello is None


async def test_a_second_hello_ends_the_call() -> None:
    node = Node()
    hello = convert.to_hello(HELLO)
    with pytest.raises(InvalidRequest, match="kind"):
        async for _ in ReplicationService(cast(Any, node)).follow(_requests(hello, hello), CONTEXT):
            pass
    assert node.closed
