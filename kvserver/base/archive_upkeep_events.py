"""What becomes of backups, checks, drills and retention, as events: see ``kvserver.base.events``."""

from __future__ import annotations

import dataclasses

from kvserver.base.events import Event


@dataclasses.dataclass(frozen=True, slots=True)
class BackupMade(Event):
    """A base backup is in the archive."""

    backup: str
    revision: int
    files: int
    total_bytes: int
    sent_bytes: int
    """What the archive did not hold already."""
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class BackupFailed(Event):
    """A base backup was not made."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class ArchiveVerified(Event):
    """Every byte of the archive was read, and everything checks."""

    what: str
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class ArchiveVerifyFailed(Event):
    """Something in the archive does not check, or it could not be read."""

    reason: str
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class DrillPassed(Event):
    """The archive was restored into a scratch folder, and what came of it is equal to the node."""

    revision: int
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class DrillFailed(Event):
    """The archive could not be restored, or what came of it is not equal to the node."""

    reason: str
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class RetentionApplied(Event):
    """What need not be kept any more was removed from the archive."""

    what: str
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class RetentionFailed(Event):
    """What need not be kept any more was not removed from the archive, or not all of it; it is tried again."""

    reason: str
