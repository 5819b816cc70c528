"""What the archiver needs of a log, what it can be told, and what it tells: the ports between it and a server."""

from __future__ import annotations

import dataclasses
from typing import Protocol

from kvserver.archive.dictionary import SMALL_SEGMENT_BYTES
from kvserver.archive.pressure import OnFull, Step
from kvserver.base.limits import MIB
from kvserver.base.types import Epoch, Position
from kvserver.wal.segment import SegmentInfo


class LogSource(Protocol):
    """The log that is archived, as seen from threads beside the event loop; none of these calls may block for long."""

    def sealed(self) -> list[SegmentInfo]:
        """Return the sealed segments, oldest first. None of them goes before ``on_archived`` or ``on_given_up`` allowed it."""

    def visible_revision(self) -> int:
        """Return the newest revision that readers are shown; nothing behind it is archived."""

    def epochs(self) -> list[tuple[Epoch, Position]]:
        """Return the epochs of this node's history, each with the position at which it began, oldest first, current last."""

    def foreign_epochs(self) -> frozenset[Epoch]:
        """Return the epochs that other nodes have claimed in the cluster's register, whether they are of its history or not."""

    def on_archived(self, position: Position) -> None:
        """Hear that everything up to a position is archived, was read back, and is listed: the log may let it go."""

    def on_given_up(self, position: Position) -> None:
        """Hear that nothing more up to a position will be archived, by the operator's own policy: the log may let it go."""

    def on_pressure(self, step: Step, pace_ms: int) -> None:
        """Hear on which step of the ladder the archiver stands, and how far apart groups of commits are to begin."""

    def free_bytes(self) -> int:
        """Return what is free on the log's disk. Raises OSError."""


@dataclasses.dataclass(frozen=True, slots=True)
class ArchiverOptions:
    """How the archiver works."""

    workers: int = 2
    """Segments that are compressed and put at the same time."""
    hurry_workers: int = 4
    """The same while it is behind."""
    level: int = 1
    """Of zstd."""
    queue_bytes: int = 2048 * MIB
    """Sealed and not archived; at so many writes are refused, or segments given up."""
    rate_bytes_per_s: int = 0
    """Of raw log; 0: no limit."""
    on_full: OnFull = "refuse"
    """What happens when the queue is full: ``refuse`` writes, or leave a ``gap`` in the archive."""
    retry_ms: int = 1_000
    """How long to wait after a failure; after each further one twice as long, up to a minute."""
    small_segment_bytes: int = SMALL_SEGMENT_BYTES
    """Segments of at most so many bytes are compressed with the archive's newest dictionary."""

    def __post_init__(self) -> None:
        """Refuse values that do not fit together with ValueError."""
        if self.workers < 1 or self.hurry_workers < self.workers:
            raise ValueError("there must be a worker, and not fewer in a hurry")
        if self.queue_bytes < 1 * MIB:
            raise ValueError("queue_bytes must be at least 1 MiB")
        if self.rate_bytes_per_s < 0 or self.retry_ms < 1:
            raise ValueError("rate_bytes_per_s cannot be negative, and retry_ms must be at least 1")
        if self.on_full not in ("refuse", "gap"):
            raise ValueError("on_full is 'refuse' or 'gap'")


@dataclasses.dataclass(frozen=True, slots=True)
class ArchiveFigures:
    """How the archiver stands, for status and metrics; true of some moment just past."""

    archived: Position | None
    """The end of what is archived without a hole, or the log's begin where nothing is sealed yet; None until that is known."""
    unarchived_segments: int
    """Sealed, and behind that."""
    unarchived_bytes: int
    oldest_unarchived_ms: int
    """For how long the oldest commit in them has been waiting; 0 where there is none."""
    step: Step
    pace_ms: int
    error: str
    """Why something cannot be archived at the moment; empty while nothing fails."""
    failures: int
    """Attempts that failed since the start."""
    answer: tuple[int, str]
    """The newest ask (``Archiver.hurry``) that an attempt which failed began behind, 0 where none did; and why it failed."""
    fenced: str
    """Why this node may not archive any more; empty while it may."""
    segments: int
    """Archived since the start."""
    raw_bytes: int
    stored_bytes: int
    level: int
    """At which the next segment will be compressed."""
    workers_busy: int
    given_up_segments: int
    """Left out since the start, by the policy ``gap``."""
    heard: bool = False
    """Whether the archive has said where it stands."""
    archived_time_ms: int = 0
    """The highest time in the newest segment archived since the start; 0 where there is none."""
