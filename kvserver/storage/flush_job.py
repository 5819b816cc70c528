"""What a flush is asked to do and what it answers, as values: they cross to the process that builds the table."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Protocol

from kvserver.base.types import Position
from kvserver.storage.rows import Statistics


@dataclasses.dataclass(frozen=True, slots=True)
class FlushJob:
    """Build the table that carries the tables from one position to another, from the frames of the log between them."""

    cluster_id: bytes
    after: Position
    """What the tables hold."""
    upto: Position
    """What they will hold: the end of a frame, durable and visible. A log that leads to another chain is corrupt."""
    keep_from: int
    """The oldest revision that stays readable: a version superseded at or below it is not kept as history."""
    bucket_revisions: int
    time_ms: int
    target: Path
    """The file to build."""


@dataclasses.dataclass(frozen=True, slots=True)
class FlushOutcome:
    """A table was built."""

    rows: int
    history_rows: int
    table_bytes: int
    statistics: dict[int, Statistics]
    """Of every namespace that the range changed, as of ``upto``; a dropped one is all zeros."""
    seconds: float


class FlushFailed(Exception):
    """The table was not built, for a reason that may pass: the helper died, say. Nothing is lost; it is tried again."""


class FlushBuilder(Protocol):
    """Builds tables, one at a time."""

    def build(self, job: FlushJob) -> FlushOutcome:
        """Build the table of a job. Blocks. Raises FlushFailed, Corruption, OSError; then no target is left behind."""

    def close(self) -> None:
        """End; a build under way may fail."""
