"""What the clients give about a node's archive: how it is doing, backups, and the hash of what a node holds."""

from __future__ import annotations

import dataclasses
import enum


class ArchiveStep(enum.Enum):
    """What a node does about an archive that falls behind; each step is taken above the one before."""

    KEEPING_UP = "keeping up"
    """Nothing: it keeps up."""
    HURRYING = "hurrying"
    """All workers run, and compress with less care."""
    SLOWING = "slowing"
    """Commits are slowed."""
    REFUSING = "refusing"
    """Writes are refused (``ArchiveBehind``)."""
    DROPPING = "dropping"
    """By explicit policy the oldest segments are given up; a new base backup is needed."""
    UNRECOGNIZED = "unrecognized"
    """A step that a newer server knows and this client does not."""


@dataclasses.dataclass(frozen=True, slots=True)
class Backup:
    """A base backup; (epoch, revision, chain) is its position."""

    id: str
    """Its name."""
    epoch: int
    """The epoch of its last revision."""
    revision: int
    """The last revision in it."""
    chain: bytes
    """The chain hash behind that revision."""
    time_ms: int
    """The time of its newest commit, in milliseconds since 1970; 0 where that is not known."""
    made_ms: int
    """When it was made, in milliseconds since 1970."""
    files: int
    """Its files."""
    total_bytes: int
    """Their bytes."""


@dataclasses.dataclass(frozen=True, slots=True)
class BackupProgress:
    """How far a backup is; the last one that ``create_backup`` brings has the backup."""

    stage: str
    """What is being done: ``"waiting"`` for another backup, ``"copying"`` within the node, ``"sending"``."""
    files_done: int
    """Files of the backup that are in the archive."""
    files: int
    """Files of the backup; 0 until that is known."""
    bytes_done: int
    """Bytes of the files that are in the archive."""
    total_bytes: int
    """Bytes of all files; 0 until that is known."""
    sent_bytes: int
    """Bytes that were sent, because the archive did not hold them already."""
    backup: Backup | None
    """What was made; None until it is."""


@dataclasses.dataclass(frozen=True, slots=True)
class ArchiveCheck:
    """One run of something that proves that the archive can be relied on."""

    time_ms: int
    """When it ended, in milliseconds since 1970."""
    ok: bool
    """Whether all was well."""
    what: str
    """What was found, in a sentence."""
    seconds: float
    """How long it took."""


@dataclasses.dataclass(frozen=True, slots=True)
class ArchiveStatus:
    """How a node's archive is doing."""

    url: str
    """Where it is, without credentials."""
    cluster_id: bytes
    """The 16 bytes that name the part of the archive that is this node's."""
    revision: int
    """The newest visible revision of the node."""
    archived_revision: int
    """Everything up to this revision is in the archive; 0 until the archive was heard from."""
    archived_epoch: int
    """The epoch of that revision."""
    archived_time_ms: int
    """The time of the newest commit archived, in milliseconds since 1970; 0 where none was since the node began to serve."""
    unarchived_segments: int
    """Sealed segments that are not archived yet."""
    unarchived_bytes: int
    """Their bytes."""
    oldest_unarchived_age_ms: int
    """How long the oldest commit in them has been waiting; 0 where there is none."""
    step: ArchiveStep
    """What is done about it."""
    pace_ms: int
    """How long each group of commits is held up at the moment."""
    last_error: str
    """Why the last attempt failed; empty once one did not."""
    workers: int
    """Segments that may be archived at the same time."""
    level: int
    """The level of compression."""
    queue_bytes: int
    """Unarchived bytes at which writes are refused, or segments given up."""
    rate_bytes_per_s: int
    """Bytes of the log that may be archived each second; 0: no limit."""
    when_full: str
    """What happens when the queue is full: ``"refuse"`` or ``"gap"``."""
    segments_total: int
    """Segments archived since the node began to serve."""
    raw_bytes_total: int
    """Their bytes in the log."""
    stored_bytes_total: int
    """Their bytes in the archive."""
    failures_total: int
    """Attempts that failed since the node began to serve."""
    last_backup: Backup | None
    """The newest base backup; None where the archive holds none, and until it was heard from."""
    last_verify: ArchiveCheck | None
    """The last time that every byte of the archive was checked; None where it was not since the node began to serve."""
    last_drill: ArchiveCheck | None
    """The last time that the archive was restored and compared with the node; None likewise."""
    warnings: tuple[str, ...]
    """What needs somebody's attention about the archive, one sentence each."""


@dataclasses.dataclass(frozen=True, slots=True)
class ArchiveNowResult:
    """Says how far the archive is."""

    archived_revision: int
    """Everything up to this revision is in the archive."""
    archived_epoch: int
    """The epoch of that revision."""
    epoch: int
    """The primacy under which it was answered."""


@dataclasses.dataclass(frozen=True, slots=True)
class ContentHash:
    """The hash of everything that one revision holds: equal for equal content, however it came to be."""

    epoch: int
    """The epoch of the revision."""
    revision: int
    """The revision that was hashed."""
    chain: bytes
    """The chain hash behind it."""
    sha256: bytes
    """32 bytes, over every key of every namespace, its value, its revisions and its version."""
    keys: int
    """How many keys were hashed, those of the system's own namespace included."""
    took_ms: int
    """How long it took."""
