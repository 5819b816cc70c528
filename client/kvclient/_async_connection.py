"""The asyncio client's way to a node: connecting, unary calls, and what their failures mean."""

from __future__ import annotations

import asyncio
import contextlib
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
from kvclient._link import WHO_IS_PRIMARY, Connected, Link, primary_known_to
from kvclient._retry import Retry, Tries
from kvclient._scan import ScanCursor
from kvclient._search import PROBE, Role, Seek, role_of
from kvclient._session import SessionTracker
from kvclient._types import Entry, SessionToken
from kvproto.v1 import admin_pb2_grpc, cluster_pb2_grpc, kv_pb2_grpc

ResultT = TypeVar("ResultT")


class AsyncConnection(Link):
    """Speaks to one of the endpoints, and goes on to the next when it is gone. Belongs to one event loop."""

    def __init__(
        self,
        endpoints: str | Sequence[str],
        timeout_s: float,
        wait_for_ready: bool,
        session: SessionToken | SessionTracker,
        retry: Retry,
        seek: Seek = Seek.NODE,
        beside: AsyncConnection | None = None,
    ) -> None:
        """``beside``: another connection of the same client, with which this one shares its channels."""
        super().__init__(endpoints, timeout_s, wait_for_ready, session, retry, seek)
        self._connecting = asyncio.Lock()
        self._channels: dict[str, grpc.aio.Channel] = {} if beside is None else beside._channels

    def beside(self, seek: Seek) -> AsyncConnection:
        """Return a connection of the same client that looks for other nodes."""
        return AsyncConnection(self.endpoints.given, self._timeout_s, self.wait_for_ready, self.session, self.retry, seek, self)

    async def close(self) -> None:
        """End all connections; calls under way end with an error."""
        self.closed = True
        for channel in self._channels.values():
            await channel.close()

    async def run(self, call: calls.Call[ResultT], timeout_s: float | None) -> ResultT:
        """Send a unary call and read its answer, again where that is safe; a cancelled task cancels it and stays cancelled."""
        deadline = time.monotonic() + self.limit_s(timeout_s)
        tries = Tries(self.retry, deadline)
        while True:
            await self.connect(deadline)  # that there is no connection is told at once
            try:
                return await self._send(call, deadline)
            except errors.KvClientError as error:
                pause_s = tries.next_pause_s(error, writes=call.writes)
                if pause_s is None or self.closed:
                    raise
            await asyncio.sleep(pause_s)

    async def _send(self, call: calls.Call[ResultT], deadline: float) -> ResultT:
        endpoint, stubs = self.connected
        with self.failures(endpoint, writes=call.writes):
            send = getattr(stubs[call.service], call.method)
            answer = await send(call.request, timeout=grpc_timeout_s(deadline - time.monotonic()))
        self.admit_answer(answer, endpoint, deadline, writes=call.writes)
        return call.parse(answer)

    @contextlib.contextmanager
    def failures(self, endpoint: str, *, writes: bool) -> Iterator[None]:
        """Turn what gRPC raises within the block into the client's own errors."""
        try:
            yield
        except grpc.RpcError as failure:
            raise self.error_of(failure, endpoint, writes=writes) from failure
        except asyncio.CancelledError as cancelled:
            if not self.cancelled_by_close():
                raise
            self.leave(endpoint, turn=False)
            why = "the client was closed" if self.closed else "the connection was closed"
            raise errors.cut_off(endpoint, writes=writes, why=why) from cancelled
        except grpc.aio.UsageError as error:  # the channel was closed between the check and the call; nothing was sent
            raise self._never_sent(endpoint) from error

    async def connect(self, deadline: float) -> None:
        """Return when there is a connection; raise Unavailable where there is none, which proves that nothing was sent.

        A harmless probe goes first, because gRPC cannot tell afterwards whether a request that failed had left. Each endpoint
        is tried once, beginning with the current one.
        """
        if self.closed:
            raise errors.ClientClosed()
        if self._ready and not self.looks_again:
            return
        remaining_s = deadline - time.monotonic()
        try:
            async with asyncio.timeout(None if math.isinf(remaining_s) else remaining_s):
                await self._connecting.acquire()
        except TimeoutError as error:
            raise self.nobody() or errors.unreachable(self.endpoints.current, "DEADLINE_EXCEEDED", "") from error
        try:
            if not self._ready:
                await self._search(deadline)
                self._ready = True
        finally:
            self._connecting.release()

    async def _search(self, deadline: float) -> None:
        """Find a node of the kind looked for; see ``Search``."""
        search = self._begin_search()
        while True:
            error: errors.KvClientError = errors.unreachable(self.endpoints.current, "DEADLINE_EXCEEDED", "")
            named = ""
            try:
                if search.takes(await self._probe(self._probe_options(deadline))):
                    self._found(search)
                    return
                if search.asks_for_primary:
                    named = await self._who_is_primary(deadline)
            except errors.Unavailable as failure:
                error = failure
            if not search.go_on(named):
                await asyncio.sleep(self._pause_behind(search, error, deadline))

    async def _who_is_primary(self, deadline: float) -> str:
        """Ask the node that was probed; empty where it does not know, or does not say."""
        try:
            ask = self.connected.stubs["Cluster"].ClusterStatus
            answer = await ask(WHO_IS_PRIMARY, timeout=self._probe_options(deadline)["timeout"])
        except (grpc.RpcError, grpc.aio.UsageError):
            return ""
        except asyncio.CancelledError as cancelled:
            if not self.cancelled_by_close():
                raise
            raise self._never_sent(self.connected.endpoint) from cancelled
        return primary_known_to(answer)

    async def _probe(self, options: dict[str, Any]) -> Role:
        """Ask the current endpoint for a sign of life, and what it is. Raises Unavailable."""
        if self.closed:
            raise errors.ClientClosed()
        endpoint = self.endpoints.current
        answer = None
        channel = self._channels.get(endpoint)
        if channel is None:  # made here, not in the constructor: it belongs to the running event loop
            channel = grpc.aio.insecure_channel(self.endpoints.current_target, options=CHANNEL_OPTIONS)
            self._channels[endpoint] = channel
        health: Any = channel.unary_unary(HEALTH_METHOD)
        try:
            answer = await health(PROBE, **options)
        except grpc.RpcError as failure:
            if failure.code() is grpc.StatusCode.UNAVAILABLE:
                # A channel that failed once waits for seconds before it tries again; a new one does not.
                if self._channels.get(endpoint) is channel:
                    del self._channels[endpoint]
                await channel.close()
            errors.check_probe(failure, endpoint)
        except asyncio.CancelledError as cancelled:
            if not self.cancelled_by_close():
                raise
            raise self._never_sent(endpoint) from cancelled
        except grpc.aio.UsageError as error:
            raise self._never_sent(endpoint) from error
        stubs = {"KV": kv_pb2_grpc.KVStub(channel), "Admin": admin_pb2_grpc.AdminStub(channel)}
        stubs["Cluster"] = cluster_pb2_grpc.ClusterStub(channel)
        self.connected = Connected(endpoint, stubs)
        return role_of(answer)

    def _never_sent(self, endpoint: str) -> errors.KvClientError:
        """Return the error of a call on a channel that was closed before: by ``close``, or by another call that found it dead."""
        return errors.ClientClosed() if self.closed else errors.unreachable(endpoint, "UNAVAILABLE", "the connection was closed")

    def cancelled_by_close(self) -> bool:
        """Tell a call that ended with its channel from a task that was cancelled; gRPC raises the same for both.

        A channel ends with the client, or when another call found it dead.
        """
        task = asyncio.current_task()
        return task is not None and not task.cancelling()

    async def scan(self, cursor: ScanCursor, limit_s: float) -> AsyncGenerator[Entry, None]:
        """Bring the entries of a scan; the call under way is cancelled however the iteration ends."""
        tries = Tries(self.retry)
        while not cursor.finished:
            deadline = tries.deadline = time.monotonic() + limit_s
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
                        self.admit(chunk.header, endpoint, writes=False)
                        for entry in cursor.take(chunk):
                            yield entry
                    cursor.check_ended()
            except errors.KvClientError as error:
                if not cursor.resume_after(error):
                    pause_s = tries.next_pause_s(error, writes=False)
                    if pause_s is None or self.closed:
                        raise
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
