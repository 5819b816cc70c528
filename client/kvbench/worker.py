"""One client process: it prepares its part of the run, waits for the others, works, and sends home what it noted.

The coordinator talks to it through a pipe: it gets ``READY`` when the process is prepared, sends a ``Phase``, gets a
``PhaseResult`` for it, and ends the process by closing the pipe. A process that cannot go on sends a ``Failed`` instead. How
many operations have ended stands in memory that the processes share.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

import kvclient
from kvbench.callers import AsyncCallers
from kvbench.options import BLOCKING, RunOptions
from kvbench.recording import PhaseResult
from kvbench.threaded import ThreadCallers
from kvbench.workload import FIRST_KEY, Phase, Plan
from kvctl.failures import as_ctl_error

READY = "ready"


@dataclasses.dataclass(frozen=True)
class Failed:
    """Why a process cannot go on: what the command ends with, or a fault of the program with its trace."""

    code: str
    message: str
    hint: str
    exit_code: int
    trace: str = ""


class Progress(Protocol):
    """Numbers in shared memory, one for each process."""

    def __setitem__(self, process: int, operations: int, /) -> None:
        """Say how many operations of the phase have ended."""


def main(pipe: Connection, options: RunOptions, process: int, progress: Progress) -> None:
    """Run a client process until the coordinator closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the coordinator ends its processes
    try:
        _work(pipe, options, process, _telling(progress, process))
    except (EOFError, BrokenPipeError):
        return  # the coordinator has ended, and nobody waits for the result
    except BaseExceptionGroup as group:
        _tell(pipe, _first(group))
    except Exception as error:
        _tell(pipe, error)


def _telling(progress: Progress, process: int) -> Callable[[int], None]:
    """Return what is told the number of operations; it ends this process when the coordinator was killed."""
    coordinator = os.getppid()

    def tell(operations: int) -> None:
        if os.getppid() != coordinator:
            os._exit(1)
        progress[process] = operations

    return tell


def _work(pipe: Connection, options: RunOptions, process: int, on_progress: Callable[[int], None]) -> None:
    plan = Plan(options, process)
    # What was prepared is of no concern to the collector: its rounds are to cost what they cost in a program without it.
    gc.collect()
    gc.freeze()
    callers = options.share(options.clients, process)
    if options.client == BLOCKING:
        _serve_threads(pipe, options, plan, callers, on_progress)
    else:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_serve_tasks(pipe, options, plan, callers, on_progress))


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the event loop: uvloop where it is installed, else asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve_tasks(
    pipe: Connection, options: RunOptions, plan: Plan, callers: int, on_progress: Callable[[int], None]
) -> None:
    loop = asyncio.get_running_loop()
    async with kvclient.AsyncClient(options.endpoint, options.namespace, options.timeout_s) as client:
        await client.get(FIRST_KEY)  # connects
        crew = AsyncCallers(options, plan, client, callers)
        pipe.send(READY)
        while (phase := await loop.run_in_executor(None, _next_phase, pipe)) is not None:
            before = _Usage()
            pipe.send(before.added_to(await crew.run(phase, on_progress)))


def _serve_threads(pipe: Connection, options: RunOptions, plan: Plan, callers: int, on_progress: Callable[[int], None]) -> None:
    with kvclient.Client(options.endpoint, options.namespace, options.timeout_s) as client:
        client.get(FIRST_KEY)  # connects
        crew = ThreadCallers(options, plan, client, callers)
        pipe.send(READY)
        while (phase := _next_phase(pipe)) is not None:
            before = _Usage()
            pipe.send(before.added_to(crew.run(phase, on_progress)))


def _next_phase(pipe: Connection) -> Phase | None:
    try:
        phase: Phase = pipe.recv()
    except EOFError:
        return None
    return phase


class _Usage:
    """What a process had used up when a phase began."""

    def __init__(self) -> None:
        self._cpu_s = time.process_time()
        self._core_wait_s = core_wait_s()

    def added_to(self, result: PhaseResult) -> PhaseResult:
        """Add what the phase has used."""
        result.cpu_s = time.process_time() - self._cpu_s
        waited_s = core_wait_s()
        if waited_s is not None and self._core_wait_s is not None:
            result.core_wait_s = waited_s - self._core_wait_s
        result.peak_memory_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        return result


def core_wait_s() -> float | None:
    """Return how long the main thread, on which the event loop runs, could have run but had no core; None where nobody says."""
    try:
        return int(Path("/proc/self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return None


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first exception of a group that is none."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _tell(pipe: Connection, error: BaseException) -> None:
    failed = describe(error)
    try:
        pipe.send(failed)
    except OSError:
        return


def describe(error: BaseException) -> Failed:
    """Return how an error is told to the coordinator."""
    trace = "".join(traceback.format_exception(error))
    if isinstance(error, Exception):
        try:
            told = as_ctl_error(error)
        except Exception:
            return Failed("CLIENT_FAULT", f"{type(error).__name__}: {error}", "", 1, trace)
        return Failed(told.code, told.message, told.hint, told.exit_code)
    return Failed("CLIENT_FAULT", type(error).__name__, "", 1, trace)
