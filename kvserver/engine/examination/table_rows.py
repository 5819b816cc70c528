"""Reads every row of the tables and judges each by itself."""

from __future__ import annotations

import dataclasses
import struct
from collections import Counter
from collections.abc import Callable

from kvserver.base.limits import MIB
from kvserver.storage import rows
from kvserver.storage.rows import Flushed, Statistics
from kvserver.storage.tables import Row, TableReader

_CHUNK_ROWS = 5_000


@dataclasses.dataclass(slots=True)
class RowCounts:
    """What was read."""

    rows: int = 0
    namespaces: dict[int, Statistics] = dataclasses.field(default_factory=dict)
    """What the rows of each namespace hold, counted."""
    offences: Counter[str] = dataclasses.field(default_factory=Counter)
    """What is wrong with rows, and with how many of them."""


def read_every_row(reader: TableReader, flushed: Flushed, progress: Callable[[int, int], None]) -> RowCounts:
    """Read all rows in order, a chunk at a time. ``progress(rows, bytes)``. Raises Corruption, OSError."""
    counts = RowCounts()
    data: dict[int, list[int]] = {}
    start, size = b"", 0
    while chunk := reader.rows(start, b"", _CHUNK_ROWS, MIB):
        for key, value in chunk:
            size += len(key) + len(value)
            offence = _offence(key, value, flushed)
            if offence:
                counts.offences[offence] += 1
            elif key[:1] == rows.DATA:
                figures = data.setdefault(int.from_bytes(key[1:5], "big"), [0, 0, 0])
                figures[0] += 1
                figures[1] += len(key) - 5
                figures[2] += len(value) - rows.VERSION_LENGTH
        counts.rows += len(chunk)
        progress(counts.rows, size)
        start = chunk[-1][0] + b"\0"
    counts.namespaces = {namespace: Statistics(*figures) for namespace, figures in data.items()}
    return counts


def _offence(key: bytes, value: bytes, flushed: Flushed) -> str:
    """Return what is wrong with a row; empty where nothing is."""
    try:
        return _judge((key, value), flushed)
    except (ValueError, struct.error, IndexError):
        return f"a row below {key[:1]!r} does not parse"


def _judge(row: Row, flushed: Flushed) -> str:
    key, value = row
    last = flushed.position.revision
    match key[:1]:
        case rows.DATA:
            stored = rows.decode_version(value)
            if len(key) < 5 or not stored.create_revision <= stored.mod_revision or stored.version < 1:
                return "a version contradicts itself"
            return "a version is newer than the tables" if stored.mod_revision > last else ""
        case rows.HISTORY:
            bucket, _, _, superseded_at = rows.parse_history_key(key)
            if bucket != superseded_at // flushed.bucket_revisions:
                return "a past version lies in the wrong bucket"
            if rows.decode_version(value).mod_revision >= superseded_at:
                return "a past version ends before it begins"
            return "a past version ends behind the tables" if superseded_at > last else ""
        case rows.STATISTICS:
            rows.decode_statistics(value)
            return ""
        case rows.TIMES:
            return "a time is of a revision behind the tables" if rows.decode_time(key, value)[0] > last else ""
        case rows.META:
            return ""
        case other:
            return f"rows below {other!r} are not known to this version"
