"""Reading an epoch's manifest, and what makes records and entries continue one another; ``manifest`` writes it.

Hostile-input code: how much is read is bounded before it is read, a record is only believed under its own name and behind the
record that it names, and an entry only where the one before it ends.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence

from kvserver.archive.errors import damaged
from kvserver.archive.names import ArchiveNames, SegmentId, parse_manifest
from kvserver.archive.ordered_pool import in_order
from kvserver.archive.records import MAX_RECORD_BYTES, Gap, ManifestRecord, SegmentEntry, decode_manifest
from kvserver.archive.retention_record import read_retention
from kvserver.archive.store import ObjectMissing, Store
from kvserver.base.errors import Corruption
from kvserver.base.limits import MIB
from kvserver.base.types import Epoch, Position
from kvserver.wal import format as fmt

_READERS = 16
_LOCAL_READERS = 2
_BATCH = 16
"""Records are read by so many threads, so many in a row. Over a network waiting is most of the time; of a folder on this machine
20,000 records took one thread 0.5 s and eight of them 1.4 s to 2.5 s, because switching between threads is what costs there."""

MAX_RECORDS = 1 << 20
MAX_MANIFEST_BYTES = 1024 * MIB
"""No more than this is read of an archive's manifests: enough for a million segments, and no way to fill the memory."""


def epoch_start(cluster_id: bytes, epoch: Epoch, branch: Position) -> Position:
    """Return the position before an epoch's first frame."""
    return Position(epoch, branch.revision, fmt.epoch_chain(cluster_id, epoch, branch))


def given_up_below(store: Store, names: ArchiveNames) -> int:
    """Return the first revision that retention still promises; 0 where nothing was given up. Raises Corruption, StoreError."""
    record = read_retention(store, names)
    return record.first_revision if record is not None else 0


def check_continues(entries: Sequence[SegmentEntry], at: Position, branch: Position, seen: set[int]) -> None:
    """Check that entries of one epoch go on from a position, each from the one before.

    ``branch``: where the epoch begins. ``seen``: segment ids listed before; the new ones are added. Raises ValueError.
    """
    for entry in entries:
        what = f"the segment {entry.id.epoch_number:08x}/{entry.id.first_revision:016x}"
        if entry.start != at:
            raise ValueError(f"{what} begins at {at_text(entry.start)}, and the archive ends at {at_text(at)}")
        if entry.previous not in (entry.start, branch) or entry.previous.revision != entry.start.revision:
            raise ValueError(
                f"{what} follows {at_text(entry.previous)}, which is neither its own begin nor where its epoch begins"
            )
        fits = SegmentId(at.epoch.number, at.revision + 1, entry.end.revision, entry.id.content_hash) == entry.id
        empty_but_moved = entry.end.revision == at.revision and entry.end != at
        if not fits or entry.end.epoch != at.epoch or entry.end.revision < at.revision or empty_but_moved:
            raise ValueError(f"{what} ends at {at_text(entry.end)}, which its name and its begin do not allow")
        if entry.first_time_ms > entry.last_time_ms:
            raise ValueError(f"{what} ends before it begins in time")
        if entry.segment_id in seen:
            raise ValueError(f"{what} has the id of another segment of the epoch, {entry.segment_id:016x}")
        seen.add(entry.segment_id)
        at = entry.end


def check_gap(gap: Gap, at: Position) -> None:
    """Check that a gap lies right behind a position. Raises ValueError."""
    if gap.after != at or gap.first_revision != at.revision + 1 or gap.last_revision < at.revision:
        span = f"revisions {gap.first_revision} to {gap.last_revision} behind {at_text(gap.after)}"
        raise ValueError(f"a gap of {span} does not lie at the end of the archive, {at_text(at)}")


def read_chained(store: Store, names: ArchiveNames, epoch_number: int) -> Iterator[tuple[ManifestRecord, bytes]]:
    """Yield an epoch's records with their bytes, each proven to continue the one before. Raises Corruption, StoreError.

    A listing may lag behind what was created: it tells where to begin, and reading goes on until nothing follows.
    """
    numbers: list[int] = []
    total_bytes = 0
    for info in store.list(names.epoch_manifest(epoch_number)):
        parsed = parse_manifest(info.name)
        if parsed is not None and info.name == names.manifest(*parsed):
            numbers.append(parsed[1])
            total_bytes += info.length
    check_size(names.epoch_manifest(epoch_number), len(numbers), total_bytes)
    first, last = (min(numbers), max(numbers)) if numbers else (0, -1)
    if first > 0:
        first = _oldest(store, names, epoch_number, first)
    before: tuple[ManifestRecord, bytes] | None = None
    for name, data in _each(store, names, epoch_number, first, last):
        record = decode_manifest(name, data)
        check_place(name, record, names.cluster_id)
        if before is not None:
            check_follows(name, record, *before)
        elif record.number > 0:
            _check_given_up(store, names, name, record)
        before = record, data
        yield record, data


def check_place(name: str, record: ManifestRecord, cluster_id: bytes) -> None:
    """Check that a record stands under its own name. Raises Corruption."""
    if record.cluster_id != cluster_id:
        raise damaged(name, 0, f"it is of another cluster, {record.cluster_id.hex()}")
    if ArchiveNames(cluster_id).manifest(record.epoch.number, record.number) != name:
        raise damaged(name, 0, f"it is record {record.number} of epoch {record.epoch.number}, under another name")
    if bool(record.previous_sha256) != bool(record.number):
        raise damaged(name, 0, "an epoch's first record names none before it, and each other one does")


def check_follows(name: str, record: ManifestRecord, previous: ManifestRecord, data: bytes) -> None:
    """Check that a record continues the one before it, given with its bytes. Raises Corruption."""
    if record.previous_sha256 != hashlib.sha256(data).digest():
        raise damaged(name, 0, f"it does not continue record {previous.number} as that is: one of them was exchanged")
    if (record.epoch, record.branch) != (previous.epoch, previous.branch):
        raise damaged(name, 0, f"it is of another epoch than record {previous.number}, or of one that begins elsewhere")
    if previous.closing is not None:
        raise damaged(name, 0, f"it follows record {previous.number}, which closes the manifest")


def check_size(name: str, records: int, total_bytes: int) -> None:
    """Check that the manifests below a name are not more than are read. Raises Corruption."""
    if records > MAX_RECORDS or total_bytes > MAX_MANIFEST_BYTES:
        raise damaged(name, 0, f"there are {records} records with {total_bytes} bytes, more than an archive of any use has")


def _each(store: Store, names: ArchiveNames, epoch_number: int, first: int, last: int) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of the records from one number to another, and of those that follow."""
    listed = (names.manifest(epoch_number, number) for number in range(first, last + 1))
    found = False
    for name, data in read_records(store, listed):
        if isinstance(data, ObjectMissing):
            if not found:
                continue  # the oldest ones may be going at this moment; whether they may is checked at the first that is left
            raise damaged(name, 0, "the record is missing, and others follow it") from data
        if isinstance(data, Exception):
            raise data
        found = True
        yield name, data
    number = last + 1
    while True:
        name = names.manifest(epoch_number, number)
        try:
            data = read_capped(store, name)
        except ObjectMissing:
            return
        yield name, data
        number += 1


def _oldest(store: Store, names: ArchiveNames, epoch_number: int, listed: int) -> int:
    """Return the lowest number that there is, at most the lowest one listed."""
    while listed > 0:
        try:
            store.length(names.manifest(epoch_number, listed - 1))
        except ObjectMissing:
            return listed
        listed -= 1
    return 0


def _check_given_up(store: Store, names: ArchiveNames, name: str, record: ManifestRecord) -> None:
    """Check that what is missing before an epoch's oldest record was given up. Raises Corruption."""
    if not is_given_up_before(record, given_up_below(store, names)):
        before = names.manifest(record.epoch.number, record.number - 1)
        raise damaged(before, 0, f"the record is missing, and {name} follows it")


def is_given_up_before(record: ManifestRecord, floor: int) -> bool:
    """Say whether all that the records before this one can list lies below the first revision that is still promised."""
    if record.gap is not None:
        return record.gap.first_revision <= floor
    if record.entries:
        return record.entries[0].start.revision < floor
    return record.closing is not None and record.closing.branch.revision < floor


def read_records(store: Store, names: Iterable[str]) -> Iterator[tuple[str, bytes | Corruption | ObjectMissing]]:
    """Yield the bytes of records in the order given, or the error that says why there are none. Raises StoreError."""

    def read(batch: list[str]) -> list[tuple[str, bytes | Corruption | ObjectMissing]]:
        found: list[tuple[str, bytes | Corruption | ObjectMissing]] = []
        for name in batch:
            try:
                found.append((name, read_capped(store, name)))
            except (Corruption, ObjectMissing) as error:
                found.append((name, error))
        return found

    readers = _LOCAL_READERS if store.url.startswith(("file:", "memory:")) else _READERS
    for batch in in_order(read, _batches(names), readers):
        yield from batch


def _batches(names: Iterable[str]) -> Iterator[list[str]]:
    names = iter(names)
    while batch := list(itertools.islice(names, _BATCH)):
        yield batch


def read_capped(store: Store, name: str) -> bytes:
    """Return the bytes of a record. Raises Corruption for more than a record has, ObjectMissing, StoreError."""
    try:
        return store.read(name, limit=MAX_RECORD_BYTES)
    except ValueError as error:
        raise damaged(name, 0, f"it is larger than any record, {MAX_RECORD_BYTES} bytes") from error


def at_text(position: Position) -> str:
    """Return a position as people read it."""
    return f"(epoch {position.epoch.number}, revision {position.revision}, chain {position.chain.hex()[:8]})"
