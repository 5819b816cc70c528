"""Is a follower's content equal to its primary's? Both hash theirs at one revision, and the follower compares.

The primary names a revision to its followers before it sends them anything beyond it (``Shipping.announce``). It writes what it
holds up to there into tables, copies those by hard links, and hashes the copy in a helper process. A follower that comes to
exactly that revision does so too. Writes go on meanwhile on both sides. The log proves by its chain that both have the same
commits; what is compared here is what replay, flush and compaction made of them.

Where a flush behind the named one was faster than the copy, the copy stands at another revision, and that round is passed over.
Content that differs once is reported. Content that differs twice in a row is an alarm, and the node serves no more. So a primary
makes two rounds, one soon behind the other: what differs is not served for another day before that is believed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from kvserver.base.clock import Clock
from kvserver.base.cluster_events import ContentCompared, ContentDiffers
from kvserver.base.errors import KvError
from kvserver.base.events import Listener
from kvserver.commit.ticket import Ticket
from kvserver.replication.shipper import Shipping
from kvserver.server.life import Life
from kvserver.server.schedule import Recurring

LOG = logging.getLogger("kvserver.server")

DISTRUST_AFTER = 2
"""Rounds in a row in which the content differed before the node serves no more."""

SECOND_ROUND_S = 60.0
"""How long after the first round of a check the second one is begun."""

KEPT_ROUNDS = 16
HOUR_S = 3_600.0


class ContentCheck:
    """Of one node, through all its lives. Belongs to the event loop."""

    def __init__(self, life: Callable[[], Life | None], listener: Listener, distrust: Callable[[str], None]) -> None:
        self._life = life
        self._listener = listener
        self._distrust = distrust
        self._mine: dict[int, bytes] = {}
        self._theirs: dict[int, bytes] = {}
        self._differed = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.rounds = 0
        """Rounds in which both hashes were there to be compared, or, on a primary, whose hash was told."""

    def forget(self) -> None:
        """Begin anew: the store was fetched again, or the part has changed."""
        self._mine.clear()
        self._theirs.clear()
        self._differed = 0

    async def lead(self, shipping: Shipping) -> int:
        """Have the followers compare their content with this primary's, as of now; return the revision, 0 where nobody can.

        Raises KvError, OSError where this node's own content cannot be hashed.
        """
        life = self._life()
        if life is None:
            return 0
        database = life.database
        revision = database.marks.assigned
        if not shipping.announce(revision):
            return 0
        flushing = database.flush()  # in the same turn: what it freezes ends with this very revision
        found = await life.copies.hash_flushed(flushing)
        if found.position.revision != revision:
            LOG.info(
                "the content of revision %d was not compared: tables are at revision %d already",
                revision,
                found.position.revision,
            )
            return 0
        self.rounds += 1
        shipping.tell_hash(revision, found.sha256)
        return revision

    async def on_point(self, revision: int) -> None:
        """Freeze what is applied: exactly this revision; the rest is done beside what is taken next."""
        life = self._life()
        if life is None:
            return
        task = asyncio.create_task(self._hash(life, revision, life.database.flush()))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _hash(self, life: Life, revision: int, flushing: Ticket[int]) -> None:
        try:
            found = await life.copies.hash_flushed(flushing)
        except (KvError, OSError) as error:
            LOG.warning("the content of revision %d cannot be hashed: %s", revision, error)
            return
        # A store that was closed meanwhile says nothing about the one that is open.
        if found.position.revision == revision and self._life() is life:
            self._mine[revision] = found.sha256
            self._compare(revision)

    async def on_hash(self, revision: int, sha256: bytes) -> None:
        """Take in what the source's content hashed to."""
        self._theirs[revision] = sha256
        self._compare(revision)

    def _compare(self, revision: int) -> None:
        mine, theirs = self._mine.get(revision), self._theirs.get(revision)
        if mine is None or theirs is None:
            for kept in (self._mine, self._theirs):
                while len(kept) > KEPT_ROUNDS:
                    del kept[min(kept)]
            return
        del self._mine[revision], self._theirs[revision]
        self.rounds += 1
        if mine == theirs:
            self._differed = 0
            self._listener(ContentCompared(revision, mine.hex()))
            return
        self._differed += 1
        self._listener(ContentDiffers(revision, mine.hex(), theirs.hex(), self._differed))
        if self._differed == DISTRUST_AFTER:
            self._distrust(f"its content differs from the primary's, at revision {revision} for the second time in a row")


class ContentRounds:
    """When a primary has its followers compare their content. Belongs to the event loop."""

    def __init__(self, check: ContentCheck, clock: Clock, every_h: int) -> None:
        """``every_h`` 0: never."""
        self._check = check
        self._clock = clock
        self._due = Recurring(every_h * HOUR_S, clock.monotonic())
        self._is_second = False
        self._task: asyncio.Task[None] | None = None

    def tick(self, shipping: Shipping) -> None:
        """Begin a round if one is due and the last one has ended."""
        if self._due.due(self._clock.monotonic()) and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._round(shipping))

    async def _round(self, shipping: Shipping) -> None:
        try:
            compared = bool(await self._check.lead(shipping))
        except (KvError, OSError) as error:
            LOG.warning("the content cannot be hashed, which is tried again: %s", error)
            compared = False
        now_s = self._clock.monotonic()
        self._due.done(now_s, compared)
        self._is_second = compared and not self._is_second
        if self._is_second:
            self._due.at_most_in(now_s, SECOND_ROUND_S)

    async def stop(self) -> None:
        """End the round that is under way: the part ends."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
