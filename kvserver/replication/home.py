"""What a follower asks of the node that it is a part of: the interface, and the outside world that it is handed."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Protocol

from kvserver.archive.open_store import open_store
from kvserver.archive.restore_tables import OpenTables
from kvserver.archive.store import Store
from kvserver.base.environment import Environment
from kvserver.base.events import Listener, ignore
from kvserver.base.options import TableOptions
from kvserver.base.paths import DataPaths
from kvserver.base.types import CREATION_REVISION, NO_EPOCH, Epoch
from kvserver.engine.database import Database
from kvserver.engine.table_kit import TableKit
from kvserver.replication.messages import Description, NodeIdentity
from kvserver.replication.peer import Peers
from kvserver.replication.waiting import Beside, Sleep, on_thread
from kvserver.storage.tables import Tables


class Promises(Protocol):
    """What a node has promised; ``kvserver.replication.vow.Vow`` is one."""

    @property
    def promised(self) -> Epoch:
        """Return the highest epoch that the node has promised to obey."""


class Home(Protocol):
    """The node, as its follower sees it. Everything here belongs to the event loop."""

    peers: Peers
    archive_url: str | None
    """Where the cluster's archive is; None: it has none, or this node cannot reach it."""
    cascades: bool
    """Whether the node that is named is to be followed even where it is no primary."""

    @property
    def vow(self) -> Promises:
        """Return what the node has promised."""

    def note_lost(self, revision: int) -> None:
        """Count for no quorum until the log reaches a revision again that may have been acknowledged.

        Durable on return; blocks, and may be called on any thread. Raises OSError.
        """

    def identity(self) -> NodeIdentity:
        """Return who the node is; without a cluster's id as long as it belongs to none."""

    def database(self) -> Database | None:
        """Return the store, open as a follower's; None where the folder holds none."""

    def source(self) -> str:
        """Return the address to follow: the primary as last heard of, else the node that was named; empty: none is known."""

    async def reopen(self, prepare: Callable[[], None]) -> None:
        """Close the store, carry ``prepare`` out on another thread, and open it again as a follower's.

        Where ``prepare`` raises, the store is opened all the same, and then that is raised. Cancelled before it has begun, it
        changes nothing; from then on it goes on to its end, and whoever was cancelled hears of that afterwards
        (``kvserver.replication.waiting.to_the_end``). Raises OpenRefused, Corruption where the store cannot be opened.
        """

    async def begin(self, cluster_id: bytes, description: Description | None) -> None:
        """Remember, durably, which cluster the empty folder belongs to from now on; asked only where ``database`` is None.

        ``description`` is that of the node that said so; None: the archive did.
        """

    def on_epoch(self, epoch: Epoch, primary: str) -> None:
        """Note that an epoch was heard of from the source, and who is its primary (empty: that was not said)."""

    async def on_hash_point(self, revision: int) -> None:
        """Look at the content: exactly this revision is applied, and nothing is taken until this returns."""

    async def on_hash(self, revision: int, sha256: bytes) -> None:
        """Note what the source's content hashed to at a revision."""


@dataclasses.dataclass(frozen=True, slots=True)
class FollowerFloor:
    """The outside world of a follower."""

    env: Environment
    paths: DataPaths
    kit: TableKit
    tables: TableOptions = dataclasses.field(default_factory=TableOptions)
    listener: Listener = ignore
    sleep: Sleep = asyncio.sleep
    beside: Beside = on_thread
    compressions: tuple[str, ...] = ("none",)
    """Those that the peers of this node can undo, best first."""
    open_archive: Callable[[str], Store] | None = None
    """How an archive is opened; None: by its address."""
    open_restored: OpenTables | None = None
    """How the tables of a restore are opened; None: RocksDB."""

    def open_tables(self, paths: DataPaths) -> Tables:
        """Open the tables of a store that nobody has open, or of a checkpoint. Raises Corruption, OSError."""
        return self.kit.open_tables(self.env, paths, self.tables)

    def archive(self, url: str) -> Store:
        """Open an archive. Raises StoreError."""
        return self.open_archive(url) if self.open_archive is not None else open_store(url, self.env.fs)


def holds_nothing(database: Database | None) -> bool:
    """Say whether there is no store, or one in which nothing was ever written."""
    return database is None or database.log_end().position.revision <= CREATION_REVISION


def obeyed(home: Home) -> Epoch:
    """Return the highest epoch that the node obeys: it has promised to, or its log has some of it."""
    promised, database = home.vow.promised, home.database()
    current = database.history.current if database is not None else NO_EPOCH
    return promised if promised.number >= current.number else current
