"""A store under a random workload on a disk that will fail, and the judge of what is there afterwards.

    run = Run(disk, seed)          # opens the store
    run.work(steps)                # submits, moves the log, reads; notes what was acknowledged and what was shown
    ...                            # the process dies, the power fails
    judge(disk_afterwards, run)    # opens again: kept, a prefix, nothing never written, nothing shown is lost

The store runs without threads: one turn of the log at a time, so that every run repeats from its seed.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from kvserver.base.environment import Environment
from kvserver.base.errors import KvError
from kvserver.base.events import Event
from kvserver.base.fs import FileSystem
from kvserver.base.options import EngineOptions, WalOptions
from kvserver.base.types import DEFAULT_NAMESPACE
from kvserver.commit.pipeline import AnyTicket
from kvserver.commit.requests import (
    Batch,
    Committed,
    CreateNamespace,
    Delete,
    Found,
    Mutation,
    Put,
    PutRun,
    ReadRun,
    Request,
    RunDone,
)
from kvserver.engine.database import Database
from kvserver.replication.local_register import LocalRegister
from support.clocks import ManualClock
from support.model import Expected, Model

DATA_DIR = Path("/data")
SMALL = WalOptions(
    segment_bytes=16 * 1024,
    max_group_bytes=2 * 1024,
    max_frame_bytes=4 * 1024,
    ahead_bytes=12 * 1024,
    fill_step_bytes=4 * 1024,
    seal_age_ms=0,
)
KEYS = [b"key-%02d" % number for number in range(12)]


def open_store(fs: FileSystem, seed: int = 0, wal: WalOptions = SMALL, listener: Any = None) -> Database:
    """Open the store of a campaign; nothing in it moves by itself."""
    env = Environment(fs, ManualClock(), random.Random(seed).randbytes)
    return Database.open(
        DATA_DIR,
        lambda env, paths: LocalRegister(env.fs, paths),
        "local",
        post=lambda callback: callback(),
        options=EngineOptions(wal=wal),
        env=env,
        listener=listener or (lambda event: None),
        threads=False,
    )


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
        self._pending: list[tuple[AnyTicket, Request, Expected, bool]] = []
        self.db = open_store(fs, seed, wal, self.events.append)

    def work(self, steps: int) -> None:
        """Submit, let the log move, read, over and over; then let everything end well."""
        for _ in range(steps):
            for _ in range(self.rng.randrange(1, 5)):
                self._submit(self._request(), memory=self.rng.random() < 0.1)
            if self.rng.random() < 0.8:
                self.db.run_log_once()
            self._look()
        while self.db.run_log_once():
            pass
        self._look()

    def _submit(self, request: Request, memory: bool) -> None:
        memory = memory and not isinstance(request, ReadRun)
        expected = self.model.apply(request)
        self._pending.append((self.db.submit(request, lambda outcome: outcome, memory), request, expected, memory))

    def _look(self) -> None:
        """Take the answers that have come, compare them with the model, and read like any other user."""
        self.db.marks.check()
        still: list[tuple[AnyTicket, Request, Expected, bool]] = []
        for ticket, request, expected, memory in self._pending:
            if ticket.done:
                self._compare(ticket, request, expected, memory)
            else:
                still.append((ticket, request, expected, memory))
        self._pending = still
        visible = self.db.marks.visible
        self.shown = max(self.shown, visible)
        rows = self.model.rows_at(visible)
        for key in self.rng.sample(KEYS, 3):
            check_key(self.db, key, visible, rows)

    def _compare(self, ticket: AnyTicket, request: Request, expected: Expected, memory: bool) -> None:
        try:
            outcome = ticket.answer()
        except KvError as error:
            assert error.code.name == expected.error, (request, error, expected)
            self.acknowledged = max(self.acknowledged, error.depends_on)
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

    def _request(self) -> Request:
        rng = self.rng
        kind = rng.randrange(10)
        key = rng.choice(KEYS)
        if kind < 3:
            keys = [rng.choice(KEYS) for _ in range(rng.randrange(1, 5))]
            return PutRun(DEFAULT_NAMESPACE, keys, [self._value() for _ in keys])
        if kind < 5:
            return Put(DEFAULT_NAMESPACE, key, self._value(), self._condition(key))
        if kind < 7:
            return Delete(DEFAULT_NAMESPACE, key, self._condition(key))
        if kind == 7:
            return CreateNamespace(f"ns{rng.randrange(4)}")
        if kind == 8:
            return ReadRun(DEFAULT_NAMESPACE, rng.sample(KEYS, 3))
        mutations: list[Mutation] = []
        for name in rng.sample(KEYS, rng.randrange(1, 5)):
            put = rng.random() < 0.6
            mutations.append(Put(DEFAULT_NAMESPACE, name, self._value()) if put else Delete(DEFAULT_NAMESPACE, name))
        return Batch(mutations)

    def _condition(self, key: bytes) -> int | None:
        if self.rng.random() < 0.5:
            return None
        row = self.model.rows.get((DEFAULT_NAMESPACE, key))
        return (row.mod_revision if row else 0) if self.rng.random() < 0.7 else self.rng.randrange(3)

    def _value(self) -> bytes:
        return self.rng.randbytes(self.rng.choice((0, 3, 40, 300, 900)))


def check_key(db: Database, key: bytes, revision: int, rows: dict[Any, Any]) -> None:
    """Compare what a reader at the revision sees of a key with the model's rows there."""
    found = db.get(DEFAULT_NAMESPACE, key, revision)
    row = rows.get((DEFAULT_NAMESPACE, key))
    seen = found and (found.value, found.create_revision, found.mod_revision, found.version)
    assert seen == row, f"{key!r} at revision {revision}: {seen} instead of {row}"


def judge(fs: FileSystem, run: Run, told: int | None = None, seed: int = 1) -> Database:
    """Open what is left and check it: what users were told is there, and all of it is a prefix of what was asked.

    ``told`` overrides what users had been told; it is at least what the run noted. Returns the open store.
    """
    db = open_store(fs, seed)
    end = db.marks.visible
    told = max(told or 0, run.acknowledged, run.shown)
    assert end >= told, f"users were told of revision {told}, but the log ends at {end}"
    known = run.model.revision
    assert run.diverged or end <= known, f"revision {end} was never asked for; the last one was {known}"
    for revision in {min(end, known), told, max(1, min(end, known) - 3)}:
        rows = run.model.rows_at(revision)
        for key in KEYS:
            check_key(db, key, revision, rows)
    return db
