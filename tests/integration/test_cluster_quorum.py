"""Two of three: what clients see is one register a key, whatever happens to the primary; nothing acknowledged is lost."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from support.chaos import Callers, Ledger, assert_same_content, cluster_of
from support.chaos_rounds import ROUNDS
from support.linearizability import assert_linearizable

pytestmark = pytest.mark.timeout(300)

CALLS = 100


def test_clients_see_one_history_through_failovers(tmp_path: Path) -> None:
    rng = random.Random(6)
    with cluster_of(tmp_path, write_quorum=2) as cluster:
        with Callers(cluster.endpoints, seed=6) as callers, Ledger(cluster.endpoints, writers=2) as ledger:
            for kind in ("move_primary", "kill_primary", "pause_primary", "restart_primary"):
                callers.wait_for(CALLS)
                ROUNDS[kind](cluster, rng)
            callers.wait_for(CALLS)
        history = callers.end()
        assert_same_content(cluster)
        ledger.assert_kept(cluster, list(cluster.nodes))
    assert_linearizable(history)
