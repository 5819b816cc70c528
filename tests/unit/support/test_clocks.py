"""The manual clock: time passes when the test says so, and nobody waits for ever."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from kvserver.base.clock import Clock
from support.clocks import ClockStalled, ManualClock

JOIN_S = 10.0


class Sleeper(threading.Thread):
    """A thread in one wait; its outcome is kept."""

    def __init__(self, clock: Clock, condition: threading.Condition, timeout_s: float | None) -> None:
        super().__init__(daemon=True)
        self._clock = clock
        self._condition = condition
        self._timeout_s = timeout_s
        self.outcome: bool | None = None

    def run(self) -> None:
        with self._condition:
            self.outcome = self._clock.wait(self._condition, self._timeout_s)

    def ended(self) -> bool | None:
        self.join(JOIN_S)
        assert not self.is_alive()
        return self.outcome


@contextmanager
def sleeping(clock: ManualClock, *sleepers: Sleeper) -> Iterator[None]:
    """Start the threads and go on when all of them wait."""
    for sleeper in sleepers:
        sleeper.start()
    clock.await_waiters(len(sleepers))
    yield


def test_time_stands_still_until_it_is_advanced() -> None:
    clock = ManualClock(now_ms=1000)
    assert (clock.now_ms(), clock.monotonic()) == (1000, 0.0)
    clock.advance_ms(250)
    clock.advance_ms(0.5)
    assert (clock.now_ms(), clock.monotonic()) == (1250, 0.2505)


def test_the_wall_clock_may_jump_and_the_other_does_not() -> None:
    clock = ManualClock(now_ms=1000)
    clock.jump_wall_ms(-400)
    assert (clock.now_ms(), clock.monotonic()) == (600, 0.0)
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance_ms(-1)


def test_a_wait_is_over_when_time_was_advanced_past_it() -> None:
    clock = ManualClock()
    sleeper = Sleeper(clock, threading.Condition(), 0.5)
    with sleeping(clock, sleeper):
        clock.advance_ms(499)
        sleeper.join(0.05)
        assert sleeper.is_alive()
        clock.advance_ms(1)
        assert sleeper.ended() is False


@pytest.mark.parametrize("timeout_s", [5.0, None])
def test_a_notified_wait_returns_true(timeout_s: float | None) -> None:
    clock = ManualClock()
    condition = threading.Condition()
    sleeper = Sleeper(clock, condition, timeout_s)
    sleeper.start()
    while sleeper.is_alive():
        with condition:
            condition.notify_all()
        sleeper.join(0.005)
    assert sleeper.ended() is True
    assert clock.monotonic() == 0.0


def test_waits_on_several_conditions_end_each_in_its_time() -> None:
    clock = ManualClock()
    early = Sleeper(clock, threading.Condition(), 1.0)
    late = Sleeper(clock, threading.Condition(), 3.0)
    with sleeping(clock, early, late):
        clock.advance_ms(1000)
        assert early.ended() is False
        assert late.is_alive()
        clock.advance_ms(5000)
        assert late.ended() is False


def test_two_waits_on_one_condition_end_at_once_the_later_one_without_cause() -> None:
    clock = ManualClock()
    condition = threading.Condition()
    early, late = Sleeper(clock, condition, 1.0), Sleeper(clock, condition, 3.0)
    with sleeping(clock, early, late):
        clock.advance_ms(1000)
        assert early.ended() is False
        assert late.ended() is True


def test_a_wait_without_time_is_over_at_once() -> None:
    clock = ManualClock()
    condition = threading.Condition()
    with condition:
        assert clock.wait(condition, 0) is False
        assert clock.wait(condition, -1) is False
    assert clock.monotonic() == 0.0


def test_a_loop_until_a_deadline_ends_whatever_the_rounding() -> None:
    clock = ManualClock(auto_advance=True)
    condition = threading.Condition()
    for deadline in (0.1 + 0.2, 0.7 + 0.1, 1.1 + 2.2, 4.0000000001):
        rounds = 0
        with condition:
            while clock.monotonic() < deadline:
                assert clock.wait(condition, deadline - clock.monotonic()) is False
                rounds += 1
        assert rounds <= 2


def test_with_auto_advance_a_wait_moves_the_time_itself() -> None:
    clock = ManualClock(now_ms=0, auto_advance=True)
    condition = threading.Condition()
    with condition:
        assert clock.wait(condition, 2.5) is False
    assert (clock.now_ms(), clock.monotonic()) == (2500, 2.5)


def test_nobody_waits_for_ever() -> None:
    condition = threading.Condition()
    with condition:
        with pytest.raises(ClockStalled, match="advanced"):
            ManualClock(patience_s=0.01).wait(condition, 5)
        with pytest.raises(ClockStalled, match="notified"):
            ManualClock(patience_s=0.01, auto_advance=True).wait(condition, None)
    with pytest.raises(ClockStalled, match="0 threads"):
        ManualClock(patience_s=0.01).await_waiters(1)


def test_a_worker_with_a_deadline_wakes_as_often_as_time_is_advanced() -> None:
    clock = ManualClock()
    condition = threading.Condition()
    ticks: list[float] = []

    def work() -> None:
        with condition:
            while len(ticks) < 100:
                deadline = clock.monotonic() + 0.1
                while clock.monotonic() < deadline:
                    clock.wait(condition, deadline - clock.monotonic())
                ticks.append(clock.monotonic())

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    for _ in range(100):
        clock.await_waiters(1)
        clock.advance_ms(100)
    worker.join(JOIN_S)
    assert not worker.is_alive()
    assert len(ticks) == 100
