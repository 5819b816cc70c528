"""What is noted: latencies are folded and emptied at each tick, nothing is lost in between, and a run that goes nowhere ends."""

from __future__ import annotations

import array
import threading

import pytest

from kvbench import recording
from kvbench.recording import Recorder


class _Clock:
    def __init__(self) -> None:
        self.now_ns = 10**9

    def perf_counter_ns(self) -> int:
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    found = _Clock()
    monkeypatch.setattr(recording, "time", found)
    return found


def _recorder(told: list[int] | None = None) -> Recorder:
    return Recorder("get", "put", (told if told is not None else []).append)


def test_ticks_bring_what_came_since_the_one_before(clock: _Clock) -> None:
    told: list[int] = []
    recorder = _recorder(told)
    recorder.begin(clock.now_ns)
    recorder.reads(1_000)
    recorder.writes(2_000)
    recorder.writes(3_000)
    recorder.error("DISK_FULL", "no room")
    clock.now_ns += 100_000_000
    recorder.tick()
    recorder.reads(5_000)
    recorder.error("DISK_FULL", "still no room")
    clock.now_ns += 50_000_000
    result = recorder.end(clock.now_ns, planned=10)
    counts = [{kind: part.count for kind, part in tick.latencies.items()} for tick in result.ticks]
    assert counts == [{"get": 1, "put": 2}, {"get": 1}]
    assert [tick.at_ns for tick in result.ticks] == [1_100_000_000, 1_150_000_000]
    assert [tick.errors for tick in result.ticks] == [{"DISK_FULL": 1}, {"DISK_FULL": 1}]
    assert result.error_examples == {"DISK_FULL": "no room"}
    assert (result.began_ns, result.ended_ns) == (10**9, 1_150_000_000)
    assert told == [4]
    assert result.not_sent == 10 - 4 - 2


def test_a_tick_says_when_the_next_is_due_and_notes_how_late_it_came(clock: _Clock) -> None:
    recorder = _recorder()
    recorder.begin(clock.now_ns)
    clock.now_ns += 130_000_000
    assert recorder.tick() == pytest.approx(0.07)
    clock.now_ns += 370_000_000
    assert recorder.tick() == pytest.approx(0.1)
    assert recorder.result.tick_lags_ns == [30_000_000, 300_000_000]


def test_what_is_appended_while_an_array_is_emptied_stays_in_it() -> None:
    samples = array.array("q")
    stop = threading.Event()

    def append() -> None:
        for number in range(200_000):
            samples.append(number)
        stop.set()

    writer = threading.Thread(target=append)
    writer.start()
    taken: list[int] = []
    while not stop.is_set():
        taken.extend(recording._take(samples))
    writer.join(30)
    taken.extend(recording._take(samples))
    assert taken == list(range(200_000))


def test_a_run_in_which_nothing_succeeds_is_given_up(clock: _Clock) -> None:
    recorder = _recorder()
    recorder.begin(clock.now_ns)
    recorder.error("UNAVAILABLE", "gone")
    clock.now_ns += 29 * 10**9
    recorder.tick()
    assert not recorder.result.gave_up
    clock.now_ns += 2 * 10**9
    recorder.tick()
    assert recorder.result.gave_up


def test_one_success_keeps_a_run_going_and_silence_alone_does_not_end_it(clock: _Clock) -> None:
    succeeding, silent = _recorder(), _recorder()
    for recorder in (succeeding, silent):
        recorder.begin(clock.now_ns)
    succeeding.error("UNAVAILABLE", "gone")
    clock.now_ns += 29 * 10**9
    succeeding.reads(1)
    succeeding.tick()
    clock.now_ns += 2 * 10**9
    succeeding.tick()
    silent.tick()
    assert not succeeding.result.gave_up
    assert not silent.result.gave_up


def test_lags_and_late_operations_are_kept_apart_from_latencies(clock: _Clock) -> None:
    recorder = _recorder()
    recorder.begin(clock.now_ns)
    recorder.lags(500)
    recorder.late()
    recorder.not_found()
    recorder.keys_read(7)
    recorder.keys_read(3)
    result = recorder.end(clock.now_ns, planned=None)
    assert [part.most_ns for part in result.lags] == [500]
    assert result.ticks[-1].latencies == {}
    assert (result.late, result.not_found, result.keys_read, result.not_sent) == (1, 1, 10, 0)
