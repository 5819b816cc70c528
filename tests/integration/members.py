"""Nodes of a cluster in the test's own event loop: real folders, a real register, real gRPC on loopback, and no process.

async with members(tmp_path, "a", "b", "c") as nodes:
    await nodes.until_streaming("b", "c")
    await nodes["a"].put(b"k", b"v")
    await nodes.promote("b")
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc

from integration.serving import CLIENT_OPTIONS, until
from kvproto.v1 import admin_pb2, admin_pb2_grpc, kv_pb2, kv_pb2_grpc
from kvserver.base import failpoints
from kvserver.base.types import Role
from kvserver.engine.database import Database
from kvserver.replication.promotion import PromotionStep
from kvserver.server import config
from kvserver.server.app import App
from kvserver.server.member import Member


def free_port() -> int:
    """Return a port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclasses.dataclass
class MemberNode:
    """One node; ``app`` is None while it does not run."""

    name: str
    port: int
    flags: list[str]
    app: App | None = None
    channel: Any = None

    @property
    def member(self) -> Member:
        assert self.app is not None
        node = self.app._node
        assert isinstance(node, Member)
        return node

    @property
    def database(self) -> Database:
        assert self.member.life is not None
        return self.member.life.database

    @property
    def state(self) -> str:
        return self.member.parts.describe().state

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self, *more: str) -> None:
        self.app = App(config.parse(["serve", *self.flags, *more], {}))
        try:
            await self.app.start()
        except BaseException:
            self.app = None
            raise
        self.channel = grpc.aio.insecure_channel(self.address, options=CLIENT_OPTIONS)

    async def stop(self) -> int:
        app, self.app = self.app, None
        if self.channel is not None:
            await self.channel.close()
        return await app.stop() if app is not None else 0

    async def put(self, key: bytes, value: bytes = b"v", timeout_s: float = 10) -> int:
        stub: Any = kv_pb2_grpc.KVStub(self.channel)
        answer = await stub.Put(kv_pb2.PutRequest(key=key, value=value), timeout=timeout_s)
        return int(answer.header.revision)

    async def get(self, key: bytes, timeout_s: float = 10, **fields: Any) -> bytes | None:
        stub: Any = kv_pb2_grpc.KVStub(self.channel)
        answer = await stub.Get(kv_pb2.GetRequest(key=key, **fields), timeout=timeout_s)
        return bytes(answer.kv.value) if answer.HasField("kv") else None

    async def status(self) -> admin_pb2.StatusResponse:
        stub: Any = admin_pb2_grpc.AdminStub(self.channel)
        answer: admin_pb2.StatusResponse = await stub.Status(admin_pb2.StatusRequest(), timeout=10)
        return answer

    async def promote(self, **options: bool) -> list[PromotionStep]:
        told = {"dry_run": False, "accept_loss": False, **options}
        return [step async for step in self.member.parts._control.promote(told["dry_run"], told["accept_loss"])]


class Members(dict[str, MemberNode]):
    """All nodes, by name."""

    folder: Path

    async def until_streaming(self, *names: str) -> None:
        await until(lambda: all(self[name].state == "STREAMING" for name in names), 20)

    async def until_equal(self, *names: str) -> None:
        """Wait until the nodes have, and show, what the first of them has durably."""
        goal = self[names[0]].database.log_end().position.revision
        await until(lambda: all(self[name].member.life is not None for name in names), 20)
        await until(lambda: all(self[name].database.marks.visible >= goal for name in names[1:]), 20)

    async def until_role(self, name: str, role: Role) -> None:
        await until(lambda: self[name].member.life is not None and self[name].database.role is role, 20)


@contextlib.asynccontextmanager
async def members(
    folder: Path, *names: str, flags: tuple[str, ...] = (), run: Callable[[str], bool] = lambda name: True
) -> AsyncIterator[Members]:
    """Run nodes while the block runs; the first makes the cluster, the others follow it."""
    nodes = Members()
    nodes.folder = folder
    first = free_port()
    for name in names:
        port = first if name == names[0] else free_port()
        own = ["--data-dir", str(folder / name), "--listen", f"127.0.0.1:{port}", "--http", "127.0.0.1:0", "--name", name]
        own += ["--register", (folder / "register").as_uri(), "--memory-limit-mb", "64", "--memtable-mb", "16", *flags]
        nodes[name] = MemberNode(name, port, own if name == names[0] else [*own, "--follow", f"127.0.0.1:{first}"])
    try:
        for name in names:
            if run(name):
                await nodes[name].start()
        yield nodes
    finally:
        failpoints.disarm_all()
        for node in nodes.values():
            with contextlib.suppress(Exception):
                await asyncio.wait_for(node.stop(), 20)
