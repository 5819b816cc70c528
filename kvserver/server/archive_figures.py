"""The archive's part of ``/metrics``: from how it is doing to values."""

from __future__ import annotations

from kvserver.service.archive import Report


def archive_values(report: Report) -> dict[str, float]:
    """Return the value of each metric about the archive that has one now."""
    values: dict[str, float] = {
        "kv_archived_revision": report.archived.revision if report.archived is not None else 0,
        "kv_archive_unarchived_segments": report.unarchived_segments,
        "kv_archive_unarchived_bytes": report.unarchived_bytes,
        "kv_archive_oldest_unarchived_seconds": report.oldest_unarchived_age_ms / 1000,
        "kv_archive_queue_bytes": report.queue_bytes,
        "kv_archive_step": report.step,
        "kv_archive_pace_seconds": report.pace_ms / 1000,
        "kv_archive_failing": float(bool(report.last_error)),
        "kv_archive_segments_total": report.segments_total,
        "kv_archive_raw_bytes_total": report.raw_bytes_total,
        "kv_archive_stored_bytes_total": report.stored_bytes_total,
        "kv_archive_failures_total": report.failures_total,
    }
    backup, verify, drill = report.last_backup, report.last_verify, report.last_drill
    if backup is not None:
        values["kv_archive_last_backup_revision"] = backup.position.revision
        values["kv_archive_last_backup_timestamp_seconds"] = backup.made_ms / 1000
    for name, check in (("verify", verify), ("drill", drill)):
        if check is not None:
            values[f"kv_archive_last_{name}_ok"] = float(check.ok)
            values[f"kv_archive_last_{name}_timestamp_seconds"] = check.time_ms / 1000
    if drill is not None:
        values["kv_archive_last_drill_duration_seconds"] = drill.seconds
    return values
