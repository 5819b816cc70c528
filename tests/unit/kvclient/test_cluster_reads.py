"""Reads from followers by choice: who is asked, how fresh it must be, and that nobody reads behind what it wrote."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kvclient import Retry, Stale
from support.fake_nodes import FakeNodes, running
from support.fake_server import FakeServer

QUICK = Retry(attempts=6, first_pause_s=0.005, max_pause_s=0.02)


@pytest.fixture
def nodes() -> Iterator[FakeNodes]:
    with running(FakeServer(), FakeServer(), FakeServer()) as cluster:
        yield cluster


def reads(nodes: FakeNodes) -> list[int]:
    """Return how many reads each node was sent."""
    counts = [sum(name in ("Get", "Scan", "History") for name, _ in server.requests) for server in nodes.nodes]
    for server in nodes.nodes:
        server.requests.clear()
    return counts


async def every_read(kv: Any, **options: Any) -> None:
    await kv.get(b"k", **options)
    await kv.get(b"k", revision=1, **options)
    await kv.get_many([b"k", b"x"], **options)
    await kv.entries(**options)
    await kv.count(**options)
    await kv.changes(b"k", **options)


async def test_reads_go_to_the_primary_unless_told_otherwise(connect: Any, nodes: FakeNodes) -> None:
    kv = connect(nodes.endpoints[::-1], retry=QUICK)
    await kv.put(b"k", b"v")
    await every_read(kv)
    assert reads(nodes) == [7, 0, 0]


@pytest.mark.parametrize("by_client", [True, False])
async def test_reads_go_to_followers_by_choice_of_the_client_or_the_call(connect: Any, nodes: FakeNodes, by_client: bool) -> None:
    kv = connect(nodes.endpoints, retry=QUICK, **({"read_from": "followers"} if by_client else {}))
    await kv.put(b"k", b"v")
    await every_read(kv, **({} if by_client else {"read_from": "followers"}))
    on_primary, *on_others = reads(nodes)
    assert (on_primary, sum(on_others)) == (0, 7)
    await kv.get(b"k", read_from="primary")
    assert reads(nodes)[0] == 1


async def test_clients_spread_over_the_nodes(connect: Any, nodes: FakeNodes) -> None:
    for _ in range(30):
        kv = connect(nodes.endpoints, read_from="any")
        await kv.get(b"k")
    assert all(reads(nodes))


async def test_a_choice_that_is_none_is_refused(connect: Any, nodes: FakeNodes) -> None:
    with pytest.raises(ValueError, match="read_from"):
        connect(nodes.endpoints, read_from="nearest")
    kv = connect(nodes.endpoints)
    for call in (kv.get(b"k", read_from="x"), kv.get_many([b"k"], read_from="x"), kv.get(b"k", revision=1, read_from="x")):
        with pytest.raises(ValueError, match="read_from"):
            await call


async def test_a_reader_sees_what_it_wrote_on_a_follower_too(connect: Any, nodes: FakeNodes) -> None:
    """The session goes along, so that the follower waits until it has that."""
    kv = connect(nodes.endpoints, retry=QUICK, read_from="followers")
    written = await kv.put(b"k", b"v")
    await kv.get(b"k")
    await kv.get(b"k", revision=2)
    await kv.entries()
    for server in nodes.nodes[1:]:
        for name, request in server.requests:
            if name in ("Get", "Scan"):
                assert (request.session.epoch, request.session.revision) == (1, written.revision)


# -- freshness --------------------------------------------------------------------------------------------------------


async def test_a_bound_is_sent_with_every_kind_of_read(connect: Any, nodes: FakeNodes) -> None:
    kv = connect(nodes.endpoints, retry=QUICK, read_from="any")
    await every_read(kv, max_lag_ms=250)
    sent = [request for server in nodes.nodes for _, request in server.requests if hasattr(request, "max_lag_ms")]
    frames = [frame for server in nodes.nodes for frame in server.frames]
    assert {request.max_lag_ms for request in sent if not isinstance(request, type(None))} <= {0, 250}
    assert [frame.max_lag_ms for frame in frames] == [250], "the frame of get_many; the others are calls of their own"
    assert sum(request.max_lag_ms == 250 for request in sent) == 5


async def test_one_that_is_too_far_behind_is_passed_over(connect: Any, nodes: FakeNodes) -> None:
    nodes.nodes[1].node.lag_ms = 5_000
    kv = connect(nodes.endpoints, retry=QUICK, read_from="followers")
    for _ in range(5):
        await every_read(kv, max_lag_ms=100)
    assert reads(nodes)[2] >= 30
    nodes.nodes[2].node.lag_ms = 5_000
    await every_read(kv, max_lag_ms=100)
    assert reads(nodes)[0] == 7, "the primary is never behind"


async def test_without_a_bound_nobody_is_too_far_behind(connect: Any, nodes: FakeNodes) -> None:
    for server in nodes.nodes:
        server.node.lag_ms = 5_000
    kv = connect(nodes.endpoints, retry=QUICK, read_from="any")
    await every_read(kv)


async def test_where_none_is_fresh_enough_it_is_said(connect: Any, nodes: FakeNodes) -> None:
    for server in nodes.nodes:
        server.node.lag_ms = 5_000
    kv = connect(nodes.endpoints, retry=QUICK, read_from="any")
    for call in (kv.get(b"k", max_lag_ms=1), kv.get_many([b"k"], max_lag_ms=1), kv.entries(max_lag_ms=1)):
        with pytest.raises(Stale):
            await call


async def test_a_follower_that_cannot_say_how_fresh_it_is_sends_frames_on(connect: Any, nodes: FakeNodes) -> None:
    """After its own start a follower is STALE to all until it has heard of its primary."""
    kv = connect(nodes.endpoints[1:], retry=QUICK, read_from="followers")
    await kv.get(b"k")
    first = next(server for server in nodes.nodes if server.requests)
    first.refuse_next("Pipeline", "STALE", times=3)
    await kv.get(b"k")
    assert all(reads(nodes)[1:])


async def test_a_follower_that_dies_is_replaced(connect: Any, nodes: FakeNodes) -> None:
    kv = connect(nodes.endpoints, retry=QUICK, read_from="followers")
    await every_read(kv)
    for server in nodes.nodes[1:]:
        server.stop()
        await every_read(kv)
    assert (await kv.get(b"k")) is None
    assert reads(nodes)[0] > 0
