"""Starts what is measured and what loads it, each a process group of its own that does not outlive the benchmark."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from suite import parsing

ROOT = Path(__file__).resolve().parents[3]
BENCH = Path(__file__).resolve().parents[1]
STOP_S = 30.0
START_S = 120.0
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


class ProcessFailed(Exception):
    """A process did not start, or ended with an error; the text has what it printed."""


@dataclasses.dataclass
class Server:
    """A process that serves."""

    process: subprocess.Popen[str]
    address: str
    http: str = ""

    def cpu_seconds(self) -> float:
        """Return the processor time that the process has used, user and system."""
        return parsing.thread_ticks(Path(f"/proc/{self.process.pid}/stat").read_text())[1] / TICKS_PER_SECOND

    def metrics(self) -> str:
        """Return the server's metrics as text."""
        with urllib.request.urlopen(f"http://{self.http}/metrics", timeout=10) as answer:
            return str(answer.read().decode())


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a command printed, and what it took."""

    printed: str
    seconds: float
    cpu_seconds: float


def _die_with_parent() -> None:
    """Have the kernel kill the new process when the benchmark dies, however that happens."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _start(
    command: Sequence[str | Path],
    *,
    stdout: int,
    stderr: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[str]:
    words = [str(word) for word in command]
    return subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        text=True,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        start_new_session=True,
        preexec_fn=_die_with_parent,
    )


def _end(process: subprocess.Popen[str]) -> None:
    """End a process, and whatever its group still holds."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def execute(command: Sequence[str | Path], *, timeout_s: float, environment: Mapping[str, str] | None = None) -> Outcome:
    """Run a command to its end. Raises ProcessFailed where it ends with an error or takes too long."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    process = _start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, environment=environment)
    try:
        printed, complaints = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        raise ProcessFailed(f"{command[0]} did not end within {timeout_s:.0f} s") from error
    finally:
        _end(process)
    seconds = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        raise ProcessFailed(f"{command[0]} ended with {process.returncode}:\n{(printed + complaints)[-2000:]}")
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Outcome(printed, seconds, cpu_seconds)


@contextlib.contextmanager
def background(command: Sequence[str | Path], log: Path) -> Iterator[subprocess.Popen[str]]:
    """Keep a process running; what it prints goes into the log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file:
        process = _start(command, stdout=file.fileno(), stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        _end(process)


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[str], log: Path) -> None:
    """Ask again and again until ``ready()`` is true. Raises ProcessFailed where the process ends first, or after two minutes."""
    until = time.monotonic() + START_S
    while not ready():
        if process.poll() is not None or time.monotonic() > until:
            state = "serve in time" if process.poll() is None else f"stay: it ended with {process.returncode}"
            raise ProcessFailed(f"{log.stem} did not {state}:\n{log.read_text()[-2000:]}")
        time.sleep(0.05)


def free_port() -> int:
    """Return a port of the loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serving(command: Sequence[str | Path], log: Path) -> Iterator[Server]:
    """Keep one of our own servers running: one that prints ``ready listen=... http=...`` when it serves."""
    with background(command, log) as process:
        wait_until(lambda: "\nready " in "\n" + log.read_text(), process, log)
        line = next(line for line in log.read_text().splitlines() if line.startswith("ready "))
        fields = dict(part.split("=", 1) for part in line.split()[1:] if "=" in part)
        yield Server(process, fields["listen"], fields.get("http", ""))


def server_command(data_dir: Path | str, *flags: str) -> list[str]:
    """Return the command that serves a data folder on free ports."""
    command = [sys.executable, "-m", "kvserver", "serve", "--data-dir", str(data_dir)]
    return [*command, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-level", "warning", *flags]


@contextlib.contextmanager
def kvserver(data_dir: Path, *flags: str) -> Iterator[Server]:
    """Serve a data folder."""
    with serving(server_command(data_dir, *flags), data_dir.parent / f"{data_dir.name}.log") as server:
        yield server


@contextlib.contextmanager
def fresh_kvserver(data_dir: Path, *flags: str) -> Iterator[Server]:
    """Serve a new store, and remove it afterwards: a long run must not fill the disk."""
    try:
        with kvserver(data_dir, *flags) as server:
            yield server
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)


def _end_orderly(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


@contextlib.contextmanager
def scratch_folder(within: Path | None = None) -> Iterator[Path]:
    """Make a folder, by default on the disk that holds this checkout, and remove it afterwards, also at SIGTERM and SIGHUP."""
    before = {number: signal.signal(number, _end_orderly) for number in (signal.SIGTERM, signal.SIGHUP)}
    parent = within or Path(os.environ.get("KVSERVER_BENCH_DIR") or ROOT / "build")
    parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=parent.resolve()))
    try:
        yield folder
    finally:
        # Some gigabytes take a while to go, and who loses patience meanwhile must not leave them there.
        before[signal.SIGINT] = signal.getsignal(signal.SIGINT)
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        shutil.rmtree(folder, ignore_errors=True)
        for number, handler in before.items():
            signal.signal(number, handler)
