"""A database that answers what the test tells it to, and notes what it was asked: for the handlers of Admin and KV.History."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from kvserver.base.errors import Code, KvError, UnknownNamespace
from kvserver.base.types import Epoch, Identity, Position, Role, Version
from kvserver.commit.requests import Committed
from kvserver.commit.state import NamespaceEntry
from kvserver.commit.ticket import Ticket, answered
from kvserver.storage.rows import Statistics
from kvserver.storage.tables import TableFigures

CLUSTER_ID = bytes(range(16))
CHAIN = bytes(range(16, 32))


class FakeCheckpointDone(NamedTuple):
    """What a checkpoint came to."""

    position: Position
    table_files: int
    table_bytes: int


class FakeHistoryEntry(NamedTuple):
    """What one commit did to a key."""

    revision: int
    version: Version | None


class FakeHistoryFound(NamedTuple):
    """A part of a key's history."""

    entries: list[FakeHistoryEntry]
    more: bool


class FakeDatabase:
    """Has the members that these handlers use; each is set by the test."""

    def __init__(self) -> None:
        self.identity = Identity(CLUSTER_ID, "id", "tester", 2, 0, "local")
        self.role = Role.PRIMARY
        self.history = types.SimpleNamespace(current=Epoch(3, 77))
        self.marks = types.SimpleNamespace(assigned=22, applied=21, durable=20, visible=20, flushed=15, opened=0)
        self.pipeline = types.SimpleNamespace(failure=None)
        self.log = types.SimpleNamespace(chain=CHAIN, segments=4, total_bytes=4_000, space_error="")
        self.tables = TableFigures(6, 6_000, 2, 200)
        self.entries = [NamespaceEntry("", 1, 1), NamespaceEntry("team", 2, 5)]
        self.held = {1: Statistics(10, 100, 1_000), 2: Statistics(3, 30, 300)}
        self.oldest_readable = 7
        self.flushes = 9
        self.flush_error = ""
        self.submitted: list[Any] = []
        self.outcome: Any = Committed(21, 21, 0, 0)
        self.gate = asyncio.Event()
        self.gate.set()
        self.ended: list[str] = []
        self.failure: KvError | None = None
        self.targets: list[Path] = []
        self.asked: list[tuple[int, bytes, int, int, int]] = []
        self.found = FakeHistoryFound([], False)

    def submit(self, request: Any, convert: Callable[[Any], Any], memory: bool = False) -> Ticket[Any]:
        self.submitted.append(request)
        ticket: Ticket[Any] = Ticket(request, convert, memory)
        ticket.decide(self.outcome)
        ticket.complete()
        return ticket

    def namespaces(self) -> list[NamespaceEntry]:
        return self.entries

    def namespace_id(self, name: str) -> int:
        for entry in self.entries:
            if entry.name == name:
                return entry.id
        raise UnknownNamespace(name)

    def reading_at(self, revision: int, session: tuple[int, int] | None, max_lag_ms: int = 0) -> Ticket[int]:
        if session is not None and session[0] != self.history.current.number:
            ticket: Ticket[int] = Ticket(None, int)
            ticket.fail(KvError(Code.HISTORY_LOST, "lost"))
            return ticket
        return answered(revision or max(self.marks.visible, session[1] if session else 0))

    def statistics(self, namespace_id: int) -> Statistics:
        return self.held[namespace_id]

    def log_figures(self) -> Any:
        return self.log

    def table_figures(self) -> TableFigures:
        return self.tables

    def holds(self) -> list[tuple[str, int]]:
        return [("flush", 16), ("reader", 3)]

    def live_keys(self) -> int:
        return 13

    def memory_bytes(self) -> int:
        return 555

    async def flush(self) -> int:
        await self._work("flush")
        return int(self.marks.flushed)

    async def checkpoint(self, target: Path) -> FakeCheckpointDone:
        self.targets.append(target)
        await self._work("checkpoint")
        return FakeCheckpointDone(Position(Epoch(2, 55), 19, CHAIN), 6, 6_000)

    async def _work(self, name: str) -> None:
        await self.gate.wait()
        self.ended.append(name)
        if self.failure is not None:
            raise self.failure

    async def key_history(
        self, namespace_id: int, key: bytes, before_revision: int, limit: int, max_bytes: int
    ) -> FakeHistoryFound:
        self.asked.append((namespace_id, key, before_revision, limit, max_bytes))
        await self.gate.wait()
        return self.found
