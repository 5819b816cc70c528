"""The tables beside the event loop: one thread reads them for everybody and takes flushed tables in.

That it is one thread, and that it tells the loop of its jobs in the order in which it did them, is what makes readers right:
rows read before an ingest are told before the loop hears of it, while the flushed memtable still lies above them; rows read
after it are told after the loop has let the memtable go. (Rows that are kept longer carry their generation: ``storage/view.py``.)

Reads that arrive while others are under way are done together, as one multi-get, which lets the interpreter's lock go; sorted,
because a thousand sorted keys cost half of what they do in random order. Checkpoints are made here too: between two ingests.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TypeVar

from kvserver.base.limits import FOUND_BYTES, MIB
from kvserver.commit.reading import Ran
from kvserver.engine.worker import Job, Post, Worker
from kvserver.storage.past import TableState
from kvserver.storage.rows import VERSION_LENGTH
from kvserver.storage.tables import TableReader, Tables
from kvserver.storage.view import TableRows

Result = TypeVar("Result")

MOST_KEYS = 4_096
"""Keys read for several callers at once, about: those behind them wait some milliseconds."""

FIRST_KEYS = 64
"""Keys of the first multi-get of several: rows may be of 1 MiB each, and nobody knows before."""

PART_BYTES = 4 * MIB
"""What one multi-get ought to bring; how many keys that is, is judged by the rows before it."""

TOGETHER_BYTES = 16 * MIB
"""What several callers' rows, read as one, may come to; above it each is read alone, and bounded by an answer."""

SORT_FROM = 32
"""Fewer keys than this are not worth sorting."""

TELL_KEYS = 2_000
"""Keys whose readers are told in one turn of the event loop, about."""


class _Fetch:
    """Rows to be read for one caller; called like any work, it reads its own."""

    __slots__ = ("done", "heads_only", "keys")

    def __init__(self, keys: list[bytes], heads_only: bool, done: Callable[[TableRows | Exception], None]) -> None:
        self.keys = keys
        self.heads_only = heads_only
        self.done = done

    def __call__(self) -> None:
        """Never called: fetches are gathered."""
        raise AssertionError("fetches are gathered")


class TablesBeside(Worker):
    """The thread ``tables``."""

    def __init__(self, tables: Tables, state: TableState, post: Post) -> None:
        super().__init__("tables", post)
        self._tables = tables
        self._state = state
        self._generation = 0
        self._in_hand: list[_Fetch] = []
        self.reads = 0
        """Rows read."""
        self.batches = 0
        """Multi-gets that read them."""

    def fetch(self, keys: list[bytes], done: Callable[[TableRows | Exception], None], heads_only: bool = False) -> None:
        """Read rows; ``done`` gets them on the event loop, or the error.

        ``heads_only``: without their values. Else, once the values fill an answer, the rest is left out of the rows.
        """
        self._give(Job(_Fetch(keys, heads_only, done), done))

    def run_job(self, job: Callable[[TableReader, TableState], Result], done: Callable[[Ran | Exception], None]) -> None:
        """Do something else with the tables."""

        def work() -> Ran:
            return Ran(self._generation, self._state.flushed_revision, job(self._tables, self._state))

        self.run(work, done)

    def ingest(self, take_in: Callable[[Tables], None], flushed_revision: int, done: Callable[[Exception | None], None]) -> None:
        """Take a flushed table in: what is read from then on is of the next generation."""

        def work() -> None:
            take_in(self._tables)
            self._generation += 1
            self._state = self._state._replace(flushed_revision=flushed_revision)

        self.run(work, done)

    def _do(self, job: Job) -> None:
        if not isinstance(job.work, _Fetch):
            super()._do(job)
            return
        fetches = self._gather(job.work)
        self._tell(fetches, self._read_together(fetches) or [self._read_alone(fetch) for fetch in fetches])

    def _panicked(self, job: Job, error: Exception) -> None:
        self._tell([*self._in_hand], [error] * len(self._in_hand))
        if not isinstance(job.work, _Fetch):
            super()._panicked(job, error)

    def _gather(self, first: _Fetch) -> list[_Fetch]:
        """Return a fetch, and those behind it up to the next job of another kind."""
        fetches = self._in_hand = [first]
        keys = len(first.keys)
        while keys < MOST_KEYS:
            job = self._next(wait=False)
            if job is None or not isinstance(job.work, _Fetch):
                self._held = job
                break
            fetches.append(job.work)
            keys += len(job.work.keys)
        return fetches

    def _read_together(self, fetches: list[_Fetch]) -> list[TableRows | Exception]:
        """Return the rows of several fetches, read as one; nothing where that is too much, or fails: each is then read alone.

        Alone, because a row that is damaged, or large, is the business of those who asked for it and of nobody else.
        """
        if len(fetches) == 1:
            return []
        try:
            rows = self._rows({key for fetch in fetches for key in fetch.keys}, TOGETHER_BYTES, heads_only=False)
        except Exception:  # whoever asked for what fails hears of it alone
            return []
        told = TableRows(self._generation, self._state.flushed_revision, rows)
        return [told] * len(fetches) if all(key in rows for fetch in fetches for key in fetch.keys) else []

    def _read_alone(self, fetch: _Fetch) -> TableRows | Exception:
        """Return the rows of one fetch, and no more than fits an answer; or why they cannot be read."""
        try:
            rows = self._rows(fetch.keys, FOUND_BYTES, fetch.heads_only)
        except Exception as error:
            return error
        return TableRows(self._generation, self._state.flushed_revision, rows)

    def _rows(self, asked: Collection[bytes], most_bytes: int, heads_only: bool) -> dict[bytes, bytes | None]:
        """Return the rows of keys, without those behind ``most_bytes`` of them, by multi-gets that each bring a bounded part."""
        keys = list(asked) if len(asked) < SORT_FROM else sorted(set(asked))
        rows: dict[bytes, bytes | None] = {}
        size = begin = 0
        at_once = FIRST_KEYS
        while begin < len(keys) and size <= most_bytes:
            part = keys[begin : begin + at_once]
            found = self._tables.get_many(part)
            brought = sum(map(len, filter(None, found)))
            if heads_only:
                found = [row and row[:VERSION_LENGTH] for row in found]
            else:
                size += brought
            rows.update(zip(part, found, strict=True))
            begin += len(part)
            at_once = max(1, min(2 * at_once, PART_BYTES * len(part) // (1 + brought)))
            self.batches += 1
        self.reads += len(rows)
        return rows

    def _tell(self, fetches: list[_Fetch], results: Sequence[TableRows | Exception]) -> None:
        """Tell each caller of its rows, a part of them in each turn of the event loop."""
        self._in_hand = []
        begin = keys = 0
        for end, fetch in enumerate(fetches, 1):
            keys += len(fetch.keys)
            if keys >= TELL_KEYS or end == len(fetches):
                self._post(partial(_tell_each, fetches[begin:end], results[begin:end]))
                begin, keys = end, 0


def _tell_each(fetches: Sequence[_Fetch], results: Sequence[TableRows | Exception]) -> None:
    first: Exception | None = None
    for fetch, result in zip(fetches, results, strict=True):  # one callback that raises keeps nobody else's from being called
        try:
            fetch.done(result)
        except Exception as error:
            first = first or error
    if first is not None:
        raise first
