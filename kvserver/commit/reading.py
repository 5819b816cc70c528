"""Reads at a revision, and what is read before a write is judged: from memory at once, from the tables beside the event loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

from kvserver.base.errors import Code, KvError, RevisionError
from kvserver.base.limits import MAX_COMMIT_BYTES, MAX_COMMIT_MUTATIONS
from kvserver.base.types import WITHHELD, Version
from kvserver.commit.marks import Marks
from kvserver.commit.refusals import tables_failed, write_refused
from kvserver.commit.requests import DeleteSpan, Request, judged_keys, spans_of
from kvserver.commit.state import State
from kvserver.commit.ticket import Ticket, answered
from kvserver.storage.past import TableState, stored_at
from kvserver.storage.rows import Stored, data_prefix, data_span, key_of, version_of
from kvserver.storage.tables import TableReader
from kvserver.storage.view import PastRowNeeded, Pin, RowMissing, TableRows

Result = TypeVar("Result")

SPAN_STEP_ROWS = 4_000
"""Keys of a span read in one step, before its deletion is judged."""


class Ran(NamedTuple):
    """What a job on the tables came to, and which tables it saw."""

    generation: int
    flushed_revision: int
    result: object


class TableAccess(Protocol):
    """The tables, beside the event loop: jobs are done one after the other, and told in that order, on the loop."""

    def fetch(self, keys: list[bytes], done: Callable[[TableRows | Exception], None], heads_only: bool = False) -> None:
        """Read rows; what is asked for while others are read is read together.

        ``heads_only``: without their values. Else, once the values fill an answer, the rest is left out of the rows.
        """

    def run_job(self, job: Callable[[TableReader, TableState], Result], done: Callable[[Ran | Exception], None]) -> None:
        """Do something else with the tables."""


class _SpanRead:
    """How far the reading of one span is."""

    __slots__ = ("keys", "live", "pin", "rest", "span", "ticket")

    def __init__(self, ticket: Ticket[Pin], pin: Pin, span: DeleteSpan, rest: list[DeleteSpan]) -> None:
        self.ticket = ticket
        self.pin = pin
        self.span = span
        self.rest = rest
        """The spans that come after it."""
        self.keys: list[bytes] = []
        self.live = 0
        """Keys among them that memory does not know to be deleted."""


class Reader:
    """Reads keys, and prepares writes. Belongs to the event loop."""

    def __init__(self, state: State, marks: Marks, tables: TableAccess) -> None:
        self._state = state
        self._view = state.view
        self._marks = marks
        self._tables = tables

    def read(self, namespace: int, keys: Sequence[bytes], revision: int) -> Ticket[list[Version | None]]:
        """Return a ticket of the keys' versions in force at a revision that was given out; done, if memory knew them all.

        The answer raises RevisionError where the revision is given up meanwhile, KvError where the tables fail.
        """
        versions: list[Version | None] = [None] * len(keys)
        missing = self._fill(namespace, keys, revision, versions)
        if not missing:
            return answered(versions)
        ticket: Ticket[list[Version | None]] = Ticket(None, lambda outcome: outcome)
        prefix = data_prefix(namespace)

        def on_rows(rows: TableRows | Exception) -> None:
            if isinstance(rows, Exception):
                ticket.fail(tables_failed(rows))
                return
            try:
                past = self._fill_from_rows(namespace, keys, revision, versions, missing, rows)
            except (ValueError, KvError) as error:  # a row that does not decode
                ticket.fail(tables_failed(error))
                return
            if past:
                self._read_past(ticket, namespace, keys, revision, (versions, past))
            else:
                _answer(ticket, versions)

        self._tables.fetch([prefix + keys[place] for place in missing], on_rows)
        return ticket

    def _fill(self, namespace: int, keys: Sequence[bytes], revision: int, versions: list[Version | None]) -> list[int]:
        """Set the versions that memory knows; return the places of those for which a row is needed."""
        view = self._view
        nothing = view.nothing_read()
        layers = view.layers(namespace, nothing.generation)
        missing: list[int] = []
        make = Version._make
        for place, key in enumerate(keys):
            for chains in layers:
                chain = chains.get(key)
                if chain is not None:
                    break
            else:
                if view.has_tables:
                    missing.append(place)
                continue
            newest, value, create, number, _ = chain
            if newest <= revision and create >= 0:  # nothing below has a say in it; nearly all reads end here
                if value is not None:
                    versions[place] = make((key, value, create, newest, number))
                continue
            try:
                versions[place] = view.find(namespace, key, revision, nothing)
            except RowMissing:
                missing.append(place)
        return missing

    def _fill_from_rows(
        self,
        namespace: int,
        keys: Sequence[bytes],
        revision: int,
        versions: list[Version | None],
        places: list[int],
        rows: TableRows,
    ) -> list[int]:
        """Set the versions at these places, with the rows read; return the places of those that only history knows."""
        layers = self._view.layers(namespace, rows.generation)
        prefix = data_prefix(namespace)
        is_newest = revision >= rows.flushed_revision
        past: list[int] = []
        for place in places:
            key = keys[place]
            if prefix + key not in rows.rows:
                versions[place] = WITHHELD
                continue
            if is_newest and not any(key in chains for chains in layers):
                row = rows.rows[prefix + key]
                versions[place] = None if row is None else version_of(key, row)
                continue
            try:
                versions[place] = self._view.find(namespace, key, revision, rows)
            except PastRowNeeded:
                past.append(place)
        return past

    def _read_past(
        self,
        ticket: Ticket[list[Version | None]],
        namespace: int,
        keys: Sequence[bytes],
        revision: int,
        found: tuple[list[Version | None], list[int]],
    ) -> None:
        """Complete what was found with what only the tables' history knows."""
        versions, places = found

        def job(tables: TableReader, state: TableState) -> list[Stored | None]:
            return [stored_at(tables, namespace, keys[place], revision, state) for place in places]

        def on_result(ran: Ran | Exception) -> None:
            if isinstance(ran, Exception):
                ticket.fail(tables_failed(ran))
                return
            try:
                self.require_readable(namespace, revision)
            except KvError as error:
                ticket.fail(error)
                return
            stored: list[Stored | None] = ran.result  # type: ignore[assignment]
            for place, one in zip(places, stored, strict=True):
                versions[place] = one.of(keys[place]) if one is not None else None
            _answer(ticket, versions)

        self._tables.run_job(job, on_result)

    def require_readable(self, namespace: int, revision: int) -> None:
        """Raise KvError where a revision was given up, or a namespace dropped, while it was read."""
        oldest = self._state.oldest_readable(self._marks.visible)
        if revision < oldest:
            raise compacted(revision, oldest)
        if self._state.dropped:
            self._state.require_live(namespace, self._marks.visible)

    # -- before a write is judged ---------------------------------------------------------------------------------

    def needs_tables(self, request: Request) -> bool:
        """Say whether something must be read from the tables before the request can be judged."""
        if not self._view.has_tables:
            return False
        if spans_of(request):
            return True
        return bool(self._missing([request]))

    def prepare(self, requests: Sequence[Request]) -> Ticket[Pin]:
        """Return a ticket of what judging the requests needs from the tables, pinned until it is used."""
        spans = [span for request in requests for span in spans_of(request)] if self._view.has_tables else []
        missing = self._missing(requests) if self._view.has_tables else []
        until_read = self._view.pin()
        if not missing and not spans:
            return answered(until_read)
        ticket: Ticket[Pin] = Ticket(None, lambda outcome: outcome)

        def on_rows(rows: TableRows | Exception) -> None:
            if isinstance(rows, Exception):
                ticket.fail(write_refused(tables_failed(rows)))
                return
            # The other keys were found in the memtables that lay above the tables when this was asked for, so these are
            # what lies above the rows, also where a flush came in between: rows that it wrote say the same once more.
            pin = self._view.pin(rows._replace(generation=until_read.rows.generation))
            self._read_spans(ticket, pin, spans)

        self._tables.fetch(missing, on_rows, heads_only=True)
        return ticket

    def _missing(self, requests: Sequence[Request]) -> list[bytes]:
        """Return the keys of the rows without which the requests cannot be judged."""
        rows: dict[bytes, None] = {}
        bare = self._view.pin()
        for request in requests:
            for namespace, key in judged_keys(request):
                try:
                    self._view.newest(namespace, key, bare)
                except RowMissing as missing:
                    rows[missing.row_key] = None
        return list(rows)

    def _read_spans(self, ticket: Ticket[Pin], pin: Pin, spans: list[DeleteSpan]) -> None:
        """Read the tables' keys of the spans, one step after the other, then answer."""
        if spans:
            self._read_span(_SpanRead(ticket, pin, spans[0], spans[1:]), spans[0].span.start)
        else:
            _answer(ticket, pin)

    def _read_span(self, read: _SpanRead, start: bytes) -> None:
        first, behind = data_span(read.span.namespace, start, read.span.span.end)

        def job(tables: TableReader, _: TableState) -> list[bytes]:
            return [key_of(row) for row, _ in tables.rows(first, behind, SPAN_STEP_ROWS, MAX_COMMIT_BYTES)]

        self._tables.run_job(job, lambda ran: self._on_span_keys(read, ran))

    def _on_span_keys(self, read: _SpanRead, ran: Ran | Exception) -> None:
        if isinstance(ran, Exception):
            read.ticket.fail(write_refused(tables_failed(ran)))
            return
        step: list[bytes] = ran.result  # type: ignore[assignment]
        namespace, span = read.span.namespace, read.span.span
        read.keys.extend(step)
        read.live += sum(1 for key in step if not self._is_deleted(namespace, key))
        too_many = read.live > MAX_COMMIT_MUTATIONS
        if step and not too_many:
            self._read_span(read, step[-1] + b"\0")
            return
        read.pin.spans[namespace, span] = (read.keys, too_many)
        self._read_spans(read.ticket, read.pin, read.rest)

    def _is_deleted(self, namespace: int, key: bytes) -> bool:
        for memtable in self._view.memtables():
            chain = memtable.newest(namespace, key)
            if chain is not None:
                return chain[1] is None
        return False


def compacted(revision: int, oldest: int) -> RevisionError:
    """Return the answer to a read at a revision that history was given up of."""
    error = RevisionError(
        Code.COMPACTED,
        f"revision {revision} can be read no more: history was given up before revision {oldest}",
        f"read at revision {oldest} or later, or at the newest one by naming none",
    )
    error.details["oldest_readable_revision"] = str(oldest)
    return error


def _answer(ticket: Ticket[Result], outcome: Result) -> None:
    if not ticket.done:
        ticket.decide(outcome)
        ticket.complete()
