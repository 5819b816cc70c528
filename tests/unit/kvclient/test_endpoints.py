"""Several endpoints: the order in which they are tried, and what moving on to the next one may and may not repeat."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from typing import Any

import pytest

from kvclient import KvClientError, OutcomeUnknown, Retry, Timeout, Unavailable
from kvclient._endpoints import Endpoints
from support.fake_server import FakeServer
from unit.kvclient.joining import eventually, fill, in_line, outcomes, under_way

QUICK = Retry(attempts=4, first_pause_s=0.005, max_pause_s=0.02)


@pytest.fixture
def dead() -> str:
    """An endpoint on which nothing listens."""
    with FakeServer() as server:
        return server.endpoint


@pytest.fixture
def second(fake: FakeServer) -> Iterator[FakeServer]:
    """Another node in front of the same data."""
    other = FakeServer()
    other.store = fake.store
    with other:
        yield other


def served(fake: FakeServer) -> list[str]:
    return [name for name, _ in fake.requests]


# -- the order --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["a:1,b:2,c:3", " a:1 , b:2,c:3 ", ["a:1", "b:2", "c:3"], ("a:1", "b:2", "c:3")])
def test_the_order_goes_round(given: Any) -> None:
    endpoints = Endpoints(given)
    assert (len(endpoints), str(endpoints)) == (3, "a:1,b:2,c:3")
    seen = []
    for _ in range(4):
        seen.append((endpoints.current, endpoints.current_target))
        endpoints.turn()
    assert seen == [("a:1", "dns:///a:1"), ("b:2", "dns:///b:2"), ("c:3", "dns:///c:3"), ("a:1", "dns:///a:1")]


def test_one_endpoint_stays_the_current_one() -> None:
    endpoints = Endpoints("a:1")
    endpoints.turn()
    assert endpoints.current == "a:1"


@pytest.mark.parametrize("given", ["", ",", "a:1,", "a:1,,b:2", "a:1;b:2", "a:1,b", [], [""], ["a:1", "b:x"]])
def test_an_order_with_a_flaw_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="endpoint"):
        Endpoints(given)


# -- at the beginning -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_text", [True, False])
async def test_a_dead_first_endpoint_is_passed_over(connect: Any, fake: FakeServer, dead: str, as_text: bool) -> None:
    kv = connect(f"{dead},{fake.endpoint}" if as_text else [dead, fake.endpoint])
    assert (await kv.put(b"k", b"v")).revision == 2
    assert (await kv.get(b"k")).value == b"v"
    assert (await kv.status()).node == "fake"
    assert len(await kv.entries()) == 1


async def test_the_first_that_answers_is_used_as_long_as_it_is_there(connect: Any, fake: FakeServer, second: FakeServer) -> None:
    kv = connect([fake.endpoint, second.endpoint])
    for number in range(5):
        await kv.put(b"k%d" % number, b"v")
        await kv.get(b"k%d" % number)
    assert (len(fake.requests), second.requests) == (10, [])


async def test_where_all_are_dead_it_is_certain_that_nothing_was_written(connect: Any, dead: str) -> None:
    kv = connect([dead, dead, dead], timeout_s=20.0)
    found = await outcomes([kv.put(b"k", b"v"), kv.get(b"k"), kv.status(), kv.put_many([(b"k", b"v")])])
    assert [outcome.code for outcome in found] == ["UNAVAILABLE"] * 3 + ["MANY_FAILED"]
    assert all(dead in outcome.message for outcome in found)


# -- later ------------------------------------------------------------------------------------------------------------


async def test_when_the_first_dies_the_next_one_takes_over(connect: Any, fake: FakeServer, second: FakeServer) -> None:
    kv = connect([fake.endpoint, second.endpoint], retry=QUICK)
    await kv.put(b"before", b"v")
    await kv.get(b"before")
    await asyncio.to_thread(fake.stop)
    assert (await kv.get(b"before")).value == b"v", "a read goes to the next one by itself"
    for _ in range(20):
        (outcome,) = await outcomes([kv.put(b"after", b"v")])
        if not isinstance(outcome, KvClientError):
            break
        assert isinstance(outcome, (OutcomeUnknown, Unavailable))
    assert served(second)[-1] == "Put"
    assert (await kv.get(b"after")).value == b"v"


async def test_what_was_under_way_at_the_one_that_dies_is_open_and_what_stood_in_line_goes_to_the_next(
    connect: Any, fake: FakeServer, second: FakeServer
) -> None:
    kv = connect([fake.endpoint, second.endpoint], retry=QUICK)
    fake.hold("Put")
    first = await fill(kv, "Put")
    later = [asyncio.create_task(kv.put(b"later%d" % number, b"v")) for number in range(20)]
    await eventually(lambda: in_line(kv) == 20)
    await asyncio.to_thread(fake.stop)
    assert {type(outcome) for outcome in await outcomes(list(first))} == {OutcomeUnknown}
    assert len({result.revision for result in await asyncio.gather(*later)}) == 20
    assert sorted(request.key for _, request in second.requests) == sorted(b"later%d" % number for number in range(20))


async def test_a_node_that_does_not_serve_any_more_sends_its_callers_on(
    connect: Any, fake: FakeServer, second: FakeServer
) -> None:
    kv = connect([fake.endpoint, second.endpoint], retry=QUICK)
    await kv.put(b"before", b"v")
    for _ in range(4):
        fake.end_next("Put", "NOT_SERVING", "it is stopping")
    results = await asyncio.gather(*(kv.put(b"k%d" % number, b"v") for number in range(5)))
    assert len({result.revision for result in results}) == 5
    assert served(second).count("Put") == 5
    assert all(len(chain) == 1 for chain in fake.store.rows.values())


async def test_unary_calls_move_on_too(connect: Any, fake: FakeServer, second: FakeServer) -> None:
    kv = connect([fake.endpoint, second.endpoint], retry=QUICK)
    await kv.status()
    for _ in range(4):
        fake.refuse_next("Status", "NOT_SERVING")
    assert (await kv.status()).role == "primary"
    assert served(second) == ["Status"]
    fake.refuse_next("CreateNamespace", "NOT_SERVING")
    second.abort_next("CreateNamespace", "UNAVAILABLE", "Socket closed")
    with pytest.raises(OutcomeUnknown):
        await kv.create_namespace("n")


async def test_an_endpoint_that_came_back_is_used_again(connect: Any, fake: FakeServer, second: FakeServer) -> None:
    kv = connect([fake.endpoint, second.endpoint], retry=QUICK)
    await kv.get(b"k")
    port = int(fake.endpoint.rpartition(":")[2])
    await asyncio.to_thread(fake.stop)
    await kv.get(b"k")
    fake.start(port)
    await asyncio.to_thread(second.stop)
    fake.requests.clear()

    async def reads() -> bool:
        (outcome,) = await outcomes([kv.get(b"k")])
        return not isinstance(outcome, Unavailable)

    for _ in range(200):
        if await reads():
            break
        await asyncio.sleep(0.02)
    assert served(fake) == ["Get"]


# -- waiting for one --------------------------------------------------------------------------------------------------


async def test_each_caller_waits_for_a_server_as_long_as_it_said(connect: Any, dead: str) -> None:
    """The limit of one call must not end another's wait, be it the longer or the shorter one."""
    kv = connect(dead, timeout_s=0.3, wait_for_ready=True)
    patient = [asyncio.create_task(call) for call in (kv.put(b"patient", b"v", timeout_s=30.0), kv.get(b"k", timeout_s=math.inf))]
    (default,) = await outcomes([kv.put(b"default", b"v")])
    (hasty,) = await outcomes([kv.put(b"hasty", b"v", timeout_s=0.05)])
    assert (type(default), type(hasty)) == (Unavailable, Unavailable)
    assert "within the time allowed" in hasty.message
    assert not any(task.done() for task in patient)
    late = FakeServer()
    late.start(int(dead.rpartition(":")[2]))
    try:
        written, read = await asyncio.gather(*patient)
        assert (written.revision, read) == (2, None)
        assert [request.key for name, request in late.requests if name == "Put"] == [b"patient"]
    finally:
        await asyncio.to_thread(late.stop)


async def test_a_server_that_comes_is_found_among_those_that_are_not_there(connect: Any, dead: str) -> None:
    with FakeServer() as gone:
        other = gone.endpoint
    kv = connect([other, dead], timeout_s=20.0, wait_for_ready=True, retry=QUICK)
    calls = [asyncio.create_task(call) for call in (kv.put(b"k", b"v"), kv.get(b"k"), kv.status())]
    await eventually(lambda: in_line(kv) and in_line(kv, "reads"))
    late = FakeServer()
    late.start(int(dead.rpartition(":")[2]))
    try:
        written, _, status = await asyncio.gather(*calls)
        assert (written.revision, status.role) == (2, "primary")
    finally:
        await asyncio.to_thread(late.stop)


async def test_a_node_that_was_slow_once_is_asked_again_before_the_next_one(
    connect: Any, fake: FakeServer, second: FakeServer
) -> None:
    """Another one may not have what this one has shown."""
    kv = connect([fake.endpoint, second.endpoint])
    await kv.get(b"k")
    release = fake.hold("Flush")
    with pytest.raises(Timeout):
        await kv.flush(timeout_s=0.1)
    release.set()
    await kv.put(b"k", b"v")
    await kv.status()
    assert second.requests == []


async def test_one_impatient_caller_breaks_nothing_for_the_others(kv: Any, fake: FakeServer) -> None:
    release = [fake.hold("Put"), fake.hold("Get")]
    patient = [asyncio.create_task(call) for call in (kv.put(b"k", b"v"), kv.get(b"k"))]
    await eventually(lambda: under_way(kv) == under_way(kv, "reads") == 1)
    for _ in range(20):
        for outcome in await outcomes([kv.status(timeout_s=0.001), kv.get(b"k", revision=1, timeout_s=0.001)]):
            assert not isinstance(outcome, Exception) or isinstance(outcome, Timeout | Unavailable)
    for event in release:
        event.set()
    written, read = await asyncio.gather(*patient)
    assert written.revision == 2
    assert read is None or read.value == b"v"


async def test_who_waits_for_a_server_that_went_away_learns_that_there_is_none(connect: Any) -> None:
    """Not that there was no room: that is what one hears whose server is there and late."""
    gone = FakeServer()
    gone.start()
    kv = connect(gone.endpoint, wait_for_ready=True)
    await kv.put(b"k", b"v")
    await kv.get(b"k")
    await asyncio.to_thread(gone.stop)
    for call in (kv.get(b"k", timeout_s=0.3), kv.put(b"k", b"v", timeout_s=0.3)):
        (outcome,) = await outcomes([call])
        assert isinstance(outcome, Unavailable | OutcomeUnknown)
    with pytest.raises(Unavailable, match="cannot connect"):
        await kv.put(b"k", b"v", timeout_s=0.3)


async def test_waiting_for_one_of_several(connect: Any, fake: FakeServer, dead: str) -> None:
    kv = connect([dead, fake.endpoint], timeout_s=1.0, wait_for_ready=True)
    assert (await kv.put(b"k", b"v")).revision == 2
