"""A log that completes a group when it is told to, and the pipeline above it, for tests that decide when the disk moves."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from kvserver.base.errors import KvError
from kvserver.base.options import PipelineOptions
from kvserver.base.types import Epoch, Position
from kvserver.commit.marks import Marks
from kvserver.commit.pipeline import AnyTicket, CommitPipeline
from kvserver.commit.reading import Reader
from kvserver.commit.requests import Delete, Put, ReadRun, Request
from kvserver.commit.state import State
from kvserver.storage.view import TableRows, View
from kvserver.wal.format import FRAME_OVERHEAD
from kvserver.wal.group_commit import CUT, SEAL, Control, GroupDone, Submission

Item = Submission[AnyTicket] | Control


class FakeLog:
    """The pipeline's ``Log``: a queue, so much room, and perhaps a reason why there is no more."""

    def __init__(self, revision: int, room_bytes: int) -> None:
        self.queue: list[Item] = []
        self.revision = revision
        self.room_bytes = room_bytes
        self.error: OSError | None = None
        self.flush_failure: KvError | None = None
        self.written: list[bytes] = []

    def submit_to_log(self, item: Item) -> None:
        """Take a submission."""
        self.queue.append(item)

    def room(self) -> int:
        """Return the room that was not written into yet."""
        return self.room_bytes

    def space_error(self) -> OSError | None:
        """Return why there is no more room."""
        return self.error

    def memory_refusal(self) -> KvError | None:
        """Return why full memory is not flushed."""
        return self.flush_failure

    def take(self, count: int | None = None) -> list[Submission[AnyTicket]]:
        """Take so many submissions off the queue, or all up to the next control, as a group does."""
        items: list[Submission[AnyTicket]] = []
        while self.queue and (count is None or len(items) < count):
            item = self.queue[0]
            if isinstance(item, Control):
                break
            items.append(item)
            del self.queue[0]
        return items

    def write(self, items: list[Submission[AnyTicket]]) -> GroupDone[AnyTicket]:
        """Make a group durable."""
        for item in items:
            self.revision += item.commits
            if item.data:
                self.written.append(item.data)
                self.room_bytes -= len(item.data) + FRAME_OVERHEAD
        return GroupDone(items, self.position())

    def position(self) -> Position:
        """Return the end of what is durable."""
        return Position(Epoch(1, 1), self.revision, bytes(16))


class EmptyTables:
    """The reader's ``TableAccess`` of tables that hold no row, and say so at once."""

    def __init__(self, view: View) -> None:
        self._view = view

    def fetch(self, keys: list[bytes], done: Callable[[TableRows | Exception], None], heads_only: bool = False) -> None:
        """Find nothing."""
        done(self._view.nothing_read()._replace(rows=dict.fromkeys(keys)))

    def run_job(self, job: Any, done: Any) -> None:
        """Fail: no test of the pipeline alone asks for the past or for spans in tables."""
        raise AssertionError("something was asked of tables, where there are none")


class Desk:
    """A pipeline over a fake log; every step is followed by a check of the marks."""

    def __init__(
        self,
        options: PipelineOptions | None = None,
        room_bytes: int = 1 << 30,
        state: State | None = None,
        marks: Marks | None = None,
    ) -> None:
        self.state = state or State()
        self.marks = marks or Marks(1)
        self.log = FakeLog(self.marks.durable, room_bytes)
        self.reader = Reader(self.state, self.marks, EmptyTables(self.state.view))
        self.pipeline = CommitPipeline(self.state, self.marks, self.log, options or PipelineOptions(), self.reader)
        self.failures: list[BaseException] = []
        self.pipeline.on_failure = self.failures.append

    def submit(self, request: Request, memory: bool = False) -> AnyTicket:
        """Submit a request whose answer is its outcome."""
        ticket = self.pipeline.submit(request, lambda outcome: outcome, memory)
        self.marks.check()
        return ticket

    def put(self, key: bytes, value: bytes = b"value", if_revision: int | None = None, memory: bool = False) -> AnyTicket:
        """Submit a put."""
        return self.submit(Put(1, key, value, if_revision), memory)

    def delete(self, key: bytes) -> AnyTicket:
        """Submit a delete."""
        return self.submit(Delete(1, key))

    def read(self, *keys: bytes) -> AnyTicket:
        """Submit a run of reads."""
        return self.submit(ReadRun(1, list(keys)))

    def durable(self, count: int | None = None) -> int:
        """Let the log bring back a group of so many submissions, or of all there are; return how many it held."""
        items = self.log.take(count)
        self.pipeline.on_group_done(self.log.write(items))
        self.marks.check()
        return len(items)

    def settle(self) -> None:
        """Let the log bring back group after group, and answer seals and cuts, until nothing is under way."""
        while self.log.queue:
            if self.log.queue[0] is SEAL:
                self.seal()
            elif self.log.queue[0] is CUT:
                self.cut()
            else:
                self.durable()

    def seal(self) -> None:
        """Let the log carry out the seal that is next."""
        assert self.log.queue.pop(0) is SEAL
        self.pipeline.on_group_done(GroupDone([], self.log.position(), None, SEAL))
        self.marks.check()

    def cut(self) -> None:
        """Let the log carry out the cut that is next."""
        assert self.log.queue.pop(0) is CUT
        self.pipeline.on_group_done(GroupDone([], self.log.position(), None, CUT))
        self.marks.check()

    def replicated(self, revision: int | None) -> None:
        """Say what the quorum has."""
        self.pipeline.set_replicated(revision)
        self.marks.check()

    def fail(self, count: int | None = None) -> OSError:
        """Let the log fail with a group of so many submissions; return the error."""
        error = OSError(errno.EIO, "Input/output error")
        self.pipeline.on_group_done(GroupDone(self.log.take(count), self.log.position(), error))
        self.marks.check()
        return error


def outcome(ticket: AnyTicket) -> Any:
    """Return a ticket's answer, or the error that it is."""
    try:
        return ticket.answer()
    except Exception as error:
        return error
