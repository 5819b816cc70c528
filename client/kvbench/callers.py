"""The callers of one process: tasks that share one asynchronous client. For threads see ``kvbench.threaded``.

What an operation costs here is what the tool takes from the client that it measures: two readings of the clock, one append,
and one step of an iterator written in C.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import kvclient
from kvbench import recording, workload
from kvbench.options import SCAN, RunOptions
from kvbench.pacing import Pacer
from kvbench.recording import PhaseResult, Recorder

NEVER_NS = 1 << 62
ERROR_PAUSE_S = 0.01
"""How long a caller waits after an error, so that a server that refuses is not asked the faster for it."""

clock = time.perf_counter_ns


def new_recorder(options: RunOptions, on_progress: Callable[[int], None]) -> Recorder:
    """Return an empty recorder for the kinds of operations that a workload has."""
    return Recorder("scan" if options.workload == SCAN else "get", "put", on_progress)


def deadline_of(options: RunOptions, phase: workload.Phase, began_ns: int) -> int:
    """Return after which moment no operation is begun.

    A schedule that the server cannot keep up with goes on for as long as an operation may take; what is not sent by then is
    counted as such.
    """
    if phase.rate is None:
        return NEVER_NS if phase.duration_ns is None else began_ns + phase.duration_ns
    length_ns = phase.duration_ns if phase.total is None else phase.total * 1e9 / phase.rate
    return phase.start_ns + int((length_ns or 0) + options.timeout_s * 1e9)


class AsyncCallers:
    """Tasks that call one AsyncClient."""

    def __init__(self, options: RunOptions, plan: workload.Plan, client: kvclient.AsyncClient, callers: int) -> None:
        self._options = options
        self._plan = plan
        self._client = client
        self._callers = callers
        self._put: Callable[[bytes, bytes], Awaitable[Any]] = client.put
        if options.durability != "policy":
            self._put = functools.partial(client.put, durability=kvclient.Durability(options.durability))

    async def run(self, phase: workload.Phase, on_progress: Callable[[int], None]) -> PhaseResult:
        """Carry out a phase; its operations are complete when this returns."""
        recorder = new_recorder(self._options, on_progress)
        operations = self._plan.operations(phase)
        await asyncio.sleep(max(phase.start_ns - clock(), 0) / 1e9)
        began_ns = clock()
        deadline_ns = deadline_of(self._options, phase, began_ns)
        recorder.begin(began_ns)
        ticking = asyncio.create_task(_tick(recorder))
        try:
            with Pacer() as pacer:
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(self._callers):
                        tasks.create_task(self._caller(operations, deadline_ns, recorder, pacer))
            return recorder.end(clock(), self._plan.amount(phase))
        finally:
            ticking.cancel()

    def _caller(
        self, operations: Iterator[workload.Operation], deadline_ns: int, recorder: Recorder, pacer: Pacer
    ) -> Coroutine[Any, Any, None]:
        follow = self._scans if self._options.workload == SCAN else self._gets_and_puts
        return follow(operations, deadline_ns, recorder, pacer)

    async def _gets_and_puts(
        self, operations: Iterator[workload.Operation], deadline_ns: int, recorder: Recorder, pacer: Pacer
    ) -> None:
        get, put, reads, writes = self._client.get, self._put, recorder.reads, recorder.writes
        for intended_ns, is_read, key, value in operations:
            began_ns = clock()
            if began_ns >= deadline_ns:
                return
            if intended_ns:
                began_ns = await _sent(intended_ns, began_ns, recorder, pacer)
            try:
                if is_read:
                    if await get(key) is None:
                        recorder.not_found()
                    reads(clock() - began_ns)
                else:
                    await put(key, value)
                    writes(clock() - began_ns)
            except kvclient.KvClientError as error:
                if await _pause_after(error, recorder, paced=bool(intended_ns)):
                    return

    async def _scans(self, operations: Iterator[workload.Operation], deadline_ns: int, recorder: Recorder, pacer: Pacer) -> None:
        scan, reads, limit = self._client.scan, recorder.reads, workload.scan_length(self._options)
        for intended_ns, _, key, _ in operations:
            began_ns = clock()
            if began_ns >= deadline_ns:
                return
            if intended_ns:
                began_ns = await _sent(intended_ns, began_ns, recorder, pacer)
            found = 0
            try:
                async for _ in scan(start=key, end=workload.KEYS_END, limit=limit):
                    found += 1
                reads(clock() - began_ns)
                recorder.keys_read(found)
                if found < limit:
                    recorder.not_found()
            except kvclient.KvClientError as error:
                if await _pause_after(error, recorder, paced=bool(intended_ns)):
                    return


async def _tick(recorder: Recorder) -> None:
    pause_s = recording.TICK_S
    while True:
        await asyncio.sleep(pause_s)
        pause_s = recorder.tick()


async def _sent(intended_ns: int, now_ns: int, recorder: Recorder, pacer: Pacer) -> int:
    """Wait for an operation's time; return that time, from which its latency counts, however late it is by now."""
    if intended_ns > now_ns:
        await pacer.until(intended_ns)
        now_ns = clock()
    else:
        recorder.late()
    recorder.lags(now_ns - intended_ns)
    return intended_ns


async def _pause_after(error: kvclient.KvClientError, recorder: Recorder, *, paced: bool) -> bool:
    """Note an error and let the caller rest where no schedule does; return whether it is time to give up."""
    recorder.error(error.code, error.message)
    if not paced:
        await asyncio.sleep(ERROR_PAUSE_S)
    return recorder.result.gave_up
