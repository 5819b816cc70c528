"""The blocking client's way to a node: connecting, unary calls, and what their failures mean; safe for many threads."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any, TypeVar

import grpc

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


class Connection(Link):
    """Speaks to one of the endpoints, and goes on to the next when it is gone."""

    def __init__(
        self,
        endpoints: str | Sequence[str],
        timeout_s: float,
        wait_for_ready: bool,
        session: SessionToken | SessionTracker,
        retry: Retry,
        seek: Seek = Seek.NODE,
        beside: Connection | None = None,
    ) -> None:
        """``beside``: another connection of the same client, with which this one shares its channels."""
        super().__init__(endpoints, timeout_s, wait_for_ready, session, retry, seek)
        self._connecting = threading.Lock()
        self._making: threading.Lock = threading.Lock() if beside is None else beside._making
        """Held while channels are made or closed: to make a stub on a channel that was closed ends the process."""
        self._channels: dict[str, tuple[grpc.Channel, dict[str, Any]]] = {} if beside is None else beside._channels

    def beside(self, seek: Seek) -> Connection:
        """Return a connection of the same client that looks for other nodes."""
        return Connection(self.endpoints.given, self._timeout_s, self.wait_for_ready, self.session, self.retry, seek, self)

    def close(self) -> None:
        """End all connections; calls under way end with an error."""
        self.closed = True
        with self._making:
            for channel, _ in self._channels.values():
                channel.close()

    def run(self, call: calls.Call[ResultT], timeout_s: float | None) -> ResultT:
        """Send a unary call and read its answer, again where that is safe."""
        deadline = time.monotonic() + self.limit_s(timeout_s)
        tries = Tries(self.retry, deadline)
        while True:
            self.connect(deadline)  # that there is no connection is told at once
            try:
                return self._send(call, deadline)
            except errors.KvClientError as error:
                pause_s = tries.next_pause_s(error, writes=call.writes)
                if pause_s is None or self.closed:
                    raise
            time.sleep(pause_s)

    def _send(self, call: calls.Call[ResultT], deadline: float) -> ResultT:
        endpoint, stubs = self.connected
        with self.failures(endpoint, writes=call.writes):
            send = getattr(stubs[call.service], call.method)
            answer = send(call.request, timeout=grpc_timeout_s(deadline - time.monotonic()))
        self.admit_answer(answer, endpoint, deadline, writes=call.writes)
        return call.parse(answer)

    @contextlib.contextmanager
    def failures(self, endpoint: str, *, writes: bool) -> Iterator[None]:
        """Turn what gRPC raises within the block into the client's own errors."""
        try:
            yield
        except grpc.RpcError as failure:
            raise self.error_of(failure, endpoint, writes=writes) from failure
        except ValueError as error:  # the channel was closed between the check and the call; nothing was sent
            raise self._never_sent(endpoint) from error

    def connect(self, deadline: float) -> None:
        """Return when there is a connection; raise Unavailable where there is none, which proves that nothing was sent.

        A harmless probe goes first, because gRPC cannot tell afterwards whether a request that failed had left. Each endpoint
        is tried once, beginning with the current one.
        """
        if self.closed:
            raise errors.ClientClosed()
        if self._ready and not self.looks_again:
            return
        if not self._connecting.acquire(timeout=min(max(deadline - time.monotonic(), 0.0), threading.TIMEOUT_MAX)):
            raise self.nobody() or errors.unreachable(self.endpoints.current, "DEADLINE_EXCEEDED", "")
        try:
            if not self._ready:
                self._search(deadline)
                self._ready = True
        finally:
            self._connecting.release()

    def _search(self, deadline: float) -> None:
        """Find a node of the kind looked for; see ``Search``."""
        search = self._begin_search()
        while True:
            error: errors.KvClientError = errors.unreachable(self.endpoints.current, "DEADLINE_EXCEEDED", "")
            named = ""
            try:
                if search.takes(self._probe(self._probe_options(deadline))):
                    self._found(search)
                    return
                if search.asks_for_primary:
                    named = self._who_is_primary(deadline)
            except errors.Unavailable as failure:
                error = failure
            if not search.go_on(named):
                time.sleep(self._pause_behind(search, error, deadline))

    def _who_is_primary(self, deadline: float) -> str:
        """Ask the node that was probed; empty where it does not know, or does not say."""
        try:
            answer = self.connected.stubs["Cluster"].ClusterStatus(
                WHO_IS_PRIMARY, timeout=self._probe_options(deadline)["timeout"]
            )
        except (grpc.RpcError, ValueError):
            return ""
        return primary_known_to(answer)

    def _probe(self, options: dict[str, Any]) -> Role:
        """Ask the current endpoint for a sign of life, and what it is. Raises Unavailable."""
        endpoint = self.endpoints.current
        answer = None
        channel, stubs = self._channel()
        health: Any = channel.unary_unary(HEALTH_METHOD)
        try:
            answer = health(PROBE, **options)
        except grpc.RpcError as failure:
            if self.closed:
                raise errors.ClientClosed() from failure
            if failure.code() is grpc.StatusCode.UNAVAILABLE:
                # A channel that failed once waits for seconds before it tries again; a new one does not.
                with self._making:
                    if self._channels.get(endpoint, (None,))[0] is channel:
                        del self._channels[endpoint]
                    channel.close()
            errors.check_probe(failure, endpoint)
        except ValueError as error:
            raise self._never_sent(endpoint) from error
        self.connected = Connected(endpoint, stubs)
        return role_of(answer)

    def _channel(self) -> tuple[grpc.Channel, dict[str, Any]]:
        """Return the channel to the current endpoint and the calls over it."""
        endpoint = self.endpoints.current
        with self._making:
            if self.closed:
                raise errors.ClientClosed()
            if endpoint not in self._channels:
                channel = grpc.insecure_channel(self.endpoints.current_target, options=CHANNEL_OPTIONS)
                stubs = {"KV": kv_pb2_grpc.KVStub(channel), "Admin": admin_pb2_grpc.AdminStub(channel)}
                stubs["Cluster"] = cluster_pb2_grpc.ClusterStub(channel)
                self._channels[endpoint] = (channel, stubs)
            return self._channels[endpoint]

    def _never_sent(self, endpoint: str) -> errors.KvClientError:
        """Return the error of a call on a channel that was closed before: by ``close``, or by another call that found it dead."""
        return errors.ClientClosed() if self.closed else errors.unreachable(endpoint, "UNAVAILABLE", "the connection was closed")

    def scan(self, cursor: ScanCursor, limit_s: float) -> Generator[Entry, None, None]:
        """Bring the entries of a scan; the call under way is cancelled however the iteration ends."""
        tries = Tries(self.retry)
        while not cursor.finished:
            deadline = tries.deadline = time.monotonic() + limit_s
            self.connect(deadline)
            endpoint, stubs = self.connected
            call = None
            try:
                with self.failures(endpoint, writes=False):
                    timeout = grpc_timeout_s(deadline - time.monotonic())
                    call = stubs["KV"].Scan(cursor.next_request(), timeout=timeout)
                    for chunk in call:
                        self.admit(chunk.header, endpoint, writes=False)
                        yield from cursor.take(chunk)
                    cursor.check_ended()
            except errors.KvClientError as error:
                if not cursor.resume_after(error):
                    pause_s = tries.next_pause_s(error, writes=False)
                    if pause_s is None or self.closed:
                        raise
                    cursor.resume()
                    time.sleep(pause_s)
            finally:
                if call is not None:
                    call.cancel()

    def backup(self, cursor: archive_calls.BackupCursor, limit_s: float) -> Generator[BackupProgress, None, None]:
        """Bring the progress of a backup; the call is cancelled however the iteration ends. It is never begun twice."""
        self.connect(time.monotonic() + limit_s)
        endpoint, stubs = self.connected
        late = threading.Event()
        call = None
        try:
            with self.failures(endpoint, writes=False):
                call = stubs["Admin"].CreateBackup(cursor.request)
                while True:
                    try:
                        with _cancelled_after(limit_s, call, late):
                            answer = next(call)
                    except StopIteration:
                        break
                    except grpc.RpcError:
                        if not late.is_set():
                            raise
                        raise errors.not_answered_in_time(endpoint, writes=False) from None
                    self.session.observe(answer.header)
                    yield cursor.take(answer)
                cursor.check_ended()
        finally:
            if call is not None:
                call.cancel()


@contextlib.contextmanager
def _cancelled_after(limit_s: float, call: Any, late: threading.Event) -> Iterator[None]:
    """Cancel a call if the block takes too long: gRPC itself bounds whole calls only."""

    def give_up() -> None:
        late.set()
        call.cancel()

    timer = threading.Timer(min(limit_s, threading.TIMEOUT_MAX), give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
