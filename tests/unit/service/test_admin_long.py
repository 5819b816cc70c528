"""Flush and checkpoint: what they answer, what they refuse, and that they end whatever becomes of their caller."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any, cast

import pytest

from kvproto.v1 import admin_pb2
from kvserver.base.errors import Code, InvalidRequest, KvError, Refused
from kvserver.service.admin import AdminService
from kvserver.service.context import FixedContext
from support.clocks import ManualClock
from unit.service.fake_database import CHAIN, FakeDatabase

CALL = FixedContext()


@pytest.fixture
async def database() -> FakeDatabase:
    return FakeDatabase()


@pytest.fixture
def service(database: FakeDatabase) -> AdminService:
    return AdminService(cast(Any, database), ManualClock())


async def checkpoint(service: AdminService, target: str) -> admin_pb2.CheckpointResponse:
    return await service.checkpoint(admin_pb2.CheckpointRequest(target_dir=target), CALL)


async def test_flush(service: AdminService) -> None:
    done = await service.flush(admin_pb2.FlushRequest(), CALL)
    assert (done.flushed_revision, done.header.revision) == (15, 15)


async def test_checkpoint(service: AdminService, database: FakeDatabase) -> None:
    done = await checkpoint(service, "/backup/kv")
    assert (done.target_dir, database.targets) == ("/backup/kv", [Path("/backup/kv")])
    assert (done.epoch, done.revision, done.chain, done.header.revision) == (2, 19, CHAIN, 19)
    assert (done.table_files, done.table_bytes) == (6, 6_000)


@pytest.mark.parametrize("target", ["", "relative", "./here", "~/kv", "/a\0b", "\0"])
async def test_what_is_no_absolute_path_is_refused(service: AdminService, database: FakeDatabase, target: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        await checkpoint(service, target)
    assert caught.value.code is Code.TARGET_UNUSABLE
    assert caught.value.hint
    assert database.targets == []


async def test_failures_are_the_callers(service: AdminService, database: FakeDatabase) -> None:
    database.failure = Refused(Code.DISK_FULL, "no space")
    with pytest.raises(KvError, match="no space"):
        await checkpoint(service, "/backup/kv")
    with pytest.raises(KvError, match="no space"):
        await service.flush(admin_pb2.FlushRequest(), CALL)


@pytest.mark.parametrize("fails", [False, True])
async def test_a_caller_that_hangs_up_does_not_cut_the_work_off(
    service: AdminService, database: FakeDatabase, fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    database.gate.clear()
    database.failure = KvError(Code.TABLES_FAILED, "no tables") if fails else None
    calls = [
        asyncio.ensure_future(checkpoint(service, "/a")),
        asyncio.ensure_future(service.flush(admin_pb2.FlushRequest(), CALL)),
    ]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    assert all(isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*calls, return_exceptions=True))
    assert database.ended == []
    database.gate.set()
    with caplog.at_level(logging.ERROR, "asyncio"):
        for _ in range(5):
            await asyncio.sleep(0)
    assert sorted(database.ended) == ["checkpoint", "flush"]
    assert service._under_way == set()
    assert not caplog.records, "nobody is left to be told"
