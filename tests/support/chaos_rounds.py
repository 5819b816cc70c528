"""Troubles of a whole cluster under load, one after the other, each of which ends with a healthy cluster again."""

from __future__ import annotations

import random
from collections.abc import Callable

from kvclient import Client, KvClientError
from kvserver.testing.cluster import ClusterProcesses
from support.chaos import promoted, state_of, until, wait_for_state

HEALTHY = ("STREAMING", "CATCHUP_STREAM")


def others(cluster: ClusterProcesses, name: str) -> list[str]:
    return [other for other in cluster.nodes if other != name]


def primary_of(cluster: ClusterProcesses) -> str:
    return cluster.wait_for_primary(timeout_s=60.0)


def wait_until_follows(cluster: ClusterProcesses, *names: str) -> None:
    """Return when these nodes are followers that are shipped the log."""
    for name in names:
        wait_for_state(cluster, name, *HEALTHY)


def kill_primary(cluster: ClusterProcesses, rng: random.Random) -> None:
    """The primary dies, another takes over, the old one comes back."""
    old = primary_of(cluster)
    cluster.kill(old)
    promoted(cluster, rng.choice(others(cluster, old)))
    cluster[old].start()
    wait_until_follows(cluster, old)


def pause_primary(cluster: ClusterProcesses, rng: random.Random) -> None:
    """The primary hangs, another takes over, the old one wakes up: it takes no writes, and steps down."""
    old = primary_of(cluster)
    new = rng.choice(others(cluster, old))
    cluster[old].pause()
    try:
        promoted(cluster, new)
    finally:
        cluster[old].resume()
    with Client(cluster[old].address, timeout_s=5.0) as kv:
        try:
            answer = kv.put(b"behind/%d" % rng.randrange(1 << 30), b"x")
        except KvClientError:
            pass  # refused, or never answered
        else:  # sent on to the new one, which is what clients do
            assert answer.epoch > 1, "the old primary acknowledged a write behind a promotion"
    wait_until_follows(cluster, old)
    assert primary_of(cluster) == new


def move_primary(cluster: ClusterProcesses, rng: random.Random) -> None:
    """Another takes over while the primary is well."""
    old = primary_of(cluster)
    new = rng.choice(others(cluster, old))
    promoted(cluster, new)
    wait_until_follows(cluster, old)


def restart_primary(cluster: ClusterProcesses, rng: random.Random) -> None:
    """The primary dies and comes back as primary: the followers give their promises."""
    old = primary_of(cluster)
    cluster.kill(old)
    cluster[old].start()
    until(lambda: state_of(cluster, old)[1] == "PRIMARY" and state_of(cluster, old)[0] == "primary", f"{old} is primary again")


def kill_follower(cluster: ClusterProcesses, rng: random.Random) -> None:
    """A follower dies and comes back."""
    name = rng.choice(others(cluster, primary_of(cluster)))
    cluster.kill(name)
    cluster[name].start()
    wait_until_follows(cluster, name)


def kill_all(cluster: ClusterProcesses, rng: random.Random) -> None:
    """The power goes, and comes back."""
    old = primary_of(cluster)
    cluster.kill_all()
    cluster.start()
    until(lambda: state_of(cluster, old)[:2] == ("primary", "PRIMARY"), f"{old} is primary again")
    wait_until_follows(cluster, *others(cluster, old))


ROUNDS: dict[str, Callable[[ClusterProcesses, random.Random], None]] = {
    "kill_primary": kill_primary,
    "pause_primary": pause_primary,
    "move_primary": move_primary,
    "restart_primary": restart_primary,
    "kill_follower": kill_follower,
    "kill_all": kill_all,
}
