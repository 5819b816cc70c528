"""A restore plan as the fields of a record and back, so that a restore that was interrupted goes on with the plan it began with.

The record lies in the folder that is being restored, and is read as an archive's records are: every field is taken by its kind,
and entries must continue one another. A segment is one line of text, because there may be many.
"""

from __future__ import annotations

from typing import Any

from kvserver.archive.lineage import Leg
from kvserver.archive.manifest_chain import check_continues
from kvserver.archive.names import SegmentId
from kvserver.archive.plan import RestorePlan, RestoreTarget
from kvserver.archive.record_fields import Fields, epoch_fields
from kvserver.archive.records import BackupRecord, SegmentEntry, decode_backup, encode_backup
from kvserver.base.record_file import position_fields
from kvserver.base.types import CHAIN_LENGTH, Epoch, Position


def plan_fields(plan: RestorePlan) -> dict[str, Any]:
    """Return a plan as fields that JSON can hold."""
    fields: dict[str, Any] = {
        "cluster_id": plan.cluster_id.hex(),
        "target": {name: value for name, value in plan.target._asdict().items() if value is not None},
        "legs": [_leg_fields(leg) for leg in plan.legs],
        "revision": plan.revision,
        "time_ms": plan.time_ms,
        "end": position_fields(plan.end),
        "oldest_possible_revision": plan.oldest_possible_revision,
        "epochs": [{**epoch_fields(epoch), "began": position_fields(began)} for epoch, began in plan.epochs],
        "notes": list(plan.notes),
    }
    if plan.base is not None:
        fields["base"] = encode_backup(plan.base).decode()
    if plan.position is not None:
        fields["position"] = position_fields(plan.position)
    return fields


def plan_of(values: dict[str, Any]) -> RestorePlan:
    """Return the plan of such fields. Raises ValueError, Corruption for a base that does not check."""
    fields = Fields(values)
    target = fields.inner("target")
    notes = values.get("notes")
    if not isinstance(notes, list) or not all(isinstance(note, str) for note in notes):
        raise ValueError("notes is no list of texts")
    return RestorePlan(
        cluster_id=fields.raw("cluster_id", 16),
        target=RestoreTarget(
            target.number("revision") if target.has("revision") else None,
            target.number("time_ms") if target.has("time_ms") else None,
        ),
        base=_base(values["base"]) if fields.has("base") else None,
        legs=tuple(_leg(leg, lines) for leg, lines in zip(fields.several("legs"), values["legs"], strict=True)),
        revision=fields.number("revision"),
        time_ms=fields.number("time_ms"),
        position=fields.position("position") if fields.has("position") else None,
        end=fields.position("end"),
        oldest_possible_revision=fields.number("oldest_possible_revision"),
        epochs=tuple((one.own_epoch(), one.position("began")) for one in fields.several("epochs")),
        notes=tuple(notes),
    )


def _base(value: object) -> BackupRecord:
    if not isinstance(value, str):
        raise ValueError("base is no text")
    return decode_backup("the base of the plan", value.encode())


def _leg_fields(leg: Leg) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "cluster_id": leg.cluster_id.hex(),
        "epoch": epoch_fields(leg.epoch),
        "branch": position_fields(leg.branch),
        "begin": position_fields(leg.begin),
        "segments": [_line(entry) for entry in leg.entries],
    }
    if leg.upto is not None:
        fields["upto"] = position_fields(leg.upto)
    return fields


def _leg(fields: Fields, values: dict[str, Any]) -> Leg:
    lines = values.get("segments")
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ValueError("segments is no list of texts")
    epoch, branch = fields.epoch("epoch"), fields.position("branch")
    entries = tuple(_entry(line, epoch, branch) for line in lines)
    if entries:
        check_continues(entries, entries[0].start, branch, set())
    return Leg(
        cluster_id=fields.raw("cluster_id", 16),
        entries=entries,
        begin=fields.position("begin"),
        upto=fields.position("upto") if fields.has("upto") else None,
        epoch=epoch,
        branch=branch,
    )


def _line(entry: SegmentEntry) -> str:
    numbers = (
        *(entry.segment_id, entry.start.revision, entry.end.revision, entry.raw_length, entry.stored_length),
        *(entry.first_time_ms, entry.last_time_ms, entry.dictionary_id, int(entry.previous != entry.start)),
    )
    hashes = (entry.start.chain, entry.end.chain, entry.id.content_hash)
    return " ".join([*(f"{number:x}" for number in numbers), *(value.hex() for value in hashes)])


def _entry(line: str, epoch: Epoch, branch: Position) -> SegmentEntry:
    words = line.split(" ")
    if len(words) != 12 or not line.isascii():
        raise ValueError(f"{line[:64]!r} is not the line of a segment")
    numbers = [int(word, 16) for word in words[:9]]
    hashes = [bytes.fromhex(word) for word in words[9:]]
    if any(not 0 <= number < 1 << 64 for number in numbers) or any(len(value) != CHAIN_LENGTH for value in hashes):
        raise ValueError(f"{line[:64]!r} is not the line of a segment")
    segment_id, first, last, raw_length, stored_length, first_time_ms, last_time_ms, dictionary_id, begins_epoch = numbers
    start = Position(epoch, first, hashes[0])
    return SegmentEntry(
        id=SegmentId(epoch.number, first + 1, last, hashes[2]),
        segment_id=segment_id,
        start=start,
        previous=branch if begins_epoch else start,
        end=Position(epoch, last, hashes[1]),
        raw_length=raw_length,
        stored_length=stored_length,
        first_time_ms=first_time_ms,
        last_time_ms=last_time_ms,
        dictionary_id=dictionary_id,
    )
