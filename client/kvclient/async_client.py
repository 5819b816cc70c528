"""The asyncio client: the same calls as ``Client``, as coroutines and an asynchronous iterator."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import Any, TypeVar

import grpc
import grpc.aio

from kvclient import _calls as calls
from kvclient import _errors as errors
from kvclient._channel import (
    CHANNEL_OPTIONS,
    DEFAULT_TIMEOUT_S,
    HEALTH_METHOD,
    LONG_TIMEOUT_S,
    checked_timeout_s,
    grpc_timeout_s,
    target,
)
from kvclient._history import HistoryCursor
from kvclient._scan import ScanCursor
from kvclient._session import SessionTracker
from kvclient._types import (
    NO_SESSION,
    BatchResult,
    CheckpointResult,
    CompactResult,
    Delete,
    DeletePrefix,
    DeleteRange,
    DeleteResult,
    DropResult,
    Durability,
    Entry,
    FlushResult,
    HistoryEntry,
    Mutation,
    Namespace,
    SessionToken,
    Status,
    SyncResult,
    WriteResult,
)
from kvproto.v1 import admin_pb2_grpc, kv_pb2_grpc

ResultT = TypeVar("ResultT")


class AsyncClient:
    """A connection to one node, for asyncio; one client may be used by many tasks of one event loop at once.

        async with AsyncClient("127.0.0.1:7400") as kv:
            await kv.put(b"k", b"v")
            entry = await kv.get(b"k")

    ``namespace`` holds for every call. ``timeout_s`` is how long a call may take, in seconds, where the call does not
    say otherwise; it covers connecting. With ``wait_for_ready`` a server that is not there yet is waited for within
    that time, otherwise it is an Unavailable at once. ``session`` is a position that another client has seen.
    Raises ValueError for an endpoint that is not ``HOST:PORT``; every call raises KvClientError and its subclasses.
    """

    def __init__(
        self,
        endpoint: str,
        namespace: str = "",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        *,
        wait_for_ready: bool = False,
        session: SessionToken = NO_SESSION,
    ) -> None:
        self._endpoint = endpoint
        self._namespace = namespace
        self._timeout_s = checked_timeout_s(timeout_s)
        self._wait_for_ready = wait_for_ready
        self._session = SessionTracker(session)
        self._connecting = asyncio.Lock()
        self._ready = False
        self._closed = False
        self._target = target(endpoint)
        self._channel: grpc.aio.Channel | None = None
        self._health: Any = None
        self._stubs: dict[str, Any] = {}

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection. Calls under way end with an error; a second close does nothing."""
        self._closed = True
        if self._channel is not None:
            await self._channel.close()

    @property
    def session(self) -> SessionToken:
        """The highest position seen in answers; every read carries it."""
        return self._session.token

    def forget_session(self) -> None:
        """Forget what was seen, to read on after HistoryLost."""
        self._session.forget()

    async def get(
        self,
        key: bytes,
        *,
        revision: int | None = None,
        session: SessionToken | None = None,
        timeout_s: float | None = None,
    ) -> Entry | None:
        """Return a key's newest version, or the one at a past revision; None where the key does not exist.

        ``session`` replaces the client's own token for this read (``NO_SESSION`` waits for nothing).
        """
        return await self._run(calls.get(self._namespace, key, revision, self._token(session)), timeout_s)

    async def put(
        self,
        key: bytes,
        value: bytes,
        *,
        if_absent: bool = False,
        if_revision: int | None = None,
        durability: Durability = Durability.POLICY,
        timeout_s: float | None = None,
    ) -> WriteResult:
        """Put one key in a commit of its own; raise ConditionFailed where a condition does not hold.

        ``if_revision`` is the ``mod_revision`` that the key must have; 0 stands for a key that does not exist.
        """
        return await self._run(calls.put(self._namespace, key, value, if_absent, if_revision, durability), timeout_s)

    async def delete(
        self,
        key: bytes,
        *,
        if_revision: int | None = None,
        durability: Durability = Durability.POLICY,
        timeout_s: float | None = None,
    ) -> DeleteResult:
        """Delete one key; a key that is not there is no error, unless ``if_revision`` asks for it."""
        return await self._run(calls.delete(self._namespace, Delete(key, if_revision), durability), timeout_s)

    async def delete_range(
        self,
        start: bytes,
        end: bytes,
        *,
        durability: Durability = Durability.POLICY,
        timeout_s: float | None = None,
    ) -> DeleteResult:
        """Delete the keys ``k`` with ``start <= k < end`` in one commit; an empty bound is the namespace's own."""
        return await self._run(calls.delete(self._namespace, DeleteRange(start, end), durability), timeout_s)

    async def delete_prefix(
        self,
        prefix: bytes,
        *,
        durability: Durability = Durability.POLICY,
        timeout_s: float | None = None,
    ) -> DeleteResult:
        """Delete the keys that begin with ``prefix`` in one commit."""
        return await self._run(calls.delete(self._namespace, DeletePrefix(prefix), durability), timeout_s)

    async def write(
        self,
        mutations: Iterable[Mutation],
        *,
        durability: Durability = Durability.POLICY,
        timeout_s: float | None = None,
    ) -> BatchResult:
        """Carry out many mutations in one atomic commit: all of them or, when a condition fails, none."""
        return await self._run(calls.write(self._namespace, mutations, durability), timeout_s)

    def scan(
        self,
        prefix: bytes | None = None,
        *,
        start: bytes = b"",
        end: bytes = b"",
        reverse: bool = False,
        limit: int | None = None,
        keys_only: bool = False,
        revision: int | None = None,
        session: SessionToken | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[Entry]:
        """Return an iterator over the keys of a range or prefix, in order, all at one revision.

        ``start`` belongs to the range, ``end`` does not. ``timeout_s`` bounds the wait for progress.
        """
        cursor = calls.scan(
            self._namespace,
            prefix,
            start,
            end,
            self._token(session),
            revision=revision,
            limit=limit,
            reverse=reverse,
            keys_only=keys_only,
        )
        return self._stream(cursor, self._limit_s(timeout_s))

    async def count(
        self,
        prefix: bytes | None = None,
        *,
        start: bytes = b"",
        end: bytes = b"",
        revision: int | None = None,
        session: SessionToken | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Return how many keys a range or prefix has."""
        cursor = calls.scan(self._namespace, prefix, start, end, self._token(session), revision=revision, count_only=True)
        async for _ in self._stream(cursor, self._limit_s(timeout_s)):
            pass
        return cursor.count

    def history(
        self,
        key: bytes,
        *,
        limit: int | None = None,
        before_revision: int | None = None,
        session: SessionToken | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[HistoryEntry]:
        """Return an iterator over what was done to a key, newest first, as far back as history is kept.

        ``before_revision`` leaves out what was done at it and later. ``timeout_s`` bounds the wait for each part.
        """
        cursor = calls.history(self._namespace, key, limit, before_revision, self._token(session))
        return self._pages(cursor, timeout_s)

    async def sync(
        self,
        revision: int | None = None,
        level: Durability = Durability.POLICY,
        *,
        timeout_s: float | None = None,
    ) -> SyncResult:
        """Wait until a revision (None: the newest one assigned) has reached a level: POLICY or LOCAL."""
        return await self._run(calls.sync(revision, level), timeout_s)

    async def status(self, *, timeout_s: float | None = None) -> Status:
        """Return what the node is and how far it is."""
        return await self._run(calls.status(), timeout_s)

    async def create_namespace(self, name: str, *, timeout_s: float | None = None) -> Namespace:
        """Create a namespace; raise NamespaceExists if there is one of this name."""
        return await self._run(calls.create_namespace(name), timeout_s)

    async def list_namespaces(self, *, timeout_s: float | None = None) -> list[Namespace]:
        """Return all namespaces, by name, with what each holds; the default one has the empty name."""
        return await self._run(calls.list_namespaces(), timeout_s)

    async def drop_namespace(self, name: str, *, timeout_s: float | None = None) -> DropResult:
        """Drop a namespace with all its keys and their history; raise UnknownNamespace if there is none of this name."""
        return await self._run(calls.drop_namespace(name), timeout_s)

    async def compact(self, revision: int = 0, *, timeout_s: float | None = None) -> CompactResult:
        """Give up history, for good: revisions below this one (0: the newest visible one) can be read no more."""
        return await self._run(calls.compact(revision), timeout_s)

    async def flush(self, *, timeout_s: float = LONG_TIMEOUT_S) -> FlushResult:
        """Write what the node holds in memory into a table. After a Timeout the flush goes on without its caller."""
        return await self._run(calls.flush(), timeout_s)

    async def checkpoint(self, target_dir: str, *, timeout_s: float = LONG_TIMEOUT_S) -> CheckpointResult:
        """Copy the store into a folder on the node's own disk, from which another store can be opened.

        ``target_dir`` is an absolute path that does not exist yet, or an empty folder; TargetUnusable tells what is wrong
        with it. After a Timeout or an Unavailable the copy may still come to be there.
        """
        return await self._run(calls.checkpoint(target_dir), timeout_s)

    def _token(self, session: SessionToken | None) -> SessionToken:
        return self._session.token if session is None else session

    def _limit_s(self, timeout_s: float | None) -> float:
        return self._timeout_s if timeout_s is None else checked_timeout_s(timeout_s)

    async def _run(self, call: calls.Call[ResultT], timeout_s: float | None) -> ResultT:
        """Send a unary call and read its answer; a cancelled task cancels the call and stays cancelled."""
        deadline = time.monotonic() + self._limit_s(timeout_s)
        await self._connect(deadline)
        send = getattr(self._stubs[call.service], call.method)
        try:
            answer = await send(call.request, timeout=grpc_timeout_s(deadline - time.monotonic()))
        except grpc.RpcError as failure:
            raise self._error_of(failure, writes=call.writes) from failure
        except asyncio.CancelledError as cancelled:
            if self._cancelled_by_close():
                raise errors.cut_off(self._endpoint, writes=call.writes) from cancelled
            raise
        except grpc.aio.UsageError as error:  # the channel was closed between the check and the call; nothing was sent
            raise errors.ClientClosed() from error
        self._session.observe(answer.header)
        return call.parse(answer)

    async def _pages(self, cursor: HistoryCursor, timeout_s: float | None) -> AsyncIterator[HistoryEntry]:
        """Bring the entries of a history, one part after the other."""
        while not cursor.finished:
            for entry in await self._run(calls.history_page(cursor), timeout_s):
                yield entry

    async def _stream(self, cursor: ScanCursor, limit_s: float) -> AsyncIterator[Entry]:
        """Bring the entries of a scan; the call under way is cancelled however the iteration ends."""
        while not cursor.finished:
            deadline = time.monotonic() + limit_s
            await self._connect(deadline)
            call = None
            try:
                timeout = grpc_timeout_s(deadline - time.monotonic())
                call = self._stubs["KV"].Scan(cursor.next_request(), timeout=timeout)
                async for chunk in call:
                    self._session.observe(chunk.header)
                    for entry in cursor.take(chunk):
                        yield entry
                cursor.check_ended()
            except grpc.RpcError as failure:
                error = self._error_of(failure, writes=False)
                if not cursor.resume_after(error):
                    raise error from failure
            except asyncio.CancelledError as cancelled:
                if self._cancelled_by_close():
                    raise errors.cut_off(self._endpoint, writes=False) from cancelled
                raise
            except grpc.aio.UsageError as usage:
                raise errors.ClientClosed() from usage
            finally:
                if call is not None:  # an abandoned call is never collected: without this it would stay open
                    call.cancel()

    async def _connect(self, deadline: float) -> None:
        """Return when there is a connection; raise Unavailable where there is none, which proves that nothing was sent.

        A harmless probe goes first, because gRPC cannot tell afterwards whether a request that failed had left.
        """
        if self._closed:
            raise errors.ClientClosed()
        if self._ready:
            return
        remaining_s = deadline - time.monotonic()
        try:
            async with asyncio.timeout(None if math.isinf(remaining_s) else remaining_s):
                await self._connecting.acquire()
        except TimeoutError as error:
            raise errors.unreachable(self._endpoint, "DEADLINE_EXCEEDED", "") from error
        try:
            if not self._ready:
                await self._probe(deadline)
                self._ready = True
        finally:
            self._connecting.release()

    async def _probe(self, deadline: float) -> None:
        if self._closed:
            raise errors.ClientClosed()
        if self._channel is None:  # made here, not in the constructor: it belongs to the running event loop
            self._channel = grpc.aio.insecure_channel(self._target, options=CHANNEL_OPTIONS)
            self._health = self._channel.unary_unary(HEALTH_METHOD)
            self._stubs = {
                "KV": kv_pb2_grpc.KVStub(self._channel),
                "Admin": admin_pb2_grpc.AdminStub(self._channel),
            }
        timeout = grpc_timeout_s(deadline - time.monotonic())
        try:
            await self._health(b"", timeout=timeout, wait_for_ready=self._wait_for_ready)
        except grpc.RpcError as failure:
            errors.check_probe(failure, self._endpoint)
        except asyncio.CancelledError as cancelled:
            if self._cancelled_by_close():
                raise errors.ClientClosed() from cancelled
            raise
        except grpc.aio.UsageError as error:
            raise errors.ClientClosed() from error

    def _cancelled_by_close(self) -> bool:
        """Tell a call that ended with its client from a task that was cancelled; gRPC raises the same for both."""
        task = asyncio.current_task()
        return self._closed and task is not None and not task.cancelling()

    def _error_of(self, failure: grpc.RpcError, *, writes: bool) -> errors.KvClientError:
        error = errors.from_rpc(failure, writes=writes, endpoint=self._endpoint)
        if not error.from_server:
            self._ready = False  # the connection may be gone: the next call looks before it sends
        return error
