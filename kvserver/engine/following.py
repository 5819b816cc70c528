"""What a follower does instead of writing: takes chunks of somebody else's log, makes them durable, inserts them, answers.

    event loop      receive ─┐                     ┌─ durable moves ─ insert, part by part ─ applied, visible move ─ answer
    log-receiver             └─ check, write ─ one sync ─┘

A chunk crosses to the thread with its ticket, as one item. What has arrived during a sync is written together and made durable by
the next one: a follower that falls behind takes larger steps, not more of them. A ticket is answered when its chunk is durable
*and* inserted; its answer is where the log durably ends.

    a chunk is refused         it and those behind it fail: they continue what is not there. The log is as it was before it
    no room on disk            the same, as Refused: nothing of the chunk was kept, it may be sent again
    a write or sync fails      for good: the log is poisoned, every ticket fails, the node ends as a primary would
    a group does not parse     the same: whoever sent it holds it to be history, and this node cannot
    memory is full             inserting waits while tables are being written, or cannot be; so do the answers, and so whoever
                               sends. Not where the flush itself waits for more to become visible: that would be for ever.
                               Nor where nobody sends any more and somebody waits for the end (``hurry``): a disk may stay full

What was taken is synced also at the end, but nobody is told: the next start finds it.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from kvserver.base.errors import Code, KvError, NotServing, ReplicationError
from kvserver.base.events import Listener, LogPoisoned
from kvserver.base.limits import MIB
from kvserver.base.types import Epoch, LogEnd, Position
from kvserver.commit.refusals import log_failed, space_refusal
from kvserver.commit.replay import TURN_COST, ReplayPipeline
from kvserver.commit.ticket import Ticket, complete_all
from kvserver.engine.epochs import EpochHistory
from kvserver.engine.worker import Post
from kvserver.wal.received import ChunkRefused, ReceivedGroup, ReceivedLog

TOGETHER_BYTES = 8 * MIB
"""Chunks that are made durable by one sync hold so many bytes at most, or are one."""


class _Chunk(NamedTuple):
    """Bytes of a segment, and who waits for them."""

    segment_id: int
    offset: int
    data: bytes
    ticket: Ticket[LogEnd]


class _Received(NamedTuple):
    """What one sync made durable."""

    chunks: list[_Chunk]
    groups: list[list[ReceivedGroup]]
    """Those of each chunk."""
    end: LogEnd
    begun: list[tuple[Epoch, Position]]
    """Epochs whose first segment was among it."""


class _Inserted(NamedTuple):
    """Stands behind the groups of a chunk: who is to be told, and what."""

    ticket: Ticket[LogEnd]
    end: LogEnd


_STOP = _Chunk(0, 0, b"", Ticket(None, lambda end: end))


class Following:
    """Thread ``log-receiver``; all but ``run_once`` and ``stop`` belongs to the event loop.

    Without ``start``, ``run_once`` does one turn of the thread on the caller's.
    """

    def __init__(self, log: ReceivedLog, pipeline: ReplayPipeline, history: EpochHistory, post: Post, listener: Listener) -> None:
        self._log = log
        self._pipeline = pipeline
        self._history = history
        self._post = post
        self._listener = listener
        self._queue: queue.SimpleQueue[_Chunk] = queue.SimpleQueue()
        self._held: _Chunk | None = None
        self._in_hand: list[_Chunk] = []
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._epochs_told = 0
        self._work: deque[ReceivedGroup | _Inserted] = deque()
        self._inserting = False
        self._asked_for_turn = False
        self._hurries = False
        self._closed = False
        self.error: BaseException | None = None
        """Why the log failed; set on the thread."""
        self.groups = 0
        """Syncs that made something durable."""
        self.received_bytes = 0
        """Bytes of chunks made durable since the open."""
        self.must_wait: Callable[[], bool] = lambda: False
        """Asks whether memory has no room for more before tables have been written."""
        self.on_begun: Callable[[], None] = lambda: None
        """Called when the history was extended."""
        self.on_moved: Callable[[], None] = lambda: None
        """Called when the log or what was inserted has moved."""
        pipeline.on_room = self._insert

    # -- on the event loop ----------------------------------------------------------------------------------------

    def receive(self, segment_id: int, offset: int, data: bytes) -> Ticket[LogEnd]:
        """Take a chunk; return a ticket of the log's durable end behind it, answered when it is durable and inserted.

        Its answer raises ReplicationError (WRONG_PEER) for what does not continue this log, Refused (DISK_FULL,
        DISK_UNAVAILABLE) where it could not be written and nothing of it was kept, NotServing.
        """
        self._hurries = False
        ticket: Ticket[LogEnd] = Ticket(None, lambda end: end)
        if self._pipeline.failure is not None or self.error is not None:
            ticket.fail(log_failed())
        elif self._closed:
            ticket.fail(_stopping())
        else:
            self._queue.put(_Chunk(segment_id, offset, data, ticket))
        return ticket

    def hurry(self) -> None:
        """Insert what was handed over, whatever memory it takes, until more is: nobody sends before it is answered."""
        self._hurries = True
        self._insert()

    def close(self) -> None:
        """Insert nothing more, and tell those who wait for it."""
        self._closed = True
        self._fail_waiting(_stopping)

    def _on_received(self, received: _Received) -> None:
        self.groups += 1
        self.received_bytes += sum(len(chunk.data) for chunk in received.chunks)
        for epoch, began in received.begun:
            self._history.extend(epoch, began)
        self._pipeline.received(received.end.position)
        for chunk, groups in zip(received.chunks, received.groups, strict=True):
            self._work.extend(groups)
            self._work.append(_Inserted(chunk.ticket, received.end))
        if received.begun:
            self.on_begun()
        self.on_moved()
        self._insert()

    def _insert(self) -> None:
        """Insert what is waiting, as much as fits one turn of the loop, and ask for another turn where something is left."""
        if self._inserting:
            return
        if self._closed or self._pipeline.failure is not None:
            self._fail_waiting(_stopping if self._closed else log_failed)
            return
        self._inserting = True
        before = self._pipeline.marks.applied
        told: list[Ticket[LogEnd]] = []
        try:
            may_go_on = self._insert_turn(told)
        finally:
            self._inserting = False
        if self._pipeline.marks.applied != before:
            self.on_moved()
        if self._pipeline.failure is not None:
            self._fail_waiting(log_failed)
        elif may_go_on and not self._asked_for_turn:
            self._asked_for_turn = True
            self._post(self._next_turn)
        complete_all(told)

    def _insert_turn(self, told: list[Ticket[LogEnd]]) -> bool:
        """Insert for one turn, and add those who are to be told; say whether there is more that need not wait."""
        left = TURN_COST
        pipeline, work = self._pipeline, self._work
        while pipeline.failure is None:
            if pipeline.is_inserting:
                left -= pipeline.insert(left)
            elif not work:
                return False
            elif isinstance(work[0], _Inserted):
                ticket, end = work.popleft()  # type: ignore[misc]
                ticket.decide(end)
                told.append(ticket)
                continue
            elif not self._hurries and self.must_wait():
                return False
            else:
                pipeline.begin(work.popleft())  # type: ignore[arg-type]
                continue
            if left <= 0:
                return True
        return False

    def _next_turn(self) -> None:
        self._asked_for_turn = False
        self._insert()

    def _fail_waiting(self, error: Callable[[], KvError]) -> None:
        work, self._work = self._work, deque()
        _fail_all([item.ticket for item in work if isinstance(item, _Inserted)], error)

    # -- life -----------------------------------------------------------------------------------------------------

    @property
    def failure(self) -> BaseException | None:
        """Return why the log failed, None while it has not. May be asked on any thread."""
        return self.error

    def start(self) -> None:
        """Begin to take chunks on a thread."""
        self._thread = threading.Thread(target=self._run, name="log-receiver", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Make durable what was handed over, and end the thread."""
        self._queue.put(_STOP)
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        while self.run_once():  # without a thread, what was handed over is still in the queue
            pass

    # -- on the thread --------------------------------------------------------------------------------------------

    def run_once(self, wait: bool = False) -> bool:
        """Make durable what has arrived; say whether anything had."""
        first = self._next(wait)
        if first is None or first is _STOP:
            self._stopped = first is _STOP
            return False
        self._take_all(self._gather(first))
        return True

    def _run(self) -> None:
        while not self._stopped:
            try:
                self.run_once(wait=True)
            except Exception as error:  # between two guarded steps; the thread must go on, or its waiters wait for ever
                self._poison(error)
                self._tell_failed(self._in_hand, log_failed)

    def _next(self, wait: bool) -> _Chunk | None:
        if self._held is not None:
            held, self._held = self._held, None
            return held
        try:
            return self._queue.get() if wait else self._queue.get_nowait()
        except queue.Empty:
            return None

    def _gather(self, first: _Chunk, most_bytes: int = TOGETHER_BYTES) -> list[_Chunk]:
        """Return a chunk and those that have arrived behind it, up to a size."""
        chunks = self._in_hand = [first]
        size = len(first.data)
        while (chunk := self._next(wait=False)) is not None:
            if chunk is _STOP or size + len(chunk.data) > most_bytes:
                self._held = chunk
                break
            size += len(chunk.data)
            chunks.append(chunk)
        return chunks

    def _take_all(self, chunks: list[_Chunk]) -> None:
        """Write chunks, make them durable by one sync, and have the loop hear of it."""
        taken: list[_Chunk] = []
        groups: list[list[ReceivedGroup]] = []
        refusal: Callable[[], KvError] | None = None
        try:
            for chunk in chunks if self.error is None else ():
                try:
                    groups.append(self._log.take(chunk.segment_id, chunk.offset, chunk.data))
                except ChunkRefused as refused:
                    refusal = _wrong_peer(str(refused))
                    break
                except OSError as error:
                    refusal = _no_room(error)
                    break
                taken.append(chunk)
            if self.error is None:
                self._log.sync()  # also where nothing was taken: a failure that is final is told here
        except Exception as error:
            self._poison(error)
        if self.error is not None:
            self._tell_failed(chunks, log_failed)
            return
        if taken:
            epochs = self._log.epochs
            received = _Received(taken, groups, self._log.end, epochs[self._epochs_told :])
            self._epochs_told = len(epochs)
            self._in_hand = chunks[len(taken) :]
            self._post(lambda: self._on_received(received))
        if refusal is not None:  # those that wait behind it continue what is not here
            behind = chunks[len(taken) :]
            self._tell_failed([*behind, *self._gather(behind[0], 1 << 62)[1:]], refusal)
        self._in_hand = []

    def _poison(self, error: Exception) -> None:
        if self.error is None:
            self.error = error
            self._listener(LogPoisoned(str(error) or repr(error)))
            self._post(lambda: self._pipeline.fail(error))

    def _tell_failed(self, chunks: list[_Chunk], error: Callable[[], KvError]) -> None:
        tickets = [chunk.ticket for chunk in chunks]
        self._in_hand = []
        self._post(lambda: _fail_all(tickets, error))


def _fail_all(tickets: list[Ticket[LogEnd]], error: Callable[[], KvError]) -> None:
    for ticket in tickets:
        if not ticket.done:
            ticket.fail_with(error())
    complete_all(tickets)


def _wrong_peer(what: str) -> Callable[[], KvError]:
    hint = "the node asks again for what follows its own log; if this comes again, see: kvctl cluster status"
    return lambda: ReplicationError(Code.WRONG_PEER, f"what was received does not continue the log: {what}", hint)


def _no_room(error: OSError) -> Callable[[], KvError]:
    return lambda: space_refusal(error)


def _stopping() -> NotServing:
    return NotServing("the node is stopping, or changes its part")
