"""The part of the service Admin that is about the archive: how it is doing, archiving at once, base backups, the content's hash.

What it is composed of (an archiver, helper processes, a folder for copies) belongs to the server; here stand the questions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import NamedTuple, Protocol

from kvproto.v1 import admin_pb2
from kvserver.archive.outlook import Outlook
from kvserver.archive.records import BackupRecord
from kvserver.base.clock import Clock
from kvserver.base.errors import Code, InvalidRequest
from kvserver.base.limits import MIB
from kvserver.base.types import Position
from kvserver.engine.database import Database
from kvserver.service import convert
from kvserver.service.context import CallContext
from kvserver.service.methods import Method, ScanMethod, UnaryMethod

NAME = "kvproto.v1.Admin"

AGE_WARNING_MS = 300_000
"""A sealed segment that has waited so long for the archive is worth a word, however few bytes wait."""

REPLAY_WARNING_BYTES = 1024 * MIB
"""A restore that would replay more log than this takes long, and a base backup would shorten it."""


class Check(NamedTuple):
    """One run of something that proves that the archive can be relied on."""

    time_ms: int
    """When it ended."""
    ok: bool
    what: str
    """What was found, in a sentence without its full stop."""
    seconds: float


class Stage(NamedTuple):
    """How far a backup is."""

    stage: str
    """"waiting", "copying" or "sending"."""
    revision: int = 0
    """The backup's, once that is known."""
    files_done: int = 0
    files: int = 0
    bytes_done: int = 0
    total_bytes: int = 0
    sent_bytes: int = 0
    record: BackupRecord | None = None
    """What was made; only in the last one."""


class Hashed(NamedTuple):
    """The hash of everything that one revision holds."""

    position: Position
    sha256: bytes
    keys: int


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """How the archive is doing."""

    url: str
    archived: Position | None
    """None until the archive was heard from, and where it holds nothing."""
    archived_time_ms: int
    unarchived_segments: int
    unarchived_bytes: int
    oldest_unarchived_age_ms: int
    step: int
    """0 keeping up, 1 hurrying, 2 slowing, 3 refusing, 4 dropping."""
    pace_ms: int
    last_error: str
    fenced: bool
    """Another primary has taken the archive over; ``last_error`` says which."""
    workers: int
    level: int
    queue_bytes: int
    rate_bytes_per_s: int
    when_full: str
    segments_total: int
    raw_bytes_total: int
    stored_bytes_total: int
    failures_total: int
    outlook: Outlook | None
    """What a restore would take; None until the archive was asked, and from a backup until it is asked again."""
    last_backup: BackupRecord | None
    last_verify: Check | None
    last_drill: Check | None


class Archive(Protocol):
    """What the server composes, as far as the service asks for it. Belongs to the event loop."""

    def report(self) -> Report:
        """Return how the archive is doing; does not block, and may be asked on any thread."""

    async def archive_now(self) -> Position | None:
        """Archive everything that is visible, and return how far the archive is then; None: it holds nothing. Raises KvError."""

    def create_backup(self) -> AsyncGenerator[Stage, None]:
        """Make a base backup; the last item has its record. Closed before that, it makes none. Raises KvError."""


Hasher = Callable[[], Awaitable[Hashed]]
"""Hashes what the newest revision holds; cancelled, it leaves nothing behind. Raises KvError."""


class ArchiveService:
    """The handlers; all of them belong to the event loop."""

    def __init__(self, database: Database, archive: Archive | None, hash_content: Hasher, clock: Clock) -> None:
        self._database = database
        self._archive = archive
        self._hash_content = hash_content
        self._clock = clock
        self._answers = convert.Answers(database)

    def methods(self) -> list[Method]:
        """Return the table of what this part of the service serves."""
        return [
            UnaryMethod(NAME, "ArchiveStatus", admin_pb2.ArchiveStatusRequest, self.archive_status),
            # These change nothing that anybody reads: whoever ran out of time may simply ask again.
            UnaryMethod(NAME, "ArchiveNow", admin_pb2.ArchiveNowRequest, self.archive_now),
            ScanMethod(NAME, "CreateBackup", admin_pb2.CreateBackupRequest, self.create_backup),
            UnaryMethod(NAME, "ContentHash", admin_pb2.ContentHashRequest, self.content_hash),
        ]

    def archive_status(self, request: admin_pb2.ArchiveStatusRequest, context: CallContext) -> admin_pb2.ArchiveStatusResponse:
        """Say how the archive is doing."""
        report = self._required().report()
        archived = report.archived
        return admin_pb2.ArchiveStatusResponse(
            header=self._answers.header(0),
            url=report.url,
            archived_revision=archived.revision if archived else 0,
            archived_epoch=archived.epoch.number if archived else 0,
            archived_time_ms=report.archived_time_ms,
            unarchived_segments=report.unarchived_segments,
            unarchived_bytes=report.unarchived_bytes,
            oldest_unarchived_age_ms=report.oldest_unarchived_age_ms,
            step=_STEPS[report.step],
            pace_ms=report.pace_ms,
            last_error=report.last_error,
            workers=report.workers,
            level=report.level,
            queue_bytes=report.queue_bytes,
            rate_bytes_per_s=report.rate_bytes_per_s,
            when_full=report.when_full,
            segments_total=report.segments_total,
            raw_bytes_total=report.raw_bytes_total,
            stored_bytes_total=report.stored_bytes_total,
            failures_total=report.failures_total,
            last_backup=_backup(report.last_backup) if report.last_backup else None,
            last_verify=_check(report.last_verify) if report.last_verify else None,
            last_drill=_check(report.last_drill) if report.last_drill else None,
            warnings=warnings(report),
        )

    async def archive_now(self, request: admin_pb2.ArchiveNowRequest, context: CallContext) -> admin_pb2.ArchiveNowResponse:
        """Archive everything that is visible."""
        archived = await self._required().archive_now()
        return admin_pb2.ArchiveNowResponse(
            header=self._answers.header(archived.revision if archived else 0),
            archived_revision=archived.revision if archived else 0,
            archived_epoch=archived.epoch.number if archived else 0,
        )

    async def create_backup(
        self, request: admin_pb2.CreateBackupRequest, context: CallContext
    ) -> AsyncGenerator[admin_pb2.CreateBackupResponse, None]:
        """Make a base backup, and say how far it is."""
        async with aclosing(self._required().create_backup()) as stages:
            async for stage in stages:
                yield admin_pb2.CreateBackupResponse(
                    header=self._answers.header(stage.revision),
                    stage=stage.stage,
                    files_done=stage.files_done,
                    files=stage.files,
                    bytes_done=stage.bytes_done,
                    total_bytes=stage.total_bytes,
                    sent_bytes=stage.sent_bytes,
                    backup=_backup(stage.record) if stage.record else None,
                )

    async def content_hash(self, request: admin_pb2.ContentHashRequest, context: CallContext) -> admin_pb2.ContentHashResponse:
        """Hash what the newest revision holds."""
        began_s = self._clock.monotonic()
        (epoch, revision, chain), sha256, keys = await self._hash_content()
        return admin_pb2.ContentHashResponse(
            header=self._answers.header(revision),
            epoch=epoch.number,
            revision=revision,
            chain=chain,
            sha256=sha256,
            keys=keys,
            took_ms=int((self._clock.monotonic() - began_s) * 1000),
        )

    def _required(self) -> Archive:
        if self._archive is None:
            raise no_archive()
        return self._archive


def no_archive() -> InvalidRequest:
    """Return the refusal of what needs an archive by a node that has none."""
    return InvalidRequest(
        Code.NO_ARCHIVE, "the node has no archive", "start it with one: kvserver serve --archive file:///FOLDER (or s3://...)"
    )


def warnings(report: Report) -> list[str]:
    """Return what needs somebody's attention, one sentence each."""
    found = []
    if report.fenced:
        found.append(f"Nothing is archived any more, stop this node: {_clause(report.last_error)}.")
    elif report.last_error:
        found.append(f"The archive fails, and the log is kept until it does not: {_clause(report.last_error)}.")
    waiting = f"The archive falls behind: {report.unarchived_bytes} bytes in {report.unarchived_segments} segments wait for it"
    if report.step:
        found.append(f"{waiting}, of {report.queue_bytes} that may; {_STEP_MEANS[report.step]}.")
    elif report.oldest_unarchived_age_ms > AGE_WARNING_MS:
        found.append(f"{waiting}, the oldest for {report.oldest_unarchived_age_ms // 1000} s.")
    if report.outlook is not None:
        found += _outlook_warnings(report.outlook)
    for name, check in (("check", report.last_verify), ("drill", report.last_drill)):
        if check is not None and not check.ok:
            found.append(f"The last {name} of the archive failed: {_clause(check.what)}.")
    return found


def _outlook_warnings(outlook: Outlook) -> list[str]:
    if not outlook.is_possible:
        why = "the archived log does not reach back to the store's creation, or to a base backup, without a hole"
        return [f"Revision {outlook.revision}, the newest archived one, cannot be restored: {why}; see: kvctl backup create."]
    if outlook.replay_bytes <= REPLAY_WARNING_BYTES:
        return []
    base = f"the base backup of revision {outlook.base_revision}" if outlook.base_revision else "the store's creation"
    return [f"A restore would replay {outlook.replay_bytes} bytes of log, all since {base}; see: kvctl backup create."]


_STEP_MEANS = {
    1: "they are compressed with less care",
    2: "commits are slowed",
    3: "writes are refused",
    4: "the oldest are given up, and a new base backup is needed",
}

_STEPS = (
    admin_pb2.ARCHIVE_STEP_KEEPING_UP,
    admin_pb2.ARCHIVE_STEP_HURRYING,
    admin_pb2.ARCHIVE_STEP_SLOWING,
    admin_pb2.ARCHIVE_STEP_REFUSING,
    admin_pb2.ARCHIVE_STEP_DROPPING,
)


def _backup(record: BackupRecord) -> admin_pb2.Backup:
    epoch, revision, chain = record.position
    return admin_pb2.Backup(
        id=record.id,
        epoch=epoch.number,
        revision=revision,
        chain=chain,
        time_ms=record.time_ms,
        made_ms=record.made_ms,
        files=len(record.files),
        total_bytes=record.length,
    )


def _check(check: Check) -> admin_pb2.ArchiveCheck:
    return admin_pb2.ArchiveCheck(time_ms=check.time_ms, ok=check.ok, what=check.what, seconds=check.seconds)


def _clause(reason: str) -> str:
    """Return a reason as the end of a sentence that sets its own full stop."""
    return reason.rstrip(". \n")
