"""Starts and stops what is measured, each a process of its own on a free port of the loopback."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclasses.dataclass
class Server:
    """A process that serves."""

    process: subprocess.Popen[str]
    address: str
    http: str = ""

    def cpu_seconds(self) -> float:
        """Return the processor time that the process has used, user and system."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


@contextlib.contextmanager
def _serving(command: list[str]) -> Iterator[Server]:
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("ready "):
                fields = dict(part.split("=", 1) for part in line.split()[1:] if "=" in part)
                yield Server(process, fields["listen"], fields.get("http", ""))
                return
        raise SystemExit(f"{command[0]} ended before it served: exit code {process.wait()}")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder on the disk that holds this checkout, and remove it afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="kvserver-bench-", dir=os.environ.get("KVSERVER_BENCH_DIR")))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def kvserver(data_dir: Path, *flags: str) -> Iterator[Server]:
    """Serve a data folder."""
    command = [sys.executable, "-m", "kvserver", "serve", "--data-dir", str(data_dir)]
    with _serving([*command, "--listen", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log-level", "warning", *flags]) as server:
        yield server


@contextlib.contextmanager
def echo() -> Iterator[Server]:
    """Serve an empty grpc.aio method: what gRPC alone costs."""
    with _serving([sys.executable, str(HERE / "echo_server.py")]) as server:
        yield server
