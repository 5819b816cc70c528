"""The outside world as one value: disk, time and randomness, handed to whatever needs them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable

from kvserver.base.clock import Clock, SystemClock
from kvserver.base.fs import FileSystem, OsFileSystem


@dataclasses.dataclass(frozen=True, slots=True)
class Environment:
    """Disk, time and randomness."""

    fs: FileSystem = dataclasses.field(default_factory=OsFileSystem)
    clock: Clock = dataclasses.field(default_factory=SystemClock)
    random_bytes: Callable[[int], bytes] = os.urandom
    """``random_bytes(n)``: n bytes that nobody can guess."""

    def random_id(self) -> int:
        """Return 64 random bits, never 0."""
        return int.from_bytes(self.random_bytes(8), "little") or 1
