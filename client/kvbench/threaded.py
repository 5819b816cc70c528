"""The callers of one process that share one blocking client: a thread for each."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any

import kvclient
from kvbench import recording, workload
from kvbench.callers import ERROR_PAUSE_S, clock, deadline_of, new_recorder
from kvbench.options import SCAN, RunOptions
from kvbench.recording import PhaseResult, Recorder


class ThreadCallers:
    """Threads that call one Client; they take their operations from one iterator behind a lock."""

    def __init__(self, options: RunOptions, plan: workload.Plan, client: kvclient.Client, callers: int) -> None:
        self._options = options
        self._plan = plan
        self._client = client
        self._callers = callers
        self._put: Callable[[bytes, bytes], Any] = client.put
        if options.durability != "policy":
            self._put = functools.partial(client.put, durability=kvclient.Durability(options.durability))

    def run(self, phase: workload.Phase, on_progress: Callable[[int], None]) -> PhaseResult:
        """Carry out a phase; its operations are complete when this returns."""
        recorder = new_recorder(self._options, on_progress)
        operations = workload.Locked(self._plan.operations(phase))
        follow = self._scan if self._options.workload == SCAN else self._get_or_put
        crew = _Crew(lambda deadline_ns: self._loop(follow, operations, deadline_ns, recorder), operations.stop)
        crew.gather(self._callers)
        time.sleep(max(phase.start_ns - clock(), 0) / 1e9)
        began_ns = clock()
        recorder.begin(began_ns)
        crew.work(deadline_of(self._options, phase, began_ns), recorder.tick)
        return recorder.end(crew.ended_ns, self._plan.amount(phase))

    def _loop(
        self,
        follow: Callable[[workload.Operation, int, Recorder], None],
        operations: workload.Locked,
        deadline_ns: int,
        recorder: Recorder,
    ) -> None:
        for operation in operations:
            intended_ns = operation[0]
            began_ns = clock()
            if began_ns >= deadline_ns:
                return
            if intended_ns:
                began_ns = _sent(intended_ns, began_ns, recorder)
            try:
                follow(operation, began_ns, recorder)
            except kvclient.KvClientError as error:
                recorder.error(error.code, error.message)
                if not intended_ns:
                    time.sleep(ERROR_PAUSE_S)
                if recorder.result.gave_up:
                    return

    def _get_or_put(self, operation: workload.Operation, began_ns: int, recorder: Recorder) -> None:
        _, is_read, key, value = operation
        if is_read:
            if self._client.get(key) is None:
                recorder.not_found()
            recorder.reads(clock() - began_ns)
        else:
            self._put(key, value)
            recorder.writes(clock() - began_ns)

    def _scan(self, operation: workload.Operation, began_ns: int, recorder: Recorder) -> None:
        limit = workload.scan_length(self._options)
        found = sum(1 for _ in self._client.scan(start=operation[2], end=workload.KEYS_END, limit=limit))
        recorder.reads(clock() - began_ns)
        recorder.keys_read(found)
        if found < limit:
            recorder.not_found()


class _Crew:
    """Threads that begin together, and the moment at which the last of them ended."""

    def __init__(self, task: Callable[[int], None], stop: Callable[[], None]) -> None:
        """``task`` is told the deadline; ``stop`` lets all of them end soon, and is called when one of them has raised."""
        self._task = task
        self._stop = stop
        self._gate = threading.Event()
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._left = 0
        self._deadline_ns = 0
        self._fault: BaseException | None = None
        self.ended_ns = 0

    def gather(self, number: int) -> None:
        """Start so many threads, which wait."""
        self._left = number
        for _ in range(number):
            threading.Thread(target=self._run, daemon=True).start()

    def work(self, deadline_ns: int, tick: Callable[[], float]) -> None:
        """Let all begin, tick until the last has ended, and raise what one of them raised."""
        self._deadline_ns = deadline_ns
        self._gate.set()
        pause_s = recording.TICK_S
        while not self._done.wait(pause_s):
            pause_s = tick()
        if self._fault is not None:
            raise self._fault

    def _run(self) -> None:
        self._gate.wait()
        try:
            self._task(self._deadline_ns)
        except BaseException as fault:
            self._fault = fault
            self._stop()
        with self._lock:
            self._left -= 1
            if self._left == 0:
                self.ended_ns = clock()
                self._done.set()


def _sent(intended_ns: int, now_ns: int, recorder: Recorder) -> int:
    """Wait for an operation's time; return that time, from which its latency counts, however late it is by now."""
    if intended_ns > now_ns:
        time.sleep((intended_ns - now_ns) / 1e9)
        now_ns = clock()
    else:
        recorder.late()
    recorder.lags(max(now_ns - intended_ns, 0))
    return intended_ns
