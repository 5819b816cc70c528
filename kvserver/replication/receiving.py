"""Takes a log that is being shipped here: chunks into the store, a bounded number at a time, and acknowledgements back.

The sender goes by acknowledgements: it sends so many bytes beyond what was acknowledged, and no more. Here, too, only so many are
handed to the store before it has made them durable, whatever the sender does; who sends faster waits in the connection. An
acknowledgement goes out behind each durable step, and every second, so that the sender knows that this node lives.

What is shipped is read by one task, acknowledged by another, and a third looks at the time. The first of them that ends, ends the
call: a connection that is silent for long is taken to be broken even where nobody says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol

from kvserver.base.clock import Clock
from kvserver.base.errors import Code, KvError, NotServing, ReplicationError
from kvserver.base.limits import MIB
from kvserver.base.types import Epoch, LogEnd
from kvserver.commit.marks import Marks
from kvserver.commit.ticket import Ticket
from kvserver.engine.epochs import EpochHistory
from kvserver.replication.messages import Accepted, Ack, Chunk, Diverged, Envelope, Gone, Hello, NodeIdentity, ShippedMarks
from kvserver.replication.peer import FollowCall
from kvserver.replication.waiting import Sleep, end_all

ACK_EVERY_S = 1.0
SILENCE_S = 10.0
"""A sender sends a sign of life every second or so; one that sends nothing for so long is taken to be gone."""

MOST_CHUNKS = 8
MOST_BYTES = 16 * MIB
"""Chunks and bytes that are handed to the store before it has made them durable; one chunk always."""


class LogTaker(Protocol):
    """What a store does that takes another node's log; ``kvserver.engine.database.Database`` is one."""

    marks: Marks
    history: EpochHistory

    def log_end(self) -> LogEnd:
        """Return where its log durably ends."""

    def receive(self, segment_id: int, offset: int, data: bytes) -> Ticket[LogEnd]:
        """Take a chunk; answered when it is durable and applied."""

    def hurry(self) -> None:
        """Have all that was handed over answered, whatever memory it takes."""


class IntakeFailed(Exception):
    """What was shipped was not taken: by the store, or because nothing of the kind can come at this place."""

    def __init__(self, error: KvError) -> None:
        super().__init__(error.message)
        self.error = error

    @property
    def is_chunks_fault(self) -> bool:
        """Say whether what was shipped is wrong, and not the store that was to take it."""
        return self.error.code is Code.WRONG_PEER


class Intake:
    """Hands chunks to the store, a bounded number at a time, and knows what was made of them. Belongs to the event loop."""

    def __init__(self, store: LogTaker, most_chunks: int = MOST_CHUNKS, most_bytes: int = MOST_BYTES) -> None:
        self.durable_bytes = 0
        """Of the chunks that were taken: durable and applied."""
        self.waiting_bytes = 0
        self.failure: IntakeFailed | None = None
        self.moved = asyncio.Event()
        """Set whenever something became durable, or failed."""
        self._store = store
        self._most_chunks = most_chunks
        self._most_bytes = most_bytes
        self._waiting = 0
        self._room = asyncio.Event()

    async def take(self, chunk: Chunk) -> None:
        """Hand a chunk over once there is room. Raises IntakeFailed where this or an earlier one was not taken."""
        length = len(chunk.data)
        while self._waiting and (self._waiting >= self._most_chunks or self.waiting_bytes + length > self._most_bytes):
            await self._wait()
        self._raise()
        ticket = self._store.receive(chunk.segment_id, chunk.offset, chunk.data)
        self._waiting += 1
        self.waiting_bytes += length
        ticket.on_done(lambda: self._done(ticket, length))
        self._raise()

    async def drained(self) -> None:
        """Wait until all that was handed over is durable and applied, or not taken. Raises IntakeFailed, but not before."""
        while self._waiting:
            self._room.clear()
            await self._room.wait()
        self._raise()

    async def ended(self) -> None:
        """Wait until nothing that was handed over is under way, and nothing else will be. Raises IntakeFailed.

        A store whose memory is full does not wait for its disk then, which may stay full: it is no more than ``most_bytes``.
        """
        self._store.hurry()
        await self.drained()

    async def settled(self) -> None:
        """Wait until one more chunk is durable and applied. Raises IntakeFailed."""
        await self._wait()
        self._raise()

    async def _wait(self) -> None:
        self._raise()
        self._room.clear()
        await self._room.wait()

    def _raise(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _done(self, ticket: Ticket[LogEnd], length: int) -> None:
        self._waiting -= 1
        self.waiting_bytes -= length
        try:
            ticket.answer()
        except KvError as error:
            self.failure = self.failure or IntakeFailed(error)
        else:
            self.durable_bytes += length
        self._room.set()
        self.moved.set()


class Ended(NamedTuple):
    """How a shipper ended a call by its own word."""

    body: Gone | Diverged


OnMarks = Callable[[ShippedMarks], None]
"""Told of the marks of each envelope before its body is taken; what it raises ends the call."""


class Receiving:
    """One call: from its first envelope to its end."""

    def __init__(
        self,
        store: LogTaker,
        call: FollowCall,
        clock: Clock,
        sleep: Sleep,
        intake: Intake | None = None,
        silence_s: float = SILENCE_S,
    ) -> None:
        self.accepted: Accepted | None = None
        self.intake = intake or Intake(store)
        self._store = store
        self._call = call
        self._clock = clock
        self._sleep = sleep
        self._silence_s = silence_s
        self._heard_at = clock.monotonic()
        self._is_busy = False
        """What was heard is being dealt with; nothing more is read meanwhile."""

    async def run(
        self, on_envelope: Callable[[Envelope], Awaitable[Ended | None]], also: Sequence[Awaitable[Any]] = ()
    ) -> Ended | None:
        """Take what is shipped until the call ends; return what ``on_envelope`` ended it with, None where one of ``also`` has.

        ``on_envelope`` is told of each envelope before this takes its chunk. Raises what that raises, IntakeFailed, KvError
        of the call; NotServing where it ended without a word. Always hangs up.
        """
        reading = asyncio.ensure_future(self._read(on_envelope))
        tasks: list[asyncio.Future[Any]] = [reading, *map(asyncio.ensure_future, (self._acknowledge(), self._watch(), *also))]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            # Where several have ended at once: what was read says most, then why the store took no more.
            for task in sorted(done, key=tasks.index):
                task.result()
            return reading.result() if reading in done else None
        finally:
            await end_all(tasks)
            await self._call.close()

    async def _read(self, on_envelope: Callable[[Envelope], Awaitable[Ended | None]]) -> Ended | None:
        async for envelope in self._envelopes():
            body = envelope.body
            self._check_order(body)
            if isinstance(body, Accepted):
                self.accepted = body
                self.intake.moved.set()  # the first acknowledgement says at once where this node is
            ended = await on_envelope(envelope)
            if ended is not None:
                return ended
            if isinstance(body, Chunk):
                await self.intake.take(body)
        raise NotServing("the connection ended")

    async def _envelopes(self) -> AsyncIterator[Envelope]:
        async for envelope in self._call.__aiter__():
            self._is_busy = True
            yield envelope
            self._is_busy = False
            self._heard_at = self._clock.monotonic()

    def _check_order(self, body: object) -> None:
        begins = isinstance(body, Accepted | Gone | Diverged)
        if self.accepted is None and body is not None and not begins:
            raise IntakeFailed(protocol_error("something was shipped before it was said from where on"))
        if self.accepted is not None and isinstance(body, Accepted | Diverged):
            raise IntakeFailed(protocol_error("it was said twice from where on the log is shipped"))

    async def _acknowledge(self) -> None:
        intake = self.intake
        while True:
            await intake.moved.wait()
            intake.moved.clear()
            if intake.failure is not None:
                raise intake.failure
            if self.accepted is not None:
                await self._call.ack(self._ack())

    def _ack(self) -> Ack:
        position = self._store.log_end().position
        applied = min(self._store.marks.applied, position.revision)
        return Ack(position.epoch, position.revision, position.revision, applied, self.intake.durable_bytes)

    async def _watch(self) -> None:
        while True:
            await self._sleep(ACK_EVERY_S)
            silent_s = self._clock.monotonic() - self._heard_at
            if silent_s >= self._silence_s and not self._is_busy:
                raise NotServing(f"nothing was heard for {silent_s:.0f} s")
            self.intake.moved.set()


def hello_of(
    store: LogTaker, identity: NodeIdentity, promised: Epoch, compressions: tuple[str, ...], only_log: bool = False
) -> Hello:
    """Return how a node with this store introduces itself."""
    return Hello(identity, promised, store.log_end(), store.history.epochs, compressions, only_log)


def protocol_error(what: str) -> ReplicationError:
    """Return the error that another node does not keep to the protocol."""
    hint = "see that both run the same version"
    return ReplicationError(Code.WRONG_PEER, f"the other node does not keep to the protocol: {what}", hint)
