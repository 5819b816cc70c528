"""Connections that are missing, slow, broken or closed: what is certain and what is not."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from typing import Any

import pytest

from kvclient import (
    AsyncClient,
    Client,
    ClientClosed,
    KvClientError,
    OutcomeUnknown,
    Timeout,
    Unavailable,
    _channel,
)
from support.fake_server import FakeServer


def free_endpoint() -> str:
    """Return an endpoint on which nothing listens."""
    with FakeServer() as server:
        return server.endpoint


@pytest.mark.parametrize(
    "endpoint", ["", "host", "host:", ":7400", "host:0", "host:65536", "host:x", "::1:7400", "http://host:7400", "host:٣"]
)
def test_bad_endpoints_are_refused_at_once(endpoint: str) -> None:
    for kind in (Client, AsyncClient):
        with pytest.raises(ValueError, match="endpoint"):
            kind(endpoint)


def test_endpoints_never_name_a_scheme() -> None:
    assert _channel.target("unix:7400") == "dns:///unix:7400"
    assert _channel.parse_endpoint("[::1]:7400") == ("[::1]", 7400)


@pytest.mark.parametrize("timeout_s", [0, -1, math.nan])
async def test_bad_timeouts_are_refused(connect: Any, timeout_s: float) -> None:
    with pytest.raises(ValueError, match="timeout_s"):
        connect("127.0.0.1:1", timeout_s=timeout_s)
    with pytest.raises(ValueError, match="timeout_s"):
        await connect("127.0.0.1:1").get(b"k", timeout_s=timeout_s)


async def test_a_missing_server_is_unavailable_at_once_also_for_writes(connect: Any) -> None:
    kv = connect(free_endpoint(), timeout_s=20.0)
    began = time.monotonic()
    for call in (kv.put(b"k", b"v"), kv.get(b"k"), kv.write([]), kv.entries()):
        with pytest.raises(Unavailable) as caught:
            await call
        assert caught.value.code == "UNAVAILABLE"
        assert "kvserver serve" in caught.value.hint
        assert not caught.value.from_server
    assert time.monotonic() - began < 10


async def test_wait_for_ready_waits_for_a_server_that_comes(connect: Any) -> None:
    endpoint = free_endpoint()
    kv = connect(endpoint, timeout_s=20.0, wait_for_ready=True)
    writing = asyncio.create_task(kv.put(b"k", b"v"))
    await asyncio.sleep(0.05)
    late = FakeServer()
    late.start(int(endpoint.rpartition(":")[2]))
    try:
        assert (await writing).revision == 2
    finally:
        await asyncio.to_thread(late.stop)


async def test_wait_for_ready_ends_with_the_time_allowed(connect: Any) -> None:
    with pytest.raises(Unavailable, match="within the time allowed"):
        await connect(free_endpoint(), timeout_s=0.05, wait_for_ready=True).put(b"k", b"v")


async def test_a_read_that_takes_too_long_is_a_timeout(kv: Any, fake: FakeServer) -> None:
    assert await kv.get(b"k") is None
    release = fake.hold("Get")
    with pytest.raises(Timeout) as caught:
        await kv.get(b"k", timeout_s=0.1)
    assert caught.value.code == "DEADLINE"
    release.set()
    assert await kv.get(b"k") is None


async def test_a_write_that_takes_too_long_may_have_happened(kv: Any, fake: FakeServer) -> None:
    assert await kv.get(b"k") is None
    release = fake.hold("Put")
    with pytest.raises(OutcomeUnknown):
        await kv.put(b"k", b"v", timeout_s=0.2)
    release.set()
    assert (await kv.get(b"k")).value == b"v"


@pytest.mark.parametrize(
    ("method", "call"),
    [
        ("Put", lambda kv: kv.put(b"k", b"v")),
        ("Delete", lambda kv: kv.delete(b"k")),
        ("Delete", lambda kv: kv.delete_prefix(b"k")),
        ("Delete", lambda kv: kv.delete_range(b"k", b"l")),
        ("Write", lambda kv: kv.write([])),
        ("CreateNamespace", lambda kv: kv.create_namespace("n")),
    ],
)
@pytest.mark.parametrize("status", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "UNKNOWN", "INTERNAL"])
async def test_every_write_without_the_servers_word_is_open(
    kv: Any, fake: FakeServer, method: str, call: Any, status: str
) -> None:
    fake.abort_next(method, status, "Socket closed")
    with pytest.raises(OutcomeUnknown):
        await call(kv)
    assert [name for name, _ in fake.requests] == [method], "a write is never sent twice"


async def test_a_connection_that_breaks_under_a_write_and_is_found_again(kv: Any, fake: FakeServer) -> None:
    fake.hold("Put")
    writing = asyncio.create_task(kv.put(b"k", b"v"))
    await asyncio.to_thread(fake.entered["Put"].wait, 10)
    port = int(fake.endpoint.rpartition(":")[2])
    await asyncio.to_thread(fake.stop)
    with pytest.raises(OutcomeUnknown, match="may or may not"):
        await writing
    with pytest.raises(Unavailable):  # nothing listens there now, so this one is certain
        await kv.put(b"k2", b"v")
    fake._held.clear()
    fake.start(port)
    for _ in range(100):
        try:
            assert (await kv.get(b"k")).value == b"v"
            break
        except Unavailable:
            await asyncio.sleep(0.05)
    else:
        pytest.fail("the client did not find the server again")
    assert await kv.get(b"k2") is None


async def test_a_closed_client_says_so(connect: Any, fake: FakeServer) -> None:
    for used in (False, True):
        kv = connect(fake.endpoint)
        if used:
            await kv.get(b"k")
        await kv.close()
        await kv.close()
        for call in (kv.get(b"k"), kv.put(b"k", b"v"), kv.entries()):
            with pytest.raises(ClientClosed):
                await call


@pytest.mark.parametrize(
    ("method", "call", "kind"),
    [
        ("Put", lambda kv: kv.put(b"k", b"v"), OutcomeUnknown),
        ("Get", lambda kv: kv.get(b"k"), Unavailable),
        ("Scan", lambda kv: kv.entries(), Unavailable),
    ],
)
async def test_closing_ends_calls_under_way_with_an_error(
    kv: Any, fake: FakeServer, method: str, call: Any, kind: type[KvClientError]
) -> None:
    release = fake.hold(method)
    running = asyncio.create_task(call(kv))
    await asyncio.to_thread(fake.entered[method].wait, 10)
    await kv.close()
    with pytest.raises(kind):
        await running
    release.set()


async def test_a_cancelled_task_stays_cancelled(fake: FakeServer) -> None:
    release = fake.hold("Put")
    async with AsyncClient(fake.endpoint) as kv:
        writing = asyncio.create_task(kv.put(b"k", b"v"))
        await asyncio.to_thread(fake.entered["Put"].wait, 10)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        release.set()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                fake.hold("Get")
                await kv.get(b"k")
        fake._held["Get"].set()
        assert (await kv.get(b"k")).value == b"v"


async def test_a_task_cancelled_while_connecting_stays_cancelled() -> None:
    async with AsyncClient(free_endpoint(), wait_for_ready=True) as kv:
        getting = asyncio.create_task(kv.get(b"k"))
        await asyncio.sleep(0.02)
        getting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await getting


async def test_many_tasks_share_one_client(fake: FakeServer) -> None:
    async with AsyncClient(fake.endpoint) as kv:
        results = await asyncio.gather(*(kv.put(b"k%d" % number, b"v") for number in range(200)))
        assert sorted(result.revision for result in results) == list(range(2, 202))
        assert kv.session == (1, 201)


def test_many_threads_share_one_client(fake: FakeServer) -> None:
    failed: list[BaseException] = []
    with Client(fake.endpoint) as kv:

        def work(name: int) -> None:
            try:
                for number in range(25):
                    key = b"%d/%d" % (name, number)
                    kv.put(key, key)
                    entry = kv.get(key)
                    assert entry is not None
                    assert entry.value == key
            except BaseException as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert kv.count() == 200
        assert kv.session.revision == 201


def test_clients_are_context_managers(fake: FakeServer) -> None:
    with Client(fake.endpoint) as kv:
        assert kv.get(b"k") is None
    with pytest.raises(ClientClosed):
        kv.get(b"k")
