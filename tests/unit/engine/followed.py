"""A primary and its followers in one process: each on a disk of its own, fed by hand, chunk by chunk."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from kvserver.base.clock import Clock
from kvserver.base.environment import Environment
from kvserver.base.events import Listener, ignore
from kvserver.base.fs import FileSystem
from kvserver.base.options import EngineOptions, PipelineOptions, TableOptions, WalOptions
from kvserver.base.register import EpochRecord, NodeRecord, PolicyNote
from kvserver.base.types import Epoch, LogEnd, Position, Role
from kvserver.commit.requests import Batch, CreateNamespace, Delete, DeleteSpan, DropNamespace, Put, PutRun
from kvserver.commit.ticket import Ticket
from kvserver.engine.database import Database
from kvserver.engine.worker import Post
from kvserver.storage.ranges import prefix_span
from kvserver.wal.tail import LogTail
from support.clocks import ManualClock
from support.logs import PATHS
from support.memfs import MemoryFileSystem
from support.stores import TIGHT, TWIN, do, settle

SHARED = "register-1"


class SharedRegister:
    """A register that several nodes see, in memory."""

    id = SHARED
    url = "memory:register"

    def __init__(self) -> None:
        self.held: dict[int, EpochRecord] = {}

    def records(self) -> list[EpochRecord]:
        return [self.held[number] for number in sorted(self.held)]

    def claim(self, epoch: Epoch, node: NodeRecord, now_ms: int) -> None:
        if epoch.number in self.held:
            raise FileExistsError(epoch.number)
        self.held[epoch.number] = EpochRecord(epoch, node.node_id, now_ms, None, False, node.name)

    def record_branch(self, epoch: Epoch, branch: Position) -> None:
        if self.held[epoch.number].branch is not None:
            raise FileExistsError(epoch.number)
        self.held[epoch.number] = self.held[epoch.number]._replace(branch=branch)

    def record_begun(self, epoch: Epoch) -> None:
        self.held[epoch.number] = self.held[epoch.number]._replace(begun=True)

    def nodes(self) -> list[NodeRecord]:
        return []

    def join(self, node: NodeRecord) -> None:
        return None

    def notes(self) -> list[PolicyNote]:
        return []

    def add_note(self, note: PolicyNote) -> None:
        return None


class Node:
    """A node of a cluster: its disk, and its store while it is open."""

    def __init__(self, name: str, register: SharedRegister, disk: FileSystem | None = None, clock: Clock | None = None) -> None:
        self.name = name
        self.register = register
        self.disk: Any = disk or MemoryFileSystem()
        self.clock: Any = clock or ManualClock()
        self.opens = 0
        self.db: Database

    def open(
        self,
        role: Role,
        cluster_id: bytes | None = None,
        claimed: Epoch | None = None,
        tables: TableOptions | None = None,
        wal: WalOptions = TIGHT,
        pipeline: PipelineOptions | None = None,
        post: Post = lambda callback: callback(),
        listener: Listener = ignore,
        hold_archive: bool = False,
        threads: bool = False,
        register_id: str = SHARED,
    ) -> Database:
        """Open the store in a role."""
        self.opens += 1
        self.db = Database.open(
            PATHS.root,
            lambda env, paths: self.register,
            register_id,
            post,
            TWIN,
            EngineOptions(wal, pipeline or PipelineOptions(), tables or TableOptions(), self.name),
            Environment(self.disk, self.clock, random.Random(f"{self.name} {self.opens}").randbytes),
            listener,
            threads,
            hold_archive,
            role=role,
            claimed=claimed,
            cluster_id=cluster_id,
            node=NodeRecord(self.name, "", f"{self.name}:7400"),
        )
        return self.db

    def claim(self) -> Epoch:
        """Claim the next epoch for the node, as a promotion does."""
        epoch = Epoch(max(self.register.held, default=0) + 1, 77 + self.opens)
        self.register.claim(epoch, NodeRecord(self.name, self.db.identity.node_id, ""), 0)
        return epoch


class Pair:
    """A primary with some history, and a follower of it that has nothing yet."""

    def __init__(self, follower_disk: FileSystem | None = None, clock: Clock | None = None, **follower: Any) -> None:
        self.register = SharedRegister()
        self.a = Node("a", self.register)
        self.b = Node("b", self.register, follower_disk, clock)
        self.primary = self.a.open(Role.PRIMARY)
        self.cluster_id = self.primary.identity.cluster_id
        self.follower = self.b.open(Role.FOLLOWER, self.cluster_id, **follower)

    def ship(self, most_bytes: int = 1 << 20) -> None:
        """Ship all there is, and let the follower hear what is visible."""
        ship(self.primary, self.follower, most_bytes)
        self.hear()

    def hear(self) -> None:
        self.follower.hear(self.primary.marks.visible)
        settle(self.follower)


def write_history(database: Database) -> None:
    """Make commits of every kind."""
    do(database, CreateNamespace("orders"))
    do(database, PutRun(1, [b"a", b"b", b"a"], [b"1", b"2", b"3"]))
    do(database, Put(2, b"a", b"other"))
    do(database, Batch([Delete(1, b"b"), Put(1, b"c", b"4", if_revision=0), Put(1, b"a", b"5")]))
    do(database, Put(1, b"b", b"6"))
    do(database, CreateNamespace("gone"))
    do(database, Put(3, b"x", b"7"))
    do(database, DropNamespace("gone"))
    do(database, DeleteSpan(1, prefix_span(b"c")))


def seal(database: Database) -> None:
    """Seal all so far, with room made ready for it."""
    ticket = database.seal()
    settle(database)
    while database._space is not None and database._space.step():
        settle(database)
    settle(database)
    ticket.answer()


def next_place(tail: LogTail, end: LogEnd) -> tuple[int, int] | None:
    """Return where the bytes behind a log's end begin; None where there are none yet."""
    if not end.segment_id:
        return tail.begin_for(end.position.revision + 1)
    if tail.is_sealed_end(end.segment_id, end.offset):
        behind = tail.after(end.segment_id)
        return (behind, 0) if behind is not None else None
    return end.segment_id, end.offset


def chunks(primary: Database, end: LogEnd, most_bytes: int = 1 << 20) -> Iterator[tuple[int, int, bytes]]:
    """Yield the chunks of a primary's log behind an end."""
    tail = primary.tail()
    place = next_place(tail, end)
    while place is not None:
        data = tail.read(*place, most_bytes)
        if not data:
            return
        yield (*place, data)
        segment_id, offset = place[0], place[1] + len(data)
        place = next_place(tail, LogEnd(end.position, segment_id, offset))


def ship(primary: Database, follower: Database, most_bytes: int = 1 << 20) -> None:
    """Ship all that a follower lacks, chunk by chunk."""
    for chunk in chunks(primary, follower.log_end(), most_bytes):
        take(follower, *chunk)


def take(follower: Database, segment_id: int, offset: int, data: bytes) -> LogEnd:
    """Have a follower receive a chunk to its end; return the answer. Raises the error that it is."""
    ticket: Ticket[LogEnd] = follower.receive(segment_id, offset, data)
    settle(follower)
    return ticket.answer()
