"""The versions of one key, from memory and from the tables, newest first."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import NamedTuple

from kvserver.base.types import Version
from kvserver.commit.reading import Ran, TableAccess
from kvserver.commit.refusals import tables_failed
from kvserver.commit.state import State
from kvserver.commit.ticket import Ticket
from kvserver.storage.past import KeyPast, TableState, versions_of
from kvserver.storage.rows import data_key, encode_version
from kvserver.storage.tables import TableReader
from kvserver.storage.view import TableRows

MOST_ENTRIES = 10_000
"""Entries of one answer where no limit is given."""

ENTRY_BYTES = 32
"""What an entry costs in an answer beside its key and value."""


class HistoryEntry(NamedTuple):
    """What one commit did to a key; no version: it deleted the key."""

    revision: int
    version: Version | None


class HistoryFound(NamedTuple):
    """Versions of a key, newest first."""

    entries: list[HistoryEntry]
    more: bool
    """There are older ones."""


class HistoryBounds(NamedTuple):
    """Which entries are wanted."""

    below: int
    """Only of commits below this revision."""
    limit: int
    """At most so many; 0: no such bound."""
    max_bytes: int


def read_history(
    state: State, tables: TableAccess, namespace: int, key: bytes, oldest: Callable[[], int], bounds: HistoryBounds
) -> Ticket[HistoryFound]:
    """Return a ticket of what was done to a key, back to what was in force at the oldest readable revision.

    A key may have any number of versions: no more of them are looked at than fit the bounds.
    """
    ticket: Ticket[HistoryFound] = Ticket(None, lambda outcome: outcome)
    view = state.view

    def first_unseen() -> int:
        """Whether a version was in force at the oldest readable revision is told by what was done up to there."""
        return max(bounds.below, oldest() + 1)

    def finish(past: KeyPast, rows: TableRows) -> None:
        ours = view.versions(namespace, key, first_unseen(), rows)
        theirs = ((revision, stored.of(key) if stored is not None else None) for revision, stored in past.entries)
        ticket.decide(_within(itertools.chain(ours, theirs), oldest(), bounds, past.more))
        ticket.complete()

    if not view.has_tables:
        finish(KeyPast(None, [], more=False), view.nothing_read())
        return ticket
    window = (oldest(), first_unseen())

    def job(reader: TableReader, table_state: TableState) -> KeyPast:
        most = (bounds.limit or MOST_ENTRIES, bounds.max_bytes)
        return versions_of(reader, namespace, key, window, table_state, most)

    def on_past(ran: Ran | Exception) -> None:
        if isinstance(ran, Exception):
            ticket.fail(tables_failed(ran))
            return
        past: KeyPast = ran.result  # type: ignore[assignment]
        newest = past.newest
        row = None
        if newest is not None:
            row = encode_version(newest.mod_revision, newest.create_revision, newest.version, newest.value)
        finish(past, TableRows(ran.generation, ran.flushed_revision, {data_key(namespace, key): row}))

    tables.run_job(job, on_past)
    return ticket


def _within(
    versions: Iterable[tuple[int, Version | None]], oldest: int, bounds: HistoryBounds, more_behind: bool
) -> HistoryFound:
    """Return the entries that fit; what was superseded before ``oldest`` is forgotten."""
    kept: list[HistoryEntry] = []
    size = 0
    for revision, version in versions:
        if revision <= oldest and version is None:
            return HistoryFound(kept, more=False)  # nothing was in force there
        if revision >= bounds.below:
            if revision <= oldest:
                return HistoryFound(kept, more=False)
            continue
        size += ENTRY_BYTES + (0 if version is None else len(version.key) + len(version.value))
        if kept and (len(kept) >= (bounds.limit or MOST_ENTRIES) or size > bounds.max_bytes):
            return HistoryFound(kept, more=True)
        kept.append(HistoryEntry(revision, version))
        if revision <= oldest:
            return HistoryFound(kept, more=False)
    return HistoryFound(kept, more_behind)
