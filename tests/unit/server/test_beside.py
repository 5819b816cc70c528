"""Work beside the event loop: its outcome, helpers that are ended, and tasks that go on without their caller."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any, cast

import pytest

from kvserver.base.errors import Code, KvError
from kvserver.replication.waiting import on_thread
from kvserver.server.beside import HelperRun, UnderWay


async def test_the_outcome_is_the_works() -> None:
    assert await on_thread(lambda: threading.current_thread().name, "beside") == "beside"
    with pytest.raises(ZeroDivisionError):
        await on_thread(lambda: 1 // 0, "beside")


async def test_it_goes_on_when_its_caller_is_cancelled() -> None:
    release, ended = threading.Event(), threading.Event()

    def work() -> None:
        release.wait(10)
        ended.set()

    task = asyncio.ensure_future(on_thread(work, "beside"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not ended.is_set()
    release.set()
    assert await asyncio.to_thread(ended.wait, 10)


class FakeHelper:
    """Brings its result when it is let go, or an error when it is killed."""

    def __init__(self, error: KvError | None = None) -> None:
        self.go = threading.Event()
        self.killed = False
        self.error = error

    def result(self) -> dict[str, Any]:
        assert self.go.wait(10)
        if self.killed:
            raise KvError(Code.INTERNAL, "the helper ended by signal 9")
        if self.error is not None:
            raise self.error
        return {"answer": 42}

    def kill(self) -> None:
        self.killed = True
        self.go.set()


def run(helper: FakeHelper, running: HelperRun) -> dict[str, Any]:
    return running.run(lambda: cast(Any, helper))


def test_a_helper_brings_its_result_or_its_error() -> None:
    helper = FakeHelper()
    helper.go.set()
    assert run(helper, HelperRun()) == {"answer": 42}
    failing = FakeHelper(KvError(Code.CORRUPTION, "damaged"))
    failing.go.set()
    with pytest.raises(KvError, match="damaged"):
        run(failing, HelperRun())


async def test_a_helper_that_is_ended_says_so_and_not_that_it_died() -> None:
    helper, running = FakeHelper(), HelperRun()
    task = asyncio.ensure_future(on_thread(lambda: run(helper, running), "helper"))
    await asyncio.sleep(0.01)
    running.end()
    with pytest.raises(KvError, match="ended before it was done") as caught:
        await task
    assert caught.value.code is Code.NOT_SERVING
    assert helper.killed


def test_a_helper_that_is_ended_before_its_start_is_never_started() -> None:
    running = HelperRun()
    running.end()

    def start() -> Any:
        raise AssertionError("started")

    with pytest.raises(KvError, match="ended before it was done"):
        running.run(start)


async def test_tasks_go_on_without_their_caller_and_nobody_complains(caplog: pytest.LogCaptureFixture) -> None:
    under_way, gate = UnderWay(), asyncio.Event()

    async def work(fails: bool) -> int:
        await gate.wait()
        if fails:
            raise KvError(Code.INTERNAL, "no")
        return 1

    tasks = [under_way.keep(work(fails)) for fails in (False, True)]
    await under_way.wait(0.01)
    assert not any(task.done() for task in tasks), "waiting is bounded"
    gate.set()
    with caplog.at_level(logging.ERROR, "asyncio"):
        await under_way.wait(10)
        assert all(task.done() for task in tasks)
        await asyncio.sleep(0)
        del tasks
    assert not caplog.records
    await under_way.wait(10)
