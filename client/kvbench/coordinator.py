"""The process that the user starts: it checks the server, loads the keys, and leads the client processes through a run.

Client processes are started afresh, never forked, because gRPC does not survive a fork. They all begin a phase at the same
moment of the system's monotonic clock.
"""

from __future__ import annotations

import asyncio
import dataclasses
import multiprocessing
import sys
import time
from collections.abc import Callable
from multiprocessing import connection
from types import TracebackType
from typing import Any

import click

import kvclient
from kvbench import loading, worker, workload
from kvbench.options import RunOptions
from kvbench.recording import PhaseResult
from kvctl.failures import EXIT_ERROR, CtlError
from kvctl.progress import ProgressBar

_HEAD_START_S = 0.2
"""How long before a phase begins its processes are told of it."""
_LOOK_S = 0.2
_END_S = 5.0


def check_and_load(options: RunOptions) -> kvclient.Status:
    """Return the status of the server, after the keys have been loaded where the run wants that.

    Raises KvClientError where there is no server or no such namespace, click.UsageError for an endpoint that is none.
    """
    try:
        client = kvclient.AsyncClient(options.endpoint, options.namespace, options.timeout_s)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    return asyncio.run(_check_and_load(client, options))


async def _check_and_load(client: kvclient.AsyncClient, options: RunOptions) -> kvclient.Status:
    async with client:
        status = await client.status()
        await client.get(workload.FIRST_KEY)  # a namespace that is not there is found before anything is started
        if options.load:
            await loading.load(client, options)
    return status


@dataclasses.dataclass
class _ClientProcess:
    process: Any
    pipe: connection.Connection


class Crew:
    """The client processes of one run; use it as a context manager. They are prepared when the block begins."""

    def __init__(self, options: RunOptions) -> None:
        self._options = options
        self._context = multiprocessing.get_context("spawn")
        self._counts = self._context.RawArray("Q", options.processes)
        self._processes: list[_ClientProcess] = []

    def __enter__(self) -> Crew:
        try:
            for number in range(self._options.processes):
                self._start(number)
            for answer in self._answers("preparing", None, lambda: 0):
                assert answer == worker.READY
        except BaseException:
            self._end(at_once=True)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end(at_once=kind is not None)

    def run(self, title: str, *, total: int | None, duration_s: float | None) -> list[PhaseResult]:
        """Lead all processes through a phase; return what each of them noted."""
        start_ns = time.perf_counter_ns() + int(_HEAD_START_S * 1e9)
        duration_ns = None if duration_s is None else int(duration_s * 1e9)
        phase = workload.Phase(start_ns, total, duration_ns, self._options.rate)
        for number in range(self._options.processes):
            self._counts[number] = 0
        for one in self._processes:
            one.pipe.send(phase)
        return self._answers(title, total, lambda: sum(self._counts))

    def _start(self, number: int) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=worker.main, args=(theirs, self._options, number, self._counts), name=f"kvbench-{number}", daemon=True
        )
        process.start()
        theirs.close()
        self._processes.append(_ClientProcess(process, ours))

    def _answers(self, title: str, total: int | None, done: Callable[[], int]) -> list[Any]:
        """Wait for an answer of every process; raise what one of them could not do, or that it is gone."""
        answers: dict[int, Any] = {}
        with ProgressBar(title, total, "operation") as bar:
            while len(answers) < len(self._processes):
                waited = {one.pipe: number for number, one in enumerate(self._processes) if number not in answers}
                for pipe in connection.wait(list(waited), _LOOK_S):
                    number = waited[pipe]  # type: ignore[index]
                    answers[number] = self._received(number)
                ended = done()
                bar.show(ended, ended)
        return [answers[number] for number in range(len(self._processes))]

    def _received(self, number: int) -> Any:
        one = self._processes[number]
        try:
            answer = one.pipe.recv()
        except EOFError as error:
            one.process.join(_END_S)
            raise CtlError(
                "CLIENT_PROCESS_ENDED",
                f"client process {number} ended with {one.process.exitcode} in the middle of the run",
                "was there enough memory? give fewer --keys or --processes",
                EXIT_ERROR,
            ) from error
        if isinstance(answer, worker.Failed):
            sys.stderr.write(answer.trace)  # empty unless the program itself is at fault
            raise CtlError(answer.code, answer.message, answer.hint, answer.exit_code)
        return answer

    def _end(self, *, at_once: bool) -> None:
        """End the processes: those that wait for the next phase by closing their pipes, those in the middle of one by force."""
        for one in self._processes:
            one.pipe.close()
            if at_once:
                one.process.terminate()
        for one in self._processes:
            one.process.join(_END_S)
            if one.process.is_alive():
                one.process.terminate()
                one.process.join(_END_S)
