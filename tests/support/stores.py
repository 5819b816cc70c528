"""Stores on a file system in memory in which nothing moves by itself, and how to look at all that one holds."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any

from kvserver.base.clock import Clock, SystemClock
from kvserver.base.environment import Environment
from kvserver.base.events import Listener, ignore
from kvserver.base.fs import FileSystem
from kvserver.base.limits import KIB, MAX_LOG_FRAME_BYTES
from kvserver.base.options import EngineOptions, PipelineOptions, TableOptions, WalOptions
from kvserver.base.paths import DataPaths
from kvserver.base.types import Version
from kvserver.commit.pipeline import AnyTicket
from kvserver.commit.requests import Request
from kvserver.engine.database import Database
from kvserver.engine.flush_helper import InlineBuilder
from kvserver.engine.scan import ScanOptions
from kvserver.engine.table_kit import TableKit
from kvserver.engine.worker import Post
from kvserver.replication.local_register import KIND, LocalRegister
from kvserver.storage.ranges import EVERYTHING, KeySpan
from support.clocks import ManualClock
from support.logs import PATHS
from support.twin_tables import TwinTables

TWIN = TableKit(
    lambda env, paths, options: TwinTables(env.fs, paths.tables),
    lambda env, paths, options, tables, listener: InlineBuilder(env.fs, paths, tables),
)
"""Tables in memory and on the file system that the test hands in, built on the thread of whoever flushes."""

Move = Callable[[Database], None]

TIGHT = WalOptions(
    segment_bytes=2 * MAX_LOG_FRAME_BYTES + 8 * KIB,
    ahead_bytes=MAX_LOG_FRAME_BYTES + 8 * KIB,
    idle_mark_ms=1,
    space_retry_ms=1,
)
"""The least space with which every request that the limits allow finds room."""


class LoopTurns:
    """An event loop's queue of callbacks, for tests that decide when the loop hears of what the threads did."""

    def __init__(self) -> None:
        self._callbacks: deque[Callable[[], None]] = deque()

    def __call__(self, callback: Callable[[], None]) -> None:
        """Post a callback."""
        self._callbacks.append(callback)

    def run(self, at_most: int = 1 << 30) -> bool:
        """Call those that were posted, in order, and those that they post; say whether there were any."""
        ran = 0
        while self._callbacks and ran < at_most:
            self._callbacks.popleft()()
            ran += 1
        return ran > 0


def open_store(
    fs: FileSystem,
    wal: WalOptions = TIGHT,
    pipeline: PipelineOptions | None = None,
    clock: Clock | None = None,
    listener: Listener = ignore,
    seed: int = 0,
    post: Post = lambda callback: callback(),
    threads: bool = False,
    tables: TableOptions | None = None,
    paths: DataPaths = PATHS,
    kit: TableKit = TWIN,
    hold_archive: bool = False,
) -> Database:
    """Open the store in ``PATHS.root``, or another one."""
    return Database.open(
        paths.root,
        lambda env, paths: LocalRegister(env.fs, paths),
        KIND,
        post,
        kit,
        EngineOptions(wal=wal, pipeline=pipeline or PipelineOptions(), tables=tables or TableOptions(), node_name="tester"),
        Environment(fs, clock or (SystemClock() if threads else ManualClock()), random.Random(seed).randbytes),
        listener,
        threads,
        hold_archive,
    )


def submit(database: Database, request: Request, memory: bool = False) -> AnyTicket:
    """Submit a request whose answer is its outcome."""
    return database.submit(request, lambda outcome: outcome, memory)


def settle(database: Database) -> None:
    """Let log, tables and the loop's queue move until nothing is under way."""
    turns = database._post if isinstance(database._post, LoopTurns) else LoopTurns()
    while turns.run() | database.run_log_once() | database.run_tables_once():
        pass


def flush(database: Database) -> int:
    """Flush all that memory holds and return the flushed revision. Raises the error that it ended with."""
    ticket = database.flush()
    settle(database)
    return ticket.answer()


def peek(database: Database, namespace: int, key: bytes, revision: int) -> Version | None:
    """Return the version of a key at a revision, wherever it lies."""
    ticket = database.read(namespace, [key], revision)
    settle(database)
    (version,) = ticket.answer()
    return version


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
        for version in scan_all(database, entry.id, at):
            found[entry.name, version.key] = version
    return found


def scan_all(
    database: Database, namespace: int, revision: int, span: KeySpan = EVERYTHING, move: Move = settle, **options: Any
) -> list[Version]:
    """Return what a scan finds, letting log and tables move for it."""
    versions: list[Version] = []

    async def walk() -> None:
        async for chunk in database.scan(namespace, span, revision, ScanOptions(**options)):
            versions.extend(chunk.versions)

    run_settling(database, walk(), move)
    return versions


def run_settling(database: Database, coroutine: Coroutine[Any, Any, Any], move: Move = settle) -> Any:
    """Run a coroutine to its end while log and tables move on this thread; return what it returns.

    Within a running event loop, whose other tasks get no turn meanwhile, it may await nothing but tickets and turns.
    """

    async def both() -> Any:
        task = asyncio.ensure_future(coroutine)
        while not task.done():
            move(database)
            await asyncio.sleep(0)
        return task.result()

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(both())
    while True:
        try:
            coroutine.send(None)
        except StopIteration as end:
            return end.value
        move(database)


def histories(database: Database) -> list[dict[tuple[str, bytes], Version]]:
    """Return the content at every revision, oldest first."""
    return [content(database, revision) for revision in range(1, database.marks.visible + 1)]
