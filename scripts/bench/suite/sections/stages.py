"""Where the time goes: processor time an operation, by thread of the server, and the client's."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from typing import NamedTuple

from suite import cpu, parsing, render
from suite.ours import kvbench_result
from suite.plan import Run, Step, rotated
from suite.processes import BENCH, Server, server_command, serving


class Load(NamedTuple):
    """A load whose cost is split up."""

    name: str
    workload: str
    callers: int


LOADS = (
    Load("put, 1 caller", "put", 1),
    Load("put, 64 callers", "put", 64),
    Load("put, 1,000 callers", "put", 1000),
    Load("get, 1,000 callers", "get", 1000),
)
CLIENT = "client: everything between the caller and the wire"
ALL = "server, all of it"

TEXT = """\
Processor time in µs an operation, by thread (`/proc/PID/task/*/schedstat`), median of the rounds; what threads wait is not in
it. Server and client together, by the number of cores, is what an operation takes at least."""


class Stages:
    """Measures the processor time of each load against a server whose threads have names."""

    name = "stages"
    needs: tuple[str, ...] = ()

    def steps(self, run: Run) -> list[Step]:
        """Return a step for each load."""
        steps = [Step(load.name, run.sizes.load_s + run.sizes.short_s + 4, self._measure(run, load)) for load in LOADS]
        return rotated(steps, run.round)

    def _measure(self, run: Run, load: Load) -> Callable[[], None]:
        def measure() -> None:
            folder = run.folder(f"stages-{load.workload}-{load.callers}")
            command = [sys.executable, str(BENCH / "named_server.py"), *server_command(folder)[3:]]
            run.command("ourselves, with named threads", ["python", *command[1:]])
            try:
                with serving(command, folder.with_suffix(".log")) as server:
                    self._loaded(run, load, server)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

        return measure

    def _loaded(self, run: Run, load: Load, server: Server) -> None:
        keys, pid = run.sizes.hot_keys, server.process.pid
        kvbench_result(run, server, load.workload, load.callers, keys, "--load", seconds=run.sizes.short_s, warm_up_s=0)
        before, syncs = cpu.snapshot(pid), self._syncs(server)
        result = kvbench_result(run, server, load.workload, load.callers, keys, "--no-load", warm_up_s=0)
        after, total = cpu.snapshot(pid), result.operations
        split = cpu.each_us(before, after, total)
        for title, microseconds in split.items():
            run.record(f"stages/{load.name}/{title}", microseconds)
        run.record(f"stages/{load.name}/{ALL}", sum(split.values()))
        run.record(f"stages/{load.name}/{CLIENT}", result.client_us)
        run.record(f"stages/{load.name}/per_s", result.load.per_s)
        synced = self._syncs(server) - syncs
        if synced:
            run.record(f"stages/{load.name}/each_sync", total / synced)
        run.say(f"server {sum(split.values()):.1f} µs an operation, client {result.client_us:.1f}")

    def _syncs(self, server: Server) -> int:
        return int(parsing.metric(server.metrics(), "kv_wal_syncs_total"))

    def render(self, run: Run) -> str:
        """Return the split."""

        def cells(title: str) -> list[str]:
            return [render.median(run.figures, f"stages/{load.name}/{title}") for load in LOADS]

        measured = [title for title in cpu.titles() if any(cell not in ("0.000", render.NOT_MEASURED) for cell in cells(title))]
        rows = [[title, *(cell.replace(render.NOT_MEASURED, "0") for cell in cells(title))] for title in measured]
        rows.append([f"**{ALL}**", *cells(ALL)])
        rows.append([CLIENT, *cells(CLIENT)])
        rows.append(["operations a sync of the log", *(cell.replace(render.NOT_MEASURED, "") for cell in cells("each_sync"))])
        rows.append(["rate of the run that was split up, /s", *cells("per_s")])
        return f"### Where the time goes\n\n{TEXT}\n\n{render.table(['µs an operation', *(load.name for load in LOADS)], rows)}"
