"""Handlers called directly: what answers at once, what is held, and what headers say."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kvproto.v1 import kv_pb2
from kvserver.base.errors import Code, KvError
from kvserver.commit.requests import CreateNamespace, Put
from kvserver.commit.ticket import Ticket
from kvserver.engine.database import Database
from kvserver.service.context import FixedContext
from kvserver.service.kv import KvService
from support.memfs import MemoryFileSystem
from support.stores import open_store, settle

LOCAL, MEMORY = kv_pb2.DURABILITY_LOCAL, kv_pb2.DURABILITY_MEMORY
CALL = FixedContext()


@pytest.fixture
def database() -> Database:
    return open_store(MemoryFileSystem())


@pytest.fixture
def service(database: Database) -> KvService:
    return KvService(database)


def answer(database: Database, ticket: Any) -> Any:
    """Return a ticket's answer, which must come from a durable log and not before."""
    assert isinstance(ticket, Ticket)
    assert not ticket.done
    settle(database)
    return ticket.answer()


def got(answer: Any) -> kv_pb2.GetResponse:
    """Return the answer to a read of what memory holds: it waits for nothing."""
    assert isinstance(answer, Ticket)
    assert answer.done
    response: kv_pb2.GetResponse = answer.answer()
    return response


def code_of(call: Any) -> Code:
    with pytest.raises(KvError) as caught:
        call()
    return caught.value.code


def test_a_put_is_answered_when_it_is_durable(database: Database, service: KvService) -> None:
    response = answer(database, service.put(kv_pb2.PutRequest(key=b"k", value=b"v"), CALL))
    assert (response.header.revision, response.reached) == (2, LOCAL)
    assert response.header.cluster_id == database.identity.cluster_id
    assert (response.header.node, response.header.epoch) == ("tester", 1)


def test_a_memory_put_is_answered_at_once_and_a_read_with_its_token_waits(database: Database, service: KvService) -> None:
    ticket = service.put(kv_pb2.PutRequest(key=b"k", value=b"v", durability=MEMORY), CALL)
    response = ticket.answer()
    assert response.reached == MEMORY
    plain = got(service.get(kv_pb2.GetRequest(key=b"k"), CALL))
    assert not plain.HasField("kv")
    assert plain.header.revision == 1
    session = kv_pb2.SessionToken(epoch=response.header.epoch, revision=response.header.revision)
    waiting: Any = service.get(kv_pb2.GetRequest(key=b"k", session=session), CALL)

    async def read() -> kv_pb2.GetResponse:
        reader = asyncio.ensure_future(waiting)
        await asyncio.sleep(0)
        assert not reader.done()
        settle(database)
        return await reader

    found = asyncio.run(read())
    assert (found.kv.value, found.header.revision) == (b"v", 2)


def test_what_is_not_durable_is_read_by_nobody(database: Database, service: KvService) -> None:
    service.put(kv_pb2.PutRequest(key=b"k", value=b"v"), CALL)
    found = got(service.get(kv_pb2.GetRequest(key=b"k"), CALL))
    assert not found.HasField("kv")
    settle(database)
    found = got(service.get(kv_pb2.GetRequest(key=b"k"), CALL))
    assert (found.kv.value, found.kv.mod_revision, found.kv.create_revision, found.kv.version) == (b"v", 2, 2, 1)


def test_reads_at_past_revisions_are_exact_and_others_refused(database: Database, service: KvService) -> None:
    for value in (b"1", b"2"):
        answer(database, service.put(kv_pb2.PutRequest(key=b"k", value=value), CALL))
    past = got(service.get(kv_pb2.GetRequest(key=b"k", revision=2), CALL))
    assert (past.kv.value, past.header.revision) == (b"1", 2)
    before = got(service.get(kv_pb2.GetRequest(key=b"k", revision=1), CALL))
    assert not before.HasField("kv")
    assert code_of(lambda: service.get(kv_pb2.GetRequest(key=b"k", revision=4), CALL)) is Code.FUTURE_REVISION
    lost = kv_pb2.SessionToken(epoch=9, revision=2)
    assert code_of(lambda: service.get(kv_pb2.GetRequest(key=b"k", session=lost), CALL)) is Code.HISTORY_LOST


def test_a_deletion_of_nothing_makes_no_commit(database: Database, service: KvService) -> None:
    ticket: Any = service.delete(kv_pb2.DeleteRequest(key=b"k"), CALL)
    response = ticket.answer()
    assert (response.deleted, response.header.revision, response.reached) == (0, 1, LOCAL)


def test_a_deletion_that_finds_a_fresh_deletion_waits_for_it(database: Database, service: KvService) -> None:
    database.submit(Put(1, b"k", b"v"), lambda done: done)
    first: Any = service.delete(kv_pb2.DeleteRequest(key=b"k"), CALL)
    second: Any = service.delete(kv_pb2.DeleteRequest(key=b"k"), CALL)
    assert not first.done and not second.done
    response = answer(database, second)
    assert (response.deleted, response.header.revision) == (0, 3)
    assert first.answer().deleted == 1


def test_nobody_knows_of_a_namespace_before_it_is_visible(database: Database, service: KvService) -> None:
    """Whatever is answered about it, an error of another kind too, would tell of a creation that a crash can take back."""
    created = database.submit(CreateNamespace("ns"), lambda done: done)
    assert code_of(lambda: service.put(kv_pb2.PutRequest(namespace="ns", key=b"k"), CALL)) is Code.UNKNOWN_NAMESPACE
    assert code_of(lambda: service.put(kv_pb2.PutRequest(namespace="ns"), CALL)) is Code.UNKNOWN_NAMESPACE
    assert code_of(lambda: service.get(kv_pb2.GetRequest(namespace="ns", key=b"k"), CALL)) is Code.UNKNOWN_NAMESPACE
    database.run_log_once()
    assert created.done
    ticket = service.put(kv_pb2.PutRequest(namespace="ns", key=b"k"), CALL)
    assert answer(database, ticket).header.revision == 3
    found = got(service.get(kv_pb2.GetRequest(namespace="ns", key=b"k"), CALL))
    assert found.kv.mod_revision == 3


def test_a_range_deletion_whose_time_is_over_is_not_begun(database: Database, service: KvService) -> None:
    late = FixedContext(seconds=0.0)
    request = kv_pb2.DeleteRequest(prefix=b"")
    assert code_of(lambda: asyncio.run(_awaited(service.delete(request, late)))) is Code.NOT_WRITTEN
    mutation = kv_pb2.Mutation(delete=kv_pb2.DeleteMutation(prefix=b"p"))
    write = service.write(kv_pb2.WriteRequest(mutations=[mutation]), late)
    assert code_of(lambda: asyncio.run(_awaited(write))) is Code.NOT_WRITTEN


def test_sync_waits_for_what_is_under_way(database: Database, service: KvService) -> None:
    async def sync(**fields: Any) -> kv_pb2.SyncResponse:
        waiting = asyncio.ensure_future(service.sync(kv_pb2.SyncRequest(**fields), CALL))
        await asyncio.sleep(0)
        assert not waiting.done()
        settle(database)
        return await waiting

    service.put(kv_pb2.PutRequest(key=b"k"), CALL)
    response = asyncio.run(sync())
    assert (response.header.revision, response.reached) == (2, LOCAL)
    service.put(kv_pb2.PutRequest(key=b"k"), CALL)
    assert asyncio.run(sync(revision=3, level=LOCAL)).header.revision == 3


async def _awaited(waiting: Any) -> Any:
    return await waiting
