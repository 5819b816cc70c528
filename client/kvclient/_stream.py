"""Drives a ``Joiner`` over a Pipeline stream of blocking gRPC, for callers in many threads.

One lock guards the line. A caller puts its operation in line and sleeps on a lock of its own; gRPC's thread takes frames
out of the line and sends them; a thread of ours receives answers and wakes the callers.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import grpc

from kvclient import _errors as errors
from kvclient._calls import session_message
from kvclient._connection import Connection
from kvclient._frames import Waiter
from kvclient._joiner import Joiner, MakeKey
from kvclient._link import LEAVE_S
from kvclient._many import Many
from kvclient._operations import Operation
from kvproto.v1 import kv_pb2


class BlockedCaller:
    """Waits for one outcome in its own thread."""

    __slots__ = ("_error", "_over", "_result", "_wakes")

    def __init__(self) -> None:
        self._wakes = threading.Lock()
        self._wakes.acquire()
        self._over = False
        self._result: Any = None
        self._error: BaseException | None = None

    def done(self) -> bool:
        """Return whether the outcome is known, or nobody waits for it any more."""
        return self._over

    def set_result(self, result: Any) -> None:
        """Tell what came of it."""
        self._result = result
        self._over = True
        self._wakes.release()

    def set_exception(self, error: BaseException) -> None:
        """Tell why nothing came of it."""
        self._error = error
        self._over = True
        self._wakes.release()

    def wait(self, timeout_s: float) -> bool:
        """Sleep until the outcome is known, or the time is up; return whether it is known."""
        return self._wakes.acquire(timeout=min(max(timeout_s, 0.0), threading.TIMEOUT_MAX))

    def outcome(self) -> Any:
        """Return the result, or raise the error."""
        if self._error is not None:
            raise self._error
        return self._result

    def give_up(self) -> None:
        """Wait no longer."""
        self._over = True


class Stream:
    """One stream, of reads or of writes; it begins with the first operation and begins anew when it was lost."""

    def __init__(self, connection: Connection, namespace: str, make_key: MakeKey | None = None, max_lag_ms: int = 0) -> None:
        self._connection = connection
        self._namespace = namespace
        self._max_lag_ms = max_lag_ms
        self._closed = False
        self._mutex = threading.Lock()
        self._changed = threading.Condition(self._mutex)
        """Only for waiting and waking: ``with`` takes the lock itself, which no interrupt can leave half taken."""
        self._joiner = Joiner(self._on_work, connection.retry, make_key)
        self._thread: threading.Thread | None = None
        self._call: Any = None

    def run(self, operation: Operation[Any], limit_s: float) -> Any:
        """Carry out an operation, together with those of other threads; return its result or raise its error."""
        caller = BlockedCaller()
        deadline = time.monotonic() + limit_s
        try:
            with self._mutex:
                self._add(operation, deadline, caller)
            while not caller.wait(deadline - time.monotonic()):
                self._expire()
        except BaseException:
            caller.give_up()
            raise
        return caller.outcome()

    def run_many(self, operations: Iterable[Operation[Any]], many: Many, room: threading.Event, limit_s: float) -> None:
        """Carry out many operations, so many at a time that the frames are full; return when each has its outcome.

        After a failure no further one is begun. ``room`` is what ``many`` notifies.
        """
        begun = iter(operations)
        try:
            while many.goes_on:
                if not many.has_room:
                    self._wait_for(lambda: many.has_room or not many.goes_on, room)
                    continue
                try:
                    operation = next(begun)
                except StopIteration:
                    break
                except Exception as error:  # the caller's own; what was begun is carried out first
                    many.fault = error
                    break
                with self._mutex:
                    place = many.waiter(operation.size_bytes)
                    try:
                        self._add(operation, time.monotonic() + limit_s, place)
                    except errors.KvClientError as error:
                        place.set_exception(error)
            self._wait_for(lambda: many.finished, room)
        finally:
            many.given_up = True

    def close(self) -> None:
        """End the stream; what was under way is unknown if it wrote, what stood in line was never sent."""
        endpoint = self._connection.endpoints.current
        with self._mutex:
            self._closed = True
            self._joiner.lost(lambda writes: errors.cut_off(endpoint, writes=writes), math.inf, closing=True)
            self._joiner.fail_line(errors.ClientClosed)
            self._changed.notify_all()
            call = self._call
        if call is not None:
            call.cancel()

    def _add(self, operation: Operation[Any], deadline: float, waiter: Waiter) -> None:
        if self._connection.closed:
            raise errors.ClientClosed()
        try:
            self._joiner.add(*operation, deadline, waiter)
        except BaseException:
            self._joiner.repair(operation.kind)
            raise

    def _wait_for(self, condition: Any, room: threading.Event) -> None:
        while not condition():
            room.clear()
            if condition():
                return
            with self._mutex:
                due = self._joiner.next_due()
            if not room.wait(min(max(due - time.monotonic(), 0.0), threading.TIMEOUT_MAX)):
                self._expire()

    def _on_work(self) -> None:
        """Called by the joiner, under the lock: something is to be sent, now or later."""
        self._changed.notify_all()
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="kvclient-stream", daemon=True)
            thread.start()
            self._thread = thread

    # -- the stream -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        """Keep a stream as long as the client is open, and find a new one when it was lost. The thread's whole life."""
        connection = self._connection
        while self._wait_for_work():
            try:
                with self._mutex:
                    deadline = self._joiner.last_deadline()
                connection.connect(deadline)
            except Exception as error:
                with self._mutex:
                    self._not_connected(error)
                continue
            self._serve()

    def _not_connected(self, error: Exception) -> None:
        """Tell those in line that no node is there, or only those who have waited for one until now."""
        if not isinstance(error, errors.KvClientError):
            error = errors.client_fault(error)
        waits = self._connection.wait_for_ready and isinstance(error, errors.Unavailable)
        if not waits and not isinstance(error, errors.NotPrimary):
            self._joiner.fail_line(partial(errors.again, error))
        self._expire_locked()

    def _wait_for_work(self, ended: threading.Event | None = None) -> bool:
        """Sleep until there is something to send; return False when there will be nothing any more."""
        with self._mutex:
            while not self._joiner.has_work:
                if self._connection.closed or self._closed or (ended is not None and ended.is_set()):
                    return False
                due = self._joiner.next_due()
                if not self._changed.wait(
                    None if math.isinf(due) else min(max(due - time.monotonic(), 0), threading.TIMEOUT_MAX)
                ):
                    self._expire_locked()
            return True

    def _serve(self) -> None:
        """Send and receive over one stream until it ends."""
        connection = self._connection
        endpoint, stubs = connection.connected
        ended = threading.Event()
        failure: grpc.RpcError | None = None
        error: errors.KvClientError
        try:
            self._call = stubs["KV"].Pipeline(self._requests(ended))
            self._receive(self._call, endpoint, ended)
            error = errors.outcome_unknown("the server ended the stream")
        except grpc.RpcError as rpc_error:
            failure, error = rpc_error, connection.error_of(rpc_error, endpoint, writes=True)
        except errors.KvClientError as unfit:  # an answer to nothing that was asked
            error = unfit
        except Exception as fault:
            error = errors.ClientClosed() if connection.closed else errors.client_fault(fault)
        ended.set()
        with self._mutex:
            call, self._call = self._call, None
            self._changed.notify_all()
            make_error = partial(errors.of_lost_stream, failure, error, endpoint)
            self._joiner.lost(make_error, time.monotonic(), carried_out=error.code != "NOT_SERVING")
        if call is not None:
            call.cancel()

    def _leave(self, ended: threading.Event) -> None:
        """Send no more on this stream: wait for the answers that are missing, but not for long. Under the lock."""
        if not ended.is_set():
            ended.set()
            self._changed.notify_all()
            if self._call is not None:
                timer = threading.Timer(LEAVE_S, self._call.cancel)
                timer.daemon = True
                timer.start()

    def _receive(self, call: Any, endpoint: str, ended: threading.Event) -> None:
        joiner, connection = self._joiner, self._connection
        for answer in call:
            if not answer.rejected:  # a refusal shows nothing; after HISTORY_LOST it would move the session on to what there is
                connection.admit(answer.header, endpoint, writes=False)
            with self._mutex:
                joiner.settle(answer, time.monotonic())
                if answer.failures and connection.leaves_after(answer, endpoint):
                    self._leave(ended)
                if joiner.has_work:
                    self._changed.notify_all()

    def _requests(self, ended: threading.Event) -> Iterator[kv_pb2.PipelineRequest]:
        """Make the stream's messages; runs in a thread of gRPC's."""
        session = self._connection.session
        while self._wait_for_work(ended):
            with self._mutex:
                if self._connection.looks_again:
                    self._leave(ended)
                if ended.is_set():  # what were taken from now on would be under way on no stream
                    return
                frame = self._joiner.next_frame()
            if frame is not None:
                yield frame.request(self._namespace, session_message(session.token) if frame.reads else None, self._max_lag_ms)

    # -- time -----------------------------------------------------------------------------------------------------

    def _expire(self) -> None:
        with self._mutex:
            self._expire_locked()

    def _expire_locked(self) -> None:
        endpoint = self._connection.endpoints.current
        self._joiner.expire(
            time.monotonic(),
            lambda writes: (
                (self._call is None and self._connection.nobody())
                or errors.not_sent_in_time(endpoint, writes=writes, connected=self._call is not None)
            ),
            lambda writes: errors.not_answered_in_time(endpoint, writes=writes),
        )
