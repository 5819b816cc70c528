"""A network between the nodes that is cut, one way too: what the policy promises holds, and what cannot be had blocks."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvclient import Client, ClusterClient, KvClientError, OutcomeUnknown
from support.chaos import (
    Callers,
    Ledger,
    assert_same_content,
    networked,
    promoted,
    state_of,
    until,
    wait_for_line,
    wait_for_state,
)
from support.chaos_rounds import wait_until_follows
from support.linearizability import assert_linearizable

pytestmark = pytest.mark.timeout(240)


def blocks(kv: Client, key: bytes) -> bool:
    try:
        kv.put(key, b"x", timeout_s=0.7)
    except OutcomeUnknown:
        return True
    return False


def test_a_primary_that_loses_its_followers_blocks_until_somebody_gives_the_quorum_up(tmp_path: Path) -> None:
    with networked(tmp_path, write_quorum=2) as (cluster, network):
        with cluster.client("n1") as kv, ClusterClient(cluster["n1"].address) as asked:
            kv.put(b"whole", b"x")
            network.cut("n1", "n2")
            kv.put(b"n3 has it", b"x", timeout_s=10.0)
            network.swallow("n3", "n1")  # n3 hears everything, and its word is lost
            until(lambda: blocks(kv, b"nobody says so"), "a write that no second member acknowledges is not acknowledged")
            assert kv.get(b"nobody says so") is None, "what the quorum does not have is not shown"
            wait_for_line(cluster, "n1", "members")
            asked.degrade("the network is down")
            kv.put(b"alone", b"x", timeout_s=10.0)
            assert kv.get(b"nobody says so") is not None, "it was written, and only its outcome was open"
            status = cluster["n1"].status()
            assert status.policy.degraded
            assert {node.name for node in status.nodes if not node.reachable} >= {"n2"}
            with pytest.raises(KvClientError) as refused:
                asked.end_degrade()
            assert refused.value.code == "POLICY_UNMET"
            network.heal()
            until(lambda: returned(asked), "the quorum is returned to")
            kv.put(b"together", b"x", timeout_s=10.0)
            assert not cluster["n1"].status().policy.degraded
        assert_same_content(cluster)
        notes = asked_notes(cluster["n2"].address)
        assert [degraded for degraded, _ in notes] == [True, False]
        assert notes[0][1] == "the network is down"


def returned(asked: ClusterClient) -> bool:
    try:
        asked.end_degrade()
    except KvClientError as error:
        assert error.code == "POLICY_UNMET", error
        return False
    return True


def asked_notes(address: str) -> list[tuple[bool, str]]:
    with ClusterClient(address) as asked:
        return [(note.degraded, note.reason) for note in asked.history().notes]


def test_the_other_side_of_a_cut_goes_on_and_the_lone_primary_acknowledges_nothing(tmp_path: Path) -> None:
    with networked(tmp_path, write_quorum=2) as (cluster, network):
        with Callers(cluster.endpoints, seed=7) as callers, Ledger(cluster.endpoints, writers=2) as ledger:
            callers.wait_for(100)
            network.isolate("n1")
            begun = promoted(cluster, "n2")
            assert begun.lost_from == 0, "two of three have all that was acknowledged"
            callers.wait_for(100)
            until(lambda: state_of(cluster, "n1")[0] == "follower", "the old primary steps down by the register's word")
            network.heal()
            wait_until_follows(cluster, "n1")
            callers.wait_for(100)
        history = callers.end()
        assert_same_content(cluster)
        ledger.assert_kept(cluster, list(cluster.nodes))
    assert_linearizable(history)


def test_a_follower_that_hears_nothing_looks_again_and_one_that_is_far_away_catches_up(tmp_path: Path) -> None:
    with networked(tmp_path, names=("n1", "n2")) as (cluster, network):
        with cluster.client("n1") as kv:
            network.swallow("n1", "n2")
            for number in range(20):
                kv.put(b"far/%d" % number, bytes(1000))
            assert state_of(cluster, "n2")[1] != "FAILED"
            wait_for_state(cluster, "n2", "CONNECTING")
            network.heal()
            cluster.wait_until_caught_up()
            network.delay("n1", "n2", 0.05)
            network.delay("n2", "n1", 0.05)
            network.hold("n1", "n2")
            for number in range(20):
                kv.put(b"late/%d" % number, bytes(1000))
            network.heal()
            network.delay("n1", "n2", 0.05)
        assert_same_content(cluster)
