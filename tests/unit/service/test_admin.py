"""Admin's figures, warnings and catalogue: what is asked of the database, and how it is told."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import pytest

from kvproto.v1 import admin_pb2
from kvserver.base.errors import Code, KvError
from kvserver.base.options import TableOptions
from kvserver.commit.requests import Committed, CompactHistory, DropNamespace
from kvserver.commit.state import NamespaceEntry
from kvserver.service.admin import AdminService
from kvserver.service.context import FixedContext
from kvserver.storage.rows import Statistics
from support.clocks import ManualClock
from unit.service.fake_database import CHAIN, CLUSTER_ID, FakeDatabase

CALL = FixedContext()
OF_AN_ARCHIVE = ("archived_revision", "archive_url")
"""Told by a node that has one: test_archive_service.py."""


@pytest.fixture
async def database() -> FakeDatabase:
    return FakeDatabase()


def serve(database: FakeDatabase, memory_limit_bytes: int = 0, tables: TableOptions | None = None) -> AdminService:
    return AdminService(cast(Any, database), ManualClock(), memory_limit_bytes, tables)


def status(database: FakeDatabase, **options: Any) -> admin_pb2.StatusResponse:
    return serve(database, **options).status(admin_pb2.StatusRequest(), CALL)


def refusal(call: Any) -> KvError:
    with pytest.raises(KvError) as caught:
        call()
    return caught.value


async def test_every_figure_is_told(database: FakeDatabase) -> None:
    told = status(database)
    assert (told.header.cluster_id, told.header.node, told.header.epoch, told.header.revision) == (CLUSTER_ID, "tester", 3, 20)
    assert (told.assigned_revision, told.applied_revision) == (22, 21)
    assert (told.durable_revision, told.visible_revision, told.flushed_revision) == (20, 20, 15)
    assert (told.oldest_readable_revision, told.epoch_nonce, told.chain) == (7, 77, CHAIN)
    assert (told.keys, told.memory_bytes, told.wal_segments, told.wal_bytes) == (13, 555, 4, 4_000)
    assert (told.table_files, told.table_bytes, told.level0_files, told.pending_compaction_bytes) == (6, 6_000, 2, 200)
    assert (told.flushes, told.format_version, told.role) == (9, 2, "primary")
    assert [(hold.name, hold.revision) for hold in told.holds] == [("flush", 16), ("reader", 3)]
    assert list(told.warnings) == []
    fields = {field.name for field in admin_pb2.StatusResponse.DESCRIPTOR.fields}
    assert {field.name for field, _ in told.ListFields()} >= fields - {"warnings", "uptime_ms", *OF_AN_ARCHIVE}, (
        "a figure was left out"
    )


@pytest.mark.parametrize(
    ("figures", "flush_error", "said"),
    [
        ({}, "No space left on device.", "writes are refused: No space left on device."),
        ({"background_error": "IO error"}, "", "Tables are not merged any more: IO error."),
        ({"level0_files": 16}, "", "16 of 20 tables wait"),
        ({"pending_compaction_bytes": 801}, "", "801 of 1000 bytes wait"),
    ],
)
async def test_warnings_about_tables(database: FakeDatabase, figures: dict[str, Any], flush_error: str, said: str) -> None:
    limits = TableOptions(max_level0_files=20, max_pending_compaction_bytes=1_000)
    assert list(status(database, tables=limits).warnings) == []
    database.tables = dataclasses.replace(database.tables, **figures)
    database.flush_error = flush_error
    (warning,) = status(database, tables=limits).warnings
    assert said in warning
    assert warning.endswith(".") and not warning.endswith("..")


async def test_a_load_within_the_limits_is_no_warning(database: FakeDatabase) -> None:
    limits = TableOptions(max_level0_files=20, max_pending_compaction_bytes=1_000)
    database.tables = dataclasses.replace(database.tables, level0_files=15, pending_compaction_bytes=750)
    assert list(status(database, tables=limits).warnings) == []


async def test_older_warnings_are_still_there(database: FakeDatabase) -> None:
    database.log.space_error = "disk full"
    database.pipeline.failure = OSError()
    said = " ".join(status(database, memory_limit_bytes=600).warnings)
    assert "The log failed" in said
    assert "no more room on disk" in said
    assert "555 of 600 bytes of memory" in said


async def test_namespaces_with_what_they_hold(database: FakeDatabase) -> None:
    listed = serve(database).list_namespaces(admin_pb2.ListNamespacesRequest(), CALL)
    assert [(row.name, row.id, row.create_revision, row.keys, row.size_bytes) for row in listed.namespaces] == [
        ("", 1, 1, 10, 1_100),
        ("team", 2, 5, 3, 330),
    ]
    assert listed.header.revision == 20


def drop(database: FakeDatabase, name: str) -> admin_pb2.DropNamespaceResponse:
    return serve(database).drop_namespace(admin_pb2.DropNamespaceRequest(name=name), CALL).answer()


async def test_a_drop_tells_the_namespace_as_it_was(database: FakeDatabase) -> None:
    database.outcome = Committed(21, 21, 0, 0, namespace_id=2)
    ticket = serve(database).drop_namespace(admin_pb2.DropNamespaceRequest(name="team"), CALL)
    database.entries, database.held = database.entries[:1], {}  # gone by the time of the answer
    done = ticket.answer()
    assert database.submitted == [DropNamespace("team")]
    row = done.namespace
    assert (row.name, row.id, row.create_revision, row.keys, row.size_bytes) == ("team", 2, 5, 3, 330)
    assert done.header.revision == 21


async def test_a_drop_that_met_a_younger_namespace_tells_nothing_of_the_older_one(database: FakeDatabase) -> None:
    database.outcome = Committed(23, 23, 0, 0, namespace_id=4)
    row = drop(database, "team").namespace
    assert (row.name, row.id, row.create_revision, row.keys) == ("team", 4, 0, 0)


@pytest.mark.parametrize(
    ("name", "code"),
    [("", Code.INVALID_FIELD), ("nowhere", Code.UNKNOWN_NAMESPACE), ("a b", Code.INVALID_NAMESPACE_NAME)],
)
async def test_what_cannot_be_dropped(database: FakeDatabase, name: str, code: Code) -> None:
    error = refusal(lambda: drop(database, name))
    assert error.code is code
    assert database.submitted == []
    if not name:
        assert "default namespace" in error.message


async def test_a_drop_refused_by_the_pipeline_is_refused(database: FakeDatabase) -> None:
    database.outcome = KvError(Code.UNKNOWN_NAMESPACE, "dropped a moment ago")
    assert refusal(lambda: drop(database, "team")).message == "dropped a moment ago"


def compact(database: FakeDatabase, revision: int) -> admin_pb2.CompactResponse:
    return serve(database).compact(admin_pb2.CompactRequest(revision=revision), CALL).answer()


async def test_compaction(database: FakeDatabase) -> None:
    database.oldest_readable = 18
    done = compact(database, 18)
    assert (done.header.revision, done.oldest_readable_revision) == (21, 18)
    database.outcome = Committed(0, 9, 0, 0)
    done = compact(database, 0)
    assert (done.header.revision, done.oldest_readable_revision) == (20, 18), "no commit: the newest visible revision"
    assert database.submitted == [CompactHistory(18), CompactHistory(0)]


async def test_a_revision_that_nobody_can_see_yet_cannot_become_the_oldest(database: FakeDatabase) -> None:
    compact(database, 20)
    for revision in (21, 2**64 - 1):
        error = refusal(lambda revision=revision: compact(database, revision))
        assert error.code is Code.FUTURE_REVISION
        assert "the newest is 20" in error.message
    assert database.submitted == [CompactHistory(20)]


async def test_an_empty_namespace_holds_nothing(database: FakeDatabase) -> None:
    database.entries.append(NamespaceEntry("empty", 3, 9))
    database.held[3] = Statistics(0, 0, 0)
    row = serve(database).list_namespaces(admin_pb2.ListNamespacesRequest(), CALL).namespaces[-1]
    assert (row.keys, row.size_bytes) == (0, 0)
