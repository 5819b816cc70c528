"""Work on several threads whose results come back in order."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import pytest

from kvserver.archive.ordered_pool import in_order


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    assert list(in_order(lambda number: number * number, range(100), workers)) == [number * number for number in range(100)]
    assert list(in_order(str, [], workers)) == []
    assert list(in_order(str, [7], workers)) == ["7"]


def test_the_first_result_waits_for_its_turn() -> None:
    later_done = threading.Event()

    def work(number: int) -> int:
        if number == 0:
            assert later_done.wait(30)
        elif number == 3:
            later_done.set()
        return number

    assert list(in_order(work, range(8), 4)) == list(range(8))


def test_one_item_or_one_worker_stays_on_the_callers_thread() -> None:
    own = threading.current_thread()
    for items, workers in (([1], 8), ([1, 2, 3], 1)):
        assert set(in_order(lambda _: threading.current_thread(), items, workers)) == {own}


@pytest.mark.parametrize("workers", [1, 3])
def test_it_never_runs_far_ahead_of_what_was_taken(workers: int) -> None:
    begun = 0

    def items() -> Iterator[int]:
        nonlocal begun
        for number in itertools.count():
            begun += 1
            yield number

    results = in_order(lambda number: number, items(), workers)
    for taken in range(50):
        assert next(results) == taken
        assert begun <= taken + 4 * workers + 2
    results.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("workers", [1, 3])
def test_an_error_comes_at_its_turn_and_ends_it(workers: int) -> None:
    done: list[int] = []

    def work(number: int) -> int:
        if number == 5:
            raise ValueError("five")
        done.append(number)
        return number

    results = in_order(work, itertools.count(), workers)
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="five"):
        next(results)
    assert list(results) == []
    assert len(done) <= 5 + 4 * workers
