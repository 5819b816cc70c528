"""A store under a random workload on a disk that will fail, and the judge of what is there afterwards.

    run = Run(disk, seed)          # opens the store
    run.work(steps)                # submits, moves log and tables, reads; notes what was acknowledged and what was shown
    ...                            # the process dies, the power fails
    judge(disk_afterwards, run)    # opens again: kept, a prefix, nothing never written, nothing shown is lost

The store runs without threads: one turn of the log or of the tables at a time, so that every run repeats from its seed. Its
memtables are small, so that it flushes, gives up history, drops namespaces, removes segments and makes checkpoints all the
time. No deletion of spans: each asks for more room than these small segments have.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Collection
from pathlib import Path
from typing import Any

from kvserver.base.environment import Environment
from kvserver.base.errors import Code, Corruption, KvError, OpenRefused
from kvserver.base.events import Event
from kvserver.base.fs import FileSystem
from kvserver.base.options import EngineOptions, PipelineOptions, TableOptions, WalOptions
from kvserver.base.types import DEFAULT_NAMESPACE, Version
from kvserver.commit.pipeline import AnyTicket
from kvserver.commit.requests import (
    Batch,
    Committed,
    CompactHistory,
    CreateNamespace,
    Delete,
    DropNamespace,
    Found,
    Mutation,
    Put,
    PutRun,
    ReadRun,
    Request,
    RunDone,
)
from kvserver.commit.ticket import Ticket
from kvserver.engine.database import Database
from kvserver.engine.worker import Post
from kvserver.replication.local_register import LocalRegister
from support.clocks import ManualClock
from support.model import Expected, Model, Name, Row
from support.stores import TWIN, LoopTurns, run_settling, scan_all, settle

DATA_DIR = Path("/data")
SMALL = WalOptions(
    segment_bytes=16 * 1024,
    max_group_bytes=2 * 1024,
    max_frame_bytes=4 * 1024,
    ahead_bytes=12 * 1024,
    fill_step_bytes=4 * 1024,
    seal_age_ms=0,
)
LITTLE = EngineOptions(
    SMALL,
    PipelineOptions(memory_limit_bytes=16 * 1024),
    TableOptions(memtable_bytes=6 * 1024, memtable_keys=40, history_ms=0, history_revisions=40, bucket_revisions=8),
)
KEYS = [b"key-%02d" % number for number in range(12)]


def open_store(
    fs: FileSystem,
    seed: int = 0,
    wal: WalOptions = SMALL,
    listener: Any = None,
    data_dir: Path = DATA_DIR,
    post: Post = lambda callback: callback(),
) -> Database:
    """Open the store of a campaign; nothing in it moves by itself."""
    env = Environment(fs, ManualClock(), random.Random(seed).randbytes)
    return Database.open(
        data_dir,
        lambda env, paths: LocalRegister(env.fs, paths),
        "local",
        post,
        TWIN,
        options=dataclasses.replace(LITTLE, wal=wal),
        env=env,
        listener=listener or (lambda event: None),
        threads=False,
    )


class Workload:
    """Draws requests that fit a model, most of them such that something comes of them."""

    def __init__(self, rng: random.Random, model: Model) -> None:
        self._rng = rng
        self._model = model

    def request(self) -> Request:
        """Return the next request."""
        rng = self._rng
        kind = rng.randrange(12)
        namespace, key = self.namespace(), rng.choice(KEYS)
        if kind < 3:
            keys = [rng.choice(KEYS) for _ in range(rng.randrange(1, 5))]
            return PutRun(namespace, keys, [self._value() for _ in keys])
        if kind < 5:
            return Put(namespace, key, self._value(), self._condition(namespace, key))
        if kind < 7:
            return Delete(namespace, key, self._condition(namespace, key))
        if kind == 7:
            return ReadRun(namespace, rng.sample(KEYS, 3))
        if kind < 10:
            mutations: list[Mutation] = []
            for name in rng.sample(KEYS, rng.randrange(1, 5)):
                put = rng.random() < 0.6
                mutations.append(Put(namespace, name, self._value()) if put else Delete(namespace, name))
            return Batch(mutations)
        return self._of_the_store()

    def namespace(self) -> int:
        """Return a namespace that exists, or one that was dropped."""
        if self._rng.random() < 0.7:
            return DEFAULT_NAMESPACE
        gone = [self._rng.randrange(DEFAULT_NAMESPACE, self._model.next_namespace_id)] if self._rng.random() < 0.1 else []
        return self._rng.choice(gone or self._model.live_namespaces)

    def _of_the_store(self) -> Request:
        rng = self._rng
        kind = rng.randrange(5)
        if kind < 3:
            return CreateNamespace(f"ns{rng.randrange(4)}")
        if kind == 3:
            return DropNamespace(f"ns{rng.randrange(4)}")
        return CompactHistory(max(1, self._model.revision - rng.randrange(30)))

    def _condition(self, namespace: int, key: bytes) -> int | None:
        if self._rng.random() < 0.5:
            return None
        row = self._model.rows.get((namespace, key))
        return (row.mod_revision if row else 0) if self._rng.random() < 0.7 else self._rng.randrange(3)

    def _value(self) -> bytes:
        return self._rng.randbytes(self._rng.choice((0, 3, 40, 300, 900)))


class Run:
    """One life of the store, and what its users were told."""

    def __init__(self, fs: FileSystem, seed: int, wal: WalOptions = SMALL) -> None:
        self.rng = random.Random(seed)
        self.model = Model()
        self.acknowledged = 1
        """The newest revision that an answer without MEMORY named or depended on."""
        self.shown = 1
        """The newest revision that a reader could learn of."""
        self.diverged = False
        """The store refused what the model carried out: the model ends there, the store may know more."""
        self.events: list[Event] = []
        self.checkpoints: dict[Path, int] = {}
        """Those that were made, with their revisions."""
        self.begun: list[Path] = []
        """Where checkpoints were begun."""
        self._pending: list[tuple[AnyTicket, Request, bool]] = []
        self._expected: dict[AnyTicket, Expected] = {}
        self._reads: list[tuple[Ticket[list[Version | None]], int, int]] = []
        self.loop = LoopTurns()
        self.db = open_store(fs, seed, wal, self.events.append, post=self.loop)
        self.workload = Workload(self.rng, self.model)
        self._submit_ticket = self.db.pipeline.submit_ticket
        self.db.pipeline.submit_ticket = self._on_submitted  # type: ignore[method-assign]

    def _on_submitted(self, ticket: AnyTicket) -> AnyTicket:
        """Let the model carry out what the store does, in its order: also what it asks of itself, or had to prepare."""
        if not self.diverged:
            self._expected[ticket] = self.model.apply(ticket.request)
        return self._submit_ticket(ticket)

    def work(self, steps: int) -> None:
        """Submit, let log and tables move, read, over and over; then let everything end well."""
        rng = self.rng
        for step in range(steps):
            for _ in range(rng.randrange(1, 5)):
                request = self.workload.request()
                memory = rng.random() < 0.1 and not isinstance(request, ReadRun)
                self._pending.append((self.db.submit(request, lambda outcome: outcome, memory), request, memory))
            if rng.random() < 0.8:
                self.db.run_log_once()
            for _ in range(rng.randrange(4)):
                self.db.run_tables_once()
                self.loop.run(rng.randrange(4))
            if rng.random() < 0.7:
                self.loop.run()
            self._look_after()
            if 0 < step == steps // 2:
                self.checkpoint()
            self._look()
        settle(self.db)
        self._look()
        settle(self.db)
        self._look_at_reads()
        assert not (self._pending or self._reads) or self.diverged or self.db.failure is not None, "somebody waits for ever"

    def _look_after(self) -> None:
        """Do now and then what time or an operator would do."""
        rng = self.rng
        if rng.random() < 0.3:
            self.db.tick()
        if rng.random() < 0.1:
            self.db.flush()
        if rng.random() < 0.06:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Make a checkpoint."""
        target = Path(f"/copies/{len(self.begun)}")
        self.begun.append(target)
        done = run_settling(self.db, self.db.checkpoint(target))
        self.checkpoints[target] = done.position.revision

    def _look(self) -> None:
        """Take the answers that have come, compare them with the model, and read like any other user."""
        self.db.marks.check()
        still: list[tuple[AnyTicket, Request, bool]] = []
        for ticket, request, memory in self._pending:
            if ticket.done:
                self._compare(ticket, request, memory)
            else:
                still.append((ticket, request, memory))
        self._pending = still
        visible = self.db.marks.visible
        self.shown = max(self.shown, visible)
        for at in {visible, self.rng.randint(self.db.oldest_readable, visible)}:
            namespace = self.rng.choice([entry.id for entry in self.db.namespaces()])
            self._reads.append((self.db.read(namespace, KEYS, at), namespace, at))
        self._look_at_reads()

    def _look_at_reads(self) -> None:
        """Compare what reads found that had to wait for the tables."""
        under_way = []
        for ticket, namespace, revision in self._reads:
            if not ticket.done:
                under_way.append((ticket, namespace, revision))
                continue
            try:
                found = ticket.answer()
            except KvError as error:
                assert error.code in (Code.COMPACTED, Code.UNKNOWN_NAMESPACE), error
                gone = error.code is Code.COMPACTED and revision < self.db.oldest_readable
                assert gone or namespace not in [entry.id for entry in self.db.namespaces()], (error, namespace, revision)
                continue
            compare_rows(found, namespace, revision, self.model)
        self._reads = under_way

    def _compare(self, ticket: AnyTicket, request: Request, memory: bool) -> None:
        expected = self._expected.pop(ticket)
        try:
            outcome = ticket.answer()
        except KvError as error:
            assert error.code.name == expected.error, (request, error, expected)
            self.acknowledged = max(self.acknowledged, error.depends_on)
            assert error.depends_on <= self.db.marks.visible, "a refusal was told before what it shows is visible"
            return
        assert not expected.error, (request, outcome, expected)
        if isinstance(outcome, RunDone):
            assert (outcome.first_revision, outcome.commits) == (expected.first_revision, expected.commits)
            told = outcome.first_revision + outcome.commits - 1
        elif isinstance(outcome, Found):
            found = tuple(v and (v.value, v.create_revision, v.mod_revision, v.version) for v in outcome.versions)
            assert found == expected.found, (request, outcome, expected)
            told = outcome.depends_on
        else:
            assert isinstance(outcome, Committed)
            assert (outcome.revision, outcome.deleted) == (expected.first_revision, expected.deleted), (request, outcome)
            told = outcome.depends_on
        if not memory:
            self.acknowledged = max(self.acknowledged, told)
            assert told <= self.db.marks.visible, "an answer was told before what it shows is visible"


def compare_rows(found: list[Version | None], namespace: int, revision: int, model: Model) -> None:
    """Compare what a reader at the revision sees of all keys with the model's rows there."""
    rows = model.rows_at(revision)
    for key, version in zip(KEYS, found, strict=True):
        name: Name = (namespace, key)
        seen = version and Row(version.value, version.create_revision, version.mod_revision, version.version)
        assert seen == rows.get(name), f"{name} at revision {revision}: {seen} instead of {rows.get(name)}"


def compare_store(db: Database, revision: int, model: Model) -> None:
    """Compare what a store holds at a revision with the model, key by key."""
    for entry in db.namespaces():
        ticket = db.read(entry.id, KEYS, revision)
        settle(db)
        compare_rows(ticket.answer(), entry.id, revision, model)


def compare_past(db: Database, model: Model, key: bytes) -> None:
    """Compare a scan at the oldest readable revision, and the history of a key, with the model."""
    oldest, newest = db.oldest_readable, db.marks.visible
    rows = model.rows_at(oldest)
    wanted = [(name[1], *rows[name]) for name in sorted(rows) if name[0] == DEFAULT_NAMESPACE]
    found = scan_all(db, DEFAULT_NAMESPACE, oldest)
    assert [(v.key, v.value, v.create_revision, v.mod_revision, v.version) for v in found] == wanted
    ticket = db.key_history(DEFAULT_NAMESPACE, key, 0, 0, 1 << 30)
    settle(db)
    versions = [(at, v and Row(v.value, v.create_revision, v.mod_revision, v.version)) for at, v in ticket.answer().entries]
    assert versions == model.versions((DEFAULT_NAMESPACE, key), oldest, newest)


def judge(fs: FileSystem, run: Run, told: int | None = None, seed: int = 1, copies: Collection[Path] | None = None) -> Database:
    """Open what is left and check it: what users were told is there, and all of it is a prefix of what was asked.

    ``told`` overrides what users had been told; it is at least what the run noted. ``copies``: the checkpoints that must be
    there (None: all that were made). Returns the open store.
    """
    db = open_store(fs, seed)
    end = db.marks.visible
    told = max(told or 0, run.acknowledged, run.shown)
    assert end >= told, f"users were told of revision {told}, but the log ends at {end}"
    known = run.model.revision
    assert run.diverged or end <= known, f"revision {end} was never asked for; the last one was {known}"
    if not run.diverged:
        assert {entry.name: entry.id for entry in db.namespaces()} == run.model.namespaces_at(end)
        assert db.oldest_readable == run.model.oldest_readable(end)
        compare_past(db, run.model, KEYS[seed % len(KEYS)])
    newest = min(end, known)
    for revision in {newest, told, newest - 3, db.oldest_readable}:
        if db.oldest_readable <= revision <= newest:
            compare_store(db, revision, run.model)
    for target in run.begun[-1:]:
        judge_copy(fs, run, target, is_whole=target in (run.checkpoints if copies is None else copies))
    return db


def judge_copy(fs: FileSystem, run: Run, target: Path, is_whole: bool) -> None:
    """Open what is left of a checkpoint: one that was made is a store of its own, one that was not is that or is refused."""
    if not is_whole and not fs.exists(target):
        return
    try:
        copy = open_store(fs, seed=1_000_000, data_dir=target)
    except (OpenRefused, Corruption) as refusal:
        assert not is_whole, refusal
        assert refusal.hint
        return
    revision, epoch = copy.marks.visible, copy.history.current
    if is_whole:
        assert revision == run.checkpoints[target]
    if revision > 1:
        assert copy.identity.cluster_id != run.db.identity.cluster_id, "it is a fork"
        assert epoch.number > 1, "the epochs before it are those of the store that it was made of"
        compare_store(copy, revision, run.model)
    copy.close()


def flush_all(db: Database) -> None:
    """Flush what memory holds, so that what follows is read from tables."""
    ticket = db.flush()
    settle(db)
    ticket.answer()
