"""What the checks are handed: the folder, the doors to the machine, and what earlier checks have found out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, Protocol

from kvserver.base.clock import Clock
from kvserver.base.fs import FileSystem, opened
from kvserver.base.options import EngineOptions
from kvserver.base.paths import DataPaths
from kvserver.base.register import Register
from kvserver.base.types import Identity
from kvserver.storage.origin import Origin
from kvserver.storage.rows import Flushed
from kvserver.storage.tables import TableReader
from kvserver.wal.inspection import SegmentReport

Progress = Callable[[str, int, int, int], None]
"""``progress(what, records, bytes, total_bytes)``: how far a long check is; a total of 0 is not known."""

_MOST_TEXT_BYTES = 1 << 20


class FileFacts(NamedTuple):
    """What the operating system says of a file."""

    owner: int
    """Number of the user that it belongs to."""
    mode: int
    """Its permission bits."""
    device: tuple[int, int]
    """Major and minor number of the device that it lies on."""
    inode: int


class Machine(Protocol):
    """What a ``FileSystem`` does not tell, because the server never needs it. Errors are OSError."""

    def user(self) -> int:
        """Return the number of the user that this process runs as."""

    def facts(self, path: Path) -> FileFacts:
        """Return what is known of a file or folder."""

    def inodes(self, path: Path) -> tuple[int, int]:
        """Return how many files can still be made below the folder, and how many there can be; (0, 0): without limit."""


@dataclasses.dataclass(frozen=True, slots=True)
class LogSummary:
    """What was seen of the whole log."""

    reports: list[SegmentReport]
    total_bytes: int
    last_time_ms: int
    """Time of the newest frame; 0 where there is none."""

    @property
    def first_revision(self) -> int:
        """Return the revision that the log begins with; 0 for an empty log."""
        return self.reports[0].name.first_revision if self.reports else 0

    @property
    def sound(self) -> bool:
        """Say whether the log can be read to its end."""
        return not any(report.state == "damaged" for report in self.reports)


@dataclasses.dataclass(slots=True)
class Subject:
    """One folder under examination. Nothing in it is written, but for the file of the fsync probe where that is asked for."""

    fs: FileSystem
    paths: DataPaths
    clock: Clock
    machine: Machine
    registers: Mapping[str, Callable[[FileSystem, DataPaths], Register]]
    """How to look into a register, by its kind; other kinds cannot be looked into from here."""
    open_tables: Callable[[Path], TableReader]
    """Opens the tables for reading. Raises Corruption, OSError."""
    options: EngineOptions = dataclasses.field(default_factory=EngineOptions)
    """What the server is taken to run with; needs are measured against it."""
    deep: bool = False
    """Read every block of every table."""
    probe_disk: bool = False
    """Measure the disk: the only check that writes."""
    progress: Progress = lambda what, records, position, total: None

    # What checks leave for those behind them.
    in_use: bool = False
    """A process holds the lock: files change while they are looked at."""
    holder: int = 0
    """Number of that process; 0 where it is not known."""
    identity: Identity | None = None
    origin: Origin | None = None
    """Where the store was copied from, if it was."""
    log: LogSummary | None = None
    flushed: Flushed | None = None
    """How far the tables are; None where there are none or where they cannot be read."""
    reader: TableReader | None = None

    def names(self, folder: Path) -> list[str]:
        """Return the names in a folder; none where there is no such folder. Raises OSError."""
        return self.fs.list_dir(folder) if self.fs.exists(folder) else []

    def size(self, path: Path) -> int:
        """Return a file's length; 0 where it has gone meanwhile. Raises OSError."""
        try:
            with opened(self.fs.open(path)) as file:
                return file.size()
        except FileNotFoundError:
            return 0

    def text(self, path: Path) -> str:
        """Return what a file of the kernel says (its length is not known before); empty where it cannot be read."""
        try:
            with opened(self.fs.open(path)) as file:
                return file.pread(_MOST_TEXT_BYTES, 0).decode(errors="replace")
        except OSError:
            return ""

    def process(self) -> str:
        """Return where the kernel tells of the server's process; of this one where no server is known."""
        return f"/proc/{self.holder}" if self.holder and self.text(Path(f"/proc/{self.holder}/limits")) else "/proc/self"

    def tables_reader(self) -> TableReader:
        """Return the reader of the tables, opened when it is first asked for. Raises Corruption, OSError."""
        if self.reader is None:
            self.reader = self.open_tables(self.paths.tables)
        return self.reader

    def close(self) -> None:
        """Let go of the tables, so that they are opened anew when they are next asked for."""
        if self.reader is not None:
            self.reader.close()
            self.reader = None
