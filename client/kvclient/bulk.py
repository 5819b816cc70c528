"""Puts in bulk over one stream: columnar frames, several under way at once, each answered by one message.

This is the plain form for tools that load data, and blocking only. A frame is not atomic: each of its puts is a commit
of its own. Effects are in the order sent; answers may come in another order, which is why an answer carries its frame.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Generic, TypeVar

import grpc

from kvclient import _calls as calls
from kvclient import _errors as errors
from kvclient._types import Durability
from kvclient.client import Client
from kvproto.v1 import kv_pb2

TagT = TypeVar("TagT")

MAX_FRAME_OPERATIONS = 16_384
"""The most puts that a server takes in one frame."""

_POLL_S = 0.25


@dataclasses.dataclass(frozen=True, slots=True)
class PutFrame(Generic[TagT]):
    """Some puts that are sent as one message; ``tag`` is the caller's own and comes back with the answer."""

    keys: list[bytes]
    values: list[bytes]
    tag: TagT


@dataclasses.dataclass(frozen=True, slots=True)
class PutFailure:
    """One put of a frame that was refused."""

    index: int
    """Its place in the frame, from 0."""
    error: errors.KvClientError
    """Why."""


@dataclasses.dataclass(frozen=True, slots=True)
class FrameAnswer(Generic[TagT]):
    """What became of one frame: its puts have the revisions from ``first_revision`` on, in order, failures left out."""

    number: int
    """The frame's place in the stream, from 1."""
    frame: PutFrame[TagT]
    first_revision: int
    """0 where nothing was written."""
    commits: int
    reached: Durability
    failures: list[PutFailure]
    rejected: bool
    """The whole frame was refused; the one failure says why."""


class PutStream(Generic[TagT]):
    """Sends frames and iterates over their answers.

        with PutStream(client, frames) as stream:
            for answer in stream:
                ...

    ``frames`` is consumed in another thread, and only as fast as the server answers: at most ``max_in_flight`` frames
    are under way. An error that it raises ends the sending; what was sent before is answered first, then the error is
    raised from the iteration. ``stall_timeout_s`` is the longest wait for any answer while frames are under way.
    Raises KvClientError; after OutcomeUnknown each frame without an answer may or may not have been written.
    """

    def __init__(
        self,
        client: Client,
        frames: Iterable[PutFrame[TagT]],
        *,
        durability: Durability = Durability.POLICY,
        max_in_flight: int = 8,
        stall_timeout_s: float = 30.0,
    ) -> None:
        self._connection = client._connection
        self._namespace = client._namespace
        self._frames = frames
        self._durability = calls.durability_wanted(durability)
        self._stall_timeout_s = stall_timeout_s
        self._slots = threading.Semaphore(max_in_flight)
        self._lock = threading.Lock()
        self._pending: dict[int, PutFrame[TagT]] = {}
        self._stopped = False
        self._source_error: BaseException | None = None
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._last_progress = time.monotonic()
        self._call: Any = None

    def __enter__(self) -> PutStream[TagT]:
        connection = self._connection
        connection.connect(time.monotonic() + connection.limit_s(None))
        self._endpoint, stubs = connection.connected
        with connection.failures(self._endpoint, writes=True):
            self._call = stubs["KV"].Pipeline(self._requests())
        threading.Thread(target=self._receive, name="kvclient-bulk-receive", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop_sending()
        self._call.cancel()

    def stop_sending(self) -> None:
        """Send no further frame; the iteration ends when what is under way has been answered."""
        with self._lock:  # a frame is either under way before this, or never sent
            self._stopped = True
        self._slots.release()  # wakes the sender if it waits for an answer

    def __iter__(self) -> Iterator[FrameAnswer[TagT]]:
        """Bring the answers as they come."""
        while not (self._stopped and not self._pending):
            item = self._next_item()
            if item is None:
                continue
            if isinstance(item, kv_pb2.PipelineResponse):
                yield self._answer(item)
            else:
                self._finish(item)
                return

    def _requests(self) -> Iterator[kv_pb2.PipelineRequest]:
        """Make the stream's messages; runs in a thread of gRPC's."""
        try:
            for number, frame in enumerate(self._frames, 1):
                self._slots.acquire()
                with self._lock:
                    if self._stopped:
                        return
                    if not self._pending:
                        self._last_progress = time.monotonic()
                    self._pending[number] = frame
                yield kv_pb2.PipelineRequest(
                    frame_id=number,
                    namespace=self._namespace,
                    durability=self._durability,
                    puts=kv_pb2.PutColumns(keys=frame.keys, values=frame.values),
                )
        except Exception as error:  # raised again where the caller can see it
            self._source_error = error

    def _receive(self) -> None:
        """Pass on what the call brings, and how it ended; runs in a thread of its own."""
        try:
            for response in self._call:
                self._inbox.put(response)
            self._inbox.put(StopIteration())
        except Exception as error:
            self._inbox.put(error)

    def _next_item(self) -> Any:
        """Return what the call brought next, or None; raise OutcomeUnknown when it brings nothing any more."""
        try:
            item = self._inbox.get(timeout=_POLL_S)
        except queue.Empty:
            if self._pending and time.monotonic() - self._last_progress > self._stall_timeout_s:
                raise errors.outcome_unknown(
                    f"no answer for {self._stall_timeout_s:g} s while {len(self._pending)} frames were under way"
                ) from None
            return None
        self._last_progress = time.monotonic()
        return item

    def _answer(self, response: kv_pb2.PipelineResponse) -> FrameAnswer[TagT]:
        """Match an answer with its frame."""
        frame = self._pending.pop(response.frame_id, None)
        if frame is None:
            raise errors.ServerError("UNEXPECTED_STATUS", f"an answer to a frame never sent: {response.frame_id}")
        if not response.rejected:  # a refusal shows nothing
            self._connection.session.observe(response.header)
        self._slots.release()
        return FrameAnswer(
            number=response.frame_id,
            frame=frame,
            first_revision=response.first_revision,
            commits=response.commits,
            reached=calls.durability_reached(response.reached),
            failures=[
                PutFailure(failure.index, errors.from_failure(failure, writes=True, rejected=response.rejected))
                for failure in response.failures
            ],
            rejected=response.rejected,
        )

    def _finish(self, end: BaseException) -> None:
        """Raise what the end of the call means, if it is an error."""
        if isinstance(end, grpc.RpcError):
            raise self._connection.error_of(end, self._endpoint, writes=True) from end
        if not isinstance(end, StopIteration):
            raise end
        if self._pending:
            raise errors.outcome_unknown("the server ended the stream before it had answered every frame")
        if self._source_error is not None:
            raise self._source_error
