"""Loads of a cluster through the SDK; prints its figures as JSON: what the benchmark starts as a process of its own.

cluster_load.py lag PRIMARY FOLLOWER SECONDS     how long after its acknowledgement a put is read from the follower
cluster_load.py wait PRIMARY COUNT               until so many nodes have applied what any of them has; asks every 20 ms
cluster_load.py gets NODE,NODE,.. KEYS SECONDS   gets by many callers, spread over the nodes that are named
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import uvloop

from kvclient import AsyncClient, ClusterClient
from suite.parsing import percentile
from suite.sdk_loads import Figures, closed_loop, key_of, latencies

PROBE_S = 0.02
CALLERS = 1000
CAUGHT_UP_S = 220.0


async def lag(primary: str, follower: str, seconds: float) -> Figures:
    """Put a probe again and again, and wait for each on the follower; the session makes the read wait for exactly that."""
    times = []
    async with AsyncClient(primary) as writer, AsyncClient(follower, read_from="any") as reader:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            await writer.put(b"lag-probe", b"x")
            begin = time.perf_counter()
            await reader.get(b"lag-probe", session=writer.session)
            times.append(time.perf_counter() - begin)
            await asyncio.sleep(PROBE_S)
    ordered = sorted(times)
    return {**latencies(times), "max_us": ordered[-1] * 1e6, "p90_us": percentile(ordered, 0.9) * 1e6, "probes": len(times)}


async def gets(endpoints: list[str], keys: int, seconds: float) -> Figures:
    """Get with many callers; each stays with one of the nodes."""
    clients = [AsyncClient(endpoint, read_from="any") for endpoint in endpoints]
    try:
        operations = []
        for caller in range(CALLERS):
            client, at = clients[caller % len(clients)], caller

            def operation(client: AsyncClient = client, at: list[int] = [at]) -> object:  # noqa: B006
                at[0] += CALLERS
                return client.get(key_of(at[0] % keys))

            operations.append(operation)
        return await closed_loop(operations, seconds)  # type: ignore[arg-type]
    finally:
        for client in clients:
            await client.close()


def wait(primary: str, count: int) -> Figures:
    """Wait until so many nodes have applied what is durable anywhere; from one process, which takes next to nothing of them."""
    begin = time.perf_counter()
    with ClusterClient(primary) as cluster:
        while time.perf_counter() < begin + CAUGHT_UP_S:
            nodes = [node for node in cluster.status().nodes if node.reachable]
            newest = max((node.durable_revision for node in nodes), default=0)
            if len(nodes) >= count and all(node.applied_revision == newest for node in nodes):
                return {"seconds": time.perf_counter() - begin}
            time.sleep(PROBE_S)
    raise SystemExit("a follower did not catch up in time")


def main() -> None:
    """Run the load that the command line names."""
    name, *words = sys.argv[1:]
    if name == "wait":
        print(json.dumps(wait(words[0], int(words[1]))))
        return
    load = (
        lag(words[0], words[1], float(words[2])) if name == "lag" else gets(words[0].split(","), int(words[1]), float(words[2]))
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(load)))


if __name__ == "__main__":
    main()
