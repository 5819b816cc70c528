"""The log of a node that serves, as its archiver sees it: read on the archiver's threads, changed only on the event loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kvserver.archive.pressure import Step
from kvserver.base.environment import Environment
from kvserver.base.errors import KvError
from kvserver.base.types import Epoch, Position
from kvserver.commit.refusals import archive_behind, disk_full
from kvserver.engine.database import Database
from kvserver.wal.segment import SegmentInfo

Post = Callable[[Callable[[], None]], None]


class NodeLog:
    """What the archiver asks and tells a node. Each method may be called on any thread."""

    def __init__(self, env: Environment, data_dir: Path, database: Database, post: Post) -> None:
        self._env = env
        self._data_dir = data_dir
        self._database = database
        self._post = post
        self._behind: KvError | None = None
        self._nearly_full: KvError | None = None
        self._pace_ms = 0

    def sealed(self) -> list[SegmentInfo]:
        """Return the sealed segments, oldest first."""
        return self._database.sealed_segments()

    def visible_revision(self) -> int:
        """Return the newest revision that readers are shown."""
        return self._database.marks.visible

    def epochs(self) -> list[tuple[Epoch, Position]]:
        """Return each epoch of the node's history with the position at which it began, oldest first."""
        return self._database.history.epochs

    def foreign_epochs(self) -> frozenset[Epoch]:
        """Return the epochs that other nodes have claimed in the cluster's register."""
        return self._database.history.foreign

    def free_bytes(self) -> int:
        """Return what can still be written to the data folder's disk. Raises OSError."""
        return self._env.fs.free_bytes(self._data_dir)

    def on_archived(self, position: Position) -> None:
        """Let the log go up to a position that is archived."""
        self._post(lambda: self._database.on_archived(position))

    def on_given_up(self, position: Position) -> None:
        """Let the log go up to a position that never will be archived."""
        self._post(lambda: self._database.on_archive_gave_up(position))

    def on_pressure(self, step: Step, pace_ms: int) -> None:
        """Slow writes down, or refuse them, until told otherwise."""

        def on_loop() -> None:
            refuses = step is Step.REFUSING
            self._behind = (self._behind or archive_behind("its queue is full")) if refuses else None
            self._pace_ms = pace_ms
            self._tell()

        self._post(on_loop)

    def on_nearly_full(self, nearly_full: bool) -> None:
        """Refuse writes while the disk has hardly any room left, so that what frees space has all of it."""

        def on_loop() -> None:
            self._nearly_full = (self._nearly_full or disk_full()) if nearly_full else None
            self._tell()

        self._post(on_loop)

    def _tell(self) -> None:
        self._database.set_pressure(self._nearly_full or self._behind, self._pace_ms)
