"""Waiting for a moment: nobody is woken before it, those who wait are woken in order, and one that gave up disturbs nobody."""

from __future__ import annotations

import asyncio
import sys
import time

import pytest

from kvbench.pacing import Pacer

MS = 1_000_000

BOTH = pytest.mark.parametrize(
    "exact", [pytest.param(True, marks=pytest.mark.skipif(sys.platform != "linux", reason="timerfd is Linux's")), False]
)


@BOTH
async def test_nobody_is_woken_before_the_time(exact: bool) -> None:
    woken: list[tuple[int, int, int]] = []

    async def wait(number: int, at_ns: int, pacer: Pacer) -> None:
        await pacer.until(at_ns)
        woken.append((number, at_ns, time.perf_counter_ns()))

    start_ns = time.perf_counter_ns()
    with Pacer(exact=exact) as pacer:
        async with asyncio.TaskGroup() as tasks:
            for number in range(50):
                tasks.create_task(wait(number, start_ns + (number // 2) * MS, pacer))
    assert [number for number, *_ in woken] == list(range(50))
    assert all(at_ns <= now_ns for _, at_ns, now_ns in woken)


@BOTH
async def test_a_moment_that_has_passed_is_at_once(exact: bool) -> None:
    with Pacer(exact=exact) as pacer:
        async with asyncio.timeout(10):
            await pacer.until(time.perf_counter_ns() - MS)
            await pacer.until(0)


@BOTH
async def test_one_that_gave_up_disturbs_nobody(exact: bool) -> None:
    with Pacer(exact=exact) as pacer:
        at_ns = time.perf_counter_ns() + 2 * MS
        gone, stays = pacer.until(at_ns), pacer.until(at_ns + 1)
        gone.cancel()
        async with asyncio.timeout(10):
            await stays
        assert gone.cancelled()


@pytest.mark.skipif(sys.platform != "linux", reason="timerfd is Linux's")
async def test_the_timer_is_closed_in_the_end() -> None:
    import os

    with Pacer() as pacer:
        fd = pacer._fd
        os.fstat(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
