"""What happens between the nodes of a cluster, as events: see ``kvserver.base.events``."""

from __future__ import annotations

import dataclasses

from kvserver.base.events import Event


@dataclasses.dataclass(frozen=True, slots=True)
class StateChanged(Event):
    """A follower went from one state to another, or stays in one for another reason."""

    old: str
    new: str
    why: str


@dataclasses.dataclass(frozen=True, slots=True)
class CopySent(Event):
    """Another node was sent a copy of the store."""

    node: str
    revision: int
    files: int
    bytes: int
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class CopyFetched(Event):
    """A copy of the store was fetched; it takes the place of what there was."""

    source: str
    """An address of a node, or of an archive."""
    revision: int
    files: int
    bytes: int
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class ArchiveCaughtUp(Event):
    """What the log lacked was taken from the archive, as far as that goes."""

    from_revision: int
    upto_revision: int
    segments: int
    bytes: int
    seconds: float


@dataclasses.dataclass(frozen=True, slots=True)
class SuffixLost(Event):
    """This node held commits that the cluster went on without: they are no part of history any more, and kept aside."""

    first_revision: int
    last_revision: int
    """The range is exact: these revisions, and no others."""
    common_epoch: int
    """The last position that this node shares with the cluster: its epoch; its revision is the one before the first lost."""
    kept_in: str
    """The folder that has their segments: ``kvctl wal dump`` reads it. Empty: none of them are in the log any more."""
    files: tuple[str, ...]
    kept_from_revision: int
    """The first of the lost revisions that is in those files; 0: none is. Those before it were in tables alone."""


@dataclasses.dataclass(frozen=True, slots=True)
class LogRewound(Event):
    """The log was cut back to the last position that it shares with the cluster's."""

    revision: int
    epoch: int
    lost_revisions: int
    """0: behind the cut there were only marks, seals and headers."""
    base_revision: int = 0
    """The tables held more, and were exchanged for others, made of the base that ends here and the log; 0: they stayed."""


@dataclasses.dataclass(frozen=True, slots=True)
class RewindBaseKept(Event):
    """A checkpoint is kept that the node can go back to."""

    revision: int


@dataclasses.dataclass(frozen=True, slots=True)
class RewindBaseFailed(Event):
    """Such a checkpoint could not be made or removed; it is tried again."""

    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class ChunkNotTaken(Event):
    """What another node sent does not continue this node's log, or does not check; nothing of it was written."""

    source: str
    reason: str
    times: int
    """In a row."""
