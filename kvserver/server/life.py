"""One store, open in one part, with everything that stands on it: copies, the archive, the services.

A node of a cluster changes its part while its process goes on. It ends one life, which closes the store, and begins another one
on the same folder. A node that is alone has a single life, as long as its process.

    begin    open the store (recovery may take long, so on a thread), then what stands on it
    serve    ``methods`` is what the transport is handed
    end      in reverse: callers who wait are told, the archive and copies end, the store is closed
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import gc
import logging
from collections.abc import Callable, Sequence

from kvserver.base.environment import Environment
from kvserver.base.events import Listener
from kvserver.base.paths import DataPaths
from kvserver.base.register import NodeRecord, Register
from kvserver.base.types import Epoch, Role
from kvserver.engine.database import Database
from kvserver.engine.table_kit import FOLLOWER_NICENESS, rocks
from kvserver.server.archive_part import ArchivePart
from kvserver.server.config import ServeConfig
from kvserver.server.copies import Copies
from kvserver.service.admin import AdminService
from kvserver.service.archive import ArchiveService
from kvserver.service.kv import KvService
from kvserver.service.methods import Method
from kvserver.storage.memtable import make_spares

LOG = logging.getLogger("kvserver.server")

CLOSE_AFTER_FAILURE_S = 0.3

Post = Callable[[Callable[[], None]], None]


@dataclasses.dataclass(frozen=True, slots=True)
class World:
    """What every life of a process has in common."""

    env: Environment
    config: ServeConfig
    post: Post
    """Runs something on the event loop, from any thread."""
    listener: Listener
    on_log_failure: Callable[[BaseException], None]
    on_fatal: Callable[[str], None] = lambda why: None
    """Ends the process: what is open here cannot be relied on, for the reason given."""
    on_standing: Callable[[], None] = lambda: None
    """Called when the node takes no writes any more although it was primary."""


@dataclasses.dataclass(frozen=True, slots=True)
class Birth:
    """In which part a store is opened, and under which claim."""

    role: Role
    register: Callable[[Environment, DataPaths], Register]
    register_kind: str
    cluster_id: bytes | None = None
    """Of the cluster that a new folder becomes a node of; None: of a new one."""
    claimed: Epoch | None = None
    """The epoch that was claimed for this start already."""
    node: NodeRecord | None = None
    """What the register is told of the node, where there is more than one."""
    must_refetch: Callable[[int], None] = lambda revision: None
    """Told what a follower's log may lose of what was acknowledged; see ``Database.open``."""
    warnings: Callable[[], Sequence[str]] = tuple
    """What the node has to say of itself as a part of its cluster, one sentence each."""


class Life:
    """Belongs to the event loop."""

    def __init__(self, world: World, birth: Birth) -> None:
        self._world = world
        self._birth = birth
        self._database: Database | None = None
        self._copies: Copies | None = None
        self.archive: ArchivePart | None = None
        """None where the node has no archive, or is not the one that writes to it."""

    @property
    def role(self) -> Role:
        """Return the part that the store was opened for."""
        return self._birth.role

    @property
    def database(self) -> Database:
        """Return the store; after ``begin``."""
        assert self._database is not None, "a life begins with its store"
        return self._database

    @property
    def copies(self) -> Copies:
        """Return who makes copies of the store; after ``begin``."""
        assert self._copies is not None, "a life begins with its store"
        return self._copies

    @property
    def has_failed(self) -> bool:
        """Say whether the log failed."""
        return self._database is not None and self._database.failure is not None

    async def begin(self) -> None:
        """Open the store and start what stands on it, but for the archive. Raises KvError; then nothing is left open."""
        await self._open()
        try:
            self._copies = Copies(self._world.env, self._world.config.data_dir, self.database)
            await self._copies.start()
        except BaseException:
            await self.end()
            raise

    def methods(self) -> list[Method]:
        """Return what this life serves."""
        database, engine, clock = self.database, self._world.config.engine, self._world.env.clock
        services = (
            KvService(database),
            AdminService(
                database,
                clock,
                engine.pipeline.memory_limit_bytes,
                tables=engine.tables,
                archive=self.archive,
                node_warnings=self._birth.warnings,
            ),
            ArchiveService(database, self.archive, self.copies.hash_content, clock),
        )
        return [method for service in services for method in service.methods()]

    def on_sealed(self) -> None:
        """Have the log looked at by the archive: a segment was sealed. Safe on any thread."""
        if self.archive is not None:
            self.archive.wake()

    def end_calls(self) -> None:
        """End what callers wait for and may take hours."""
        for part in (self.archive, self._copies):
            if part is not None:
                part.end_calls()

    async def end(self) -> None:
        """Stop what stands on the store, and close it. What fails to stop is raised at the end, when all else is stopped."""
        failed: Exception | None = None
        for stop in (self._stop_archive, self._stop_copies, self._close):
            try:
                await stop()
            except Exception as error:
                LOG.critical("%s did not stop cleanly", stop.__name__.strip("_"), exc_info=True)
                failed = failed or error
        if failed is not None:
            raise failed

    # -- the store ------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        """Open the store in a thread, so that the loop goes on giving signs of life while a long log is recovered."""
        # Reading a log back makes millions of objects and no garbage, so nothing looks for garbage meanwhile, and what was
        # read back is never looked at again. Afterwards Python's own thresholds hold: higher ones (50,000) gained nothing
        # at 250,000 puts a second and made pauses of 280 ms, where these stay at 11 ms.
        gc.disable()
        try:
            self._database = await asyncio.to_thread(self._open_database)
            gc.collect()  # takes tuples of plain values out of sight for good, and so the versions that will refer to them
            make_spares(gc.freeze)
        finally:
            gc.enable()
        self._database.pipeline.on_failure = self._world.on_log_failure
        if self._database.failure is not None:  # it failed before anybody listened
            self._world.on_log_failure(self._database.failure)

    def _open_database(self) -> Database:
        world, birth = self._world, self._birth
        return Database.open(
            world.config.data_dir,
            birth.register,
            birth.register_kind,
            world.post,
            rocks(world.config.failpoints, FOLLOWER_NICENESS if birth.role is Role.FOLLOWER else 0),
            world.config.engine,
            world.env,
            world.listener,
            hold_archive=world.config.archive is not None,
            role=birth.role,
            claimed=birth.claimed,
            cluster_id=birth.cluster_id,
            node=birth.node,
            must_refetch=birth.must_refetch,
        )

    async def _close(self) -> None:
        database = self._database
        if database is None:
            return
        if database.failure is None:
            await asyncio.to_thread(database.close)
            LOG.info("stopped at revision %d, everything acknowledged is on disk", database.marks.durable)
        else:
            # Whatever hangs in there hangs on the disk that failed; the process ends anyway.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.to_thread(database.close), CLOSE_AFTER_FAILURE_S)

    # -- copies and the archive -----------------------------------------------------------------------------------

    async def _stop_copies(self) -> None:
        if self._copies is not None:
            await self._copies.stop()

    async def start_archive(self) -> None:
        """Archive from now on, where that is wanted. What the archive has, the log lets go: what else needs it is held before."""
        world = self._world
        if world.config.archive is None or self.role is not Role.PRIMARY:
            return
        part = ArchivePart(
            world.env, world.config.archive, world.config.data_dir, self.database, self.copies, world.post, world.listener
        )
        await part.start()
        self.archive = part

    async def _stop_archive(self) -> None:
        if self.archive is not None:
            await self.archive.stop()
