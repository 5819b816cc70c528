"""Who builds the tables of a flush: a helper process, beside whose work the event loop keeps its pace, or the caller itself.

The helper reads the log and the tables from disk, so a job and its outcome, a line each, are all that passes between the
processes. It keeps nothing that matters: if it dies, the table is built again by the next one.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from pathlib import Path

import kvserver
from kvserver.base.clock import Clock
from kvserver.base.errors import Corruption
from kvserver.base.events import FlushHelperDied, Listener
from kvserver.base.fs import FileSystem, OsFileSystem
from kvserver.base.paths import DataPaths
from kvserver.engine import flush_messages as messages
from kvserver.storage.flush_build import build_table
from kvserver.storage.flush_job import FlushFailed, FlushJob, FlushOutcome
from kvserver.storage.tables import Tables
from kvserver.wal.log_range import LogRangeReader

_MODULE = "kvserver.engine.flush_helper_main"
_SOURCE = Path(kvserver.__file__).parent.parent
"""The folder that holds the package: the helper is started there, so that it finds the package as this process did."""


class InlineBuilder:
    """Builds on the caller's thread. For tests, which then decide what happens when."""

    def __init__(self, fs: FileSystem, paths: DataPaths, tables: Tables, clock: Clock | None = None) -> None:
        self._fs = fs
        self._tables = tables
        self._log = LogRangeReader(fs, paths)
        self._clock = clock

    def build(self, job: FlushJob) -> FlushOutcome:
        """Build the table of a job."""
        _remove(self._fs, job.target)
        try:
            writer = self._tables.new_table(job.target)
            return build_table(job, self._log.frames(job.after, job.upto), self._tables, writer, self._clock)
        except Exception:
            _remove(self._fs, job.target)
            raise

    def close(self) -> None:
        """Do nothing: there is nothing to end."""


class HelperProcess:
    """Builds in a process of its own, which is started at the first job and again after it died.

    ``build`` may be called on any thread, ``close`` on another one meanwhile.
    """

    def __init__(
        self, paths: DataPaths, block_cache_bytes: int, listener: Listener, failpoints: str = "", niceness: int = 0
    ) -> None:
        """``failpoints`` are armed in the helper (``arm_from_text``); ``niceness``: how far its priority is below ours."""
        root = str(paths.root.absolute())
        self._command = [sys.executable, "-m", _MODULE, root, str(block_cache_bytes), str(niceness), failpoints]
        self._fs = OsFileSystem()
        self._listener = listener
        self._turn = threading.Lock()
        self._guard = threading.Lock()
        """Over the two below: a process must not be started while it is decided that there is to be none."""
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    @property
    def pid(self) -> int:
        """The id of the helper; 0 while there is none."""
        process = self._process
        return process.pid if process is not None else 0

    def build(self, job: FlushJob) -> FlushOutcome:
        """Build the table of a job. Blocks. Raises FlushFailed, Corruption, OSError; then no target is left behind."""
        with self._turn:
            try:
                return self._ask(self._running(), job)
            except (FlushFailed, Corruption, OSError):
                _remove(self._fs, job.target)
                raise

    def close(self) -> None:
        """End the helper, also in the middle of a build, which then fails."""
        with self._guard:
            self._closed = True
            process = self._process
        if process is not None:
            process.kill()
        with self._turn:
            if process is not None:
                _reap(process)
            self._process = None

    def _running(self) -> subprocess.Popen[bytes]:
        with self._guard:
            if self._closed:
                raise FlushFailed("the helper that builds tables was closed")
            if self._process is None:
                try:
                    self._process = subprocess.Popen(
                        self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=_SOURCE, close_fds=True
                    )
                except OSError as error:
                    raise FlushFailed(f"the helper that builds tables cannot be started: {error}") from error
            return self._process

    def _ask(self, process: subprocess.Popen[bytes], job: FlushJob) -> FlushOutcome:
        """Hand over a job and wait for its answer."""
        assert process.stdin is not None
        assert process.stdout is not None
        answer = b""
        with contextlib.suppress(OSError):  # a pipe without a reader: the helper is dead, which the next line finds too
            process.stdin.write(messages.encode_job(job))
            process.stdin.flush()
            answer = process.stdout.readline()
        if not answer.endswith(b"\n"):
            raise self._died(process)
        return messages.decode_answer(answer)

    def _died(self, process: subprocess.Popen[bytes]) -> FlushFailed:
        """Report that the helper is gone and return the error that says so."""
        process.kill()  # it may have closed its end and live on
        exit_code = _reap(process)
        with self._guard:
            self._process = None
            closed = self._closed
        if closed:
            return FlushFailed("the helper that builds tables was closed")
        self._listener(FlushHelperDied(exit_code, True))
        how = f"by signal {-exit_code}" if exit_code < 0 else f"with exit code {exit_code}"
        return FlushFailed(f"the helper that builds tables ended {how}")


def _reap(process: subprocess.Popen[bytes]) -> int:
    """Wait for a process that was told to end, close its pipes, return its exit code."""
    exit_code = process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # what was written and not read any more cannot be flushed
                pipe.close()
    return exit_code


def _remove(fs: FileSystem, target: Path) -> None:
    """Remove what an earlier build, or one that failed, left behind."""
    if fs.exists(target):
        fs.remove(target)
