"""A node that is alone: one life, as primary, with a register in its own data folder."""

from __future__ import annotations

from collections.abc import Callable

from kvserver.base.types import Role
from kvserver.engine.database import Database
from kvserver.replication.local_register import KIND, LocalRegister
from kvserver.server.alone import AloneControl
from kvserver.server.config import Address
from kvserver.server.life import Birth, Life, World
from kvserver.service.cluster import ClusterService
from kvserver.service.methods import Method


class Single:
    """Belongs to the event loop."""

    def __init__(self, world: World, on_life: Callable[[Life | None], None]) -> None:
        self._on_life = on_life
        birth = Birth(Role.PRIMARY, lambda env, paths: LocalRegister(env.fs, paths), KIND)
        self._begun = Life(world, birth)
        self.life: Life | None = None
        self._address = ""
        self._cluster = ClusterService(AloneControl(world.env.clock, self._database, lambda: self._address))

    @property
    def is_primary(self) -> bool:
        """Say whether it takes writes."""
        return self.life is not None

    @property
    def has_failed(self) -> bool:
        """Say whether the log failed."""
        return self._begun.has_failed

    async def start(self, listen: Address) -> None:
        """Open the store. Raises KvError."""
        self._address = str(listen)
        await self._begun.begin()
        try:
            await self._begun.start_archive()
        except BaseException:
            await self._begun.end()
            raise
        # A policy comes with the store of a cluster, and its members are not those of a copy that was made a store of its own.
        self._begun.database.pipeline.set_replicated(None)
        self.life = self._begun
        self._on_life(self.life)

    def methods(self) -> list[Method]:
        """Return what is served beside the store."""
        return self._cluster.methods()

    def _database(self) -> Database | None:
        return self.life.database if self.life is not None else None

    def tick(self) -> None:
        """Do what time makes due: nothing."""

    def end_calls(self) -> None:
        """End what callers wait for and may take hours."""
        self._begun.end_calls()

    async def stop(self) -> None:
        """Close the store."""
        await self._begun.end()
