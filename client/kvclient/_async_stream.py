"""Drives a ``Joiner`` over a Pipeline stream of grpc.aio: two tasks while there is a stream, one timer while somebody waits."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable
from functools import partial
from typing import Any

import grpc
import grpc.aio

from kvclient import _errors as errors
from kvclient._async_connection import AsyncConnection
from kvclient._calls import session_message
from kvclient._channel import checked_timeout_s
from kvclient._frames import Kind, Waiter
from kvclient._joiner import Joiner, MakeKey
from kvclient._link import LEAVE_S
from kvclient._many import Many
from kvclient._operations import Operation


class AsyncStream:
    """One stream, of reads or of writes; it begins with the first operation and begins anew when it was lost."""

    def __init__(self, connection: AsyncConnection, namespace: str, make_key: MakeKey | None = None, max_lag_ms: int = 0) -> None:
        self._connection = connection
        self._namespace = namespace
        self._max_lag_ms = max_lag_ms
        self._limit_s = connection.limit_s(None)
        self._joiner = Joiner(self._on_work, connection.retry, make_key)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._work = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._connected = False
        self._leaving = False
        """What is sent from now on goes to another node; this stream only brings the answers that are missing."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def add(self, kind: Kind, key: Any, value: bytes, size_bytes: int, timeout_s: float | None) -> asyncio.Future[Any]:
        """Put an operation in line and return the future of its outcome."""
        loop = self._loop or self._begin()
        if self._connection.closed:
            raise errors.ClientClosed()
        future = loop.create_future()
        deadline = loop.time() + (self._limit_s if timeout_s is None else checked_timeout_s(timeout_s))
        self._joiner.add(kind, key, value, size_bytes, deadline, future)
        if deadline < self._timer_at:
            self._set_timer(deadline)
        return future

    async def run_many(self, operations: Iterable[Operation[Any]], many: Many, room: asyncio.Event, limit_s: float) -> None:
        """Carry out many operations, so many at a time that the frames are full; return when each has its outcome.

        After a failure no further one is begun. ``room`` is what ``many`` notifies.
        """
        loop = self._loop or self._begin()
        begun = iter(operations)
        try:
            while many.goes_on:
                if not many.has_room:
                    room.clear()
                    await room.wait()
                    continue
                try:
                    operation = next(begun)
                except StopIteration:
                    break
                except Exception as error:  # the caller's own; what was begun is carried out first
                    many.fault = error
                    break
                place = many.waiter(operation.size_bytes)
                deadline = loop.time() + limit_s
                try:
                    self._add(operation, deadline, place)
                except errors.KvClientError as error:
                    place.set_exception(error)
                if deadline < self._timer_at:
                    self._set_timer(deadline)
            while not many.finished:
                room.clear()
                await room.wait()
        finally:
            many.given_up = True

    def _add(self, operation: Operation[Any], deadline: float, waiter: Waiter) -> None:
        if self._connection.closed:
            raise errors.ClientClosed()
        self._joiner.add(*operation, deadline, waiter)

    async def close(self) -> None:
        """End the stream; what was under way is unknown if it wrote, what stood in line was never sent."""
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        endpoint = self._connection.endpoints.current
        self._joiner.lost(lambda writes: errors.cut_off(endpoint, writes=writes), math.inf, closing=True)
        self._joiner.fail_line(errors.ClientClosed)

    def _begin(self) -> asyncio.AbstractEventLoop:
        self._loop = asyncio.get_running_loop()
        return self._loop

    # -- the stream -----------------------------------------------------------------------------------------------

    def _on_work(self) -> None:
        """Called by the joiner: something is to be sent, now or later."""
        self._work.set()
        due = self._joiner.next_due()
        if due < self._timer_at:
            self._set_timer(due)
        if self._task is None and self._loop is not None:
            self._task = self._loop.create_task(self._run())

    async def _run(self) -> None:
        """Keep a stream as long as there is something to send, and find a new one when it was lost. The task's whole life."""
        while True:
            while not self._joiner.has_work:
                self._set_timer(self._joiner.next_due())
                self._work.clear()
                await self._work.wait()
            try:
                await self._connection.connect(self._joiner.last_deadline())
            except Exception as error:
                self._not_connected(error)
                continue
            await self._serve()

    def _not_connected(self, error: Exception) -> None:
        """Tell those in line that no node is there, or only those who have waited for one until now."""
        if not isinstance(error, errors.KvClientError):
            error = errors.client_fault(error)
        waits = self._connection.wait_for_ready and isinstance(error, errors.Unavailable)
        if not waits and not isinstance(error, errors.NotPrimary):
            self._joiner.fail_line(partial(errors.again, error))
        self._on_timer()

    async def _serve(self) -> None:
        """Send and receive over one stream until it ends."""
        assert self._loop is not None
        connection = self._connection
        endpoint, stubs = connection.connected
        call = stubs["KV"].Pipeline()
        self._connected = True
        self._leaving = False
        sending = self._loop.create_task(self._send(call))
        try:
            await self._receive(call, endpoint)
            self._lost(errors.outcome_unknown("the server ended the stream"), endpoint)
        except grpc.RpcError as failure:
            self._lost(connection.error_of(failure, endpoint, writes=True), endpoint, failure)
        except errors.KvClientError as error:  # an answer to nothing that was asked
            self._lost(error, endpoint)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            self._lost(errors.outcome_unknown("the stream was cut off"), endpoint)  # by the sender, or by the channel's end
        except Exception as fault:
            self._lost(errors.client_fault(fault), endpoint)
        finally:
            self._connected = False
            sending.cancel()
            call.cancel()

    async def _send(self, call: Any) -> None:
        """Send frame by frame as they may be sent. However it ends, the receiver notices, and tells those who wait."""
        joiner, session = self._joiner, self._connection.session
        try:
            while not self._leaving:
                if self._connection.looks_again:
                    self._leave(call)
                    break
                frame = joiner.next_frame()
                if frame is None:
                    self._work.clear()
                    await self._work.wait()
                    continue
                seen = session_message(session.token) if frame.reads else None
                await call.write(frame.request(self._namespace, seen, self._max_lag_ms))
            await call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            return  # the stream has ended; the receiver learns how
        except Exception:
            call.cancel()
            raise

    def _leave(self, call: Any) -> None:
        """Send no more on this stream: wait for the answers that are missing, but not for long."""
        assert self._loop is not None
        if not self._leaving:
            self._leaving = True
            self._loop.call_later(LEAVE_S, call.cancel)
            self._work.set()

    async def _receive(self, call: Any, endpoint: str) -> None:
        assert self._loop is not None
        joiner, connection, time = self._joiner, self._connection, self._loop.time
        while (answer := await call.read()) is not grpc.aio.EOF:
            if answer is None:
                raise errors.ServerError("UNEXPECTED_STATUS", "an answer that cannot be read")
            if not answer.rejected:  # a refusal shows nothing; after HISTORY_LOST it would move the session on to what there is
                connection.admit(answer.header, endpoint, writes=False)
            joiner.settle(answer, time())
            if answer.failures and connection.leaves_after(answer, endpoint):
                self._leave(call)
            if joiner.has_work:
                self._work.set()

    def _lost(self, error: errors.KvClientError, endpoint: str, failure: grpc.RpcError | None = None) -> None:
        """Tell those under way, each in the words for what it did."""
        assert self._loop is not None
        make_error = partial(errors.of_lost_stream, failure, error, endpoint)
        self._joiner.lost(make_error, self._loop.time(), carried_out=error.code != "NOT_SERVING")

    # -- time -----------------------------------------------------------------------------------------------------

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timer_at = at
        if self._loop is not None and not math.isinf(at):
            self._timer = self._loop.call_at(at, self._on_timer)

    def _on_timer(self) -> None:
        assert self._loop is not None
        endpoint = self._connection.endpoints.current
        self._joiner.expire(
            self._loop.time(),
            lambda writes: (
                (not self._connected and self._connection.nobody())
                or errors.not_sent_in_time(endpoint, writes=writes, connected=self._connected)
            ),
            lambda writes: errors.not_answered_in_time(endpoint, writes=writes),
        )
        self._set_timer(self._joiner.next_due())
