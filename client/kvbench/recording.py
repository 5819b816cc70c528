"""What happens during a phase, written down at the least cost: one append for an operation, everything else once a tick.

Callers append latencies to an array; ten times a second the arrays are folded into sparse histograms and emptied. That keeps
memory bounded, gives throughput and percentiles over time, and leaves nothing to add up at the end.
"""

from __future__ import annotations

import array
import dataclasses
import threading
import time
from collections import Counter
from collections.abc import Callable

from kvbench import histogram

TICK_S = 0.1
GIVE_UP_S = 30.0
"""A phase in which nothing has succeeded for so long is ended."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tick:
    """What was completed since the tick before, by kind of operation."""

    at_ns: int
    latencies: dict[str, histogram.Sparse]
    errors: dict[str, int]


@dataclasses.dataclass
class PhaseResult:
    """What one process brings home from a phase."""

    began_ns: int = 0
    ended_ns: int = 0
    ticks: list[Tick] = dataclasses.field(default_factory=list)
    error_examples: dict[str, str] = dataclasses.field(default_factory=dict)
    not_found: int = 0
    keys_read: int = 0
    late: int = 0
    """Operations of a schedule that found every caller busy at their time."""
    not_sent: int = 0
    """Operations that were planned and never begun, because their time was long over, or nothing went any more."""
    lags: list[histogram.Sparse] = dataclasses.field(default_factory=list)
    """How long after its time each operation of a schedule was sent."""
    tick_lags_ns: list[int] = dataclasses.field(default_factory=list)
    """How much later than asked for the ticks came, which is how long the event loop was busy."""
    cpu_s: float = 0.0
    core_wait_s: float | None = None
    """How long the event loop could have run but had no core; None where that is not known."""
    peak_memory_bytes: int = 0
    gave_up: bool = False


class Recorder:
    """The notes of one phase in one process.

    ``reads`` and ``writes`` take the latency of an operation that succeeded, ``lags`` the delay of one that had its time.
    ``on_progress`` is told now and then how many operations have ended.
    """

    def __init__(self, read_kind: str, write_kind: str, on_progress: Callable[[int], None]) -> None:
        self._arrays = {kind: array.array("q") for kind in (read_kind, write_kind)}
        self._lags = array.array("q")
        self.reads = self._arrays[read_kind].append
        self.writes = self._arrays[write_kind].append
        self.lags = self._lags.append
        self.result = PhaseResult()
        self.succeeded = 0
        self.failed = 0
        self._errors: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._on_progress = on_progress
        self._next_tick_ns = 0
        self._last_success_ns = 0

    def begin(self, now_ns: int) -> None:
        """Note when the phase began."""
        self.result.began_ns = self._last_success_ns = now_ns
        self._next_tick_ns = now_ns + int(TICK_S * 1e9)

    def error(self, code: str, message: str) -> None:
        """Note an operation that failed, by its stable code."""
        with self._lock:
            self._errors[code] += 1
            self.failed += 1
            self.result.error_examples.setdefault(code, message)

    def not_found(self) -> None:
        """Note a read that found no such key."""
        with self._lock:
            self.result.not_found += 1

    def keys_read(self, number: int) -> None:
        """Note what a scan brought."""
        with self._lock:
            self.result.keys_read += number

    def late(self) -> None:
        """Note an operation that no caller was free for at its time."""
        with self._lock:
            self.result.late += 1

    def tick(self) -> float:
        """Fold what has come since the last tick; return in how many seconds the next one is due."""
        now_ns = time.perf_counter_ns()
        self.result.tick_lags_ns.append(max(now_ns - self._next_tick_ns, 0))
        self._fold(now_ns)
        self._on_progress(self.succeeded + self.failed)
        if now_ns - self._last_success_ns > GIVE_UP_S * 1e9 and self.failed:
            self.result.gave_up = True
        while self._next_tick_ns <= now_ns:
            self._next_tick_ns += int(TICK_S * 1e9)
        return max((self._next_tick_ns - time.perf_counter_ns()) / 1e9, 0.0)

    def end(self, now_ns: int, planned: int | None) -> PhaseResult:
        """Fold the rest and return everything; ``planned`` is how many operations there were to be, if that was known."""
        self._fold(now_ns)
        if planned is not None:
            self.result.not_sent = planned - self.succeeded - self.failed
        self.result.ended_ns = now_ns
        return self.result

    def _fold(self, now_ns: int) -> None:
        latencies = {}
        for kind, samples in self._arrays.items():
            taken = _take(samples)
            if taken:
                latencies[kind] = histogram.fold(taken)
                self.succeeded += len(taken)
                self._last_success_ns = now_ns
        lags = _take(self._lags)
        if lags:
            self.result.lags.append(histogram.fold(lags))
        with self._lock:
            errors, self._errors = dict(self._errors), Counter()
        self.result.ticks.append(Tick(now_ns, latencies, errors))


def _take(samples: array.array[int]) -> array.array[int]:
    """Remove and return what an array holds; what other threads append in between stays in it."""
    number = len(samples)
    taken = samples[:number]
    del samples[:number]
    return taken
