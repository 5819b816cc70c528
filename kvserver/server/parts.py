"""What belongs to a member beside its store: shipping its log, following another's, the policy's quorum, its promises.

as follower    the driver that follows; and shipping, for those who follow it or copy from it
as primary     shipping, and the quorum, which says what is replicated
always         the services between nodes and for operators
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable

import kvserver
from kvserver.base.errors import Code, KvError, ReplicationError
from kvserver.base.types import CREATION_REVISION, NO_EPOCH, Epoch, LogEnd, Position, Role
from kvserver.commit.replay import ReplayPipeline
from kvserver.engine.table_kit import rocks
from kvserver.replication import tail_compression
from kvserver.replication.checkpoint_source import CheckpointSource
from kvserver.replication.follower import Follower
from kvserver.replication.home import FollowerFloor
from kvserver.replication.messages import Description, Promised
from kvserver.replication.peer import Peer
from kvserver.replication.shipper import Shipping, ShippingOptions, Standing
from kvserver.replication.slots import SlotInfo
from kvserver.server.cluster_control import Control
from kvserver.server.content_check import ContentCheck
from kvserver.server.home import NodeHome
from kvserver.server.life import Life
from kvserver.server.policy_part import PolicyPart
from kvserver.server.ports import MemberPort
from kvserver.server.promoting import Promotions
from kvserver.server.replication_node import NodeReplication
from kvserver.service.cluster import ClusterService
from kvserver.service.methods import Method
from kvserver.service.replication import ReplicationService
from kvserver.transport.peer import GrpcPeer

LOG = logging.getLogger("kvserver.server")

COMPRESSIONS = (tail_compression.ZSTD, tail_compression.NONE)
"""Those that this node's peers can undo, best first."""

_NO_END = LogEnd(Position(NO_EPOCH, 0, b""), 0, 0)


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
            world.listener,
            compressions=COMPRESSIONS,
        )
        self.driver: Follower | None = None
        self.shipping: Shipping | None = None
        self.copies: CheckpointSource | None = None
        self.distrusted = ""
        """Why the node serves no more although it could; empty: it may."""
        self.policy = PolicyPart(member)
        self._heard: tuple[Epoch, str] = (NO_EPOCH, "")
        self._looking: asyncio.Future[None] | None = None
        self._pausing = asyncio.Lock()
        self._promising = 0
        self._standing_still = False
        self._known_primary = ""
        self._under_way: set[asyncio.Future[object]] = set()
        self._promotions = Promotions(member)
        self._control = Control(member, self._promotions)
        self._replication = NodeReplication(member)

    def methods(self) -> list[Method]:
        """Return what is served in every part, and between two."""
        return [*ReplicationService(self._replication).methods(), *ClusterService(self._control).methods()]

    def peer(self, address: str) -> Peer:
        """Return who speaks to another node; whoever asked closes it."""
        return GrpcPeer(address)

    # -- life -------------------------------------------------------------------------------------------------------

    async def start(self, life: Life) -> None:
        """Start what belongs to a part. Raises KvError, OSError."""
        vow = self._member.vow
        if life.role is Role.FOLLOWER and vow.promised == NO_EPOCH and holds_nothing(life.database):
            # A new folder, perhaps of a name that acknowledged before: durable before the first byte of a log is.
            await asyncio.to_thread(vow.note_lost, UNKNOWN_LOST)
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

    async def stop_serving(self) -> None:
        """Ship no more, and copy no more: the store is about to be closed."""
        shipping, self.shipping = self.shipping, None
        copies, self.copies = self.copies, None
        if copies is not None:
            await copies.close()
        if shipping is not None:
            shipping.close()

    async def stop(self) -> None:
        """Stop what belongs to the part."""
        driver, self.driver = self.driver, None
        if driver is not None:
            await driver.stop()
        self.policy.stop()
        await self.stop_serving()

    async def end(self) -> None:
        """End for good."""
        await self._promotions.end()

    def tick(self) -> None:
        """Do what time makes due."""
        self.policy.tick()
        life = self._member.life
        if life is not None and isinstance(life.database.pipeline, ReplayPipeline):
            life.database.pipeline.primary = self.primary_address()
            self._keep_vow(life)

    def _keep_vow(self, life: Life) -> None:
        """Obey the epoch that is followed, for good; count for a quorum only with all that may have been acknowledged."""
        vow, end = self._member.vow, life.database.log_end()
        heard = self._heard_revision(life)
        if self._was_empty and heard > CREATION_REVISION:  # a new node of this name: what the old one acknowledged is not here
            self._was_empty = False
            self._beside(lambda: vow.note_lost(heard))
        if end.position.epoch > vow.promised and vow.allows(end.position.epoch):
            self._beside(lambda: vow.promise(end.position.epoch))
        if not vow.is_complete and end.position.revision >= vow.needs_revision:
            self._beside(lambda: vow.complete(end.position.revision))

    def _beside(self, work: Callable[[], object]) -> None:
        """Do what blocks on a thread; what goes wrong there goes wrong again with the next tick."""
        task = asyncio.ensure_future(asyncio.to_thread(work))
        self._under_way.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Future[object]) -> None:
        self._under_way.discard(task)
        if not task.cancelled() and task.exception() is not None:
            LOG.warning("the file PROMISE cannot be written: %s", task.exception())

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
            return known.address if known.node_id != member.identity().node_id else ""
        if address and address != member.address:
            return address
        follow = member.cluster.follow
        return str(follow) if follow is not None else ""

    def heard_of(self, epoch: Epoch, primary: str) -> None:
        """Note who is primary under an epoch, as another node said."""
        if primary and epoch >= self._heard[0]:
            self._heard = epoch, primary

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
        return Standing(current, member.vow.promised, database.marks.visible, archived, self.primary_address(), follows)

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

    # -- promises and descriptions ----------------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def not_following(self) -> AsyncIterator[None]:
        """Follow nobody while the block runs: what is under way is taken to its end first."""
        driver = self.driver
        if driver is not None:
            await driver.pause()
        try:
            yield
        finally:
            if driver is not None and driver is self.driver and not self._standing_still:
                driver.resume()

    async def stand_still(self) -> None:
        """Follow nobody until ``move_again``: this node is about to become primary."""
        self._standing_still = True
        if self.driver is not None:
            await self.driver.pause()

    def move_again(self) -> None:
        """Follow again."""
        self._standing_still = False
        if self.driver is not None:
            self.driver.resume()

    def promised(self, given: bool) -> Promised:
        """Return the answer to whoever asked for a promise."""
        member, life = self._member, self._member.life
        assert life is not None, "it is open while it promises"
        end = life.database.log_end()
        vow = member.vow
        return Promised(given, member.identity(), end, vow.promised, vow.is_complete, self._heard_revision(life))

    def _heard_revision(self, life: Life) -> int:
        if life.role is Role.PRIMARY:
            return life.database.log_end().position.revision
        return self.driver.marks.durable if self.driver is not None else 0

    def describe(self) -> Description:
        """Say who the node is, which part it plays and how far it is."""
        member, life = self._member, self._member.life
        now_ms = member.world.env.clock.now_ms()
        promised = member.vow.promised
        if life is None:
            empty = NO_EPOCH
            state, reason = ("CHANGING", "the store is closed while the node changes its part")
            return Description(
                member.identity(), "none", state, reason, empty, promised, _NO_END, 0, 0, 0, 0, "", "", kvserver.__version__
            )
        database = life.database
        marks, driver = database.marks, self.driver
        if life.role is Role.PRIMARY:
            state, reason = ("FENCED", member.fenced) if member.fenced else ("PRIMARY", "")
        elif driver is not None:
            state, reason = driver.state.value, driver.reason
        else:
            state, reason = "CONNECTING", ""
        heard = self._heard_revision(life)
        is_primary = life.role is Role.PRIMARY
        return Description(
            identity=member.identity(),
            role=life.role.value,
            state=state,
            reason=self.distrusted or reason,
            epoch=database.history.current,
            promised=promised,
            end=database.log_end(),
            applied=marks.applied,
            visible=marks.visible,
            heard=heard,
            heard_ms=now_ms if is_primary else driver.heard_ms if driver is not None else 0,
            follows=driver.source if driver is not None else "",
            primary=self.primary_address(),
            server_version=kvserver.__version__,
            lag_revisions=0 if is_primary else max(0, heard - marks.applied),
            lag_ms=database.lag_ms(),
            lag_bytes=driver.marks.pending_bytes if driver is not None else 0,
        )

    def _distrust(self, why: str) -> None:
        """Serve no more: this node's content cannot be relied on."""
        LOG.critical("serves no more: %s; fetch it anew with: kvctl reinit %s", why, self._member.identity().name)
        self.distrusted = why
        self._member.serve_nothing()

    def raise_distrusted(self) -> None:
        """Raise KvError where the node does not trust its own content."""
        if self.distrusted:
            raise KvError(Code.CORRUPTION, self.distrusted, f"fetch it anew with: kvctl reinit {self._member.identity().name}")
