"""A server in the test's own event loop, a client to it, and the words in which it refuses.

async with serving(tmp_path) as node:
    await node.kv.Put(kv_pb2.PutRequest(key=b"k"))
    refusal = await refused(node.kv.Get(kv_pb2.GetRequest()))
    assert refusal.code == "EMPTY_KEY"
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from kvproto.v1 import admin_pb2_grpc, kv_pb2, kv_pb2_grpc
from kvserver.base import failpoints
from kvserver.base.clock import SystemClock
from kvserver.base.environment import Environment
from kvserver.base.errors import NotServing
from kvserver.base.options import EngineOptions
from kvserver.engine.database import Database
from kvserver.engine.table_kit import rocks
from kvserver.replication.local_register import KIND, LocalRegister
from kvserver.service.admin import AdminService
from kvserver.service.archive import ArchiveService, Hashed
from kvserver.service.kv import KvService
from kvserver.service.methods import Method
from kvserver.transport.grpc_aio import GrpcServer

CLIENT_OPTIONS = (
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
    ("grpc.max_send_message_length", 64 * 1024 * 1024),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),
)


@dataclasses.dataclass
class Node:
    """A server that runs, and stubs that speak to it."""

    database: Database
    server: GrpcServer
    address: str
    channel: grpc.aio.Channel
    kv: Any
    admin: Any

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])


@dataclasses.dataclass
class Refusal:
    """An error as a client sees it: gRPC's status, and what the details say."""

    status: str
    code: str
    message: str
    hint: str
    metadata: dict[str, str]


def methods_of(database: Database) -> list[Method]:
    """Return everything that a server serves."""
    clock = SystemClock()
    return [
        *KvService(database).methods(),
        *AdminService(database, clock).methods(),
        *ArchiveService(database, None, _no_hash, clock).methods(),
    ]


async def _no_hash() -> Hashed:
    raise NotServing("nothing is hashed here")


@contextlib.asynccontextmanager
async def serving(data_dir: Path, options: EngineOptions | None = None, env: Environment | None = None) -> AsyncIterator[Node]:
    """Serve a data folder while the block runs."""
    loop = asyncio.get_running_loop()
    database = Database.open(
        data_dir, lambda at, paths: LocalRegister(at.fs, paths), KIND, loop.call_soon_threadsafe, rocks(), options, env
    )
    server = GrpcServer(methods_of(database), ("", "kvproto.v1.KV", "kvproto.v1.Admin", "primary"))
    port = await server.start("127.0.0.1", 0)
    address = f"127.0.0.1:{port}"
    try:
        async with grpc.aio.insecure_channel(address, options=CLIENT_OPTIONS) as channel:
            kv, admin = kv_pb2_grpc.KVStub(channel), admin_pb2_grpc.AdminStub(channel)
            yield Node(database, server, address, channel, kv, admin)
    finally:
        failpoints.disarm_all()
        await server.stop(1.0)
        await asyncio.to_thread(database.close)


async def refused(call: Awaitable[Any]) -> Refusal:
    """Return how a call was refused; fail the test if it was not."""
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        return refusal_of(error)
    raise AssertionError(f"not refused: {answer}")


def refusal_of(error: Any) -> Refusal:
    """Return what an error of gRPC says."""
    for key, blob in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status = status_pb2.Status.FromString(blob)
            info = error_details_pb2.ErrorInfo()
            assert status.details[0].Unpack(info)
            assert info.domain == "kvserver"
            assert status.code == error.code().value[0]
            assert status.message == error.details()
            return Refusal(error.code().name, info.reason, status.message, info.metadata.pop("hint", ""), dict(info.metadata))
    return Refusal(error.code().name, "", error.details() or "", "", {})


async def scanned(node: Node, **fields: Any) -> list[kv_pb2.ScanResponse]:
    """Return the chunks of a scan."""
    return [chunk async for chunk in node.kv.Scan(kv_pb2.ScanRequest(**fields))]


class Stream:
    """One Pipeline call: frames in, answers by their ids out."""

    def __init__(self, node: Node) -> None:
        self.call = node.kv.Pipeline()

    async def send(self, frame_id: int, **fields: Any) -> None:
        await self.call.write(kv_pb2.PipelineRequest(frame_id=frame_id, **fields))

    async def puts(self, frame_id: int, pairs: dict[bytes, bytes], **fields: Any) -> None:
        await self.send(frame_id, puts=kv_pb2.PutColumns(keys=list(pairs), values=list(pairs.values())), **fields)

    async def gets(self, frame_id: int, *keys: bytes, **fields: Any) -> None:
        await self.send(frame_id, gets=kv_pb2.GetColumns(keys=keys), **fields)

    async def deletes(self, frame_id: int, *keys: bytes, **fields: Any) -> None:
        await self.send(frame_id, deletes=kv_pb2.DeleteColumns(keys=keys), **fields)

    async def mixed(self, frame_id: int, *operations: kv_pb2.Operation, **fields: Any) -> None:
        await self.send(frame_id, mixed=kv_pb2.MixedOperations(operations=operations), **fields)

    async def answer(self) -> kv_pb2.PipelineResponse:
        answer = await self.call.read()
        assert isinstance(answer, kv_pb2.PipelineResponse), answer
        return answer

    async def rest(self) -> list[kv_pb2.PipelineResponse]:
        """End the sending; return the answers that still come."""
        await self.call.done_writing()
        answers = []
        while (answer := await self.call.read()) is not grpc.aio.EOF:
            answers.append(answer)
        return answers


@contextlib.contextmanager
def stalled_disk() -> Iterator[threading.Event]:
    """Hold the log's thread before its next sync, until the event is set or the block ends."""
    release = threading.Event()
    failpoints.arm("wal.after_write", lambda: (release.wait(30), None)[1])
    try:
        yield release
    finally:
        failpoints.disarm_all()
        release.set()


async def until(condition: Any, timeout_s: float = 10.0) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)
