"""What answers say was reached under a policy, and what Sync waits for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kvproto.v1 import kv_pb2
from kvserver.base.errors import Code, KvError
from kvserver.engine.database import Database
from kvserver.service.context import FixedContext
from kvserver.service.kv import KvService
from support.memfs import MemoryFileSystem
from support.stores import open_store, settle

CALL = FixedContext()
UNSPECIFIED, MEMORY = kv_pb2.DURABILITY_UNSPECIFIED, kv_pb2.DURABILITY_MEMORY
LOCAL, REPLICATED = kv_pb2.DURABILITY_LOCAL, kv_pb2.DURABILITY_REPLICATED


@pytest.fixture
def database() -> Database:
    """Return a store whose policy waits for a quorum that has what there is so far."""
    database = open_store(MemoryFileSystem())
    database.pipeline.set_replicated(database.marks.visible)
    return database


@pytest.fixture
def service(database: Database) -> KvService:
    return KvService(database)


def put(service: KvService, **fields: Any) -> Any:
    return service.put(kv_pb2.PutRequest(key=b"k", **fields), CALL)


def sync(database: Database, service: KvService, replicated: int | None, **fields: Any) -> tuple[bool, kv_pb2.SyncResponse]:
    """Sync while the log moves; return whether it was answered before the quorum had moved, and the answer."""

    async def run() -> tuple[bool, kv_pb2.SyncResponse]:
        waiting = asyncio.ensure_future(service.sync(kv_pb2.SyncRequest(**fields), CALL))
        await asyncio.sleep(0)
        settle(database)
        await asyncio.sleep(0)
        early = waiting.done()
        database.pipeline.set_replicated(replicated)
        return early, await waiting

    return asyncio.run(run())


def test_a_write_is_answered_when_the_quorum_has_it_and_says_so(database: Database, service: KvService) -> None:
    ticket = put(service)
    settle(database)
    assert not ticket.done
    database.pipeline.set_replicated(2)
    assert ticket.answer().reached == REPLICATED


def test_while_the_quorum_is_given_up_what_was_reached_is_the_disk(database: Database, service: KvService) -> None:
    ticket = put(service)
    database.pipeline.set_replicated(None)
    settle(database)
    assert ticket.answer().reached == LOCAL


def test_a_memory_write_says_memory(database: Database, service: KvService) -> None:
    assert put(service, durability=MEMORY).answer().reached == MEMORY


@pytest.mark.parametrize("level", [UNSPECIFIED, REPLICATED])
def test_sync_waits_for_what_the_policy_names(database: Database, service: KvService, level: Any) -> None:
    put(service, durability=MEMORY)
    early, response = sync(database, service, 2, level=level)
    assert (early, response.header.revision, response.reached) == (False, 2, REPLICATED)


def test_sync_to_the_disk_waits_for_the_disk_alone(database: Database, service: KvService) -> None:
    put(service, durability=MEMORY)
    early, response = sync(database, service, 1, level=LOCAL)
    assert (early, response.header.revision, response.reached) == (True, 2, LOCAL)


def test_without_a_policy_the_disk_is_what_the_policy_names(service: KvService, database: Database) -> None:
    database.pipeline.set_replicated(None)
    put(service, durability=MEMORY)
    early, response = sync(database, service, None, level=REPLICATED)
    assert (early, response.reached) == (True, LOCAL)


def test_sync_to_a_lower_level_is_refused(service: KvService) -> None:
    with pytest.raises(KvError, match="DURABILITY_REPLICATED") as refused:
        asyncio.run(service.sync(kv_pb2.SyncRequest(level=MEMORY), CALL))
    assert refused.value.code is Code.INVALID_FIELD
