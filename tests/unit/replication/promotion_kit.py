"""What the tests of promotions share: a cluster with a history, and what a refusal leaves."""

from __future__ import annotations

import pytest

from kvserver.base.errors import Code, ReplicationError
from kvserver.base.policy import Policy
from kvserver.replication.promotion import PromotionStep
from unit.replication.promotion_cluster import Cluster

TWO_OF_THREE = Policy(2, ("a", "b", "c"))


def quorum(policy: Policy = TWO_OF_THREE, names: str = "abc") -> Cluster:
    """Return a cluster whose primary a has written 3 commits: b has 2 of them, the others 1."""
    cluster = Cluster(names, policy)
    a, b = cluster["a"], cluster["b"]
    cluster.write(a, list(cluster.nodes.values()))
    cluster.write(a, [b])
    cluster.write(a, [])
    return cluster


async def refused(cluster: Cluster, name: str, match: str, **options: bool) -> ReplicationError:
    with pytest.raises(ReplicationError, match=match) as caught:
        await cluster.promote(name, **options)
    assert caught.value.code is Code.PROMOTION_REFUSED and caught.value.hint
    assert cluster[name].role != "primary" or cluster[name].is_fenced
    return caught.value


def epochs(cluster: Cluster) -> list[int]:
    return [record.epoch.number for record in cluster.register.records()]


def promises(cluster: Cluster) -> dict[str, int]:
    return {name: node.vow.promised.number for name, node in cluster.nodes.items()}


def last(steps: list[PromotionStep]) -> PromotionStep:
    assert [step.done for step in steps] == [False] * (len(steps) - 1) + [True]
    return steps[-1]


async def refused_untouched(cluster: Cluster, name: str, match: str, **options: bool) -> ReplicationError:
    before, given = epochs(cluster), promises(cluster)
    error = await refused(cluster, name, match, **options)
    assert (epochs(cluster), promises(cluster)) == (before, given)
    assert "claim" not in error.message and cluster[name].stood_down == 0
    return error
