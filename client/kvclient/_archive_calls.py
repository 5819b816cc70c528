"""Builds the requests about a node's archive and reads their answers: pure, and shared by both clients."""

from __future__ import annotations

from kvclient import _archive_types as types
from kvclient._calls import Call
from kvclient._errors import ServerError
from kvproto.v1 import admin_pb2

_STEPS: dict[int, types.ArchiveStep] = {
    admin_pb2.ARCHIVE_STEP_KEEPING_UP: types.ArchiveStep.KEEPING_UP,
    admin_pb2.ARCHIVE_STEP_HURRYING: types.ArchiveStep.HURRYING,
    admin_pb2.ARCHIVE_STEP_SLOWING: types.ArchiveStep.SLOWING,
    admin_pb2.ARCHIVE_STEP_REFUSING: types.ArchiveStep.REFUSING,
    admin_pb2.ARCHIVE_STEP_DROPPING: types.ArchiveStep.DROPPING,
}


def archive_status() -> Call[types.ArchiveStatus]:
    """Make the call that asks how the archive is doing."""
    return Call("Admin", "ArchiveStatus", admin_pb2.ArchiveStatusRequest(), _status, writes=False)


def archive_now() -> Call[types.ArchiveNowResult]:
    """Make the call that archives what is there. It changes nothing that readers see, so losing it leaves nothing open."""
    return Call("Admin", "ArchiveNow", admin_pb2.ArchiveNowRequest(), _now_result, writes=False)


def content_hash() -> Call[types.ContentHash]:
    """Make the call that hashes what the node holds."""
    return Call("Admin", "ContentHash", admin_pb2.ContentHashRequest(), _content_hash, writes=False)


class BackupCursor:
    """Knows whether a stream of progress has brought its end, the backup."""

    def __init__(self) -> None:
        self.request = admin_pb2.CreateBackupRequest()
        self._made = False

    def take(self, answer: admin_pb2.CreateBackupResponse) -> types.BackupProgress:
        """Take in a message and return what it says."""
        made = backup(answer.backup) if answer.HasField("backup") else None
        self._made = made is not None
        return types.BackupProgress(
            stage=answer.stage,
            files_done=answer.files_done,
            files=answer.files,
            bytes_done=answer.bytes_done,
            total_bytes=answer.total_bytes,
            sent_bytes=answer.sent_bytes,
            backup=made,
        )

    def check_ended(self) -> None:
        """Raise ServerError if the stream ended without a backup; that must not pass for one."""
        if not self._made:
            raise ServerError("UNEXPECTED_STATUS", "the server ended the backup before it was made")


def backup(made: admin_pb2.Backup) -> types.Backup:
    """Return a backup as the clients give it."""
    return types.Backup(
        id=made.id,
        epoch=made.epoch,
        revision=made.revision,
        chain=made.chain,
        time_ms=made.time_ms,
        made_ms=made.made_ms,
        files=made.files,
        total_bytes=made.total_bytes,
    )


def _status(answer: admin_pb2.ArchiveStatusResponse) -> types.ArchiveStatus:
    return types.ArchiveStatus(
        url=answer.url,
        cluster_id=answer.header.cluster_id,
        revision=answer.header.revision,
        archived_revision=answer.archived_revision,
        archived_epoch=answer.archived_epoch,
        archived_time_ms=answer.archived_time_ms,
        unarchived_segments=answer.unarchived_segments,
        unarchived_bytes=answer.unarchived_bytes,
        oldest_unarchived_age_ms=answer.oldest_unarchived_age_ms,
        step=_STEPS.get(answer.step, types.ArchiveStep.UNRECOGNIZED),
        pace_ms=answer.pace_ms,
        last_error=answer.last_error,
        workers=answer.workers,
        level=answer.level,
        queue_bytes=answer.queue_bytes,
        rate_bytes_per_s=answer.rate_bytes_per_s,
        when_full=answer.when_full,
        segments_total=answer.segments_total,
        raw_bytes_total=answer.raw_bytes_total,
        stored_bytes_total=answer.stored_bytes_total,
        failures_total=answer.failures_total,
        last_backup=backup(answer.last_backup) if answer.HasField("last_backup") else None,
        last_verify=_check(answer.last_verify) if answer.HasField("last_verify") else None,
        last_drill=_check(answer.last_drill) if answer.HasField("last_drill") else None,
        warnings=tuple(answer.warnings),
    )


def _check(check: admin_pb2.ArchiveCheck) -> types.ArchiveCheck:
    return types.ArchiveCheck(check.time_ms, check.ok, check.what, check.seconds)


def _now_result(answer: admin_pb2.ArchiveNowResponse) -> types.ArchiveNowResult:
    return types.ArchiveNowResult(answer.archived_revision, answer.archived_epoch, answer.header.epoch)


def _content_hash(answer: admin_pb2.ContentHashResponse) -> types.ContentHash:
    return types.ContentHash(answer.epoch, answer.revision, answer.chain, answer.sha256, answer.keys, answer.took_ms)
