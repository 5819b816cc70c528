"""Two nodes over a real connection: what one sends arrives, and every way in which a call can end is told as what it is."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from kvproto.v1 import replication_pb2 as pb
from kvserver.base.errors import Code, InvalidRequest, KvError, NotPrimary, NotServing, ReplicationError
from kvserver.base.limits import MIB
from kvserver.base.types import Epoch, LogEnd, Position
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
    ShippedMarks,
)
from kvserver.replication.tail_compression import MAX_CHUNK_BYTES
from kvserver.service.replication import ReplicationService
from kvserver.transport import peer as peer_module
from kvserver.transport.grpc_aio import GrpcServer
from kvserver.transport.peer import GrpcPeer, peers

EPOCH = Epoch(3, 33)
POSITION = Position(EPOCH, 9, bytes(range(16)))
END = LogEnd(POSITION, 5, 5000)
A = NodeIdentity(bytes(16), "a", "id-a", "a:7400", "folder:x")
B = NodeIdentity(bytes(16), "b", "id-b", "b:7400", "folder:x")
HELLO = Hello(B, EPOCH, END, [(EPOCH, POSITION)], ("zstd", "none"))
MARKS = ShippedMarks(EPOCH, 9, 8, 7, 6, "a:7400")
PATIENCE_S = 10.0

Ship = Callable[[Hello, AsyncIterator[Ack]], AsyncGenerator[Envelope, None]]


class FakeNode:
    """Does what a test says, and notes what it was asked."""

    def __init__(self) -> None:
        self.ship_with: Ship = self.accept
        self.acks: list[Ack] = []
        self.hellos: list[Hello] = []
        self.ended = asyncio.Event()
        self.error: KvError | None = None
        self.parts = [CheckpointPart("f", bytes(1 * MIB), total_files=1), CheckpointPart("f", b"", bytes(32), position=POSITION)]

    def describe(self) -> Description:
        if self.error is not None:
            raise self.error
        return Description(A, "primary", "PRIMARY", "", EPOCH, EPOCH, END, 9, 9, 9, 6, "", "a:7400", "0.1.0")

    async def ship(self, hello: Hello, acks: AsyncIterator[Ack]) -> AsyncGenerator[Envelope, None]:
        self.hellos.append(hello)
        try:
            async with contextlib.aclosing(self.ship_with(hello, acks)) as envelopes:
                async for envelope in envelopes:
                    yield envelope
        finally:
            self.ended.set()

    async def accept(self, hello: Hello, acks: AsyncIterator[Ack]) -> AsyncGenerator[Envelope, None]:
        """Accept, answer each acknowledgement with a sign of life, and end with the follower."""
        yield Envelope(MARKS, Accepted(5, 5000, [(EPOCH, POSITION)], "zstd"))
        async for ack in acks:
            self.acks.append(ack)
            yield Envelope(MARKS._replace(durable=ack.durable))

    async def checkpoint(self, identity: NodeIdentity) -> AsyncGenerator[CheckpointPart, None]:
        if self.error is not None:
            raise self.error
        for part in self.parts:
            yield part

    async def promise(self, epoch: Epoch, candidate: NodeIdentity) -> Promised:
        return Promised(True, A, END, epoch, True, (candidate.name == "b" and 77) or 0)


@contextlib.asynccontextmanager
async def serving(node: Any, methods: Any = None) -> AsyncIterator[tuple[GrpcServer, GrpcPeer]]:
    server = GrpcServer(methods if methods is not None else ReplicationService(node).methods(), ())
    port = await server.start("127.0.0.1", 0)
    peer = peers(f"127.0.0.1:{port}")
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield server, peer
    finally:
        await peer.close()
        await server.stop(0)


async def test_describe_promise_and_a_copy() -> None:
    node = FakeNode()
    async with serving(node) as (_, peer):
        assert await peer.describe(5.0) == node.describe()
        assert await peer.promise(Epoch(4, 44), B, 5.0) == Promised(True, A, END, Epoch(4, 44), True, 77)
        assert [part async for part in peer.fetch_checkpoint(B)] == node.parts


async def test_a_log_is_shipped_and_acknowledged() -> None:
    node = FakeNode()
    async with serving(node) as (_, peer):
        call = await peer.follow(HELLO)
        envelopes = aiter(call)
        accepted = await anext(envelopes)
        assert accepted == Envelope(MARKS, Accepted(5, 5000, [(EPOCH, POSITION)], "zstd"))
        for durable in (3, 4):
            await call.ack(Ack(EPOCH, durable, durable, durable, 0))
            assert (await anext(envelopes)).marks.durable == durable
        assert node.hellos == [HELLO]
        await call.close()
        await call.close()
        await node.ended.wait()


@pytest.mark.parametrize("compression", ["none", "zstd"])
async def test_chunks_of_every_size_arrive(compression: str) -> None:
    sizes = (1, 100, 100_000, 600_000, 3 * MIB, MAX_CHUNK_BYTES if compression == "zstd" else 3 * MIB)
    chunks = [Chunk(5, 4096 * number, (b"%08d" % number) * (size // 8 + 1)) for number, size in enumerate(sizes)]
    chunks = [chunk._replace(data=chunk.data[:size]) for chunk, size in zip(chunks, sizes, strict=True)]

    async def ship(hello: Hello, acks: AsyncIterator[Ack]) -> AsyncGenerator[Envelope, None]:
        yield Envelope(MARKS, Accepted(5, 0, [], compression))
        for chunk in chunks:
            yield Envelope(MARKS, chunk)

    node = FakeNode()
    node.ship_with = ship
    async with serving(node) as (_, peer):
        call = await peer.follow(HELLO)
        assert [envelope.body async for envelope in aiter(call)][1:] == chunks


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ReplicationError(Code.WRONG_PEER, "another cluster", "go away"), ReplicationError),
        (NotServing("stopping"), NotServing),
        (NotPrimary("c:7400"), NotPrimary),
        (KvError(Code.CORRUPTION, "broken"), KvError),
    ],
)
async def test_errors_come_back_as_they_were(error: KvError, kind: type[KvError]) -> None:
    async def ship(hello: Hello, acks: AsyncIterator[Ack]) -> AsyncGenerator[Envelope, None]:
        raise error
        yield

    node = FakeNode()
    node.error, node.ship_with = error, ship
    async with serving(node) as (_, peer):
        asked: list[Callable[[], Any]] = [
            lambda: peer.describe(5.0),
            lambda: anext(aiter(peer.fetch_checkpoint(B))),
        ]
        for ask in asked:
            with pytest.raises(kind) as caught:
                await ask()
            assert (caught.value.code, caught.value.details) == (error.code, error.details)
        with pytest.raises(kind) as caught:
            await anext(aiter(await peer.follow(HELLO)))
        assert caught.value.code is error.code


async def test_a_fault_is_told_as_one_and_tells_nothing() -> None:
    async def ship(hello: Hello, acks: AsyncIterator[Ack]) -> AsyncGenerator[Envelope, None]:
        yield Envelope(MARKS)
        raise RuntimeError("a secret")

    node = FakeNode()
    node.ship_with = ship
    async with serving(node) as (_, peer):
        envelopes = aiter(await peer.follow(HELLO))
        await anext(envelopes)
        with pytest.raises(KvError) as caught:
            await anext(envelopes)
        assert caught.value.code is Code.INTERNAL
        assert "secret" not in str(caught.value)


async def test_a_drain_ends_a_call_with_not_serving() -> None:
    node = FakeNode()
    async with serving(node) as (server, peer):
        envelopes = aiter(await peer.follow(HELLO))
        await anext(envelopes)
        stopping = asyncio.create_task(server.stop(5.0))
        with pytest.raises(NotServing, match="changing its part"):  # its own word, not a connection that was cut
            await anext(envelopes)
        await node.ended.wait()
        await stopping


async def test_a_drain_while_nobody_reads_ends_the_call_too() -> None:
    async def ship(hello: Hello, acks: AsyncIterator[Ack]) -> AsyncGenerator[Envelope, None]:
        yield Envelope(MARKS, Accepted(5, 0, [], "none"))
        while True:
            yield Envelope(MARKS, Chunk(5, 0, bytes(1 * MIB)))

    node = FakeNode()
    node.ship_with = ship
    async with serving(node) as (server, peer):
        envelopes = aiter(await peer.follow(HELLO))
        await anext(envelopes)
        await server.stop(0.2)
        await node.ended.wait()
        with pytest.raises(NotServing):
            async for _ in envelopes:
                pass


async def test_a_follower_that_hangs_up_ends_the_handler() -> None:
    node = FakeNode()
    async with serving(node) as (_, peer):
        call = await peer.follow(HELLO)
        await anext(aiter(call))
        await call.close()
        await node.ended.wait()


async def test_a_reader_that_is_given_up_hangs_up() -> None:
    node = FakeNode()
    async with serving(node) as (_, peer):
        envelopes = aiter(await peer.follow(HELLO))
        await anext(envelopes)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await anext(envelopes)
        await node.ended.wait()


async def test_closing_while_another_task_reads_is_not_that_tasks_cancellation() -> None:
    node = FakeNode()
    async with serving(node) as (_, peer):
        call = await peer.follow(HELLO)
        envelopes = aiter(call)
        await anext(envelopes)
        reading = asyncio.ensure_future(anext(envelopes))
        await asyncio.sleep(0.05)
        await call.close()
        with pytest.raises(NotServing):
            await reading
        assert not reading.cancelled()


async def test_a_peer_that_is_closed_answers_nothing_more() -> None:
    node = FakeNode()
    async with serving(node) as (_, peer):
        call = await peer.follow(HELLO)
        await anext(aiter(call))
        await peer.close()  # nobody reads: the call has to end all the same
        await peer.close()
        with pytest.raises(NotServing):
            await peer.describe(5.0)
        with pytest.raises(NotServing):
            await anext(aiter(call))
        await node.ended.wait()


@pytest.mark.parametrize("reads_first", [False, True])
async def test_an_acknowledgement_to_a_call_that_ended_hides_nothing(reads_first: bool) -> None:
    """What was sent before the end is still read, and why it ended is still told."""

    async def ship(hello: Hello, acks: AsyncIterator[Ack]) -> AsyncGenerator[Envelope, None]:
        for number in range(10):
            yield Envelope(MARKS._replace(durable=number))
        raise ReplicationError(Code.FENCED, "a higher epoch")

    async def acknowledge(call: Any) -> None:
        while True:
            await call.ack(Ack(EPOCH, 1, 1, 1, 0))
            await asyncio.sleep(0.001)

    node = FakeNode()
    node.ship_with = ship
    async with serving(node) as (_, peer):
        call = await peer.follow(HELLO)
        envelopes = aiter(call)
        if reads_first:
            await anext(envelopes)
        await node.ended.wait()
        acknowledging = asyncio.create_task(acknowledge(call))
        await asyncio.sleep(0.05)
        with pytest.raises(ReplicationError) as caught:
            async for envelope in envelopes:
                last = envelope
        assert caught.value.code is Code.FENCED
        assert last.marks.durable == 9
        with pytest.raises(KvError):
            await acknowledging


async def test_two_acknowledgements_at_once_are_written_one_after_the_other() -> None:
    node = FakeNode()
    async with serving(node) as (_, peer):
        call = await peer.follow(HELLO)
        envelopes = aiter(call)
        await anext(envelopes)
        await asyncio.gather(*(call.ack(Ack(EPOCH, number, number, number, 0)) for number in range(20)))
        for _ in range(20):
            await anext(envelopes)
        assert sorted(ack.durable for ack in node.acks) == list(range(20))


async def test_nobody_there_is_not_serving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "CONNECT_S", 0.5)
    peer = peers("127.0.0.1:1")
    for ask in (lambda: peer.describe(2.0), lambda: peer.follow(HELLO), lambda: anext(aiter(peer.fetch_checkpoint(B)))):
        with pytest.raises(NotServing, match=r"127\.0\.0\.1:1"):
            await ask()
    await peer.close()


async def test_somebody_who_accepts_and_says_nothing_is_not_serving(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_module, "CONNECT_S", 0.3)
    listener = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    peer = peers(f"127.0.0.1:{listener.sockets[0].getsockname()[1]}")
    for ask in (lambda: peer.describe(0.3), lambda: peer.follow(HELLO), lambda: anext(aiter(peer.fetch_checkpoint(B)))):
        with pytest.raises(NotServing):
            await ask()
    await peer.close()
    listener.close()


async def test_a_server_that_is_none_of_these_nodes_is_the_wrong_peer() -> None:
    async with serving(None, methods=[]) as (_, peer):
        with pytest.raises(KvError) as caught:
            await peer.describe(5.0)
        assert caught.value.code in (Code.WRONG_PEER, Code.NOT_SERVING)


async def test_bytes_that_are_no_message_are_refused_in_either_direction() -> None:
    node = FakeNode()
    async with serving(node) as (_, peer):
        async with grpc.aio.insecure_channel(peer.address) as channel:
            call = channel.stream_stream("/kvproto.v1.Replication/Follow")()
            await call.write(b"\xff\xff\xff")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call.read()
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            ack_first = channel.stream_stream("/kvproto.v1.Replication/Follow")()
            await ack_first.write(pb.FollowRequest(ack=pb.FollowAck()).SerializeToString())
            with pytest.raises(grpc.aio.AioRpcError, match="first request"):
                await ack_first.read()
            nothing = channel.stream_stream("/kvproto.v1.Replication/Follow")()
            await nothing.done_writing()
            with pytest.raises(grpc.aio.AioRpcError, match="never came"):
                await nothing.read()
        assert node.hellos == []


async def test_garbage_behind_the_hello_ends_the_call() -> None:
    node = FakeNode()
    async with serving(node) as (_, peer):
        call = await peer.follow(HELLO)
        envelopes = aiter(call)
        await anext(envelopes)
        await call._call._call.write(b"\xff\xff\xff")  # type: ignore[attr-defined]
        with pytest.raises(InvalidRequest):
            await anext(envelopes)


async def test_a_node_that_sends_what_none_says_is_the_wrong_peer() -> None:
    async def ship(hello: Hello, acks: AsyncIterator[Ack]) -> AsyncGenerator[Envelope, None]:
        yield Envelope(MARKS._replace(primary="two\nlines"))

    node = FakeNode()
    node.ship_with = ship
    async with serving(node) as (_, peer):
        with pytest.raises(ReplicationError) as caught:
            await anext(aiter(await peer.follow(HELLO)))
        assert caught.value.code is Code.WRONG_PEER
