"""The small records of an archive, as values and as bytes: JSON objects with a checksum, readable by people.

Reading is hostile-input code: the size is capped before anything is parsed, every field must be there, be of its kind and lie
within its bounds, and a record says which name it belongs under. ``docs/archive_format.md`` describes each of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from kvserver.archive.errors import damaged
from kvserver.archive.names import BACKUP_ID, POINT_NAME, SegmentId
from kvserver.archive.record_fields import Fields, checked_text, epoch_fields
from kvserver.base.errors import Corruption
from kvserver.base.limits import MIB
from kvserver.base.record_file import decode_record, encode_record, position_fields
from kvserver.base.types import Epoch, Position

MAX_RECORD_BYTES = 16 * MIB
"""No record is larger: a backup of 100,000 files takes 15 MiB."""

FORMAT_VERSION = 1

MAX_REVISION = (1 << 64) - 1

Record = TypeVar("Record")


class SegmentEntry(NamedTuple):
    """A segment in the archive, as its epoch's manifest lists it."""

    id: SegmentId
    segment_id: int
    """The unguessable number in the segment's header."""
    start: Position
    """Before its first frame; of its own epoch."""
    previous: Position
    """Where the log stood before it: the end of the segment before, of another epoch where it begins one."""
    end: Position
    """Behind its last frame."""
    raw_length: int
    """Bytes of the segment as it lies in ``wal/``."""
    stored_length: int
    """Bytes of the object."""
    first_time_ms: int
    """The time of its first group; of its header where it has none."""
    last_time_ms: int
    """The highest time in it."""
    dictionary_id: int
    """0: compressed without one."""


class Gap(NamedTuple):
    """Commits that the archive does not hold, by explicit policy; behind it a new base backup is needed."""

    after: Position
    """What the archive holds before it."""
    first_revision: int
    last_revision: int


class Closing(NamedTuple):
    """The end of an epoch's manifest: another epoch has begun."""

    by: Epoch
    branch: Position
    """Where the other epoch begins. What the closed one holds behind it is not part of history any more."""


class ManifestRecord(NamedTuple):
    """One record of an epoch's manifest. Each names the hash of the one before, so that none can be exchanged or left out."""

    cluster_id: bytes
    epoch: Epoch
    branch: Position
    """Where the epoch begins."""
    number: int
    """0, 1, 2 and so on within the epoch."""
    previous_sha256: bytes
    """Of the bytes of the record before; empty in record 0."""
    entries: list[SegmentEntry]
    """In order, each continuing the one before."""
    gap: Gap | None
    """Lies before the entries."""
    closing: Closing | None
    """Lies behind them; nothing follows."""
    node_name: str
    written_ms: int


class ClusterRecord(NamedTuple):
    """Whose prefix this is."""

    cluster_id: bytes
    parent_cluster_id: bytes
    """The store that it was forked from; empty where it was not."""
    parent: Position | None
    """Where it was forked from it."""
    node_name: str
    created_ms: int


class BackupFile(NamedTuple):
    """A file of a backup."""

    path: str
    """Its name within ``tables/``: one name, no folders."""
    length: int
    sha256: bytes


class BackupRecord(NamedTuple):
    """A base backup. Written last: without it there is no backup."""

    id: str
    cluster_id: bytes
    owner_id: bytes
    """The cluster that the tables themselves name: the parent's, in a fork that was not flushed yet."""
    position: Position
    time_ms: int
    """When its tables were written: all of it had been committed then. 0 where that is not known."""
    epochs: list[tuple[Epoch, Position]]
    """Each epoch that leads to the position, with the position at which it began, oldest first."""
    oldest_readable_revision: int
    files: list[BackupFile]
    node_name: str
    made_ms: int

    @property
    def length(self) -> int:
        """Return the bytes of all files."""
        return sum(file.length for file in self.files)


class PointRecord(NamedTuple):
    """A revision with a name: retention keeps what restoring it needs."""

    name: str
    cluster_id: bytes
    revision: int
    time_ms: int
    note: str
    made_ms: int


class RetentionRecord(NamedTuple):
    """What was given up: nothing below this is promised any more, and what is missing there is no damage."""

    cluster_id: bytes
    first_revision: int
    """Segments that end before it may be gone."""
    written_ms: int
    sweep: str = ""
    """Who is removing files that no backup names at the moment; nobody usually. See ``file_sweep``."""
    sweep_ms: int = 0
    """When that was written."""


def encode_manifest(record: ManifestRecord) -> bytes:
    """Return the bytes of a manifest record."""
    fields: dict[str, Any] = {
        "cluster_id": record.cluster_id.hex(),
        "epoch": epoch_fields(record.epoch),
        "branch": position_fields(record.branch),
        "number": record.number,
        "previous_sha256": record.previous_sha256.hex(),
        "segments": [_entry_fields(entry) for entry in record.entries],
        "node_name": record.node_name,
        "written_ms": record.written_ms,
    }
    if record.gap is not None:
        gap = record.gap
        fields["gap"] = {
            "after": position_fields(gap.after),
            "first_revision": gap.first_revision,
            "last_revision": gap.last_revision,
        }
    if record.closing is not None:
        fields["closing"] = {"by": epoch_fields(record.closing.by), "branch": position_fields(record.closing.branch)}
    return _encode("manifest", fields)


def decode_manifest(name: str, data: bytes) -> ManifestRecord:
    """Return the manifest record of an object's bytes. Raises Corruption."""

    def parse(fields: Fields) -> ManifestRecord:
        gap = fields.optional("gap")
        closing = fields.optional("closing")
        return ManifestRecord(
            cluster_id=fields.raw("cluster_id", 16),
            epoch=fields.epoch("epoch"),
            branch=fields.position("branch"),
            number=fields.number("number"),
            previous_sha256=fields.raw("previous_sha256", 0, 32),
            entries=[_entry(entry) for entry in fields.several("segments")],
            gap=Gap(gap.position("after"), gap.number("first_revision"), gap.number("last_revision")) if gap else None,
            closing=Closing(closing.epoch("by"), closing.position("branch")) if closing else None,
            node_name=fields.text("node_name"),
            written_ms=fields.number("written_ms"),
        )

    return _decode(name, data, "manifest", parse)


def encode_cluster(record: ClusterRecord) -> bytes:
    """Return the bytes of a cluster record."""
    fields: dict[str, Any] = {
        "cluster_id": record.cluster_id.hex(),
        "parent_cluster_id": record.parent_cluster_id.hex(),
        "node_name": record.node_name,
        "created_ms": record.created_ms,
    }
    if record.parent is not None:
        fields["parent"] = position_fields(record.parent)
    return _encode("cluster", fields)


def decode_cluster(name: str, data: bytes) -> ClusterRecord:
    """Return the cluster record of an object's bytes. Raises Corruption."""

    def parse(fields: Fields) -> ClusterRecord:
        return ClusterRecord(
            cluster_id=fields.raw("cluster_id", 16),
            parent_cluster_id=fields.raw("parent_cluster_id", 0, 16),
            parent=fields.position("parent") if fields.has("parent") else None,
            node_name=fields.text("node_name"),
            created_ms=fields.number("created_ms"),
        )

    return _decode(name, data, "cluster", parse)


def encode_backup(record: BackupRecord) -> bytes:
    """Return the bytes of a backup record."""
    return _encode(
        "backup",
        {
            "id": record.id,
            "cluster_id": record.cluster_id.hex(),
            "owner_id": record.owner_id.hex(),
            "position": position_fields(record.position),
            "time_ms": record.time_ms,
            "epochs": [{**epoch_fields(epoch), "began": position_fields(began)} for epoch, began in record.epochs],
            "oldest_readable_revision": record.oldest_readable_revision,
            "files": [{"path": file.path, "length": file.length, "sha256": file.sha256.hex()} for file in record.files],
            "node_name": record.node_name,
            "made_ms": record.made_ms,
        },
    )


def decode_backup(name: str, data: bytes) -> BackupRecord:
    """Return the backup record of an object's bytes. Raises Corruption."""

    def parse(fields: Fields) -> BackupRecord:
        backup_id = fields.text("id")
        if not BACKUP_ID.fullmatch(backup_id):
            raise ValueError(f"id: {backup_id[:64]!r}")
        return BackupRecord(
            id=backup_id,
            cluster_id=fields.raw("cluster_id", 16),
            owner_id=fields.raw("owner_id", 16),
            position=fields.position("position"),
            time_ms=fields.number("time_ms"),
            epochs=[(one.own_epoch(), one.position("began")) for one in fields.several("epochs")],
            oldest_readable_revision=fields.number("oldest_readable_revision"),
            files=[
                BackupFile(one.file_name("path"), one.number("length"), one.raw("sha256", 32)) for one in fields.several("files")
            ],
            node_name=fields.text("node_name"),
            made_ms=fields.number("made_ms"),
        )

    return _decode(name, data, "backup", parse)


def encode_point(record: PointRecord) -> bytes:
    """Return the bytes of a named point's record. Raises ValueError for a note that no reader would take."""
    checked_text("note", record.note)
    return _encode("point", {**record._asdict(), "cluster_id": record.cluster_id.hex()})


def decode_point(name: str, data: bytes) -> PointRecord:
    """Return the record of a named point. Raises Corruption."""

    def parse(fields: Fields) -> PointRecord:
        point = fields.text("name")
        if not POINT_NAME.fullmatch(point):
            raise ValueError(f"name: {point[:64]!r}")
        return PointRecord(
            name=point,
            cluster_id=fields.raw("cluster_id", 16),
            revision=fields.number("revision"),
            time_ms=fields.number("time_ms"),
            note=fields.text("note"),
            made_ms=fields.number("made_ms"),
        )

    return _decode(name, data, "point", parse)


def encode_retention(record: RetentionRecord) -> bytes:
    """Return the bytes of the record of what was given up."""
    return _encode("retention", {**record._asdict(), "cluster_id": record.cluster_id.hex()})


def decode_retention(name: str, data: bytes) -> RetentionRecord:
    """Return the record of what was given up. Raises Corruption."""

    def parse(fields: Fields) -> RetentionRecord:
        return RetentionRecord(
            cluster_id=fields.raw("cluster_id", 16),
            first_revision=fields.number("first_revision"),
            written_ms=fields.number("written_ms"),
            sweep=fields.text("sweep"),
            sweep_ms=fields.number("sweep_ms"),
        )

    return _decode(name, data, "retention", parse)


def _entry(fields: Fields) -> SegmentEntry:
    start, end = fields.position("start"), fields.position("end")
    if start.epoch != end.epoch or start.revision > end.revision:
        raise ValueError("a segment ends before it begins, or in another epoch")
    if start.revision == MAX_REVISION:
        raise ValueError("a segment begins behind the last revision that there is")
    return SegmentEntry(
        id=SegmentId(start.epoch.number, start.revision + 1, end.revision, fields.raw("content_hash", 16)),
        segment_id=fields.number("segment_id"),
        start=start,
        previous=fields.position("previous"),
        end=end,
        raw_length=fields.number("raw_length"),
        stored_length=fields.number("stored_length"),
        first_time_ms=fields.number("first_time_ms"),
        last_time_ms=fields.number("last_time_ms"),
        dictionary_id=fields.number("dictionary_id"),
    )


def _entry_fields(entry: SegmentEntry) -> dict[str, Any]:
    fields = entry._asdict()
    fields["content_hash"] = fields.pop("id").content_hash.hex()
    for name in ("start", "previous", "end"):
        fields[name] = position_fields(fields[name])
    return fields


def _encode(kind: str, fields: dict[str, Any]) -> bytes:
    return encode_record({"archive": kind, "format_version": FORMAT_VERSION, **fields})


def _decode(name: str, data: bytes, kind: str, parse: Callable[[Fields], Record]) -> Record:
    if len(data) > MAX_RECORD_BYTES:
        raise damaged(name, 0, f"it has {len(data)} bytes; no record has more than {MAX_RECORD_BYTES}")
    try:
        fields = decode_record(name, data)
    except Corruption as error:
        raise damaged(name, error.offset, error.what) from error
    if fields.get("archive") != kind:
        raise damaged(name, 0, f"it is not a record of the kind {kind}")
    version = fields.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise damaged(name, 0, f"it is of format version {str(version)[:20]}; this software reads version {FORMAT_VERSION}")
    try:
        return parse(Fields(fields))
    except ValueError as error:
        raise damaged(name, 0, f"a field is missing or of another kind: {error}") from error
