"""What the clients send, and what they make of what a server may send."""

from __future__ import annotations

from typing import Any

from kvclient import NO_SESSION, Durability, Hold
from support.fake_server import CLUSTER_ID, FakeServer


async def test_unconditional_put_sends_no_condition(kv: Any, fake: FakeServer) -> None:
    await kv.put(b"k", b"v")
    assert not fake.last("Put").HasField("if_revision")
    await kv.put(b"k2", b"v", if_revision=0)
    assert fake.last("Put").HasField("if_revision")


async def test_a_count_asks_for_no_keys(kv: Any, fake: FakeServer) -> None:
    assert await kv.count() == 0
    assert fake.last("Scan").count_only


async def test_reads_carry_the_session_and_only_those_of_this_client_wait(kv: Any, fake: FakeServer, connect: Any) -> None:
    await kv.get(b"k", session=NO_SESSION)
    assert not fake.last("Get").HasField("session")
    written = await kv.put(b"k", b"v", durability=Durability.MEMORY)
    assert await kv.get(b"k", session=NO_SESSION) is None
    assert await connect(fake.endpoint).get(b"k") is None
    assert (await kv.get(b"k")).value == b"v"
    assert fake.last("Get").session.revision == written.revision
    await kv.entries()
    assert fake.last("Scan").session.epoch == 1


async def test_the_token_never_moves_back(kv: Any) -> None:
    for _ in range(3):
        newest = await kv.put(b"k", b"v")
    await kv.get(b"k", revision=2)
    assert kv.session == (1, newest.revision)


async def test_every_field_of_a_status(kv: Any) -> None:
    status = await kv.status()
    assert (status.cluster_id, status.node, status.epoch_nonce) == (CLUSTER_ID, "fake", 2**63 + 5)
    assert (status.memory_bytes, status.wal_segments, status.wal_bytes) == (123_456, 2, 5_000_000)
    assert (status.uptime_ms, status.server_version, status.format_version) == (61_000, "0.1.0", 1)
    assert (status.flushed_revision, status.flushes, status.holds) == (1, 5, (Hold("flush", 2),))
    assert (status.table_files, status.table_bytes) == (3, 7_000_000)
    assert (status.level0_files, status.pending_compaction_bytes) == (2, 4_000)
    assert status.warnings == ("the disk is 91 % full",)


async def test_a_level_of_a_newer_server_is_told_as_such(kv: Any, fake: FakeServer) -> None:
    put = await kv.put(b"k", b"v")
    assert put.reached is Durability.LOCAL
    fake.reached = 17
    assert (await kv.put(b"k", b"v")).reached is Durability.UNRECOGNIZED
