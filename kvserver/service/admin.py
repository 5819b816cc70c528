"""The service Admin: what the node is and how far it is, the catalogue of namespaces, and what looks after tables and history."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import kvserver
from kvproto.v1 import admin_pb2
from kvserver.base.clock import Clock
from kvserver.base.errors import Code, InvalidRequest, RevisionError
from kvserver.base.options import TableOptions
from kvserver.commit.requests import Committed, CompactHistory, CreateNamespace, DropNamespace
from kvserver.commit.state import NamespaceEntry
from kvserver.commit.ticket import Ticket
from kvserver.engine.database import Database
from kvserver.service import archive, convert, validation
from kvserver.service.context import CallContext
from kvserver.service.methods import Method, UnaryMethod
from kvserver.storage.tables import TableFigures

Answer = TypeVar("Answer")

NAME = "kvproto.v1.Admin"
ROLE = "primary"
"""The name under which the health service says whether the node takes writes."""

MEMORY_WARNING_SHARE = 0.9
"""Of what writes may use of memory, above which it is time to say so."""

TABLES_WARNING_SHARE = 0.75
"""The same for tables and bytes that wait to be merged: above their limits nothing is flushed."""


class AdminService:
    """The handlers of the service; all of them belong to the event loop."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        memory_limit_bytes: int = 0,
        tables: TableOptions | None = None,
        archive: archive.Archive | None = None,
        node_warnings: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """``node_warnings``: asked for what the node has to say of itself as a part of its cluster."""
        self._database = database
        self._node_warnings = node_warnings
        self._archive = archive
        self._clock = clock
        self._memory_limit_bytes = memory_limit_bytes
        self._tables = tables or TableOptions()
        self._began = clock.monotonic()
        self._answers = convert.Answers(database)
        self._namespaces = convert.Namespaces(database)
        self._under_way: set[asyncio.Future[Any]] = set()

    def methods(self) -> list[Method]:
        """Return the table of what this service serves."""
        return [
            UnaryMethod(NAME, "Status", admin_pb2.StatusRequest, self.status),
            UnaryMethod(NAME, "CreateNamespace", admin_pb2.CreateNamespaceRequest, self.create_namespace, writes=True),
            UnaryMethod(NAME, "ListNamespaces", admin_pb2.ListNamespacesRequest, self.list_namespaces),
            UnaryMethod(NAME, "DropNamespace", admin_pb2.DropNamespaceRequest, self.drop_namespace, writes=True),
            UnaryMethod(NAME, "Compact", admin_pb2.CompactRequest, self.compact, writes=True),
            # These two change nothing that anybody reads: whoever ran out of time may simply ask again.
            UnaryMethod(NAME, "Flush", admin_pb2.FlushRequest, self.flush),
            UnaryMethod(NAME, "Checkpoint", admin_pb2.CheckpointRequest, self.checkpoint),
        ]

    # -- looking --------------------------------------------------------------------------------------------------

    def status(self, request: admin_pb2.StatusRequest, context: CallContext) -> admin_pb2.StatusResponse:
        """Say what the node is and how far it is."""
        database = self._database
        marks = database.marks
        log = database.log_figures()
        tables = database.table_figures()
        memory_bytes = database.memory_bytes()
        archived = self._archive.report() if self._archive is not None else None
        return admin_pb2.StatusResponse(
            header=self._answers.header(marks.visible),
            role=database.role.value,
            server_version=kvserver.__version__,
            format_version=database.identity.format_version,
            assigned_revision=marks.assigned,
            applied_revision=marks.applied,
            durable_revision=marks.durable,
            visible_revision=marks.visible,
            oldest_readable_revision=database.oldest_readable,
            epoch_nonce=database.history.current.nonce,
            chain=log.chain,
            keys=database.live_keys(),
            memory_bytes=memory_bytes,
            wal_segments=log.segments,
            wal_bytes=log.total_bytes,
            uptime_ms=int((self._clock.monotonic() - self._began) * 1000),
            warnings=[
                *self._node_warnings(),
                *self._warnings(log.space_error, memory_bytes),
                *self._table_warnings(tables),
                *(archive.warnings(archived) if archived is not None else ()),
            ],
            flushed_revision=marks.flushed,
            table_files=tables.files,
            table_bytes=tables.total_bytes,
            level0_files=tables.level0_files,
            pending_compaction_bytes=tables.pending_compaction_bytes,
            flushes=database.flushes,
            holds=[admin_pb2.Hold(name=name, revision=revision) for name, revision in database.holds()],
            archived_revision=archived.archived.revision if archived is not None and archived.archived is not None else 0,
            archive_url=archived.url if archived is not None else "",
        )

    def _warnings(self, space_error: str, memory_bytes: int) -> list[str]:
        warnings = []
        if self._database.pipeline.failure is not None:
            warnings.append("The log failed; the process is ending and must be started again.")
        if space_error:
            warnings.append(f"The log gets no more room on disk, writes are or will be refused: {space_error}.")
        limit = self._memory_limit_bytes
        if limit and memory_bytes > limit * MEMORY_WARNING_SHARE:
            warnings.append(f"{memory_bytes} of {limit} bytes of memory are used; above that writes are refused.")
        return warnings

    def _table_warnings(self, tables: TableFigures) -> list[str]:
        warnings = []
        flush_error = self._database.flush_error
        if flush_error:
            warnings.append(f"Memory cannot be written into tables; when it is full, writes are refused: {_clause(flush_error)}.")
        if tables.background_error:
            warnings.append(f"Tables are not merged any more: {_clause(tables.background_error)}.")
        behind = "above that nothing is flushed, and in time writes wait"
        files, most_files = tables.level0_files, self._tables.max_level0_files
        if files > most_files * TABLES_WARNING_SHARE:
            warnings.append(f"Merging falls behind: {files} of {most_files} tables wait for it; {behind}.")
        pending, most_pending = tables.pending_compaction_bytes, self._tables.max_pending_compaction_bytes
        if pending > most_pending * TABLES_WARNING_SHARE:
            warnings.append(f"Merging falls behind: {pending} of {most_pending} bytes wait for it; {behind}.")
        return warnings

    def list_namespaces(self, request: admin_pb2.ListNamespacesRequest, context: CallContext) -> admin_pb2.ListNamespacesResponse:
        """List the visible namespaces by name, with what each holds."""
        return admin_pb2.ListNamespacesResponse(
            header=self._answers.header(0),
            namespaces=[self._described(entry) for entry in self._database.namespaces()],
        )

    def _described(self, entry: NamespaceEntry) -> admin_pb2.Namespace:
        held = self._database.statistics(entry.id)
        return admin_pb2.Namespace(
            name=entry.name,
            id=entry.id,
            create_revision=entry.create_revision,
            keys=held.keys,
            size_bytes=held.key_bytes + held.value_bytes,
        )

    # -- the catalogue --------------------------------------------------------------------------------------------

    def create_namespace(
        self, request: admin_pb2.CreateNamespaceRequest, context: CallContext
    ) -> Ticket[admin_pb2.CreateNamespaceResponse]:
        """Create a namespace by a commit."""
        name = request.name
        validation.check_namespace_name(name)

        def answer(done: Committed) -> admin_pb2.CreateNamespaceResponse:
            return admin_pb2.CreateNamespaceResponse(
                header=self._answers.header(done.revision),
                namespace=admin_pb2.Namespace(name=name, id=done.namespace_id, create_revision=done.revision),
            )

        return self._database.submit(CreateNamespace(name), answer)

    def drop_namespace(
        self, request: admin_pb2.DropNamespaceRequest, context: CallContext
    ) -> Ticket[admin_pb2.DropNamespaceResponse]:
        """Drop a namespace by a commit; the answer says what it held when that was asked for."""
        name = request.name
        if not name:
            raise validation.invalid_field("name", "is empty: the default namespace cannot be dropped")
        number = self._namespaces.find(name)
        seen = next((self._described(entry) for entry in self._database.namespaces() if entry.id == number), None)

        def answer(done: Committed) -> admin_pb2.DropNamespaceResponse:
            # Where another commit came in between, the one dropped may be a younger namespace of the same name.
            same = seen is not None and seen.id == done.namespace_id
            return admin_pb2.DropNamespaceResponse(
                header=self._answers.header(convert.depends_on(done)),
                namespace=seen if same else admin_pb2.Namespace(name=name, id=done.namespace_id),
            )

        return self._database.submit(DropNamespace(name), answer)

    # -- tables and history ---------------------------------------------------------------------------------------

    def compact(self, request: admin_pb2.CompactRequest, context: CallContext) -> Ticket[admin_pb2.CompactResponse]:
        """Give up what is older than a revision, by a commit."""
        visible = self._database.marks.visible
        if request.revision > visible:
            raise RevisionError(
                Code.FUTURE_REVISION,
                f"revision {request.revision} cannot become the oldest readable one; the newest is {visible}",
                "name one that exists, or none to keep only the newest",
            )

        def answer(done: Committed) -> admin_pb2.CompactResponse:
            return admin_pb2.CompactResponse(
                header=self._answers.header(done.revision), oldest_readable_revision=self._database.oldest_readable
            )

        return self._database.submit(CompactHistory(request.revision), answer)

    async def flush(self, request: admin_pb2.FlushRequest, context: CallContext) -> admin_pb2.FlushResponse:
        """Write what memory holds into a table."""
        flushed = await self._to_its_end(self._database.flush())
        return admin_pb2.FlushResponse(header=self._answers.header(flushed), flushed_revision=flushed)

    async def checkpoint(self, request: admin_pb2.CheckpointRequest, context: CallContext) -> admin_pb2.CheckpointResponse:
        """Copy the store into another folder of this machine."""
        target = _folder(request.target_dir)
        done = await self._to_its_end(self._database.checkpoint(target))
        epoch, revision, chain = done.position
        return admin_pb2.CheckpointResponse(
            header=self._answers.header(revision),
            target_dir=str(target),
            epoch=epoch.number,
            revision=revision,
            chain=chain,
            table_files=done.table_files,
            table_bytes=done.table_bytes,
        )

    async def _to_its_end(self, work: Awaitable[Answer]) -> Answer:
        """Return the outcome of work that goes on when its caller hangs up: half a checkpoint would only be in the way."""
        task = asyncio.ensure_future(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)


def _clause(reason: str) -> str:
    """Return a reason as the end of a sentence that sets its own full stop."""
    return reason.rstrip(". \n")


def _folder(target_dir: str) -> Path:
    """Return the path of a folder to write to; refuse what can be none (TARGET_UNUSABLE). The rest is judged on disk."""
    target = Path(target_dir)
    if "\0" in target_dir or not target.is_absolute():
        raise InvalidRequest(
            Code.TARGET_UNUSABLE,
            f"{target_dir[:256]!r} is not the absolute path of a folder",
            "name a folder on the node's own disk that does not exist yet, or an empty one, from / on",
        )
    return target
