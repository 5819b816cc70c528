"""What the floors may ask of the tables: the interface, and nothing of how it is done.

A table is a sorted file of rows; the tables together are one ordered map of rows (bytes to bytes), of which the newest table's
row counts. ``kvserver.storage.rocks`` keeps them in RocksDB; tests hand in a twin that keeps them in memory and in files of a
``FileSystem``. One conformance suite runs on both (``tests/conformance/test_tables.py``). What the rows mean is stated in
``kvserver.storage.rows``; the tables do not know.

Every call blocks, and some hold the interpreter's lock while they do (``docs/tables.md``), so none is made on the event loop.
Errors: ``Corruption`` for what does not check, ``OSError`` with an errno for what the disk refuses, ``TablesClosed`` after
``close``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeAlias

Row: TypeAlias = "tuple[bytes, bytes]"


class TablesClosed(Exception):
    """The tables were closed; nothing can be asked of them any more."""


@dataclasses.dataclass(frozen=True, slots=True)
class TableFigures:
    """What the tables look like at the moment."""

    files: int = 0
    total_bytes: int = 0
    level0_files: int = 0
    """Tables that were ingested and not yet merged; a read may have to look at each."""
    pending_compaction_bytes: int = 0
    background_error: str = ""
    """Why tables are not merged any more (a full disk, say); empty while they are."""


class TableReader(Protocol):
    """Reads rows. Safe for several threads."""

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the rows of the keys, None where there is none. Sorted keys are read faster (1.2 to 1.5 µs a key)."""

    def rows(self, start: bytes, end: bytes, limit: int, max_bytes: int = 0, reverse: bool = False) -> list[Row]:
        """Return the rows with start <= key < end (end empty: no end), in order or from the last one on.

        At most ``limit`` rows, and no more once they hold ``max_bytes`` (0: no such bound; at least one row is returned).
        """

    def close(self) -> None:
        """Let go of the files. Twice does no harm."""


class TableWriter(Protocol):
    """Writes one table. Keys must come in rising order, each once (ValueError)."""

    def put(self, key: bytes, value: bytes) -> None:
        """Add a row."""

    def delete(self, key: bytes) -> None:
        """Add the removal of a row that older tables may hold."""

    def finish(self) -> int:
        """Make the table durable, close it, return its bytes. A table without rows cannot be finished (ValueError)."""

    def abandon(self) -> None:
        """Close and remove what was written."""


class Tables(TableReader, Protocol):
    """The tables of one data folder; one object has them open for writing."""

    def new_table(self, path: Path) -> TableWriter:
        """Begin a table in a file of its own, which ``ingest`` takes in later."""

    def ingest(self, path: Path) -> None:
        """Take a finished table in, all of it or nothing, as the newest; its file moves. Durable on return."""

    def delete_range(self, start: bytes, end: bytes) -> None:
        """Remove the rows with start <= key < end. Durable on return. Their space returns with ``compact``."""

    def compact(self, start: bytes, end: bytes) -> None:
        """Merge the tables that hold rows of the range, so that what was replaced and removed gives its space back."""

    def checkpoint(self, target: Path) -> None:
        """Make a copy of all tables in a new folder, by hard links where it is the same file system. Durable on return."""

    def verify(self, still_wanted: Callable[[], bool] = lambda: True) -> list[str]:
        """Read every block of every table, and return what is wrong with each damaged one; of those read while it is wanted."""

    def figures(self) -> TableFigures:
        """Return what the tables look like."""
