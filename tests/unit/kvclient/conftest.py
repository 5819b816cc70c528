"""Fixtures: a fake server, and each client in a form that one test can drive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent import futures
from typing import Any

import pytest

import kvclient
from support.fake_server import FakeServer


class BlockingAsAsync:
    """Drives the blocking client from a coroutine, each call in a thread of its own, so that one test serves both clients."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.client = kvclient.Client(*args, **options)
        self.threads = futures.ThreadPoolExecutor(300, thread_name_prefix="caller")

    def __getattr__(self, name: str) -> Any:
        member = getattr(self.client, name)
        if not callable(member) or name == "forget_session":
            return member

        async def call(*args: Any, **options: Any) -> Any:
            return await self.in_a_thread(lambda: member(*args, **options))

        return call

    async def in_a_thread(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.threads, work)

    async def entries(self, *args: Any, **options: Any) -> list[kvclient.Entry]:
        found: list[kvclient.Entry] = await self.in_a_thread(lambda: list(self.client.scan(*args, **options)))
        return found

    async def changes(self, *args: Any, **options: Any) -> list[kvclient.HistoryEntry]:
        found: list[kvclient.HistoryEntry] = await self.in_a_thread(lambda: list(self.client.history(*args, **options)))
        return found

    async def finish(self) -> None:
        await self.close()
        self.threads.shutdown()


class Async:
    """Adds to the asyncio client what the tests need."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self.client = kvclient.AsyncClient(*args, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    async def entries(self, *args: Any, **options: Any) -> list[kvclient.Entry]:
        return [entry async for entry in self.client.scan(*args, **options)]

    async def changes(self, *args: Any, **options: Any) -> list[kvclient.HistoryEntry]:
        return [entry async for entry in self.client.history(*args, **options)]

    async def finish(self) -> None:
        await self.client.close()


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture(params=[BlockingAsAsync, Async], ids=["Client", "AsyncClient"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Callable[..., Any]]:
    """Makes clients of one kind and closes them at the end."""
    made: list[Any] = []

    def make(*args: Any, **options: Any) -> Any:
        made.append(request.param(*args, **options))
        return made[-1]

    yield make
    for client in made:
        await client.finish()


@pytest.fixture
def endpoint(fake: FakeServer) -> str:
    """A fresh node that keeps the contract; a test that names nothing else holds against any."""
    return fake.endpoint


@pytest.fixture
def kv(connect: Callable[..., Any], endpoint: str) -> Any:
    return connect(endpoint)
