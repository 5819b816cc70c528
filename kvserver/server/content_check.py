"""Is a follower's content equal to its primary's? Both hash theirs at one revision, and the follower compares.

The primary names a revision to its followers before it sends them anything beyond it (``Shipping.announce``). It writes what it
holds up to there into tables, copies those by hard links, and hashes the copy in a helper process. A follower that comes to
exactly that revision does so too. Writes go on meanwhile on both sides. The log proves by its chain that both have the same
commits; what is compared here is what replay, flush and compaction made of them.

Where a flush behind the named one was faster than the copy, the copy stands at another revision, and that round is passed over.
Content that differs once is reported. Content that differs twice is an alarm, and the node serves no more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from kvserver.base.cluster_events import ContentCompared, ContentDiffers
from kvserver.base.errors import KvError
from kvserver.base.events import Listener
from kvserver.replication.shipper import Shipping
from kvserver.server.life import Life

LOG = logging.getLogger("kvserver.server")

DISTRUST_AFTER = 2
"""Rounds in which the content differed before the node serves no more."""

KEPT_ROUNDS = 16


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
        """Rounds in which both hashes were there to be compared, or, on a primary, that it began."""

    def forget(self) -> None:
        """Begin anew: the store was fetched again, or the part has changed."""
        self._mine.clear()
        self._theirs.clear()
        self._differed = 0

    async def lead(self, shipping: Shipping) -> int:
        """Have the followers compare their content with this primary's, as of now; return the revision, 0 where nobody can."""
        life = self._life()
        if life is None:
            return 0
        database = life.database
        flushing = database.flush()  # freezes memory here and now: nothing beyond this revision is in it
        revision = database.marks.assigned
        if not shipping.announce(revision):
            return 0
        found = await life.copies.hash_flushed(flushing)
        if found.position.revision != revision:
            return 0
        self.rounds += 1
        shipping.tell_hash(revision, found.sha256)
        return revision

    async def on_point(self, revision: int) -> None:
        """Freeze what is applied: exactly this revision; the rest is done beside what is taken next."""
        life = self._life()
        if life is None:
            return
        flushing = life.database.flush()
        task = asyncio.create_task(self._hash(life, revision, flushing))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _hash(self, life: Life, revision: int, flushing: object) -> None:
        try:
            found = await life.copies.hash_flushed(flushing)  # type: ignore[arg-type]
        except (KvError, OSError) as error:
            LOG.warning("the content of revision %d cannot be hashed: %s", revision, error)
            return
        if found.position.revision == revision:
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
        if self._differed >= DISTRUST_AFTER:
            self._distrust(f"its content differs from the primary's, at revision {revision} for the {self._differed}nd time")
