"""Threads that do the archiver's blocking work, and the jobs that they do."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple


class Job(NamedTuple):
    """Something that blocks, and what is to be done with its result on the archiver's own thread."""

    what: str
    """What it is about: by this a failure is remembered."""
    work: Callable[[], Any]
    done: Callable[[Any], None]
    """Called only with what ``work`` returned."""
    ended: Callable[[], None]
    """Called however it ended, before anything else."""


class Done(NamedTuple):
    """A job that was done, and what came of it."""

    job: Job
    result: Any
    """What it returned, or the Exception that it ended with."""


class Crew:
    """So many threads, all of them daemons: one that hangs in a store that does not answer keeps no process from ending."""

    def __init__(self, name: str, size: int, on_done: Callable[[], None]) -> None:
        """``on_done``: called on a thread of the crew after a job was put into ``results``."""
        self._on_done = on_done
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.results: deque[Done] = deque()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}-{number}", daemon=True) for number in range(1, size + 1)
        ]

    def start(self) -> None:
        """Begin to do jobs."""
        for thread in self._threads:
            thread.start()

    def do(self, job: Job) -> None:
        """Have a job done."""
        self._jobs.put(job)

    def stop(self, timeout_s: float) -> bool:
        """End the threads as they become idle, waiting at most so long for those that hang; say whether all have ended."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(timeout_s)
            if thread.is_alive():
                timeout_s = 0.0
        return not any(thread.is_alive() for thread in self._threads)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                done = perform(job)
            except BaseException as error:  # a panic of a library, say; the thread must go on, or the job never ends
                done = Done(job, RuntimeError(f"{type(error).__name__}: {error}"))
            self.results.append(done)
            self._on_done()
            del job, done  # they hold on to what it was about


def perform(job: Job) -> Done:
    """Do a job on this thread."""
    try:
        return Done(job, job.work())
    except Exception as error:
        return Done(job, error)
