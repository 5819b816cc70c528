"""A store in which a test decides when log, tables and event loop move."""

from __future__ import annotations

from typing import Any

from kvserver.base.events import Event
from kvserver.base.options import TableOptions
from kvserver.commit.requests import Put, Request
from kvserver.engine.database import Database
from kvserver.storage.view import Pin
from support.clocks import ManualClock
from support.memfs import MemoryFileSystem
from support.stores import LoopTurns, open_store, settle, submit


class Scene:
    """A store whose log, tables and event loop move when they are told to."""

    def __init__(self, **options: Any) -> None:
        self.disk = MemoryFileSystem()
        self.loop = LoopTurns()
        self.clock = ManualClock()
        self.events: list[Event] = []
        self.db: Database = open_store(
            self.disk, clock=self.clock, listener=self.events.append, post=self.loop, tables=TableOptions(**options)
        )

    def tables(self) -> None:
        """Do the next job of the thread that reads the tables; the loop has not heard of it yet."""
        assert self.db._beside.run_once(), "there was nothing to do for the tables"

    def log(self) -> None:
        """Make durable what was submitted, and let the loop hear of it."""
        while self.db.run_log_once():
            self.loop.run()

    def begin_flush(self) -> None:
        """Bring a flush so far that its table is built and is to be taken in by the next turn of the tables."""
        self.db.flush()
        self.log()
        assert self.db._flush_worker.run_once()
        self.loop.run()

    def end_flush(self) -> None:
        """Take the table in, and let the loop hear of it."""
        before = self.db.flushes
        self.tables()
        self.loop.run()
        assert self.db.flushes == before + 1

    def prepared(self, *requests: Request) -> Pin:
        """Read what judging the requests needs."""
        ticket = self.db.reader.prepare(requests)
        settle(self.db)
        return ticket.answer()

    def hold_back(self) -> None:
        """Make writes stand in line until ``let_through``."""
        self.db.pipeline._sealing = True

    def let_through(self) -> None:
        """Carry out what stands in line."""
        self.db.pipeline._sealing = False
        self.db.pipeline.admit_waiting()
        settle(self.db)

    def fail_the_log(self) -> None:
        """Let a write fail, and the loop hear of it."""
        while self.db._space.step():
            pass
        self.disk.fail_next_sync()
        submit(self.db, Put(1, b"lost", b""))
        while self.db.run_log_once():
            pass
        self.loop.run()
        assert self.db.pipeline.failure is not None
