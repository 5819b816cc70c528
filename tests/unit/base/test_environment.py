"""Time and randomness as the floors are handed them."""

from __future__ import annotations

import threading
import time

from kvserver.base.clock import SystemClock
from kvserver.base.environment import Environment
from kvserver.base.fs import OsFileSystem


def test_the_usual_environment_is_the_machines_own() -> None:
    env = Environment()
    assert isinstance(env.fs, OsFileSystem)
    assert isinstance(env.clock, SystemClock)
    assert len(env.random_bytes(16)) == 16


def test_random_ids_differ_and_are_never_zero() -> None:
    assert len({Environment().random_id() for _ in range(100)}) == 100
    assert Environment(random_bytes=bytes).random_id() == 1
    assert Environment(random_bytes=lambda length: b"\xff" * length).random_id() == 2**64 - 1


def test_the_system_clock_tells_the_machines_time() -> None:
    clock = SystemClock()
    assert abs(clock.now_ms() - time.time() * 1000) < 60_000
    before = clock.monotonic()
    assert clock.monotonic() >= before


def test_waiting_ends_with_the_time_or_with_a_call() -> None:
    clock = SystemClock()
    condition = threading.Condition()
    with condition:
        assert clock.wait(condition, 0.001) is False

    def call() -> None:
        with condition:
            condition.notify()

    with condition:
        caller = threading.Thread(target=call)
        caller.start()
        assert clock.wait(condition, 30) is True
    caller.join()
