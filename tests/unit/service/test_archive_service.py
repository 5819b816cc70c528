"""What the service says of the archive, what it asks of it, and that it refuses by name where there is none."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, cast

import pytest

from kvproto.v1 import admin_pb2
from kvserver.archive.outlook import Outlook
from kvserver.archive.records import BackupFile, BackupRecord
from kvserver.base.errors import Code, InvalidRequest, KvError
from kvserver.base.limits import MIB
from kvserver.base.types import Epoch, Position
from kvserver.service.admin import AdminService
from kvserver.service.archive import ArchiveService as Service
from kvserver.service.archive import Check, Hashed, Report, Stage, warnings
from kvserver.service.context import FixedContext
from support.clocks import ManualClock
from unit.service.fake_database import CHAIN, CLUSTER_ID, FakeDatabase

CALL = FixedContext()
ARCHIVED = Position(Epoch(3, 77), 18, CHAIN)
BACKUP = BackupRecord(
    id="0000000000000012-0000018bcfe56800",
    cluster_id=CLUSTER_ID,
    owner_id=CLUSTER_ID,
    position=ARCHIVED,
    time_ms=1_000,
    epochs=[],
    oldest_readable_revision=2,
    files=[BackupFile("a", 100, bytes(32)), BackupFile("b", 23, bytes(32))],
    node_name="tester",
    made_ms=2_000,
)
WELL = Report(
    url="file:///srv/archive",
    archived=ARCHIVED,
    archived_time_ms=1_500,
    unarchived_segments=0,
    unarchived_bytes=0,
    oldest_unarchived_age_ms=0,
    step=0,
    pace_ms=0,
    last_error="",
    fenced=False,
    workers=2,
    level=1,
    queue_bytes=1_000,
    rate_bytes_per_s=9,
    when_full="refuse",
    segments_total=4,
    raw_bytes_total=400,
    stored_bytes_total=100,
    failures_total=5,
    outlook=Outlook(18, True, 18, 0),
    last_backup=BACKUP,
    last_verify=None,
    last_drill=None,
)


class FakeArchive:
    """Answers what the test sets."""

    def __init__(self) -> None:
        self.told = WELL
        self.stages = [
            Stage("copying"),
            Stage("sending", 18, 1, 2, 100, 123, 100),
            Stage("sending", 18, 2, 2, 123, 123, 123, BACKUP),
        ]
        self.error: KvError | None = None
        self.closed = False

    def report(self) -> Report:
        return self.told

    async def archive_now(self) -> Position:
        if self.error is not None:
            raise self.error
        return ARCHIVED

    async def create_backup(self) -> AsyncGenerator[Stage, None]:
        try:
            if self.error is not None:
                raise self.error
            for stage in self.stages:
                yield stage
        finally:
            await asyncio.sleep(0)
            self.closed = True


@pytest.fixture
def archive() -> FakeArchive:
    return FakeArchive()


async def hash_content() -> Hashed:
    return Hashed(ARCHIVED, bytes(range(32)), 13)


def serve(archive: FakeArchive | None, clock: ManualClock | None = None) -> Service:
    return Service(cast(Any, FakeDatabase()), archive, hash_content, clock or ManualClock())


def status(archive: FakeArchive | None) -> admin_pb2.ArchiveStatusResponse:
    return serve(archive).archive_status(admin_pb2.ArchiveStatusRequest(), CALL)


async def backup(archive: FakeArchive | None) -> list[admin_pb2.CreateBackupResponse]:
    return [one async for one in serve(archive).create_backup(admin_pb2.CreateBackupRequest(), CALL)]


def test_every_figure_is_told(archive: FakeArchive) -> None:
    archive.told = dataclasses.replace(
        *(WELL,),
        unarchived_segments=6,
        unarchived_bytes=600,
        oldest_unarchived_age_ms=7_000,
        step=2,
        pace_ms=8,
        last_error="no route to host",
        last_verify=Check(1, True, "all checks", 2.5),
        last_drill=Check(3, False, "it differs", 4.5),
    )
    told = status(archive)
    for name, value in dataclasses.asdict(archive.told).items():
        if name not in ("archived", "step", "fenced", "outlook", "last_backup", "last_verify", "last_drill"):
            assert getattr(told, name) == value, name
    assert (told.archived_revision, told.archived_epoch) == (18, 3)
    assert told.step == admin_pb2.ARCHIVE_STEP_SLOWING
    assert (told.header.cluster_id, told.header.revision) == (CLUSTER_ID, 20)
    made = told.last_backup
    assert (made.id, made.epoch, made.revision, made.chain) == (BACKUP.id, 3, 18, CHAIN)
    assert (made.time_ms, made.made_ms, made.files, made.total_bytes) == (1_000, 2_000, 2, 123)
    assert told.last_verify == admin_pb2.ArchiveCheck(time_ms=1, ok=True, what="all checks", seconds=2.5)
    assert told.last_drill == admin_pb2.ArchiveCheck(time_ms=3, ok=False, what="it differs", seconds=4.5)
    assert len(told.warnings) == 3


@pytest.mark.parametrize("step", range(5))
def test_the_steps_are_those_of_the_contract(archive: FakeArchive, step: int) -> None:
    archive.told = dataclasses.replace(WELL, step=step)
    assert status(archive).step == step + 1


def test_an_archive_that_was_not_heard_from_yet(archive: FakeArchive) -> None:
    archive.told = dataclasses.replace(WELL, archived=None, outlook=None, last_backup=None)
    told = status(archive)
    assert (told.archived_revision, told.archived_epoch) == (0, 0)
    assert not (told.HasField("last_backup") or told.HasField("last_verify") or told.HasField("last_drill"))
    assert not told.warnings, "what a restore would take is not known yet"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"last_error": "no route."}, "fails, and the log is kept until it does not: no route."),
        ({"last_error": "taken by node b.", "fenced": True}, "stop this node: taken by node b."),
        ({"step": 1, "unarchived_bytes": 300, "unarchived_segments": 3}, "300 bytes in 3 segments wait"),
        ({"step": 2}, "commits are slowed"),
        ({"step": 3}, "writes are refused"),
        ({"step": 4}, "a new base backup is needed"),
        ({"oldest_unarchived_age_ms": 300_000}, None),
        ({"oldest_unarchived_age_ms": 301_000}, "the oldest for 301 s"),
        ({"last_backup": None, "outlook": None}, None),
        ({"last_backup": None, "outlook": Outlook(0, True, 0, 0)}, None),
        ({"last_backup": None, "outlook": Outlook(18, True, 0, 1024 * MIB)}, None),
        ({"outlook": Outlook(18, True, 0, 1024 * MIB + 1)}, "replay 1073741825 bytes of log, all since the store's creation;"),
        ({"outlook": Outlook(18, True, 7, 2048 * MIB)}, "all since the base backup of revision 7;"),
        ({"outlook": Outlook(18, False, 0, 0)}, "Revision 18, the newest archived one, cannot be restored:"),
        ({"last_verify": Check(1, False, "one is damaged.", 1.0)}, "The last check of the archive failed: one is damaged."),
        ({"last_drill": Check(1, False, "it differs", 1.0)}, "The last drill of the archive failed: it differs."),
        ({"last_drill": Check(1, True, "equal", 1.0)}, None),
    ],
)
def test_what_needs_attention_is_a_sentence(changes: dict[str, Any], words: str | None) -> None:
    found = warnings(dataclasses.replace(WELL, **changes))
    if words is None:
        assert found == []
        return
    (sentence,) = found
    assert words in sentence
    assert sentence[0].isupper() and sentence.endswith(".") and not sentence.endswith("..")


async def test_archiving_now(archive: FakeArchive) -> None:
    done = await serve(archive).archive_now(admin_pb2.ArchiveNowRequest(), CALL)
    assert (done.archived_revision, done.archived_epoch, done.header.revision) == (18, 3, 18)
    archive.error = KvError(Code.ARCHIVE_UNAVAILABLE, "down")
    with pytest.raises(KvError, match="down"):
        await serve(archive).archive_now(admin_pb2.ArchiveNowRequest(), CALL)


async def test_a_backup_is_told_of_as_it_goes(archive: FakeArchive) -> None:
    first, second, last = await backup(archive)
    assert (first.stage, first.header.revision, first.files) == ("copying", 20, 0)
    assert (second.stage, second.header.revision) == ("sending", 18)
    assert (second.files_done, second.files, second.bytes_done, second.total_bytes, second.sent_bytes) == (1, 2, 100, 123, 100)
    assert not second.HasField("backup")
    assert (last.backup.id, last.files_done) == (BACKUP.id, 2)


async def test_who_hangs_up_closes_the_backup_before_anything_else_goes_on(archive: FakeArchive) -> None:
    stages = serve(archive).create_backup(admin_pb2.CreateBackupRequest(), CALL)
    async with aclosing(stages):
        assert (await anext(stages)).stage == "copying"
    assert archive.closed


async def test_a_backup_that_fails_is_an_error_to_its_caller(archive: FakeArchive) -> None:
    archive.error = KvError(Code.ARCHIVE_FENCED, "another one owns it")
    with pytest.raises(KvError) as caught:
        await backup(archive)
    assert caught.value.code is Code.ARCHIVE_FENCED


async def test_the_hash_of_the_content() -> None:
    done = await serve(None).content_hash(admin_pb2.ContentHashRequest(), CALL)
    assert (done.epoch, done.revision, done.chain, done.header.revision) == (3, 18, CHAIN, 18)
    assert (done.sha256, done.keys, done.took_ms) == (bytes(range(32)), 13, 0)


async def test_without_an_archive_it_is_said_by_name() -> None:
    for call in (
        lambda: status(None),
        lambda: serve(None).archive_now(admin_pb2.ArchiveNowRequest(), CALL),
        lambda: backup(None),
    ):
        with pytest.raises(InvalidRequest) as caught:
            await cast(Any, call())
        assert caught.value.code is Code.NO_ARCHIVE
        assert "--archive" in caught.value.hint


def test_the_status_of_the_node_names_the_archive(archive: FakeArchive) -> None:
    archive.told = dataclasses.replace(WELL, step=3)
    service = AdminService(cast(Any, FakeDatabase()), ManualClock(), archive=archive)
    told = service.status(admin_pb2.StatusRequest(), CALL)
    assert (told.archived_revision, told.archive_url) == (18, "file:///srv/archive")
    assert [text for text in told.warnings if "writes are refused" in text]
    archive.told = dataclasses.replace(WELL, archived=None)
    assert service.status(admin_pb2.StatusRequest(), CALL).archived_revision == 0
    without = AdminService(cast(Any, FakeDatabase()), ManualClock()).status(admin_pb2.StatusRequest(), CALL)
    assert (without.archived_revision, without.archive_url) == (0, "")
