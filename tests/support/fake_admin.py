"""The service Admin of the fake server, on the same dict: what a real one does to tables, it only tells of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import grpc

from kvproto.v1 import admin_pb2, admin_pb2_grpc, kv_pb2
from support.fake_errors import abort
from support.fake_store import FakeError

if TYPE_CHECKING:
    from support.fake_server import FakeServer

LOCAL = kv_pb2.DURABILITY_LOCAL


class FakeAdmin(admin_pb2_grpc.AdminServicer):
    """The fake server's service Admin."""

    def __init__(self, fake: FakeServer) -> None:
        self.fake = fake
        self.store = fake.store

    def Status(self, request: admin_pb2.StatusRequest, context: grpc.ServicerContext) -> admin_pb2.StatusResponse:
        self.fake.arrive("Status", request, context)
        return admin_pb2.StatusResponse(
            header=self.fake.header(self.store.visible),
            role="primary",
            server_version="0.1.0",
            format_version=1,
            assigned_revision=self.store.assigned,
            applied_revision=self.store.assigned,
            durable_revision=self.store.visible,
            visible_revision=self.store.visible,
            oldest_readable_revision=self.store.oldest_readable,
            epoch_nonce=2**63 + 5,
            chain=bytes(16),
            keys=sum(1 for chain in self.store.rows.values() if chain[-1].value is not None),
            memory_bytes=123_456,
            wal_segments=2,
            wal_bytes=5_000_000,
            uptime_ms=61_000,
            warnings=["the disk is 91 % full"],
            flushed_revision=self.fake.flushed,
            table_files=3,
            table_bytes=7_000_000,
            level0_files=2,
            pending_compaction_bytes=4_000,
            flushes=5,
            holds=[admin_pb2.Hold(name="flush", revision=self.fake.flushed + 1)],
            archived_revision=self.fake.archived,
            archive_url=self.fake.archive_url,
        )

    def CreateNamespace(
        self, request: admin_pb2.CreateNamespaceRequest, context: grpc.ServicerContext
    ) -> admin_pb2.CreateNamespaceResponse:
        self.fake.arrive("CreateNamespace", request, context)
        with self.store.lock:
            if request.name in self.store.namespaces:
                abort(context, FakeError("NAMESPACE_EXISTS", f"the namespace {request.name!r} exists already"))
            if not request.name.replace("/", "").replace("-", "").isalnum():
                abort(context, FakeError("INVALID_NAMESPACE_NAME", f"not a name: {request.name!r}"))
            revision = self.store.commit(LOCAL)
            self.store.last_namespace_id += 1
            self.store.namespaces[request.name] = (self.store.last_namespace_id, revision)
            row = self._row(request.name)
        return admin_pb2.CreateNamespaceResponse(header=self.fake.header(revision), namespace=row)

    def ListNamespaces(
        self, request: admin_pb2.ListNamespacesRequest, context: grpc.ServicerContext
    ) -> admin_pb2.ListNamespacesResponse:
        self.fake.arrive("ListNamespaces", request, context)
        rows = [self._row(name) for name in sorted(self.store.namespaces)]
        return admin_pb2.ListNamespacesResponse(header=self.fake.header(self.store.visible), namespaces=rows)

    def DropNamespace(
        self, request: admin_pb2.DropNamespaceRequest, context: grpc.ServicerContext
    ) -> admin_pb2.DropNamespaceResponse:
        self.fake.arrive("DropNamespace", request, context)
        with self.store.lock:
            if not request.name:
                abort(context, FakeError("INVALID_FIELD", "the default namespace cannot be dropped"))
            if request.name not in self.store.namespaces:
                abort(context, FakeError("UNKNOWN_NAMESPACE", f"there is no namespace {request.name!r}", "list them"))
            row = self._row(request.name)
            revision = self.store.commit(LOCAL)
            del self.store.namespaces[request.name]
            for place in [place for place in self.store.rows if place[0] == request.name]:
                del self.store.rows[place]
        return admin_pb2.DropNamespaceResponse(header=self.fake.header(revision), namespace=row)

    def Flush(self, request: admin_pb2.FlushRequest, context: grpc.ServicerContext) -> admin_pb2.FlushResponse:
        self.fake.arrive("Flush", request, context)
        self.fake.flushed = self.store.visible
        self.fake.leave("Flush")
        return admin_pb2.FlushResponse(header=self.fake.header(self.fake.flushed), flushed_revision=self.fake.flushed)

    def Checkpoint(self, request: admin_pb2.CheckpointRequest, context: grpc.ServicerContext) -> admin_pb2.CheckpointResponse:
        self.fake.arrive("Checkpoint", request, context)
        if not request.target_dir.startswith("/"):
            abort(context, FakeError("TARGET_UNUSABLE", f"{request.target_dir!r} is no absolute path"))
        self.fake.flushed = self.store.visible
        self.fake.leave("Checkpoint")
        return admin_pb2.CheckpointResponse(
            header=self.fake.header(self.fake.flushed),
            target_dir=request.target_dir,
            epoch=self.store.epoch,
            revision=self.fake.flushed,
            chain=bytes(range(16)),
            table_files=3,
            table_bytes=7_000_000,
        )

    def Compact(self, request: admin_pb2.CompactRequest, context: grpc.ServicerContext) -> admin_pb2.CompactResponse:
        self.fake.arrive("Compact", request, context)
        with self.store.lock:
            wanted = request.revision or self.store.visible
            if wanted > self.store.visible:
                abort(context, FakeError("FUTURE_REVISION", f"revision {wanted} is above {self.store.visible}"))
            revision = self.store.visible
            if wanted > self.store.oldest_readable:
                self.store.oldest_readable = wanted
                revision = self.store.commit(LOCAL)
        oldest = self.store.oldest_readable
        return admin_pb2.CompactResponse(header=self.fake.header(revision), oldest_readable_revision=oldest)

    def ArchiveStatus(
        self, request: admin_pb2.ArchiveStatusRequest, context: grpc.ServicerContext
    ) -> admin_pb2.ArchiveStatusResponse:
        self.fake.arrive("ArchiveStatus", request, context)
        self._require_archive(context)
        return admin_pb2.ArchiveStatusResponse(
            header=self.fake.header(self.store.visible),
            url=self.fake.archive_url,
            archived_revision=self.fake.archived,
            archived_epoch=self.store.epoch,
            archived_time_ms=1_700_000_000_000,
            unarchived_segments=self.fake.unarchived_segments,
            unarchived_bytes=30_000_000,
            oldest_unarchived_age_ms=61_500,
            step=self.fake.archive_step,
            pace_ms=12,
            last_error="the archive cannot be reached",
            workers=2,
            level=1,
            queue_bytes=2_000_000_000,
            rate_bytes_per_s=50_000_000,
            when_full="refuse",
            segments_total=7,
            raw_bytes_total=70_000_000,
            stored_bytes_total=20_000_000,
            failures_total=3,
            last_backup=self.fake.backup,
            last_verify=admin_pb2.ArchiveCheck(time_ms=1_700_000_001_000, ok=True, what="7 segments check", seconds=1.5),
            warnings=["the archive is 61 seconds behind"],
        )

    def ArchiveNow(self, request: admin_pb2.ArchiveNowRequest, context: grpc.ServicerContext) -> admin_pb2.ArchiveNowResponse:
        self.fake.arrive("ArchiveNow", request, context)
        self._require_archive(context)
        self.fake.archived = self.store.visible
        self.fake.leave("ArchiveNow")
        header = self.fake.header(self.fake.archived)
        return admin_pb2.ArchiveNowResponse(header=header, archived_revision=self.fake.archived, archived_epoch=self.store.epoch)

    def CreateBackup(
        self, request: admin_pb2.CreateBackupRequest, context: grpc.ServicerContext
    ) -> Iterator[admin_pb2.CreateBackupResponse]:
        context.add_callback(self.fake.cancelled.set)
        self.fake.arrive("CreateBackup", request, context)
        self._require_archive(context)
        header = self.fake.header(self.store.visible)
        yield admin_pb2.CreateBackupResponse(header=header, stage="copying")
        self.fake.leave("CreateBackup")
        far = {"files": 3, "total_bytes": 7_000_000, "sent_bytes": 1_000_000}
        yield admin_pb2.CreateBackupResponse(header=header, stage="sending", files_done=1, bytes_done=2_000_000, **far)
        if self.fake.backup_is_cut:
            return
        self.fake.backup = admin_pb2.Backup(
            id=f"{self.store.visible:016x}-{1_700_000_002_000:016x}",
            epoch=self.store.epoch,
            revision=self.store.visible,
            chain=bytes(range(16)),
            time_ms=1_700_000_001_999,
            made_ms=1_700_000_002_000,
            files=3,
            total_bytes=7_000_000,
        )
        yield admin_pb2.CreateBackupResponse(
            header=header, stage="sending", files_done=3, bytes_done=7_000_000, backup=self.fake.backup, **far
        )

    def ContentHash(self, request: admin_pb2.ContentHashRequest, context: grpc.ServicerContext) -> admin_pb2.ContentHashResponse:
        self.fake.arrive("ContentHash", request, context)
        content = repr(sorted((place, chain[-1].value) for place, chain in self.store.rows.items()))
        self.fake.leave("ContentHash")
        return admin_pb2.ContentHashResponse(
            header=self.fake.header(self.store.visible),
            epoch=self.store.epoch,
            revision=self.store.visible,
            chain=bytes(range(16)),
            sha256=hashlib.sha256(content.encode()).digest(),
            keys=len(self.store.rows),
            took_ms=17,
        )

    def _require_archive(self, context: grpc.ServicerContext) -> None:
        if not self.fake.archive_url:
            abort(context, FakeError("NO_ARCHIVE", "the node has no archive", "start it with --archive URL"))

    def _row(self, name: str) -> admin_pb2.Namespace:
        number, revision = self.store.namespaces[name]
        newest = {key: self.store.newest(name, key) for space, key in self.store.rows if space == name}
        sizes = [len(key) + len(row.value or b"") for key, row in newest.items() if row is not None]
        return admin_pb2.Namespace(name=name, id=number, create_revision=revision, keys=len(sizes), size_bytes=sum(sizes))
