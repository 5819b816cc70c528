"""What primary and follower have in common of their logs: who reads figures, deletes segments or ships bytes asks no further."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from kvserver.base.types import LogEnd, Position
from kvserver.wal.segment import SegmentInfo


class LogExtent(NamedTuple):
    """The segments of a log at one moment, and how far the newest of them is durable."""

    sealed: list[SegmentInfo]
    """Those that have a successor, oldest first. Never changed, only replaced."""
    last: SegmentInfo | None
    """The newest one; its end and its length are those of what is durable of it. None: there is no segment."""
    last_is_sealed: bool
    """Whether its seal is durable: on a follower, until the next segment has come."""

    def segments(self) -> list[SegmentInfo]:
        """Return all of them, oldest first."""
        return self.sealed if self.last is None else [*self.sealed, self.last]


class NodeLog(Protocol):
    """The log of a node, whatever its role. All of this may be called beside the thread that writes it, but for the two ends."""

    syncs: int
    bytes_written: int

    @property
    def end(self) -> LogEnd:
        """Return where the log durably ends."""

    @property
    def position(self) -> Position:
        """Return the position of that end."""

    @property
    def sealed(self) -> list[SegmentInfo]:
        """Return the sealed segments that have a successor whose name is durable, oldest first."""

    def extent(self) -> LogExtent:
        """Return the segments and the durable end, as they are at one moment."""

    def sealed_revision(self) -> int:
        """Return the last revision that no unsealed segment can hold."""

    def total_bytes(self) -> int:
        """Return the bytes of all segments, the newest one as far as it is written."""

    def first_revision(self) -> int:
        """Return the first revision of the oldest segment; it may hold none yet."""

    def forget(self, oldest: SegmentInfo) -> None:
        """Take the oldest sealed segment, whose file was removed, off the list. Raises ValueError for any other segment."""

    def sync_folder(self) -> None:
        """Sync the log's folder for the deleter. Raises OSError, which says nothing about the log."""

    def may_seal(self) -> bool:
        """Say whether the open segment is to be sealed for its age."""

    def can_seal(self) -> bool:
        """Say whether the open segment can be sealed on demand."""

    def close(self) -> None:
        """End the log as its role does. Raises OSError."""

    def abandon(self) -> None:
        """Close the files as they are, after a failure."""
