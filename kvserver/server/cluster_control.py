"""What an operator asks of a node of a cluster: how everybody is, who is to be primary, what the policy says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from kvserver.base.errors import Code, KvError, NotPrimary, ReplicationError
from kvserver.base.policy import make_policy
from kvserver.base.register import NodeRecord
from kvserver.base.types import Role
from kvserver.commit.requests import Committed, SetPolicy
from kvserver.engine.database import Database
from kvserver.replication.promotion import PromotionStep
from kvserver.server.ports import MemberPort
from kvserver.server.promoting import Promotions
from kvserver.service.cluster_views import ClusterView, HistoryView, NodeView, PolicyView, SlotView

LOOK_S = 0.5
DESCRIBE_S = 2.0
"""A node that says nothing for so long is told of as unreachable."""


class Control:
    """Does what the service Cluster asks for. Belongs to the event loop."""

    def __init__(self, member: MemberPort, promotions: Promotions) -> None:
        self._member = member
        self._promotions = promotions

    @property
    def database(self) -> Database | None:
        """The store that is open at this moment; None while there is none."""
        life = self._member.life
        return life.database if life is not None else None

    # -- how everybody is -------------------------------------------------------------------------------------------

    async def status(self, only_self: bool) -> ClusterView:
        """Ask all nodes that the register knows; one that does not answer in time is part of the answer."""
        member = self._member
        with contextlib.suppress(TimeoutError):  # a node that has just joined is in the register, and not in the last look
            await asyncio.wait_for(asyncio.shield(asyncio.ensure_future(member.watch.look())), LOOK_S)
        policy = self.policy()
        own = member.parts.describe()
        me = member.identity()
        nodes = [NodeView(me.name, me.address, own, is_self=True, is_member=me.name in policy.members)]
        if not only_self:
            others = [node for node in member.watch.nodes if node.node_id != me.node_id]
            nodes += await asyncio.gather(*(self._ask(node, policy) for node in others))
        nodes.sort(key=lambda node: node.name)
        return ClusterView(nodes, policy, member.register.url, tuple(self._warnings()))

    async def _ask(self, node: NodeRecord, policy: PolicyView) -> NodeView:
        is_member = node.name in policy.members
        peer = self._member.parts.peer(node.address)
        try:
            described = await peer.describe(DESCRIBE_S)
        except KvError as error:
            return NodeView(node.name, node.address, None, error.message, is_member=is_member)
        finally:
            await peer.close()
        if described.identity.node_id != node.node_id:
            found = described.identity.name or "a node without a store"
            return NodeView(node.name, node.address, None, f"{found} answers at its address", is_member=is_member)
        return NodeView(node.name, node.address, described, is_member=is_member)

    def _warnings(self) -> list[str]:
        member = self._member
        warnings = []
        if member.watch.error:
            warnings.append(f"The register cannot be read, so no node can become primary: {member.watch.error.rstrip('.')}.")
        if member.fenced:
            warnings.append(f"This node was primary and takes no writes any more: {member.fenced.rstrip('.')}.")
        return warnings

    async def history(self) -> HistoryView:
        """Return what the register holds."""
        await self._member.watch.look()
        watch = self._member.watch
        if watch.error:
            raise ReplicationError(
                Code.REGISTER_UNAVAILABLE, f"the register cannot be read: {watch.error}", "see that it is up and reachable"
            )
        return HistoryView(watch.records, watch.notes)

    # -- who is primary ---------------------------------------------------------------------------------------------

    def promote(self, dry_run: bool, accept_loss: bool) -> AsyncIterator[PromotionStep]:
        """Make this node the primary, step by step."""
        return self._promotions.promote(dry_run, accept_loss)

    async def reinit(self) -> None:
        """Throw this follower's copy away and begin to fetch a new one."""
        member = self._member
        if member.life is None or member.life.role is not Role.FOLLOWER or member.parts.driver is None:
            raise ReplicationError(
                Code.WRONG_PEER, "this node is no follower; its store is the one that others copy", "name a follower with -E"
            )
        member.parts.driver.reinit()

    # -- the policy -------------------------------------------------------------------------------------------------

    def policy(self) -> PolicyView:
        """Return the policy as this node knows it."""
        database = self.database
        policies = database.policies() if database is not None else []
        degraded = self._member.parts.is_degraded
        if not policies:
            return PolicyView(0, (), degraded)
        return PolicyView(policies[-1].write_quorum, policies[-1].members, degraded, policies[-1].revision)

    async def set_policy(self, write_quorum: int, members: tuple[str, ...]) -> int:
        """Change the policy by a commit; return its revision when the old and the new quorum have it."""
        policy = make_policy(write_quorum, members)
        database = self._primary()

        def revision(done: Committed) -> int:
            return done.revision or done.depends_on

        return await database.submit(SetPolicy(policy), revision)

    async def degrade(self, reason: str) -> None:
        """Wait for the quorum no more."""
        self._primary()
        await self._member.parts.note_policy(True, reason)

    async def end_degrade(self) -> None:
        """Return to the quorum."""
        self._primary()
        await self._member.parts.note_policy(False, "")

    def _primary(self) -> Database:
        database = self.database
        if database is None or not self._member.is_primary:
            raise NotPrimary(self._member.parts.primary_address())
        return database

    # -- who follows ------------------------------------------------------------------------------------------------

    def slots(self) -> Sequence[SlotView]:
        """Return who is shipped the log."""
        return self._member.parts.slots()

    async def drop_slot(self, name: str) -> None:
        """Let go of what is held for a follower."""
        self._member.parts.drop_slot(name)
