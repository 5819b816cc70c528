"""KV.History: one revision, bounded answers, and the way to go on."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from kvproto.v1 import kv_pb2
from kvserver.base.errors import Code, KvError, UnknownNamespace
from kvserver.base.limits import MAX_KEY_BYTES, MAX_MESSAGE_BYTES, MAX_VALUE_BYTES
from kvserver.base.types import Version
from kvserver.commit.state import NamespaceEntry
from kvserver.service.context import FixedContext
from kvserver.service.frames import FOUND_BYTES
from kvserver.service.history import MAX_ENTRIES, KeyHistory
from unit.service.fake_database import FakeDatabase, FakeHistoryEntry, FakeHistoryFound


@pytest.fixture
async def database() -> FakeDatabase:
    return FakeDatabase()


async def ask(database: FakeDatabase, **fields: Any) -> kv_pb2.HistoryResponse:
    request = kv_pb2.HistoryRequest(**{"key": b"k", **fields})
    return await KeyHistory(cast(Any, database)).history(request, FixedContext())


def puts(*revisions: int, value: bytes = b"v", key: bytes = b"k") -> list[FakeHistoryEntry]:
    return [FakeHistoryEntry(number, Version(key, value, 2, number, number - 1)) for number in revisions]


async def test_puts_and_deletes(database: FakeDatabase) -> None:
    database.found = FakeHistoryFound([*puts(12), FakeHistoryEntry(9, None), *puts(5)], False)
    told = await ask(database)
    assert [(row.deleted, row.kv.key, row.kv.mod_revision, row.kv.value) for row in told.entries] == [
        (False, b"k", 12, b"v"),
        (True, b"k", 9, b""),
        (False, b"k", 5, b"v"),
    ]
    assert (told.entries[0].kv.create_revision, told.entries[0].kv.version) == (2, 11)
    assert (told.header.revision, told.oldest_readable_revision, told.more) == (20, 7, False)


async def test_the_answer_is_of_one_revision(database: FakeDatabase) -> None:
    """What becomes visible while tables are read is not asked for, so the header does not promise more than was looked at."""
    database.gate.clear()
    asking = asyncio.ensure_future(ask(database))
    await asyncio.sleep(0)
    database.marks.visible = 30
    database.gate.set()
    assert (await asking).header.revision == 20
    assert database.asked == [(1, b"k", 21, MAX_ENTRIES, FOUND_BYTES)]


@pytest.mark.parametrize(("before", "asked"), [(0, 21), (5, 5), (1, 1), (21, 21), (22, 21), (2**64 - 1, 21)])
async def test_before_a_revision(database: FakeDatabase, before: int, asked: int) -> None:
    await ask(database, before_revision=before)
    assert database.asked[0][2] == asked


@pytest.mark.parametrize(("limit", "asked"), [(0, MAX_ENTRIES), (3, 3), (MAX_ENTRIES + 1, MAX_ENTRIES), (2**63 - 1, MAX_ENTRIES)])
async def test_limits(database: FakeDatabase, limit: int, asked: int) -> None:
    await ask(database, limit=limit)
    assert database.asked[0][3] == asked


async def test_more_is_passed_on(database: FakeDatabase) -> None:
    database.found = FakeHistoryFound(puts(12), True)
    assert (await ask(database)).more


async def test_large_versions_are_cut_and_more_is_said(database: FakeDatabase) -> None:
    database.found = FakeHistoryFound(puts(12, 11, 10, 9, value=b"v" * 700_000), False)
    told = await ask(database)
    assert [row.kv.mod_revision for row in told.entries] == [12, 11]
    assert told.more


async def test_keys_and_deletions_count_too(database: FakeDatabase) -> None:
    key = b"k" * MAX_KEY_BYTES
    database.found = FakeHistoryFound([FakeHistoryEntry(number, None) for number in range(1000, 0, -1)], False)
    told = await ask(database, key=key)
    assert told.more
    assert 200 < len(told.entries) < 256
    assert told.ByteSize() < MAX_MESSAGE_BYTES


async def test_the_first_entry_always_comes_or_nobody_could_go_on(database: FakeDatabase) -> None:
    largest = puts(12, value=b"v" * MAX_VALUE_BYTES, key=b"k" * MAX_KEY_BYTES)
    database.found = FakeHistoryFound(largest * 2, False)
    told = await ask(database, key=b"k" * MAX_KEY_BYTES)
    assert len(told.entries) >= 1
    assert told.ByteSize() < MAX_MESSAGE_BYTES


async def test_an_answer_of_many_small_entries_ends(database: FakeDatabase) -> None:
    database.found = FakeHistoryFound(puts(*range(MAX_ENTRIES + 5, 0, -1)), False)
    told = await ask(database)
    assert (len(told.entries), told.more) == (MAX_ENTRIES, True)


async def test_a_session_is_waited_for(database: FakeDatabase) -> None:
    told = await ask(database, session=kv_pb2.SessionToken(epoch=3, revision=25))
    assert told.header.revision == 25
    assert database.asked[0][2] == 26


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"key": b""}, Code.EMPTY_KEY),
        ({"key": b"k" * (MAX_KEY_BYTES + 1)}, Code.KEY_TOO_LARGE),
        ({"limit": -1}, Code.INVALID_FIELD),
        ({"namespace": "nowhere"}, Code.UNKNOWN_NAMESPACE),
        ({"namespace": "a b"}, Code.INVALID_NAMESPACE_NAME),
        ({"session": kv_pb2.SessionToken(epoch=9, revision=1)}, Code.HISTORY_LOST),
    ],
)
async def test_bad_requests(database: FakeDatabase, fields: dict[str, Any], code: Code) -> None:
    with pytest.raises(KvError) as caught:
        await ask(database, **fields)
    assert caught.value.code is code
    assert database.asked == []


@pytest.mark.parametrize("left", [[], [NamespaceEntry("team", 3, 19)]])
async def test_a_namespace_that_is_dropped_meanwhile_is_refused(database: FakeDatabase, left: list[NamespaceEntry]) -> None:
    """Its rows may be removed while they are read: a part must not pass for the whole."""
    database.gate.clear()
    database.found = FakeHistoryFound(puts(12), False)
    asking = asyncio.ensure_future(ask(database, namespace="team"))
    await asyncio.sleep(0)
    database.entries = [*database.entries[:1], *left]
    database.gate.set()
    with pytest.raises(UnknownNamespace):
        await asking


async def test_another_namespace(database: FakeDatabase) -> None:
    await ask(database, namespace="team")
    assert database.asked[0][0] == 2
