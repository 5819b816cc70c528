"""What a follower writes down about promises without being asked: whom it obeys, and what it may have lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from kvserver.base.types import NO_EPOCH
from kvserver.engine.database import Database
from kvserver.replication.home import holds_nothing
from kvserver.replication.vow import UNKNOWN_LOST, Vow

REST_S = 5.0

LOG = logging.getLogger("kvserver.server")


class VowKeeper:
    """Belongs to the event loop."""

    def __init__(self, vow: Callable[[], Vow]) -> None:
        self._vow = vow
        self._under_way: asyncio.Future[None] | None = None

    async def begin(self, database: Database) -> None:
        """Note that a new folder has nothing of what a node of its name may have acknowledged before. Raises OSError.

        Durable before the first byte of a log is: a node that dies between the two must not count with half of it.
        """
        vow = self._vow()
        if vow.promised == NO_EPOCH and holds_nothing(database):
            await asyncio.to_thread(vow.note_lost, UNKNOWN_LOST)

    def tick(self, database: Database, heard: int) -> None:
        """Obey the epoch that is followed, for good; count for a quorum only with all that may have been acknowledged.

        ``heard``: what the primary has durably, by its own word; 0: nothing was heard of it. To be called often: where nothing is
        to be written down it costs nothing.
        """
        if self._under_way is not None and not self._under_way.done():
            return  # a disk that hangs gets no second one to wait for
        vow, end = self._vow(), database.log_end().position
        finds_out = vow.needs_revision == UNKNOWN_LOST and heard > 0
        obeys = end.epoch > vow.promised and vow.allows(end.epoch)
        needs = heard if finds_out else vow.needs_revision
        is_whole = needs > 0 and end.revision >= needs
        if not (finds_out or obeys or is_whole):
            return

        def work() -> None:
            if finds_out:
                vow.settle_lost(heard)
            if obeys:
                vow.promise(end.epoch)
            if is_whole:
                vow.complete(end.revision)

        self._under_way = asyncio.ensure_future(asyncio.to_thread(work))
        self._under_way.add_done_callback(_told)

    async def rest(self) -> None:
        """Wait for what is being written down, with a bound: the log is about to end elsewhere."""
        if self._under_way is not None:
            await asyncio.wait([self._under_way], timeout=REST_S)


def _told(task: asyncio.Future[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        # What goes wrong here goes wrong again with the next tick.
        LOG.warning("the file PROMISE cannot be written: %s", task.exception())
