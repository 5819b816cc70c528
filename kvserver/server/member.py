"""A node of a cluster: which part it plays now, and how it changes that.

A node has one ``Life`` at a time: its store, open as primary or as follower, and what stands on it. Everything that changes the
part goes through here, one change at a time (``changing``):

    start      the register decides (``kvserver.server.roles``)
    promotion  a follower claims the next epoch, and its store is opened again as primary (``kvserver.server.promoting``)
    promise    another node wants to be primary: from now on lower epochs are refused, durably. A primary that promises is
               fenced before it answers: it acknowledges nothing any more, and says where its log ends for good
    deposed    the register, or another node, knows of a newer epoch that has begun: the store is opened again as follower
    halted     the register has another epoch of this one's number: two nodes hold it for theirs. It takes no writes, and says so
    reopen     a follower replaces its store or a part of it (rewind, a new copy)

Between two lives the node says so: calls of clients are answered NOT_SERVING, those of other nodes as far as they can be. gRPC
stays up all the while.

Two facts make a change safe whatever happens in the middle of it: what a life acknowledged is on disk when it ends, and a part is
never remembered, but decided anew at each start. A change that was begun is carried out to its end, whoever hangs up meanwhile:
half of one would leave a node without a store, or a store that nobody closes. Where a store cannot be closed, or not be opened as
a follower's, or where its log has failed, nothing that is left here could be relied on, and the process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from kvserver.archive.open_store import open_store
from kvserver.base.cluster_events import PartChanged
from kvserver.base.errors import Code, KvError, NotPrimary, NotServing, ReplicationError
from kvserver.base.paths import DataPaths
from kvserver.base.register import NodeRecord, Register
from kvserver.base.types import Epoch, Identity, Role
from kvserver.engine.swap import discard_incoming
from kvserver.replication.messages import NodeIdentity, Promised
from kvserver.replication.register_records import Founded
from kvserver.replication.store_register import StoreRegister
from kvserver.replication.vow import Vow
from kvserver.replication.waiting import to_the_end
from kvserver.server.config import Address, ClusterConfig
from kvserver.server.founding import find_register, reached_at, read_identity
from kvserver.server.life import Birth, Life, World
from kvserver.server.parts import Parts
from kvserver.server.probes import Check
from kvserver.server.promising import give_promise
from kvserver.server.register_watch import RegisterWatch, RememberedRegister
from kvserver.server.roles import Beginning, decide
from kvserver.service.methods import Method

LOG = logging.getLogger("kvserver.server")


class Member:
    """Belongs to the event loop."""

    def __init__(self, world: World, on_life: Callable[[Life | None], None]) -> None:
        assert world.config.cluster is not None, "a member has a cluster"
        self.world = world
        self.cluster: ClusterConfig = world.config.cluster
        self.paths = DataPaths(world.config.data_dir)
        self.life: Life | None = None
        self.address = ""
        """Where other nodes reach this one."""
        self.fenced = ""
        """Why the life, opened as primary, takes no writes any more; empty while it does."""
        self.changing = asyncio.Lock()
        self._on_life = on_life
        self._founded: Founded | None = None
        self._kept: Identity | None = None
        """What the folder is; None: nothing yet."""
        self._ended: Life | None = None
        self._part = "none"
        self._is_undecided = False
        """It began as follower because the register could not be read."""
        self._settling: asyncio.Task[None] | None = None
        self.is_stopping = False
        """It ends for good: nothing is opened any more."""
        self.parts = Parts(self)

    # -- who it is --------------------------------------------------------------------------------------------------

    @property
    def has_failed(self) -> bool:
        """Say whether the log failed."""
        return any(life is not None and life.has_failed for life in (self.life, self._ended))

    @property
    def is_primary(self) -> bool:
        """Say whether it takes writes."""
        return self.life is not None and self.life.role is Role.PRIMARY and not self.fenced

    def identity(self) -> NodeIdentity:
        """Return who it is."""
        kept = self._kept
        name = kept.node_name if kept is not None else self.world.config.engine.node_name
        cluster_id = self._founded.cluster_id if self._founded is not None else b""
        register_id = self._founded.id if self._founded is not None else ""
        return NodeIdentity(cluster_id, name, kept.node_id if kept is not None else "", self.address, register_id)

    def me(self) -> NodeRecord:
        """Return what the register is told of it."""
        identity = self.identity()
        return NodeRecord(identity.name, identity.node_id, self.address)

    # -- life -------------------------------------------------------------------------------------------------------

    async def start(self, listen: Address) -> None:
        """Find the cluster, and begin in the part that the register says. Raises KvError."""
        env = self.world.env
        self.address = reached_at(self.cluster, listen)
        self._kept = await asyncio.to_thread(read_identity, env, self.paths)
        self._founded = await find_register(env, self.cluster, self._kept)
        self.register = StoreRegister(open_store(self.cluster.register_url, env.fs), self._founded, env)
        self.watch = RegisterWatch(self.register, self._on_look)
        try:
            self.vow = await asyncio.to_thread(Vow.open, env, self.paths)
            await self.watch.start()
            async with self.changing:
                begins = self._beginning()
                LOG.info("begins as %s: %s", begins.role.value, begins.why)
                await self._begin_first(begins)
        except BaseException:
            await self.watch.stop()
            self.register.close()
            raise

    def _beginning(self) -> Beginning:
        """Return the part to begin with. Raises ReplicationError where nothing says which."""
        if self.watch.looked:
            node_id = self._kept.node_id if self._kept is not None else ""
            return decide(self.watch.records, node_id, self.vow.promised, self.cluster.follow is not None)
        if self._kept is None:
            raise ReplicationError(
                Code.REGISTER_UNAVAILABLE,
                f"the register {self.register.url} cannot be read: {self.watch.error}",
                "a new node needs it; see that it is up and reachable, and start again",
            )
        self._is_undecided = True
        return Beginning(Role.FOLLOWER, "the register cannot be read")

    async def _begin_first(self, begins: Beginning) -> None:
        """Begin; where another node has claimed the first epoch a moment ago, as follower after all."""
        try:
            await self.begin(begins.role, why=begins.why)
        except KvError:
            self._kept = await asyncio.to_thread(read_identity, self.world.env, self.paths)
            await self.watch.look()
            newest = self.watch.newest_claim()
            if begins.role is not Role.PRIMARY or newest is None or self._kept is None or newest.node_id == self._kept.node_id:
                raise
            why = f"{newest.node or 'another node'} was faster to claim epoch {newest.epoch.number}"
            LOG.info("begins as follower after all: %s", why)
            await self.begin(Role.FOLLOWER, why=why)

    async def begin(self, role: Role, claimed: Epoch | None = None, why: str = "") -> None:
        """Open the store for a part, and start what belongs to it. Raises KvError, OSError; then nothing is open."""
        life = Life(self.world, self._birth(role, claimed))
        await life.begin()
        self._kept = life.database.identity
        try:
            self.watch.me = self.me()
            self.watch.leads = life.database.history.current if role is Role.PRIMARY else None
            if role is Role.PRIMARY:
                # What was noted about the policy before this epoch began holds for it; and whoever wants to be the next primary
                # must find this one in the register.
                await self.watch.look()
                await asyncio.to_thread(discard_incoming, self.world.env, self.paths)
            self.fenced = ""
            self.life = life
            await self.parts.start(life)
            await life.start_archive()
        except BaseException:
            self.life = life
            await self._end()
            raise
        old, self._part = self._part, role.value
        self.world.listener(PartChanged(old, role.value, life.database.history.current.number, why))
        self._serve()
        self.watch.wake()

    def _birth(self, role: Role, claimed: Epoch | None = None) -> Birth:
        assert self._founded is not None, "the cluster is found first"
        # A follower claims nothing, so what the register said last will do where it cannot be reached.
        register: Register = self.register if role is Role.PRIMARY else RememberedRegister(self.register, self.watch)
        return Birth(
            role,
            lambda env, paths: register,
            self.register.kind,
            cluster_id=self._founded.cluster_id,
            claimed=claimed,
            node=self.me(),
            must_refetch=self.vow.note_lost,
            warnings=self.parts.warnings,
        )

    def _serve(self) -> None:
        """Have served what the life serves, unless there is none or its content cannot be relied on."""
        self._on_life(None if self.parts.distrusted else self.life)

    async def _end(self) -> None:
        """Close the store and stop what belongs to the part; nothing but the node's own services is served then."""
        life, self.life = self.life, None
        self._on_life(None)
        await self.parts.stop()
        await self._close(life)

    async def _close(self, life: Life | None) -> None:
        """Close the store of a life. Raises KvError where nothing may be opened any more; then the process ends."""
        if life is None:
            return
        self._ended = life
        try:
            await life.end()
        except Exception as error:
            self.world.on_fatal(f"the store cannot be closed: {error}")
            raise
        if life.has_failed:  # it was said, and nothing is read back from a disk that did not keep what it was given
            raise NotServing("the log has failed; the process is ending", Code.LOG_FAILED)

    async def stop(self) -> None:
        """End for good. A change that is under way ends first: it opens nothing any more."""
        self.is_stopping = True
        await self.parts.end()
        async with self.changing:
            await self.watch.stop()
            await self.parts.stop()
            life, self.life = self.life, None
            try:
                if life is not None:
                    self._ended = life
                    await life.end()
            finally:
                self.register.close()

    def end_calls(self) -> None:
        """End what callers wait for and may take hours."""
        if self.life is not None:
            self.life.end_calls()

    def methods(self) -> list[Method]:
        """Return what is served in every part, and between two."""
        return self.parts.methods()

    def tick(self) -> None:
        """Do what time makes due."""
        self.parts.tick()

    def checks(self) -> list[Check]:
        """Return what decides, beside the store, whether requests should be sent here. Safe on any thread."""
        return self.parts.checks()

    # -- changes ----------------------------------------------------------------------------------------------------

    async def become(self, role: Role, claimed: Epoch | None = None, why: str = "") -> None:
        """End this life and begin another; where that fails, go on as follower. Raises KvError, OSError. ``changing`` is held."""
        await to_the_end(self._become(role, claimed, why))

    async def _become(self, role: Role, claimed: Epoch | None, why: str) -> None:
        await self._end()
        if self.is_stopping:
            raise NotServing("the node is stopping")
        try:
            await self.begin(role, claimed, why)
        except Exception as error:
            LOG.error("cannot go on as %s: %s", role.value, error)
            if role is Role.FOLLOWER:
                self._give_up(error)
                raise
            await self._become(Role.FOLLOWER, None, f"it could not go on as {role.value}: {error}")
            raise

    async def reopen(self, prepare: Callable[[], None]) -> None:
        """Close the store, have it prepared on a thread, and open it again, as follower. Raises what ``prepare`` raises.

        Whoever waits for its turn may be cancelled: a promise holds ``changing`` and ends what is under way. From then on it is
        carried out to its end.
        """
        async with self.changing:
            if self.is_stopping:
                raise NotServing("the node is stopping")
            await to_the_end(self._reopen(prepare))

    async def _reopen(self, prepare: Callable[[], None]) -> None:
        life, self.life = self.life, None
        self._on_life(None)
        await self.parts.stop_serving()
        await self._close(life)
        try:
            await asyncio.to_thread(prepare)
            self.parts.on_prepared()
        finally:
            await self._begin_again()

    async def _begin_again(self) -> None:
        """Open the store as follower below a driver that goes on."""
        life = Life(self.world, self._birth(Role.FOLLOWER))
        try:
            await life.begin()
            self.life = life
            self.parts.serve_again(life)
        except Exception as error:
            self._give_up(error)
            raise
        self._serve()

    def _give_up(self, error: Exception) -> None:
        """End the process: the store cannot be opened, and somebody has to see why."""
        hint = error.hint if isinstance(error, KvError) and error.hint else "mend that, and start the node again"
        self.world.on_fatal(f"the store cannot be opened again: {error}; {hint}")

    async def promise(self, epoch: Epoch, candidate: NodeIdentity) -> Promised:
        """Refuse lower epochs from now on, and say where the log ends until the new one is followed. Raises KvError.

        A candidate that has stopped waiting changes nothing of it: what was begun is a promise, heard or not.
        """
        async with self.changing:
            return await to_the_end(give_promise(self, epoch, candidate))

    def serve_nothing(self) -> None:
        """Answer clients NOT_SERVING from now on, whatever the store could do."""
        self._on_life(None)

    def fence(self, error: KvError, why: str) -> None:
        """Acknowledge nothing any more. Again: for another reason, with another answer to those who write."""
        if self.life is None:
            return
        if why != self.fenced:
            LOG.warning("takes no writes any more: %s", why)
        self.fenced = why
        self.life.database.pipeline.fence(error)
        self.world.on_standing()

    # -- the register -----------------------------------------------------------------------------------------------

    def _on_look(self) -> None:
        """Draw the conclusions from what the register holds now."""
        self.parts.on_look()
        life, begun = self.life, self.watch.newest_begun()
        if life is None or self.is_stopping:
            return
        if life.role is Role.FOLLOWER:
            if self._is_undecided and not self.parts.is_promoting:
                self._is_undecided = False
                self._change(self._decide_late)
            return
        current = life.database.history.current
        twin = self.watch.twin_of(current)
        # Also where that node has this one's id: then a copy of this folder is in use, and it has gone on.
        if begun is not None and begun.epoch.number > current.number:
            self.depose(begun.epoch, begun.node)
        elif twin is not None and not self.fenced:
            why = f"the register has another epoch {current.number} than this node's, of {twin.node or 'another node'}"
            LOG.error("%s: two nodes hold one number for theirs; see: kvctl cluster history", why)
            self.fence(NotPrimary(), why)

    def depose(self, epoch: Epoch, node: str) -> None:
        """Go on as follower: a newer epoch has begun."""
        why = f"{node or 'another node'} is primary since epoch {epoch.number}"
        primary = self.watch.primary()
        self.fence(NotPrimary(primary.address if primary is not None else ""), why)
        self._change(lambda: self._step_down(why))

    def _change(self, change: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin a change that nobody waits for, unless one is under way."""
        if self._settling is None or self._settling.done():
            self._settling = asyncio.create_task(change())

    async def _step_down(self, why: str) -> None:
        async with self.changing:
            if self.life is None or self.life.role is not Role.PRIMARY or self.is_stopping:
                return
            LOG.warning("goes on as follower: %s", why)
            with contextlib.suppress(Exception):  # it was said, and the process ends
                await self.become(Role.FOLLOWER, why=why)

    async def _decide_late(self) -> None:
        """Begin as the register says, which could not be read before: a primary that was started meanwhile is one."""
        async with self.changing:
            if self.life is None or self.life.role is not Role.FOLLOWER or self.is_stopping or self.parts.is_promoting:
                return
            begins = self._beginning()
            if begins.role is Role.PRIMARY:
                LOG.info("goes on as primary, now that the register can be read: %s", begins.why)
                with contextlib.suppress(Exception):  # it was said, and it follows again
                    await self.become(Role.PRIMARY, why=begins.why)
