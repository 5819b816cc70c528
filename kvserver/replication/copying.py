"""How a follower gets its store: from another node, or from the archive; and how it takes the place of what there is."""

from __future__ import annotations

import asyncio
import contextlib

from kvserver.archive.catalog import choose_cluster
from kvserver.base import failpoints
from kvserver.base.errors import Corruption
from kvserver.base.replication_events import CopyFetched
from kvserver.engine.rewind_base import clear_bases
from kvserver.engine.swap import begin_swap, finish_swap, swap_names
from kvserver.replication.bootstrap import Copied, fetch_copy, restore_copy
from kvserver.replication.home import FollowerFloor, Home
from kvserver.replication.messages import Description
from kvserver.replication.peer import Peer
from kvserver.replication.troubles import ArchiveDamaged
from kvserver.replication.vow import UNKNOWN_LOST


async def copy_from_node(home: Home, floor: FollowerFloor, peer: Peer, description: Description) -> Copied:
    """Fetch a copy of another node's store into ``incoming/``. Raises CopyRefused, KvError, OSError."""
    if home.database() is None:
        await home.begin(description.identity.cluster_id, description)
    return await fetch_copy(floor.env, floor.paths, peer.fetch_checkpoint(home.identity()), floor.beside)


async def copy_from_archive(home: Home, floor: FollowerFloor, url: str) -> Copied:
    """Restore the newest state that the archive leads to into ``incoming/``. Raises ArchiveDamaged, KvError, OSError."""
    store = floor.archive(url)
    wanted = True

    def restored(cluster_id: bytes) -> Copied:
        return restore_copy(floor.env, floor.paths, store, cluster_id, floor.open_restored, lambda: wanted)

    try:
        cluster_id = home.identity().cluster_id or await floor.beside(lambda: choose_cluster(store, None), "archive")
        if home.database() is None:
            await home.begin(cluster_id, None)
        return await floor.beside(lambda: restored(cluster_id), "restore")
    except Corruption as error:
        raise ArchiveDamaged(error) from error
    finally:
        wanted = False
        store.close()


async def take_copy(home: Home, floor: FollowerFloor, source: str, copied: Copied, began_s: float, taken: asyncio.Event) -> None:
    """Let a copy take the place of the store; ``taken`` is set if it does. Raises KvError where the store cannot be opened."""
    failpoints.hit("bootstrap.after_copy")
    seconds = floor.env.clock.monotonic() - began_s
    floor.listener(CopyFetched(source, copied.position.revision, copied.files, copied.bytes, seconds))

    decided = False
    database = home.database()
    end = database.log_end().position.revision if database is not None else 0

    def exchange() -> None:
        nonlocal decided
        with contextlib.suppress(OSError):  # they may be of a history that is given up; one that stays leads nowhere
            clear_bases(floor.env, floor.paths)
        if end > copied.position.revision:  # some of it may be no part of history any more: the primary knows how much is
            home.note_lost(UNKNOWN_LOST)
        begin_swap(floor.env, floor.paths, swap_names(floor.paths))
        decided = True
        finish_swap(floor.env, floor.paths)

    try:
        await home.reopen(exchange)
    finally:
        if decided:
            taken.set()
