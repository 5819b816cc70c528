"""Whole clusters under load and trouble: seeds of random troubles, and a kill at every step of promotion, rewind and copy.

`make test-crash` runs it (KVSERVER_CRASH_ROUNDS seeds of each kind); a seed that failed is run again with
`KVSERVER_CRASH_ROUNDS=N pytest tests/crash/test_cluster_campaign.py -k 'SEED'`.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from support.chaos import Callers, Ledger, assert_same_content, cluster_of, networked, promoted
from support.chaos_kills import (
    BASE,
    BOOTSTRAP,
    PROMOTION,
    REWIND,
    START,
    SWAP,
    kill_at_base,
    kill_at_copy,
    kill_at_promotion,
    kill_at_rewind,
    kill_at_start,
)
from support.chaos_rounds import ROUNDS, others, primary_of, wait_until_follows
from support.linearizability import assert_linearizable

SEEDS = range(int(os.environ.get("KVSERVER_CRASH_ROUNDS", "0")))
TROUBLES = 8
CALLS = 60
FLAGS = ("--segment-mb", "16")

pytestmark = [
    pytest.mark.crash,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not SEEDS, reason="a campaign of whole clusters, which takes long: make test-crash runs it"),
]


@pytest.mark.parametrize("seed", SEEDS)
def test_clients_see_one_history_through_any_troubles(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    with cluster_of(tmp_path, write_quorum=2, flags=FLAGS) as cluster:
        with Callers(cluster.endpoints, seed) as callers, Ledger(cluster.endpoints, writers=2) as ledger:
            for _ in range(TROUBLES):
                callers.wait_for(CALLS)
                kind = rng.choice(list(ROUNDS))
                print(f"trouble: {kind}")
                ROUNDS[kind](cluster, rng)
            callers.wait_for(CALLS)
        history = callers.end()
        assert_same_content(cluster)
        ledger.assert_kept(cluster, list(cluster.nodes))
    assert_linearizable(history)


@pytest.mark.parametrize("seed", SEEDS)
def test_clients_see_one_history_through_any_cuts(seed: int, tmp_path: Path) -> None:
    rng = random.Random(f"cuts/{seed}")
    with networked(tmp_path, write_quorum=2, flags=FLAGS) as (cluster, network):
        with Callers(cluster.endpoints, seed) as callers, Ledger(cluster.endpoints, writers=2) as ledger:
            for _ in range(TROUBLES // 2):
                callers.wait_for(CALLS)
                old = primary_of(cluster)
                new, third = rng.sample(others(cluster, old), 2)
                kind = rng.choice(("isolate", "one way out", "one way in", "delay", "pair"))
                print(f"cut: {kind}, {old} primary, {new} next")
                if kind == "isolate":
                    network.isolate(old)
                elif kind == "one way out":
                    for other in (new, third):
                        network.swallow(old, other)
                elif kind == "one way in":
                    for other in (new, third):
                        network.swallow(other, old)
                elif kind == "delay":
                    for one, other in ((old, new), (new, third), (third, old)):
                        network.delay(one, other, rng.choice((0.01, 0.1)))
                else:
                    network.cut(old, third)
                if rng.random() < 0.7:
                    promoted(cluster, new)
                network.heal()
                wait_until_follows(cluster, *others(cluster, primary_of(cluster)))
            callers.wait_for(CALLS)
        history = callers.end()
        assert_same_content(cluster)
        ledger.assert_kept(cluster, list(cluster.nodes))
    assert_linearizable(history)


def written(cluster, quorum):  # type: ignore[no-untyped-def]
    """Have something acknowledged, by all nodes where the policy does not see to that."""
    with Ledger(cluster.endpoints, writers=2) as ledger:
        ledger.wait_for(50)
    if not quorum:
        cluster.wait_until_caught_up()
    return ledger


@pytest.mark.parametrize("quorum", [0, 2])
@pytest.mark.parametrize("failpoint", PROMOTION)
def test_a_candidate_killed_at_any_step(failpoint: str, quorum: int, tmp_path: Path) -> None:
    with cluster_of(tmp_path, write_quorum=quorum, flags=FLAGS) as cluster:
        ledger = written(cluster, quorum)
        for seed in SEEDS:
            kill_at_promotion(cluster, failpoint, random.Random(f"{failpoint}/{quorum}/{seed}"))
        assert_same_content(cluster)
        ledger.assert_kept(cluster, list(cluster.nodes))


@pytest.mark.parametrize("failpoint", START)
def test_a_primary_killed_at_any_step_of_its_start(failpoint: str, tmp_path: Path) -> None:
    with cluster_of(tmp_path, write_quorum=2, flags=FLAGS) as cluster:
        ledger = written(cluster, 2)
        for _ in SEEDS:
            kill_at_start(cluster, failpoint)
        assert_same_content(cluster)
        ledger.assert_kept(cluster, list(cluster.nodes))


@pytest.mark.parametrize("quorum", [0, 2])
@pytest.mark.parametrize("failpoint", REWIND + SWAP)
def test_an_old_primary_killed_at_any_step_of_its_return(failpoint: str, quorum: int, tmp_path: Path) -> None:
    with cluster_of(tmp_path, write_quorum=quorum, flags=FLAGS) as cluster:
        ledger = written(cluster, quorum)
        for _ in SEEDS:
            kill_at_rewind(cluster, failpoint)
        assert_same_content(cluster)
        ledger.assert_kept(cluster, list(cluster.nodes))


@pytest.mark.parametrize("failpoint", REWIND + BASE + SWAP)
def test_an_old_primary_killed_at_any_step_of_its_return_to_a_base(failpoint: str, tmp_path: Path) -> None:
    with cluster_of(tmp_path, flags=FLAGS) as cluster:
        ledger = written(cluster, 0)
        for _ in SEEDS:
            kill_at_base(cluster, failpoint)
        assert_same_content(cluster)
        ledger.assert_kept(cluster, list(cluster.nodes))


@pytest.mark.parametrize("failpoint", BOOTSTRAP + SWAP)
def test_a_copy_killed_at_any_step(failpoint: str, tmp_path: Path) -> None:
    with cluster_of(tmp_path, write_quorum=2, flags=FLAGS) as cluster:
        ledger = written(cluster, 2)
        for seed in SEEDS:
            kill_at_copy(cluster, failpoint, random.Random(f"{failpoint}/{seed}"))
        assert_same_content(cluster)
        ledger.assert_kept(cluster, list(cluster.nodes))
