"""A real store whose log is archived by the real archiver, on the thread of the test; and the judge of what is archived.

    world = World()
    world.write(3)              # three commits
    world.seal()
    world.archive()             # turns of the archiver and of the store until nothing is to be done
    world.judge()               # what the archive holds is the log, and nothing went that it does not hold
    world.restart()             # a clean end and another start; ``crash`` without the end

Every segment that was ever sealed is remembered as it lay on disk, so that the judge knows what the archive must hold.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kvserver.archive.archiver import Archiver, ArchiverOptions
from kvserver.archive.catalog import Catalog, read_catalog
from kvserver.archive.dictionary import Dictionaries
from kvserver.archive.names import ArchiveNames
from kvserver.archive.pressure import Step
from kvserver.archive.records import ClusterRecord, SegmentEntry
from kvserver.archive.segment_reading import check_segment, open_segment
from kvserver.archive.store import Store
from kvserver.base.clock import Clock
from kvserver.base.environment import Environment
from kvserver.base.events import Event
from kvserver.base.fs import FileSystem, read_file
from kvserver.base.limits import KIB
from kvserver.base.options import WalOptions
from kvserver.base.paths import DataPaths
from kvserver.base.types import Epoch, Position
from kvserver.commit.requests import Put
from kvserver.engine.database import Database
from kvserver.storage.origin import read_origin
from kvserver.wal.recovery import list_segments
from kvserver.wal.segment import SegmentInfo
from support.clocks import ManualClock
from support.logs import PATHS
from support.memfs import MemoryFileSystem
from support.memory_store import MemoryStore
from support.stores import do, flush, open_store, run_settling, settle

WAL = WalOptions(
    segment_bytes=64 * KIB,
    max_group_bytes=8 * KIB,
    max_frame_bytes=16 * KIB,
    ahead_bytes=32 * KIB,
    fill_step_bytes=16 * KIB,
    seal_age_ms=0,
)
"""Small segments, so that many are made quickly."""

_seeds = itertools.count(1)


class DatabaseLog:
    """A store's log as the archiver sees it; what it is told is carried out at once."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.archived: list[Position] = []
        self.given_up: list[Position] = []
        self.pressure: list[tuple[Step, int]] = []
        self.free = 1 << 40

    def sealed(self) -> list[SegmentInfo]:
        """Return the sealed segments."""
        return self._world.database.sealed_segments()

    def visible_revision(self) -> int:
        """Return the newest visible revision."""
        return self._world.database.marks.visible

    def epochs(self) -> list[tuple[Epoch, Position]]:
        """Return the epochs of the store's history."""
        return list(self._world.database.history._epochs)

    def foreign_epochs(self) -> frozenset[Epoch]:
        """Return the epochs that other nodes have claimed."""
        return self._world.database.history.foreign

    def on_archived(self, position: Position) -> None:
        """Let the store hear of it."""
        self.archived.append(position)
        self._world.database.on_archived(position)
        settle(self._world.database)

    def on_given_up(self, position: Position) -> None:
        """Let the store hear of it."""
        self.given_up.append(position)
        self._world.database.on_archive_gave_up(position)
        settle(self._world.database)

    def on_pressure(self, step: Step, pace_ms: int) -> None:
        """Note it."""
        self.pressure.append((step, pace_ms))

    def free_bytes(self) -> int:
        """Return what the test says is free."""
        return self.free


class World:
    """One node, its disk, its archive, and a memory of every segment that it ever sealed."""

    def __init__(
        self,
        store: Store | None = None,
        disk: MemoryFileSystem | None = None,
        options: ArchiverOptions | None = None,
        paths: DataPaths = PATHS,
        hold_archive: bool = True,
        fs: Callable[[MemoryFileSystem], FileSystem] = lambda disk: disk,
        clock: ManualClock | None = None,
    ) -> None:
        self.store: Store = store if store is not None else MemoryStore()
        self.disk = disk or MemoryFileSystem()
        self.options = options or ArchiverOptions(queue_bytes=1 << 30)
        self.paths = paths
        self.hold_archive = hold_archive
        self.clock = clock or ManualClock()
        self.events: list[Event] = []
        self.raw: dict[tuple[Epoch, int], bytes] = {}
        """Every sealed segment as it lay on disk, by epoch and first revision."""
        self._fs = fs
        self.open()

    def open(self) -> None:
        """Start the node."""
        seed = next(_seeds)
        self.database: Database = open_store(
            self._fs(self.disk),
            WAL,
            clock=self.clock,
            listener=self.events.append,
            seed=seed,
            paths=self.paths,
            hold_archive=self.hold_archive,
        )
        self.names = ArchiveNames(self.database.identity.cluster_id)
        self.log = DatabaseLog(self)
        self.remember()
        self.archiver = self.make_archiver(seed)

    def make_archiver(self, seed: int = 0, clock: Clock | None = None) -> Archiver:
        """Return an archiver of the node as it runs now."""
        env = Environment(self._fs(self.disk), clock or self.clock, random.Random(seed).randbytes)
        origin = read_origin(env, self.paths)
        parent = (origin.cluster_id, origin.position) if origin is not None else (b"", None)
        record = ClusterRecord(self.names.cluster_id, *parent, "tester", 1)
        return Archiver(env, lambda: self.store, self.names, self.log, self.options, self.events.append, "tester", record)

    def remember(self) -> None:
        """Remember what is sealed, before anybody can let it go."""
        for info in self.database.sealed_segments():
            key = (info.header.epoch, info.header.first_revision)
            if key not in self.raw and self.disk.exists(info.path):
                self.raw[key] = read_file(self.disk, info.path)

    def write(self, commits: int = 1, value_bytes: int = 20) -> None:
        """Make so many commits."""
        for _ in range(commits):
            revision = self.database.marks.assigned + 1
            self.clock.advance_ms(1)
            do(self.database, Put(1, b"key-%d" % (revision % 50), b"%d " % revision + bytes(value_bytes)))

    def seal(self) -> None:
        """Seal the open segment."""
        ticket = self.database.seal()
        while not ticket.done:
            settle(self.database)
            self.database._space.step()
        ticket.answer()
        self.remember()

    def segments(self, count: int, commits: int = 2) -> None:
        """Write so many sealed segments."""
        for _ in range(count):
            self.write(commits)
            self.seal()

    def flush(self) -> None:
        """Write memory into tables, so that nothing but the archive keeps the log."""
        flush(self.database)
        self.database.tick()
        settle(self.database)

    def archive(self) -> None:
        """Let the archiver work until there is nothing that can be done now."""
        while self.archiver.run_once():
            pass

    def fork(self, target: Path, store: Store) -> World:
        """Return a node that opens from a checkpoint of this one, a store of its own, and archives into a store."""
        run_settling(self.database, self.database.checkpoint(target))
        return World(store, self.disk, self.options, DataPaths(target))

    def restart(self) -> None:
        """End cleanly and start again: another epoch."""
        self.database.close()
        self.open()

    def crash(self) -> None:
        """End without a word and start again."""
        self.disk.kill()
        self.disk = self.disk.clone()
        self.open()

    # -- looking --------------------------------------------------------------------------------------------------

    @property
    def archived(self) -> int:
        """Return the revision up to which everything is archived, as the archiver has it."""
        position = self.archiver.figures().archived
        return position.revision if position is not None else 0

    def on_disk(self) -> list[int]:
        """Return the first revision of each segment on disk, the open one included."""
        return [name.first_revision for name in list_segments(self.disk, self.paths)]

    def of(self, kind: type[Event]) -> list[Any]:
        """Return the events of a kind."""
        return [event for event in self.events if type(event) is kind]

    def entries(self) -> list[SegmentEntry]:
        """Return what the manifests list, oldest first."""
        catalog = self.catalog()
        return [entry for part in catalog.epochs for entry in part.entries] if catalog is not None else []

    def catalog(self) -> Catalog | None:
        """Return what the archive holds; None where it does not know the cluster yet."""
        if not list(self.sound_store().list(self.names.prefix)):
            return None
        return read_catalog(self.sound_store(), self.names.cluster_id)

    def sound_store(self) -> Store:
        """Return the store without what a test has put around it."""
        store: Any = self.store
        while hasattr(store, "inner"):
            store = store.inner
        return store  # type: ignore[no-any-return]

    def judge(self, gaps: bool = False) -> None:
        """Check that what is listed is the log, byte for byte, without a hole, and that nothing else went from the disk."""
        store = self.sound_store()
        dictionaries = Dictionaries(store, self.names)
        catalog = self.catalog()
        runs = catalog.runs if catalog is not None else ()
        assert catalog is None or catalog.problems == ()
        listed: set[tuple[Epoch, int]] = set()
        for part in catalog.epochs if catalog is not None else ():
            for entry in part.entries:
                check_segment(store, self.names, entry, dictionaries)
                raw = b"".join(open_segment(store, self.names, entry, dictionaries).raw_blocks())
                key = (entry.start.epoch, entry.start.revision + 1)
                assert raw == self.raw[key], f"the archive holds other bytes of {key}"
                listed.add(key)
        if not gaps:
            assert len(runs) <= 1, runs
            there = {(info.header.epoch, info.header.first_revision) for info in self.database.sealed_segments()}
            gone = self.raw.keys() - there
            assert gone <= listed, f"went from the disk without being archived: {sorted(gone - listed)}"
        if self.log.archived:
            assert self.log.archived[-1].revision <= runs[-1].end.revision
        self.database.marks.check()
