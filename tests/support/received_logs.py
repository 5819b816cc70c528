"""Logs of followers: a primary's log read by ``LogTail``, taken by a ``ReceivedLog`` on another disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from kvserver.base.events import Event
from kvserver.base.fs import FileSystem, read_file
from kvserver.base.options import WalOptions
from kvserver.base.types import Epoch, Position
from kvserver.wal.node_log import NodeLog
from kvserver.wal.received import ReceivedGroup, ReceivedLog
from kvserver.wal.recovery import RecoveredLog, list_segments, recover
from kvserver.wal.space import LogSpace
from kvserver.wal.tail import LogTail
from support.clocks import ManualClock
from support.logs import CLUSTER_ID, PATHS, Group, SmallLog
from support.memfs import MemoryFileSystem

Chunk: TypeAlias = "tuple[int, int, bytes]"
"""What is shipped: segment id, offset, bytes."""


def chunks(fs: FileSystem, log: NodeLog, begin: tuple[int, int], most_bytes: int) -> Iterator[Chunk]:
    """Yield everything behind a place, as a sender does."""
    tail = LogTail(fs, PATHS, log)
    segment_id, offset = begin
    while True:
        data = tail.read(segment_id, offset, most_bytes)
        if data:
            yield segment_id, offset, data
            offset += len(data)
            continue
        following = tail.after(segment_id) if tail.is_sealed_end(segment_id, offset) else None
        if following is None:
            return
        segment_id, offset = following, 0


class Follower:
    """A follower's log on a disk of its own, as one process has it, and what it was handed."""

    def __init__(
        self,
        fs: FileSystem | None = None,
        base: Position | None = None,
        cluster_id: bytes = CLUSTER_ID,
        wrote: Callable[[Epoch], bool] = lambda epoch: False,
    ) -> None:
        self.fs: FileSystem = fs if fs is not None else MemoryFileSystem()
        self.base = base
        groups: list[Group] = []
        self.groups = groups
        """What recovery applied, and what was taken since; of the latter also what was never synced."""
        self.events: list[Event] = []
        self.told: list[int] = []
        """What it was told to fetch again."""
        self.fs.make_dir(PATHS.wal)
        LogSpace(self.fs, PATHS, WalOptions()).remove_leftovers()
        self.recovered: RecoveredLog = recover(
            self.fs,
            PATHS,
            cluster_id,
            None,
            lambda *group: groups.append(Group(*group)),
            self.events.append,
            base=base,
            follower=True,
            wrote=wrote,
            must_refetch=self.told.append,
        )
        self.log = ReceivedLog(self.fs, PATHS, ManualClock(), cluster_id, base, self.recovered, self.events.append)

    def take(self, chunk: Chunk) -> list[ReceivedGroup]:
        """Take a chunk, without a sync."""
        groups = self.log.take(*chunk)
        self.groups += [Group(group.first_revision, group.count, group.payload) for group in groups]
        return groups

    def missing(self, fs: FileSystem, log: NodeLog, most_bytes: int = 1 << 20) -> list[Chunk]:
        """Return what the other log has and this one lacks."""
        return list(chunks(fs, log, self.place(LogTail(fs, PATHS, log)), most_bytes))

    def place(self, tail: LogTail) -> tuple[int, int]:
        """Return where a sender goes on for this follower."""
        end = self.log.end
        if end.segment_id:
            assert tail.position_at(end.segment_id, end.offset) == end.position
            return end.segment_id, end.offset
        begin = tail.begin_for(end.position.revision + 1)
        assert begin is not None, "what the follower needs is gone"
        return begin

    def follow(self, fs: FileSystem, log: NodeLog, most_bytes: int = 1 << 20) -> Follower:
        """Take everything that the other log has, each chunk synced for itself; return itself."""
        for chunk in self.missing(fs, log, most_bytes):
            self.take(chunk)
            self.log.sync()
        return self


def same_bytes(source: FileSystem, source_log: NodeLog, follower: Follower) -> None:
    """Check that the follower's durable files are the source's, as far as those are durable, and nothing else is there."""
    infos = source_log.extent().segments()
    assert list_segments(follower.fs, PATHS) == [info.name for info in infos]
    for info in infos:
        whole = read_file(source, info.path)[: info.length_bytes]
        assert read_file(follower.fs, info.path) == whole
    assert follower.log.end == source_log.end


def marked_and_sealed() -> SmallLog:
    """A log with marks between the groups, groups of all sizes, and three segments of which the last is open."""
    log = SmallLog(MemoryFileSystem()).begin()
    for number in range(9):
        log.put(*(f"{number}-{index}" for index in range(1 + number % 3)), value=bytes(number * 37))
        if number % 2:
            log.writer.write_mark()
        if number in (3, 6):
            log.writer.rotate()
    return log
