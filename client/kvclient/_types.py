"""The values that the clients take and give: entries, results, mutations, tokens, levels of durability.

Keys and values are ``bytes`` everywhere. A revision is the number of a commit: consecutive, from 2 in a new store.
"""

from __future__ import annotations

import dataclasses
import enum
from typing import NamedTuple


class Durability(enum.Enum):
    """How well a commit is kept.

    A request may ask for ``POLICY`` or ``MEMORY`` (``sync`` also for ``LOCAL``); an answer names the level reached.
    """

    POLICY = "policy"
    """In requests: as the cluster's policy says. Never in answers."""
    MEMORY = "memory"
    """Applied in memory and on its way to the disk; a crash may still take it back."""
    LOCAL = "local"
    """Synced to the primary's disk."""
    REPLICATED = "replicated"
    """Synced on the members that the policy names."""
    UNRECOGNIZED = "unrecognized"
    """In answers: a level that a newer server knows and this client does not."""


class SessionToken(NamedTuple):
    """A position that a client has seen; a read that carries it never goes behind it.

    Tokens order by epoch first and revision second. Hand ``client.session`` to another client (also in another process)
    to let it read what this one wrote.
    """

    epoch: int
    revision: int


NO_SESSION = SessionToken(0, 0)
"""The token of a client that has seen nothing; a read that carries it waits for nothing."""


class Entry(NamedTuple):
    """One key at one revision."""

    key: bytes
    """The key."""
    value: bytes
    """The value; empty in a scan of keys only."""
    create_revision: int
    """The commit that created the key, since its last deletion."""
    mod_revision: int
    """The commit that wrote this version; the figure to give as ``if_revision``."""
    version: int
    """How often the key was written since its creation, from 1."""


class HistoryEntry(NamedTuple):
    """What one commit did to a key."""

    revision: int
    """The commit."""
    entry: Entry | None
    """The version that it wrote; None where it deleted the key."""


class WriteResult(NamedTuple):
    """What a put became."""

    revision: int
    """The number of the commit."""
    reached: Durability
    """The level reached when the answer was sent."""
    epoch: int
    """The primacy under which it was committed."""


class DeleteResult(NamedTuple):
    """What a deletion became."""

    deleted: int
    """How many keys were deleted; with 0 no commit was made."""
    revision: int
    """The number of the commit or, with nothing to delete, the revision that showed it."""
    reached: Durability
    """The level reached when the answer was sent."""
    epoch: int
    """The primacy under which it was answered."""


class BatchResult(NamedTuple):
    """What an atomic batch became."""

    put: int
    """How many keys were put."""
    deleted: int
    """How many keys were deleted."""
    revision: int
    """The number of the one commit that holds them all."""
    reached: Durability
    """The level reached when the answer was sent."""
    epoch: int
    """The primacy under which it was committed."""


class PutManyResult(NamedTuple):
    """What many puts became, each in a commit of its own."""

    written: int
    """How many keys were put."""
    revision: int
    """The newest of the commits; 0 where nothing was put."""
    reached: Durability
    """The level that it had reached when its answer was sent."""
    epoch: int
    """The primacy under which it was committed."""


class SyncResult(NamedTuple):
    """Says which revision has reached which level."""

    revision: int
    """The revision waited for."""
    reached: Durability
    """The level reached."""
    epoch: int
    """The primacy under which it was answered."""


@dataclasses.dataclass(frozen=True, slots=True)
class Put:
    """Puts one key, as part of an atomic batch.

    ``if_absent`` and ``if_revision`` exclude each other; ``if_revision=0`` stands for a key that does not exist.
    ``namespace`` is the client's own where it is None.
    """

    key: bytes
    value: bytes
    if_absent: bool = False
    if_revision: int | None = None
    namespace: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Delete:
    """Deletes one key, as part of an atomic batch; a key that is not there is no error."""

    key: bytes
    if_revision: int | None = None
    namespace: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class DeleteRange:
    """Deletes the keys ``k`` with ``start <= k < end``, as part of an atomic batch.

    An empty ``start`` or ``end`` stands for the namespace's first key or for its end.
    """

    start: bytes
    end: bytes
    namespace: str | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class DeletePrefix:
    """Deletes the keys that begin with ``prefix``, as part of an atomic batch."""

    prefix: bytes
    namespace: str | None = None


Mutation = Put | Delete | DeleteRange | DeletePrefix
"""What an atomic batch is made of."""


@dataclasses.dataclass(frozen=True, slots=True)
class Namespace:
    """One namespace of the catalogue."""

    name: str
    """Its name; empty: the default one."""
    id: int
    """Its number, never used again."""
    create_revision: int
    """The commit that created it; 1 for the default one."""
    keys: int = 0
    """How many keys it holds: exact as of the last flush; keys put since count as new."""
    size_bytes: int = 0
    """Bytes of its keys and values, their newest versions only, counted in the same way."""


@dataclasses.dataclass(frozen=True, slots=True)
class DropResult:
    """What dropping a namespace became."""

    namespace: Namespace
    """The namespace as it was."""
    revision: int
    """The number of the commit."""
    epoch: int
    """The primacy under which it was committed."""


@dataclasses.dataclass(frozen=True, slots=True)
class FlushResult:
    """Says how far the tables are."""

    flushed_revision: int
    """Everything up to this revision is in tables."""
    epoch: int
    """The primacy under which it was answered."""


@dataclasses.dataclass(frozen=True, slots=True)
class CheckpointResult:
    """What a checkpoint holds; (epoch, revision, chain) is its position."""

    target_dir: str
    """The folder on the node's disk."""
    epoch: int
    """The epoch of its last revision."""
    revision: int
    """The last revision in it."""
    chain: bytes
    """The chain hash behind that revision."""
    table_files: int
    """Its tables."""
    table_bytes: int
    """Their bytes; hard links share them with the store until either merges its own."""


@dataclasses.dataclass(frozen=True, slots=True)
class CompactResult:
    """Says what can still be read."""

    oldest_readable_revision: int
    """The oldest revision that can be read at."""
    revision: int
    """The number of the commit or, where nothing had to be given up, the newest visible revision."""
    epoch: int
    """The primacy under which it was answered."""


class Hold(NamedTuple):
    """One reason why a node keeps segments of its log."""

    name: str
    """Its name, for instance ``"flush"``."""
    revision: int
    """The first revision that it needs."""


@dataclasses.dataclass(frozen=True, slots=True)
class Status:
    """What a node is and how far it is."""

    role: str
    """The part that the node plays, for instance ``"primary"``."""
    node: str
    """The node's name."""
    cluster_id: bytes
    """The 16 bytes that name the cluster."""
    epoch: int
    """The number of the primacy."""
    epoch_nonce: int
    """The random part of the epoch; the same number with another nonce is another primacy."""
    revision: int
    """The newest visible revision."""
    assigned_revision: int
    """The newest revision given to a commit."""
    applied_revision: int
    """Applied in memory."""
    durable_revision: int
    """Synced to this node's disk."""
    visible_revision: int
    """What readers are shown."""
    oldest_readable_revision: int
    """The oldest revision that can be read at."""
    chain: bytes
    """The chain hash behind the durable revision; equal (epoch, revision, chain) prove equal history."""
    keys: int
    """How many keys exist in all namespaces: exact as of ``flushed_revision``; keys put since count as new."""
    memory_bytes: int
    """Bytes of keys and values held in memory because they are in no table yet, and of their bookkeeping."""
    wal_segments: int
    """Segments of the log on disk."""
    wal_bytes: int
    """Bytes of the log on disk."""
    flushed_revision: int
    """Everything up to this revision is in tables; a start replays the log from here on."""
    table_files: int
    """Tables on disk."""
    table_bytes: int
    """Bytes of the tables on disk."""
    level0_files: int
    """Tables that are not merged with others yet."""
    pending_compaction_bytes: int
    """Bytes that wait to be merged."""
    flushes: int
    """Flushes since the node began to serve."""
    holds: tuple[Hold, ...]
    """Who keeps segments of the log from being deleted, and from which revision on."""
    archived_revision: int
    """Everything up to this revision is in the archive; 0 without one, and until it was heard from."""
    archive_url: str
    """Where the archive is, without credentials; empty: there is none."""
    uptime_ms: int
    """Milliseconds since the node began to serve."""
    server_version: str
    """The version of the server's software."""
    format_version: int
    """The version of the format on disk."""
    warnings: tuple[str, ...]
    """What needs somebody's attention, one sentence each."""
