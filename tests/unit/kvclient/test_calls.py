"""What the calls do, on both clients. Nothing here knows that the server is a fake one."""

from __future__ import annotations

from typing import Any

import pytest

from kvclient import (
    ConditionFailed,
    Delete,
    DeletePrefix,
    DeleteRange,
    Durability,
    Entry,
    InvalidRequestError,
    KvClientError,
    NamespaceExists,
    Put,
    UnknownNamespace,
)


async def fill(kv: Any, *keys: bytes) -> None:
    for key in keys:
        await kv.put(key, b"value of " + key)


async def test_put_get_and_overwrite(kv: Any) -> None:
    first = await kv.put(b"k", b"one")
    assert (first.revision, first.reached, first.epoch) == (2, Durability.LOCAL, 1)
    second = await kv.put(b"k", b"two")
    assert await kv.get(b"k") == Entry(b"k", b"two", first.revision, second.revision, 2)
    assert (await kv.get(b"k", revision=first.revision)).value == b"one"
    assert await kv.get(b"absent") is None


async def test_empty_value_and_every_byte_survive(kv: Any) -> None:
    key = bytes(range(256))
    await kv.put(key, b"")
    assert (await kv.get(key)).value == b""
    await kv.put(key, key)
    assert (await kv.get(key)).value == key


async def test_conditions(kv: Any) -> None:
    made = await kv.put(b"k", b"1", if_absent=True)
    with pytest.raises(ConditionFailed) as caught:
        await kv.put(b"k", b"2", if_absent=True)
    assert (caught.value.code, caught.value.mod_revision) == ("CONDITION_FAILED", made.revision)
    assert caught.value.hint
    assert caught.value.from_server
    await kv.put(b"k", b"2", if_revision=made.revision)
    with pytest.raises(ConditionFailed):
        await kv.put(b"k", b"3", if_revision=made.revision)
    await kv.put(b"new", b"1", if_revision=0)
    with pytest.raises(ConditionFailed) as caught:
        await kv.delete(b"never", if_revision=7)
    assert caught.value.mod_revision == 0


async def test_deletes(kv: Any) -> None:
    await fill(kv, b"a", b"b/1", b"b/2", b"c")
    assert (await kv.delete(b"a")).deleted == 1
    assert (await kv.delete(b"a")).deleted == 0
    gone = await kv.delete_prefix(b"b/")
    assert gone.deleted == 2
    assert gone.revision == 7
    await fill(kv, b"d")
    assert (await kv.delete_range(b"c", b"d")).deleted == 1
    assert [entry.key for entry in await kv.entries()] == [b"d"]
    with pytest.raises(InvalidRequestError, match="INVERTED_RANGE"):
        await kv.delete_range(b"z", b"a")
    assert (await kv.delete_range(b"", b"")).deleted == 1


async def test_atomic_batch(kv: Any) -> None:
    await fill(kv, b"old", b"p/1", b"p/2", b"r1", b"r2")
    at = (await kv.get(b"old")).mod_revision
    done = await kv.write(
        [Put(b"new", b"1", if_absent=True), Delete(b"old", if_revision=at), DeletePrefix(b"p/"), DeleteRange(b"r", b"s")]
    )
    assert (done.put, done.deleted, done.revision) == (1, 5, 7)
    assert [entry.key for entry in await kv.entries()] == [b"new"]
    with pytest.raises(ConditionFailed):
        await kv.write([Put(b"x", b"1"), Put(b"new", b"2", if_revision=1)])
    assert await kv.get(b"x") is None


async def test_batch_may_span_namespaces(kv: Any, endpoint: str, connect: Any) -> None:
    await kv.create_namespace("other")
    await kv.write([Put(b"k", b"here"), Put(b"k", b"there", namespace="other")])
    assert (await kv.get(b"k")).value == b"here"
    assert (await connect(endpoint, "other").get(b"k")).value == b"there"


async def test_scan_orders_limits_and_ranges(kv: Any) -> None:
    names = [b"a", b"b1", b"b2", b"b3", b"b4", b"c"]
    await fill(kv, *names)
    assert [entry.key for entry in await kv.entries()] == names
    assert [entry.key for entry in await kv.entries(prefix=b"b")] == names[1:5]
    assert [entry.key for entry in await kv.entries(b"b")] == names[1:5]
    assert [entry.key for entry in await kv.entries(start=b"b2", end=b"c")] == names[2:5]
    assert [entry.key for entry in await kv.entries(reverse=True, limit=4)] == names[:1:-1]
    assert {entry.value for entry in await kv.entries(keys_only=True)} == {b""}
    assert (await kv.entries(prefix=b"a"))[0] == Entry(b"a", b"value of a", 2, 2, 1)
    assert await kv.entries(prefix=b"nothing") == []


async def test_scan_of_the_past(kv: Any) -> None:
    await fill(kv, b"a", b"b")
    await kv.delete(b"a")
    assert [entry.key for entry in await kv.entries(revision=3)] == [b"a", b"b"]
    assert await kv.count(revision=3) == 2


async def test_count(kv: Any) -> None:
    await fill(kv, b"a", b"b1", b"b2")
    assert (await kv.count(), await kv.count(b"b"), await kv.count(start=b"b2")) == (3, 2, 1)


async def test_prefix_and_range_exclude_each_other(kv: Any) -> None:
    for call in (kv.entries(prefix=b"a", start=b"a"), kv.count(b"a", end=b"b")):
        with pytest.raises(InvalidRequestError, match="INVALID_FIELD"):
            await call


async def test_namespaces(kv: Any, endpoint: str, connect: Any) -> None:
    made = await kv.create_namespace("team/a")
    assert (made.name, made.id, made.create_revision) == ("team/a", 2, 2)
    assert [row.name for row in await kv.list_namespaces()] == ["", "team/a"]
    with pytest.raises(NamespaceExists):
        await kv.create_namespace("team/a")
    with pytest.raises(InvalidRequestError, match="INVALID_NAMESPACE_NAME"):
        await kv.create_namespace("a b")
    inside = connect(endpoint, "team/a")
    await inside.put(b"k", b"inside")
    assert await kv.get(b"k") is None
    assert await kv.count() == 0
    with pytest.raises(UnknownNamespace) as caught:
        await connect(endpoint, namespace="nowhere").get(b"k")
    assert isinstance(caught.value, InvalidRequestError)


async def test_sync_waits_for_what_was_only_in_memory(kv: Any) -> None:
    written = await kv.put(b"k", b"v", durability=Durability.MEMORY)
    assert written.reached is Durability.MEMORY
    synced = await kv.sync(written.revision, Durability.LOCAL)
    assert (synced.revision, synced.reached) == (written.revision, Durability.LOCAL)
    assert (await kv.sync()).revision == written.revision


async def test_status(kv: Any) -> None:
    await kv.put(b"k", b"v")
    status = await kv.status()
    assert (status.role, status.epoch, status.revision, status.durable_revision) == ("primary", 1, 2, 2)
    assert (len(status.cluster_id), len(status.chain), status.keys) == (16, 16, 1)
    assert status.assigned_revision == status.applied_revision == status.visible_revision == 2


async def test_a_client_reads_its_own_memory_write(kv: Any) -> None:
    written = await kv.put(b"k", b"v", durability=Durability.MEMORY)
    assert kv.session == (1, written.revision)
    assert (await kv.get(b"k")).value == b"v"


async def test_a_session_can_be_handed_on(kv: Any, endpoint: str, connect: Any) -> None:
    await kv.put(b"k", b"v", durability=Durability.MEMORY)
    assert [entry.key for entry in await connect(endpoint, session=kv.session).entries()] == [b"k"]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"key": b"", "value": b"v"}, "EMPTY_KEY"),
        ({"key": b"k" * 8193, "value": b"v"}, "KEY_TOO_LARGE"),
        ({"key": b"k", "value": b"v" * (1024 * 1024 + 1)}, "VALUE_TOO_LARGE"),
        ({"key": b"k", "value": b"v" * (5 * 1024 * 1024)}, "COMMIT_TOO_LARGE"),
        ({"key": b"k", "value": b"v", "if_revision": -1}, "INVALID_FIELD"),
        ({"key": b"k", "value": b"v", "if_revision": 2**64}, "INVALID_FIELD"),
    ],
)
async def test_bad_puts_are_refused_and_the_client_goes_on(kv: Any, arguments: dict[str, Any], code: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        await kv.put(**arguments)
    assert caught.value.code == code
    assert (await kv.put(b"k", b"v")).revision == 2


async def test_bad_scans_are_refused(kv: Any) -> None:
    for options in ({"limit": -1}, {"start": b"b", "end": b"a"}, {"revision": 99}, {"limit": 2**63}, {"revision": -1}):
        with pytest.raises(KvClientError):
            await kv.entries(**options)


async def test_a_namespace_that_is_no_text_is_refused_at_once(connect: Any, endpoint: str) -> None:
    """It comes from a command line, which may hold any bytes; no frame could carry it."""
    with pytest.raises(InvalidRequestError, match="UTF-8"):
        connect(endpoint, "\udcff")


async def test_a_text_key_is_a_type_error(kv: Any) -> None:
    with pytest.raises(TypeError):
        await kv.put("text", b"v")
