"""The policy on a primary: who acknowledges what, whether the quorum is waited for, and what the register says about that.

**Giving the quorum up** is safe against a candidate only in this order: the note, then a look at the claims, then to do without.
A candidate reads the notes behind its claim, so one of the two sees the other. **Returning to it** goes the other way: first the
quorum is waited for again, then the note, because whoever reads that relies on the quorum alone. What a look at the register
finds by itself follows the same rules: a note counts from the look on that began when it was known already, and where no later
claim is found.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from kvserver.base.cluster_events import AcknowledgementSuspect, QuorumChanged, QuorumLost, QuorumMet
from kvserver.base.errors import Code, ReplicationError
from kvserver.base.policy import make_policy
from kvserver.base.register import EpochRecord
from kvserver.base.types import CREATION_REVISION, Epoch
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
        self._confirmed = False
        """The newest note was known when the last look at the register began."""
        self._returns = False
        """Somebody wanted to return to the quorum. Until it is given up anew nothing is done without it, whatever the register
        says now: a note whose writing failed may be there a moment later."""
        self._stuck_at = 0
        self._stuck_ticks = 0
        self.is_lost = False
        """Writes wait for members that do not acknowledge, and that was said."""

    @property
    def is_degraded(self) -> bool:
        """Say whether the quorum is given up for now."""
        return self._degrade.degraded

    def lead(self, life: Life, shipping: Shipping) -> None:
        """Begin to count acknowledgements, as the primary of a new epoch. Raises KvError.

        Where the register could not be read behind the begin of the epoch, what it said before may have been taken back since:
        the quorum is waited for until it can be read.
        """
        member, database = self._member, life.database
        identity = member.identity()
        epoch, began = database.history.epochs[-1]
        self._returns = False
        quorum = Quorum(identity.name, identity.node_id, epoch, began.revision)
        assert isinstance(database.pipeline, CommitPipeline), "a primary commits"
        guard = self._guard = PolicyGuard(database.pipeline, quorum, self._may_do_without(epoch))
        shipping.on_ack = self._on_ack
        shipping.on_begins_anew = guard.forget
        self._stop_observing = database.observe(guard.consider)
        self.is_lost = False
        wanted = member.cluster
        if wanted.members and database.marks.assigned <= CREATION_REVISION:
            # The first commit of all, before any client's: so a start that dies before it is durable is made up for by the next.
            policy = database.submit(SetPolicy(make_policy(wanted.write_quorum, wanted.members)), lambda done: done)
            if policy.done:
                policy.answer()  # refused: nothing must be written without it

    def stop(self) -> None:
        """Count nothing any more: the part ends."""
        self.is_lost = False
        self._stop_observing()
        self._stop_observing = lambda: None
        self._guard = None

    def forget(self, name: str) -> None:
        """Forget what a node acknowledged: it will not come back."""
        if self._guard is not None:
            self._guard.forget(name)

    def on_look(self) -> None:
        """Take in what the register says now."""
        known, guard = self._degrade.newest, self._guard
        with contextlib.suppress(ReplicationError):  # what is missing there is said when somebody wants to write a note
            self._degrade.read(self._member.watch.notes)
        self._confirmed = self._degrade.newest == known
        if guard is None:
            return
        if guard.degraded and not self._degrade.degraded_under(guard.quorum.epoch):
            guard.set_degraded(False)
        elif not guard.degraded and self._may_do_without(guard.quorum.epoch):
            guard.set_degraded(True)

    def _may_do_without(self, epoch: Epoch) -> bool:
        """Say whether a note of the register, as it was looked at last, is leave for a primacy to do without the quorum."""
        is_read = self._confirmed and not self._member.watch.error
        return is_read and not self._returns and self._degrade.degraded_under(epoch) and self._later_claim(epoch) is None

    def _later_claim(self, epoch: Epoch) -> EpochRecord | None:
        newest = self._member.watch.newest_claim()
        return newest if newest is not None and newest.epoch.number > epoch.number else None

    def tick(self) -> None:
        """Say once that writes wait for members that do not acknowledge, and once that they do so again."""
        life, guard = self._member.life, self._guard
        if life is None or guard is None or self._member.fenced:
            return
        marks = life.database.marks
        waits = marks.visible < marks.durable and marks.visible == self._stuck_at
        self._stuck_at, self._stuck_ticks = marks.visible, self._stuck_ticks + 1 if waits else 0
        is_lost = self._stuck_ticks >= LOST_AFTER_TICKS
        if is_lost != self.is_lost:
            self.is_lost = is_lost
            self._member.world.listener(QuorumLost(str(guard.standing())) if is_lost else QuorumMet())

    async def note(self, degraded: bool, reason: str) -> None:
        """Give the quorum up, in the register first, then here; or return to it, here first. Raises KvError.

        Where returning fails half-way the quorum is waited for all the same; it can be returned to again, or given up.
        """
        member, guard, life = self._member, self._guard, self._member.life
        if guard is None or life is None:
            raise ReplicationError(Code.FENCED, "this node is no primary", "ask the primary; see: kvctl cluster status")
        was_degraded = guard.degraded
        if not degraded:
            if not guard.is_caught_up:
                what = f"the quorum has not caught up: {guard.standing_by_policy()}"
                raise ReplicationError(Code.POLICY_UNMET, what, "see how far the members are with: kvctl repl slots")
            self._returns = True
            guard.set_degraded(False)
        await self._look(life)
        now_ms = member.world.env.clock.now_ms()
        note = self._degrade.next_note(life.database.history.current, member.identity().name, now_ms, degraded, reason)
        if note is None and was_degraded == degraded:
            return
        if note is not None:
            try:
                await asyncio.to_thread(member.register.add_note, note)
            except FileExistsError:
                what = "another note about the policy was written at the same time"
                raise ReplicationError(Code.REGISTER_UNAVAILABLE, what, "try again") from None
        if degraded:
            await self._look(life)  # a claim may have come before the note, and its candidate not have seen it
            self._returns = False
            guard.set_degraded(True)
        else:
            await member.watch.look()  # so that what is shown is what holds
        member.world.listener(QuorumChanged(degraded, reason))

    async def _look(self, life: Life) -> None:
        """Read the register. Raises ReplicationError where it cannot be read, or holds a later claim than this primacy's."""
        watch = self._member.watch
        await watch.look()
        if watch.error:
            raise ReplicationError(Code.REGISTER_UNAVAILABLE, f"the register cannot be read: {watch.error}", "try again later")
        later = self._later_claim(life.database.history.current)
        if later is not None:
            what = f"{later.node or 'another node'} has claimed epoch {later.epoch.number}"
            raise ReplicationError(Code.FENCED, what, "see who is primary with: kvctl cluster status")
        self._degrade.read(watch.notes)

    def _on_ack(self, name: str, node_id: str, ack: Ack) -> None:
        if self._guard is None:
            return
        verdict = self._guard.on_ack(name, node_id, ack)
        if verdict in (AckVerdict.LOWERED, AckVerdict.CONTESTED):
            self._member.world.listener(AcknowledgementSuspect(name, verdict.value))
