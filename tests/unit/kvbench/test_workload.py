"""The plan of a process: its keys, values and times, and that callers who share it take each operation once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from itertools import islice

import numpy as np
import pytest

from kvbench import workload
from kvbench.options import RunOptions
from kvbench.workload import KEYS_END, Locked, Phase, Plan

Options = Callable[..., RunOptions]
SECOND_NS = 1_000_000_000


def _closed(total: int | None = None, duration_s: int | None = None) -> Phase:
    return Phase(SECOND_NS, total, None if duration_s is None else duration_s * SECOND_NS, None)


def test_processes_divide_the_operations(options: Options) -> None:
    given = options(total=10, clients=3, processes=3)
    taken = [list(Plan(given, process).operations(_closed(total=10))) for process in range(3)]
    assert [len(one) for one in taken] == [4, 3, 3]
    assert taken[0] != taken[1], "each process draws keys of its own"


def test_the_same_seed_gives_the_same_operations(options: Options) -> None:
    phase = _closed(total=40)
    first, again = (list(Plan(options(seed=5, workload="mixed"), 0).operations(phase)) for _ in range(2))
    assert first == again
    assert first != list(Plan(options(seed=6, workload="mixed"), 0).operations(phase))


def test_operations_without_a_number_have_no_end(options: Options) -> None:
    given = options(duration_s=1.0, keys=10)
    plan = Plan(given, 0)
    longer_than_the_sequence = workload.sequence_length(given) + 10
    assert sum(1 for _ in islice(plan.operations(_closed(duration_s=1)), longer_than_the_sequence)) == longer_than_the_sequence


@pytest.mark.parametrize(("name", "share"), [("put", 0.0), ("get", 1.0), ("scan", 1.0), ("ycsb-a", 0.5), ("mixed", 0.9)])
def test_workloads_read_as_much_as_they_say(options: Options, name: str, share: float) -> None:
    plan = Plan(options(workload=name, total=5_000, read_share=0.9, scan_length=10), 0)
    reads = sum(is_read for _, is_read, _, _ in plan.operations(_closed(total=5_000)))
    assert reads / 5_000 == pytest.approx(share, abs=0.03)
    if share in (0, 1):
        assert reads == share * 5_000


def test_keys_are_those_that_are_loaded(options: Options) -> None:
    keys = list(workload.keys_at(range(100)))
    assert keys == sorted(set(keys))
    assert keys[0] == workload.FIRST_KEY
    assert all(key.startswith(workload.KEY_PREFIX) and key < KEYS_END for key in keys)
    taken = {key for _, _, key, _ in Plan(options(total=5_000), 0).operations(_closed(total=5_000))}
    assert taken == set(keys)


def test_the_last_keys_are_in_order_too() -> None:
    assert next(iter(workload.keys_at([999_999_999]))) < KEYS_END


def test_a_scan_begins_where_it_finds_as_many_keys_as_it_reads(options: Options) -> None:
    given = options(workload="scan", total=5_000, scan_length=90)
    starts = {key for _, _, key, _ in Plan(given, 0).operations(_closed(total=5_000))}
    assert starts == set(workload.keys_at(range(11)))
    assert workload.scan_length(options(workload="scan", keys=10)) == 10


def test_values_have_their_size_and_differ() -> None:
    generator = np.random.default_rng(1)
    small, large = workload.some_values(256, generator), workload.some_values(1024 * 1024, generator)
    assert {len(value) for value in small} == {256}
    assert len(set(small)) == len(small) >= 1_000
    assert {len(value) for value in large} == {1024 * 1024}
    assert sum(map(len, large)) <= 16 * 1024 * 1024
    assert workload.some_values(0, generator)[0] == b""


def test_a_schedule_is_one_for_all_processes(options: Options) -> None:
    phase = Phase(SECOND_NS, 9, None, 100.0)
    times = [[at for at, *_ in Plan(options(clients=3, processes=3), process).operations(phase)] for process in range(3)]
    assert [len(one) for one in times] == [3, 3, 3]
    assert sorted(at for one in times for at in one) == [SECOND_NS + number * 10_000_000 for number in range(9)]


def test_a_schedule_of_some_length_has_as_many_operations_as_its_rate_asks_for(options: Options) -> None:
    given = options(duration_s=2.0, rate=500.0)
    phase = Phase(SECOND_NS, None, 2 * SECOND_NS, 500.0)
    times = [at for at, *_ in Plan(given, 0).operations(phase)]
    assert len(times) == 1_000
    assert times[-1] == 3 * SECOND_NS - 2_000_000
    assert Plan(given, 0).amount(phase) == 1_000


def test_a_second_phase_goes_on_where_the_first_ended(options: Options) -> None:
    plan, whole = Plan(options(), 0), Plan(options(), 0)
    parts = [*plan.operations(_closed(total=15)), *plan.operations(_closed(total=15))]
    assert parts == list(whole.operations(_closed(total=30)))


class _Alone:
    """Numbers that only one thread at a time may ask for."""

    def __init__(self, most: int) -> None:
        self._numbers = iter(range(most))
        self._inside = 0

    def __iter__(self) -> _Alone:
        return self

    def __next__(self) -> workload.Operation:
        self._inside += 1
        time.sleep(0)  # lets another thread in, if it can come in
        alone = self._inside == 1
        self._inside -= 1
        assert alone
        return next(self._numbers), 0, b"", b""


def test_threads_take_each_operation_once() -> None:
    numbers = Locked(_Alone(4_000))
    taken: list[list[int]] = [[] for _ in range(8)]
    gate = threading.Barrier(8)

    def take(own: list[int]) -> None:
        gate.wait()
        own.extend(number for number, *_ in numbers)

    threads = [threading.Thread(target=take, args=(own,)) for own in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert Counter(number for own in taken for number in own) == Counter(range(4_000))


def test_operations_that_were_stopped_come_no_more() -> None:
    numbers = Locked((number, 0, b"", b"") for number in range(10))
    assert next(numbers)[0] == 0
    numbers.stop()
    assert list(numbers) == []
