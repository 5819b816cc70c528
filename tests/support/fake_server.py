"""A small gRPC server with the real contract and a dict behind it, for tests of the clients and of kvctl.

It runs on gRPC's threads, not on an event loop, so that tests of asyncio clients have their process's only loop to
themselves. Faults are asked for by the test, by the operation's name, whether it comes as a call of its own or within a
frame: an error in the service's own words (``refuse_next``), a bare status as a transport would give it (``abort_next``),
an answer held back (``hold``), a connection that breaks (``stop``). What befalls whole frames has the name ``Pipeline``.

Several of them are a cluster: ``support.fake_nodes``.
"""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any, TypeVar

import grpc

from kvproto.v1 import admin_pb2, admin_pb2_grpc, cluster_pb2_grpc, kv_pb2, kv_pb2_grpc
from support.fake_admin import FakeAdmin
from support.fake_cluster import FakeCluster
from support.fake_errors import EndOfCall, abort
from support.fake_nodes import FakeNode
from support.fake_pipeline import FakePipeline
from support.fake_store import FakeError, FakeStore

LOCAL = kv_pb2.DURABILITY_LOCAL
MEMORY = kv_pb2.DURABILITY_MEMORY
CLUSTER_ID = bytes(range(16))
AnswerT = TypeVar("AnswerT")

Instead = Callable[[kv_pb2.PipelineRequest, kv_pb2.PipelineResponse], Iterable[kv_pb2.PipelineResponse]]


class FakeServer:
    """A node to talk to; use it as a context manager."""

    def __init__(self) -> None:
        self.store = FakeStore()
        self.requests: list[tuple[str, Any]] = []
        """Every operation by its name, those within frames as the calls that they stand for."""
        self.frames: list[kv_pb2.PipelineRequest] = []
        """The frames as they came."""
        self.repeated: list[Any] = []
        """Frames, and operations of mixed ones, that were answered from memory, because they had come before."""
        self.chunk_keys = 3
        self.reached: int = LOCAL
        self.scan_stalls_after: int | None = None
        self.scan_is_cut = False
        self.scan_breaks_after: int | None = None
        """The connection of the next scan breaks behind so many chunks."""
        self.scan_in_columns = True
        """As a server does that knows them; false: one message a key, as an older one."""
        self.pipeline_breaks_after: int | None = None
        self.pipeline_failures: dict[bytes, FakeError] = {}
        self.pipeline_mute = False
        self.pipeline_answers: Instead | None = None
        """Makes what is sent in place of an answer."""
        self.page_entries = 1_000
        self.flushed = 1
        self.archive_url = "file:///srv/archive"
        """Empty: the node has no archive."""
        self.archived = 1
        self.archive_step: int = admin_pb2.ARCHIVE_STEP_SLOWING
        self.unarchived_segments = 2
        self.backup: admin_pb2.Backup | None = None
        self.backup_is_cut = False
        self.node = FakeNode()
        """What it is within a cluster; as it is made, it says nothing of it and takes writes, like a node that is alone."""
        self.cancelled = threading.Event()
        self._faults: dict[str, deque[FakeError | EndOfCall]] = defaultdict(deque)
        self._held: dict[str, threading.Event] = {}
        self.entered: dict[str, threading.Event] = defaultdict(threading.Event)
        self._server: grpc.Server | None = None
        self.endpoint = ""
        self.cluster = FakeCluster(self)

    def __enter__(self) -> FakeServer:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def start(self, port: int = 0) -> None:
        """Listen on a free port, or on a given one."""
        self._server = grpc.server(
            futures.ThreadPoolExecutor(64, thread_name_prefix="fake-server"),
            options=[
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", 4 * 1024 * 1024),
                ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
            ],
        )
        kv_pb2_grpc.add_KVServicer_to_server(_KV(self), self._server)
        admin_pb2_grpc.add_AdminServicer_to_server(FakeAdmin(self), self._server)
        self.node.serve(self._server)
        cluster_pb2_grpc.add_ClusterServicer_to_server(self.cluster, self._server)
        bound = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.endpoint = f"127.0.0.1:{bound}"
        self._server.start()

    def stop(self) -> None:
        """Break every connection, as a process that is killed does."""
        if self._server is not None:
            stopped = self._server.stop(0)
            stopped.wait(10)  # before anything held back could still be answered
            for event in self._held.values():
                event.set()
            self._server = None

    def refuse_next(
        self, method: str, code: str, message: str = "refused", hint: str = "", *, times: int = 1, **extra: str
    ) -> None:
        """Answer the next operation of a name (or so many of them) with an error in the service's own words."""
        self._faults[method].extend([FakeError(code, message, hint, **extra)] * times)

    def abort_next(self, method: str, status: str, text: str = "") -> None:
        """Answer the next call of a method with a bare status; the next such operation within a frame ends the stream so."""
        self._faults[method].append(EndOfCall(status, text))

    def end_next(self, method: str, code: str, message: str = "refused") -> None:
        """As ``abort_next``, in the service's own words."""
        self._faults[method].append(EndOfCall("", error=FakeError(code, message)))

    def hold(self, method: str) -> threading.Event:
        """Hold back the answers of a method, after their effect, until the event returned is set."""
        self._held[method] = threading.Event()
        return self._held[method]

    def last(self, method: str) -> Any:
        """Return the newest request of a method."""
        return [request for name, request in self.requests if name == method][-1]

    def header(self, revision: int) -> kv_pb2.ResponseHeader:
        """Return the header of an answer."""
        epoch = self.node.epoch or self.store.epoch
        return kv_pb2.ResponseHeader(cluster_id=CLUSTER_ID, node=self.node.name, epoch=epoch, revision=revision)

    def arrive(self, method: str, request: Any, context: grpc.ServicerContext | None) -> None:
        """Note a request, and fail it if the test asked for it; one within a frame has no context: it raises."""
        self.requests.append((method, request))
        try:
            self.fail_if_asked(method)
            self.node.check(method, request)
        except FakeError as error:
            if context is None:
                raise
            abort(context, error)
        except EndOfCall as end:
            if context is None:
                raise
            end.end(context)

    def fail_if_asked(self, method: str) -> None:
        """Raise what the test asked for."""
        if self._faults[method]:
            raise self._faults[method].popleft()

    def leave(self, method: str) -> None:
        """Wait where the test holds answers back."""
        for held in self.held({method}):
            held.wait(30)

    def held(self, methods: set[str]) -> list[threading.Event]:
        """Note that operations were carried out; return what their answers wait for."""
        for method in methods:
            self.entered[method].set()
        return [self._held[method] for method in methods if method in self._held]


class _KV(kv_pb2_grpc.KVServicer):
    def __init__(self, fake: FakeServer) -> None:
        self.fake = fake
        self.store = fake.store

    def _unary(self, method: str, request: Any, context: grpc.ServicerContext, carry_out: Callable[[], AnswerT]) -> AnswerT:
        self.fake.arrive(method, request, context)
        try:
            with self.store.lock:
                answer = carry_out()
        except FakeError as error:
            abort(context, error)
        self.fake.leave(method)
        return answer

    def Get(self, request: kv_pb2.GetRequest, context: grpc.ServicerContext) -> kv_pb2.GetResponse:
        def carry_out() -> kv_pb2.GetResponse:
            at, kv = self.store.get(request)
            return kv_pb2.GetResponse(header=self.fake.header(at), kv=kv)

        return self._unary("Get", request, context, carry_out)

    def History(self, request: kv_pb2.HistoryRequest, context: grpc.ServicerContext) -> kv_pb2.HistoryResponse:
        def carry_out() -> kv_pb2.HistoryResponse:
            self.store.check_namespace(request.namespace)
            self.store.check_pair(request.key)
            at = self.store.read_revision(0, request.session)
            below = min(request.before_revision or at + 1, at + 1)
            found = self.store.history(request.namespace, request.key, below)
            kept = found[: min(request.limit or self.fake.page_entries, self.fake.page_entries)]
            return kv_pb2.HistoryResponse(
                header=self.fake.header(at),
                entries=kept,
                more=len(kept) < len(found),
                oldest_readable_revision=self.store.oldest_readable,
            )

        sent = kv_pb2.HistoryRequest()
        sent.CopyFrom(request)
        return self._unary("History", sent, context, carry_out)

    def Put(self, request: kv_pb2.PutRequest, context: grpc.ServicerContext) -> kv_pb2.PutResponse:
        def carry_out() -> kv_pb2.PutResponse:
            revision = self.store.put(request)
            return kv_pb2.PutResponse(header=self.fake.header(revision), reached=self._reached(request))

        return self._unary("Put", request, context, carry_out)

    def Delete(self, request: kv_pb2.DeleteRequest, context: grpc.ServicerContext) -> kv_pb2.DeleteResponse:
        def carry_out() -> kv_pb2.DeleteResponse:
            revision, deleted = self.store.delete(request)
            header = self.fake.header(revision or self.store.visible)
            return kv_pb2.DeleteResponse(header=header, reached=self._reached(request), deleted=deleted)

        return self._unary("Delete", request, context, carry_out)

    def Write(self, request: kv_pb2.WriteRequest, context: grpc.ServicerContext) -> kv_pb2.WriteResponse:
        def carry_out() -> kv_pb2.WriteResponse:
            revision, put, deleted = self.store.write(request)
            header = self.fake.header(revision)
            return kv_pb2.WriteResponse(header=header, reached=self._reached(request), put=put, deleted=deleted)

        return self._unary("Write", request, context, carry_out)

    def _reached(self, request: kv_pb2.PutRequest | kv_pb2.DeleteRequest | kv_pb2.WriteRequest) -> int:
        return request.durability or self.fake.reached

    def Sync(self, request: kv_pb2.SyncRequest, context: grpc.ServicerContext) -> kv_pb2.SyncResponse:
        def carry_out() -> kv_pb2.SyncResponse:
            revision = request.revision or self.store.assigned
            if revision > self.store.assigned:
                raise FakeError("FUTURE_REVISION", f"revision {revision} is not assigned yet")
            self.store.visible = max(self.store.visible, revision)
            return kv_pb2.SyncResponse(header=self.fake.header(revision), reached=LOCAL)

        return self._unary("Sync", request, context, carry_out)

    def Scan(self, request: kv_pb2.ScanRequest, context: grpc.ServicerContext) -> Iterator[kv_pb2.ScanResponse]:
        gone = threading.Event()
        context.add_callback(lambda: (gone.set(), self.fake.cancelled.set()))
        kept = kv_pb2.ScanRequest()
        kept.CopyFrom(request)
        self.fake.arrive("Scan", kept, context)
        try:
            with self.store.lock:
                found, at = self._found(request)
        except FakeError as error:
            abort(context, error)
        more = bool(request.limit) and len(found) > request.limit
        found = found[: request.limit] if request.limit else found
        self.fake.leave("Scan")
        sent = [] if request.count_only else found
        for place in range(0, len(sent), self.fake.chunk_keys):
            part = sent[place : place + self.fake.chunk_keys]
            if request.columnar and self.fake.scan_in_columns:
                yield kv_pb2.ScanResponse(header=self.fake.header(at), columns=columns_of(part))
            else:
                yield kv_pb2.ScanResponse(header=self.fake.header(at), kvs=part)
            chunks = place // self.fake.chunk_keys + 1
            if chunks == self.fake.scan_breaks_after:
                self.fake.scan_breaks_after = None
                context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
            if chunks == self.fake.scan_stalls_after:
                gone.wait(30)
                return
        if self.fake.scan_is_cut:
            return
        yield kv_pb2.ScanResponse(header=self.fake.header(at), count=len(found), done=True, more=more)

    def _found(self, request: kv_pb2.ScanRequest) -> tuple[list[kv_pb2.KeyValue], int]:
        self.store.check_namespace(request.namespace)
        if request.limit < 0:
            raise FakeError("INVALID_FIELD", "limit is negative")
        if request.range.end and request.range.start >= request.range.end:
            raise FakeError("INVERTED_RANGE", "the start is not below the end")
        at = self.store.read_revision(request.revision, request.session)
        by_prefix = request.WhichOneof("keys") == "prefix"
        start, end = (request.prefix, b"") if by_prefix else (request.range.start, request.range.end)
        keys = [key for key in self.store.keys(request.namespace, start, end) if key.startswith(request.prefix)]
        found = [kv for key in keys if (kv := self.store.at(request.namespace, key, at))]
        if request.keys_only:
            for kv in found:
                kv.value = b""
        return (found[::-1] if request.reverse else found), at

    def Pipeline(
        self, request_iterator: Iterator[kv_pb2.PipelineRequest], context: grpc.ServicerContext
    ) -> Iterator[kv_pb2.PipelineResponse]:
        return FakePipeline(self.fake, request_iterator, context).answers()


def columns_of(kvs: list[kv_pb2.KeyValue]) -> kv_pb2.VersionColumns:
    """Return versions as columns."""
    return kv_pb2.VersionColumns(
        keys=[kv.key for kv in kvs],
        values=[kv.value for kv in kvs],
        create_revisions=[kv.create_revision for kv in kvs],
        mod_revisions=[kv.mod_revision for kv in kvs],
        versions=[kv.version for kv in kvs],
    )
