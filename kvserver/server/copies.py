"""Copies of the store that are thrown away again: made as hard links in the data folder's ``scratch/``, removed when done with.

What a crash leaves there is removed at the next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

from kvserver.archive.hash_main import hash_of, start_hashing
from kvserver.base.environment import Environment
from kvserver.base.fs import remove_tree
from kvserver.base.paths import DataPaths
from kvserver.base.types import Position
from kvserver.commit.ticket import Ticket
from kvserver.engine.database import Database
from kvserver.replication.waiting import on_thread
from kvserver.server.beside import HelperRun, UnderWay, was_ended
from kvserver.service.archive import Hashed

LOG = logging.getLogger("kvserver.server")

STOP_S = 2.0
"""How long the end of the server waits for what is under way here."""


class Copy(NamedTuple):
    """A checkpoint in the scratch folder."""

    folder: Path
    position: Position


class Copies:
    """Makes copies, and hashes them. Belongs to the event loop."""

    def __init__(self, env: Environment, data_dir: Path, database: Database) -> None:
        self._env = env
        self._scratch = DataPaths(data_dir).scratch
        self._database = database
        self._numbers = itertools.count(1)
        self._hashing = asyncio.Lock()
        self._helpers: set[HelperRun] = set()
        self._under_way = UnderWay()

    async def start(self) -> None:
        """Remove what an earlier run has left."""
        await self.remove(self._scratch)

    def end_calls(self) -> None:
        """End what callers wait for: the node is stopping."""
        for helper in list(self._helpers):
            helper.end()

    async def stop(self) -> None:
        """End what is under way, and wait for that, with a bound."""
        self.end_calls()
        await self._under_way.wait(STOP_S)

    def folder(self, purpose: str) -> Path:
        """Return the path of a new folder for a purpose; it does not exist yet."""
        return self._scratch / f"{purpose}-{next(self._numbers)}"

    @contextlib.asynccontextmanager
    async def copy(self, purpose: str, flushing: Ticket[int] | None = None) -> AsyncIterator[Copy]:
        """Give a checkpoint of the store to the block, and remove it at the end. Raises KvError.

        ``flushing``: of a flush that was begun before, behind which the tables are copied as they stand; None: flush now. Not to
        be cancelled: it belongs in a task of its own (``UnderWay``), which clears away what it has begun.
        """
        folder = self.folder(purpose)
        try:
            made = await self._database.checkpoint(folder, scratch=True, flushing=flushing)
            yield Copy(folder, made.position)
        finally:
            await self.remove(folder)

    async def remove(self, folder: Path) -> None:
        """Remove a folder of the scratch space; what cannot be removed now is removed at the next start."""
        try:
            await on_thread(lambda: remove_tree(self._env.fs, folder), "scratch")
        except OSError as error:
            LOG.warning("%s cannot be removed, which is tried again at the next start: %s", folder, error)

    async def hash_content(self) -> Hashed:
        """Hash what the newest revision holds, in a helper process; cancelled, that is ended. Raises KvError."""
        helper = HelperRun()
        task = self._under_way.keep(self._hash(helper))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            helper.end()
            raise

    async def hash_flushed(self, flushing: Ticket[int]) -> Hashed:
        """Hash what the tables hold when a flush has ended that was begun before; see ``hash_content``. Raises KvError."""
        helper = HelperRun()
        return await asyncio.shield(self._under_way.keep(self._hash(helper, flushing)))

    async def _hash(self, helper: HelperRun, flushing: Ticket[int] | None = None) -> Hashed:
        self._helpers.add(helper)
        try:
            async with self._hashing:
                if helper.ended:  # while it waited; a copy costs a flush
                    raise was_ended()
                async with self.copy("hash", flushing) as (folder, position):
                    found = hash_of(await on_thread(lambda: helper.run(lambda: start_hashing(folder)), "hash"))
        finally:
            self._helpers.discard(helper)
        return Hashed(position, found.sha256, found.keys)
