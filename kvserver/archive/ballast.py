"""Space that is kept on the data folder's disk only to be given back when the disk is nearly full.

Giving space back must never need space: a full disk on which a flush, a manifest or a mark cannot be written is a disk that
stays full. So there lies a file, ``BALLAST``, of no content, made in small pieces while there is plenty of space. When there is
hardly any left it is removed, which writes nothing, and what frees space goes on; it is made again once there is plenty.
While it is gone no more should be written than must be: whoever admits writes asks ``given_back``.

A crash leaves the file whole, in part or not at all; a part is completed later. Its content is random, because some file
systems keep zeros for nothing.
"""

from __future__ import annotations

import threading

from kvserver.base.archive_events import BallastGivenBack, BallastRestored
from kvserver.base.environment import Environment
from kvserver.base.events import Listener, ignore
from kvserver.base.fs import opened
from kvserver.base.limits import MIB
from kvserver.base.paths import DataPaths

BALLAST_BYTES = 64 * MIB
LOW_BYTES = 32 * MIB
"""With less than this left on the disk the ballast is given back."""

PLENTY = 2
"""The ballast is made while it would leave so many times its own size."""

PIECE_BYTES = 8 * MIB
"""So much of it is written at a time, so that the log's own syncs do not wait for it."""

_BLOCK_BYTES = 1 * MIB


class Ballast:
    """The one writer and the one deleter of ``BALLAST``. ``check`` blocks and is called on any thread but the event loop."""

    def __init__(
        self,
        env: Environment,
        paths: DataPaths,
        listener: Listener = ignore,
        size_bytes: int = BALLAST_BYTES,
        low_bytes: int = LOW_BYTES,
    ) -> None:
        """``size_bytes`` 0: no ballast; one that is there is removed."""
        self._env = env
        self._paths = paths
        self._listener = listener
        self._size_bytes = size_bytes
        self._low_bytes = low_bytes
        self._checking = threading.Lock()
        self.held_bytes = 0
        """How large the file is, as of the last ``check``."""
        self.given_back = False
        """The disk was nearly full, the ballast was removed for that, and there is no plenty of space again yet."""

    def check(self) -> None:
        """Look at the disk and do what is to be done; to be called every second or so. Never raises for the disk's errors."""
        with self._checking:
            try:
                free_bytes = self._env.fs.free_bytes(self._paths.root)
                self.held_bytes = self._length()
                if self.held_bytes and (free_bytes < self._low_bytes or not self._size_bytes):
                    self._give_back(free_bytes)
                elif self.held_bytes < self._size_bytes:
                    self._restore(free_bytes)
            except OSError:  # it cannot be looked at, or not be removed: that is tried again with the next call
                pass

    def _length(self) -> int:
        try:
            with opened(self._env.fs.open(self._paths.ballast)) as file:
                return file.size()
        except FileNotFoundError:
            return 0

    def _give_back(self, free_bytes: int) -> None:
        self._env.fs.remove(self._paths.ballast)  # need not be durable: one that comes back is there again, that is all
        given, self.held_bytes = self.held_bytes, 0
        self.given_back = bool(self._size_bytes)
        self._listener(BallastGivenBack(given, free_bytes))

    def _restore(self, free_bytes: int) -> None:
        """Write the next piece of it, if there is plenty of space."""
        missing = self._size_bytes - self.held_bytes
        if free_bytes - missing < PLENTY * self._size_bytes:
            return
        self.given_back = False
        try:
            self._write(min(missing, PIECE_BYTES))
        except OSError:
            self._env.fs.remove(self._paths.ballast)
            self.held_bytes = 0
            raise
        if self.held_bytes == self._size_bytes:
            self._listener(BallastRestored(self._size_bytes))

    def _write(self, length: int) -> None:
        fs, path = self._env.fs, self._paths.ballast
        block = self._env.random_bytes(min(length, _BLOCK_BYTES))
        with opened(fs.open(path, writable=True) if fs.exists(path) else fs.create(path)) as file:
            for offset in range(0, length, len(block)):
                piece = block[: length - offset]
                file.pwrite(piece, self.held_bytes + offset)
            file.datasync()
        self.held_bytes += length
