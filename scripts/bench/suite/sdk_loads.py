"""Loads that go through the SDK's public calls: crowds of writers, batches, namespaces, one write at a time, reads, a scan."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from kvclient import AsyncClient, Durability, Put
from suite.parsing import percentile

Figures = dict[str, float]
Operation = Callable[[], Awaitable[object]]
WARM_UP_S = 0.3
CALLERS = 64
"""How many callers share the work where the rate is what matters, not one caller's latency."""


def key_of(number: int) -> bytes:
    """Return the n-th key; neighbours lie far from each other, and the order looks random."""
    return b"key:%016x" % (number * 0x9E3779B97F4A7C15 % (1 << 64))


def value_of(size_bytes: int) -> bytes:
    """Return a value of so many bytes."""
    return (bytes(range(256)) * (size_bytes // 256 + 1))[:size_bytes]


def latencies(seconds: list[float]) -> Figures:
    """Return percentiles and the mean, in microseconds."""
    ordered = sorted(seconds)
    figures = {name: percentile(ordered, share) * 1e6 for name, share in (("p50_us", 0.5), ("p99_us", 0.99))}
    return {**figures, "mean_us": sum(ordered) / len(ordered) * 1e6}


async def closed_loop(operations: list[Operation], seconds: float) -> Figures:
    """Let each caller do its operation again and again for so long; what a warm-up did before is not counted."""

    async def again(operation: Operation, until: float, times: list[float]) -> None:
        while (begin := time.perf_counter()) < until:
            await operation()
            times.append(time.perf_counter() - begin)

    for length, times in ((WARM_UP_S, []), (seconds, list[float]())):
        begin = time.perf_counter()
        await asyncio.gather(*(again(operation, begin + length, times) for operation in operations))
        elapsed = time.perf_counter() - begin
    return {"per_s": len(times) / elapsed, **latencies(times)}


def put_next(client: AsyncClient, keys: list[bytes], value: bytes) -> Operation:
    """Return an operation that puts one of the keys after the other."""
    at = -1

    def operation() -> Awaitable[object]:
        nonlocal at
        at += 1
        return client.put(keys[at % len(keys)], value)

    return operation


async def writers(address: str, *, callers: int, seconds: float, same_keys: bool = False, value_bytes: int = 256) -> Figures:
    """Put from so many callers at once, each over 100 keys of its own, or all of them over the same 100."""
    async with AsyncClient(address) as client:
        value = value_of(value_bytes)
        firsts = [0 if same_keys else caller * 100 for caller in range(callers)]
        pools = [[key_of(first + number) for number in range(100)] for first in firsts]
        return await closed_loop([put_next(client, pool, value) for pool in pools], seconds)


async def batches(address: str, *, callers: int, size: int, seconds: float) -> Figures:
    """Write atomic batches of so many puts from so many callers; ``operations_per_s`` counts the puts."""
    async with AsyncClient(address) as client:
        value = value_of(256)

        def batch(caller: int) -> Operation:
            mutations = [Put(key_of(caller * size + number), value) for number in range(size)]
            return lambda: client.write(mutations)

        figures = await closed_loop([batch(caller) for caller in range(callers)], seconds)
        return {**figures, "operations_per_s": figures["per_s"] * size}


async def namespaces(address: str, *, count: int, callers: int, seconds: float) -> Figures:
    """Put from so many callers in all, spread evenly over so many namespaces."""
    names = [f"bench-{count}-{number}" for number in range(count)]
    async with AsyncClient(address) as admin:
        for name in names:
            await admin.create_namespace(name)
    clients = [AsyncClient(address, namespace=name) for name in names]
    try:
        pools = [[key_of(caller * 100 + number) for number in range(100)] for caller in range(callers)]
        operations = [put_next(clients[caller % count], pool, value_of(256)) for caller, pool in enumerate(pools)]
        return await closed_loop(operations, seconds)
    finally:
        for client in clients:
            await client.close()


async def one_at_a_time(
    address: str, *, count: int, value_bytes: int, first: int = 0, memory: bool = False, over: int = 0
) -> Figures:
    """Put so many keys, each after the answer to the one before; with ``over`` the same few again and again."""
    durability = Durability.MEMORY if memory else Durability.POLICY
    value, times = value_of(value_bytes), []
    async with AsyncClient(address) as client:
        await client.status()
        for number in range(first, first + count):
            key = key_of(number % over if over else number)
            begin = time.perf_counter()
            await client.put(key, value, durability=durability)
            times.append(time.perf_counter() - begin)
        await client.sync()
    return {"per_s": count / sum(times), **latencies(times)}


async def fill(address: str, *, count: int, value_bytes: int, first: int = 0, memory: bool = False) -> Figures:
    """Put so many keys, each once, from 64 callers; ``each_us`` is the time of all by their number."""
    durability = Durability.MEMORY if memory else Durability.POLICY
    value, numbers, times = value_of(value_bytes), iter(range(first, first + count)), list[float]()
    async with AsyncClient(address) as client:
        await client.status()

        async def caller() -> None:
            for number in numbers:
                begin = time.perf_counter()
                await client.put(key_of(number), value, durability=durability)
                times.append(time.perf_counter() - begin)

        begin = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        await client.sync()
        elapsed = time.perf_counter() - begin
    return {"per_s": count / elapsed, "each_us": elapsed / count * 1e6, **latencies(times)}


async def reads(address: str, *, first: int, count: int, sample: int) -> Figures:
    """Get keys one at a time: a sample of those from ``first`` on, in random order. Raises SystemExit where one is not there."""
    numbers = random.Random(1).sample(range(first, first + count), min(sample, count))
    times = []
    async with AsyncClient(address) as client:
        await client.status()
        for number in numbers:
            begin = time.perf_counter()
            entry = await client.get(key_of(number))
            times.append(time.perf_counter() - begin)
            if entry is None:
                raise SystemExit(f"key number {number} is not there")
    return latencies(times)


async def flush(address: str) -> Figures:
    """Have the server flush."""
    async with AsyncClient(address) as client:
        begin = time.perf_counter()
        result = await client.flush()
        return {"seconds": time.perf_counter() - begin, "flushed_revision": result.flushed_revision}


async def scan(address: str, *, times: int) -> Figures:
    """Scan everything that there is, several times; ``keys_per_s`` is the median's."""
    rates, keys = [], 0
    async with AsyncClient(address) as client:
        for _ in range(times):
            begin, keys = time.perf_counter(), 0
            async for _entry in client.scan():
                keys += 1
            rates.append(keys / (time.perf_counter() - begin))
    return {"keys_per_s": sorted(rates)[len(rates) // 2], "keys": keys}


LOADS: dict[str, Callable[..., Coroutine[Any, Any, Figures]]] = {
    load.__name__: load for load in (writers, batches, namespaces, one_at_a_time, fill, reads, flush, scan)
}
