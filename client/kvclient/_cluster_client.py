"""The clients of a cluster's administration: ``ClusterClient`` for blocking code, ``AsyncClusterClient`` with the same calls.

They are no part of ``Client``, because they go another way. What they ask is meant for the node that is named: it is promoted,
it begins anew, it says what it knows; only a change of the policy goes to the primary, which is found from any node. And they ask
nodes that the data should not be read from: one that was deposed, one that is being filled. So they remember no position from one
call to the next.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from types import TracebackType
from typing import Any, TypeVar

import grpc
import grpc.aio

from kvclient import _cluster_calls as calls
from kvclient import _errors as errors
from kvclient._async_connection import AsyncConnection
from kvclient._calls import Call
from kvclient._channel import DEFAULT_TIMEOUT_S, LONG_TIMEOUT_S
from kvclient._cluster_types import ClusterHistory, ClusterStatus, Policy, PromotionStep, SetPolicyResult, Slot
from kvclient._connection import Connection
from kvclient._retry import DEFAULT_RETRY
from kvclient._search import Seek
from kvclient._types import NO_SESSION

ResultT = TypeVar("ResultT")


class ClusterClient:
    """A connection to a node, to look after its cluster; blocking.

        with ClusterClient("127.0.0.1:7401") as cluster:
            for node in cluster.status().nodes:
                print(node.name, node.role, node.durable_revision)

    ``endpoints`` as those of ``Client``, but of several the first one that answers is asked. Every call raises KvClientError and
    its subclasses.
    """

    def __init__(self, endpoints: str | Sequence[str], timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._connection = Connection(endpoints, timeout_s, False, NO_SESSION, DEFAULT_RETRY)
        self._primary = self._connection.beside(Seek.PRIMARY)

    def __enter__(self) -> ClusterClient:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; a second close does nothing."""
        self._primary.closed = True
        self._connection.close()

    def status(self, *, only_self: bool = False, timeout_s: float | None = None) -> ClusterStatus:
        """Return what every node is doing; with ``only_self`` only the one that is asked."""
        return self._run(calls.status(only_self), timeout_s)

    def history(self, *, timeout_s: float | None = None) -> ClusterHistory:
        """Return the epochs of the cluster, and what was noted about its policy."""
        return self._run(calls.history(), timeout_s)

    def policy(self, *, timeout_s: float | None = None) -> Policy:
        """Return the policy."""
        return self._run(calls.get_policy(), timeout_s)

    def set_policy(self, write_quorum: int, members: Iterable[str] = (), *, timeout_s: float | None = None) -> SetPolicyResult:
        """Change the policy; returns when the old and the new quorum have it. 0: asynchronous."""
        return self._change(calls.set_policy(write_quorum, members), timeout_s)

    def degrade(self, reason: str = "", *, timeout_s: float | None = None) -> None:
        """Have the primary wait for the quorum no more; writes are then kept by it alone."""
        return self._change(calls.degrade(reason), timeout_s)

    def end_degrade(self, *, timeout_s: float | None = None) -> None:
        """Have the primary return to the quorum."""
        return self._change(calls.end_degrade(), timeout_s)

    def slots(self, *, timeout_s: float | None = None) -> list[Slot]:
        """Return who is shipped the log by this node, by name."""
        return self._run(calls.slots(), timeout_s)

    def drop_slot(self, name: str, *, timeout_s: float | None = None) -> None:
        """Let go of what is held for a follower that will not come back."""
        return self._run(calls.drop_slot(name), timeout_s)

    def reinit(self, *, timeout_s: float | None = None) -> None:
        """Have the follower that is asked throw its copy away and fetch a new one."""
        return self._run(calls.reinit(), timeout_s)

    def promote(
        self, *, dry_run: bool = False, accept_loss: bool = False, timeout_s: float = LONG_TIMEOUT_S
    ) -> Generator[PromotionStep, None, None]:
        """Make the node that is asked the primary; return an iterator over the steps, whose last item has the outcome.

        Nothing is begun before the first item is asked for. ``accept_loss`` goes on although acknowledged writes may be lost.
        ``timeout_s`` bounds the wait for the next item, not the whole. After a Timeout or an Unavailable the node may have
        become primary: ask for its ``status``.
        """
        connection, cursor = self._connection, calls.PromotionCursor(dry_run, accept_loss)
        limit_s = connection.limit_s(timeout_s)
        connection.connect(time.monotonic() + limit_s)
        endpoint, stubs = connection.connected
        call = None
        try:
            with connection.failures(endpoint, writes=False):
                call = stubs["Cluster"].Promote(cursor.request)
                while (answer := _next_within(call, limit_s, endpoint)) is not None:
                    yield cursor.take(answer)
            cursor.check_ended()
        finally:
            if call is not None:
                call.cancel()

    def _run(self, call: Call[ResultT], timeout_s: float | None) -> ResultT:
        self._connection.session.forget()
        return self._connection.run(call, timeout_s)

    def _change(self, call: Call[ResultT], timeout_s: float | None) -> ResultT:
        self._connection.session.forget()
        return self._primary.run(call, timeout_s)


def _next_within(call: Any, limit_s: float, endpoint: str) -> Any:
    """Return the next message of a call, None at its end; cancel it where that takes too long: gRPC bounds whole calls only."""
    late = threading.Event()

    def give_up() -> None:
        late.set()
        call.cancel()

    timer = threading.Timer(min(limit_s, threading.TIMEOUT_MAX), give_up)
    timer.daemon = True
    timer.start()
    try:
        return next(call, None)
    except grpc.RpcError:
        if late.is_set():
            raise errors.not_answered_in_time(endpoint, writes=False) from None
        raise
    finally:
        timer.cancel()


class AsyncClusterClient:
    """A connection to a node, to look after its cluster; for asyncio.

        async with AsyncClusterClient("127.0.0.1:7401") as cluster:
            for node in (await cluster.status()).nodes:
                print(node.name, node.role, node.durable_revision)

    ``endpoints`` as those of ``AsyncClient``, but of several the first one that answers is asked. Every call raises KvClientError
    and its subclasses.
    """

    def __init__(self, endpoints: str | Sequence[str], timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        self._connection = AsyncConnection(endpoints, timeout_s, False, NO_SESSION, DEFAULT_RETRY)
        self._primary = self._connection.beside(Seek.PRIMARY)

    async def __aenter__(self) -> AsyncClusterClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection; a second close does nothing."""
        self._primary.closed = True
        await self._connection.close()

    async def status(self, *, only_self: bool = False, timeout_s: float | None = None) -> ClusterStatus:
        """Return what every node is doing; with ``only_self`` only the one that is asked."""
        return await self._run(calls.status(only_self), timeout_s)

    async def history(self, *, timeout_s: float | None = None) -> ClusterHistory:
        """Return the epochs of the cluster, and what was noted about its policy."""
        return await self._run(calls.history(), timeout_s)

    async def policy(self, *, timeout_s: float | None = None) -> Policy:
        """Return the policy."""
        return await self._run(calls.get_policy(), timeout_s)

    async def set_policy(
        self, write_quorum: int, members: Iterable[str] = (), *, timeout_s: float | None = None
    ) -> SetPolicyResult:
        """Change the policy; returns when the old and the new quorum have it. 0: asynchronous."""
        return await self._change(calls.set_policy(write_quorum, members), timeout_s)

    async def degrade(self, reason: str = "", *, timeout_s: float | None = None) -> None:
        """Have the primary wait for the quorum no more; writes are then kept by it alone."""
        return await self._change(calls.degrade(reason), timeout_s)

    async def end_degrade(self, *, timeout_s: float | None = None) -> None:
        """Have the primary return to the quorum."""
        return await self._change(calls.end_degrade(), timeout_s)

    async def slots(self, *, timeout_s: float | None = None) -> list[Slot]:
        """Return who is shipped the log by this node, by name."""
        return await self._run(calls.slots(), timeout_s)

    async def drop_slot(self, name: str, *, timeout_s: float | None = None) -> None:
        """Let go of what is held for a follower that will not come back."""
        return await self._run(calls.drop_slot(name), timeout_s)

    async def reinit(self, *, timeout_s: float | None = None) -> None:
        """Have the follower that is asked throw its copy away and fetch a new one."""
        return await self._run(calls.reinit(), timeout_s)

    async def promote(
        self, *, dry_run: bool = False, accept_loss: bool = False, timeout_s: float = LONG_TIMEOUT_S
    ) -> AsyncGenerator[PromotionStep, None]:
        """Make the node that is asked the primary; return an iterator over the steps, whose last item has the outcome.

        Nothing is begun before the first item is asked for. ``accept_loss`` goes on although acknowledged writes may be lost.
        ``timeout_s`` bounds the wait for the next item, not the whole. After a Timeout or an Unavailable the node may have
        become primary: ask for its ``status``.
        """
        connection, cursor = self._connection, calls.PromotionCursor(dry_run, accept_loss)
        limit_s = connection.limit_s(timeout_s)
        await connection.connect(time.monotonic() + limit_s)
        endpoint, stubs = connection.connected
        call = None
        try:
            with connection.failures(endpoint, writes=False):
                call = stubs["Cluster"].Promote(cursor.request)
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
                    yield cursor.take(answer)
            cursor.check_ended()
        finally:
            if call is not None:
                call.cancel()

    async def _run(self, call: Call[ResultT], timeout_s: float | None) -> ResultT:
        self._connection.session.forget()
        return await self._connection.run(call, timeout_s)

    async def _change(self, call: Call[ResultT], timeout_s: float | None) -> ResultT:
        self._connection.session.forget()
        return await self._primary.run(call, timeout_s)
