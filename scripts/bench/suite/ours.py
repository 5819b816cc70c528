"""Ourselves under load: kvbench as a process of its own, which uses the SDK, against a server on a free port."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

from suite import parsing
from suite.figures import Load
from suite.plan import Run
from suite.processes import BENCH, ProcessFailed, Server, execute

VALUE_BYTES = 256
_BOTTLENECK = "The client is the bottleneck"


class Result(NamedTuple):
    """What a load of kvbench gave."""

    load: Load
    operations: int
    """How many operations were carried out and counted."""
    client_us: float
    """The client's processor time an operation, in microseconds."""


def kvbench_command(
    address: str, workload: str, callers: int, seconds: float, warm_up_s: float, keys: int, report: Path, *flags: str
) -> list[str]:
    """Return the command of one load."""
    command = [sys.executable, "-m", "kvbench", "run", "--workload", workload, "--clients", str(callers)]
    command += ["--duration", f"{seconds:g}s", "--keys", str(keys), "--value-size", str(VALUE_BYTES)]
    command += ["--warm-up", f"{warm_up_s:g}s"] if warm_up_s else []
    return [*command, "-E", address, "--out-json", str(report), "--fsync-dir", str(report.parent), *flags]


def result_of(report: str) -> Result:
    """Return what kvbench's JSON says. Raises Unreadable where an operation failed, or a read found nothing."""
    load, values = parsing.kvbench(report)
    try:
        operations, client = int(values["operations"]), values["client"]
        cores, microseconds = sum(client["cpu_shares"]), client["cpu_s"] / operations * 1e6
        missed = int(values["not_found"])
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise parsing.Unreadable("kvbench", "figures of the client", report) from error
    if missed:
        raise parsing.Unreadable("kvbench", "run in which every read found its key", report)
    return Result(Load(load.per_s, load.p50_ms, load.p99_ms, load.p999_ms, cores), operations, microseconds)


def kvbench_result(
    run: Run,
    server: Server,
    workload: str,
    callers: int,
    keys: int,
    *flags: str,
    seconds: float | None = None,
    warm_up_s: float | None = None,
) -> Result:
    """Load the server through the SDK for so long, by default as long as every load of the run."""
    report = run.scratch / "kvbench.json"
    report.unlink(missing_ok=True)
    length_s = seconds or run.sizes.load_s
    before_s = min(1.0, length_s / 2) if warm_up_s is None else warm_up_s
    command = kvbench_command(server.address, workload, callers, length_s, before_s, keys, report, *flags)
    shown = ["HOST:PORT" if word == server.address else word for word in command]
    kind = f"{workload}{', blocking client' if 'blocking' in flags else ''}"
    run.command(f"ourselves, load ({kind})", ["python", *shown[1:]])
    outcome = execute(command, timeout_s=length_s + before_s + 240)
    if not report.exists():
        raise ProcessFailed(f"kvbench wrote no report:\n{outcome.printed[-1000:]}")
    text = report.read_text()
    for warning in json.loads(text).get("warnings", []):
        if warning.startswith(_BOTTLENECK):
            run.say(f"{workload}, {callers} callers: {warning}")
    return result_of(text)


def kvbench(run: Run, server: Server, workload: str, callers: int, keys: int, *flags: str, seconds: float | None = None) -> Load:
    """Load the server through the SDK and return rate and latencies alone."""
    return kvbench_result(run, server, workload, callers, keys, *flags, seconds=seconds).load


def sdk(run: Run, server: Server, load: str, **parameters: object) -> dict[str, float]:
    """Run one of the loads of ``sdk_load.py`` in a process of its own and return its figures."""
    command = [sys.executable, str(BENCH / "sdk_load.py"), load, server.address, json.dumps(parameters)]
    shown = ["HOST:PORT" if word == server.address else word for word in command]
    run.command(f"ourselves, load ({load})", ["python", *shown[1:]])
    outcome = execute(command, timeout_s=300)
    values: dict[str, float] = json.loads(outcome.printed.strip().splitlines()[-1])
    return values
