"""Nodes killed in the middle of a promotion, a rewind and a copy: some of the places; `make test-crash` goes through all."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from support.chaos import LONG, Ledger, assert_same_content, cluster_of
from support.chaos_kills import kill_at_base, kill_at_copy, kill_at_promotion, kill_at_rewind, kill_at_start

pytestmark = [LONG, pytest.mark.timeout(240)]


@pytest.mark.parametrize("write_quorum", [0, 2])
def test_a_node_killed_half_way_comes_to_an_end_the_next_time(write_quorum: int, tmp_path: Path) -> None:
    rng = random.Random(write_quorum)
    with cluster_of(tmp_path, write_quorum=write_quorum) as cluster:
        with Ledger(cluster.endpoints, writers=2) as ledger:
            ledger.wait_for(50)
        if write_quorum:
            kill_at_promotion(cluster, "promotion.after_promises", rng)
            kill_at_promotion(cluster, "engine.open.after_first_segment", rng)
            kill_at_start(cluster, "engine.open.after_first_segment")
        else:
            cluster.wait_until_caught_up()
            kill_at_rewind(cluster, "swap.after_out")
            kill_at_base(cluster, "rewind.after_base")
            kill_at_base(cluster, "swap.after_in")
            kill_at_copy(cluster, "bootstrap.after_part", rng)
        assert_same_content(cluster)
        ledger.assert_kept(cluster, list(cluster.nodes))
