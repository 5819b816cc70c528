"""Logs of several segments and epochs, with every position that they pass through: for tests of logs that were trimmed."""

from __future__ import annotations

import dataclasses
import itertools
import random
from pathlib import Path

from kvserver.base.events import Event
from kvserver.base.fs import FileSystem, read_file
from kvserver.base.paths import SegmentName
from kvserver.base.types import Epoch, Position
from kvserver.wal.reader import SegmentReader
from kvserver.wal.recovery import list_segments, recover
from support.logs import CLUSTER_ID, CREATION, PATHS, Group, Recovery, SmallLog
from support.memfs import MemoryFileSystem


def recover_from(fs: FileSystem, base: Position | None, known: Position | None = None, begun: Epoch | None = None) -> Recovery:
    """Recover the log of ``PATHS`` behind tables that hold ``base``. Raises what recovery raises."""
    groups: list[Group] = []
    events: list[Event] = []

    def apply(first_revision: int, count: int, payload: bytes) -> None:
        groups.append(Group(first_revision, count, payload))

    log = recover(fs, PATHS, CLUSTER_ID, known, apply, events.append, begun, base)
    return Recovery(log, groups, events)


@dataclasses.dataclass
class Segment:
    """A segment as it was written: where it is, and every position that its header and frames show."""

    path: Path
    name: SegmentName
    shows: list[Position]


class History:
    """A log of several segments and epochs, and every position that it passes through."""

    def __init__(self) -> None:
        self.fs = MemoryFileSystem()
        self.groups: list[Group] = []
        self.positions: list[Position] = [CREATION]
        self._ids = itertools.count(1)
        self._epoch = 0
        self.start()

    def start(self) -> None:
        """End the process, if there is one, and begin the next epoch."""
        found = recover_from(self.fs, None) if self._epoch else None
        self._epoch += 1
        self.log = SmallLog(self.fs, new_segment_id=lambda: 1000 + next(self._ids))
        self.log.begin(Epoch(self._epoch, 0xABC0 + self._epoch), found.log if found else None)
        self._note()

    def put(self, *keys: str) -> None:
        """Write a group."""
        self.groups.append(self.log.put(*keys))
        self._note()

    def rotate(self) -> None:
        """Seal the open segment, unless it is empty, which never happens."""
        if self.log.writer.segment.groups:
            self.log.writer.rotate()

    @property
    def end(self) -> Position:
        """Return the position of the log's end."""
        return self.positions[-1]

    @property
    def epoch(self) -> Epoch:
        """Return the newest epoch."""
        return self.end.epoch

    def behind(self, base: Position) -> list[Group]:
        """Return the groups that tables up to there do not hold."""
        return [group for group in self.groups if group.first_revision > base.revision]

    def segments(self) -> list[Segment]:
        """Return the segments that are there, oldest first."""
        found = []
        for name in list_segments(self.fs, PATHS):
            path = PATHS.segment(name)
            reader = SegmentReader(path, read_file(self.fs, path))
            shows = [reader.header.previous, reader.start]
            shows += [reader.position for _ in reader.frames()]
            found.append(Segment(path, name, shows))
        return found

    def without(self, *paths: Path) -> MemoryFileSystem:
        """Return a copy of the disk on which these files are gone."""
        fs = self.fs.clone()
        for path in paths:
            fs.remove(path)
        fs.sync_dir(PATHS.wal)
        return fs

    def _note(self) -> None:
        self.positions.append(self.log.writer.position)


def four_segments() -> History:
    """Two groups in each of four segments: revisions 2-4, 5-7, 8-10, 11-13; the last one is open."""
    history = History()
    for number in range(4):
        if number:
            history.rotate()
        history.put(f"a{number}", f"b{number}")
        history.put(f"c{number}")
    return history


def starts_without_writes() -> History:
    """Revisions 2-4 in epoch 1, nothing in epochs 2 and 3, revisions 5-6 in epoch 4."""
    history = History()
    history.put("a", "b")
    history.put("c")
    for _ in range(3):
        history.start()
    history.put("d", "e")
    return history


def at(history: History, revision: int, epoch: int = 0) -> Position:
    """Return the position of a revision, in its oldest epoch unless one is named."""
    return next(p for p in history.positions if p.revision == revision and (not epoch or p.epoch.number == epoch))


def random_history(rng: random.Random) -> History:
    """Return a log of groups, rotations and starts in any order."""
    history = History()
    for _ in range(rng.randrange(3, 14)):
        kind = rng.randrange(10)
        if kind < 5:
            history.put(*(f"k{rng.randrange(9)}" for _ in range(rng.randrange(1, 4))))
        elif kind < 8:
            history.rotate()
        else:
            history.start()
    return history
