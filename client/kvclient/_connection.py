"""The blocking client's way to a node: connecting, unary calls, and what their failures mean; safe for many threads."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any, TypeVar

import grpc

from kvclient import _calls as calls
from kvclient import _errors as errors
from kvclient._channel import CHANNEL_OPTIONS, HEALTH_METHOD, checked_timeout_s, grpc_timeout_s
from kvclient._endpoints import Endpoints
from kvclient._retry import Retry
from kvclient._scan import ScanCursor
from kvclient._session import SessionTracker
from kvclient._types import Entry, SessionToken
from kvproto.v1 import admin_pb2_grpc, kv_pb2_grpc

ResultT = TypeVar("ResultT")


class Connection:
    """Speaks to one of the endpoints, and goes on to the next when it is gone."""

    def __init__(
        self, endpoints: str | Sequence[str], timeout_s: float, wait_for_ready: bool, session: SessionToken, retry: Retry
    ) -> None:
        self.endpoints = Endpoints(endpoints)
        self.session = SessionTracker(session)
        self.retry = retry
        self.closed = False
        self._timeout_s = checked_timeout_s(timeout_s)
        self.wait_for_ready = wait_for_ready
        self._connecting = threading.Lock()
        self._ready = False
        self._channels: dict[str, grpc.Channel] = {}
        self._stubs: dict[str, Any] = {}

    def limit_s(self, timeout_s: float | None) -> float:
        """Return how long a call may take."""
        return self._timeout_s if timeout_s is None else checked_timeout_s(timeout_s)

    def close(self) -> None:
        """End all connections; calls under way end with an error."""
        self.closed = True
        for channel in tuple(self._channels.values()):
            channel.close()

    def stub(self, service: str) -> Any:
        """Return the calls of a service at the node connected to; only behind ``connect``."""
        return self._stubs[service]

    def run(self, call: calls.Call[ResultT], timeout_s: float | None) -> ResultT:
        """Send a unary call and read its answer, again where that is safe."""
        deadline = time.monotonic() + self.limit_s(timeout_s)
        attempt = 1
        while True:
            self.connect(deadline)  # that there is no connection is told at once
            try:
                return self._send(call, deadline)
            except errors.KvClientError as error:
                pause_s = self.retry.next_pause_s(error, attempt, deadline - time.monotonic(), writes=call.writes)
                if pause_s is None:
                    raise
            time.sleep(pause_s)
            attempt += 1

    def _send(self, call: calls.Call[ResultT], deadline: float) -> ResultT:
        with self.failures(writes=call.writes):
            send = getattr(self._stubs[call.service], call.method)
            answer = send(call.request, timeout=grpc_timeout_s(deadline - time.monotonic()))
        self.session.observe(answer.header)
        return call.parse(answer)

    @contextlib.contextmanager
    def failures(self, *, writes: bool) -> Iterator[None]:
        """Turn what gRPC raises within the block into the client's own errors."""
        endpoint = self.endpoints.current
        try:
            yield
        except grpc.RpcError as failure:
            raise self.error_of(failure, endpoint, writes=writes) from failure
        except ValueError as error:  # the channel was closed between the check and the call; nothing was sent
            raise self._closed_or(error) from error

    def error_of(self, failure: grpc.RpcError, endpoint: str, *, writes: bool) -> errors.KvClientError:
        """Return what a failed call means; the next one looks for a connection before it sends, if this one is gone."""
        error = errors.from_rpc(failure, writes=writes, endpoint=endpoint)
        if not error.from_server or error.code == "NOT_SERVING":
            self.leave(endpoint)
        return error

    def leave(self, endpoint: str) -> None:
        """Have the next call look for a connection first, at the next endpoint."""
        with self._connecting:
            if self._ready and endpoint == self.endpoints.current:
                self._ready = False
                self.endpoints.turn()

    def connect(self, deadline: float) -> None:
        """Return when there is a connection; raise Unavailable where there is none, which proves that nothing was sent.

        A harmless probe goes first, because gRPC cannot tell afterwards whether a request that failed had left. Each endpoint
        is tried once, beginning with the current one.
        """
        if self.closed:
            raise errors.ClientClosed()
        if self._ready:
            return
        if not self._connecting.acquire(timeout=min(max(deadline - time.monotonic(), 0.0), threading.TIMEOUT_MAX)):
            raise errors.unreachable(self.endpoints.current, "DEADLINE_EXCEEDED", "")
        try:
            if not self._ready:
                self._try_all(deadline)
                self._ready = True
        finally:
            self._connecting.release()

    def _try_all(self, deadline: float) -> None:
        for left in range(len(self.endpoints), 0, -1):
            try:
                self._probe(min(deadline, time.monotonic() + (deadline - time.monotonic()) / left))
                return
            except errors.Unavailable:
                self.endpoints.turn()
                if left == 1:
                    raise

    def _probe(self, deadline: float) -> None:
        if self.closed:
            raise errors.ClientClosed()
        endpoint = self.endpoints.current
        channel = self._channels.get(endpoint)
        if channel is None:
            channel = self._channels[endpoint] = grpc.insecure_channel(self.endpoints.current_target, options=CHANNEL_OPTIONS)
        timeout = grpc_timeout_s(deadline - time.monotonic())
        health: Any = channel.unary_unary(HEALTH_METHOD)
        try:
            health(b"", timeout=timeout, wait_for_ready=self.wait_for_ready)
        except grpc.RpcError as failure:
            if self.closed:
                raise errors.ClientClosed() from failure
            try:
                errors.check_probe(failure, endpoint)
            except errors.Unavailable:  # a channel that failed once waits for seconds before it tries again; a new one does not
                self._channels.pop(endpoint).close()
                raise
        except ValueError as error:
            raise self._closed_or(error) from error
        self._stubs = {"KV": kv_pb2_grpc.KVStub(channel), "Admin": admin_pb2_grpc.AdminStub(channel)}

    def _closed_or(self, error: ValueError) -> Exception:
        """Return ClientClosed where that is what gRPC's ValueError means, else the error as it is."""
        return errors.ClientClosed() if self.closed else error

    def scan(self, cursor: ScanCursor, limit_s: float) -> Generator[Entry, None, None]:
        """Bring the entries of a scan; the call under way is cancelled however the iteration ends."""
        while not cursor.finished:
            deadline = time.monotonic() + limit_s
            self.connect(deadline)
            call = None
            try:
                with self.failures(writes=False):
                    timeout = grpc_timeout_s(deadline - time.monotonic())
                    call = self._stubs["KV"].Scan(cursor.next_request(), timeout=timeout)
                    for chunk in call:
                        self.session.observe(chunk.header)
                        yield from cursor.take(chunk)
                    cursor.check_ended()
            except errors.KvClientError as error:
                if not cursor.resume_after(error):
                    raise
            finally:
                if call is not None:
                    call.cancel()
