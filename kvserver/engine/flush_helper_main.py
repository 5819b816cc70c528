"""The helper process that builds tables: one job after the other from standard input, until that ends.

Started by ``kvserver.engine.flush_helper`` with the data folder, the bytes of the block cache, how nice it is to be, and
failpoints as arguments. It imports little, takes no part in signals that a terminal sends to the server's group, and never
outlives the server: a thread waits for the end of standard input, which comes however the server ends, and stops the process in
the middle of a build too. A helper that built on would meet the next server's helper at the same file.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from kvserver.base import failpoints
from kvserver.base.fs import FileSystem, OsFileSystem
from kvserver.base.paths import DataPaths
from kvserver.engine import flush_messages as messages
from kvserver.storage.flush_build import build_table
from kvserver.storage.flush_job import FlushJob, FlushOutcome
from kvserver.storage.rocks import RocksTableWriter, open_reader
from kvserver.wal.log_range import LogRangeReader


class Worker:
    """Builds the tables of one data folder."""

    def __init__(self, fs: FileSystem, paths: DataPaths, block_cache_bytes: int) -> None:
        self._fs = fs
        self._paths = paths
        self._log = LogRangeReader(fs, paths)
        self._block_cache_bytes = block_cache_bytes

    def build(self, job: FlushJob) -> FlushOutcome:
        """Build the table of a job. The tables are opened anew, because they changed since the job before."""
        if self._fs.exists(job.target):
            self._fs.remove(job.target)
        with contextlib.closing(open_reader(self._paths.tables, self._block_cache_bytes)) as tables:
            return build_table(job, self._log.frames(job.after, job.upto), tables, RocksTableWriter(job.target))

    def answer(self, line: bytes) -> bytes:
        """Carry out the job of a line and return the line that answers it."""
        try:
            return messages.encode_outcome(self.build(messages.decode_job(line)))
        except Exception as error:
            return messages.encode_error(error)


def main(arguments: list[str]) -> None:
    """Serve jobs until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    root, block_cache_bytes, niceness, armed = arguments
    os.nice(int(niceness))
    failpoints.arm_from_text(armed)
    # A build makes hundreds of thousands of tuples and no circles; the collector would walk them all, again and again.
    gc.disable()
    jobs: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read_jobs, args=(jobs,), name="jobs", daemon=True).start()
    trim = _memory_trimmer()
    worker = Worker(OsFileSystem(), DataPaths(Path(root)), int(block_cache_bytes))
    while True:
        answer = worker.answer(jobs.get())
        gc.collect()
        trim()
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()


def _memory_trimmer() -> Callable[[], object]:
    """Return what gives freed memory back to the system (glibc keeps it otherwise: 180 MiB after large values, 36 with this)."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        return functools.partial(ctypes.CDLL(None).malloc_trim, 0)
    return lambda: None


def _read_jobs(jobs: queue.SimpleQueue[bytes]) -> None:
    """Pass jobs on; end the process when there will be no more."""
    for line in sys.stdin.buffer:
        jobs.put(line)
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
