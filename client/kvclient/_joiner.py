"""Joins the operations of many callers into frames, so that a thousand callers need not be a thousand messages.

The rule is that of the server's group commit, one floor up: **a frame is what arrived while the last ones were under
way.** There is no timed wait. A lone caller's operation leaves at once, in a frame of its own; a thousand callers find the
few frames that may be under way taken, fill the next one together, and the answer to an earlier one sends it off.

    callers ── add ──> open frames, one a kind ── next_frame ──> under way, at most MAX_FRAMES ── settle ──> outcomes
                           ^                                          |
                           └──────── what may be sent again ──────────┘

Every operation gets exactly one outcome:

- its own result or error from the answer to its frame;
- an error of ``expire`` at its deadline: certainly not written while it stands in line, unknown once it was under way;
- at the loss of the stream (``lost``): unknown for a write that was under way, unless the server said that it carried out
  nothing more, or it has a key; a read, and a write with a key, goes back in line, and what stood in line stays there;
- an error of ``fail_line`` when no connection is to be had: certainly not written.

A server's refusal that promises that nothing was carried out (``OVERLOADED`` and its like) is not an outcome while its
caller has time left: the operation is sent again, after a pause (see ``Retry``). Of a write that was sent before and lost from
sight, under a key, it is none either: it says nothing of the time before. When no time is left, that one is unknown.

A frame of puts or deletions gets its key when it leaves for the first time, one for all of it. From then on it stays as it
is, and goes as a whole or not at all: a part of it under the same key would be another write.

Sans-IO: it owns no stream, no clock, no thread and no lock. Its driver calls it from one thread at a time, hands it the
time, sends what ``next_frame`` returns, and calls ``expire`` no later than ``next_due`` says. Concurrent operations have no
order among themselves, in the line as on the server; who needs one waits for the first before sending the second.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import Any

from kvclient import _errors as errors
from kvclient._channel import MAX_REQUEST_BYTES
from kvclient._frames import Frame, Kind, Waiter
from kvclient._retry import HOP_ROOM_S, Retry
from kvproto.v1 import kv_pb2

MAX_FRAMES = 3
"""Frames under way at once: one that the client builds or takes apart, one on the wire, one with the server and its disk. With
two they wait for each other; more of them are smaller, and cost more than they bring."""

MIN_SHARE = 16
"""A frame is not made smaller than this for the sake of having several under way."""

COLUMNS = frozenset({Kind.PUTS, Kind.DELETES, Kind.MEMORY_PUTS, Kind.MEMORY_DELETES})
"""What is remembered by the frame; operations of mixed frames have keys of their own."""

MAX_FRAME_OPERATIONS = 4_096
MAX_FRAME_BYTES = 1024 * 1024
"""A frame is closed when it holds so much; one operation that is larger has a frame of its own."""

MIN_ROOM_BYTES = 1024
"""What a message needs beside its operations: id, namespace, lengths."""

MIN_READS = 16
"""Reads in a frame are never fewer than this for want of room in the answer."""

MakeError = Callable[[], errors.KvClientError]
MakeKey = Callable[[], kv_pb2.IdempotencyKey]
MakeErrorFor = Callable[[bool], errors.KvClientError]
"""Makes the error of one operation; the argument says whether it writes."""


class Joiner:
    """The line of one stream. ``wake`` is called when there is something to send that was not there before."""

    def __init__(self, wake: Callable[[], None], retry: Retry, make_key: MakeKey | None = None) -> None:
        self._wake = wake
        self._retry = retry
        self._make_key = make_key if retry.idempotent else None
        self._open: list[Frame | None] = [None] * len(Kind)
        """The frame that is filled now, of each kind."""
        self._line: deque[Frame] = deque()
        self._under_way: dict[int, Frame] = {}
        self._later: list[tuple[float, int, Frame]] = []
        """A heap of what is sent again when its time has come."""
        self._numbers = count(1)
        self._max_reads = MAX_FRAME_OPERATIONS
        """Falls when an answer had no room for all that was asked for, and rises again."""

    @property
    def idle(self) -> bool:
        """Whether nobody waits for anything."""
        return not (self._line or self._under_way or self._later)

    # -- callers --------------------------------------------------------------------------------------------------

    def add(self, kind: Kind, key: Any, value: bytes, size_bytes: int, deadline: float, waiter: Waiter) -> None:
        """Put an operation in line; ``key`` is the key or, for a mixed frame, the operation.

        Raises InvalidRequestError for one that fits no message.
        """
        frame = self._open[kind]
        if frame is None or frame.size_bytes + size_bytes > MAX_FRAME_BYTES or len(frame.keys) >= frame.max_operations:
            frame = self._begin(kind, size_bytes)
        frame.keys.append(key)
        frame.values.append(value)
        frame.waiters.append(waiter)
        frame.deadlines.append(deadline)
        frame.size_bytes += size_bytes
        if deadline < frame.earliest:
            frame.earliest = deadline

    def repair(self, kind: Kind) -> None:
        """Undo what is left of an ``add`` that an interrupt cut short: callers and operations would be off by one."""
        frame = self._open[kind]
        if frame is not None:
            frame.cut(min(len(frame.keys), len(frame.values), len(frame.waiters), len(frame.deadlines)))
        self._wake()

    def _begin(self, kind: Kind, size_bytes: int) -> Frame:
        """Open a frame and put it in line, where it is filled until its turn comes."""
        if size_bytes > MAX_REQUEST_BYTES - MIN_ROOM_BYTES:
            raise errors.InvalidRequestError(
                "COMMIT_TOO_LARGE",
                f"the request has {size_bytes} bytes; a message may have {MAX_REQUEST_BYTES}",
                "write it in several parts",
            )
        frame = self._open[kind] = Frame(kind)
        frame.max_operations = self._max_reads if kind is Kind.GETS else MAX_FRAME_OPERATIONS
        self._line.append(frame)
        self._wake()
        return frame

    # -- the stream -----------------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Whether ``next_frame`` would return one."""
        return bool(self._line) and len(self._under_way) < MAX_FRAMES

    def last_deadline(self) -> float:
        """Return when the last of those in line will have given up."""
        return max((max(frame.deadlines, default=-math.inf) for frame in self._line), default=-math.inf)

    def next_frame(self) -> Frame | None:
        """Take the next frame, which counts as sent from now on; None if there is none, or too many are under way.

        Operations whose callers gave up are left out.
        """
        while self.has_work:
            share = max(MIN_SHARE, -(-self._outstanding() // MAX_FRAMES))
            frame = self._line.popleft()
            if frame.idempotency is not None:
                if not frame.unanswered():
                    continue
                return self._send_off(frame)
            if len(frame.keys) > share + share // 4:
                self._line.appendleft(frame)
                frame = frame.split(share)
            elif self._open[frame.kind] is frame:
                self._open[frame.kind] = None
            wanted = frame.unanswered()
            if not wanted:
                continue
            if len(wanted) < len(frame.waiters):
                frame = frame.part(wanted, frame.attempt)
            if self._make_key is not None:
                if frame.kind in COLUMNS:
                    frame.idempotency = self._make_key()
                else:
                    frame.by_key = not frame.reads
            return self._send_off(frame)
        return None

    def _send_off(self, frame: Frame) -> Frame:
        frame.frame_id = next(self._numbers)
        self._under_way[frame.frame_id] = frame
        return frame

    def _outstanding(self) -> int:
        return sum(len(frame.keys) for frame in (*self._line, *self._under_way.values()))

    def settle(self, answer: kv_pb2.PipelineResponse, now: float) -> None:
        """Take in an answer. Raises ServerError for one to a frame that is not under way: then the stream cannot be trusted."""
        frame = self._under_way.pop(answer.frame_id, None)
        if frame is None:
            raise errors.ServerError("UNEXPECTED_STATUS", f"an answer to a frame that is not under way: {answer.frame_id}")
        try:
            failures = frame.settle(answer)
            if failures:
                self._settle_failures(frame, failures, now)
        except Exception as error:  # nobody else knows of the frame any more: whoever is told nothing here waits for ever
            unfit = error if isinstance(error, errors.ServerError) else errors.client_fault(error)
            frame.fail_all(partial(_of_unfit, unfit, frame.reads))
            return
        if not failures and frame.reads and self._max_reads < MAX_FRAME_OPERATIONS:
            self._max_reads = min(self._max_reads + MIN_READS, MAX_FRAME_OPERATIONS)

    def _settle_failures(self, frame: Frame, failures: dict[int, errors.KvClientError], now: float) -> None:
        again: list[int] = []
        sent_on: list[int] = []
        cut: list[int] = []
        pause_s = self._retry.pause_s(frame.attempt)
        hop_pause_s = self._retry.pause_s(frame.hops + 1)
        whole = len(failures) == len(frame.keys)
        for place, error in failures.items():
            if frame.waiters[place].done():
                continue
            if error.code == "FRAME_TOO_LARGE" and frame.reads and len(frame.keys) > 1:
                cut.append(place)
            elif self._retry.may_hop(error, frame.hops) and now + hop_pause_s + HOP_ROOM_S < frame.deadlines[place]:
                sent_on.append(place)
            elif self._retry.may_repeat(error, frame.attempt) and now + pause_s < frame.deadlines[place]:
                again.append(place)
            elif frame.open_outcome and errors.leaves_open(error):
                frame.waiters[place].set_exception(errors.outcome_unknown(error.message))
            else:
                frame.waiters[place].set_exception(error)
        if cut:  # their values had no room beside the others': they come again, fewer at a time
            half = len(frame.keys) // 2
            self._max_reads = max(MIN_READS, half)
            for start in range(0, len(cut), half):
                self._line.append(frame.part(cut[start : start + half], frame.attempt))
            self._wake()
        if again:
            self._send_later(_again(frame, again, whole), now + pause_s)
        if sent_on:
            self._send_later(_again(frame, sent_on, whole, hop=True), now + hop_pause_s)

    def lost(self, make_error: MakeErrorFor, now: float, *, carried_out: bool = True, closing: bool = False) -> None:
        """The stream is gone. What was under way gets its error (the argument says whether it writes) or goes back in line.

        Back go reads, writes with keys and, where the server said that it carried out nothing that it had not answered, all
        writes.
        """
        frames, self._under_way = list(self._under_way.values()), {}
        for frame in frames:
            if (frame.repeatable or not carried_out) and frame.attempt < self._retry.attempts and not closing:
                again = _again(frame, frame.unanswered(), whole=True)
                again.open_outcome = frame.open_outcome or (carried_out and not frame.reads)
                self._send_later(again, now + self._retry.pause_s(frame.attempt))
            elif frame.open_outcome:
                frame.fail_all(partial(_still_open, partial(make_error, True)))
            else:
                frame.fail_all(partial(make_error, not frame.reads))

    def _send_later(self, frame: Frame, at: float) -> None:
        if frame.keys:  # where everybody gave up there is nothing to send
            heapq.heappush(self._later, (at, next(self._numbers), frame))
            self._wake()

    def fail_line(self, make_error: MakeError) -> None:
        """No stream is to be had: tell everybody who stands in line."""
        frames = [*self._line, *(frame for _, _, frame in self._later)]
        self._line.clear()
        self._open = [None] * len(Kind)
        self._later.clear()
        for frame in frames:
            frame.fail_all(partial(_still_open, make_error) if frame.open_outcome else make_error)

    # -- time -----------------------------------------------------------------------------------------------------

    def next_due(self) -> float:
        """Return when ``expire`` has something to do next; infinity if never."""
        due = min((frame.earliest for frame in self._line), default=math.inf)
        due = min(due, min((frame.earliest for frame in self._under_way.values()), default=math.inf))
        if self._later:
            due = min(due, self._later[0][0], *(frame.earliest for _, _, frame in self._later))
        return due

    def expire(self, now: float, in_line: MakeErrorFor, under_way: MakeErrorFor) -> None:
        """Tell those whose time is up (the argument says whether they write); put in line what was to be sent again by now."""
        while self._later and self._later[0][0] <= now:
            self._line.append(heapq.heappop(self._later)[2])
            self._wake()
        for frame in (*self._line, *(frame for _, _, frame in self._later)):
            _expire(frame, now, under_way if frame.open_outcome else in_line)
        self._drop_deserted()
        for frame in self._under_way.values():
            _expire(frame, now, under_way)

    def _drop_deserted(self) -> None:
        """Let go of frames that nobody waits for any more: a node that does not answer must not fill the memory."""
        deserted = [frame for frame in self._line if not frame.unanswered()]
        if deserted:
            self._line = deque(frame for frame in self._line if frame not in deserted)
            self._open = [None if frame in deserted else frame for frame in self._open]
        if any(not frame.unanswered() for _, _, frame in self._later):
            self._later = [entry for entry in self._later if entry[2].unanswered()]
            heapq.heapify(self._later)


def _expire(frame: Frame, now: float, make_error: MakeErrorFor) -> None:
    """Tell those of a frame whose time is up."""
    if frame.earliest > now:
        return
    earliest = math.inf
    for waiter, deadline in zip(frame.waiters, frame.deadlines, strict=True):
        if waiter.done():
            continue
        if deadline <= now:
            waiter.set_exception(make_error(not frame.reads))
        else:
            earliest = min(earliest, deadline)
    frame.earliest = earliest


def _again(frame: Frame, places: list[int], whole: bool, hop: bool = False) -> Frame:
    """Return the frame that brings these operations once more; ``whole``: nothing of it was answered otherwise.

    One with a key of its own is then sent as it was, those that gave up included.
    """
    again = frame if whole and places and frame.idempotency is not None else frame.part(places, frame.attempt)
    if hop:
        again.hops += 1
    else:
        again.attempt += 1
    return again


def _still_open(make_error: MakeError) -> errors.KvClientError:
    """Return the error of a write of which an earlier time may have been carried out, whatever became of the last one."""
    error = make_error()
    return error if isinstance(error, errors.OutcomeUnknown) else errors.outcome_unknown(error.message)


def _of_unfit(error: errors.ServerError, reads: bool) -> errors.KvClientError:
    """Return what an answer that does not fit means for one caller."""
    return errors.ServerError(error.code, error.message) if reads else errors.outcome_unknown(error.message)
