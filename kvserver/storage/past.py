"""What the tables hold of one revision: the newest rows, and where those are too new, the rows of history.

A key has at most one row that was in force at a revision: its newest one, if that was written at or before it, else the
history row with the lowest ``superseded_at`` above it, if that was. All of it blocks; it runs beside the event loop.
"""

from __future__ import annotations

from typing import NamedTuple

from kvserver.storage.rows import (
    Stored,
    bucket_prefix,
    data_span,
    decode_version,
    escape,
    history_key,
    history_prefix,
    key_of,
    parse_history_key,
)
from kvserver.storage.tables import TableReader

HISTORY_STEP_ROWS = 4_000
"""Rows of history looked at in one step."""

HISTORY_STEP_BYTES = 1 << 20

HISTORY_PART_ROWS = 20_000
"""Rows of history looked at for one part of a scan, about: some ten milliseconds for whoever reads behind it."""

HISTORY_PART_BYTES = 4 << 20


class TableState(NamedTuple):
    """How far the tables are, and how their history is divided."""

    flushed_revision: int
    bucket_revisions: int

    def buckets(self, revision: int) -> range:
        """Return the buckets that can hold what was superseded after a revision."""
        return range((revision + 1) // self.bucket_revisions, self.flushed_revision // self.bucket_revisions + 1)


class SpanChunk(NamedTuple):
    """Part of what a span of keys held at a revision."""

    found: dict[bytes, Stored]
    """By key, in no order."""
    end: bytes | None
    """Where the part ends: the keys below it (in reverse: from it on) are all here; None: the whole span is."""


def stored_at(tables: TableReader, namespace: int, key: bytes, revision: int, state: TableState) -> Stored | None:
    """Return the version of a key that was in force at a revision that the tables hold; None where it did not exist."""
    (row,) = tables.get_many([data_span(namespace, key, b"")[0]])
    if row is not None:
        newest = decode_version(row)
        if newest.mod_revision <= revision:
            return newest
    for bucket in state.buckets(revision):
        stored = _past_in_bucket(tables, (bucket, namespace), key, revision)
        if stored is not None:
            return stored
    return None


class KeyPast(NamedTuple):
    """What was done to a key, as far as the tables keep it."""

    newest: Stored | None
    """The row of the key's newest version; None where it is deleted, or never was."""
    entries: list[tuple[int, Stored | None]]
    """Newest first: revision, and None for a deletion. The last one may be of before the oldest revision: in force there."""
    more: bool
    """There are older ones."""


def versions_of(
    tables: TableReader, namespace: int, key: bytes, window: tuple[int, int], state: TableState, bounds: tuple[int, int]
) -> KeyPast:
    """Return what was done to a key within a window (oldest readable revision, first revision no longer wanted).

    ``bounds``: entries and bytes of values, about.
    """
    oldest, below = window[0], min(window[1], state.flushed_revision + 1)
    newest = stored_at(tables, namespace, key, state.flushed_revision, state)
    at_top = newest if newest is not None and newest.mod_revision < below else None
    if at_top is None and below <= state.flushed_revision:
        at_top = stored_at(tables, namespace, key, below - 1, state)
    entries: list[tuple[int, Stored | None]] = [] if at_top is None else [(at_top.mod_revision, at_top)]
    size = 0 if at_top is None else len(at_top.value)
    above = 0 if at_top is None else at_top.mod_revision
    for bucket in reversed(TableState(below - 1, state.bucket_revisions).buckets(oldest)):
        at = history_key(bucket, namespace, key, oldest + 1)
        behind = history_key(bucket, namespace, key, below)
        while rows := tables.rows(at, behind, HISTORY_STEP_ROWS, HISTORY_STEP_BYTES, reverse=True):
            for row_key, row in rows:
                superseded_at = int.from_bytes(row_key[-8:], "big")
                stored = decode_version(row)
                if superseded_at != above:
                    entries.append((superseded_at, None))
                entries.append((stored.mod_revision, stored))
                above = stored.mod_revision
                size += len(stored.value)
                if len(entries) > bounds[0] or size > bounds[1]:
                    return KeyPast(newest, entries, more=True)
            behind = rows[-1][0]
    return KeyPast(newest, entries, more=False)


def span_at(
    tables: TableReader,
    namespace: int,
    span: tuple[bytes, bytes],
    revision: int,
    state: TableState,
    bounds: tuple[int, int],
    reverse: bool = False,
) -> SpanChunk:
    """Return part of what the keys of a span (start, end) held at a revision; ``bounds``: rows and bytes of the part, about."""
    limit, max_bytes = max(bounds[0], 2), bounds[1]  # a part that ends before its second key may be empty
    rows = tables.rows(*data_span(namespace, *span), limit, max_bytes, reverse)
    cuts = [_cut(rows[-1][0], reverse)] if rows and _may_be_cut(rows, limit, max_bytes) else []
    found: dict[bytes, Stored] = {}
    for row_key, row in rows:
        stored = decode_version(row)
        if stored.mod_revision <= revision:
            found[key_of(row_key)] = stored
    if revision < state.flushed_revision:
        budget = _Budget()
        for bucket in state.buckets(revision):
            cut = _add_past(tables, (bucket, namespace), _part(span, cuts, reverse), revision, budget, found, reverse)
            if cut is not None:
                cuts.append(cut)
    if not cuts:
        return SpanChunk(found, None)
    start, end = _part(span, cuts, reverse)
    kept = {key: stored for key, stored in found.items() if start <= key and (not end or key < end)}
    return SpanChunk(kept, start if reverse else end)


def _part(span: tuple[bytes, bytes], cuts: list[bytes], reverse: bool) -> tuple[bytes, bytes]:
    """Return the part of a span that lies within every cut made so far."""
    if not cuts:
        return span
    return (max(cuts), span[1]) if reverse else (span[0], min(cuts))


def _may_be_cut(rows: list[tuple[bytes, bytes]], limit: int, max_bytes: int) -> bool:
    if len(rows) >= limit:
        return True
    return bool(max_bytes) and sum(len(key) + len(value) for key, value in rows) >= max_bytes


def _cut(last_row_key: bytes, reverse: bool) -> bytes:
    """Return the bound of the keys that were seen when the row was the last one."""
    last = key_of(last_row_key)
    return last if reverse else last + b"\0"


class _Budget:
    """What one part of a span may look at in history, over all its buckets."""

    def __init__(self) -> None:
        self.rows = HISTORY_PART_ROWS
        self.size = HISTORY_PART_BYTES

    def spend(self, rows: list[tuple[bytes, bytes]]) -> bool:
        """Take rows off; say whether there is nothing left."""
        self.rows -= len(rows)
        self.size -= sum(len(row) for _, row in rows)
        return self.rows <= 0 or self.size <= 0


def _add_past(
    tables: TableReader,
    place: tuple[int, int],
    part: tuple[bytes, bytes],
    revision: int,
    budget: _Budget,
    found: dict[bytes, Stored],
    reverse: bool,
) -> bytes | None:
    """Add the keys of a part of a span whose version at the revision lies in a bucket's history (place: bucket, namespace).

    Returns where it stopped, because the budget was spent: the part ends there. None where it saw all.
    """
    prefix = history_prefix(*place)
    at = prefix + _escaped_bound(part[0])
    behind = prefix + _escaped_bound(part[1]) if part[1] else _behind(*place)
    while rows := tables.rows(at, behind, HISTORY_STEP_ROWS, HISTORY_STEP_BYTES, reverse=reverse):
        key = b""
        for row_key, row in rows:
            _, _, key, superseded_at = parse_history_key(row_key)
            if superseded_at > revision:
                stored = decode_version(row)
                if stored.mod_revision <= revision:
                    found[key] = stored
        # The last key may have any number of rows more. At most one of them is of the revision: find it, step over the others.
        if key not in found:
            stored_there = _past_in_bucket(tables, place, key, revision)
            if stored_there is not None:
                found[key] = stored_there
        if reverse:
            behind = prefix + escape(key)
        else:
            at = prefix + escape(key) + b"\xff" * 9
        if budget.spend(rows):
            return key if reverse else key + b"\0"
    return None


def _past_in_bucket(tables: TableReader, place: tuple[int, int], key: bytes, revision: int) -> Stored | None:
    """Return the version of a key in force at a revision, if a row of this bucket holds it."""
    bucket, namespace = place
    first = history_key(bucket, namespace, key, revision + 1)
    for _, row in tables.rows(first, history_prefix(bucket, namespace) + escape(key) + b"\xff" * 9, limit=1):
        stored = decode_version(row)
        return stored if stored.mod_revision <= revision else None
    return None


def _escaped_bound(key: bytes) -> bytes:
    """Return where the history of a key, and of those behind it, begins."""
    return key.replace(b"\0", b"\0\xff")


def _behind(bucket: int, namespace: int) -> bytes:
    return history_prefix(bucket, namespace + 1) if namespace < 0xFFFF_FFFF else bucket_prefix(bucket + 1)
