"""A key's history: what comes, in which parts it is asked for, and what an odd server cannot do."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kvclient import Durability, Entry, HistoryEntry, InvalidRequestError, ServerError, UnknownNamespace
from kvclient._history import HistoryCursor
from kvproto.v1 import kv_pb2
from support.fake_server import FakeServer


async def change(kv: Any, count: int) -> None:
    """Write a key so often; a store that was empty gives the revisions from 2 on."""
    for number in range(count):
        await kv.put(b"k", b"%d" % number)


def sent(fake: FakeServer) -> list[kv_pb2.HistoryRequest]:
    return [request for name, request in fake.requests if name == "History"]


async def test_puts_and_deletes_newest_first(kv: Any) -> None:
    await change(kv, 2)
    await kv.delete(b"k")
    await kv.put(b"other", b"not of this key")
    await kv.put(b"k", b"again")
    assert await kv.changes(b"k") == [
        HistoryEntry(6, Entry(b"k", b"again", 6, 6, 1)),
        HistoryEntry(4, None),
        HistoryEntry(3, Entry(b"k", b"1", 2, 3, 2)),
        HistoryEntry(2, Entry(b"k", b"0", 2, 2, 1)),
    ]
    assert await kv.changes(b"never") == []


async def test_limit_and_before(kv: Any) -> None:
    await change(kv, 6)
    assert [entry.revision for entry in await kv.changes(b"k", limit=2)] == [7, 6]
    assert [entry.revision for entry in await kv.changes(b"k", before_revision=5)] == [4, 3, 2]
    assert [entry.revision for entry in await kv.changes(b"k", before_revision=5, limit=1)] == [4]
    assert await kv.changes(b"k", before_revision=2) == []


async def test_what_is_forgotten_does_not_come(kv: Any) -> None:
    await change(kv, 4)
    done = await kv.compact(4)
    assert (done.oldest_readable_revision, done.revision, done.epoch) == (4, 6, 1)
    assert [entry.revision for entry in await kv.changes(b"k")] == [5, 4]
    await kv.put(b"new", b"v")
    assert [entry.revision for entry in await kv.changes(b"new")] == [7]


async def test_a_long_history_comes_in_parts(kv: Any, fake: FakeServer) -> None:
    await change(kv, 10)
    fake.page_entries = 3
    assert [entry.revision for entry in await kv.changes(b"k")] == list(range(11, 1, -1))
    assert [request.before_revision for request in sent(fake)] == [0, 9, 6, 3]


async def test_the_limit_holds_over_all_parts(kv: Any, fake: FakeServer) -> None:
    await change(kv, 10)
    fake.page_entries = 3
    assert [entry.revision for entry in await kv.changes(b"k", limit=7)] == list(range(11, 4, -1))
    assert [(request.before_revision, request.limit) for request in sent(fake)] == [(0, 7), (9, 4), (6, 1)]
    assert len(await kv.changes(b"k", limit=3)) == 3
    assert len(sent(fake)) == 4, "the limit was reached: nothing more is asked for"


async def test_what_is_written_in_the_meantime_comes_neither_twice_nor_in_between(kv: Any, fake: FakeServer) -> None:
    await change(kv, 6)
    fake.page_entries = 2
    release = fake.hold("History")
    walking = asyncio.create_task(kv.changes(b"k"))
    await asyncio.to_thread(fake.entered["History"].wait, 10)
    await kv.put(b"k", b"newer")
    release.set()
    assert [entry.revision for entry in await walking] == [7, 6, 5, 4, 3, 2]


async def test_nothing_is_asked_for_before_it_is_needed(fake: FakeServer, connect: Any) -> None:
    kv = connect(fake.endpoint)
    await change(kv, 6)
    fake.page_entries = 2
    kv.client.history(b"k")
    assert sent(fake) == []


async def test_it_reads_its_own_writes(kv: Any) -> None:
    await kv.put(b"k", b"v", durability=Durability.MEMORY)
    assert [entry.revision for entry in await kv.changes(b"k")] == [2]


async def test_bad_requests(kv: Any, endpoint: str, connect: Any) -> None:
    for options in ({"limit": -1}, {"limit": 2**63}, {"before_revision": -1}, {"before_revision": 2**64}):
        with pytest.raises(InvalidRequestError, match="INVALID_FIELD"):
            await kv.changes(b"k", **options)
    with pytest.raises(InvalidRequestError, match="EMPTY_KEY"):
        await kv.changes(b"")
    with pytest.raises(UnknownNamespace):
        await connect(endpoint, "nowhere").changes(b"k")


@pytest.mark.parametrize("revisions", [[], [9], [12, 9]])
def test_a_server_that_promises_more_and_brings_nothing_new_ends_the_walk(revisions: list[int]) -> None:
    cursor = HistoryCursor(kv_pb2.HistoryRequest(key=b"k", before_revision=9))
    entries = [kv_pb2.HistoryEntry(kv=kv_pb2.KeyValue(key=b"k", mod_revision=revision)) for revision in revisions]
    with pytest.raises(ServerError, match="brings nothing of it"):
        cursor.take(kv_pb2.HistoryResponse(entries=entries, more=True))
