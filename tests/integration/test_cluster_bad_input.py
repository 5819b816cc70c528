"""Clusters put together wrongly, and registers that cannot be reached: refused or reported by name, and nothing is lost."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from integration.kvctl_runs import Kvctl
from kvclient import Client
from kvserver.testing.cluster import ClusterProcesses, ClusterServer, free_ports
from kvserver.testing.process import ServerFailed
from support.chaos import (
    LONG,
    Ledger,
    assert_same_content,
    cluster_of,
    promoted,
    state_of,
    until,
    wait_for_state,
)
from support.chaos_kills import armed, wait_until_killed
from support.chaos_rounds import wait_until_follows

pytestmark = [LONG, pytest.mark.timeout(240)]


def node_of(cluster: ClusterProcesses, name: str, data_dir: Path, *flags: str) -> ClusterServer:
    """Return one more node, on the register of a cluster unless the flags name another."""
    (port,) = free_ports(1)
    listen = f"127.0.0.1:{port}"
    own = ("--name", name, "--register", cluster.register_url, *flags)
    node = cluster.nodes[name if name not in cluster.nodes else f"{name}-{port}"] = ClusterServer(
        name, own, data_dir, (), None, 60.0, None, listen
    )
    return node


def refusal(node: ClusterServer) -> str:
    """Return what a node says that does not start."""
    with pytest.raises(ServerFailed) as failed:
        node.start()
    assert node.exit_code == 1, "it says why, and ends"
    return str(failed.value)


def test_two_nodes_that_were_told_to_follow_nobody_make_one_cluster(tmp_path: Path) -> None:
    with cluster_of(tmp_path, names=("n1",), starts=False) as cluster:
        other = node_of(cluster, "n2", tmp_path / "n2")
        cluster["n1"].begin()
        other.begin()
        cluster["n1"].wait_until_ready()
        other.wait_until_ready()
        primary = cluster.wait_for_primary()
        (follower,) = {"n1", "n2"} - {primary}
        wait_until_follows(cluster, follower)
        with cluster.client(primary) as kv:
            kv.put(b"one", b"cluster")
        assert_same_content(cluster)


def test_a_copy_of_a_data_folder_that_is_behind_does_not_start(tmp_path: Path) -> None:
    with cluster_of(tmp_path, names=("n1", "n2")) as cluster:
        cluster.wait_until_caught_up()
        cluster["n1"].stop()
        shutil.copytree(tmp_path / "n1", tmp_path / "copy")
        cluster["n1"].start()
        assert "the log ends before epoch 2" in refusal(node_of(cluster, "n1", tmp_path / "copy"))


def test_a_copy_of_a_running_primary_deposes_it_and_one_of_the_two_stands_still(tmp_path: Path) -> None:
    with cluster_of(tmp_path, names=("n1", "n2")) as cluster:
        with cluster.client("n1") as kv:
            kv.put(b"one", b"x")
        cluster.wait_until_caught_up()
        shutil.copytree(tmp_path / "n1", tmp_path / "copy")
        copy = node_of(cluster, "n1", tmp_path / "copy")
        copy.start()
        until(lambda: state_of(cluster, "n1")[1] not in ("", "PRIMARY"), "the first one takes no writes any more")
        with Client(cluster["n1"].address, timeout_s=5.0) as kv:
            assert kv.put(b"split", b"brain").epoch == 2, "what comes to the first one is sent on to the copy"
        until(lambda: "copy of its data folder" in state_of(cluster, "n1")[2], "and says why it follows nobody")
        with Client(copy.address) as kv:
            kv.put(b"two", b"x")
        wait_until_follows(cluster, "n2")


def test_followers_that_follow_themselves_or_each_other_are_told_so(tmp_path: Path) -> None:
    with cluster_of(tmp_path, names=("n1",), starts=False) as cluster:
        with armed(cluster, "n1", "engine.open.after_lock"):
            cluster["n1"].begin()  # the register is there then, and no primary
        wait_until_killed(cluster, "n1", "engine.open.after_lock")
        (port,) = free_ports(1)
        itself = node_of(cluster, "n4", tmp_path / "n4", "--listen", f"127.0.0.1:{port}", "--follow", f"127.0.0.1:{port}")
        with pytest.raises(ServerFailed, match="is this node itself"):
            itself.start()
        ports = free_ports(2)
        one, other = (
            node_of(cluster, name, tmp_path / name, "--listen", f"127.0.0.1:{own}", "--follow", f"127.0.0.1:{followed}")
            for name, own, followed in (("n2", *ports), ("n3", *reversed(ports)))
        )
        one.begin()
        other.begin()
        one.wait_until_ready()
        other.wait_until_ready()
        for name in ("n2", "n3"):
            wait_for_state(cluster, name, "EMPTY", reason="takes this node for the primary")


def test_a_node_at_the_wrong_place_is_named(tmp_path: Path) -> None:
    with cluster_of(tmp_path / "a", names=("n1", "n2")) as one, cluster_of(tmp_path / "b", names=("n1",)) as other:
        one.wait_until_caught_up()
        one["n2"].stop()
        moved = node_of(one, "n2", tmp_path / "a" / "n2", "--register", other.register_url)
        assert "register" in refusal(moved)
        one["n2"].start()
        wait_until_follows(one, "n2")
        # A node of another cluster answers where the primary did.
        address = one["n1"].address
        one["n1"].kill()
        other["n1"].stop()
        stranger = ClusterServer(
            "n1",
            ("--name", "n1", "--register", other.register_url, "--advertise", address),
            tmp_path / "b" / "n1",
            (),
            None,
            30.0,
            None,
            address,
        )
        stranger.start()
        try:
            why = wait_for_state(one, "n2", "FAILED", reason="is a node of cluster")
            assert address in why
        finally:
            stranger.kill()
        one["n1"].start()
        with one.client("n1") as kv:
            kv.put(b"back", b"again")


def test_without_the_register_nobody_becomes_primary_and_the_others_go_on(tmp_path: Path, kvctl: Kvctl) -> None:
    with cluster_of(tmp_path, write_quorum=2) as cluster:
        cluster.wait_until_caught_up()
        (tmp_path / "register").rename(tmp_path / "away")
        with Ledger(cluster.endpoints, writers=2) as ledger:
            ledger.wait_for(50)
            until(lambda: any("register" in text for text in cluster["n1"].status().warnings), "the status warns")
            refused = kvctl("-E", cluster["n2"].address, "promote", "--yes", "-o", "json")
            assert refused.exit_code != 0
            assert "register" in refused.err, refused.err
            cluster.kill("n3")
            assert "is no register, but this node belongs to one" in refusal(cluster["n3"])
            ledger.wait_for(50)
            (tmp_path / "away").rename(tmp_path / "register")
            cluster["n3"].start()
            wait_until_follows(cluster, "n2", "n3")
            promoted(cluster, "n2")
            ledger.wait_for(50)
        wait_until_follows(cluster, "n1", "n3")
        assert_same_content(cluster)
        ledger.assert_kept(cluster, list(cluster.nodes))
