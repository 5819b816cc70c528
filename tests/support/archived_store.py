"""A real store on a disk in memory whose log is archived, backed up and restored from, on the thread of the test.

kept = ArchivedStore()
kept.group(Put(1, b"a", b"1"), Put(1, b"b", b"2"))     # one group of two commits
kept.backup()
kept.restart()
kept.archive()
copy = kept.restored(revision=3)                       # the store that opens from it
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kvserver.archive.backup import create_backup
from kvserver.archive.manifest import EpochManifest
from kvserver.archive.names import ArchiveNames
from kvserver.archive.plan import RestorePlan, RestoreTarget, make_plan
from kvserver.archive.records import BackupRecord, ClusterRecord, encode_cluster
from kvserver.archive.restore import RestoreDone, RestoreOptions, restore
from kvserver.archive.segment_writing import CompressOptions, SegmentCompressor
from kvserver.archive.store import ObjectExists, Store
from kvserver.archive.take_over import NewNode
from kvserver.base.environment import Environment
from kvserver.base.fs import FileSystem, opened
from kvserver.base.options import TableOptions
from kvserver.base.paths import DataPaths
from kvserver.base.types import Version
from kvserver.commit.requests import Request
from kvserver.engine.database import Database
from kvserver.replication.local_register import KIND, LocalRegister
from kvserver.storage.content_hash import ContentHash, content_hash
from kvserver.storage.origin import read_origin
from support.clocks import ManualClock
from support.logs import PATHS
from support.memfs import MemoryFileSystem
from support.memory_store import MemoryStore
from support.stores import content, flush, open_store, run_settling, settle, submit
from support.twin_tables import TwinTables

_copies = itertools.count(1)
NODE = NewNode("taker", LocalRegister, KIND)


class ArchivedStore:
    """A store, and an archive that its log is put into whenever a test says so."""

    def __init__(
        self,
        fs: MemoryFileSystem | None = None,
        store: Store | None = None,
        paths: DataPaths = PATHS,
        seed: int = 1,
        tables: TableOptions | None = None,
    ) -> None:
        self.fs = fs if fs is not None else MemoryFileSystem()
        self.store: Store = store if store is not None else MemoryStore()
        self.paths = paths
        self.clock = ManualClock()
        self._seed = seed
        self._tables = tables
        self.options = CompressOptions(block_bytes=4096)
        self._archived: set[str] = set()
        self.database = self._open()
        self.names = ArchiveNames(self.cluster_id)
        origin = read_origin(self.env, paths)
        parent = (origin.cluster_id, origin.position) if origin is not None else (b"", None)
        record = ClusterRecord(self.cluster_id, *parent, "tester", self.clock.now_ms())
        with contextlib.suppress(ObjectExists):  # it goes on with an archive that was there
            self.store.create(self.names.cluster, [encode_cluster(record)])

    @property
    def env(self) -> Environment:
        """Return the outside world as the store and its archive see it."""
        return Environment(self.fs, self.clock, random.Random(self._seed * 1000 + next(_copies)).randbytes)

    @property
    def cluster_id(self) -> bytes:
        """Return the store's cluster."""
        return self.database.identity.cluster_id

    def _open(self) -> Database:
        self._seed += 1
        return open_store(self.fs, clock=self.clock, seed=self._seed, paths=self.paths, hold_archive=True, tables=self._tables)

    def restart(self) -> None:
        """End the store cleanly and open it again: another epoch."""
        self.database.close()
        self.database = self._open()

    def group(self, *requests: Request) -> list[Any]:
        """Carry requests out; those that write, and need no table, lie in one group. Return the answers, errors included."""
        self.clock.advance_ms(1000)
        tickets = [submit(self.database, request) for request in requests]
        settle(self.database)
        return [_outcome(ticket.answer) for ticket in tickets]

    def flush(self) -> int:
        """Write memory into tables."""
        return flush(self.database)

    def hash(self) -> ContentHash:
        """Return the content hash of the store as it is now."""
        self.flush()
        return content_hash(self.database._tables)

    def seal(self) -> None:
        """End the open segment."""
        ticket = self.database.seal()
        while not ticket.done:
            settle(self.database)  # the segment behind it is made ready too
            self.database._archiving.tick()

    def archive(self, seal: bool = True) -> None:
        """Put all sealed segments into the archive that are not there, and list them; the open one is sealed before."""
        if seal:
            self.seal()
        infos = self.database.sealed_segments()
        manifest: EpochManifest | None = None
        for info in infos:
            epoch, branch = info.header.epoch, info.header.branch
            if manifest is None or manifest.epoch != epoch:
                if manifest is not None:
                    manifest.close(epoch, branch)
                manifest = EpochManifest.open(self.store, self.names, epoch, branch, "tester", self.clock)
            if info.path.name in self._archived:
                continue
            with opened(self.fs.open(info.path)) as file:
                compressor = SegmentCompressor(file, info.header, info.end, info.length_bytes, info.path, self.options)
                parts = list(compressor.parts())
            with contextlib.suppress(ObjectExists):  # an attempt before this one was refused later
                self.store.create(self.names.segment(compressor.entry.id), parts)
            manifest.append([compressor.entry])
            self._archived.add(info.path.name)

    def checkpoint(self) -> Path:
        """Make a checkpoint and return its folder."""
        target = Path(f"/copies/{next(_copies)}")
        run_settling(self.database, self.database.checkpoint(target))
        return target

    def backup(self, **options: Any) -> BackupRecord:
        """Make a backup."""
        self.clock.advance_ms(1)
        return create_backup(
            self.env,
            self.store,
            self.checkpoint(),
            self.cluster_id,
            open_tables=lambda path: TwinTables(self.fs, path),
            **options,
        )

    def plan(self, revision: int | None = None, time_ms: int | None = None) -> RestorePlan:
        """Return the plan for a revision, a time, or the newest one."""
        return make_plan(self.store, self.cluster_id, RestoreTarget(revision, time_ms))

    def restore(
        self, plan: RestorePlan | int | None = None, target: Path | None = None, fs: FileSystem | None = None, **options: Any
    ) -> RestoreDone:
        """Restore by a plan, to a revision, or to the newest one."""
        if not isinstance(plan, RestorePlan):
            plan = self.plan(plan)
        disk = fs if fs is not None else self.fs
        env = dataclasses.replace(self.env, fs=disk)
        return restore(env, self.store, plan, target or Path("/restored"), twin_options(disk, **options))

    def restored(self, revision: int | None = None) -> Database:
        """Restore into a new folder, and open that."""
        target = Path(f"/restored/{next(_copies)}")
        self.restore(revision, target)
        return self.open_copy(target)

    def open_copy(self, target: Path, fs: MemoryFileSystem | None = None) -> Database:
        """Open a folder that was restored."""
        return open_store(fs or self.fs, clock=self.clock, seed=next(_copies) + 1000, paths=DataPaths(target))


def twin_options(fs: FileSystem, **options: Any) -> RestoreOptions:
    """Return options with tables that live on this disk."""
    chosen = {"workers": 1, "node": NODE if options.get("take_over") else None, **options}
    return RestoreOptions(open_tables=lambda path: TwinTables(fs, path), **chosen)


def all_of(database: Database, revision: int | None = None) -> dict[tuple[str, bytes], Version]:
    """Return every live key at a revision."""
    return content(database, revision)


def _outcome(answer: Callable[[], Any]) -> Any:
    try:
        return answer()
    except Exception as error:
        return error
