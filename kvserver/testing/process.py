"""One process of a server, from its start to its end: what it prints, whether it serves, how it ended."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence

MAX_LINES = 10_000
"""So many of the newest lines are kept of what a server prints."""

SHOWN_LINES = 30
"""So many of them stand in an error."""

END_TIMEOUT_S = 30.0
"""How long a server may take to end after it was asked to, and the system to end it after it was killed."""


class ServerFailed(Exception):
    """A server did not start, or did not end as it was asked to; the message holds the last lines that it printed."""


class ServerProcess:
    """A ``kvserver serve`` with some flags. It is started by the constructor and ends with this process at the latest.

    Settings from this process's own environment (``KVSERVER_...``) are not handed on, only those in ``environment``.
    ``on_line`` is called with each line that it prints, on a thread of this process's.
    """

    def __init__(
        self,
        flags: Sequence[str],
        environment: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        self._flags = tuple(flags)
        self._on_line = on_line
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KVSERVER_")}
        self._popen = subprocess.Popen(
            # -P: modules in the folder that the tests run in must not stand in for the server's.
            [sys.executable, "-P", "-m", "kvserver.testing.child", "serve", *self._flags],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=inherited | dict(environment or {}),
            start_new_session=True,  # Ctrl-C is for the tests; their fixtures end the server
        )
        self._lock = threading.Lock()
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._ready_line = ""
        self._ready_or_over = threading.Event()
        self._reader = threading.Thread(target=self._read, name="kvserver-output", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Return the number of the process."""
        return self._popen.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._popen.poll() is None

    @property
    def exit_code(self) -> int | None:
        """How it ended, negative for a signal; None while it runs."""
        return self._popen.poll()

    def lines(self) -> list[str]:
        """Return what it printed: its log, and the line that says that it serves."""
        with self._lock:
            return list(self._lines)

    def field(self, name: str) -> str:
        """Return a field of the line that says that it serves, for instance ``listen``."""
        match = re.search(rf" {name}=(\S+)", self._ready_line)
        if match is None:
            raise ServerFailed(self.report(f"said nothing about {name} when it began to serve: {self._ready_line!r}"))
        return match[1]

    def wait_until_ready(self, timeout_s: float) -> None:
        """Return when it serves; raise ServerFailed if it ends instead, or is not ready in time (then it is killed)."""
        __tracebackhide__ = True
        in_time = self._ready_or_over.wait(timeout_s)
        if self._ready_line:
            return
        if in_time:
            raise ServerFailed(self.report(f"did not start: it ended with exit code {self._ended()}"))
        self.kill()
        raise ServerFailed(self.report(f"did not start: it was not ready within {timeout_s:g} s, and was killed"))

    def kill(self) -> None:
        """End it at once, as ``kill -9`` does; one that has ended is left alone."""
        self._popen.kill()
        self._ended()

    def stop(self) -> int:
        """Have it end in order; return its exit code. Raises ServerFailed if it does not end, and kills it."""
        __tracebackhide__ = True
        self._popen.send_signal(signal.SIGTERM)
        try:
            return self._ended()
        except subprocess.TimeoutExpired:
            self.kill()
            what = f"did not end within {END_TIMEOUT_S:g} s after SIGTERM, and was killed"
            raise ServerFailed(self.report(what)) from None

    def report(self, what: str) -> str:
        """Return a sentence about it, and below it the last lines that it printed."""
        lines = self.lines()[-SHOWN_LINES:]
        said = "\n".join(f"    {line}" for line in lines)
        heading = "Its last lines:" if lines else "It printed nothing."
        return f"kvserver {what}.\nIt was started with: {' '.join(self._flags)}\n{heading}\n{said}".rstrip()

    def _ended(self) -> int:
        """Wait until it has ended and all of its words are read; return its exit code, negative for a signal."""
        code = self._popen.wait(END_TIMEOUT_S)
        self._reader.join(END_TIMEOUT_S)
        with contextlib.suppress(OSError):  # nobody reads there any more
            if self._popen.stdin is not None:
                self._popen.stdin.close()
        return code

    def _read(self) -> None:
        """Take in what it prints, until it ends; a thread's whole life."""
        assert self._popen.stdout is not None
        with self._popen.stdout as output:
            for text in output:
                line = text.rstrip("\n")
                with self._lock:
                    self._lines.append(line)
                if self._on_line is not None:
                    self._on_line(line)
                if not self._ready_line and line.startswith("ready "):
                    self._ready_line = line
                    self._ready_or_over.set()
        self._ready_or_over.set()
