"""What is done with the archive from time to time: backups, retention, the check of every byte, the drill. One thing at a time.

Checks, drills and retention run in helper processes at a lower priority: they would hold the interpreter's lock for minutes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Protocol

from kvserver.archive.drill_main import DrillAsked, report_of, start_drill
from kvserver.archive.helper import Fields, Helper
from kvserver.archive.outlook import Outlook
from kvserver.archive.outlook_main import outlook_from, start_outlook
from kvserver.archive.records import BackupRecord
from kvserver.archive.retention import RetentionPolicy
from kvserver.archive.retention_main import start_retention
from kvserver.archive.verify_main import start_verify, verdict_of
from kvserver.base.archive_upkeep_events import (
    ArchiveVerified,
    ArchiveVerifyFailed,
    DrillFailed,
    DrillPassed,
    RetentionApplied,
    RetentionFailed,
)
from kvserver.base.environment import Environment
from kvserver.base.errors import Corruption, KvError
from kvserver.base.events import Listener
from kvserver.base.types import CREATION_REVISION, Position
from kvserver.replication.waiting import on_thread
from kvserver.server.backups import Backups
from kvserver.server.beside import HelperRun
from kvserver.server.config import ArchiveConfig
from kvserver.server.copies import Copies
from kvserver.server.schedule import Recurring
from kvserver.service.archive import Check, Stage
from kvserver.storage.content_hash import ContentHash

LOG = logging.getLogger("kvserver.server")

STEP_S = 1.0
"""How often it is looked whether something is due."""

LOOK_AGAIN_S = 60.0
"""So long after a failure the archive is asked again for its newest backup."""

OUTLOOK_S = 3_600.0
FIRST_OUTLOOK_S = 30.0
"""How often, and how long after a start, it is looked what a restore would take, and whether people removed a backup."""

RETENTION_S = 6 * 3_600.0

STOP_S = 2.0
HOUR_S = 3_600.0
DAY_MS = 86_400_000


class Archive(Protocol):
    """What is asked of the archive's other parts."""

    backups: Backups

    async def heard_from(self) -> None:
        """Return when the archive was heard from. Raises KvError."""

    async def archive_now(self) -> Position | None:
        """Archive everything that is visible. Raises KvError."""

    def create_backup(self) -> AsyncGenerator[Stage, None]:
        """Make a base backup. Raises KvError."""


class ArchiveUpkeep:
    """Does what is due. Belongs to the event loop; ``outlook`` and the two attributes may be read on any thread."""

    def __init__(
        self, env: Environment, config: ArchiveConfig, cluster_id: bytes, archive: Archive, copies: Copies, listener: Listener
    ) -> None:
        self._env = env
        self._config = config
        self._cluster_id = cluster_id
        self._archive = archive
        self._copies = copies
        self._listener = listener
        self._helpers: set[HelperRun] = set()
        self._task: asyncio.Task[None] | None = None
        self._outlook_with: tuple[Outlook, BackupRecord | None] | None = None
        """What a restore would take, and the newest backup when that was found out."""
        self.last_verify: Check | None = None
        self.last_drill: Check | None = None
        now_s = env.clock.monotonic()
        retains = bool(config.keep_backups or config.keep_days)
        self._look = Recurring(LOOK_AGAIN_S, now_s, first_in_s=0.0)
        self._outlook = Recurring(OUTLOOK_S, now_s, first_in_s=FIRST_OUTLOOK_S)
        self._backup = Recurring(config.backup_every_h * HOUR_S, now_s)
        self._retention = Recurring(RETENTION_S if retains else 0.0, now_s)
        self._verify = Recurring(config.verify_every_h * HOUR_S, now_s)
        self._drill = Recurring(config.drill_every_h * HOUR_S, now_s)

    @property
    def outlook(self) -> Outlook | None:
        """Return what a restore would take; None where that is not known, also since a backup was made."""
        outlook, newest = self._outlook_with or (None, None)
        return outlook if newest is self._archive.backups.newest else None

    def start(self) -> None:
        """Do what is due, from now on."""
        self._task = asyncio.ensure_future(self._run())

    def end(self) -> None:
        """End what is under way; it is done again after the next start."""
        if self._task is not None:
            self._task.cancel()
        for helper in list(self._helpers):
            helper.end()

    async def stop(self) -> None:
        """End what is under way, and wait for that, with a bound."""
        self.end()
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=STOP_S)

    async def _run(self) -> None:
        while True:
            await self.step()
            await asyncio.sleep(STEP_S)

    async def step(self) -> None:
        """Do what is due now, one thing after the other."""
        if not self._archive.backups.known:
            await self._do(self._look, self.look)
        await self._do(self._outlook, self.look_ahead)
        await self._do(self._backup, self.back_up)
        await self._do(self._retention, self.retain)
        await self._do(self._verify, self.verify)
        await self._do(self._drill, self.drill)

    async def _do(self, recurring: Recurring, work: Callable[[], Awaitable[bool]]) -> None:
        if recurring.due(self._env.clock.monotonic()):
            try:
                ok = await work()
            except Exception:  # it is no more urgent for that than what fails for a known reason
                LOG.exception("a fault in what is done with the archive from time to time; it is tried again later")
                ok = False
            recurring.done(self._env.clock.monotonic(), ok)

    # -- what is done ---------------------------------------------------------------------------------------------

    async def look(self) -> bool:
        """Ask the archive for its newest backup, from which it follows when the next one is due. Say whether it answered."""
        try:
            await self._archive.heard_from()
            await self._archive.backups.look()
        except KvError as error:
            level = logging.WARNING if isinstance(error, Corruption) else logging.DEBUG  # one that is down is an event
            LOG.log(level, "the archive's newest backup is not known yet: %s", error)
            return False
        newest = self._archive.backups.newest
        age_s = (self._env.clock.now_ms() - newest.made_ms) / 1000 if newest is not None else self._backup.every_s
        self._backup.at_most_in(self._env.clock.monotonic(), max(0.0, self._backup.every_s - age_s))
        return True

    async def look_ahead(self) -> bool:
        """Find out what a restore would take, and which is the newest backup; say whether the archive answered."""
        try:
            await self._archive.heard_from()
            await self._archive.backups.look()
            newest = self._archive.backups.newest
            told = await self._help(lambda: start_outlook(self._config.url, self._cluster_id), "outlook")
            self._outlook_with = outlook_from(told), newest
        except KvError as error:
            LOG.warning("it is not known what a restore of the archive would take: %s", error)
            return False
        return True

    async def back_up(self) -> bool:
        """Make a backup; say whether that went well."""
        try:
            async with aclosing(self._archive.create_backup()) as stages:
                async for _ in stages:
                    pass
        except KvError:  # it is an event
            return False
        self._retention.at_most_in(self._env.clock.monotonic(), 0.0)
        return True

    async def retain(self) -> bool:
        """Give up what need not be kept; say whether that went well."""
        config = self._config
        policy = RetentionPolicy(config.keep_backups, config.keep_days * DAY_MS)
        began_s = self._env.clock.monotonic()
        try:
            await self._archive.heard_from()  # of an archive that is another primary's nothing is removed
            async with self._archive.backups.one_at_a_time:  # files that a backup has sent are named by no record yet
                told = await self._help(lambda: start_retention(self._config.url, self._cluster_id, policy), "retention")
        except KvError as error:
            self._listener(RetentionFailed(error.message))
            return False
        if told["removed"]:
            self._listener(RetentionApplied(told["what"], self._env.clock.monotonic() - began_s))
        return True

    async def verify(self) -> bool:
        """Read and check every byte of the archive; say whether all of it is whole."""
        began_s = self._env.clock.monotonic()
        try:
            ok, what = verdict_of(await self._help(lambda: start_verify(self._config.url, self._cluster_id), "verify"))
        except KvError as error:
            ok, what = False, error.message
        seconds = self._env.clock.monotonic() - began_s
        self.last_verify = Check(self._env.clock.now_ms(), ok, what, seconds)
        self._listener(ArchiveVerified(what, seconds) if ok else ArchiveVerifyFailed(what, seconds))
        return ok

    async def drill(self) -> bool:
        """Restore the archive, up to what the node holds now, and compare; say whether it is equal."""
        began_s = self._env.clock.monotonic()
        revision = 0
        try:
            hashed = await self._copies.hash_content()
            if hashed.position.revision <= CREATION_REVISION:
                return True  # nothing was ever written
            expected = ContentHash(hashed.position, hashed.sha256, hashed.keys)
            revision = expected.revision
            await self._archive.archive_now()
            asked = DrillAsked(self._config.url, self._cluster_id, expected, self._copies.folder("drill"))
            try:
                report = report_of(await self._help(lambda: start_drill(asked), "drill"))
            finally:
                await self._copies.remove(asked.scratch)
            ok, what = report.ok, report.what
        except KvError as error:
            ok, what = False, error.message
        seconds = self._env.clock.monotonic() - began_s
        self.last_drill = Check(self._env.clock.now_ms(), ok, what, seconds)
        self._listener(DrillPassed(revision, seconds) if ok else DrillFailed(what, seconds))
        return ok

    async def _help(self, start: Callable[[], Helper], name: str) -> Fields:
        """Run a helper, which the end of the server ends. Raises KvError."""
        helper = HelperRun()
        self._helpers.add(helper)
        try:
            return await on_thread(lambda: helper.run(start), name)
        finally:
            self._helpers.discard(helper)
