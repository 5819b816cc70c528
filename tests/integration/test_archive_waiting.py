"""Who waits for the archive of a whole server, is warned of it, or hangs up; and what the end of the server makes of the rest."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from integration.archiving_node import Node, happened, node_on
from integration.serving import until
from kvclient import AsyncClient
from kvserver.archive.catalog import read_catalog
from kvserver.archive.open_store import open_store
from kvserver.base.archive_upkeep_events import DrillFailed
from kvserver.server import archive_part


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    async with node_on(tmp_path) as started:
        yield started


@pytest.fixture
async def kv(node: Node) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(str(node.app.listen)) as client:
        await client.put_many((b"k%04d" % number, b"v" * 50) for number in range(2000))
        yield client


async def test_what_a_restore_would_take_is_a_warning_where_it_is_much(
    node: Node, kv: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kvserver.service import archive as service

    async def warned() -> tuple[str, ...]:
        return (await kv.status()).warnings

    await kv.archive_now()
    assert await node.part._upkeep.look_ahead()
    assert await warned() == (), "it can be restored from its creation on, and that is not much"
    monkeypatch.setattr(service, "REPLAY_WARNING_BYTES", 10)
    (text,) = await warned()
    assert "all since the store's creation" in text
    async for _ in kv.create_backup():
        pass
    assert await warned() == (), "a backup was made since"
    assert await node.part._upkeep.look_ahead()
    assert await warned() == ()


async def test_the_end_of_the_server_is_no_failed_drill_or_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with node_on(tmp_path) as node, AsyncClient(str(node.app.listen)) as kv:
        await kv.put(b"k", b"v")
        copies, upkeep = node.app._node.life.copies, node.part._upkeep
        assert copies is not None and upkeep._task is not None
        upkeep._task.cancel()
        monkeypatch.setattr(upkeep, "step", upkeep.drill)
        upkeep.start()
        await until(lambda: copies._helpers and node.scratch)
        await node.app.stop()
    assert not happened(node, DrillFailed)
    assert node.scratch == []


async def test_a_node_that_stops_before_it_has_heard_from_the_archive_archives_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = threading.Event()
    monkeypatch.setattr(archive_part, "open_store", lambda url, fs: (answers.wait(), open_store(url, fs))[1])
    async with node_on(tmp_path) as node:
        async with AsyncClient(str(node.app.listen)) as kv:
            written, cluster_id = (await kv.put(b"k", b"v")).revision, (await kv.status()).cluster_id
        part = node.part
        stopping = asyncio.ensure_future(node.app.stop())
        await until(part._stopping.is_set)
        assert not stopping.done()
        answers.set()
        await stopping
        archived = read_catalog(node.store, cluster_id).archived
        assert archived is not None and archived.revision == written


async def test_a_node_that_never_hears_from_the_archive_says_so_and_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(archive_part, "open_store", lambda url, fs: threading.Event().wait())
    monkeypatch.setattr(archive_part, "LAST_SEGMENT_S", 0.1)
    monkeypatch.setattr(archive_part, "STOP_S", 0.1)
    async with node_on(tmp_path) as node, AsyncClient(str(node.app.listen)) as kv:
        await kv.put(b"k", b"v")
    assert "what was written last is not archived before the next start: it took too long" in caplog.text


async def test_who_waits_for_the_archive_hears_that_the_node_lives(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    told = asyncio.Event()

    async def heard_from() -> None:
        await told.wait()

    monkeypatch.setattr(node.part, "heard_from", heard_from)
    stages = []
    async for far in node.part.create_backup():
        stages.append(far.stage)
        if len(stages) == 3:
            told.set()
    assert stages[:3] == ["waiting"] * 3 and stages[-1] == "sending"


async def test_a_hash_that_nobody_waits_for_any_more_costs_no_copy(
    node: Node, kv: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = node.app._node.life.copies
    assert copies is not None
    made = []
    monkeypatch.setattr(copies, "copy", made.append)
    async with copies._hashing:
        waiting = asyncio.ensure_future(copies.hash_content())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await until(lambda: not copies._helpers)
    assert made == []
