"""Base backups of a node that serves: a copy in the scratch folder, sent to the archive by threads; one at a time.

A backup belongs to whoever asked for it: it ends when he hangs up, unless its record is written already. What was sent by then is
found by the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

from kvserver.archive.backup import create_backup, read_backup
from kvserver.archive.backup_files import BackupProgress
from kvserver.archive.names import ArchiveNames, parse_backup
from kvserver.archive.records import BackupRecord
from kvserver.archive.store import Store
from kvserver.base.archive_upkeep_events import BackupMade
from kvserver.base.environment import Environment
from kvserver.base.errors import KvError, NotServing
from kvserver.base.events import Listener
from kvserver.commit.refusals import tables_failed
from kvserver.replication.waiting import on_thread
from kvserver.server.beside import UnderWay
from kvserver.server.copies import Copies, Copy
from kvserver.service.archive import Stage

PROGRESS_S = 0.5
"""How often the caller is told how far it is; also a sign of life."""

STOP_S = 2.0
"""How long the end of the server waits for a backup to end."""


class _Abandoned(Exception):
    """Nobody waits for the backup any more."""


class _Job:
    """One backup: where it is, and whether it is to end."""

    def __init__(self) -> None:
        self.stage = Stage("waiting")
        self.abandoned = False

    def on_progress(self, far: BackupProgress) -> None:
        """Note how far it is; called on any thread, one call at a time."""
        if self.abandoned:
            raise _Abandoned
        self.stage = Stage(
            "sending", self.stage.revision, far.files_done, far.files, far.bytes_done, far.total_bytes, far.sent_bytes
        )


class Backups:
    """Makes backups, and knows the newest one. Belongs to the event loop; the two attributes may be read on any thread."""

    def __init__(
        self, env: Environment, open_store: Callable[[], Store], copies: Copies, cluster_id: bytes, listener: Listener
    ) -> None:
        self._env = env
        self._open_store = open_store
        self._copies = copies
        self._cluster_id = cluster_id
        self._listener = listener
        self.one_at_a_time = asyncio.Lock()
        """Held by a backup, and by whatever removes backups: files that were sent are named by no record for a while."""
        self._jobs: set[_Job] = set()
        self._ending = asyncio.Event()
        self._under_way = UnderWay()
        self.newest: BackupRecord | None = None
        self.known = False
        """Whether the archive was asked."""

    async def look(self) -> None:
        """Ask the archive for the newest backup. Raises KvError."""

        def look() -> BackupRecord | None:
            names = ArchiveNames(self._cluster_id)
            with contextlib.closing(self._open_store()) as store:
                ids = [id for info in store.list(names.backups) if (id := parse_backup(info.name)) is not None]
                return read_backup(store, self._cluster_id, max(ids, key=_made)) if ids else None

        async with self.one_at_a_time:  # or it would take away what a backup notes meanwhile
            self.newest = await on_thread(look, "backups")
            self.known = True

    async def create(self) -> AsyncGenerator[Stage, None]:
        """Make a backup; yield how far it is, and last its record. Closed before the record is written, it makes none.

        Raises KvError.
        """
        job = _Job()
        self._jobs.add(job)
        task = self._under_way.keep(self._make(job))
        ending = asyncio.ensure_future(self._ending.wait())
        try:
            while not task.done() and not ending.done():
                yield job.stage
                await asyncio.wait((task, ending), timeout=PROGRESS_S, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():  # it may hang in a store that does not answer
                raise _ended()
            yield job.stage._replace(record=task.result())
        finally:
            ending.cancel()
            job.abandoned = True
            self._jobs.discard(job)

    def end_calls(self) -> None:
        """End what callers wait for: the node is stopping."""
        self._ending.set()
        for job in self._jobs:
            job.abandoned = True

    async def stop(self) -> None:
        """End what is under way, and wait for that, with a bound."""
        self.end_calls()
        await self._under_way.wait(STOP_S)

    async def _make(self, job: _Job) -> BackupRecord:
        async with self.one_at_a_time:
            try:
                if job.abandoned:
                    raise _Abandoned
                began_s = self._env.clock.monotonic()
                job.stage = Stage("copying")
                async with self._copies.copy("backup") as copy:
                    record = await on_thread(lambda: self._send(job, copy), "backup")
            except _Abandoned:
                raise _ended() from None
            except Exception as error:
                raise tables_failed(error) from error  # what is no error of ours is one of the disk under the copy
        far = job.stage
        seconds = self._env.clock.monotonic() - began_s
        self.newest, self.known = record, True
        self._listener(BackupMade(record.id, record.position.revision, len(record.files), record.length, far.sent_bytes, seconds))
        return record

    def _send(self, job: _Job, copy: Copy) -> BackupRecord:
        job.stage = Stage("sending", copy.position.revision)
        with contextlib.closing(self._open_store()) as store:
            return create_backup(self._env, store, copy.folder, self._cluster_id, job.on_progress)


def _ended() -> KvError:
    return NotServing("the backup was ended before it was made: the node is stopping")


def _made(backup_id: str) -> tuple[str, str]:
    """Return by what the newest backup is found: when it was made, then its revision."""
    revision, _, made = backup_id.partition("-")
    return made, revision
