"""The records of an archive as fields of JSON and as cells of tables; docs/kvctl.md is the contract for the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kvctl.bytes_form import printable
from kvctl.output import counted, sized
from kvctl.times import shown_moment

if TYPE_CHECKING:
    from kvserver.archive.catalog import Catalog, EpochPart
    from kvserver.archive.plan import Span
    from kvserver.archive.records import BackupRecord, PointRecord, SegmentEntry
    from kvserver.base.types import Position

EPOCH_HEAD = ("EPOCH", "FIRST", "LAST", "SEGMENTS", "RAW", "STORED", "UNTIL", "STATE")
SEGMENT_HEAD = ("SEGMENT", "EPOCH", "FIRST", "LAST", "RAW", "STORED", "DICTIONARY", "UNTIL")
BACKUP_HEAD = ("BACKUP", "REVISION", "TIME OF IT", "FILES", "SIZE", "MADE", "NODE")
POINT_HEAD = ("POINT", "REVISION", "TIME OF IT", "MADE", "NOTE")


def safe(text: str) -> str:
    """Return text of an archive for people: anybody may have written it, so it carries no control character."""
    return printable(text.encode(errors="surrogateescape"))


def position_fields(position: Position | None) -> dict[str, Any] | None:
    """Return a position as JSON fields; None where there is none."""
    if position is None:
        return None
    return {"epoch": position.epoch.number, "revision": position.revision, "chain": position.chain.hex()}


def catalog_fields(url: str, catalog: Catalog, *, segments: bool) -> dict[str, Any]:
    """Return what an archive holds of a cluster as JSON fields."""
    from kvserver.archive.plan import possible_spans

    cluster = catalog.cluster
    return {
        "archive": url,
        "cluster_id": cluster.cluster_id.hex(),
        "parent_cluster_id": cluster.parent_cluster_id.hex(),
        "parent_revision": cluster.parent.revision if cluster.parent is not None else None,
        "archived": position_fields(catalog.archived),
        "archived_time_ms": catalog.newest_time_ms,
        "epochs": [_epoch_fields(part, segments) for part in catalog.epochs],
        "backups": [backup_fields(record) for record in catalog.backups],
        "points": [point_fields(record) for record in catalog.points],
        "given_up_before_revision": catalog.floor or None,
        "restorable": [span._asdict() for span in possible_spans(catalog)],
        "problems": list(catalog.problems),
    }


def backup_fields(record: BackupRecord) -> dict[str, Any]:
    """Return a backup as JSON fields."""
    return {
        "id": record.id,
        "cluster_id": record.cluster_id.hex(),
        **(position_fields(record.position) or {}),
        "time_ms": record.time_ms,
        "oldest_readable_revision": record.oldest_readable_revision,
        "files": len(record.files),
        "bytes": record.length,
        "node": record.node_name,
        "made_ms": record.made_ms,
    }


def point_fields(record: PointRecord) -> dict[str, Any]:
    """Return a named point as JSON fields."""
    return {
        "name": record.name,
        "revision": record.revision,
        "time_ms": record.time_ms,
        "note": record.note,
        "made_ms": record.made_ms,
    }


def _epoch_fields(part: EpochPart, segments: bool) -> dict[str, Any]:
    entries = part.entries
    fields: dict[str, Any] = {
        "epoch": part.epoch.number,
        "epoch_nonce": f"{part.epoch.nonce:016x}",
        "branch_revision": part.branch.revision,
        "last_revision": entries[-1].end.revision if entries else None,
        "segments": len(entries),
        "raw_bytes": sum(entry.raw_length for entry in entries),
        "stored_bytes": sum(entry.stored_length for entry in entries),
        "last_time_ms": max((entry.last_time_ms for entry in entries), default=0),
        "gaps": [{"first_revision": gap.first_revision, "last_revision": gap.last_revision} for gap in part.gaps],
        "closed_by": part.closing.by.number if part.closing is not None else None,
    }
    if segments:
        fields["segment_list"] = [_segment_fields(entry) for entry in entries]
    return fields


def _segment_fields(entry: SegmentEntry) -> dict[str, Any]:
    return {
        "segment": segment_label(entry),
        "first_revision": entry.id.first_revision,
        "last_revision": entry.id.last_revision,
        "raw_bytes": entry.raw_length,
        "stored_bytes": entry.stored_length,
        "first_time_ms": entry.first_time_ms,
        "last_time_ms": entry.last_time_ms,
        "dictionary_id": entry.dictionary_id,
    }


def segment_label(entry: SegmentEntry) -> str:
    """Return what a segment's object is called, without the folders before its name."""
    found = entry.id
    return f"{found.epoch_number:08x}/{found.first_revision:016x}-{found.last_revision:016x}-{found.content_hash.hex()}"


def shown_spans(spans: Sequence[Span]) -> str:
    """Return for people what can be restored."""
    return "; ".join(map(_shown_span, spans)) or "nothing"


def _shown_span(span: Span) -> str:
    if span.first_revision == span.last_revision:
        return f"revision {span.last_revision}, of {shown_moment(span.last_time_ms)}"
    return f"revisions {span.first_revision} to {span.last_revision}, up to {shown_moment(span.last_time_ms)}"


def epoch_row(part: EpochPart) -> Sequence[str]:
    """Return an epoch as cells."""
    entries = part.entries
    state = f"closed by {part.closing.by.number}" if part.closing is not None else "open"
    if part.gaps:
        state += f", {counted(len(part.gaps), 'gap')}"
    return (
        str(part.epoch.number),
        str(part.branch.revision + 1),
        str(entries[-1].end.revision) if entries else "-",
        f"{len(entries):,}",
        sized(sum(entry.raw_length for entry in entries)),
        sized(sum(entry.stored_length for entry in entries)),
        shown_moment(max((entry.last_time_ms for entry in entries), default=0)),
        state,
    )


def segment_row(entry: SegmentEntry) -> Sequence[str]:
    """Return a segment as cells."""
    found = entry.id
    return (
        segment_label(entry),
        *(str(found.epoch_number), str(found.first_revision), str(found.last_revision)),
        *(sized(entry.raw_length), sized(entry.stored_length)),
        f"{entry.dictionary_id:08x}" if entry.dictionary_id else "-",
        shown_moment(entry.last_time_ms),
    )


def backup_row(record: BackupRecord) -> Sequence[str]:
    """Return a backup as cells."""
    return (
        record.id,
        str(record.position.revision),
        shown_moment(record.time_ms),
        f"{len(record.files):,}",
        sized(record.length),
        shown_moment(record.made_ms),
        safe(record.node_name),
    )


def point_row(record: PointRecord) -> Sequence[str]:
    """Return a named point as cells."""
    times = (shown_moment(record.time_ms), shown_moment(record.made_ms))
    return (record.name, str(record.revision), *times, safe(record.note))
