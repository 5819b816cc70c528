"""The service Admin: what the node is and how far it is, and the catalogue of namespaces."""

from __future__ import annotations

import kvserver
from kvproto.v1 import admin_pb2
from kvserver.base.clock import Clock
from kvserver.base.types import CREATION_REVISION
from kvserver.commit.requests import Committed, CreateNamespace
from kvserver.commit.ticket import Ticket
from kvserver.engine.database import Database
from kvserver.service import convert, validation
from kvserver.service.context import CallContext
from kvserver.service.methods import Method, UnaryMethod

NAME = "kvproto.v1.Admin"
ROLE = "primary"
"""The only part that a node can play until there is replication."""

MEMORY_WARNING_SHARE = 0.9


class AdminService:
    """The handlers of the service; all of them belong to the event loop."""

    def __init__(self, database: Database, clock: Clock, memory_limit_bytes: int = 0) -> None:
        self._database = database
        self._clock = clock
        self._memory_limit_bytes = memory_limit_bytes
        self._began = clock.monotonic()
        self._answers = convert.Answers(database)

    def methods(self) -> list[Method]:
        """Return the table of what this service serves."""
        return [
            UnaryMethod(NAME, "Status", admin_pb2.StatusRequest, self.status),
            UnaryMethod(NAME, "CreateNamespace", admin_pb2.CreateNamespaceRequest, self.create_namespace, writes=True),
            UnaryMethod(NAME, "ListNamespaces", admin_pb2.ListNamespacesRequest, self.list_namespaces),
        ]

    def status(self, request: admin_pb2.StatusRequest, context: CallContext) -> admin_pb2.StatusResponse:
        """Say what the node is and how far it is."""
        database = self._database
        marks = database.marks
        log = database.log_figures()
        memtable = database.state.memtable
        return admin_pb2.StatusResponse(
            header=self._answers.header(marks.visible),
            role=ROLE,
            server_version=kvserver.__version__,
            format_version=database.identity.format_version,
            assigned_revision=marks.assigned,
            applied_revision=marks.applied,
            durable_revision=marks.durable,
            visible_revision=marks.visible,
            oldest_readable_revision=CREATION_REVISION,
            epoch_nonce=database.history.current.nonce,
            chain=log.chain,
            keys=memtable.live_keys(),
            memory_bytes=memtable.size_bytes,
            wal_segments=log.segments,
            wal_bytes=log.total_bytes,
            uptime_ms=int((self._clock.monotonic() - self._began) * 1000),
            warnings=self._warnings(log.space_error, memtable.size_bytes),
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

    def list_namespaces(self, request: admin_pb2.ListNamespacesRequest, context: CallContext) -> admin_pb2.ListNamespacesResponse:
        """List the visible namespaces by name."""
        return admin_pb2.ListNamespacesResponse(
            header=self._answers.header(0),
            namespaces=[
                admin_pb2.Namespace(name=entry.name, id=entry.id, create_revision=entry.create_revision)
                for entry in self._database.namespaces()
            ],
        )
