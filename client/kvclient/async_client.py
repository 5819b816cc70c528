"""The asyncio client: the same calls as ``Client``, as coroutines and an asynchronous iterator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from types import TracebackType
from typing import TypeVar

from kvclient import _archive_calls as archive_calls
from kvclient import _calls as calls
from kvclient import _operations as operations
from kvclient._archive_types import ArchiveNowResult, ArchiveStatus, BackupProgress, ContentHash
from kvclient._async_connection import AsyncConnection
from kvclient._async_stream import AsyncStream
from kvclient._channel import DEFAULT_TIMEOUT_S, LONG_TIMEOUT_S
from kvclient._frames import OPERATION_BYTES, Kind
from kvclient._history import HistoryCursor
from kvclient._keys import KeyMaker
from kvclient._many import Many
from kvclient._retry import DEFAULT_RETRY, Retry
from kvclient._routes import Routes
from kvclient._search import ReadFrom, Seek
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
    PutManyResult,
    SessionToken,
    Status,
    SyncResult,
    WriteResult,
)

ResultT = TypeVar("ResultT")


class AsyncClient:
    """A connection to a node, for asyncio; one client may be used by many tasks of one event loop at once.

        async with AsyncClient("127.0.0.1:7400") as kv:
            await kv.put(b"k", b"v")
            entry = await kv.get(b"k")

    What concurrent callers ask for is joined into frames by itself: a client shared by a thousand tasks does in one message
    what a thousand calls would do. Calls that are under way at the same time have no order among themselves.

    ``endpoints`` are nodes of the cluster: ``HOST:PORT``, several with commas between, or a sequence; the primary is found from
    any of them, and again after a failover. ``namespace`` holds for every call. ``timeout_s`` is how long a call may take, in
    seconds, where the call does not say otherwise; it covers connecting. With ``wait_for_ready`` a server that is not there yet
    is waited for within that time, otherwise it is an Unavailable at once. ``session`` is a position that another client has
    seen. ``retry`` says what is sent again (never what might happen twice), ``read_from`` which nodes may serve reads:
    ``"primary"``, ``"followers"`` (the primary where none is to be had) or ``"any"``. Raises ValueError for an endpoint that is
    not ``HOST:PORT``; every call raises KvClientError and its subclasses, and TypeError for keys and values that are not bytes.
    """

    def __init__(
        self,
        endpoints: str | Sequence[str],
        namespace: str = "",
        timeout_s: float = DEFAULT_TIMEOUT_S,
        *,
        wait_for_ready: bool = False,
        session: SessionToken = NO_SESSION,
        retry: Retry = DEFAULT_RETRY,
        read_from: ReadFrom = "primary",
    ) -> None:
        self._namespace = calls.checked_text("namespace", namespace)
        self._connection = AsyncConnection(endpoints, timeout_s, wait_for_ready, session, retry, Seek.PRIMARY)
        self._routes = Routes(self._connection, read_from, lambda connection: AsyncStream(connection, namespace))
        self._make_key = KeyMaker()
        self._reads = self._routes.reads(self._routes.default)
        self._writes = AsyncStream(self._connection, namespace, self._make_key)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection. Calls under way end with an error; a second close does nothing."""
        connections, streams = self._routes.end()
        for stream in (*streams, self._writes):
            await stream.close()
        for connection in connections:
            await connection.close()

    @property
    def session(self) -> SessionToken:
        """The highest position seen in answers; every read carries it."""
        return self._connection.session.token

    def forget_session(self) -> None:
        """Forget what was seen, to read on after HistoryLost."""
        self._connection.session.forget()

    async def get(
        self,
        key: bytes,
        *,
        revision: int | None = None,
        session: SessionToken | None = None,
        read_from: ReadFrom | None = None,
        max_lag_ms: int | None = None,
        timeout_s: float | None = None,
    ) -> Entry | None:
        """Return a key's newest version, or the one at a past revision; None where the key does not exist.

        ``session`` replaces the client's own token for this read (``NO_SESSION`` waits for nothing). ``read_from`` says which
        nodes may serve it, where not as the client does; a node that is more than ``max_lag_ms`` behind its primary is passed
        over, and where none is fresh enough it is Stale. The same for the other reads.
        """
        if revision is None and session is None and max_lag_ms is None:
            key = operations.key_of(key)
            reads = self._reads if read_from is None else self._routes.reads(self._routes.to(read_from))
            found: Entry | None = await reads.add(Kind.GETS, key, b"", len(key) + OPERATION_BYTES, timeout_s)
            return found
        call = calls.get(self._namespace, key, revision, self._token(session), max_lag_ms)
        return await self._run(call, timeout_s, read_from)

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
        if if_absent or if_revision is not None:
            return await self._join(operations.put_if(key, value, if_absent, if_revision, durability), timeout_s)
        if type(key) is bytes is type(value) and durability is Durability.POLICY:  # the call that is made most, spelled out
            size_bytes = len(key) + len(value) + OPERATION_BYTES
            done: WriteResult = await self._writes.add(Kind.PUTS, key, value, size_bytes, timeout_s)
            return done
        return await self._join(operations.put(key, value, durability), timeout_s)

    async def delete(
        self,
        key: bytes,
        *,
        if_revision: int | None = None,
        durability: Durability = Durability.POLICY,
        timeout_s: float | None = None,
    ) -> DeleteResult:
        """Delete one key; a key that is not there is no error, unless ``if_revision`` asks for it."""
        return await self._join(operations.delete(Delete(key, if_revision), durability), timeout_s)

    async def delete_range(
        self,
        start: bytes,
        end: bytes,
        *,
        durability: Durability = Durability.POLICY,
        timeout_s: float | None = None,
    ) -> DeleteResult:
        """Delete the keys ``k`` with ``start <= k < end`` in one commit; an empty bound is the namespace's own."""
        return await self._join(operations.delete(DeleteRange(start, end), durability), timeout_s)

    async def delete_prefix(
        self,
        prefix: bytes,
        *,
        durability: Durability = Durability.POLICY,
        timeout_s: float | None = None,
    ) -> DeleteResult:
        """Delete the keys that begin with ``prefix`` in one commit."""
        return await self._join(operations.delete(DeletePrefix(prefix), durability), timeout_s)

    async def write(
        self,
        mutations: Iterable[Mutation],
        *,
        durability: Durability = Durability.POLICY,
        timeout_s: float | None = None,
    ) -> BatchResult:
        """Carry out many mutations in one atomic commit: all of them or, when a condition fails, none."""
        return await self._join(operations.write(mutations, durability), timeout_s)

    async def put_many(
        self,
        pairs: Iterable[tuple[bytes, bytes]],
        *,
        durability: Durability = Durability.POLICY,
        timeout_s: float | None = None,
    ) -> PutManyResult:
        """Put many keys, each in a commit of its own, as fast as the node takes them; the order among them is not kept.

        ``pairs`` may be endless: only so many are taken from it as fill the frames. ``timeout_s`` holds for each put. After a
        failure no further ones are begun, and ManyFailed tells which failed; all others begun were carried out. What ``pairs``
        itself raises is raised when those begun have their outcome.
        """
        room = asyncio.Event()
        many = Many(room.set, keep=False)
        puts = (operations.put(key, value, durability) for key, value in pairs)
        await self._writes.run_many(puts, many, room, self._connection.limit_s(timeout_s))
        return many.put_result()

    async def get_many(
        self,
        keys: Iterable[bytes],
        *,
        read_from: ReadFrom | None = None,
        max_lag_ms: int | None = None,
        timeout_s: float | None = None,
    ) -> list[Entry | None]:
        """Return the newest versions of many keys, in the order asked for; they need not be of one revision.

        ``timeout_s`` holds for each read.
        """
        room = asyncio.Event()
        many = Many(room.set, keep=True)
        seek, limit_s, gets = self._routes.to(read_from), self._connection.limit_s(timeout_s), map(operations.get, keys)
        if max_lag_ms is None:
            await self._routes.reads(seek).run_many(gets, many, room, limit_s)
        else:  # what a frame demands holds for all in it, so these do not share frames with others' reads
            lag_ms = calls.unsigned("max_lag_ms", max_lag_ms)
            stream = AsyncStream(self._routes.connection(seek), self._namespace, max_lag_ms=lag_ms)
            try:
                await stream.run_many(gets, many, room, limit_s)
            finally:
                await stream.close()
        return many.get_result()

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
        read_from: ReadFrom | None = None,
        max_lag_ms: int | None = None,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[Entry, None]:
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
            max_lag_ms=max_lag_ms,
        )
        return self._routes.connection(self._routes.to(read_from)).scan(cursor, self._connection.limit_s(timeout_s))

    async def count(
        self,
        prefix: bytes | None = None,
        *,
        start: bytes = b"",
        end: bytes = b"",
        revision: int | None = None,
        session: SessionToken | None = None,
        read_from: ReadFrom | None = None,
        max_lag_ms: int | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Return how many keys a range or prefix has."""
        token = self._token(session)
        cursor = calls.scan(self._namespace, prefix, start, end, token, revision=revision, count_only=True, max_lag_ms=max_lag_ms)
        connection = self._routes.connection(self._routes.to(read_from))
        async for _ in connection.scan(cursor, connection.limit_s(timeout_s)):
            pass
        return cursor.count

    def history(
        self,
        key: bytes,
        *,
        limit: int | None = None,
        before_revision: int | None = None,
        session: SessionToken | None = None,
        read_from: ReadFrom | None = None,
        max_lag_ms: int | None = None,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[HistoryEntry, None]:
        """Return an iterator over what was done to a key, newest first, as far back as history is kept.

        ``before_revision`` leaves out what was done at it and later. ``timeout_s`` bounds the wait for each part.
        """
        cursor = calls.history(self._namespace, key, limit, before_revision, self._token(session), max_lag_ms)
        return self._pages(cursor, timeout_s, self._routes.to(read_from))

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

    async def archive_status(self, *, timeout_s: float | None = None) -> ArchiveStatus:
        """Return how the node's archive is doing; raise NoArchive where it has none."""
        return await self._run(archive_calls.archive_status(), timeout_s)

    async def archive_now(self, *, timeout_s: float = LONG_TIMEOUT_S) -> ArchiveNowResult:
        """Archive everything that is visible now, and return when the archive holds it; raise NoArchive where there is none.

        After a Timeout the archive goes on by itself.
        """
        return await self._run(archive_calls.archive_now(), timeout_s)

    def create_backup(self, *, timeout_s: float | None = None) -> AsyncGenerator[BackupProgress, None]:
        """Make a base backup in the node's archive; return an iterator over how far it is, whose last item has the backup.

        Nothing is begun before the first item is asked for. An iteration that is left early ends the backup, unless its record
        is written already. ``timeout_s`` bounds the wait for the next item, not the whole. After a Timeout or an Unavailable
        the backup may have been made. Raises NoArchive and ArchiveError.
        """
        limit_s = self._connection.limit_s(timeout_s)
        return self._routes.connection(Seek.NODE).backup(archive_calls.BackupCursor(), limit_s)

    async def content_hash(self, *, timeout_s: float = LONG_TIMEOUT_S) -> ContentHash:
        """Hash everything that the node's newest revision holds; equal for equal content, however it came to be.

        Takes about as long as reading all of it. After a Timeout nothing of it goes on.
        """
        return await self._run(archive_calls.content_hash(), timeout_s)

    def _token(self, session: SessionToken | None) -> SessionToken:
        return self._connection.session.token if session is None else session

    async def _run(self, call: calls.Call[ResultT], timeout_s: float | None, read_from: ReadFrom | None = None) -> ResultT:
        return await self._routes.of(call, read_from).run(call, timeout_s)

    def _join(self, operation: operations.Operation[ResultT], timeout_s: float | None) -> asyncio.Future[ResultT]:
        """Put an operation in line with those of other callers."""
        if self._connection.retry.idempotent and operation.kind in operations.BY_KEY:
            operation = operations.with_key(operation, self._make_key())
        return self._writes.add(*operation, timeout_s)

    async def _pages(self, cursor: HistoryCursor, timeout_s: float | None, seek: Seek) -> AsyncGenerator[HistoryEntry, None]:
        """Bring the entries of a history, one part after the other."""
        while not cursor.finished:
            for entry in await self._routes.connection(seek).run(calls.history_page(cursor), timeout_s):
                yield entry
