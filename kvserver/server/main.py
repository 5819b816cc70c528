"""The command line of the server: says where it serves, ends it at a signal, and turns errors into a line and a hint."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from kvserver.base import failpoints
from kvserver.base.errors import KvError
from kvserver.server import config, logs
from kvserver.server.app import OK, SOFTWARE_FAILURE, App
from kvserver.server.config import Address, ServeConfig

LOG = logging.getLogger("kvserver.server")

CANNOT_START = 1

SWITCH_INTERVAL_S = 0.0005
"""How long a busy thread may keep the others from running; Python's own 5 ms would be the latency of every commit beside it."""

FAILURE_DEADLINE_S = 1.0
"""After a failure of the log the process is gone within this time, whatever hangs."""

USEFUL_DESCRIPTORS = 16_384
FEWEST_DESCRIPTORS = 36
"""With fewer open files gRPC ends the process without a word."""

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0 ended as asked, 1 could not start, 70 the log or the server failed."""
    told = config.parse(arguments)
    logs.configure(told.log_level, told.log_format)
    logs.take_over_exceptions()
    for warning in told.warnings:
        LOG.warning("%s", warning)
    if told.check_only:
        print(told.effective)
        return OK
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    descriptors = _raise_descriptor_limit()
    if descriptors < FEWEST_DESCRIPTORS:
        hint = f"allow it at least {FEWEST_DESCRIPTORS}, better 1024: ulimit -n 1024"
        return _cannot_start(told, f"Too many open files would be needed: the process may open {descriptors} only", hint)
    try:
        failpoints.arm_from_text(told.failpoints)
    except (KeyError, ValueError) as error:
        return _cannot_start(told, f"KVSERVER_FAILPOINTS: {error}", "")
    # Until it serves, nothing is under way that would have to be ended in order: every step of opening survives a crash.
    for number in _STOP_SIGNALS:
        signal.signal(number, lambda *_: os._exit(OK))
    try:
        with asyncio.Runner(loop_factory=_loop_factory(told.loop)) as runner:
            code = runner.run(_serve(told))
    except KvError as error:
        return _cannot_start(told, f"{error.message} [{error.code.name}]", error.hint)
    if code == SOFTWARE_FAILURE:
        _leave(code)
    return code


def _raise_descriptor_limit() -> int:
    """Take as many open files as the process may have, up to what is of use; return how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = USEFUL_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(USEFUL_DESCRIPTORS, hard)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return max(soft, wanted)


def _cannot_start(told: ServeConfig, error: str, hint: str) -> int:
    """Say why, in the form in which everything else is said; return the exit code."""
    if told.log_format == "json":
        LOG.critical("cannot start: %s", f"{error}; hint: {hint}" if hint else error)
        return CANNOT_START
    print(f"error: {error}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    return CANNOT_START


def _loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    if name == "asyncio":
        return asyncio.new_event_loop
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


async def _serve(told: ServeConfig) -> int:
    app = App(told)
    await app.start()
    loop = asyncio.get_running_loop()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, _on_signal, app, number)
    print(app.ready_line(), flush=True)
    if told.hints or sys.stdout.isatty():
        print(_hints(app.listen, told.archive is not None, told.cluster is not None, app.is_primary), flush=True)
    if await app.wait() == SOFTWARE_FAILURE:
        watchdog = threading.Timer(FAILURE_DEADLINE_S * 0.9, _leave, (SOFTWARE_FAILURE,))
        watchdog.daemon = True
        watchdog.start()
    return await app.stop()


def _on_signal(app: App, number: signal.Signals) -> None:
    """End in order at the first signal; at once at the next one, as the signal itself would have it."""
    for other in _STOP_SIGNALS:
        asyncio.get_running_loop().remove_signal_handler(other)
        signal.signal(other, lambda got, _: os._exit(128 + got))
    LOG.info("%s: stopping; once more ends the process at once", number.name)
    app.ask_to_stop()


def _leave(code: int) -> None:
    """End the process now, without waiting for any thread."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)


def _hints(listen: Address, archives: bool, clustered: bool, is_primary: bool) -> str:
    """Return command lines to try, complete with the path of kvctl beside this interpreter."""
    kvctl = shlex.quote(str(Path(sys.executable).parent / "kvctl"))
    if str(listen) != config.DEFAULT_LISTEN:
        kvctl += f" -E {listen}"
    commands = ["put greeting hello"] if is_primary else []
    commands += ["get greeting", "scan", "status"]
    if clustered:
        commands += ["cluster status", "repl slots" if is_primary else "promote --dry-run"]
    if archives and is_primary:
        commands.append("archive status")
    return "\n".join(["try it from another terminal:", *(f"  {kvctl} {one}" for one in commands), "Ctrl-C stops the server"])
