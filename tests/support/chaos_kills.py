"""A node killed amid a promotion, a rewind or a copy: behind it the cluster is healthy again, and has lost nothing."""

from __future__ import annotations

import contextlib
import random
import signal
from collections.abc import Iterator
from pathlib import Path

from kvclient import Client, ClusterClient, KvClientError
from kvserver.base.paths import DataPaths, parse_base
from kvserver.testing.cluster import ClusterProcesses
from support.chaos import assert_same_content, promoted, state_of, until
from support.chaos_rounds import others, primary_of, wait_until_follows

PASSAGES = {"engine.open.after_recover": 2}
"""At which passage a candidate dies, where it is not the first: it comes there as a follower already."""

PROMOTION = (
    "promotion.after_look",
    "promotion.after_claim",
    "vow.after_write",
    "vow.after_rename",
    "promotion.after_own_promise",
    "promotion.after_promises",
    "promotion.after_catch_up",
    "engine.open.after_recover",
    "wal.create.after_rename",
    "engine.open.after_first_segment",
    "engine.open.after_begun",
    "promotion.after_take_over",
)
START = ("engine.open.after_claim", "engine.open.after_first_segment", "engine.open.after_begun")
REWIND = ("rewind.after_link", "rewind.after_kept", "rewind.after_cut")
BASE = ("rewind.after_base",)
"""Passed only where the tables hold what is given up."""
SWAP = ("swap.after_marker", "swap.after_out", "swap.after_in", "swap.after_unmarked")
BOOTSTRAP = ("bootstrap.after_checkpoint", "bootstrap.after_part", "bootstrap.after_copy")


@contextlib.contextmanager
def armed(cluster: ClusterProcesses, name: str, failpoint: str, passage: int = 1) -> Iterator[None]:
    """Have the processes that a node is given in this block die when they come to a failpoint for the n-th time."""
    cluster[name].environment["KVSERVER_FAILPOINTS"] = f"{failpoint}=kill@{passage}"
    try:
        yield
    finally:
        del cluster[name].environment["KVSERVER_FAILPOINTS"]


def wait_until_killed(cluster: ClusterProcesses, name: str, failpoint: str) -> None:
    until(lambda: cluster[name].exit_code is not None, f"{name} dies at {failpoint}")
    assert cluster[name].exit_code == -signal.SIGKILL, f"{name} ended with {cluster[name].exit_code} at {failpoint}"


def kill_at_promotion(cluster: ClusterProcesses, failpoint: str, rng: random.Random) -> None:
    """A candidate dies in the middle of its promotion; the cluster gets a primary all the same."""
    old = primary_of(cluster)
    candidate, third = rng.sample(others(cluster, old), 2)
    cluster[candidate].stop()
    with armed(cluster, candidate, failpoint, PASSAGES.get(failpoint, 1)):
        cluster[candidate].start()
    wait_until_follows(cluster, candidate, third)
    old_dies, returns_first = rng.random() < 0.5, rng.random() < 0.5
    if old_dies:
        cluster.kill(old)
    with contextlib.suppress(KvClientError):
        cluster.promote(candidate)
    wait_until_killed(cluster, candidate, failpoint)
    if returns_first:
        cluster[candidate].start()
    if old_dies:
        cluster[old].start()
    new = rng.choice([candidate, third, old] if returns_first else [third, old])
    promoted(cluster, new)
    if not returns_first:
        cluster[candidate].start()
    wait_until_follows(cluster, *others(cluster, new))


def kill_at_start(cluster: ClusterProcesses, failpoint: str) -> None:
    """A primary comes back, dies while it begins its next epoch, and comes back once more."""
    old = primary_of(cluster)
    cluster.kill(old)
    with armed(cluster, old, failpoint):
        cluster[old].begin()
    wait_until_killed(cluster, old, failpoint)
    cluster[old].start()
    until(lambda: state_of(cluster, old)[:2] == ("primary", "PRIMARY"), f"{old} is primary again")
    wait_until_follows(cluster, *others(cluster, old))


def leave_suffix(cluster: ClusterProcesses, writes: int = 20, flushed: bool = False) -> tuple[str, str]:
    """Have the primary write what nobody hears of, and another take over; return the old one, which is down, and the new one.

    ``flushed``: into its tables too. Not under a quorum, where nothing of it is shown.
    """
    old = primary_of(cluster)
    cluster.wait_until_caught_up()
    for name in others(cluster, old):
        cluster.kill(name)
    with Client(cluster[old].address, timeout_s=1.0) as kv:
        for number in range(writes):
            with contextlib.suppress(KvClientError):  # under a quorum nobody acknowledges it
                kv.put(b"suffix/%d" % number, b"of the old primary", timeout_s=0.1)
        if flushed:
            kv.flush(timeout_s=20.0)
    cluster.kill(old)
    left = others(cluster, old)
    for name in left:
        cluster[name].begin()
    for name in left:
        cluster[name].wait_until_ready()
    promoted(cluster, left[0])
    with Client(cluster[left[0]].address) as kv:
        kv.put(b"suffix/0", b"of the new primary")
    return old, left[0]


def kill_at_rewind(cluster: ClusterProcesses, failpoint: str) -> None:
    """An old primary dies while it gives up what it had alone; the next time it comes to an end."""
    old, _ = leave_suffix(cluster)
    before = set((cluster[old].data_dir / "lost").glob("*"))
    with armed(cluster, old, failpoint):
        cluster[old].begin()
    wait_until_killed(cluster, old, failpoint)
    cluster[old].start()
    wait_until_follows(cluster, old)
    kept = set((cluster[old].data_dir / "lost").glob("*")) - before
    assert len(kept) == 1, f"the suffix is kept once: {kept}"


def kill_at_base(cluster: ClusterProcesses, failpoint: str) -> None:
    """An old primary whose tables hold what it gives up dies on its way back to a base; the next time it comes to an end."""
    old = primary_of(cluster)
    cluster.wait_until_caught_up()
    with cluster.client(old) as kv:
        kv.flush(timeout_s=20.0)
    until(lambda: bases_of(cluster, old), f"{old} has a base")
    leave_suffix(cluster, flushed=True)
    with armed(cluster, old, failpoint):
        cluster[old].begin()
    wait_until_killed(cluster, old, failpoint)
    cluster[old].start()
    wait_until_follows(cluster, old)
    assert bases_of(cluster, old), "it can be gone back to again"
    assert not any("fetched a copy from" in line for line in cluster[old].log(1000)), "all of it was there"


def bases_of(cluster: ClusterProcesses, name: str) -> list[Path]:
    """Return the checkpoints that a node can go back to."""
    paths = DataPaths(cluster[name].data_dir)
    found = paths.bases.iterdir() if paths.bases.exists() else ()
    return [folder for folder in found if parse_base(folder.name) is not None]


def kill_at_copy(cluster: ClusterProcesses, failpoint: str, rng: random.Random) -> None:
    """A follower dies while it fetches its store anew, or its source does; the next time it comes to an end."""
    old = primary_of(cluster)
    name = rng.choice(others(cluster, old))
    victim = old if failpoint == "bootstrap.after_checkpoint" else name
    cluster[victim].stop()
    with armed(cluster, victim, failpoint):
        cluster[victim].start()
    wait_until_follows(cluster, *others(cluster, old))
    with ClusterClient(cluster[name].address) as asked, contextlib.suppress(KvClientError):
        asked.reinit()
    wait_until_killed(cluster, victim, failpoint)
    cluster[victim].start()
    wait_until_follows(cluster, *others(cluster, old))
    assert_same_content(cluster)
