"""The clients of a cluster's administration: the same calls in both, who is asked, and what a promotion without an end is."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from typing import Any

import pytest

import kvclient
from kvclient import AsyncClusterClient, ClusterClient, Policy, PromotionStep
from support.fake_server import CLUSTER_ID, FakeServer


class Both:
    """Drives either client from a coroutine."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.waits = isinstance(client, AsyncClusterClient)

    async def call(self, name: str, *args: Any, **options: Any) -> Any:
        if self.waits:
            return await getattr(self.client, name)(*args, **options)
        return await asyncio.to_thread(lambda: getattr(self.client, name)(*args, **options))

    async def promote(self, **options: Any) -> list[PromotionStep]:
        if self.waits:
            return [step async for step in self.client.promote(**options)]
        return await asyncio.to_thread(lambda: list(self.client.promote(**options)))


@pytest.fixture(params=[ClusterClient, AsyncClusterClient])
async def cluster(request: pytest.FixtureRequest, fake: FakeServer) -> AsyncIterator[Both]:
    both = Both(request.param(fake.endpoint))
    yield both
    await both.call("close")
    await both.call("close")


def test_both_have_the_same_calls_and_words() -> None:
    def public(kind: type) -> dict[str, Any]:
        return {name: member for name, member in vars(kind).items() if not name.startswith("_")}

    assert list(public(ClusterClient)) == list(public(AsyncClusterClient))
    for name, blocking in public(ClusterClient).items():
        waiting = public(AsyncClusterClient)[name]
        assert inspect.signature(blocking).parameters == inspect.signature(waiting).parameters, name
        assert inspect.getdoc(blocking) == inspect.getdoc(waiting), name
        assert inspect.iscoroutinefunction(waiting) is (name != "promote"), name


async def test_what_the_nodes_say(cluster: Both, fake: FakeServer) -> None:
    found = await cluster.call("status")
    first, second, third = found.nodes
    assert (first.name, first.role, first.durable_revision, first.is_self) == ("n1", "primary", 93, False)
    assert (second.name, second.address, second.is_self, second.cluster_id) == ("n2", fake.endpoint, True, CLUSTER_ID)
    assert (second.epoch, second.epoch_nonce, second.promised_epoch, second.chain) == (2, 2**63 + 7, 2, bytes(16))
    assert (second.applied_revision, second.visible_revision, second.heard_revision) == (89, 88, 93)
    assert (second.lag_revisions, second.lag_ms, second.lag_bytes) == (3, 12, 1234)
    assert (third.reachable, third.error, third.role) == (False, "it did not answer within 2 s", "")
    assert found.policy == Policy(2, ("n1", "n2", "n3"), False, 5)
    assert (found.register_url, len(found.warnings)) == ("file:///mnt/register", 1)
    assert found.primary == first
    (own,) = (await cluster.call("status", only_self=True)).nodes
    assert own.is_self


def test_of_two_primaries_the_one_of_the_higher_epoch_counts(fake: FakeServer) -> None:
    with ClusterClient(fake.endpoint) as client:
        nodes = client.status().nodes
        import dataclasses

        deposed = dataclasses.replace(nodes[0], name="n0", epoch=1)
        found = dataclasses.replace(client.status(), nodes=(deposed, *nodes))
    assert found.primary == nodes[0]
    assert dataclasses.replace(found, nodes=()).primary is None


async def test_epochs_and_notes(cluster: Both) -> None:
    found = await cluster.call("history")
    assert [(one.epoch, one.parent_epoch, one.began_revision, one.begun) for one in found.epochs] == [
        (1, 0, 1, True),
        (2, 1, 40, True),
        (3, None, None, False),
    ]
    assert [(note.degraded, note.reason) for note in found.notes] == [(True, "n2 has no power"), (False, "")]


async def test_the_policy(cluster: Both, fake: FakeServer) -> None:
    assert await cluster.call("policy") == Policy(2, ("n1", "n2", "n3"), False, 5)
    done = await cluster.call("set_policy", 3, ["n1", "n2", "n3"])
    assert (done.revision, fake.last("SetPolicy").policy.write_quorum) == (94, 3)
    await cluster.call("degrade", "fire")
    assert (fake.cluster.policy.degraded, fake.last("Degrade").reason) == (True, "fire")
    await cluster.call("end_degrade")
    assert not fake.cluster.policy.degraded
    with pytest.raises(kvclient.InvalidRequestError):
        await cluster.call("set_policy", -1)


async def test_slots_and_reinit(cluster: Both, fake: FakeServer) -> None:
    (slot,) = await cluster.call("slots")
    assert (slot.name, slot.state, slot.hold_revision, slot.silent_ms) == ("n3", "away", 81, 61_000)
    await cluster.call("drop_slot", "n3")
    assert await cluster.call("slots") == []
    await cluster.call("reinit")
    assert fake.cluster.reinits == 1


async def test_each_step_of_a_promotion_and_its_outcome(cluster: Both, fake: FakeServer) -> None:
    steps = await cluster.promote(accept_loss=True)
    assert [step.step for step in steps] == ["claim", "promises", "serve"]
    assert steps[-1] == PromotionStep("serve", "n2 is the primary", True, 3, 90, 91, 93)
    assert (fake.last("Promote").accept_loss, fake.last("Promote").dry_run) == (True, False)


async def test_a_promotion_without_an_end_is_an_error(cluster: Both, fake: FakeServer) -> None:
    fake.cluster.promotion_is_cut = True
    with pytest.raises(kvclient.ServerError):
        await cluster.promote()
    fake.cluster.promotion_breaks = True
    with pytest.raises(kvclient.Unavailable):
        await cluster.promote()


async def test_a_step_that_does_not_come_in_time_is_a_timeout(cluster: Both, fake: FakeServer) -> None:
    fake.hold("Promote")
    with pytest.raises(kvclient.Timeout):
        await cluster.promote(timeout_s=0.2)
    assert len([name for name, _ in fake.requests if name == "Promote"]) == 1, "it is never begun twice"


async def test_a_node_that_is_not_there_is_unavailable(cluster: Both, fake: FakeServer) -> None:
    fake.stop()
    with pytest.raises(kvclient.Unavailable):
        await cluster.call("status")
    with pytest.raises(kvclient.Unavailable):
        await cluster.promote()


async def test_a_node_of_a_lower_epoch_is_asked_as_well(cluster: Both, fake: FakeServer) -> None:
    """What is asked of a deposed node is how it is: nothing is read from it that could be behind."""
    fake.store.epoch = 5
    await cluster.call("status")
    fake.store.epoch = 1
    await cluster.call("status")
    assert (await cluster.call("policy")).write_quorum == 2
