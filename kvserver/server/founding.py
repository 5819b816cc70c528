"""How a node of a cluster finds out, before it has opened anything, which cluster it belongs to."""

from __future__ import annotations

import asyncio

from kvserver.archive.open_store import open_store
from kvserver.base.environment import Environment
from kvserver.base.errors import Code, OpenRefused, ReplicationError
from kvserver.base.fs import read_file
from kvserver.base.identity_file import parse_identity
from kvserver.base.paths import DataPaths
from kvserver.base.types import Identity
from kvserver.replication import store_register
from kvserver.replication.register_records import Founded
from kvserver.server.config import Address, ClusterConfig

FOUNDED_WITHIN_S = 30.0
"""How long a new follower waits for somebody to make the register that it was told of."""

POLL_S = 0.5

_WILDCARDS = ("0.0.0.0", "::")


def reached_at(cluster: ClusterConfig, listen: Address) -> str:
    """Return where other nodes reach this one. Raises OpenRefused where nothing says that."""
    if cluster.advertise is None and listen.host in _WILDCARDS:
        hint = "say where they can, with --advertise HOST:PORT"
        raise OpenRefused(f"other nodes cannot reach this one at {listen}", hint)
    return str(cluster.advertise or listen)


def read_identity(env: Environment, paths: DataPaths) -> Identity | None:
    """Return what a folder is; None where it is nothing yet. Raises Corruption, OSError."""
    return parse_identity(paths, read_file(env.fs, paths.identity)) if env.fs.exists(paths.identity) else None


async def find_register(env: Environment, cluster: ClusterConfig, kept: Identity | None) -> Founded:
    """Return what the register is; make it where this node makes the cluster. Raises KvError.

    A node that has a store (``kept``) knows that without asking, so it starts where the register cannot be reached.
    """
    store = open_store(cluster.register_url, env.fs)
    deadline = env.clock.monotonic() + FOUNDED_WITHIN_S
    try:
        while True:
            try:
                founded = await asyncio.to_thread(store_register.look, store)
            except ReplicationError:
                if kept is None or not kept.register.startswith(store_register.KIND_PREFIX):
                    raise
                return Founded(kept.cluster_id, kept.register.removeprefix(store_register.KIND_PREFIX))
            if founded is None and kept is not None:
                raise OpenRefused(*_not_the_register(kept, cluster.register_url))
            if founded is None and cluster.follow is None:
                founded = await asyncio.to_thread(store_register.found, store, env)
            if founded is not None:
                if kept is not None:
                    store_register.check_same(kept, founded)
                return founded
            if env.clock.monotonic() > deadline:
                raise ReplicationError(
                    Code.REGISTER_UNAVAILABLE,
                    f"{cluster.register_url} is no register yet",
                    "start the node to follow first, and see that both name the same register",
                )
            await asyncio.sleep(POLL_S)
    finally:
        store.close()


def _not_the_register(kept: Identity, url: str) -> tuple[str, str]:
    if kept.register.startswith(store_register.KIND_PREFIX):
        return f"{url} is no register, but this node belongs to one", "see that it is mounted, or name the right address"
    return (
        "this node is alone, its register lies in its own folder",
        f"make it the first node of a cluster with: kvctl register move --data-dir DIR --to {url}",
    )
