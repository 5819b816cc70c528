"""The service KV: reads and writes keys."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable
from typing import Any

from kvproto.v1 import kv_pb2
from kvserver.base.types import Version
from kvserver.commit.requests import Batch, Committed, Delete, DeleteSpan, Put, Request, spans_of
from kvserver.commit.ticket import Ticket
from kvserver.engine.database import Database
from kvserver.engine.scan import ScanOptions
from kvserver.service import convert, history, validation
from kvserver.service.context import CallContext, not_written
from kvserver.service.methods import FrameMethod, Method, ScanMethod, UnaryMethod
from kvserver.service.pipeline import PipelineSession
from kvserver.storage.view import Pin

NAME = "kvproto.v1.KV"


class KvService:
    """The handlers of the service; all of them belong to the event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._answers = convert.Answers(database)
        self._namespaces = convert.Namespaces(database)

    def methods(self) -> list[Method]:
        """Return the table of what this service serves."""
        return [
            UnaryMethod(NAME, "Get", kv_pb2.GetRequest, self.get),
            ScanMethod(NAME, "Scan", kv_pb2.ScanRequest, self.scan),
            UnaryMethod(NAME, "History", kv_pb2.HistoryRequest, history.KeyHistory(self._database).history),
            UnaryMethod(NAME, "Put", kv_pb2.PutRequest, self.put, writes=True),
            UnaryMethod(NAME, "Delete", kv_pb2.DeleteRequest, self.delete, writes=True),
            UnaryMethod(NAME, "Write", kv_pb2.WriteRequest, self.write, writes=True),
            UnaryMethod(NAME, "Sync", kv_pb2.SyncRequest, self.sync),
            FrameMethod(NAME, "Pipeline", kv_pb2.PipelineRequest, self.pipeline),
        ]

    # -- reading --------------------------------------------------------------------------------------------------

    def get(self, request: kv_pb2.GetRequest, context: CallContext) -> Ticket[kv_pb2.GetResponse] | Awaitable[kv_pb2.GetResponse]:
        """Return the version of one key; an awaitable where what the caller has seen is not visible yet."""
        validation.check_key(request.key)
        ticket = self._database.reading_at(request.revision, convert.session_of(request), request.max_lag_ms)
        return self._find(request, ticket.answer()) if ticket.done else self._find_later(request, ticket)

    async def _find_later(self, request: kv_pb2.GetRequest, ticket: Ticket[int]) -> kv_pb2.GetResponse:
        return await self._find(request, await ticket)

    def _find(self, request: kv_pb2.GetRequest, revision: int) -> Ticket[kv_pb2.GetResponse]:
        namespace = self._namespaces.find(request.namespace)

        def answer(versions: list[Version | None]) -> kv_pb2.GetResponse:
            (version,) = versions
            return kv_pb2.GetResponse(
                header=self._answers.header(revision),
                kv=None if version is None else convert.key_value(version),
            )

        found: Ticket[Any] = self._database.read(namespace, [request.key], revision)
        found.convert_with(answer)
        return found

    async def scan(self, request: kv_pb2.ScanRequest, context: CallContext) -> AsyncGenerator[kv_pb2.ScanResponse, None]:
        """Yield the chunks of a scan, all at one revision."""
        span = convert.span_of_scan(request)
        options = ScanOptions(
            limit=validation.check_limit(request.limit),
            reverse=request.reverse,
            keys_only=request.keys_only,
            count_only=request.count_only,
        )
        revision = await self._database.reading_at(request.revision, convert.session_of(request), request.max_lag_ms)
        namespace = self._namespaces.find(request.namespace)
        header = self._answers.header(revision)
        async for chunk in self._database.scan(namespace, span, revision, options):
            response = kv_pb2.ScanResponse(
                header=header,
                count=chunk.count if chunk.done else 0,
                done=chunk.done,
                more=chunk.more,
            )
            if request.columnar:
                convert.fill_columns(response.columns, chunk.versions)
            else:
                response.kvs.extend(map(convert.key_value, chunk.versions))
            yield response

    async def sync(self, request: kv_pb2.SyncRequest, context: CallContext) -> kv_pb2.SyncResponse:
        """Wait until a revision is as durable as asked: on this node's disk, or as the policy has it."""
        pipeline, wanted = self._database.pipeline, request.revision or self._database.marks.assigned
        if request.level == convert.LOCAL:
            revision = await pipeline.when_durable(wanted)
        elif request.level in (kv_pb2.DURABILITY_UNSPECIFIED, convert.REPLICATED):
            revision = await pipeline.when_visible(wanted)
        else:
            raise validation.invalid_field(
                "level", f"must be DURABILITY_UNSPECIFIED, DURABILITY_LOCAL or DURABILITY_REPLICATED, not {request.level}"
            )
        return kv_pb2.SyncResponse(header=self._answers.header(revision), reached=self._answers.reached(revision))

    # -- writing --------------------------------------------------------------------------------------------------

    def put(self, request: kv_pb2.PutRequest, context: CallContext) -> Ticket[kv_pb2.PutResponse]:
        """Put one key."""
        memory = validation.wants_memory(request.durability)
        command = self._keyed(convert.put(self._namespaces.find(request.namespace), request), request)
        return self._database.submit(command, self._put_answer, memory)

    def _put_answer(self, done: Committed) -> kv_pb2.PutResponse:
        return kv_pb2.PutResponse(
            header=self._answers.header(done.revision),
            reached=self._answers.reached(done.revision),
        )

    def delete(
        self, request: kv_pb2.DeleteRequest, context: CallContext
    ) -> Ticket[kv_pb2.DeleteResponse] | Awaitable[Ticket[kv_pb2.DeleteResponse]]:
        """Delete a key, a range or a prefix."""
        memory = validation.wants_memory(request.durability)
        command = self._keyed(convert.delete(self._namespaces.find(request.namespace), request), request)
        if spans_of(command):
            return self._delete_span(command, memory, context)
        return self._database.submit(command, self._delete_answer, memory)

    async def _delete_span(self, command: Request, memory: bool, context: CallContext) -> Ticket[kv_pb2.DeleteResponse]:
        pin = await self._prepare(command, context)
        return self._database.submit(command, self._delete_answer, memory, pin)

    def _delete_answer(self, done: Committed) -> kv_pb2.DeleteResponse:
        revision = convert.depends_on(done)
        return kv_pb2.DeleteResponse(
            header=self._answers.header(revision), reached=self._answers.reached(revision), deleted=done.deleted
        )

    def write(
        self, request: kv_pb2.WriteRequest, context: CallContext
    ) -> Ticket[kv_pb2.WriteResponse] | Awaitable[Ticket[kv_pb2.WriteResponse]]:
        """Carry out many mutations in one commit."""
        memory = validation.wants_memory(request.durability)
        command = self._keyed(convert.batch(request, self._namespaces.find(request.namespace), self._namespaces), request)
        if spans_of(command):
            return self._write_spans(command, memory, context)
        return self._database.submit(command, self._write_answer, memory)

    async def _write_spans(self, command: Request, memory: bool, context: CallContext) -> Ticket[kv_pb2.WriteResponse]:
        pin = await self._prepare(command, context)
        return self._database.submit(command, self._write_answer, memory, pin)

    def _write_answer(self, done: Committed) -> kv_pb2.WriteResponse:
        revision = convert.depends_on(done)
        return kv_pb2.WriteResponse(
            header=self._answers.header(revision),
            reached=self._answers.reached(revision),
            put=done.put,
            deleted=done.deleted,
        )

    def _keyed(
        self,
        command: Put | Delete | DeleteSpan | Batch,
        request: kv_pb2.PutRequest | kv_pb2.DeleteRequest | kv_pb2.WriteRequest,
    ) -> Request:
        return convert.keyed(command, request, self._database.now_ms())

    async def _prepare(self, command: Request, context: CallContext) -> Pin:
        """Read what deletions of spans need. Raises Refused if the caller's time ran out over it."""
        pin = await self._database.prepare([command])
        if context.remaining_s() == 0:
            raise not_written()
        return pin

    def pipeline(self, context: CallContext) -> PipelineSession:
        """Begin a stream of frames."""
        return PipelineSession(self._database)
