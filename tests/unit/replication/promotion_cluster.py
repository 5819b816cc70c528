"""A cluster in memory for promotions: nodes with logs that are lists, a register, links that can be cut one way, and a judge.

Everything runs on one event loop and waits for nothing. Between any two steps of a promotion ``Cluster.between`` is called, so
that a test can let something happen there: a write of the former primary, a cut, a death, a step of another candidate.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from kvserver.base.environment import Environment
from kvserver.base.errors import Code, NotServing, ReplicationError
from kvserver.base.paths import DataPaths
from kvserver.base.policy import ASYNC, Policy
from kvserver.base.register import NodeRecord
from kvserver.base.types import Epoch, LogEnd, Position
from kvserver.replication.messages import CheckpointPart, Description, Hello, NodeIdentity, Promised
from kvserver.replication.peer import FollowCall
from kvserver.replication.promotion import PromotionStep, promote
from kvserver.replication.store_register import StoreRegister, found
from kvserver.replication.vow import Vow
from support.clocks import ManualClock
from support.fault_store import FaultStore
from support.memfs import MemoryFileSystem
from support.memory_store import MemoryStore

T = TypeVar("T")
PATHS = DataPaths(Path("/data"))


class Entry(NamedTuple):
    """A commit, or the header of a segment (``value`` 0), which takes no revision."""

    epoch: Epoch
    value: int
    policy: Policy | None = None


class Killed(BaseException):
    """The process of a candidate ends here."""


class Node:
    """A node: its log, its promise, and what it does for others; also a ``Candidate``."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.record = NodeRecord(name, f"id-{name}", f"{name}:7400")
        self.disk = MemoryFileSystem()
        self.disk.make_dir(PATHS.root)
        self.log: list[Entry] = []
        self.role = "follower"
        self.state = "STREAMING"
        self.alive = True
        self.heard_revision = 0
        self.visible = 0
        self.takeovers: list[Epoch] = []
        self.stood_down = 0
        self.fails: Exception | None = None
        """What its next attempt to take over ends with."""
        self.vow = self._open_vow()

    def _open_vow(self) -> Vow:
        return Vow.open(Environment(self.disk, ManualClock(), random.Random(0).randbytes), PATHS)

    # Itself

    @property
    def identity(self) -> NodeIdentity:
        return NodeIdentity(
            self.cluster.cluster_id, self.name, self.record.node_id, self.record.address, self.cluster.register.id
        )

    @property
    def revision(self) -> int:
        return sum(entry.value > 0 for entry in self.log)

    @property
    def values(self) -> list[int]:
        return [entry.value for entry in self.log if entry.value]

    @property
    def epoch(self) -> Epoch:
        return self.log[-1].epoch if self.log else Epoch(0, 0)

    def kill(self) -> None:
        self.alive, self.role = False, "follower"

    def restart(self) -> None:
        """Start again as follower, with what is on disk."""
        self.disk.kill()
        self.disk = self.disk.another_process()
        self.alive, self.role, self.vow, self.visible = True, "follower", self._open_vow(), 0

    def lose(self, entries: int) -> None:
        """Lose the end of the log, as by a torn tail, and know it."""
        before = self.revision
        del self.log[max(2, len(self.log) - entries) :]
        if self.revision < before:
            self.vow.note_lost(before)

    # As a candidate

    def describe(self) -> Description:
        state = ("FENCED" if self.is_fenced else "PRIMARY") if self.role == "primary" else self.state
        heard = self.revision if self.role == "primary" else self.heard_revision
        promised, end = self.vow.promised, self.end()
        return Description(
            self.identity, self.role, state, "", self.epoch, promised, end, end.position.revision, 0, heard, 0, "", "", ""
        )

    @property
    def is_fenced(self) -> bool:
        return self.vow.promised.number > self.epoch.number

    def end(self) -> LogEnd:
        return LogEnd(Position(self.epoch, self.revision, b""), 1, len(self.log))

    def policies(self) -> Sequence[Policy]:
        found, revision = [(0, self.cluster.first_policy)], 0
        for entry in self.log:
            revision += entry.value > 0
            if entry.policy is not None:
                found.append((revision, entry.policy))
        newest, policy = found[-1]
        return [policy] if len(found) == 1 or self.visible >= newest else [found[-2][1], policy]

    def heard(self) -> tuple[int, int]:
        return self.heard_revision, 17

    async def promise(self, epoch: Epoch) -> Promised:
        given = not (self.role == "primary" and self.epoch.number >= epoch.number) and self.vow.promise(epoch)
        return Promised(given, self.identity, self.end(), self.vow.promised, self.vow.is_complete, self.heard_revision)

    async def catch_up(self, address: str, end: LogEnd) -> None:
        source = self.cluster.by_address(address)
        await self.cluster.travel(self, source)
        await self.cluster.travel(source, self)
        self.adopt(source.log[: end.offset])

    def adopt(self, log: list[Entry]) -> None:
        """Take over a log that goes on from one's own."""
        if log[: len(self.log)] != self.log:
            raise ReplicationError(Code.WRONG_PEER, "the histories have parted", "rewind")
        self.log = list(log)
        self.vow.complete(self.revision)

    async def take_over(self, epoch: Epoch) -> Position:
        if self.fails is not None:
            self.fails, error = None, self.fails
            raise error
        if self.vow.promised != epoch:
            raise ReplicationError(Code.FENCED, "promised to another", "see who")
        branch = Position(self.epoch, self.revision, bytes(16))
        self.cluster.register.record_branch(epoch, branch)
        self.log.append(Entry(epoch, 0))
        self.cluster.register.record_begun(epoch)
        self.role, self.visible = "primary", 0
        self.takeovers.append(epoch)
        self.cluster.on_take_over(self, epoch)
        return branch

    async def stand_down(self) -> None:
        if self.alive:
            self.stood_down += 1
            self.role = "follower"


class SimPeer:
    """How one node speaks to another here."""

    def __init__(self, cluster: Cluster, asking: Node, address: str) -> None:
        self.address = address
        self._cluster, self._asking = cluster, asking

    async def describe(self, timeout_s: float) -> Description:
        return await self._ask(lambda node: _answer(node.describe()))

    async def promise(self, epoch: Epoch, candidate: NodeIdentity, timeout_s: float) -> Promised:
        return await self._ask(lambda node: node.promise(epoch))

    async def _ask(self, do: Callable[[Node], Awaitable[T]]) -> T:
        node = self._cluster.by_address(self.address)
        await self._cluster.travel(self._asking, node)
        answer = await do(node)
        await self._cluster.travel(node, self._asking)
        return answer

    async def follow(self, hello: Hello) -> FollowCall:
        raise NotImplementedError

    def fetch_checkpoint(self, identity: NodeIdentity) -> AsyncIterator[CheckpointPart]:
        raise NotImplementedError

    async def close(self) -> None:
        self._cluster.closed += 1


async def _answer(value: T) -> T:
    return value


class Cluster:
    """Nodes, a register, links."""

    def __init__(self, names: str = "abc", policy: Policy = ASYNC, seed: int = 0) -> None:
        self.rng = random.Random(seed)
        self.env = Environment(MemoryFileSystem(), ManualClock(), random.Random(seed).randbytes)
        self.cluster_id = bytes(16)
        self.store = FaultStore(MemoryStore())
        self.register = StoreRegister(self.store, found(self.store, self.env, self.cluster_id), self.env)
        self.first_policy = policy
        self.cuts: set[tuple[str, str]] = set()
        self.acknowledged: list[int] = []
        self.closed = 0
        self.between: Callable[[], Awaitable[None]] = self._nothing
        self.on_take_over: Callable[[Node, Epoch], None] = lambda node, epoch: None
        self._next_value = 1
        self.nodes = {name: Node(self, name) for name in names}
        for node in self.nodes.values():
            self.register.join(node.record)
        self._begin(self.nodes[names[0]])

    async def _nothing(self) -> None:
        pass

    def _begin(self, first: Node) -> None:
        epoch = Epoch(1, self.env.random_id())
        self.register.claim(epoch, first.record, 0)
        self.register.record_branch(epoch, Position(Epoch(0, 0), 1, bytes(16)))
        self.register.record_begun(epoch)
        begin = [Entry(epoch, 0), Entry(epoch, self._value())]
        for node in self.nodes.values():
            node.log = list(begin)
        first.role = "primary"

    def _value(self) -> int:
        self._next_value += 1
        return self._next_value - 1

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def by_address(self, address: str) -> Node:
        return next(node for node in self.nodes.values() if node.record.address == address)

    # Links

    def cut(self, one: str, other: str) -> None:
        self.cuts |= {(one, other), (other, one)}

    def isolate(self, name: str) -> None:
        for other in self.nodes:
            self.cut(name, other)

    def is_open(self, source: Node, target: Node) -> bool:
        return source.alive and target.alive and (source.name, target.name) not in self.cuts

    async def travel(self, source: Node, target: Node) -> None:
        """Let a message pass, or not. Whoever sends to a dead process, or is one, hears nothing."""
        await self.between()
        if not self.is_open(source, target):
            raise NotServing(f"{target.name} cannot be reached")

    # Writing

    def write(self, primary: Node, to: Sequence[Node], policy: Policy | None = None) -> int:
        """Have a primary write, and these nodes receive all of its log; return the value, acknowledged or not."""
        value = self._value()
        before = list(primary.policies())
        primary.log.append(Entry(primary.epoch, value, policy))
        return self.replicate(primary, to, before) and value

    def replicate(self, primary: Node, to: Sequence[Node], policies: Sequence[Policy] = ()) -> int:
        """Have these nodes receive a primary's log; what the policies hold to be kept is acknowledged."""
        have = {primary.name}
        for node in to:
            if (
                node is not primary
                and self.is_open(primary, node)
                and self.is_open(node, primary)
                and self._follow(node, primary)
            ):
                have.add(node.name)
        quorums = [*policies, *primary.policies()]
        fenced = primary.role != "primary" or primary.is_fenced
        if fenced or any(len(have & set(policy.members)) < policy.write_quorum for policy in quorums):
            return 0
        primary.visible = primary.revision
        for name in have:
            self[name].visible = self[name].revision
        self.acknowledged = sorted({*self.acknowledged, *primary.values})
        return primary.revision

    def _follow(self, node: Node, primary: Node) -> bool:
        """Have a node receive all of a primary's log, rewinding what that one lacks; False where it may not."""
        if node.role == "primary" and node.epoch.number >= primary.epoch.number:
            return False
        if node.vow.promised.number > primary.epoch.number or node.epoch.number > primary.epoch.number:
            return False
        node.role = "follower"
        common = 0
        for one, other in zip(node.log, primary.log, strict=False):
            if one != other:
                break
            common += 1
        node.log = list(primary.log) if common < len(node.log) or len(primary.log) > common else node.log
        node.vow.complete(node.revision)
        node.heard_revision = primary.revision
        return True

    # Promoting

    async def run_blocking(self, call: Callable[[], T]) -> T:
        await self.between()
        return call()

    def promotion(self, name: str, dry_run: bool = False, accept_loss: bool = False) -> AsyncIterator[PromotionStep]:
        node = self[name]
        return promote(
            node,
            self.register,
            lambda address: SimPeer(self, node, address),
            self.env,
            self.run_blocking,
            dry_run=dry_run,
            accept_loss=accept_loss,
        )

    async def promote(self, name: str, dry_run: bool = False, accept_loss: bool = False) -> list[PromotionStep]:
        """Promote a node and return all steps. Raises what the promotion raises; a kill leaves the node dead."""
        try:
            return [step async for step in self.promotion(name, dry_run, accept_loss)]
        except Killed:
            self[name].kill()
            raise
