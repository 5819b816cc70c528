"""What the clients say of a node's archive, backups as a stream of progress, and the errors that come with an archive."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

import kvclient
from kvclient import (
    ArchiveBehind,
    ArchiveCheck,
    ArchiveError,
    ArchiveFenced,
    ArchiveNowResult,
    ArchiveStep,
    ArchiveUnavailable,
    Backup,
    BackupProgress,
    InvalidRequestError,
    NoArchive,
    NotWritten,
    ServerError,
    Timeout,
    Unavailable,
)
from support.fake_server import CLUSTER_ID, FakeServer


async def progress(kv: Any, **options: Any) -> list[BackupProgress]:
    """Return all that a backup brings, of either client."""
    if isinstance(kv.client, kvclient.AsyncClient):
        return [one async for one in kv.client.create_backup(**options)]
    found: list[BackupProgress] = await kv.in_a_thread(lambda: list(kv.client.create_backup(**options)))
    return found


async def test_how_the_archive_is_doing(kv: Any, fake: FakeServer) -> None:
    told = await kv.archive_status()
    assert (told.url, told.cluster_id) == ("file:///srv/archive", CLUSTER_ID)
    assert (told.revision, told.archived_revision, told.archived_epoch) == (1, 1, 1)
    assert (told.unarchived_segments, told.unarchived_bytes, told.oldest_unarchived_age_ms) == (2, 30_000_000, 61_500)
    assert (told.step, told.pace_ms, told.when_full) == (ArchiveStep.SLOWING, 12, "refuse")
    assert (told.segments_total, told.raw_bytes_total, told.stored_bytes_total, told.failures_total) == (
        *(7, 70_000_000, 20_000_000),
        3,
    )
    assert told.last_verify == ArchiveCheck(1_700_000_001_000, True, "7 segments check", 1.5)
    assert (told.last_backup, told.last_drill) == (None, None)
    assert told.warnings == ("the archive is 61 seconds behind",)
    status = await kv.status()
    assert (status.archive_url, status.archived_revision) == ("file:///srv/archive", 1)


@pytest.mark.parametrize("step", range(7))
async def test_every_step_has_a_name(kv: Any, fake: FakeServer, step: int) -> None:
    fake.archive_step = step
    names = ["UNRECOGNIZED", "KEEPING_UP", "HURRYING", "SLOWING", "REFUSING", "DROPPING", "UNRECOGNIZED"]
    assert (await kv.archive_status()).step.name == names[step]


async def test_archiving_now(kv: Any, fake: FakeServer) -> None:
    await kv.put(b"k", b"v")
    assert await kv.archive_now() == ArchiveNowResult(2, 1, 1)
    assert (await kv.status()).archived_revision == 2


async def test_they_may_take_longer_than_other_calls(fake: FakeServer, connect: Any) -> None:
    kv = connect(fake.endpoint, timeout_s=0.3)
    held = [fake.hold("ArchiveNow"), fake.hold("ContentHash")]
    for release, call in zip(held, (kv.archive_now(), kv.content_hash()), strict=True):
        asyncio.get_running_loop().call_later(0.6, release.set)  # after the client's own limit
        assert (await call).epoch == 1


async def test_a_hash_of_what_the_node_holds(kv: Any) -> None:
    await kv.put(b"k", b"v")
    first = await kv.content_hash()
    assert (first.epoch, first.revision, first.chain, first.keys, len(first.sha256)) == (1, 2, bytes(range(16)), 1, 32)
    await kv.put(b"k", b"w")
    assert (await kv.content_hash()).sha256 != first.sha256


async def test_a_backup_brings_how_far_it_is_and_last_what_was_made(kv: Any, fake: FakeServer) -> None:
    await kv.put(b"k", b"v")
    first, second, last = await progress(kv)
    assert first == BackupProgress("copying", 0, 0, 0, 0, 0, None)
    assert second == BackupProgress("sending", 1, 3, 2_000_000, 7_000_000, 1_000_000, None)
    made = Backup("0000000000000002-0000018bcfe56fd0", 1, 2, bytes(range(16)), 1_700_000_001_999, 1_700_000_002_000, 3, 7_000_000)
    assert last == BackupProgress("sending", 3, 3, 7_000_000, 7_000_000, 1_000_000, made)
    assert (await kv.archive_status()).last_backup == made


async def test_nothing_is_sent_before_the_first_item_is_asked_for(kv: Any, fake: FakeServer) -> None:
    started = kv.client.create_backup()
    assert fake.requests == []
    if inspect.isasyncgen(started):
        await started.aclose()


async def test_a_backup_that_is_left_early_is_hung_up_on(kv: Any, fake: FakeServer) -> None:
    release = fake.hold("CreateBackup")
    stream = kv.client.create_backup()
    if inspect.isasyncgen(stream):
        assert (await anext(stream)).stage == "copying"
        await stream.aclose()
    else:
        assert (await kv.in_a_thread(lambda: next(stream))).stage == "copying"
        await kv.in_a_thread(stream.close)
    assert await asyncio.to_thread(fake.cancelled.wait, 10)
    release.set()


async def test_the_wait_for_the_next_item_is_bounded_not_the_whole(fake: FakeServer, connect: Any) -> None:
    kv = connect(fake.endpoint)
    await kv.status()  # the time that a first connection takes is none of the backup's
    release = fake.hold("CreateBackup")
    with pytest.raises(Timeout) as caught:
        await progress(kv, timeout_s=0.3)
    assert (caught.value.code, caught.value.from_server) == ("DEADLINE", False)
    assert await asyncio.to_thread(fake.cancelled.wait, 10), "the node is told that nobody waits any more"
    release.set()


async def test_a_backup_that_ends_without_one_is_no_backup(kv: Any, fake: FakeServer) -> None:
    fake.backup_is_cut = True
    with pytest.raises(ServerError, match="before it was made"):
        await progress(kv)


async def test_a_broken_backup_is_not_begun_again(kv: Any, fake: FakeServer) -> None:
    fake.abort_next("CreateBackup", "UNAVAILABLE", "Socket closed")
    with pytest.raises(Unavailable):
        await progress(kv)
    assert [name for name, _ in fake.requests] == ["CreateBackup"]
    assert (await progress(kv))[-1].backup is not None


async def test_a_node_without_an_archive(kv: Any, fake: FakeServer) -> None:
    fake.archive_url = ""
    for call in (kv.archive_status(), kv.archive_now(), progress(kv)):
        with pytest.raises(NoArchive) as caught:
            await call
        assert isinstance(caught.value, InvalidRequestError)
        assert caught.value.hint
    assert (await kv.content_hash()).revision == 1
    status = await kv.status()
    assert (status.archive_url, status.archived_revision) == ("", 1)


@pytest.mark.parametrize(("code", "kind"), [("ARCHIVE_UNAVAILABLE", ArchiveUnavailable), ("ARCHIVE_FENCED", ArchiveFenced)])
async def test_what_an_archive_refuses(kv: Any, fake: FakeServer, code: str, kind: type[ArchiveError]) -> None:
    fake.refuse_next("CreateBackup", code, "no")
    with pytest.raises(kind) as caught:
        await progress(kv)
    assert isinstance(caught.value, ArchiveError) and not isinstance(caught.value, NotWritten)


async def test_a_write_that_the_archive_is_too_far_behind_for_is_certainly_not_written(fake: FakeServer, connect: Any) -> None:
    once = connect(fake.endpoint, retry=kvclient.Retry(attempts=1))
    fake.refuse_next("Put", "ARCHIVE_BEHIND", "the archive is behind")
    with pytest.raises(ArchiveBehind) as caught:
        await once.put(b"k", b"v")
    assert isinstance(caught.value, NotWritten)
    fake.refuse_next("Put", "ARCHIVE_BEHIND", "the archive is behind", times=2)
    patient = connect(fake.endpoint)
    assert (await patient.put(b"k", b"v")).revision == 2, "it passes by itself, so it is sent again"
