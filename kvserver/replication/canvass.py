"""What a candidate finds out by asking: the register on a thread, the other nodes all at once, each answer checked and kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol, TypeVar

from kvserver.base.errors import KvError
from kvserver.base.register import EpochRecord, NodeRecord, PolicyNote, Register
from kvserver.base.types import Epoch
from kvserver.replication import ballot
from kvserver.replication.ballot import Answer
from kvserver.replication.messages import NodeIdentity
from kvserver.replication.peer import Peer, Peers

T = TypeVar("T")

_GRACE_S = 1.0
"""What a peer that keeps its time needs beyond the time that it was given."""


class RunBlocking(Protocol):
    """Makes a call that blocks on another thread, as ``asyncio.to_thread`` does."""

    def __call__(self, call: Callable[[], T], /) -> Awaitable[T]:
        """Return what the call returns."""


class Canvass:
    """Belongs to the event loop and to one attempt at a promotion."""

    def __init__(self, me: NodeIdentity, register: Register, peers: Peers, run_blocking: RunBlocking, timeout_s: float) -> None:
        self.records: list[EpochRecord] = []
        """The epochs, oldest first, as they were read last."""
        self.notes: list[PolicyNote] = []
        self.answers: dict[str, Answer] = {}
        """What each other node answered last, by its name."""
        self._me = me
        self._register = register
        self._peers = peers
        self._run_blocking = run_blocking
        self._timeout_s = timeout_s
        self._nodes: dict[str, NodeRecord] = {}

    async def read_register(self) -> None:
        """Read all of the register. Raises KvError, OSError."""
        self.records = await self._run_blocking(self._register.records)
        nodes = await self._run_blocking(self._register.nodes)
        self.notes = await self._run_blocking(self._register.notes)
        self._nodes = {node.name: node for node in nodes if node.name != self._me.name}

    async def knows_later(self, epoch: Epoch) -> bool:
        """Say whether an epoch behind a primary's own is claimed: who has promised to obey that one follows it no more."""
        try:
            await self.read_register()
        except (KvError, OSError):
            return False
        return bool(self.records) and self.records[-1].epoch.number > epoch.number

    async def claim(self, epoch: Epoch, now_ms: int) -> None:
        """Claim an epoch for this node. Raises FileExistsError, KvError, OSError."""
        node = NodeRecord(self._me.name, self._me.node_id, self._me.address)
        await self._run_blocking(lambda: self._register.claim(epoch, node, now_ms))

    async def ask_how_far(self, members: Iterable[str]) -> None:
        """Ask every other node who it is and how far; nothing is promised by that."""

        async def ask(peer: Peer, node: NodeRecord) -> Answer:
            return ballot.from_description(node, self._me, await peer.describe(self._timeout_s))

        await self._ask_all(members, ask)

    async def ask_promises(self, members: Iterable[str], epoch: Epoch) -> None:
        """Ask every other node that has not promised yet to obey an epoch."""

        async def ask(peer: Peer, node: NodeRecord) -> Answer:
            return ballot.from_promised(node, self._me, await peer.promise(epoch, self._me, self._timeout_s))

        await self._ask_all(members, ask)

    def forget_answers(self) -> None:
        """Forget what was answered: what follows is asked anew."""
        self.answers = {}

    def silent(self) -> list[str]:
        """Say who did not answer, or does not count, and why."""
        return [f"{name}: {one.error}" for name, one in sorted(self.answers.items()) if one.error]

    async def _ask_all(self, members: Iterable[str], ask: Callable[[Peer, NodeRecord], Awaitable[Answer]]) -> None:
        for name in set(members) - self._nodes.keys() - {self._me.name}:
            self.answers[name] = Answer(NodeRecord(name, "", ""), error="it never joined")
        asked = [node for name, node in self._nodes.items() if name not in self.answers or not self.answers[name].promised]
        for answer in await asyncio.gather(*(self._ask(node, ask) for node in asked)):
            self.answers[answer.node.name] = answer

    async def _ask(self, node: NodeRecord, ask: Callable[[Peer, NodeRecord], Awaitable[Answer]]) -> Answer:
        if not node.address:
            return Answer(node, error="nobody knows where it is spoken to")
        peer = self._peers(node.address)
        try:
            return await asyncio.wait_for(ask(peer, node), self._timeout_s + _GRACE_S)
        except TimeoutError:
            return Answer(node, error=f"it did not answer within {self._timeout_s:g} s")
        except (KvError, OSError) as error:
            return Answer(node, error=error.message if isinstance(error, KvError) else str(error))
        finally:
            await peer.close()
