"""A node of a cluster: which part it plays now, and how it changes that.

A node has one ``Life`` at a time: its store, open as primary or as follower, and what stands on it. Everything that changes the
part goes through here, one change at a time (``changing``):

    start      the register decides (``kvserver.server.roles``)
    promotion  a follower claims the next epoch, and its store is opened again as primary (``kvserver.server.promoting``)
    promise    another node wants to be primary: from now on lower epochs are refused, durably. A primary that promises is
               fenced before it answers: it acknowledges nothing any more, and says where its log ends for good
    deposed    the register, or another node, knows of a newer epoch that has begun: the store is opened again as follower
    reopen     a follower replaces its store or a part of it (rewind, a new copy)

Between two lives the node says so: calls of clients are answered NOT_SERVING, those of other nodes as far as they can be. gRPC
stays up all the while.

Two facts make a change safe whatever happens in the middle of it: what a life acknowledged is on disk when it ends, and a part is
never remembered, but decided anew at each start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from kvserver.archive.open_store import open_store
from kvserver.base.errors import Code, KvError, NotPrimary, OpenRefused, ReplicationError
from kvserver.base.fs import read_file
from kvserver.base.identity_file import parse_identity
from kvserver.base.paths import DataPaths
from kvserver.base.register import NodeRecord, Register
from kvserver.base.types import Epoch, Identity, Role
from kvserver.engine.swap import discard_incoming
from kvserver.replication import store_register
from kvserver.replication.messages import NodeIdentity, Promised
from kvserver.replication.register_records import Founded
from kvserver.replication.store_register import StoreRegister
from kvserver.replication.vow import Vow
from kvserver.replication.waiting import to_the_end
from kvserver.server.config import Address, ClusterConfig
from kvserver.server.life import Birth, Life, World
from kvserver.server.parts import Parts
from kvserver.server.register_watch import RegisterWatch, RememberedRegister
from kvserver.server.roles import Beginning, decide
from kvserver.service.methods import Method

LOG = logging.getLogger("kvserver.server")

FOUNDED_WITHIN_S = 30.0
"""How long a new follower waits for somebody to make the register that it was told of."""

POLL_S = 0.5
SETTLE_S = 5.0
"""How long a primary that is fenced waits for what it has under way to come back from the log."""

_WILDCARDS = ("0.0.0.0", "::")


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
        self._settling: asyncio.Task[None] | None = None
        self._stopping = False
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
        self.address = str(self.cluster.advertise or listen)
        if self.cluster.advertise is None and listen.host in _WILDCARDS:
            hint = "say where they can, with --advertise HOST:PORT"
            raise OpenRefused(f"other nodes cannot reach this one at {listen}", hint)
        self._kept = await asyncio.to_thread(self._read_identity)
        self._founded = await self._find_register()
        store = open_store(self.cluster.register_url, self.world.env.fs)
        self.register = StoreRegister(store, self._founded, self.world.env)
        self.vow = await asyncio.to_thread(Vow.open, self.world.env, self.paths)
        self.watch = RegisterWatch(self.register, self._on_look)
        await self.watch.start()
        newest = self.watch.newest_claim()
        if self._kept is None and not self.watch.looked:
            raise ReplicationError(
                Code.REGISTER_UNAVAILABLE,
                f"the register {self.register.url} cannot be read: {self.watch.error}",
                "a new node needs it; see that it is up and reachable, and start again",
            )
        if self.watch.looked:
            node_id = self._kept.node_id if self._kept is not None else ""
            begins = decide(newest, node_id, self.vow.promised, self.cluster.follow is not None)
        else:
            begins = Beginning(Role.FOLLOWER, "the register cannot be read")
        LOG.info("begins as %s: %s", begins.role.value, begins.why)
        await self._begin_first(begins.role)

    async def _begin_first(self, role: Role) -> None:
        """Begin; where another node has claimed the first epoch a moment ago, as follower after all."""
        try:
            await self.begin(role)
        except KvError:
            await self.watch.look()
            newest = self.watch.newest_claim()
            if role is not Role.PRIMARY or newest is None or self._kept is None or newest.node_id == self._kept.node_id:
                raise
            LOG.info("begins as follower after all: %s was faster", newest.node)
            await self.begin(Role.FOLLOWER)

    async def begin(self, role: Role, claimed: Epoch | None = None) -> None:
        """Open the store for a part, and start what belongs to it. Raises KvError; then nothing is open."""
        birth = self._birth(role, claimed)
        is_new = self._kept is None
        life = Life(self.world, birth)
        try:
            await life.begin()
        finally:
            self._kept = await asyncio.to_thread(self._read_identity)
        if role is Role.PRIMARY:
            await self.watch.look()  # what was noted about the policy before this epoch began holds for it
            await asyncio.to_thread(discard_incoming, self.world.env, self.paths)
        self.fenced = ""
        self.life = life
        self.watch.me = self.me()
        try:
            await self.parts.start(life, is_new and role is Role.PRIMARY)
        except BaseException:
            await self.end()
            raise
        self._on_life(life)

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
        )

    async def end(self) -> None:
        """Close the store and stop what belongs to the part; nothing but the node's own services is served then."""
        life, self.life = self.life, None
        self._on_life(None)
        await self.parts.stop()
        if life is not None:
            self._ended = life
            await life.end()

    async def stop(self) -> None:
        """End for good."""
        self._stopping = True
        if self._settling is not None:
            self._settling.cancel()
        await self.parts.end()
        async with self.changing:
            await self.watch.stop()
            await self.parts.stop()
            if self.life is not None:
                self._ended = self.life
                await self.life.end()

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

    # -- changes ----------------------------------------------------------------------------------------------------

    async def become(self, role: Role, claimed: Epoch | None = None) -> None:
        """End this life and begin another; where that fails, go on as follower. Raises KvError. ``changing`` is held."""
        await self.end()
        try:
            await self.begin(role, claimed)
        except KvError as error:
            LOG.error("cannot go on as %s: %s", role.value, error.message)
            if role is Role.FOLLOWER:
                self.world.on_log_failure(error)
                raise
            await self.become(Role.FOLLOWER)
            raise

    async def reopen(self, prepare: Callable[[], None]) -> None:
        """Close the store, have it prepared on a thread, and open it again, as follower. Raises what ``prepare`` raises.

        Whoever waits for its turn may be cancelled: a promise holds ``changing`` and ends what is under way. From then on it is
        carried out to its end.
        """
        async with self.changing:
            await to_the_end(self._reopen(prepare))

    async def _reopen(self, prepare: Callable[[], None]) -> None:
        life, self.life = self.life, None
        self._on_life(None)
        await self.parts.stop_serving()
        if life is not None:
            await life.end()
        try:
            await asyncio.to_thread(prepare)
        finally:
            await self._begin_again()

    async def _begin_again(self) -> None:
        """Open the store as follower below a driver that goes on."""
        life = Life(self.world, self._birth(Role.FOLLOWER))
        try:
            await life.begin()
        except KvError as error:
            self.world.on_log_failure(error)
            raise
        self.life = life
        self.parts.serve_again(life)
        self._on_life(life)

    async def promise(self, epoch: Epoch, candidate: NodeIdentity) -> Promised:
        """Refuse lower epochs from now on, and say where the log ends until the new one is followed. Raises KvError."""
        async with self.changing:
            life = self.life
            if life is None:
                raise ReplicationError(Code.FENCED, "this node is changing its part", "ask again in a moment")
            if self._founded is None or candidate.cluster_id != self._founded.cluster_id:
                raise ReplicationError(Code.WRONG_PEER, "the candidate is of another cluster", "ask nodes of its own cluster")
            database = life.database
            own = database.history.current if life.role is Role.PRIMARY else None
            if own is not None and epoch <= own:
                return self.parts.promised(False)
            if own is not None and candidate.node_id != self.identity().node_id:
                self.fence(NotPrimary(candidate.address), f"{candidate.name} becomes primary under epoch {epoch.number}")
                await self._settled(life)
            async with self.parts.not_following():
                given = await asyncio.to_thread(self.vow.promise, epoch)
                return self.parts.promised(given)

    def serve_nothing(self) -> None:
        """Answer clients NOT_SERVING from now on, whatever the store could do."""
        self._on_life(None)

    def fence(self, error: KvError, why: str) -> None:
        """Acknowledge nothing any more."""
        if self.life is not None and not self.fenced:
            LOG.warning("takes no writes any more: %s", why)
            self.fenced = why
            self.life.database.pipeline.fence(error)

    async def _settled(self, life: Life) -> None:
        """Wait until what was under way is on disk: the log's end does not move behind this."""
        moved = asyncio.Event()
        stop = life.database.observe(moved.set)
        try:
            async with asyncio.timeout(SETTLE_S):
                while life.database.pipeline.unwritten:
                    moved.clear()
                    await moved.wait()
        finally:
            stop()

    # -- the register -----------------------------------------------------------------------------------------------

    def _on_look(self) -> None:
        """Draw the conclusions from what the register holds now."""
        life, begun = self.life, self.watch.newest_begun()
        self.parts.on_look()
        if life is None or begun is None or self._stopping:
            return
        newer = begun.epoch.number > life.database.history.current.number
        if life.role is Role.PRIMARY and newer and begun.node_id != self.identity().node_id:
            self.depose(begun.epoch, begun.node)

    def depose(self, epoch: Epoch, node: str) -> None:
        """Go on as follower: a newer epoch has begun."""
        why = f"{node or 'another node'} is primary since epoch {epoch.number}"
        primary = self.watch.primary()
        self.fence(NotPrimary(primary.address if primary is not None else ""), why)
        if self._settling is None or self._settling.done():
            self._settling = asyncio.create_task(self._step_down(why))

    async def _step_down(self, why: str) -> None:
        async with self.changing:
            if self.life is None or self.life.role is not Role.PRIMARY or self._stopping:
                return
            LOG.warning("goes on as follower: %s", why)
            await self.become(Role.FOLLOWER)

    async def _find_register(self) -> Founded:
        """Return what the register is; make it where this node makes the cluster. Raises KvError."""
        env, kept = self.world.env, self._kept
        store = open_store(self.cluster.register_url, env.fs)
        deadline = env.clock.monotonic() + FOUNDED_WITHIN_S
        try:
            while True:
                try:
                    founded = await asyncio.to_thread(store_register.look, store)
                except ReplicationError:
                    if kept is None or not kept.register.startswith(store_register.KIND_PREFIX):
                        raise
                    return Founded(kept.cluster_id, kept.register.removeprefix(store_register.KIND_PREFIX))
                if founded is None and kept is not None:
                    raise OpenRefused(*_not_the_register(kept, self.cluster.register_url))
                if founded is None and self.cluster.follow is None:
                    founded = await asyncio.to_thread(store_register.found, store, env)
                if founded is not None:
                    if kept is not None:
                        store_register.check_same(kept, founded)
                    return founded
                if env.clock.monotonic() > deadline:
                    raise ReplicationError(
                        Code.REGISTER_UNAVAILABLE,
                        f"{self.cluster.register_url} is no register yet",
                        "start the node to follow first, and see that both name the same register",
                    )
                await asyncio.sleep(POLL_S)
        finally:
            store.close()

    def _read_identity(self) -> Identity | None:
        if not self.world.env.fs.exists(self.paths.identity):
            return None
        return parse_identity(self.paths, read_file(self.world.env.fs, self.paths.identity))


def _not_the_register(kept: Identity, url: str) -> tuple[str, str]:
    if kept.register.startswith(store_register.KIND_PREFIX):
        return f"{url} is no register, but this node belongs to one", "see that it is mounted, or name the right address"
    return (
        "this node is alone, its register lies in its own folder",
        f"make it the first node of a cluster with: kvctl register move --data-dir DIR --to {url}",
    )
