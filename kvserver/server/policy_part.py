"""The policy on a primary: who acknowledges what, whether the quorum is waited for, and what the register says about that."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from kvserver.base.cluster_events import AcknowledgementSuspect, QuorumChanged, QuorumLost, QuorumMet
from kvserver.base.errors import Code, ReplicationError
from kvserver.base.policy import make_policy
from kvserver.commit.pipeline import CommitPipeline
from kvserver.commit.requests import SetPolicy
from kvserver.replication.messages import Ack
from kvserver.replication.policy_guard import PolicyGuard
from kvserver.replication.quorum import AckVerdict, DegradeState, Quorum
from kvserver.replication.shipper import Shipping
from kvserver.server.life import Life
from kvserver.server.ports import MemberPort

LOST_AFTER_TICKS = 2
"""What is durable and not shown for so many seconds waits for members that do not acknowledge."""


class PolicyPart:
    """Belongs to the event loop."""

    def __init__(self, member: MemberPort) -> None:
        self._member = member
        self._degrade = DegradeState()
        self._guard: PolicyGuard | None = None
        self._stop_observing: Callable[[], None] = lambda: None
        self._stuck_at = 0
        self._stuck_ticks = 0
        self._is_lost = False

    @property
    def is_degraded(self) -> bool:
        """Say whether the quorum is given up for now."""
        return self._degrade.degraded

    def lead(self, life: Life, shipping: Shipping, makes_cluster: bool) -> None:
        """Begin to count acknowledgements, as the primary of a new epoch."""
        member, database = self._member, life.database
        identity = member.identity()
        epoch, began = database.history.epochs[-1]
        with contextlib.suppress(ReplicationError):  # what is missing there is said when somebody wants to write a note
            self._degrade.read(member.watch.notes)
        quorum = Quorum(identity.name, identity.node_id, epoch, began.revision)
        assert isinstance(database.pipeline, CommitPipeline), "a primary commits"
        guard = self._guard = PolicyGuard(database.pipeline, quorum, self._degrade.degraded_under(epoch))
        shipping.on_ack = self._on_ack
        shipping.on_begins_anew = guard.forget
        self._stop_observing = database.observe(guard.consider)
        self._is_lost = False
        wanted = member.cluster
        if makes_cluster and wanted.members:
            database.submit(SetPolicy(make_policy(wanted.write_quorum, wanted.members)), lambda done: done)

    def stop(self) -> None:
        """Count nothing any more: the part ends."""
        self._stop_observing()
        self._stop_observing = lambda: None
        self._guard = None

    def forget(self, name: str) -> None:
        """Forget what a node acknowledged: it will not come back."""
        if self._guard is not None:
            self._guard.forget(name)

    def on_look(self) -> None:
        """Take in what the register says now."""
        with contextlib.suppress(ReplicationError):
            self._degrade.read(self._member.watch.notes)
        if self._guard is not None:
            degraded = self._degrade.degraded_under(self._guard.quorum.epoch)
            if self._guard.degraded != degraded:
                self._guard.set_degraded(degraded)

    def tick(self) -> None:
        """Say once that writes wait for members that do not acknowledge, and once that they do so again."""
        life, guard = self._member.life, self._guard
        if life is None or guard is None:
            return
        marks = life.database.marks
        waits = marks.visible < marks.durable and marks.visible == self._stuck_at
        self._stuck_at, self._stuck_ticks = marks.visible, self._stuck_ticks + 1 if waits else 0
        is_lost = self._stuck_ticks >= LOST_AFTER_TICKS
        if is_lost != self._is_lost:
            self._is_lost = is_lost
            self._member.world.listener(QuorumLost(str(guard.standing())) if is_lost else QuorumMet())

    async def note(self, degraded: bool, reason: str) -> None:
        """Give the quorum up or return to it: in the register first, then here. Raises KvError."""
        member, guard, life = self._member, self._guard, self._member.life
        if guard is None or life is None:
            raise ReplicationError(Code.FENCED, "this node is no primary", "ask the primary; see: kvctl cluster status")
        if not degraded and not guard.is_caught_up:
            what = f"the quorum has not caught up: {guard.standing_by_policy()}"
            raise ReplicationError(Code.POLICY_UNMET, what, "see how far the members are with: kvctl repl slots")
        await self._look(life)
        now_ms = member.world.env.clock.now_ms()
        note = self._degrade.next_note(life.database.history.current, member.identity().name, now_ms, degraded, reason)
        if note is None:
            return
        try:
            await asyncio.to_thread(member.register.add_note, note)
        except FileExistsError:
            what = "another note about the policy was written at the same time"
            raise ReplicationError(Code.REGISTER_UNAVAILABLE, what, "try again") from None
        # A candidate reads the notes behind its claim, and this primary the claims behind its note: one of them sees the other.
        await self._look(life)
        guard.set_degraded(degraded)
        member.world.listener(QuorumChanged(degraded, reason))

    async def _look(self, life: Life) -> None:
        """Read the register. Raises ReplicationError where it cannot be read, or holds a later claim than this primacy's."""
        watch = self._member.watch
        await watch.look()
        if watch.error:
            raise ReplicationError(Code.REGISTER_UNAVAILABLE, f"the register cannot be read: {watch.error}", "try again later")
        newest = watch.newest_claim()
        if newest is not None and newest.epoch.number > life.database.history.current.number:
            what = f"{newest.node or 'another node'} has claimed epoch {newest.epoch.number}"
            raise ReplicationError(Code.FENCED, what, "see who is primary with: kvctl cluster status")
        self._degrade.read(watch.notes)

    def _on_ack(self, name: str, node_id: str, ack: Ack) -> None:
        if self._guard is None:
            return
        verdict = self._guard.on_ack(name, node_id, ack)
        if verdict in (AckVerdict.LOWERED, AckVerdict.CONTESTED):
            self._member.world.listener(AcknowledgementSuspect(name, verdict.value))
