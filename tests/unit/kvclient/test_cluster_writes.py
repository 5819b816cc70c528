"""Writes find the primary: from any node, by the word of any node, across failovers; and a deposed one is not believed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from kvclient import Delete, Fenced, NotPrimary, OutcomeUnknown, Put, Retry
from support.fake_nodes import FakeNodes, running
from support.fake_server import FakeServer
from unit.kvclient.joining import eventually, fill, outcomes

QUICK = Retry(attempts=4, first_pause_s=0.005, max_pause_s=0.02)


@pytest.fixture
def nodes() -> Iterator[FakeNodes]:
    with running(FakeServer(), FakeServer(), FakeServer()) as cluster:
        yield cluster


def served(nodes: FakeNodes, method: str) -> list[int]:
    return [sum(name == method for name, _ in server.requests) for server in nodes.nodes]


# -- finding it -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("primary", [0, 1, 2])
async def test_the_primary_is_found_among_those_named(connect: Any, nodes: FakeNodes, primary: int) -> None:
    nodes.promote(primary)
    kv = connect(nodes.endpoints, retry=QUICK)
    await kv.put(b"k", b"v")
    assert (await kv.get(b"k")).value == b"v"
    await kv.write([Put(b"w", b"v"), Delete(b"k")])
    await kv.delete(b"w")
    await kv.create_namespace("n")
    for method in ("Put", "Get", "Write", "Delete", "CreateNamespace"):
        assert [count > 0 for count in served(nodes, method)] == [number == primary for number in range(3)], method


async def test_a_follower_alone_leads_to_a_primary_that_nobody_named(connect: Any, nodes: FakeNodes) -> None:
    kv = connect(nodes.endpoints[2], retry=QUICK)
    assert (await kv.put(b"k", b"v")).revision == 2
    assert (await kv.get(b"k")).value == b"v"
    assert served(nodes, "Put") == [1, 0, 0]


async def test_what_a_node_does_is_asked_of_the_node_that_was_named(connect: Any, nodes: FakeNodes) -> None:
    kv = connect(nodes.endpoints[2], retry=QUICK)
    await kv.put(b"k", b"v")
    assert (await kv.status()).node == "n2"
    await kv.flush()
    await kv.archive_status()
    assert served(nodes, "Flush") == [0, 0, 1]


async def test_a_refusal_that_names_the_primary_is_followed(connect: Any, nodes: FakeNodes) -> None:
    """The node's health is behind: frames are refused as a whole, and mixed ones operation by operation."""
    nodes.promote(1)
    for server in nodes.nodes:
        server.node.is_lying = True
    kv = connect(nodes.endpoints[0], retry=QUICK)
    results = await asyncio.gather(*(kv.put(b"k%d" % number, b"v") for number in range(20)))
    assert len({result.revision for result in results}) == 20
    nodes.promote(2)
    await asyncio.gather(kv.put(b"c", b"v", if_absent=True), kv.delete(b"k1"), kv.write([Put(b"w", b"v")]))
    assert all(nodes.written(b"k%d" % number) == 1 for number in range(20) if number != 1)
    assert (nodes.written(b"c"), nodes.written(b"w")) == (1, 1)
    nodes.promote(0)
    assert (await kv.create_namespace("n")).name == "n"


async def test_without_a_word_the_next_one_is_tried(connect: Any, nodes: FakeNodes) -> None:
    nodes.promote(2)
    for server in nodes.nodes:
        server.node.is_lying, server.node.primary = True, ""
    kv = connect(nodes.endpoints, retry=QUICK)
    assert (await kv.put(b"k", b"v")).revision == 2
    assert served(nodes, "Put") == [0, 0, 1], "frames that are refused as a whole are not begun"


async def test_a_word_in_a_circle_ends_with_the_time(connect: Any, nodes: FakeNodes) -> None:
    nodes.nobody()
    first, second, _ = nodes.nodes
    first.node.primary, second.node.primary = second.endpoint, first.endpoint
    for server in nodes.nodes:
        server.node.is_lying = True
    kv = connect(nodes.endpoints, retry=QUICK, timeout_s=0.3)
    for call in (kv.put(b"k", b"v"), kv.create_namespace("n")):
        with pytest.raises((NotPrimary, OutcomeUnknown)):  # the time may be up while one of them is being asked
            await call
    assert nodes.nodes[0].store.assigned == 1


async def test_everything_is_sent_once_where_that_is_wanted(connect: Any, nodes: FakeNodes) -> None:
    for server in nodes.nodes:
        server.node.is_lying = True
    kv = connect(nodes.endpoints[1], retry=Retry(attempts=1))
    with pytest.raises(NotPrimary) as refused:
        await kv.put(b"k", b"v")
    assert (refused.value.primary, refused.value.from_server) == (nodes.endpoints[0], True)


# -- while nobody is primary ------------------------------------------------------------------------------------------


async def test_a_failover_is_waited_for(connect: Any, nodes: FakeNodes) -> None:
    kv = connect(nodes.endpoints, retry=QUICK, timeout_s=20.0)
    await kv.put(b"before", b"v")
    nodes.nobody()
    waiting = [asyncio.create_task(call) for call in (kv.put(b"k", b"v"), kv.delete(b"before"), kv.create_namespace("n"))]
    probes = sum(server.node.probed for server in nodes.nodes)
    await eventually(lambda: sum(server.node.probed for server in nodes.nodes) > probes + 6)
    assert not any(task.done() for task in waiting)
    nodes.promote(1)
    await asyncio.gather(*waiting)
    assert nodes.written(b"k") == 1


async def test_nobody_comes_in_time(connect: Any, nodes: FakeNodes) -> None:
    nodes.nobody()
    kv = connect(nodes.endpoints, retry=QUICK, timeout_s=1.0)
    found = await outcomes([kv.put(b"k", b"v"), kv.get(b"k"), kv.create_namespace("n"), kv.get(b"k", revision=1)])
    assert [(type(error), error.code) for error in found] == [(NotPrimary, "NOT_PRIMARY")] * 4
    assert all("no node is primary" in error.message for error in found)


# -- what breaks ------------------------------------------------------------------------------------------------------


async def test_what_was_under_way_when_the_primary_died_is_open_without_a_key(connect: Any, nodes: FakeNodes) -> None:
    kv = connect(nodes.endpoints, retry=QUICK, timeout_s=20.0)
    nodes.nodes[0].hold("Put")
    calls = await fill(kv, "Put")
    await asyncio.to_thread(nodes.nodes[0].stop)
    nodes.promote(1)
    assert {type(error) for error in await outcomes(list(calls))} == {OutcomeUnknown}
    assert (await kv.put(b"after", b"v")).revision > 1


async def test_a_deposed_primary_is_not_believed(connect: Any, nodes: FakeNodes) -> None:
    """It goes on answering; what it answers to a write is worth nothing, and its reads are refused."""
    token = connect(nodes.endpoints, retry=QUICK)
    await token.put(b"k", b"1")
    nodes.depose(0, 1)
    other = connect(nodes.endpoints[1], retry=QUICK)
    await other.put(b"k", b"2")
    assert other.session.epoch == 2

    stale = connect(nodes.endpoints[0], retry=QUICK, session=other.session, timeout_s=2.0)
    for call in (stale.put(b"x", b"v"), stale.delete(b"k"), stale.put(b"y", b"v", if_absent=True), stale.create_namespace("n")):
        with pytest.raises(OutcomeUnknown, match="epoch 2 has begun"):
            await call
    nodes.nodes[0].store.epoch, nodes.nodes[0].node.epoch = 9, 1  # it takes the session for its own, and shows another epoch
    for call in (stale.get(b"k"), stale.get(b"k", revision=1), stale.entries(), stale.changes(b"k")):
        with pytest.raises(Fenced):
            await call
    assert stale.session.epoch == 2


async def test_behind_a_deposed_primary_the_next_one_is_asked(connect: Any, nodes: FakeNodes) -> None:
    first = connect(nodes.endpoints, retry=QUICK)
    await first.put(b"k", b"1")
    nodes.depose(0, 1)
    second = connect(nodes.endpoints[1], retry=QUICK)
    await second.put(b"k", b"2")
    kv = connect(nodes.endpoints, retry=QUICK, session=second.session)
    assert (await kv.get(b"k")).value == b"2"
    assert (await kv.get(b"k", revision=3)).value == b"2"
    assert [entry.value for entry in await kv.entries()] == [b"2"]
    found = await outcomes([kv.put(b"k", b"3")])
    if isinstance(found[0], OutcomeUnknown):
        found = await outcomes([kv.put(b"k", b"3")])
    assert found[0].epoch == 2
