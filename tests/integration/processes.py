"""Server processes: started as a user starts them, ended as their world ends them.

with Process("--data-dir", str(folder)) as server:
    server.ready()          # until it serves
    server.address          # "127.0.0.1:41234"
    server.stop()           # SIGTERM; the exit code
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from types import TracebackType

PATIENCE_S = 30.0


class Process:
    """One ``kvserver serve`` on ports that the system picks, unless the flags say otherwise."""

    def __init__(self, *flags: str, prelude: str = "", environment: dict[str, str] | None = None) -> None:
        """``prelude`` is Python that the process runs before it becomes the server: to arm failpoints with."""
        program = f"{prelude}\nimport sys, kvserver.__main__\nsys.exit(kvserver.__main__.main())"
        defaults = ("--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
        known = {name: value for name, value in os.environ.items() if not name.startswith("KVSERVER_")}
        self.popen = subprocess.Popen(
            [sys.executable, "-c", program, "serve", *defaults, *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=known | (environment or {}),
        )
        self.lines: list[str] = []
        self.errors: list[str] = []
        self.ready_line = ""
        self._is_ready = threading.Event()
        self._readers = [
            threading.Thread(target=self._read_output, daemon=True),
            threading.Thread(target=self._read_errors, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.popen.poll() is None:
            self.popen.kill()
        self.wait()

    def _read_output(self) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            self.lines.append(line.rstrip("\n"))
            if line.startswith("ready"):
                self.ready_line = line.rstrip("\n")
                self._is_ready.set()
        self._is_ready.set()

    def _read_errors(self) -> None:
        assert self.popen.stderr is not None
        for line in self.popen.stderr:
            self.errors.append(line.rstrip("\n"))

    def ready(self) -> Process:
        """Wait until it serves; fail the test if it ends instead."""
        assert self._is_ready.wait(PATIENCE_S), f"not ready: {self.errors}"
        assert self.ready_line, f"ended with {self.wait()}: {self.errors}"
        return self

    def field(self, name: str) -> str:
        """Return a field of the ready line."""
        match = re.search(rf" {name}=(\S+)", self.ready_line)
        assert match, self.ready_line
        return match[1]

    @property
    def address(self) -> str:
        """Return where it serves gRPC."""
        return self.field("listen")

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to it."""
        self.popen.send_signal(number)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait until it has ended; return its exit code, negative for a signal."""
        code = self.popen.wait(timeout_s)
        for reader in self._readers:
            reader.join(PATIENCE_S)
        return code

    def stop(self) -> int:
        """Ask it to end; return its exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()


def refusal(*flags: str) -> tuple[int, list[str]]:
    """Start a server that must not start; return its exit code and the lines of standard error that are no log lines."""
    with Process(*flags) as server:
        code = server.wait()
        assert server.lines == [], "something was printed on standard output"
        return code, [line for line in server.errors if not re.match(r"\d{4}-\d\d-\d\dT", line)]
