"""The checkpoints that a node keeps to go back to (``kvserver.engine.rewind_base``): when one is made, and when one goes.

One is made when there is none, and each time so many bytes of log were written behind the newest, once every node has what that
one holds. The log is held from the oldest on, so what this takes of the disk is bounded: twice those bytes of log as a rule, and
the tables that were merged away since. Where a follower is away for long, or the archive, it is four times: then the oldest
goes. All of them go where the disk is nearly full.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any

from kvserver.base.environment import Environment
from kvserver.base.events import Listener
from kvserver.base.paths import DataPaths
from kvserver.base.replication_events import RewindBaseFailed, RewindBaseKept
from kvserver.base.types import CREATION_REVISION
from kvserver.commit.ticket import answered
from kvserver.engine.database import Database
from kvserver.engine.obsolete_files import HoldRefused
from kvserver.engine.rewind_base import HOLD, Base, begin_base, clear_bases, find_bases, finish_base, surplus
from kvserver.replication.waiting import on_thread

MOST_LOG = 4
"""So many times the bytes after which a new one is due may be held for the oldest."""

REST_S = 30.0
"""After so long a failure is tried again."""

STOP_S = 5.0


class RewindBases:
    """The bases of one store that is open. Belongs to the event loop.

    Made right behind the store's opening: what is held has to be held before something is deleted.
    """

    def __init__(self, env: Environment, paths: DataPaths, database: Database, every_bytes: int, listener: Listener) -> None:
        """``every_bytes``: 0: none are kept."""
        self._env = env
        self._paths = paths
        self._database = database
        self._every_bytes = every_bytes
        self._listener = listener
        self._log = database.tail()
        """Asked nothing that reads files."""
        self._bases: list[Base] = []
        self._is_cleared = self._is_closing = False
        self._work: asyncio.Future[None] | None = None
        self._error = ""
        self._rests_until_s = 0.0
        self.held_by_all = 0
        """What every node and the archive have, as of the last tick."""
        self._is_found = not every_bytes
        self._find()

    @property
    def newest_revision(self) -> int:
        """Return the revision of the newest base; 0: there is none."""
        return self._bases[-1].revision if self._bases else 0

    def tick(self, held_by_all: int) -> None:
        """Do what time makes due. ``held_by_all``: up to where all who follow, and the archive, have the log."""
        self.held_by_all = held_by_all
        if (self._work is not None and not self._work.done()) or self._env.clock.monotonic() < self._rests_until_s:
            return
        if not self._is_found:
            self._find()
            return
        going = surplus(self._bases, held_by_all)
        if self._is_tight():
            going = self._bases
        elif not going and self._bases and self._log_since(self._bases[0]) > MOST_LOG * self._every_bytes:
            going = self._bases[:1]
        if going or not self._is_cleared:
            self._begin(self._keep([base for base in self._bases if base not in going]))
        elif self._is_due():
            self._begin(self._make())

    async def stop(self) -> None:
        """Wait for what is under way, with a bound: the store is about to be closed."""
        self._is_closing = True
        if self._work is not None:
            await asyncio.wait([self._work], timeout=STOP_S)
        self._log.close()

    # -- what is due ------------------------------------------------------------------------------------------------

    def _is_due(self) -> bool:
        flushed = self._database.flusher.position.revision
        if not self._every_bytes or self._database.failure is not None or flushed <= max(CREATION_REVISION, self.newest_revision):
            return False
        if self._is_tight():
            return False
        if not self._bases:
            return True
        newest = self._bases[-1]
        return newest.revision <= self.held_by_all and self._log_since(newest) >= self._every_bytes

    def _is_tight(self) -> bool:
        """Say whether the disk has no room for what is only of use some day."""
        try:
            return self._env.fs.free_bytes(self._paths.root) < self._every_bytes
        except OSError:
            return False

    def _log_since(self, base: Base) -> int:
        """Return the bytes of log behind a base; where some of that is gone, more than are ever held."""
        begin = self._log.begin_for(base.revision + 1)
        return self._log.pending_bytes(*begin) if begin is not None else MOST_LOG * self._every_bytes + 1

    # -- doing it ---------------------------------------------------------------------------------------------------

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._work = asyncio.ensure_future(self._told(work))

    async def _told(self, work: Coroutine[Any, Any, None]) -> None:
        """Do the work; tell of a failure once, and rest before the next attempt."""
        try:
            await work
            self._error = ""
        except Exception as error:  # nothing else depends on it
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        reason = str(error) or repr(error)
        if reason != self._error:
            self._listener(RewindBaseFailed(reason))
        self._error = reason
        self._rests_until_s = self._env.clock.monotonic() + REST_S

    async def _keep(self, bases: Sequence[Base]) -> None:
        """Let go of all bases but these, and of the log behind them; remove them, and what a crash has left half made."""
        self._bases, self._is_cleared = list(bases), False
        self._hold()
        await on_thread(lambda: clear_bases(self._env, self._paths, bases), "rewind-base")
        self._is_cleared = True

    async def _make(self) -> None:
        flushed = self._database.flusher.position.revision
        if not self._bases:  # else more than that is held
            self._database.hold(HOLD, flushed + 1)
        try:
            making = await on_thread(lambda: begin_base(self._env, self._paths), "rewind-base")
            await self._database.checkpoint(making.root, scratch=True, flushing=answered(flushed))
            if not self._is_closing:  # else what is half made goes at the next start
                self._bases.append(await on_thread(lambda: finish_base(self._env, self._paths), "rewind-base"))
                self._listener(RewindBaseKept(self.newest_revision))
        finally:
            self._hold()

    def _find(self) -> None:
        """Take in the bases of before, and hold the log behind them."""
        if not self._is_found:
            try:
                flushed = self._database.flusher.position.revision
                self._bases = [base for base in find_bases(self._env, self._paths) if base.revision <= flushed]
                self._is_found = True
            except OSError as error:  # the node can do without
                self._fail(error)
        self._hold()

    def _hold(self) -> None:
        """Hold the log behind the oldest base of which that is still there."""
        for base in self._bases:
            with contextlib.suppress(HoldRefused):
                self._database.hold(HOLD, base.revision + 1)
                return
        self._database.release_hold(HOLD)
