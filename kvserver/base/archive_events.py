"""What happens around the archive, as events: see ``kvserver.base.events``."""

from __future__ import annotations

import dataclasses

from kvserver.base.events import Event


@dataclasses.dataclass(frozen=True, slots=True)
class ArchiveNeedsBackup(Event):
    """The archive begins behind the begin of the store: make a base backup, or nothing in it can be restored."""

    from_revision: int
    """The backup must be of this revision or a later one."""
    archive_url: str


@dataclasses.dataclass(frozen=True, slots=True)
class SegmentArchived(Event):
    """A sealed segment is in the archive, was read back, and is listed in the manifest."""

    segment: str
    last_revision: int
    raw_bytes: int
    stored_bytes: int
    seconds: float
    """From the moment that it was taken up until it had been read back."""


@dataclasses.dataclass(frozen=True, slots=True)
class ArchivePressureChanged(Event):
    """The archiver has fallen behind by a step of the ladder, or caught up by one."""

    step: str
    before: str
    unarchived_bytes: int
    free_bytes: int
    """Of the data folder's disk; -1 where that cannot be told."""


@dataclasses.dataclass(frozen=True, slots=True)
class ArchiveFailing(Event):
    """Something cannot be archived; it is tried again, and the log is kept meanwhile."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class ArchiveRecovered(Event):
    """Nothing around the archive fails any more."""


@dataclasses.dataclass(frozen=True, slots=True)
class ArchiveGap(Event):
    """The archive lacks revisions for good: make a new base backup, or nothing behind them can be restored."""

    after_revision: int
    first_revision: int
    last_revision: int
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class ArchiveFencedOff(Event):
    """This node must not write to its archive any more; it goes on serving, keeps its log, and will refuse writes in the end."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class BallastGivenBack(Event):
    """The disk is nearly full: the ballast was removed, so that what frees space can go on."""

    ballast_bytes: int
    free_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class BallastRestored(Event):
    """The ballast lies on the disk, and is given back when that is nearly full."""

    ballast_bytes: int
