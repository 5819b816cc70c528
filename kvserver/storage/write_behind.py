"""Hands what a merge writes to the disk while it is written, so that the log's syncs never wait for a heap of it.

RocksDB has an option for that (``bytes_per_sync``), but the binding is built without the system call behind it. A merge's
output then stays in the page cache until the file is complete and synced, 32 MiB at once; a sync of the log beside it took 22 ms
instead of 0.3. So a thread looks at the folder, and has the kernel begin to write whatever was added to a new file. That proves
nothing: durable is what RocksDB synced, as before.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, Self

from kvserver.base.clock import SystemClock
from kvserver.base.fs import NameInfo
from kvserver.base.limits import KIB, MIB

STEP_BYTES = 1 * MIB
"""Less than this is not worth a call; RocksDB writes files in pieces of this size."""

PAGE_BYTES = 4 * KIB
"""What is handed over ends with a page: one that is half full would be written twice."""

LOOK_S = 0.1
"""Between two looks at the folder. Listing it takes the interpreter's lock once for every name."""

GROWING_LOOK_S = 0.02
"""Between two looks at a file that grows: at 70 MB/s, which a merge comes to, 1.4 MB are added meanwhile."""

GIVEN_UP_LOOKS = 100
"""A file that has not grown for so many looks, ten seconds, is complete, or as good."""


class Disk(Protocol):
    """What is asked of a file system here (``kvserver.base.fs.OsFileSystem``)."""

    def list_dir(self, path: Path) -> list[str]:
        """Return the names in a folder."""

    def info(self, path: Path) -> NameInfo | None:
        """Return what a name stands for."""

    def write_soon(self, path: Path, offset: int, length: int) -> None:
        """Have so many bytes of a file written soon."""


class _Growing:
    """A file that is being written."""

    __slots__ = ("handed_bytes", "length_bytes", "still")

    def __init__(self) -> None:
        self.handed_bytes = 0
        self.length_bytes = 0
        self.still = 0
        """For how many looks it has not grown."""


class WriteBehind:
    """Watches one folder. ``step`` is one look; ``start`` has a thread look until ``close``."""

    def __init__(self, folder: Path, disk: Disk, complete: Iterable[str]) -> None:
        """``complete``: the files there that nobody writes any more."""
        self._folder = folder
        self._disk = disk
        self._clock = SystemClock()
        self._known = set(complete)
        self._growing: dict[str, _Growing] = {}
        self._pause = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self) -> Self:
        """Begin to look on a thread, if one is to be had; return itself."""
        thread = threading.Thread(target=self._run, name="tables-write-behind", daemon=True)
        with contextlib.suppress(RuntimeError):
            thread.start()
            self._thread = thread
        return self

    def close(self) -> None:
        """End the thread. Twice does no harm."""
        with self._pause:
            self._closing = True
            self._pause.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def step(self) -> int:
        """Look at the folder, and at the files that grow; return how many bytes were handed over. Raises OSError."""
        names = {name for name in self._disk.list_dir(self._folder) if name.endswith(".sst")}
        self._growing.update((name, _Growing()) for name in names - self._known)
        self._known = names
        return self.step_growing()

    def step_growing(self) -> int:
        """Hand over what was added to the files that grow; return how many bytes that was."""
        handed = sum(self._hand_over(self._folder / name, file) for name, file in self._growing.items())
        self._growing = {name: file for name, file in self._growing.items() if file.still < GIVEN_UP_LOOKS}
        return handed

    def _hand_over(self, path: Path, file: _Growing) -> int:
        found = self._disk.info(path)
        length = found.length_bytes if found is not None else file.length_bytes
        file.still = 0 if length != file.length_bytes else file.still + 1
        file.length_bytes = length
        added = length - length % PAGE_BYTES - file.handed_bytes
        if added < STEP_BYTES:
            return 0
        try:
            self._disk.write_soon(path, file.handed_bytes, added)
        except OSError:  # removed meanwhile, or no descriptor is to be had: RocksDB syncs it in any case
            return 0
        file.handed_bytes += added
        return added

    def _run(self) -> None:
        grows, looks = False, 0
        while self._paused(GROWING_LOOK_S if grows else LOOK_S):
            looks += 1
            with contextlib.suppress(OSError):
                grows = bool(self.step_growing() if grows and looks % round(LOOK_S / GROWING_LOOK_S) else self.step())

    def _paused(self, seconds: float) -> bool:
        """Wait for so long; say whether there is to be another look."""
        with self._pause:
            if not self._closing:
                self._clock.wait(self._pause, seconds)
            return not self._closing
