"""The asyncio client's tasks: cancelling one leaves the others alone, and none is left behind."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

from kvclient import AsyncClient, ClientClosed, KvClientError, OutcomeUnknown
from support.fake_server import FakeServer
from unit.kvclient.joining import eventually, fill, in_line, outcomes, under_way


@pytest.fixture
async def complaints() -> list[dict[str, Any]]:
    """What the event loop complains of: exceptions that nobody looked at, callbacks that failed."""
    found: list[dict[str, Any]] = []

    def note(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if "PollerCompletionQueue" not in str(context.get("handle")):  # gRPC speaks to the loops of earlier tests
            found.append(context)

    asyncio.get_running_loop().set_exception_handler(note)
    return found


async def test_a_task_cancelled_in_line_is_never_sent(fake: FakeServer) -> None:
    release = fake.hold("Put")
    async with AsyncClient(fake.endpoint) as kv:
        held = await fill(kv, "Put")
        tasks = [asyncio.create_task(kv.put(b"k%d" % number, b"v")) for number in range(20)]
        await eventually(lambda: in_line(kv) == 20)
        for task in tasks[::2]:
            task.cancel()
        release.set()
        found = await outcomes(list(tasks))
        await asyncio.gather(*held)
    for number, outcome in enumerate(found):
        assert isinstance(outcome, asyncio.CancelledError) is (number % 2 == 0)
    sent = {request.key for _, request in fake.requests}
    assert {b"k%d" % number for number in range(20)} & sent == {b"k%d" % number for number in range(1, 20, 2)}


async def test_a_task_cancelled_under_way_leaves_its_frame_alone(fake: FakeServer, complaints: list[Any]) -> None:
    release = fake.hold("Put")
    async with AsyncClient(fake.endpoint) as kv:
        tasks = [asyncio.create_task(kv.put(b"k%d" % number, b"v")) for number in range(10)]
        await eventually(lambda: under_way(kv) == 10)
        for task in tasks[:5]:
            task.cancel()
        release.set()
        found = await outcomes(list(tasks))
        assert [isinstance(outcome, asyncio.CancelledError) for outcome in found] == [True] * 5 + [False] * 5
        assert len(fake.store.rows) == 10, "what was sent takes effect"
        assert (await kv.put(b"next", b"v")).revision == 12
    gc.collect()
    assert complaints == []


async def test_a_limit_of_the_callers_own(fake: FakeServer) -> None:
    fake.hold("Get")
    async with AsyncClient(fake.endpoint) as kv:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await kv.get(b"k")
        fake._held["Get"].set()
        assert await kv.get(b"k") is None


async def test_an_operation_that_nobody_awaits_any_more_complains_of_nothing(fake: FakeServer, complaints: list[Any]) -> None:
    async with AsyncClient(fake.endpoint) as kv:
        fake.hold("Put")
        task = asyncio.create_task(kv.put(b"k", b"v", timeout_s=0.1))
        await eventually(lambda: under_way(kv) == 1)
        task.cancel()
        await outcomes([task])
        await asyncio.sleep(0.15)  # its time is up, which is nobody's business any more
        fake._held["Put"].set()
        await kv.get(b"k")
    gc.collect()
    assert complaints == []


@pytest.mark.parametrize("ending", ["idle", "under way", "server gone", "never used", "never connected", "waiting"])
async def test_no_task_is_left_behind(fake: FakeServer, ending: str, complaints: list[Any]) -> None:
    before = asyncio.all_tasks()
    endpoint = fake.endpoint
    if ending in ("never connected", "waiting"):
        with FakeServer() as gone:
            endpoint = gone.endpoint
    kv = AsyncClient(endpoint, wait_for_ready=ending == "waiting")
    callers: list[asyncio.Task[Any]] = []
    if ending in ("under way", "waiting"):
        fake.hold("Put")
        fake.hold("Get")
        for number in range(4):
            callers.append(asyncio.create_task(kv.put(b"k%d" % number, b"v")))
            callers.append(asyncio.create_task(kv.get(b"k%d" % number)))
        count = under_way if ending == "under way" else in_line
        await eventually(lambda: count(kv) == count(kv, "reads") == 4)
    elif ending != "never used":
        await outcomes([kv.put(b"k", b"v"), kv.get(b"k"), kv.put_many([(b"k", b"v")] * 100)])
    if ending == "server gone":
        await asyncio.to_thread(fake.stop)
        await outcomes([kv.put(b"k", b"v"), kv.get(b"k")])
    await kv.close()
    await kv.close()
    for outcome in await outcomes(list(callers)):
        assert isinstance(outcome, KvClientError)
    await eventually(lambda: asyncio.all_tasks() <= before)  # gRPC's own task for the status of a call ends a little later
    for event in fake._held.values():
        event.set()
    gc.collect()
    assert complaints == []


async def test_closing_tells_each_what_is_certain(fake: FakeServer) -> None:
    fake.hold("Put")
    kv = AsyncClient(fake.endpoint)
    held = await fill(kv, "Put")
    later = [asyncio.create_task(kv.put(b"k%d" % number, b"v")) for number in range(10)]
    await eventually(lambda: in_line(kv) == 10)
    await kv.close()
    assert {type(outcome) for outcome in await outcomes(list(held))} == {OutcomeUnknown}
    assert {type(outcome) for outcome in await outcomes(list(later))} == {ClientClosed}
    with pytest.raises(ClientClosed):
        await kv.put(b"k", b"v")
    fake._held["Put"].set()
    assert not {request.key for _, request in fake.requests} & {b"k%d" % number for number in range(10)}


async def test_closing_at_any_moment(fake: FakeServer, complaints: list[Any]) -> None:
    async def work(kv: AsyncClient, number: int) -> type | None:
        try:
            for _ in range(50):
                await kv.put(b"k%d" % number, b"v")
                await kv.get(b"k%d" % number)
        except KvClientError as error:
            return type(error)
        return None

    for turn in range(15):
        kv = AsyncClient(fake.endpoint)
        workers = [asyncio.create_task(work(kv, number)) for number in range(16)]
        for _ in range(turn * 7):
            await asyncio.sleep(0)
        await kv.close()
        assert {worker.result() for worker in (await asyncio.wait(workers))[0]} <= {ClientClosed, OutcomeUnknown, None} | {
            kind for kind in KvClientError.__subclasses__() if kind.__name__ == "Unavailable"
        }
    gc.collect()
    assert complaints == []
