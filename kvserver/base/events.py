"""What happens inside, as values: logging and metrics are two listeners, tests a third.

A listener is called on whatever thread the thing happened on and must neither block nor raise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """Something that happened."""


@dataclasses.dataclass(frozen=True, slots=True)
class StoreCreated(Event):
    """A data folder was made into a new store."""

    data_dir: str
    cluster_id: str


@dataclasses.dataclass(frozen=True, slots=True)
class TornTailCut(Event):
    """Recovery found a group that was being written when the machine stopped, cut it and kept it aside."""

    segment: str
    offset: int
    length_bytes: int
    first_revision: int
    last_revision: int
    kept_as: str


@dataclasses.dataclass(frozen=True, slots=True)
class LogRecovered(Event):
    """The log was read back and everything in it made durable."""

    segments: int
    commits: int
    revision: int
    bytes_read: int
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class EpochBegun(Event):
    """A new primacy began at this revision."""

    number: int
    nonce: int
    revision: int


@dataclasses.dataclass(frozen=True, slots=True)
class SegmentSealed(Event):
    """A segment got its trailer and will not change any more."""

    segment: str
    last_revision: int
    length_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class SpaceUnavailable(Event):
    """Room for the log could not be made ready; writes are refused once what is ready is used up."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class SpaceAvailable(Event):
    """Room for the log can be made ready again."""


@dataclasses.dataclass(frozen=True, slots=True)
class LogPoisoned(Event):
    """The log failed; nothing is acknowledged any more and the process must end."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class SegmentsDeleted(Event):
    """Segments that nothing needs any more were removed."""

    segments: int
    bytes: int
    first_kept_revision: int


@dataclasses.dataclass(frozen=True, slots=True)
class SegmentsNotDeleted(Event):
    """Segments that nothing needs could not be removed, or not durably; it is tried again."""

    segment: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class FlushHelperDied(Event):
    """The process that builds tables ended by itself; what it was building is built again."""

    exit_code: int
    """Negative: the signal that ended it."""
    will_restart: bool


@dataclasses.dataclass(frozen=True, slots=True)
class TableFlushed(Event):
    """What memory held up to a revision is in a table now."""

    revision: int
    rows: int
    history_rows: int
    table_bytes: int
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class FlushFailing(Event):
    """Memory cannot be written into a table; it is tried again, and writes wait or are refused once memory is full."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class FlushRecovered(Event):
    """Memory can be written into tables again."""


@dataclasses.dataclass(frozen=True, slots=True)
class HistoryGivenUp(Event):
    """The rows of history that can be read no more were removed."""

    oldest_readable_revision: int


@dataclasses.dataclass(frozen=True, slots=True)
class NamespaceRemoved(Event):
    """The keys of a dropped namespace were removed from the tables."""

    namespace: str
    namespace_id: int


@dataclasses.dataclass(frozen=True, slots=True)
class UpkeepFailing(Event):
    """What is no longer needed could not be removed from the tables; it is tried again."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class CheckpointMade(Event):
    """A copy of the store was made."""

    target_dir: str
    revision: int
    table_files: int
    table_bytes: int


Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Listen to nothing."""
