"""Threads that do one blocking thing after the other for the event loop, and tell it of each in the same order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, TypeVar

from kvserver.base.errors import NotServing
from kvserver.commit.refusals import tables_failed
from kvserver.commit.ticket import Ticket

Result = TypeVar("Result")
Post = Callable[[Callable[[], None]], None]
"""``post(callback)``: have the callback called on the event loop, from any thread."""


class Job(NamedTuple):
    """Something to do, and whom to tell of its result or of the error that it ended with."""

    work: Callable[[], Any]
    done: Callable[[Any], None]


_STOP = Job(lambda: None, lambda result: None)


class Worker:
    """Does jobs in the order in which they were given. Without ``start``, ``run_once`` does one on the caller's thread."""

    def __init__(self, name: str, post: Post) -> None:
        self._name = name
        self._post = post
        self._jobs: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._held: Job | None = None
        self._thread: threading.Thread | None = None
        self._ended = False

    def start(self) -> None:
        """Begin to do jobs on a thread."""
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def run(self, work: Callable[[], Result], done: Callable[[Result | Exception], None]) -> None:
        """Have the work done; ``done`` is called on the event loop with what it returned or the error that it raised."""
        self._give(Job(work, done))

    def stop(self) -> None:
        """Do what was given, then end the thread. Who comes later is told so, and does not wait for ever."""
        self._jobs.put(_STOP)
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self._ended = True
            self._refuse_rest()

    def run_once(self) -> bool:
        """Do the next job on this thread; say whether there was one."""
        job = self._next(wait=False)
        if job is None or job is _STOP:
            return False
        self._do(job)
        return True

    def _run(self) -> None:
        while (job := self._next(wait=True)) is not None and job is not _STOP:
            try:
                self._do(job)
            except BaseException as error:  # a panic of a library, say; the thread must go on, or nobody is told any more
                self._panicked(job, RuntimeError(f"{type(error).__name__}: {error}"))
            del job  # it holds on to whoever is told

    def _give(self, job: Job) -> None:
        self._jobs.put(job)
        if self._ended:
            self._refuse_rest()

    def _refuse_rest(self) -> None:
        """Tell those that came behind the end; on whatever thread."""
        while (job := self._next(wait=False)) is not None:
            if job is not _STOP:
                self._post(partial(job.done, NotServing("the node is stopping, or changes its part")))

    def _next(self, wait: bool) -> Job | None:
        if self._held is not None:
            held, self._held = self._held, None
            return held
        try:
            return self._jobs.get() if wait else self._jobs.get_nowait()
        except queue.Empty:
            return None

    def _panicked(self, job: Job, error: Exception) -> None:
        self._post(lambda: job.done(error))

    def _do(self, job: Job) -> None:
        try:
            result = job.work()
        except Exception as error:
            result = error
        self._post(lambda: job.done(result))


def told_by(worker: Worker, work: Callable[[], Result]) -> Ticket[Result]:
    """Have a worker do something; return a ticket of what comes of it. Its answer raises KvError."""
    ticket: Ticket[Result] = Ticket(None, lambda outcome: outcome)

    def done(result: Result | Exception) -> None:
        if isinstance(result, Exception):
            ticket.fail(tables_failed(result))
            return
        ticket.decide(result)
        ticket.complete()

    worker.run(work, done)
    return ticket
