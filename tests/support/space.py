"""A budget of bytes that files may grow by, for tests of a full disk on any file system."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Iterator
from pathlib import Path

from kvserver.base.fs import File, FileSystem
from support.memfs import os_error


class _Names:
    """How many names a file has, as far as links were seen here."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 1


class SpaceBudget:
    """What is left for files to grow. Growth takes from it; cutting a file and removing its last name give back.

    Length counts, holes included: writing inside a file that was made long before is free, as it is in zero-filled
    space. With a budget of None nothing is counted and nothing refused.
    """

    def __init__(self, left_bytes: int | None) -> None:
        self._left_bytes = left_bytes
        self._names: dict[Path, _Names] = {}
        self._mutex = threading.RLock()

    @property
    def left_bytes(self) -> int | None:
        """The bytes left; None without a budget."""
        return self._left_bytes

    def add(self, space_bytes: int) -> None:
        """Give so many bytes more. Raises ValueError without a budget."""
        with self._mutex:
            if self._left_bytes is None:
                raise ValueError("there is no budget to add to")
            self._left_bytes += space_bytes

    @contextlib.contextmanager
    def growing(self) -> Iterator[None]:
        """Keep other threads from growing files between the look at a length and the change of it."""
        if self._left_bytes is None:
            yield
        else:
            with self._mutex:
                yield

    def check_any_left(self, path: Path) -> None:
        """Raise OSError (ENOSPC) when the budget is used up: not even a new file fits then."""
        if self._left_bytes is not None and self._left_bytes <= 0:
            raise os_error(errno.ENOSPC, path)

    def fitting(self, file: File, offset: int, length: int) -> int:
        """Return how many bytes of a write still fit, and take what they need from the budget."""
        if self._left_bytes is None or length == 0:
            return length
        size = file.size()
        fitting = max(0, min(length, size + self._left_bytes - offset))
        if fitting:
            self._left_bytes -= max(0, offset + fitting - size)
        return fitting

    def resize(self, file: File, length: int, path: Path) -> None:
        """Take from the budget, or give back, what a new length means; OSError (ENOSPC) where it does not fit."""
        if self._left_bytes is None:
            return
        growth = length - file.size()
        if growth > self._left_bytes:
            raise os_error(errno.ENOSPC, path)
        self._left_bytes -= growth

    def linked(self, existing: Path, new: Path) -> None:
        """Note that a file has one name more."""
        if self._left_bytes is None:
            return
        with self._mutex:
            names = self._names.setdefault(existing, _Names())
            names.count += 1
            self._names[new] = names

    @contextlib.contextmanager
    def removing(self, fs: FileSystem, path: Path, replacement: Path | None = None) -> Iterator[None]:
        """Give back a file's bytes once the block, which removes a name or renames over it, came through."""
        if self._left_bytes is None:
            yield
            return
        with self._mutex:
            same_file = replacement is not None and (
                path == replacement or self._names.get(path, path) is self._names.get(replacement)
            )
            freed = 0 if same_file or not fs.exists(path) else self._bytes_of(fs, path)
            yield
            if same_file:
                return
            self._left_bytes += freed
            names = self._names.pop(path, None)
            if names:
                names.count -= 1
            if replacement is not None and replacement in self._names:
                self._names[path] = self._names.pop(replacement)

    def _bytes_of(self, fs: FileSystem, path: Path) -> int:
        """Return what removing the name would free: nothing while the file has other names."""
        names = self._names.get(path)
        if names and names.count > 1:
            return 0
        with contextlib.closing(fs.open(path)) as file:
            return file.size()
