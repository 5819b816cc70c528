"""One follower that is shipped the log: what it is sent, in which order and when.

    accepted ──► chunk, chunk, chunk ... ──► at the durable end: what comes next is waited for
                   │                            │
                   │ never more under way       ├─ the log grew           ► a chunk
                   │ than it has acknowledged   ├─ visible, archived      ► the marks, alone and soon
                   ▼ as durable, plus 8 MiB     ├─ a hash was made        ► the hash
                 its acknowledgements           └─ nothing for 400 ms     ► a sign of life

The log is its own queue: nothing is kept here but the place of the next byte. A follower that is slow, or stopped, costs no
memory, and is found again at its place. Chunks are read from files on a worker thread, and never beyond what is durable.

Marks ride on every message, and a follower shows only what it heard. So a change of them alone is worth a message: at once where
nothing was sent for 5 ms, else when these are over.

The generator is the only one that sends; all others (the log, acknowledgements, the timer, the end) just wake it. ``_awake`` is
set before it looks at anything and so it cannot miss what happens while it looks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple, Protocol, TypeVar

from kvserver.base.clock import Clock
from kvserver.base.errors import Code, InvalidRequest, KvError, NotServing
from kvserver.base.limits import KIB, MIB
from kvserver.base.types import LogEnd
from kvserver.replication.judge import Accept
from kvserver.replication.messages import Accepted, Ack, Chunk, Envelope, HashAt, ShippedMarks
from kvserver.wal import format as fmt
from kvserver.wal.tail import LogGone

CHUNK_BYTES = 512 * KIB
"""Read and sent at once; a larger frame is sent in one piece."""

HOT_BYTES = 64 * KIB
"""So much of the open segment's end is read on the event loop: it is in the page cache, and a copy takes some microseconds."""

MAX_IN_FLIGHT_BYTES = 8 * MIB
"""Sent and not yet acknowledged as durable; one chunk is always let out."""

HEARTBEAT_S = 0.4
MARKS_DELAY_S = 0.005
CLOCK_GRAIN_S = 0.0001
"""What is due so soon is due."""

Result = TypeVar("Result")


class Timer(Protocol):
    """Something that will happen, unless it is cancelled."""

    def cancel(self) -> None:
        """Have it not happen."""


CallLater = Callable[[float, Callable[[], None]], Timer]
"""``call_later(seconds, callback)``, as that of an event loop."""


class ReadsLog(Protocol):
    """The raw bytes of a log: ``kvserver.wal.tail.LogTail``."""

    def after(self, segment_id: int) -> int | None:
        """Return the segment behind a sealed one."""

    def read(self, segment_id: int, offset: int, most_bytes: int) -> bytes:
        """Return whole durable frames from a place on, at least one if there is any; none at the durable end."""

    def is_sealed_end(self, segment_id: int, offset: int) -> bool:
        """Say whether a sealed segment ends there."""


class Beside(Protocol):
    """Does what blocks on a worker thread."""

    def __call__(self, work: Callable[[], Result]) -> Awaitable[Result]:
        """Return what the work returns, or raise what it raises."""


class Supplies(NamedTuple):
    """What a shipment is given by the node that ships."""

    log: ReadsLog
    """Of this shipment alone, and used on the worker thread alone."""
    log_end: Callable[[], LogEnd]
    pending_bytes: Callable[[int, int], int]
    """The durable bytes behind a place, over all segments."""
    marks: Callable[[], ShippedMarks]
    """What the node says of itself now, ``pending_bytes`` and ``hash_point`` left out."""
    beside: Beside
    clock: Clock
    call_later: CallLater
    on_ack: Callable[[Ack], None]
    """Raises KvError for one that ends the call."""
    on_caught_up: Callable[[], None]


class Shipment:
    """One call. ``envelopes`` is its whole life; ``end`` asks it to end. Belongs to the event loop."""

    def __init__(self, supplies: Supplies, begin: Accept) -> None:
        self._s = supplies
        self._segment_id, self._offset = begin
        self._sent_bytes = 0
        self._durable_bytes = 0
        self._sent_upto = 0
        """No revision above this one was sent."""
        self._hash_point = 0
        self._hash: HashAt | None = None
        self._last_sent_s = 0.0
        self._last_marks = ShippedMarks()
        self._caught_up = False
        self._awake = False
        self._waiter: asyncio.Future[None] | None = None
        self._acks_ended = False
        self._error: BaseException | None = None

    # -- what others do -----------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Have it looked whether there is something to send."""
        self._awake = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def end(self, error: BaseException) -> None:
        """End the call with an error, before anything else is sent."""
        self._error = self._error or error
        self.wake()

    def announce(self, revision: int) -> bool:
        """Say in every message from now on that the content at this revision will be hashed; no later one was sent before.

        Return whether that can be said: False where later revisions may have been sent already.
        """
        if self._sent_upto > revision:
            return False
        self._hash_point = revision
        self.wake()
        return True

    def tell_hash(self, revision: int, content_hash: bytes) -> None:
        """Send the hash of an announced revision; nothing where another one was announced meanwhile, or none."""
        if self._hash_point == revision:
            self._hash = HashAt(revision, content_hash)
            self.wake()

    def lag_bytes(self) -> int:
        """Return the bytes of the log that the follower has not made durable yet."""
        return self._s.pending_bytes(self._segment_id, self._offset) + self._sent_bytes - self._durable_bytes

    # -- its life -----------------------------------------------------------------------------------------------------

    async def envelopes(self, accepted: Accepted, revision: int, acks: AsyncIterator[Ack]) -> AsyncGenerator[Envelope, None]:
        """Yield what the follower is sent, until it ends its acknowledgements. Raises KvError.

        ``revision``: where its log ends.
        """
        self._sent_upto = revision
        reader = asyncio.get_running_loop().create_task(self._read_acks(acks))
        timer: Timer | None = None
        try:
            yield self._envelope(accepted)
            while True:
                self._awake = False
                envelope = await self._next()
                if self._error is not None:
                    raise self._error
                if self._acks_ended:
                    return
                if envelope is not None:
                    yield envelope
                    continue
                if not self._awake:
                    self._waiter = asyncio.get_running_loop().create_future()
                    timer = self._s.call_later(self._due_s(), self.wake)
                    await self._waiter
                    timer.cancel()
        finally:
            if timer is not None:
                timer.cancel()
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _next(self) -> Envelope | None:
        """Return what is to be sent now, if anything is."""
        if self._error is not None or self._acks_ended:
            return None
        if self._hash is not None:
            told, self._hash, self._hash_point = self._hash, None, 0
            return self._envelope(told)
        if not self._is_at_end() and self._has_room(CHUNK_BYTES):
            chunk = await self._read_chunk()
            if chunk is not None and self._has_room(len(chunk.data)):  # one frame alone may be larger
                return self._send(cut_behind(chunk, self._hash_point) if self._hash_point else chunk)
        return self._envelope(None) if self._due_s() < CLOCK_GRAIN_S else None

    def _due_s(self) -> float:
        """Return the seconds until something is to be sent although nothing happens."""
        allowed_s = MARKS_DELAY_S if self._have_marks_moved() else HEARTBEAT_S
        return max(0.0, self._last_sent_s + allowed_s - self._s.clock.monotonic())

    # -- the log ------------------------------------------------------------------------------------------------------

    def _is_at_end(self) -> bool:
        _, segment_id, offset = self._s.log_end()
        is_there = segment_id == self._segment_id and offset <= self._offset
        if is_there and not self._caught_up:
            self._caught_up = True
            self._s.on_caught_up()
        return is_there

    def _has_room(self, length: int) -> bool:
        in_flight = self._sent_bytes - self._durable_bytes
        return not in_flight or in_flight + length <= MAX_IN_FLIGHT_BYTES

    async def _read_chunk(self) -> Chunk | None:
        """Read what comes next; None: nothing that is durable."""
        segment_id, offset = self._segment_id, self._offset
        log = self._s.log

        def read() -> Chunk | None:
            at_id, at = segment_id, offset
            while True:
                data = log.read(at_id, at, CHUNK_BYTES)
                if data:
                    return Chunk(at_id, at, data)
                following = log.after(at_id) if log.is_sealed_end(at_id, at) else None
                if following is None:
                    return None
                at_id, at = following, 0

        try:
            return read() if self._is_hot() else await self._s.beside(read)
        except OSError as error:
            raise NotServing(f"the log cannot be read: {error.strerror or error}") from error
        except LogGone as error:  # its slot was lost, and the segment deleted
            raise log_let_go() from error

    def _is_hot(self) -> bool:
        """Say whether what comes next was written a moment ago: reading it from memory costs less than asking another thread."""
        end = self._s.log_end()
        return end.segment_id == self._segment_id and end.offset - self._offset <= HOT_BYTES

    def _send(self, chunk: Chunk) -> Envelope:
        self._segment_id, self._offset = chunk.segment_id, chunk.offset + len(chunk.data)
        self._sent_bytes += len(chunk.data)
        envelope = self._envelope(chunk)
        self._sent_upto = max(self._sent_upto, envelope.marks.durable)
        return envelope

    # -- marks --------------------------------------------------------------------------------------------------------

    def _marks(self) -> ShippedMarks:
        pending_bytes = self._s.pending_bytes(self._segment_id, self._offset)
        return self._s.marks()._replace(pending_bytes=pending_bytes, hash_point=self._hash_point)

    def _envelope(self, body: Accepted | Chunk | HashAt | None) -> Envelope:
        self._last_marks = self._marks()
        self._last_sent_s = self._s.clock.monotonic()
        return Envelope(self._last_marks, body)

    def _have_marks_moved(self) -> bool:
        """Say whether something that the follower shows or obeys is not as it was last told."""
        marks = self._s.marks()
        last = self._last_marks
        told = (last.epoch, last.visible, last.archived, last.primary, last.hash_point)
        return (marks.epoch, marks.visible, marks.archived, marks.primary, self._hash_point) != told

    # -- acknowledgements ---------------------------------------------------------------------------------------------

    async def _read_acks(self, acks: AsyncIterator[Ack]) -> None:
        try:
            async for ack in acks:
                self._check(ack)
                self._s.on_ack(ack)
                self._durable_bytes = ack.durable_bytes
                self.wake()
            self._acks_ended = True
            self.wake()
        except Exception as error:
            self.end(error)

    def _check(self, ack: Ack) -> None:
        """Raise InvalidRequest for what no follower can say that was sent what this one was."""
        durable = self._s.log_end().position.revision
        if not ack.applied <= ack.durable <= ack.received <= durable:
            what = f"received {ack.received}, durable {ack.durable}, applied {ack.applied}; this log ends at {durable}"
            raise _impossible(what)
        if not self._durable_bytes <= ack.durable_bytes <= self._sent_bytes:
            what = f"{ack.durable_bytes} bytes, after {self._durable_bytes}; {self._sent_bytes} were sent"
            raise _impossible(what)


def cut_behind(chunk: Chunk, revision: int) -> Chunk:
    """Return the chunk up to the frame that ends with a revision, so that a follower can stop there; else all of it."""
    at = 0 if chunk.offset else fmt.SEGMENT_HEADER_LENGTH
    while (frame := fmt.parse_frame_header(chunk.data, at)) is not None:
        at += frame.frame_length
        if frame.last_revision >= revision:
            is_cut = frame.last_revision == revision and frame.kind == fmt.GROUP
            return chunk._replace(data=chunk.data[:at]) if is_cut else chunk
    return chunk


def log_let_go() -> KvError:
    """Return the error of a call whose log was deleted while it went on."""
    return NotServing("the log that the follower needs next was let go: its slot held too much")


def _impossible(what: str) -> KvError:
    return InvalidRequest(Code.INVALID_FIELD, f"an acknowledgement that cannot be: {what}", "run the same version on all nodes")


async def run_beside(run: Callable[[Callable[[], Any], Callable[[Any], None]], None], work: Callable[[], Result]) -> Result:
    """Have a worker's ``run`` do something, and return what comes of it, or raise it."""
    future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()

    def done(result: Result | Exception) -> None:
        if future.done():
            return
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)

    run(work, done)
    return await future
