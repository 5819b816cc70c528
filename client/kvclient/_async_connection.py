"""The asyncio client's way to a node: connecting, unary calls, and what their failures mean."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any, TypeVar

import grpc
import grpc.aio

from kvclient import _archive_calls as archive_calls
from kvclient import _calls as calls
from kvclient import _errors as errors
from kvclient._archive_types import BackupProgress
from kvclient._channel import CHANNEL_OPTIONS, HEALTH_METHOD, grpc_timeout_s
from kvclient._link import Connected, Link
from kvclient._retry import Retry
from kvclient._scan import ScanCursor
from kvclient._types import Entry, SessionToken
from kvproto.v1 import admin_pb2_grpc, kv_pb2_grpc

ResultT = TypeVar("ResultT")


class AsyncConnection(Link):
    """Speaks to one of the endpoints, and goes on to the next when it is gone. Belongs to one event loop."""

    def __init__(
        self, endpoints: str | Sequence[str], timeout_s: float, wait_for_ready: bool, session: SessionToken, retry: Retry
    ) -> None:
        super().__init__(endpoints, timeout_s, wait_for_ready, session, retry)
        self._connecting = asyncio.Lock()
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def close(self) -> None:
        """End all connections; calls under way end with an error."""
        self.closed = True
        for channel in self._channels.values():
            await channel.close()

    async def run(self, call: calls.Call[ResultT], timeout_s: float | None) -> ResultT:
        """Send a unary call and read its answer, again where that is safe; a cancelled task cancels it and stays cancelled."""
        deadline = time.monotonic() + self.limit_s(timeout_s)
        attempt = 1
        while True:
            await self.connect(deadline)  # that there is no connection is told at once
            try:
                return await self._send(call, deadline)
            except errors.KvClientError as error:
                pause_s = self.retry.next_pause_s(error, attempt, deadline - time.monotonic(), writes=call.writes)
                if pause_s is None or self.closed:
                    raise
            await asyncio.sleep(pause_s)
            attempt += 1

    async def _send(self, call: calls.Call[ResultT], deadline: float) -> ResultT:
        endpoint, stubs = self.connected
        with self.failures(endpoint, writes=call.writes):
            send = getattr(stubs[call.service], call.method)
            answer = await send(call.request, timeout=grpc_timeout_s(deadline - time.monotonic()))
        if (
            answer is None
        ):  # what gRPC brings of a call that ended in the very moment of its deadline, or of bytes that are no message
            raise errors.unreadable(endpoint, in_time=time.monotonic() < deadline, writes=call.writes)
        self.session.observe(answer.header)
        return call.parse(answer)

    @contextlib.contextmanager
    def failures(self, endpoint: str, *, writes: bool) -> Iterator[None]:
        """Turn what gRPC raises within the block into the client's own errors."""
        try:
            yield
        except grpc.RpcError as failure:
            raise self.error_of(failure, endpoint, writes=writes) from failure
        except asyncio.CancelledError as cancelled:
            if self.cancelled_by_close():
                raise errors.cut_off(endpoint, writes=writes) from cancelled
            raise
        except grpc.aio.UsageError as error:  # the channel was closed between the check and the call; nothing was sent
            raise self._never_sent(endpoint) from error

    async def connect(self, deadline: float) -> None:
        """Return when there is a connection; raise Unavailable where there is none, which proves that nothing was sent.

        A harmless probe goes first, because gRPC cannot tell afterwards whether a request that failed had left. Each endpoint
        is tried once, beginning with the current one.
        """
        if self.closed:
            raise errors.ClientClosed()
        if self._ready:
            return
        remaining_s = deadline - time.monotonic()
        try:
            async with asyncio.timeout(None if math.isinf(remaining_s) else remaining_s):
                await self._connecting.acquire()
        except TimeoutError as error:
            raise errors.unreachable(self.endpoints.current, "DEADLINE_EXCEEDED", "") from error
        try:
            if not self._ready:
                await self._try_all(deadline)
                self._ready = True
        finally:
            self._connecting.release()

    async def _try_all(self, deadline: float) -> None:
        """Find an endpoint that gives a sign of life; with ``wait_for_ready`` until the deadline."""
        for tried in itertools.count(1):
            try:
                await self._probe(self._probe_options(deadline))
                return
            except errors.Unavailable:
                self.endpoints.turn()
                pause_s = 0.0 if tried < len(self.endpoints) else self._next_round_s(tried, deadline)
                if pause_s is None or self.closed:
                    raise
            await asyncio.sleep(min(pause_s, max(deadline - time.monotonic(), 0.0)))

    async def _probe(self, options: dict[str, Any]) -> None:
        if self.closed:
            raise errors.ClientClosed()
        endpoint = self.endpoints.current
        channel = self._channels.get(endpoint)
        if channel is None:  # made here, not in the constructor: it belongs to the running event loop
            channel = grpc.aio.insecure_channel(self.endpoints.current_target, options=CHANNEL_OPTIONS)
            self._channels[endpoint] = channel
        health: Any = channel.unary_unary(HEALTH_METHOD)
        try:
            await health(b"", **options)
        except grpc.RpcError as failure:
            if failure.code() is grpc.StatusCode.UNAVAILABLE and self._channels.pop(endpoint, None) is not None:
                # A channel that failed once waits for seconds before it tries again; a new one does not.
                await channel.close()
            errors.check_probe(failure, endpoint)
        except asyncio.CancelledError as cancelled:
            if self.cancelled_by_close():
                raise errors.ClientClosed() from cancelled
            raise
        except grpc.aio.UsageError as error:
            raise self._never_sent(endpoint) from error
        stubs = {"KV": kv_pb2_grpc.KVStub(channel), "Admin": admin_pb2_grpc.AdminStub(channel)}
        self.connected = Connected(endpoint, stubs)

    def _never_sent(self, endpoint: str) -> errors.KvClientError:
        """Return the error of a call on a channel that was closed before: by ``close``, or by another call that found it dead."""
        return errors.ClientClosed() if self.closed else errors.unreachable(endpoint, "UNAVAILABLE", "the connection was closed")

    def cancelled_by_close(self) -> bool:
        """Tell a call that ended with its client from a task that was cancelled; gRPC raises the same for both."""
        task = asyncio.current_task()
        return self.closed and task is not None and not task.cancelling()

    async def scan(self, cursor: ScanCursor, limit_s: float) -> AsyncGenerator[Entry, None]:
        """Bring the entries of a scan; the call under way is cancelled however the iteration ends."""
        attempt = 1
        while not cursor.finished:
            deadline = time.monotonic() + limit_s
            await self.connect(deadline)
            endpoint, stubs = self.connected
            call = None
            try:
                with self.failures(endpoint, writes=False):
                    timeout = grpc_timeout_s(deadline - time.monotonic())
                    call = stubs["KV"].Scan(cursor.next_request(), timeout=timeout)
                    async for chunk in call:
                        if chunk is None:
                            raise errors.unreadable(endpoint, in_time=time.monotonic() < deadline, writes=False)
                        self.session.observe(chunk.header)
                        for entry in cursor.take(chunk):
                            yield entry
                    cursor.check_ended()
            except errors.KvClientError as error:
                if not cursor.resume_after(error):
                    pause_s = self.retry.next_pause_s(error, attempt, deadline - time.monotonic(), writes=False)
                    if pause_s is None or self.closed:
                        raise
                    attempt += 1
                    cursor.resume()
                    await asyncio.sleep(pause_s)
            finally:
                if call is not None:  # an abandoned call is never collected: without this it would stay open
                    call.cancel()

    async def backup(self, cursor: archive_calls.BackupCursor, limit_s: float) -> AsyncGenerator[BackupProgress, None]:
        """Bring the progress of a backup; the call is cancelled however the iteration ends. It is never begun twice."""
        await self.connect(time.monotonic() + limit_s)
        endpoint, stubs = self.connected
        call = None
        try:
            with self.failures(endpoint, writes=False):
                call = stubs["Admin"].CreateBackup(cursor.request)
                while True:
                    try:
                        async with asyncio.timeout(None if math.isinf(limit_s) else limit_s):
                            answer = await call.read()
                    except TimeoutError:
                        raise errors.not_answered_in_time(endpoint, writes=False) from None
                    if answer is grpc.aio.EOF:
                        break
                    if answer is None:
                        raise errors.unreadable(endpoint, in_time=True, writes=False)
                    self.session.observe(answer.header)
                    yield cursor.take(answer)
                cursor.check_ended()
        finally:
            if call is not None:
                call.cancel()
