"""The archive of a node that serves: the archiver and what goes with it, put together, started, asked and stopped.

    archiver     sends sealed segments, on threads of its own (``kvserver.archive.archiver``)
    ballast      space that is given back when the disk is nearly full, looked at on a thread every second
    backups      base backups, when somebody asks or the schedule does
    upkeep       checks, drills and retention, as scheduled, in helper processes

Nothing here waits for the store of the archive: one that is down keeps no node from starting, serving or stopping.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from kvserver.archive.archiver import Archiver, ArchiverOptions
from kvserver.archive.ballast import Ballast
from kvserver.archive.errors import ArchiveFenced
from kvserver.archive.names import ArchiveNames
from kvserver.archive.open_store import open_store
from kvserver.archive.records import ClusterRecord
from kvserver.archive.store import Store, StoreUnavailable
from kvserver.base.archive_upkeep_events import BackupFailed
from kvserver.base.environment import Environment
from kvserver.base.errors import Code, KvError, NotPrimary, NotServing
from kvserver.base.events import Listener
from kvserver.base.paths import DataPaths
from kvserver.base.types import Identity, Position
from kvserver.engine.database import Database
from kvserver.replication.waiting import on_thread
from kvserver.server.archive_upkeep import ArchiveUpkeep
from kvserver.server.backups import PROGRESS_S, Backups
from kvserver.server.config import ArchiveConfig
from kvserver.server.copies import Copies
from kvserver.server.log_source import NodeLog, Post
from kvserver.service.archive import Report, Stage
from kvserver.storage.origin import Origin, read_origin

LOG = logging.getLogger("kvserver.server")

LAST_SEGMENT_S = 5.0
"""How long a node that is asked to stop waits for what it has written last to be archived, unless the archive fails."""

STOP_S = 2.0
"""How long the archiver may take to end; what it was doing is done again at the next start."""

HEARD_FROM_S = 5.0
"""How long somebody who wants a backup waits for the archive to be heard from, after a start."""

POLL_S = 0.02
BALLAST_S = 1.0
HURRY_WORKERS = 4


class ArchivePart:
    """Belongs to the event loop; ``report`` may be called on any thread."""

    def __init__(
        self,
        env: Environment,
        config: ArchiveConfig,
        data_dir: Path,
        database: Database,
        copies: Copies,
        post: Post,
        listener: Listener,
    ) -> None:
        self._env = env
        self._config = config
        self._paths = DataPaths(data_dir)
        self._database = database
        self._listener = listener
        self._log = NodeLog(env, data_dir, database, post)
        self._ballast = Ballast(env, self._paths, listener, config.ballast_bytes)
        identity = database.identity
        self.backups = Backups(env, self._open_store, copies, identity.cluster_id, listener)
        self._archiver = Archiver(
            env,
            self._open_store,
            ArchiveNames(identity.cluster_id),
            self._log,
            archiver_options(config),
            listener,
            identity.node_name,
            cluster_record(identity, read_origin(env, self._paths)),
        )
        self._upkeep = ArchiveUpkeep(env, config, identity.cluster_id, self, copies, listener)
        self._ending = False
        self._stopping = threading.Event()

    # -- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to archive; asks the store for nothing."""
        self._archiver.start()
        threading.Thread(target=self._watch_disk, name="ballast", daemon=True).start()
        self._upkeep.start()

    def end_calls(self) -> None:
        """End what callers wait for: the node is stopping."""
        self._ending = True
        self._upkeep.end()  # first: what ends below would pass for a backup or a drill that failed
        self.backups.end_calls()

    async def stop(self) -> None:
        """Archive what was written last, if the archive answers, and end within a bounded time whatever it does."""
        self._stopping.set()
        await asyncio.gather(self._upkeep.stop(), self.backups.stop(), self._archive_last())
        await on_thread(lambda: self._archiver.stop(STOP_S), "archiver-stop")

    async def _archive_last(self) -> None:
        figures = self._archiver.figures()
        if figures.error or figures.fenced or self._database.failure is not None:
            return  # an archive that was not heard from yet is another matter: the node may have been started just now
        try:
            async with asyncio.timeout(LAST_SEGMENT_S):
                await self._reach(await self._database.seal())
        except NotPrimary:
            return  # another node decides what of it is history, and archives that
        except Exception as error:
            LOG.warning("what was written last is not archived before the next start: %s", str(error) or "it took too long")

    def _watch_disk(self) -> None:
        nearly_full = False
        while not self._stopping.is_set():
            self._ballast.check()
            if self._ballast.given_back != nearly_full:
                nearly_full = self._ballast.given_back
                self._log.on_nearly_full(nearly_full)
            self._stopping.wait(BALLAST_S)

    def _open_store(self) -> Store:
        return open_store(self._config.url, self._env.fs)

    # -- what is asked of it --------------------------------------------------------------------------------------

    def report(self) -> Report:
        """Return how the archive is doing."""
        config, figures = self._config, self._archiver.figures()
        return Report(
            url=config.url,
            archived=figures.archived,
            archived_time_ms=figures.archived_time_ms,
            unarchived_segments=figures.unarchived_segments,
            unarchived_bytes=figures.unarchived_bytes,
            oldest_unarchived_age_ms=figures.oldest_unarchived_ms,
            step=figures.step,
            pace_ms=figures.pace_ms,
            last_error=figures.fenced or figures.error,
            fenced=bool(figures.fenced),
            workers=config.workers,
            level=figures.level,
            queue_bytes=config.queue_bytes,
            rate_bytes_per_s=config.rate_bytes_per_s,
            when_full=config.when_full,
            segments_total=figures.segments,
            raw_bytes_total=figures.raw_bytes,
            stored_bytes_total=figures.stored_bytes,
            failures_total=figures.failures,
            outlook=self._upkeep.outlook,
            last_backup=self.backups.newest,
            last_verify=self._upkeep.last_verify,
            last_drill=self._upkeep.last_drill,
        )

    def wake(self) -> None:
        """Have the log looked at: a segment was sealed. Safe on any thread."""
        self._archiver.wake()

    async def archive_now(self) -> Position | None:
        """Seal what is open, and return when the archive holds it. Raises KvError, also when an attempt to archive it fails."""
        return await self._reach(await self._database.seal(), for_caller=True)

    async def heard_from(self) -> None:
        """Return when the archive was heard from. Raises KvError where it fails, is another's, or says nothing for long."""
        try:
            async with asyncio.timeout(HEARD_FROM_S):
                await self._reach(0, for_caller=True)
        except TimeoutError:
            raise StoreUnavailable(self._config.url, "nothing was heard from it yet") from None

    async def _reach(self, revision: int, for_caller: bool = False) -> Position | None:
        """Return how far the archive is, once it holds a revision, or all that is sealed; raise where it fails at that."""
        ask = self._archiver.hurry()
        while True:
            figures = self._archiver.figures()
            if figures.fenced:
                raise ArchiveFenced(figures.fenced)
            if figures.heard:
                archived = figures.archived
                if (archived is not None and archived.revision >= revision) or not self._log.sealed():
                    return archived
            failed_ask, why = figures.answer
            if figures.error and failed_ask >= ask:
                raise KvError(Code.ARCHIVE_UNAVAILABLE, why, "see how it is doing with: kvctl archive status")
            if for_caller and self._ending:
                raise NotServing("the node is stopping")
            await asyncio.sleep(POLL_S)

    async def _until_heard_from(self) -> AsyncGenerator[Stage, None]:
        """Wait for the archive to be heard from, with signs of life. Raises KvError."""
        heard = asyncio.ensure_future(self.heard_from())
        heard.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # whoever hung up need not be told
        try:
            while not heard.done():
                yield Stage("waiting")
                await asyncio.wait((heard,), timeout=PROGRESS_S)
            heard.result()
        finally:
            heard.cancel()

    async def create_backup(self) -> AsyncGenerator[Stage, None]:
        """Make a base backup, and say how far it is."""
        try:
            async for stage in self._until_heard_from():
                yield stage
            async with aclosing(self.backups.create()) as stages:
                async for stage in stages:
                    yield stage
        except KvError as error:
            self._listener(BackupFailed(error.message))
            raise


def archiver_options(config: ArchiveConfig) -> ArchiverOptions:
    """Return how the archiver is to work."""
    return ArchiverOptions(
        workers=config.workers,
        hurry_workers=max(HURRY_WORKERS, config.workers),
        level=config.level,
        queue_bytes=config.queue_bytes,
        rate_bytes_per_s=config.rate_bytes_per_s,
        on_full="gap" if config.when_full == "gap" else "refuse",
    )


def cluster_record(identity: Identity, origin: Origin | None) -> ClusterRecord:
    """Return whose archive this is: the same bytes at each start, and of a fork the store that it parted from."""
    forked = origin is not None and origin.cluster_id != identity.cluster_id
    return ClusterRecord(
        cluster_id=identity.cluster_id,
        parent_cluster_id=origin.cluster_id if forked and origin is not None else b"",
        parent=origin.position if forked and origin is not None else None,
        node_name=identity.node_name,
        created_ms=identity.created_ms,
    )
