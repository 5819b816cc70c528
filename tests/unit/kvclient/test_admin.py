"""Looking after a node: dropping namespaces, giving up history, flush, checkpoint, and what their failures mean."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kvclient import (
    CheckpointResult,
    Compacted,
    CompactResult,
    FutureRevision,
    InvalidRequestError,
    Namespace,
    NotWritten,
    OutcomeUnknown,
    TargetUnusable,
    Timeout,
    UnknownNamespace,
)
from support.fake_server import FakeServer


async def test_a_namespace_says_what_it_holds(kv: Any, endpoint: str, connect: Any) -> None:
    await kv.create_namespace("team/a")
    inside = connect(endpoint, "team/a")
    await inside.put(b"k1", b"one")
    await inside.put(b"k2", b"three")
    await inside.put(b"k2", b"two")
    assert await kv.list_namespaces() == [Namespace("", 1, 1, 0, 0), Namespace("team/a", 2, 2, 2, 10)]


async def test_dropping_a_namespace(kv: Any, endpoint: str, connect: Any) -> None:
    await kv.create_namespace("team/a")
    inside = connect(endpoint, "team/a")
    await inside.put(b"k", b"v")
    done = await kv.drop_namespace("team/a")
    assert (done.namespace, done.revision, done.epoch) == (Namespace("team/a", 2, 2, 1, 2), 4, 1)
    assert kv.session.revision == 4
    with pytest.raises(UnknownNamespace):
        await inside.get(b"k")
    with pytest.raises(UnknownNamespace):
        await kv.drop_namespace("team/a")
    made = await kv.create_namespace("team/a")
    assert made.id == 3, "a number is never used again"
    assert await inside.count() == 0
    with pytest.raises(InvalidRequestError, match="INVALID_FIELD"):
        await kv.drop_namespace("")
    for call in (kv.drop_namespace, kv.create_namespace):
        with pytest.raises(InvalidRequestError, match="UTF-8"):
            await call("a\udcff")


async def test_compacting(kv: Any) -> None:
    for value in (b"1", b"2", b"3"):
        await kv.put(b"k", value)
    assert await kv.compact(3) == CompactResult(3, 5, 1)
    with pytest.raises(Compacted) as caught:
        await kv.get(b"k", revision=2)
    assert caught.value.oldest_readable_revision == 3
    assert (await kv.get(b"k", revision=3)).value == b"2"
    assert await kv.compact(2) == CompactResult(3, 5, 1), "nothing was left to give up"
    assert (await kv.compact()).oldest_readable_revision == 5
    with pytest.raises(FutureRevision):
        await kv.compact(99)
    with pytest.raises(InvalidRequestError, match="INVALID_FIELD"):
        await kv.compact(-1)


async def test_flush_and_checkpoint(kv: Any) -> None:
    await kv.put(b"k", b"v")
    flushed = await kv.flush()
    assert (flushed.flushed_revision, flushed.epoch) == (2, 1)
    assert (await kv.status()).flushed_revision == 2
    made = await kv.checkpoint("/backup/kv")
    assert made == CheckpointResult("/backup/kv", 1, 2, bytes(range(16)), 3, 7_000_000)
    with pytest.raises(TargetUnusable) as caught:
        await kv.checkpoint("relative")
    assert isinstance(caught.value, InvalidRequestError)
    with pytest.raises(InvalidRequestError, match="UTF-8"):
        await kv.checkpoint("/backup/\udcff")


async def test_they_may_take_longer_than_other_calls(fake: FakeServer, connect: Any) -> None:
    kv = connect(fake.endpoint, timeout_s=0.3)
    held = [fake.hold("Flush"), fake.hold("Checkpoint")]
    for release, call in zip(held, (kv.flush(), kv.checkpoint("/backup/kv")), strict=True):
        asyncio.get_running_loop().call_later(0.6, release.set)  # after the client's own limit
        assert (await call).epoch == 1


async def test_what_their_failures_mean(kv: Any, fake: FakeServer) -> None:
    """A flush changes nothing that readers see, so no failure of it leaves anything open; a drop does."""
    await kv.status()  # the time that a first connection takes is none of the flush's
    release = fake.hold("Flush")
    with pytest.raises(Timeout):
        await kv.flush(timeout_s=0.1)
    release.set()
    fake.refuse_next("Checkpoint", "TABLES_FAILED", "the disk is read-only")
    with pytest.raises(NotWritten, match="TABLES_FAILED"):
        await kv.checkpoint("/backup/kv")
    for method, call in (("DropNamespace", kv.drop_namespace("x")), ("Compact", kv.compact())):
        fake.abort_next(method, "UNAVAILABLE", "Socket closed")
        with pytest.raises(OutcomeUnknown):
            await call
