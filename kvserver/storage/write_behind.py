"""Hands what a merge writes to the disk while it is written, so that the log's syncs never wait for a heap of it.

RocksDB has an option for that (``bytes_per_sync``), but the binding is built without the system call behind it. A merge's
output then stays in the page cache until the file is complete and synced, 32 MiB at once; a sync of the log beside it took 22 ms
instead of 0.3. So a thread looks at the folder, and has the kernel begin to write whatever was added to a new file. That waits
for nothing and proves nothing: durable is what RocksDB synced, as before.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Protocol, Self

from kvserver.base.clock import Clock, SystemClock
from kvserver.base.fs import NameInfo
from kvserver.base.limits import MIB

STEP_BYTES = 1 * MIB
"""Handed over at once, at least; RocksDB writes files in pieces of this size."""

LOOK_S = 0.1
"""Between two looks while no file grows."""

GROWING_LOOK_S = 0.02
"""Between two looks while one does: at 70 MB/s, which a merge comes to, 1.4 MB are added meanwhile."""

GIVEN_UP_LOOKS = 100
"""A file that has not grown for so many looks is complete, or as good."""


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

    __slots__ = ("handed_bytes", "still")

    def __init__(self) -> None:
        self.handed_bytes = 0
        self.still = 0
        """For how many looks it has not grown."""


class WriteBehind:
    """Watches one folder. ``step`` is one look; ``start`` has a thread look until ``close``."""

    def __init__(self, folder: Path, disk: Disk, clock: Clock | None = None) -> None:
        self._folder = folder
        self._disk = disk
        self._clock = clock or SystemClock()
        self._known = self._names()
        self._growing: dict[str, _Growing] = {}
        self._pause = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None

    def start(self) -> Self:
        """Begin to look on a thread; return itself."""
        self._thread = threading.Thread(target=self._run, name="tables-write-behind", daemon=True)
        self._thread.start()
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
        """Hand over what was added to the files that came since the last look; return how many bytes that was. Raises OSError."""
        names = self._names()
        self._growing.update((name, _Growing()) for name in names - self._known)
        self._known = names
        handed = 0
        for name, file in list(self._growing.items()):
            added = self._hand_over(self._folder / name, file)
            handed += added
            file.still = 0 if added else file.still + 1
            if file.still >= GIVEN_UP_LOOKS:
                del self._growing[name]
        return handed

    def _names(self) -> set[str]:
        return {name for name in self._disk.list_dir(self._folder) if name.endswith(".sst")}

    def _hand_over(self, path: Path, file: _Growing) -> int:
        found = self._disk.info(path)
        added = found.length_bytes - file.handed_bytes if found is not None else 0
        if added < STEP_BYTES:
            return 0
        try:
            self._disk.write_soon(path, file.handed_bytes, added)
        except OSError:  # removed meanwhile, or no descriptor is to be had: RocksDB syncs it in any case
            return 0
        file.handed_bytes += added
        return added

    def _run(self) -> None:
        while True:
            with self._pause:
                if not self._closing:
                    self._clock.wait(self._pause, GROWING_LOOK_S if self._growing else LOOK_S)
                if self._closing:
                    return
            with contextlib.suppress(OSError):
                self.step()
