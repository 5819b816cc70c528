"""Nodes of one cluster that archive into one store, each with a log of its own, on the thread of the test.

cluster = ArchiveCluster()
a, b = cluster.primary("a"), cluster.follower("b")
a.segments(2)
a.archive()
b.follow(a)                 # all that a's log holds; ``upto`` a revision
b.promote()                 # the next epoch; a goes on as it did until it hears of it
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from kvserver.archive.archiver import ArchiverOptions
from kvserver.archive.backup import create_backup
from kvserver.archive.catalog import read_catalog
from kvserver.archive.dictionary import Dictionaries
from kvserver.archive.names import ArchiveNames
from kvserver.archive.plan import RestoreTarget, make_plan
from kvserver.archive.records import BackupRecord
from kvserver.archive.restore import restore
from kvserver.archive.segment_reading import check_segment
from kvserver.archive.store import Store
from kvserver.archive.verify import verify_archive
from kvserver.base.environment import Environment
from kvserver.base.paths import DataPaths
from kvserver.base.types import Epoch, LogEnd, Role, Version
from kvserver.engine.database import Database
from support.archived_store import twin_options
from support.archiving import WAL, DatabaseLog, World
from support.clocks import ManualClock
from support.memfs import MemoryFileSystem
from support.memory_store import MemoryStore
from support.stores import content, open_store, run_settling, settle
from support.twin_tables import TwinTables
from unit.engine.followed import Node, SharedRegister, next_place, take


class ArchiveCluster:
    """The nodes, their register and their archive."""

    def __init__(self, store: Store | None = None) -> None:
        self.store: Store = store if store is not None else MemoryStore()
        self.register = SharedRegister()
        self.clock = ManualClock()
        self.cluster_id: bytes | None = None
        self.copies = 0

    def primary(self, name: str) -> Member:
        """Add the node that makes the cluster."""
        return Member(self, name, Role.PRIMARY)

    def follower(self, name: str) -> Member:
        """Add a node with an empty log."""
        return Member(self, name, Role.FOLLOWER)


class Member(World):
    """One node of the cluster; its archiver is there while it is primary."""

    def __init__(self, cluster: ArchiveCluster, name: str, role: Role) -> None:
        self.cluster = cluster
        self.role = role
        self.claimed: Epoch | None = None
        self.node = Node(name, cluster.register, clock=cluster.clock)
        super().__init__(cluster.store, self.node.disk, ArchiverOptions(queue_bytes=1 << 30), clock=cluster.clock)

    def open(self) -> None:
        """Start the node in its role."""
        claimed, self.claimed = self.claimed, None
        self.database: Database = self.node.open(
            self.role,
            self.cluster.cluster_id,
            claimed,
            wal=WAL,
            listener=self.events.append,
            hold_archive=self.hold_archive,
        )
        self.cluster.cluster_id = self.database.identity.cluster_id
        self.names = ArchiveNames(self.database.identity.cluster_id)
        self.log = DatabaseLog(self)
        self.remember()
        if self.role is Role.PRIMARY:
            self.archiver = self.make_archiver(self.node.opens)

    def promote(self) -> None:
        """Become primary under the next epoch, as a promotion ends."""
        self.claimed = self.node.claim()
        self.role = Role.PRIMARY
        self.restart()

    def die_and_follow(self) -> None:
        """End without a word, so that nothing is written behind what was shipped, and go on as follower."""
        self.disk.kill()
        self.disk = self.node.disk = self.disk.clone()
        self.role = Role.FOLLOWER
        self.open()

    def follow(self, source: World, upto: int | None = None, archived: int | None = None) -> None:
        """Take what a log holds, up to the frame that ends with a revision; hear what is visible, and archived."""
        tail, end = source.database.tail(), self.database.log_end()
        place = next_place(tail, end)
        while place is not None and (upto is None or self.database.log_end().position.revision < upto):
            data = tail.read(*place, 1)
            if not data:
                break
            take(self.database, *place, data)
            segment_id, offset = place[0], place[1] + len(data)
            place = next_place(tail, LogEnd(end.position, segment_id, offset))
        marks = source.database.marks
        self.database.hear(marks.visible, marks.archived if archived is None else archived)
        settle(self.database)
        self.remember()

    def backup(self) -> BackupRecord:
        """Make a backup of the node as it is."""
        self.cluster.copies += 1
        self.clock.advance_ms(1)
        target = Path(f"/copies/{self.cluster.copies}")
        run_settling(self.database, self.database.checkpoint(target))
        env = Environment(self.disk, self.clock, random.Random(self.cluster.copies).randbytes)
        return create_backup(
            env, self.sound_store(), target, self.names.cluster_id, open_tables=lambda path: TwinTables(self.disk, path)
        )

    def contents(self) -> dict[tuple[str, bytes], Version]:
        """Return what the node shows."""
        return content(self.database)


def restored(cluster: ArchiveCluster, revision: int | None = None, time_ms: int | None = None) -> Database:
    """Restore what the archive leads to on a disk of its own, and open it."""
    assert cluster.cluster_id is not None
    store: Any = cluster.store
    while hasattr(store, "inner"):
        store = store.inner
    disk, target = MemoryFileSystem(), Path("/restored")
    env = Environment(disk, cluster.clock, random.Random(5).randbytes)
    plan = make_plan(store, cluster.cluster_id, RestoreTarget(revision, time_ms))
    restore(env, store, plan, target, twin_options(disk))
    return open_store(disk, clock=cluster.clock, seed=77, paths=DataPaths(target))


def judge(cluster: ArchiveCluster, newest: Member) -> None:
    """Check that the archive is whole, one run from the creation on, and leads to what the newest primary shows."""
    assert cluster.cluster_id is not None
    store = newest.sound_store()
    catalog = read_catalog(store, cluster.cluster_id)
    assert catalog.problems == ()
    assert len(catalog.runs) == 1
    assert catalog.runs[0].from_creation
    assert catalog.archived is not None
    assert catalog.archived.revision == newest.database.marks.visible
    dictionaries = Dictionaries(store, newest.names)
    for part in catalog.epochs:
        for entry in part.entries:
            check_segment(store, newest.names, entry, dictionaries)
    numbers = [epoch.number for epoch, _ in newest.database.history.epochs]
    for part in catalog.epochs:
        if part.epoch.number in numbers and part.epoch.number < numbers[-1]:
            assert part.closing is not None, f"epoch {part.epoch.number} goes on"
    report = verify_archive(store, cluster.cluster_id, workers=1)
    assert report.is_whole, (report.damaged, report.problems)
    assert content(restored(cluster)) == newest.contents()
    newest.database.marks.check()
