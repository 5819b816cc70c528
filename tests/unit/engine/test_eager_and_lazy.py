"""Eager and lazy agree: whatever lies in memory, in frozen memtables, in tables and in history, the answers are the model's.

Three stores get the same commits. One flushes after every commit, one never; the third freezes, flushes, keeps rows that were
read long ago, is opened again, is copied, at random. Blind puts are relative in two of them, and never in the model.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvserver.base.errors import KvError
from kvserver.base.options import TableOptions
from kvserver.base.paths import DataPaths
from kvserver.base.types import Version
from kvserver.commit import reading
from kvserver.commit.requests import (
    Batch,
    Committed,
    CompactHistory,
    CreateNamespace,
    Delete,
    DeleteSpan,
    DropNamespace,
    Found,
    Mutation,
    Put,
    PutRun,
    ReadRun,
    Request,
    RunDone,
)
from kvserver.engine import scan
from kvserver.engine.database import Database
from kvserver.storage import past
from kvserver.storage.ranges import EVERYTHING, KeySpan, prefix_span
from kvserver.storage.view import Pin
from support.memfs import MemoryFileSystem
from support.model import Expected, Model, Row
from support.stores import flush, open_store, run_settling, scan_all, settle

KEYS = [b"a", b"a\0", b"a\0\1", b"a\0\xff", b"aa", b"ab", b"b", b"b\0", b"\xff", b"\xff\xff"]
SPANS = [EVERYTHING, prefix_span(b"a"), prefix_span(b"\xff"), KeySpan(b"a\0", b"b"), KeySpan(b"aa", b""), KeySpan(b"", b"aa")]
STEPS = 45


def calm(db: Database) -> None:
    """Let the log and the reads of tables move, but no flush: what is frozen stays frozen."""
    while db.run_log_once() | db._beside.run_once():
        pass


class Store:
    """One of the stores, and what is done to it beside the commits."""

    def __init__(self, rng: random.Random, name: str) -> None:
        self.rng = rng
        self.name = name
        self.disk = MemoryFileSystem()
        buckets = rng.choice((1, 3, 7, 100))
        # (Nothing merges these tables by itself, so there is no bound to how many there are.)
        self.options = TableOptions(history_ms=0, history_revisions=0, bucket_revisions=buckets, max_level0_files=1000)
        self.lives = 0
        self.db = self.open()
        self.prepared: list[tuple[Request, Pin]] = []
        self.copies = 0

    def open(self) -> Database:
        self.lives += 1
        return open_store(self.disk, tables=self.options, seed=self.lives)

    def carry_out(self, request: Request, pin: Pin | None = None) -> object:
        """Return what a request comes to."""
        ticket = self.db.submit(request, lambda outcome: outcome, pin=pin)
        calm(self.db)
        assert self.db.failure is None, self.db.failure
        try:
            return ticket.answer()
        except KvError as error:
            return error

    def move(self, model: Model) -> None:
        """Do something that no reader may notice."""
        if self.name == "eager":
            flush(self.db)
            self.db.tick()
            settle(self.db)
        if self.name != "random":
            return
        match self.rng.randrange(14):
            case 0 | 1:
                flush(self.db)
            case 2 | 3 | 4 if self.db.state.view.active.size_bytes:
                self.db.flusher._freeze()
                calm(self.db)
            case 5:
                settle(self.db)
            case 6:
                self.db.tick()
                settle(self.db)
            case 7:
                self.prepared.clear()
                self.disk.kill()
                self.db = self.open()
            case 8:
                self._copy(model)

    def _copy(self, model: Model) -> None:
        """Make a checkpoint, open it, and compare it."""
        target = Path(f"/copies/{self.copies}")
        self.copies += 1
        revision = run_settling(self.db, self.db.checkpoint(target)).position.revision
        assert revision == model.revision
        copy = open_store(self.disk, tables=self.options, seed=999, paths=DataPaths(target))
        compare(copy, model, self.rng, 6)
        copy.close()

    def prepare(self, request: Request) -> None:
        """Read now what judging a request needs, to submit it at some other time."""
        ticket = self.db.reader.prepare([request])
        calm(self.db)
        self.prepared.append((request, ticket.answer()))


def as_row(version: Version | None) -> Row | None:
    return version and Row(version.value, version.create_revision, version.mod_revision, version.version)


def compare(db: Database, model: Model, rng: random.Random, times: int) -> None:
    """Compare gets, scans and histories at random readable revisions with the model."""
    newest, oldest = db.marks.visible, db.oldest_readable
    assert (newest, oldest) == (model.revision, model.oldest_readable(newest))
    assert {entry.name: entry.id for entry in db.namespaces()} == model.namespaces
    for _ in range(times):
        revision, namespace = rng.randint(oldest, newest), rng.choice(model.live_namespaces)
        rows = {name[1]: row for name, row in model.rows_at(revision).items() if name[0] == namespace}
        keys = rng.sample(KEYS, 4)
        ticket = db.read(namespace, keys, revision)
        calm(db)
        assert [as_row(version) for version in ticket.answer()] == [rows.get(key) for key in keys], (keys, revision)

        span, limit, reverse = rng.choice(SPANS), rng.choice((0, 0, 1, 2, 5)), rng.random() < 0.5
        held = [key for key in sorted(rows, reverse=reverse) if span.start <= key and (not span.end or key < span.end)]
        wanted = [(key, rows[key]) for key in (held[:limit] if limit else held)]
        found = scan_all(db, namespace, revision, span, calm, limit=limit, reverse=reverse)
        assert [(version.key, as_row(version)) for version in found] == wanted, (span, limit, reverse, revision)

        key, below, limit = rng.choice(KEYS), rng.choice((0, revision)), rng.choice((0, 1, 3))
        history = db.key_history(namespace, key, below, limit, 1 << 30)
        calm(db)
        done = [one for one in model.versions((namespace, key), oldest, newest) if not below or one[0] < below]
        kept = done[:limit] if limit else done
        answer = history.answer()
        assert [(entry.revision, as_row(entry.version)) for entry in answer.entries] == kept, (
            key,
            below,
            limit,
            oldest,
            newest,
            model.versions((namespace, key), 0, newest),
        )
        assert answer.more == (len(kept) < len(done))


def agrees(outcome: object, expected: Expected, model: Model) -> bool:
    """Say whether an outcome is what the model expects."""
    match outcome:
        case KvError():
            return outcome.code.name == expected.error
        case RunDone():
            return outcome == (expected.first_revision, expected.commits)
        case Committed():
            return (outcome.revision, outcome.deleted) == (expected.first_revision, expected.deleted)
        case Found():
            return tuple(map(as_row, outcome.versions)) == expected.found
    return False


class Requests:
    """Draws requests."""

    def __init__(self, rng: random.Random, model: Model) -> None:
        self.rng = rng
        self.model = model
        self.kinds: list[Callable[[int], Request]] = [
            lambda namespace: self.put(namespace, None),
            lambda namespace: self.put(namespace, None),
            lambda namespace: self.put(namespace, self.condition(namespace)),
            lambda namespace: self.put(namespace, self.condition(namespace)),
            self.judged,
            self.judged,
            lambda namespace: PutRun(namespace, rng.choices(KEYS, k=4), [self.value() for _ in range(4)]),
            self.batch,
            self.batch,
            lambda namespace: ReadRun(namespace, rng.sample(KEYS, 3)),
            self.of_the_store,
        ]

    def draw(self) -> Request:
        live = self.model.live_namespaces
        gone = self.rng.randrange(1, self.model.next_namespace_id)
        return self.rng.choice(self.kinds)(gone if self.rng.random() < 0.05 else self.rng.choice(live))

    def judged(self, namespace: int) -> Request:
        """Return a request that what exists decides about."""
        rng = self.rng
        match rng.randrange(4):
            case 0:
                return DeleteSpan(namespace, rng.choice(SPANS[1:]))
            case 1:
                return self.put(namespace, self.condition(namespace))
        return Delete(namespace, rng.choice(KEYS), rng.choice((None, None, self.condition(namespace))))

    def batch(self, namespace: int) -> Request:
        mutations: list[Mutation] = []
        for key in self.rng.sample(KEYS, self.rng.randrange(1, 5)):
            put = self.rng.random() < 0.6
            mutations.append(Put(namespace, key, self.value()) if put else Delete(namespace, key))
        return Batch(mutations)

    def of_the_store(self, _: int) -> Request:
        name = f"ns{self.rng.randrange(3)}"
        kinds = (CreateNamespace(name), CreateNamespace(name), DropNamespace(name))
        return self.rng.choice((*kinds, CompactHistory(max(1, self.model.revision - self.rng.randrange(25)))))

    def put(self, namespace: int, condition: int | None) -> Put:
        return Put(namespace, self.rng.choice(KEYS), self.value(), condition)

    def condition(self, namespace: int) -> int | None:
        row = self.rng.choice([None, *(row for (space, _), row in self.model.rows.items() if space == namespace)])
        return row.mod_revision if row else 0

    def value(self) -> bytes:
        return self.rng.randbytes(self.rng.choice((0, 1, 60)))


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make chunks and steps so small that ten keys are many."""
    monkeypatch.setattr(scan, "SCAN_CHUNK_KEYS", 3)
    monkeypatch.setattr(scan, "SCAN_CHUNK_BYTES", 150)
    monkeypatch.setattr(past, "HISTORY_STEP_ROWS", 3)
    monkeypatch.setattr(reading, "SPAN_STEP_ROWS", 2)
    yield


@pytest.mark.parametrize("seed", range(8))
async def test_all_stores_agree_with_the_model(seed: int) -> None:
    rng = random.Random(seed)
    model = Model()
    stores = [Store(rng, name) for name in ("eager", "never", "random", "random")]
    requests = Requests(rng, model)
    for _ in range(STEPS):
        for store in stores[2:]:  # what was prepared by one of them is submitted to all
            if rng.random() < 0.3:
                store.prepare(requests.judged(rng.choice(model.live_namespaces)))
        held = [store for store in stores[2:] if store.prepared]
        if held and rng.random() < 0.4:
            chosen = rng.choice(held)
            request, pin = chosen.prepared.pop(rng.randrange(len(chosen.prepared)))
        else:
            chosen, request, pin = stores[0], requests.draw(), None
        expected = model.apply(request)
        for store in stores:
            outcome = store.carry_out(request, pin if store is chosen else None)
            assert agrees(outcome, expected, model), (store.name, request, outcome, expected)
            store.move(model)
            compare(store.db, model, rng, 2)
    assert stores[0].db.state.view.unflushed_bytes == 0
    assert not stores[1].db.state.view.has_tables
