"""The rate limit: so many bytes a second whoever asks for them, a short burst, and an end to all waiting."""

from __future__ import annotations

import threading

import pytest

from kvserver.archive.rate_limit import BURST_S, RateLimiter
from support.clocks import ManualClock


def taken_ms(clock: ManualClock, limiter: RateLimiter, *lengths: int) -> list[float]:
    """Return how long each of these takes on a clock that moves by waiting."""
    found = []
    for length in lengths:
        begin = clock.monotonic()
        limiter.take(length)
        found.append(round((clock.monotonic() - begin) * 1000, 1))
    return found


def test_bytes_pass_at_the_rate() -> None:
    clock = ManualClock(auto_advance=True)
    assert taken_ms(clock, RateLimiter(clock, 1000), *[100] * 5) == [0, 100, 100, 100, 100]


def test_a_large_piece_passes_at_once_and_is_paid_for_by_the_next() -> None:
    clock = ManualClock(auto_advance=True)
    assert taken_ms(clock, RateLimiter(clock, 1000), 5000, 1, 1) == [0, 5000, 1]


def test_without_a_rate_nothing_waits() -> None:
    clock = ManualClock()
    assert taken_ms(clock, RateLimiter(clock, 0), 1 << 40, 1 << 40) == [0, 0]


def test_what_was_not_used_up_is_kept_for_a_moment_only() -> None:
    clock = ManualClock(auto_advance=True)
    limiter = RateLimiter(clock, 1000)
    clock.advance_ms(60_000)
    burst = round(BURST_S * 1000)
    assert taken_ms(clock, limiter, burst, burst, burst) == [0, 0, burst]


@pytest.mark.parametrize("rate", [-1, -(1 << 40)])
def test_a_negative_rate_is_refused(rate: int) -> None:
    with pytest.raises(ValueError, match="negative"):
        RateLimiter(ManualClock(), rate)


def test_several_threads_share_the_rate_and_nobody_passes_before_his_time() -> None:
    clock = ManualClock()
    limiter = RateLimiter(clock, 1000)
    limiter.take(100)
    passed: list[int] = []
    threads = [threading.Thread(target=lambda: (limiter.take(100), passed.append(1))) for _ in range(4)]
    for thread in threads:
        thread.start()
    clock.await_waiters(4)
    for expected in range(1, 5):
        clock.advance_ms(99)
        assert len(passed) == expected - 1
        clock.advance_ms(1)
        join_one(threads)
        assert len(passed) == expected


def join_one(threads: list[threading.Thread]) -> None:
    """Wait until one of the threads ends, and take it off the list."""
    for _ in range(6000):
        for thread in threads:
            thread.join(0.005)
            if not thread.is_alive():
                threads.remove(thread)
                return
    raise AssertionError("nobody passed")


def test_who_waits_passes_at_once_when_the_limiter_is_closed() -> None:
    clock = ManualClock()
    limiter = RateLimiter(clock, 1)
    limiter.take(1 << 30)
    threads = [threading.Thread(target=limiter.take, args=(1,)) for _ in range(3)]
    for thread in threads:
        thread.start()
    clock.await_waiters(3)
    limiter.close()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    limiter.take(1 << 40)
