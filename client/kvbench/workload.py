"""What the callers of one process do, prepared ahead: keys, values and the order in which they are taken.

Nothing is computed for an operation while the run goes on. The keys stand ready as bytes, in the order in which they are
taken and so side by side in memory: keys picked from a list of all of them would each be a miss of the processor's cache,
which was measured as 150 ns an operation. Callers share iterators that are written in C.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, count, islice, repeat
from typing import Any

import numpy as np

from kvbench import distributions
from kvbench.options import GET, MIXED, SCAN, YCSB_A, RunOptions

KEY_PREFIX = b"kvbench/"
KEYS_END = b"kvbench0"
"""The end of a range that holds every key with the prefix: '0' follows '/'."""
FIRST_KEY = b"kvbench/0000000000"

MAX_SEQUENCE = 4 * 1024 * 1024
"""The longest sequence of keys that a process prepares; a longer run begins it anew."""
_LEAST_SEQUENCE = 1024 * 1024
_VALUES = 1024
_VALUES_BYTES = 16 * 1024 * 1024

Operation = tuple[int, int, bytes, bytes]
"""When it was meant to be sent, in nanoseconds (0: now), whether it reads, the key, and the value that a write takes."""


def keys_at(indexes: Iterable[int]) -> Iterator[bytes]:
    """Return the keys with these numbers; their order is that of the numbers, and the order in which they are loaded."""
    return (b"%b%010d" % (KEY_PREFIX, index) for index in indexes)


def some_values(size_bytes: int, generator: np.random.Generator) -> list[bytes]:
    """Return values that cannot be compressed; so many different ones that a block of a table hardly has one of them twice."""
    number = max(1, min(_VALUES, _VALUES_BYTES // max(size_bytes, 1)))
    return [generator.bytes(size_bytes) for _ in range(number)]


def read_share(options: RunOptions) -> float:
    """Return how much of a workload reads, from 0 to 1."""
    return {MIXED: options.read_share, YCSB_A: 0.5, GET: 1.0, SCAN: 1.0}.get(options.workload, 0.0)


def scan_length(options: RunOptions) -> int:
    """Return how many keys a scan reads."""
    return min(options.scan_length, options.keys)


@dataclasses.dataclass(frozen=True)
class Phase:
    """One part of a run, the warm-up or what is measured, that every process begins at the same moment."""

    start_ns: int
    total: int | None
    """How many operations all processes carry out together; None where the phase ends by time."""
    duration_ns: int | None
    rate: float | None


class Locked:
    """An iterator that many threads may share."""

    def __init__(self, inner: Iterator[Operation]) -> None:
        self._inner = inner
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Operation]:
        return self

    def __next__(self) -> Operation:
        with self._lock:
            return next(self._inner)

    def stop(self) -> None:
        """Let there be no further operation."""
        with self._lock:
            self._inner = iter(())


class Plan:
    """The operations of one process, phase after phase."""

    def __init__(self, options: RunOptions, process: int) -> None:
        self._options = options
        self._process = process
        generator = np.random.default_rng([options.seed, process])
        starts = options.keys - scan_length(options) + 1 if options.workload == SCAN else options.keys
        length = sequence_length(options)
        indexes = distributions.draw(options.distribution, starts, length, generator)
        self._keys = _endless(list(keys_at(indexes.tolist())))
        self._values = _endless(some_values(options.value_size_bytes, generator))
        share = read_share(options)
        if 0 < share < 1:
            self._reads = _endless((generator.random(length) < share).astype(np.uint8).tobytes())
        else:
            self._reads = repeat(int(share))

    def operations(self, phase: Phase) -> Iterator[Operation]:
        """Return the operations of a phase as one iterator for all callers; without an end where the phase ends by time."""
        amount = self.amount(phase)
        times: Iterator[int] = repeat(0) if phase.rate is None else map(self._intended(phase.start_ns, phase.rate), count())
        operations = zip(times, self._reads, self._keys, self._values, strict=False)
        return operations if amount is None else islice(operations, amount)

    def amount(self, phase: Phase) -> int | None:
        """Return how many operations this process has in a phase; None where only time ends it."""
        total = phase.total
        if total is None and phase.rate is not None and phase.duration_ns is not None:
            total = max(int(phase.rate * phase.duration_ns / 1e9), self._options.processes)
        return None if total is None else self._options.share(total, self._process)

    def _intended(self, start_ns: int, rate: float) -> Callable[[int], int]:
        """Return when the n-th operation of this process is to be sent: the processes take turns in one schedule."""
        step_ns = 1e9 / rate
        processes, process = self._options.processes, self._process
        return lambda number: start_ns + int((number * processes + process) * step_ns)


def sequence_length(options: RunOptions) -> int:
    """Return how long the sequence of keys of a process is: the whole run, or often enough over the keys to look like one."""
    if options.total is not None:
        return min(options.share(options.total, 0), MAX_SEQUENCE)
    return max(_LEAST_SEQUENCE, min(2 * options.keys, MAX_SEQUENCE))


def _endless(items: list[bytes] | bytes) -> Iterator[Any]:
    return chain.from_iterable(repeat(items))
