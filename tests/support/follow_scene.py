"""A cluster in one task: real stores on disks in memory, real shipping, a real follower; time passes when nothing else happens.

async with FollowScene() as scene:
    a = scene.primary("a")
    b = scene.follower("b", "a")
    b.follower.start()
    await scene.until(lambda: b.follower.state is FollowerState.STREAMING)
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any, Self

from kvserver.archive.store import Store
from kvserver.base.environment import Environment
from kvserver.base.errors import NotServing
from kvserver.base.events import Event
from kvserver.base.options import TableOptions
from kvserver.base.types import NO_EPOCH, Epoch, Role
from kvserver.commit.requests import Put
from kvserver.engine.database import Database
from kvserver.replication.checkpoint_source import CheckpointSource
from kvserver.replication.follower import Follower
from kvserver.replication.home import FollowerFloor
from kvserver.replication.messages import Ack, CheckpointPart, Description, Envelope, Hello, NodeIdentity, Promised
from kvserver.replication.peer import Peer
from kvserver.replication.shipper import Shipping, Standing
from kvserver.replication.waiting import to_the_end
from support.clocks import ManualClock
from support.follow_parts import Times
from support.logs import PATHS
from support.shipping import InlineWorker
from support.stores import TWIN, do, settle
from support.twin_tables import TwinTables
from unit.engine.followed import SHARED, Node, SharedRegister

IDLE_TURNS = 15
"""After so many turns of the loop in which no store moved, nothing but time can go on."""


class SceneNode:
    """A node: its store, whom it ships to, its follower; and its ``Home``."""

    cascades = False

    def __init__(self, scene: FollowScene, name: str, follows: str = "") -> None:
        self.scene = scene
        self.name = name
        self.address = f"{name}:7400"
        self.node = Node(name, scene.register, clock=scene.clock)
        self.events: list[Event] = []
        self.promised = NO_EPOCH
        self.named = f"{follows}:7400" if follows else ""
        self.archive_url: str | None = None
        self.db: Database | None = None
        self.shipping: Shipping | None = None
        self.checkpoints: CheckpointSource | None = None
        self.is_down = False
        self.cluster_id = b""
        self.heard: list[tuple[Epoch, str]] = []
        self.points: list[tuple[int, int]] = []
        self.hashes: list[tuple[int, bytes]] = []
        self.lost: list[int] = []  # up to where it has to fetch again what it may have acknowledged
        self.reopened = 0
        self.changes: dict[str, Any] = {}
        """What its description says instead of the truth."""
        self.spoil: Callable[[Envelope], Envelope | None] = lambda envelope: envelope
        self.spoil_part: Callable[[CheckpointPart], list[CheckpointPart]] = lambda part: [part]
        self.tables = TableOptions()

    @property
    def env(self) -> Environment:
        return Environment(self.node.disk, self.scene.clock, random.Random(self.name).randbytes)

    @property
    def vow(self) -> Self:
        return self

    def peers(self, address: str) -> Peer:
        return MemoryPeer(self.scene, address)

    def note_lost(self, revision: int) -> None:
        self.lost.append(revision)

    def identity(self) -> NodeIdentity:
        node_id = self.db.identity.node_id if self.db is not None else f"new-{self.name}"
        return NodeIdentity(self.cluster_id, self.name, node_id, self.address, SHARED)

    def database(self) -> Database | None:
        return self.db

    def source(self) -> str:
        return self.named

    async def reopen(self, prepare: Callable[[], None]) -> None:
        await to_the_end(self._reopen(prepare))

    async def _reopen(self, prepare: Callable[[], None]) -> None:
        self.close()
        self.reopened += 1
        await asyncio.sleep(0)
        try:
            prepare()
        finally:
            self.open(Role.FOLLOWER)

    async def begin(self, cluster_id: bytes, description: Description | None) -> None:
        self.cluster_id = cluster_id

    def on_epoch(self, epoch: Epoch, primary: str) -> None:
        self.heard.append((epoch, primary))

    async def on_hash_point(self, revision: int) -> None:
        assert self.db is not None
        self.points.append((revision, self.db.marks.applied))

    async def on_hash(self, revision: int, sha256: bytes) -> None:
        self.hashes.append((revision, sha256))

    def open(self, role: Role, claimed: Epoch | None = None) -> Database:
        self.db = self.node.open(
            role, self.cluster_id or None, claimed, tables=self.tables, post=self.scene.post, listener=self.events.append
        )
        self.cluster_id = self.db.identity.cluster_id
        db = self.db
        self.shipping = Shipping(
            self.env,
            PATHS,
            db,
            self.identity(),
            lambda: db.history.epochs,
            self._standing,
            self.scene.post,
            listener=self.events.append,
            worker=InlineWorker(),
            call_later=self.scene.times.call_later,
        )
        self.shipping.start()
        self.checkpoints = CheckpointSource(self.env, PATHS, db, self.events.append, self.scene.times.sleep, self.scene.beside)
        return db

    def close(self) -> None:
        """End the life: shipping, then the store."""
        if self.db is None:
            return
        assert self.shipping is not None
        self.shipping.close()
        db, self.db = self.db, None
        db.close()

    def promote(self, follows: tuple[SceneNode, ...] = ()) -> None:
        """Become primary under the next epoch, as a promotion ends."""
        claimed = self.node.claim()
        self.close()
        self.promised = claimed
        self.open(Role.PRIMARY, claimed)
        for other in follows:
            other.promised = claimed
            other.named = self.address

    def _standing(self) -> Standing:
        assert self.db is not None
        marks = self.db.marks
        primary = self.address if self.db.role is Role.PRIMARY else self.named
        follows = "" if self.db.role is Role.PRIMARY else self.follower.source
        return Standing(self.db.history.current, self.promised, marks.visible, marks.archived, primary, follows)

    def describe(self) -> Description:
        assert self.db is not None
        primary, marks = self.db.role is Role.PRIMARY, self.db.marks
        found = Description(
            identity=self.identity(),
            role=self.db.role.value,
            state="PRIMARY" if primary else self.follower.state.value,
            reason="",
            epoch=self.db.history.current,
            promised=self.promised,
            end=self.db.log_end(),
            applied=marks.applied,
            visible=marks.visible,
            heard=marks.durable,
            heard_ms=0,
            follows="" if primary else self.follower.source or self.named,
            primary=self.address if primary else self.named,
            server_version="1",
        )
        return found._replace(**self.changes)

    def make_follower(self) -> Follower:
        self.follower = Follower(
            self,
            FollowerFloor(
                self.env,
                PATHS,
                TWIN,
                self.tables,
                self.events.append,
                self.scene.times.sleep,
                self.scene.beside,
                open_archive=lambda url: self.scene.archives[url],
                open_restored=lambda path: TwinTables(self.node.disk, path),
            ),
        )
        return self.follower

    follower: Follower

    def put(self, *keys: str, value: bytes = b"value") -> int:
        """Write keys, each in a group of its own; return the newest revision."""
        assert self.db is not None
        for key in keys:
            do(self.db, Put(1, key.encode(), value))
        return self.db.marks.visible

    def seal(self) -> None:
        """End the open segment."""
        assert self.db is not None
        ticket = self.db.seal()
        settle(self.db)
        while self.db._space is not None and self.db._space.step():
            settle(self.db)
        settle(self.db)
        ticket.answer()

    def flush(self) -> None:
        """Write memory into tables, and let the log go that nothing needs."""
        assert self.db is not None
        self.db.flush()
        settle(self.db)

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


class MemoryCall:
    """A call of a follower, in memory."""

    def __init__(self, server: SceneNode, hello: Hello) -> None:
        assert server.shipping is not None
        self._server = server
        self._acks: asyncio.Queue[Ack] = asyncio.Queue()
        self._envelopes = server.shipping.ship(hello, self._read())
        self.acks: list[Ack] = server.scene.acks.setdefault((hello.identity.name, server.name), [])
        self.unacknowledged = 0

    async def _read(self) -> AsyncIterator[Ack]:
        while True:
            yield await self._acks.get()

    async def __aiter__(self) -> AsyncIterator[Envelope]:
        async for envelope in self._envelopes:
            if self._server.is_down:
                raise NotServing("the connection broke")
            spoilt = self._server.spoil(envelope)
            if spoilt is not None:
                yield spoilt
        raise NotServing("the server ended the call")

    async def ack(self, ack: Ack) -> None:
        if self._server.is_down:
            raise NotServing("the connection broke")
        self.acks.append(ack)
        self._acks.put_nowait(ack)

    async def close(self) -> None:
        await self._envelopes.aclose()


class MemoryPeer:
    """Another node, in memory."""

    def __init__(self, scene: FollowScene, address: str) -> None:
        self.address = address
        self._scene = scene

    def _node(self) -> SceneNode:
        node = self._scene.nodes.get(self.address.partition(":")[0])
        if node is None or node.is_down or node.db is None:
            raise NotServing(f"{self.address} cannot be reached")
        return node

    async def describe(self, timeout_s: float) -> Description:
        await asyncio.sleep(0)
        return self._node().describe()

    async def follow(self, hello: Hello) -> MemoryCall:
        await asyncio.sleep(0)
        self._scene.hellos.append((self.address, hello))
        return MemoryCall(self._node(), hello)

    async def fetch_checkpoint(self, identity: NodeIdentity) -> AsyncIterator[CheckpointPart]:
        node = self._node()
        assert node.checkpoints is not None
        parts = node.checkpoints.parts(identity)
        try:
            async for part in parts:
                if node.is_down:
                    raise NotServing("the connection broke")
                for spoilt in node.spoil_part(part):
                    yield spoilt
        finally:
            await parts.aclose()  # type: ignore[attr-defined]

    async def promise(self, epoch: Epoch, candidate: NodeIdentity, timeout_s: float) -> Promised:
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing is held."""


class FollowScene:
    """The cluster."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.times = Times(self.clock)
        self.register = SharedRegister()
        self.nodes: dict[str, SceneNode] = {}
        self.archives: dict[str, Store] = {}
        self.hellos: list[tuple[str, Hello]] = []
        self.acks: dict[tuple[str, str], list[Ack]] = {}
        self.posted = 0
        self._mover: asyncio.Task[None] | None = None

    def post(self, callback: Callable[[], None]) -> None:
        """Call back: everything is on one thread."""
        self.posted += 1
        callback()

    async def beside(self, work: Callable[[], Any], name: str) -> Any:
        """Do it here, a turn later."""
        await asyncio.sleep(0)
        return work()

    def primary(self, name: str) -> SceneNode:
        """Add the node that makes the cluster."""
        node = self.nodes[name] = SceneNode(self, name)
        node.make_follower()
        node.open(Role.PRIMARY)
        return node

    def member(self, name: str, follows: str, has_store: bool = True) -> SceneNode:
        """Add a node that follows; with a store in which nothing was ever written, or without any."""
        node = self.nodes[name] = SceneNode(self, name, follows)
        if has_store:
            node.cluster_id = next(iter(self.nodes.values())).cluster_id
            node.open(Role.FOLLOWER)
        node.make_follower()
        return node

    async def __aenter__(self) -> Self:
        self._mover = asyncio.ensure_future(self._move())
        return self

    async def __aexit__(self, *exc: object) -> None:
        for node in self.nodes.values():
            await node.follower.stop()
            if node.checkpoints is not None:
                await node.checkpoints.close()
        assert self._mover is not None
        self._mover.cancel()
        for node in self.nodes.values():
            node.close()

    async def until(self, holds: Callable[[], bool], at_most_s: float = 200) -> None:
        """Let everything move until something holds."""
        end_s = self.clock.monotonic() + at_most_s
        while not holds():
            assert self._mover is not None
            if self._mover.done():
                self._mover.result()
            assert self.clock.monotonic() < end_s, f"it never came to that: {self.states()}"
            await asyncio.sleep(0)

    def states(self) -> dict[str, str]:
        """Return what each node is doing, for whoever reads why a test failed."""
        return {name: f"{node.follower.state.value}: {node.follower.reason}" for name, node in self.nodes.items()}

    async def pass_s(self, seconds: float) -> None:
        """Let so much time pass."""
        await self.times.sleep(seconds)

    async def _move(self) -> None:
        idle = 0
        while True:
            await asyncio.sleep(0)
            before, moved = self.posted, False
            for node in list(self.nodes.values()):
                if node.db is not None:
                    moved |= node.db.run_log_once() | node.db.run_tables_once()
            if moved or self.posted != before:
                idle = 0
                continue
            idle += 1
            if idle > IDLE_TURNS:
                idle = 0
                self.times.advance()
