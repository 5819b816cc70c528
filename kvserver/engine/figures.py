"""What the parts of the database count, as values for status and metrics."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple


@dataclasses.dataclass(frozen=True, slots=True)
class LogFigures:
    """What the log looks like at the moment."""

    segments: int
    total_bytes: int
    groups: int
    syncs: int
    bytes_written: int
    chain: bytes
    space_error: str


class TableReads(NamedTuple):
    """How much was read from the tables by key."""

    rows: int
    batches: int
    """Multi-gets that read them."""
