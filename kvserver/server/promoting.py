"""Promotions of this node: the node as a candidate, and one promotion at a time, which goes on when its caller hangs up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence

from kvserver.base.errors import Code, KvError, ReplicationError
from kvserver.base.policy import Policy
from kvserver.base.types import Epoch, LogEnd, Position, Role
from kvserver.engine.database import Database
from kvserver.replication.catch_up import catch_up
from kvserver.replication.messages import Description, NodeIdentity, Promised
from kvserver.replication.promotion import PromotionStep, promote
from kvserver.replication.vow import Vow
from kvserver.server.ports import MemberPort

LOG = logging.getLogger("kvserver.server")


class NodeCandidate:
    """This node, as its promotion sees it (``kvserver.replication.promotion.Candidate``). Belongs to the event loop."""

    def __init__(self, member: MemberPort) -> None:
        self._member = member

    @property
    def identity(self) -> NodeIdentity:
        """Who it is."""
        return self._member.identity()

    @property
    def vow(self) -> Vow:
        """What it has promised."""
        return self._member.vow

    def describe(self) -> Description:
        """Say which part it plays, and in which state it is."""
        return self._member.parts.describe()

    def end(self) -> LogEnd:
        """Return where its log durably ends."""
        return self._database().log_end()

    def policies(self) -> Sequence[Policy]:
        """Return all policies that must hold for the newest revision of its log."""
        return self._database().policies()

    def heard(self) -> tuple[int, int]:
        """Return the highest durable revision heard of the primary, and how many milliseconds ago that was."""
        said = self._member.parts.describe()
        return said.heard, max(0, self._member.world.env.clock.now_ms() - said.heard_ms) if said.heard_ms else 0

    async def promise(self, epoch: Epoch) -> Promised:
        """Do what it does when another node asks for its promise; follow nobody until the promotion has ended."""
        member = self._member
        async with member.changing:
            if member.life is not None and member.life.role is Role.PRIMARY:  # a fenced one: only a follower takes others' bytes
                await member.become(Role.FOLLOWER, why="it was fenced, and is to be promoted")
        await member.parts.stand_still()
        return await member.promise(epoch, self.identity)

    async def catch_up(self, address: str, end: LogEnd) -> None:
        """Fetch the log of another node up to this end."""
        parts = self._member.parts
        peer = parts.peer(address)
        try:
            await catch_up(parts.home, parts.floor, peer, end)
        finally:
            await peer.close()

    async def take_over(self, epoch: Epoch) -> Position:
        """Open the store as primary under a claimed epoch."""
        member = self._member
        async with member.changing:
            if member.vow.promised != epoch:
                what = f"it has promised to obey epoch {member.vow.promised.number} meanwhile"
                raise ReplicationError(Code.PROMOTION_REFUSED, what, "see who is primary with: kvctl cluster status")
            await member.become(Role.PRIMARY, epoch, why=f"it was promoted, under epoch {epoch.number}")
        return member.life.database.history.epochs[-1][1] if member.life is not None else self.end().position

    async def stand_down(self) -> None:
        """Go on as follower."""
        self._member.parts.move_again()

    def _database(self) -> Database:
        life = self._member.life
        if life is None:
            raise ReplicationError(Code.PROMOTION_REFUSED, "the node is changing its part", "try again in a moment")
        return life.database


class Promotions:
    """Belongs to the event loop."""

    def __init__(self, member: MemberPort) -> None:
        self._member = member
        self._running: asyncio.Task[None] | None = None

    @property
    def is_running(self) -> bool:
        """Say whether one is under way."""
        return self._running is not None and not self._running.done()

    async def promote(self, dry_run: bool, accept_loss: bool) -> AsyncIterator[PromotionStep]:
        """Make this node the primary; yield each step. Raises KvError. It goes on by itself when nobody listens any more."""
        if self.is_running:
            raise ReplicationError(
                Code.PROMOTION_REFUSED, "this node is being promoted already", "see how it goes with: kvctl cluster status"
            )
        steps: asyncio.Queue[PromotionStep | KvError | None] = asyncio.Queue()
        self._running = asyncio.create_task(self._run(dry_run, accept_loss, steps))
        while (step := await steps.get()) is not None:
            if isinstance(step, KvError):
                raise step
            yield step

    async def end(self) -> None:
        """End what is under way: the node is stopping."""
        if self._running is not None:
            self._running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._running

    async def _run(self, dry_run: bool, accept_loss: bool, steps: asyncio.Queue[PromotionStep | KvError | None]) -> None:
        member = self._member
        candidate = NodeCandidate(member)
        try:
            promotion = promote(
                candidate,
                member.register,
                member.parts.peer,
                member.world.env,
                asyncio.to_thread,
                dry_run=dry_run,
                accept_loss=accept_loss,
            )
            async for step in promotion:
                if not dry_run:
                    LOG.info("promotion, %s: %s", step.step, step.message)
                steps.put_nowait(step)
        except KvError as error:
            LOG.warning("promotion failed: %s", error.message)
            steps.put_nowait(error)
        except Exception:
            LOG.exception("a fault in a promotion")
            steps.put_nowait(KvError(Code.INTERNAL, "the promotion met a fault of the node's own", "see the node's log"))
        finally:
            steps.put_nowait(None)
