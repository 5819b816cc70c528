"""What belongs to a member beside its store: shipping its log, following another's, the policy's quorum, its promises.

as follower    the driver that follows; and shipping, for those who follow it or copy from it
as primary     shipping, and the quorum, which says what is replicated
always         the services between nodes and for operators
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator

from kvserver.base.errors import Code, KvError, ReplicationError
from kvserver.base.events import Event
from kvserver.base.replication_events import StateChanged
from kvserver.base.types import NO_EPOCH, Epoch, Role
from kvserver.commit.replay import ReplayPipeline
from kvserver.engine.table_kit import rocks
from kvserver.replication import tail_compression
from kvserver.replication.checkpoint_source import CheckpointSource
from kvserver.replication.follower import Follower
from kvserver.replication.home import FollowerFloor
from kvserver.replication.messages import Description, Promised
from kvserver.replication.peer import Peer
from kvserver.replication.shipper import Shipping, ShippingOptions, Standing
from kvserver.replication.slots import LOST, SlotInfo
from kvserver.replication.states import FollowerState
from kvserver.replication.waiting import to_the_end
from kvserver.server import cluster_figures, describing
from kvserver.server.cluster_control import Control
from kvserver.server.content_check import ContentCheck, ContentRounds
from kvserver.server.describing import heard_from_primary, heard_revision
from kvserver.server.home import NodeHome
from kvserver.server.life import Life
from kvserver.server.policy_part import PolicyPart
from kvserver.server.ports import MemberPort
from kvserver.server.probes import Check
from kvserver.server.promoting import Promotions
from kvserver.server.replication_node import NodeReplication
from kvserver.server.rewind_bases import RewindBases
from kvserver.server.vow_keeper import VowKeeper
from kvserver.service.cluster import ClusterService
from kvserver.service.methods import Method
from kvserver.service.replication import ReplicationService
from kvserver.transport.peer import GrpcPeer

LOG = logging.getLogger("kvserver.server")

COMPRESSIONS = (tail_compression.ZSTD, tail_compression.NONE)
"""Those that this node's peers can undo, best first."""


class Parts:
    """Belongs to the event loop."""

    def __init__(self, member: MemberPort) -> None:
        self._member = member
        world = member.world
        self.content = ContentCheck(lambda: member.life, world.listener, self._distrust)
        self.home = NodeHome(member, self.peer, self.content)
        self.floor = FollowerFloor(
            world.env,
            member.paths,
            rocks(world.config.failpoints),
            world.config.engine.tables,
            self._on_event,
            compressions=COMPRESSIONS,
        )
        self.driver: Follower | None = None
        self.shipping: Shipping | None = None
        self.copies: CheckpointSource | None = None
        self.bases: RewindBases | None = None
        self.distrusted = ""
        """Why the node serves no more although it could; empty: it may."""
        self.policy = PolicyPart(member)
        self._heard: tuple[Epoch, str] = (NO_EPOCH, "")
        self._looking: asyncio.Future[None] | None = None
        self._pausing = asyncio.Lock()
        self._promising = 0
        self._standing_still = False
        self._known_primary = ""
        self._transitions: Counter[tuple[str, str]] = Counter()
        self.samples: cluster_figures.Samples = {}
        """For ``/metrics``, as of the last tick; set whole."""
        self._keeper = VowKeeper(lambda: member.vow)
        self._rounds = ContentRounds(self.content, world.env.clock, member.cluster.content_check_h)
        self._promotions = Promotions(member)
        self._control = Control(member, self._promotions)
        self._replication = NodeReplication(member)

    def methods(self) -> list[Method]:
        """Return what is served in every part, and between two."""
        return [*ReplicationService(self._replication).methods(), *ClusterService(self._control).methods()]

    def peer(self, address: str) -> Peer:
        """Return who speaks to another node; whoever asked closes it."""
        return GrpcPeer(address)

    def _on_event(self, event: Event) -> None:
        """Count what the follower goes through, in all the lives of this process, and pass it on."""
        if isinstance(event, StateChanged) and event.old != event.new:
            self._transitions[event.old, event.new] += 1
        self._member.world.listener(event)

    @property
    def is_promoting(self) -> bool:
        """Say whether this node is being promoted."""
        return self._promotions.is_running

    # -- life -------------------------------------------------------------------------------------------------------

    async def start(self, life: Life) -> None:
        """Start what belongs to a part. Raises KvError, OSError."""
        if life.role is Role.FOLLOWER:
            await self._keeper.begin(life.database)
        self.serve_again(life)
        if life.role is Role.PRIMARY:
            assert self.shipping is not None, "a log is shipped before anybody acknowledges it"
            self.policy.lead(life, self.shipping)
        else:
            self.driver = Follower(self.home, self.floor)
            self.driver.start()

    def serve_again(self, life: Life) -> None:
        """Begin to ship the log of a store that was opened."""
        member = self._member
        cluster = member.cluster
        self.content.forget()
        self.shipping = Shipping(
            member.world.env,
            member.paths,
            life.database,
            member.identity(),
            lambda: life.database.history.epochs,
            lambda: self._standing(life),
            member.world.post,
            ShippingOptions(cluster.slot_max_bytes, cluster.tail_compression),
            member.world.listener,
        )
        self.shipping.on_higher_epoch = self._on_higher_epoch
        self.shipping.start()
        self.copies = CheckpointSource(member.world.env, member.paths, life.database, member.world.listener)
        self.copies.reserve = self.shipping.reserve
        # What is held is let go by whole segments: with fewer bytes than one each base would go as soon as there is another.
        segment_bytes = member.world.config.engine.wal.segment_bytes
        every_bytes = max(cluster.rewind_base_bytes, segment_bytes) if cluster.rewind_base_bytes else 0
        self.bases = RewindBases(member.world.env, member.paths, life.database, every_bytes, member.world.listener)
        if life.role is Role.FOLLOWER:
            self._tell_primary(life)
            life.database.observe(lambda: None if member.vow.is_complete else self._keep_vow(life))

    async def stop_serving(self) -> None:
        """Ship no more, and copy no more: the store is about to be closed."""
        shipping, self.shipping = self.shipping, None
        copies, self.copies = self.copies, None
        await self._keeper.rest()
        bases, self.bases = self.bases, None
        if bases is not None:
            await bases.stop()
        if copies is not None:
            await copies.close()
        if shipping is not None:
            shipping.close()

    async def stop(self) -> None:
        """Stop what belongs to the part."""
        driver, self.driver = self.driver, None
        if driver is not None:
            await driver.stop()
        self._standing_still = False  # whoever stood still does so no more, in whatever part
        self.policy.stop()
        await self._rounds.stop()
        await self.stop_serving()

    async def end(self) -> None:
        """End for good."""
        await self._promotions.end()

    def tick(self) -> None:
        """Do what time makes due."""
        self.policy.tick()
        life = self._member.life
        if life is not None and life.role is Role.FOLLOWER:
            self._tell_primary(life)
            self._keep_vow(life)
        elif life is not None and self.shipping is not None and not self._member.fenced:
            self._rounds.tick(self.shipping)
        if life is not None and self.bases is not None:
            self.bases.tick(self._held_by_all(life))
        self.samples = cluster_figures.samples(self._member, self._transitions, not self.policy.is_lost)

    def _keep_vow(self, life: Life) -> None:
        if life is self._member.life:
            self._keeper.tick(life.database, heard_from_primary(self._member))

    # -- who is primary ---------------------------------------------------------------------------------------------

    def primary_address(self) -> str:
        """Return where the primary is, as far as is known: by the newest word, of the register or of another node."""
        member = self._member
        if member.is_primary:
            return member.address
        begun = member.watch.newest_begun()
        epoch, address = self._heard
        known = member.watch.primary()
        if begun is not None and known is not None and begun.epoch.number >= epoch.number:
            return known.address if known.address != member.address else ""  # also a copy of this folder, to be told by name
        if address and address != member.address:
            return address
        follow = member.cluster.follow
        return str(follow) if follow is not None else ""

    def heard_of(self, epoch: Epoch, primary: str) -> None:
        """Note who is primary under an epoch, as another node said."""
        if primary and epoch >= self._heard[0]:
            self._heard = epoch, primary
            self._tell_primary(self._member.life)

    def _tell_primary(self, life: Life | None) -> None:
        """Have those who want to write told where they can."""
        if life is not None and isinstance(life.database.pipeline, ReplayPipeline):
            life.database.pipeline.primary = self.primary_address()

    def _on_higher_epoch(self, epoch: Epoch) -> None:
        """Another node knows a higher epoch: look at the register, which knows whether it has begun."""
        LOG.warning("another node knows of epoch %d, which is higher than this node's", epoch.number)
        self._looking = asyncio.ensure_future(self._member.watch.look())

    def _standing(self, life: Life) -> Standing:
        database, member = life.database, self._member
        archived = database.marks.archived
        if life.role is Role.FOLLOWER and self.driver is not None:
            archived = self.driver.marks.archived
        follows = self.driver.source if self.driver is not None else ""
        current = database.history.current
        held_by_all = self.bases.held_by_all if self.bases is not None else 0
        return Standing(
            current, member.vow.promised, database.marks.visible, archived, self.primary_address(), follows, held_by_all
        )

    def _held_by_all(self, life: Life) -> int:
        """Return what every node that follows the primary has durably, and the archive; 0: nothing is known of it."""
        if life.role is Role.FOLLOWER:
            following = self.driver is not None and self.driver.state in (FollowerState.STREAMING, FollowerState.CATCHUP_STREAM)
            return self.driver.marks.held_by_all if self.driver is not None and following else 0
        marks = life.database.marks
        held = {slot.name: slot.durable_revision for slot in self.slots() if slot.state != LOST}
        members = {name for policy in life.database.policies() for name in policy.members} - {self._member.identity().name}
        every = [marks.visible, *held.values(), *(0 for name in members if name not in held)]
        return min(every if self._member.world.config.archive is None else [*every, marks.archived])

    # -- the policy -------------------------------------------------------------------------------------------------

    @property
    def is_degraded(self) -> bool:
        """Say whether the policy's quorum is given up for now."""
        return self.policy.is_degraded

    async def note_policy(self, degraded: bool, reason: str) -> None:
        """Give the quorum up or return to it. Raises KvError."""
        await self.policy.note(degraded, reason)

    def on_look(self) -> None:
        """Take in what the register says now."""
        self.policy.on_look()
        self._tell_primary(self._member.life)
        known = self.primary_address()
        if self.driver is not None and known != self._known_primary:
            self.driver.wake()
        self._known_primary = known

    # -- who follows ------------------------------------------------------------------------------------------------

    def slots(self) -> list[SlotInfo]:
        """Return who is shipped the log."""
        return self.shipping.slots() if self.shipping is not None else []

    def drop_slot(self, name: str) -> None:
        """Let go of what is held for a follower. Raises KvError."""
        if self.shipping is None:
            raise ReplicationError(Code.FENCED, "the node is changing its part", "try again in a moment")
        self.shipping.drop_slot(name)
        self.policy.forget(name)

    @property
    def newest_base(self) -> int:
        """Return the revision of the newest checkpoint that can be gone back to; 0: there is none."""
        return self.bases.newest_revision if self.bases is not None else 0

    # -- promises and descriptions ----------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def not_following(self) -> AsyncIterator[None]:
        """Follow nobody while the block runs: what is under way is taken to its end first. Not to be cancelled."""
        self._promising += 1
        try:
            await self._pause()
            yield
        finally:
            self._promising -= 1
            self._go_on()

    async def stand_still(self) -> None:
        """Follow nobody until ``move_again``: this node is about to become primary."""
        self._standing_still = True
        await to_the_end(self._pause())

    def move_again(self) -> None:
        """Follow again."""
        self._standing_still = False
        self._go_on()

    async def _pause(self) -> None:
        """Return when the log's end stands still, whoever else has asked for that at the same time."""
        async with self._pausing:
            if self.driver is not None:
                await self.driver.pause()

    def _go_on(self) -> None:
        if self.driver is not None and not self._standing_still and not self._promising:
            self.driver.resume()

    def promised(self, given: bool) -> Promised:
        """Return the answer to whoever asked for a promise."""
        member, life = self._member, self._member.life
        assert life is not None, "it is open while it promises"
        end = life.database.log_end()
        vow, current = member.vow, life.database.history.current
        highest = max(vow.promised, current) if life.role is Role.PRIMARY else vow.promised
        return Promised(given, member.identity(), end, highest, vow.is_complete, heard_revision(member))

    def describe(self) -> Description:
        """Say who the node is, which part it plays and how far it is."""
        return describing.describe(self._member)

    def checks(self) -> list[Check]:
        """Return what decides, beside the store, whether requests should be sent here. Safe on any thread."""
        return describing.checks(self._member)

    def warnings(self) -> list[str]:
        """Return what an operator of this node should know, one sentence each."""
        return describing.warnings(self._member)

    # -- content that cannot be relied on -----------------------------------------------------------------------------

    def _distrust(self, why: str) -> None:
        """Serve no more: this node's content cannot be relied on."""
        LOG.critical("serves no more: %s; fetch it anew with: kvctl reinit %s", why, self._member.identity().name)
        self.distrusted = why
        self._member.serve_nothing()

    def on_prepared(self) -> None:
        """Note that a store was exchanged, or a part of it: what was copied anew may be relied on again."""
        if self.driver is not None and self.driver.state is FollowerState.RESTORING:
            self.distrusted = ""

    def raise_distrusted(self) -> None:
        """Raise KvError where the node does not trust its own content."""
        if self.distrusted:
            raise KvError(Code.CORRUPTION, self.distrusted, f"fetch it anew with: kvctl reinit {self._member.identity().name}")
