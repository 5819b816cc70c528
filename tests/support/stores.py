"""Stores on a file system in memory in which nothing moves by itself, and how to look at all that one holds."""

from __future__ import annotations

import random
from typing import Any

from kvserver.base.clock import Clock, SystemClock
from kvserver.base.environment import Environment
from kvserver.base.events import Listener, ignore
from kvserver.base.fs import FileSystem
from kvserver.base.limits import KIB, MAX_LOG_FRAME_BYTES
from kvserver.base.options import EngineOptions, PipelineOptions, WalOptions
from kvserver.base.types import Version
from kvserver.commit.pipeline import AnyTicket
from kvserver.commit.requests import Request
from kvserver.engine.database import Database, Post
from kvserver.replication.local_register import KIND, LocalRegister
from support.clocks import ManualClock
from support.logs import PATHS

TIGHT = WalOptions(
    segment_bytes=2 * MAX_LOG_FRAME_BYTES + 8 * KIB,
    ahead_bytes=MAX_LOG_FRAME_BYTES + 8 * KIB,
    idle_mark_ms=1,
    space_retry_ms=1,
)
"""The least space with which every request that the limits allow finds room."""


def open_store(
    fs: FileSystem,
    wal: WalOptions = TIGHT,
    pipeline: PipelineOptions | None = None,
    clock: Clock | None = None,
    listener: Listener = ignore,
    seed: int = 0,
    post: Post = lambda callback: callback(),
    threads: bool = False,
) -> Database:
    """Open the store in ``PATHS.root``."""
    return Database.open(
        PATHS.root,
        lambda env, paths: LocalRegister(env.fs, paths),
        KIND,
        post,
        EngineOptions(wal=wal, pipeline=pipeline or PipelineOptions(), node_name="tester"),
        Environment(fs, clock or (SystemClock() if threads else ManualClock()), random.Random(seed).randbytes),
        listener,
        threads,
    )


def submit(database: Database, request: Request, memory: bool = False) -> AnyTicket:
    """Submit a request whose answer is its outcome."""
    return database.submit(request, lambda outcome: outcome, memory)


def settle(database: Database) -> None:
    """Let the log move until nothing is under way."""
    while database.run_log_once():
        pass


def do(database: Database, request: Request) -> Any:
    """Carry a request out to its end and return the answer. Raises the error that it is."""
    ticket = submit(database, request)
    settle(database)
    return ticket.answer()


def content(database: Database, revision: int | None = None) -> dict[tuple[str, bytes], Version]:
    """Return every live key of every namespace, by name, at a revision (None: the newest visible one)."""
    at = database.marks.visible if revision is None else revision
    found: dict[tuple[str, bytes], Version] = {}
    for entry in database.namespaces():
        for key in database.state.memtable.table(entry.id).chains:
            version = database.get(entry.id, key, at)
            if version is not None:
                found[entry.name, key] = version
    return found


def histories(database: Database) -> list[dict[tuple[str, bytes], Version]]:
    """Return the content at every revision, oldest first."""
    return [content(database, revision) for revision in range(1, database.marks.visible + 1)]
