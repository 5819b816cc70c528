"""Reads all the records of one cluster, and tells by name of all that is missing or does not check."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import NamedTuple, TypeVar

from kvserver.archive.errors import damaged
from kvserver.archive.lineage import EpochPart
from kvserver.archive.manifest_chain import (
    MAX_MANIFEST_BYTES,
    check_continues,
    check_follows,
    check_gap,
    check_place,
    check_size,
    epoch_start,
    is_given_up_before,
    read_records,
)
from kvserver.archive.names import ArchiveNames, SegmentId, parse_backup, parse_manifest, parse_point, parse_segment
from kvserver.archive.records import (
    BackupRecord,
    Closing,
    Gap,
    ManifestRecord,
    PointRecord,
    SegmentEntry,
    decode_backup,
    decode_manifest,
    decode_point,
)
from kvserver.archive.store import ObjectMissing, Store
from kvserver.base.errors import Corruption
from kvserver.base.types import Position

MAX_BACKUPS = 100_000
MAX_POINTS = 100_000
"""More of them than an archive of any use has are not read."""

Record = TypeVar("Record")


class ReadRecord(NamedTuple):
    """A manifest record as it was read, or why there is none."""

    number: int
    name: str
    data: bytes
    record: ManifestRecord | None
    problem: str
    is_missing: bool = False
    """It was listed, and there is none."""


def read_parts(store: Store, names: ArchiveNames, floor: int) -> tuple[dict[int, EpochPart], list[str]]:
    """Return what the manifest of each epoch lists, by number, and what does not fit. Raises StoreError, Corruption (size)."""
    numbers: dict[int, list[int]] = {}
    records = total_bytes = 0
    for info in store.list(names.manifests):
        parsed = parse_manifest(info.name)
        if parsed is not None and info.name == names.manifest(*parsed):
            numbers.setdefault(parsed[0], []).append(parsed[1])
            records += 1
            total_bytes += info.length
    check_size(names.manifests, records, total_bytes)
    wanted = [(epoch, number) for epoch, listed in sorted(numbers.items()) for number in sorted(listed)]
    by_epoch: dict[int, list[ReadRecord]] = {epoch: [] for epoch in sorted(numbers)}
    read = read_records(store, (names.manifest(*key) for key in wanted))
    for (epoch, number), (name, data) in zip(wanted, read, strict=True):
        by_epoch[epoch].append(_parse(number, name, data))
    if by_epoch:
        newest = max(by_epoch)
        by_epoch[newest] += _unlisted(store, names, newest, by_epoch[newest][-1].number + 1)
    parts: dict[int, EpochPart] = {}
    problems: list[str] = []
    for epoch, found in by_epoch.items():
        assembly = _Assembly(names, floor, _left_below(store, names, epoch, found, floor))
        for one in found:
            assembly.add(one)
        part = assembly.part()
        problems += assembly.problems
        if part is not None:
            parts[epoch] = part
    return parts, problems


def read_backups(store: Store, names: ArchiveNames) -> tuple[list[BackupRecord], list[str]]:
    """Return the records of the backups, oldest first, and what does not fit. Raises StoreError, Corruption (their number)."""

    def check(backup_id: str, record: BackupRecord) -> str:
        if record.cluster_id != names.cluster_id:
            return f"it is of another cluster, {record.cluster_id.hex()}"
        if record.id != backup_id or int(backup_id[:16], 16) != record.position.revision:
            return f"it is the record of backup {record.id}, at revision {record.position.revision}"
        return ""

    records, problems = _read_small(store, names.backups, parse_backup, names.backup, decode_backup, check, MAX_BACKUPS)
    return sorted(records, key=lambda record: (record.position.revision, record.made_ms, record.id)), problems


def read_points(store: Store, names: ArchiveNames) -> tuple[list[PointRecord], list[str]]:
    """Return the named points, oldest first, and what does not fit. Raises StoreError, Corruption (their number)."""

    def check(name: str, record: PointRecord) -> str:
        if record.cluster_id != names.cluster_id:
            return f"it is of another cluster, {record.cluster_id.hex()}"
        return "" if record.name == name else f"it is the record of the point {record.name}"

    records, problems = _read_small(store, names.points, parse_point, names.point, decode_point, check, MAX_POINTS)
    return sorted(records, key=lambda record: (record.revision, record.name)), problems


def _read_small(
    store: Store,
    prefix: str,
    parse: Callable[[str], str | None],
    name_of: Callable[[str], str],
    decode: Callable[[str, bytes], Record],
    check: Callable[[str, Record], str],
    at_most: int,
) -> tuple[list[Record], list[str]]:
    keys: list[str] = []
    total_bytes = 0
    for info in store.list(prefix):
        key = parse(info.name)
        if key is not None and info.name == name_of(key):
            keys.append(key)
            total_bytes += info.length
        if len(keys) > at_most or total_bytes > MAX_MANIFEST_BYTES:
            raise damaged(prefix, 0, f"there are more than {at_most} records, or more than {MAX_MANIFEST_BYTES} bytes of them")
    records: list[Record] = []
    problems: list[str] = []
    for key, (name, data) in zip(keys, read_records(store, map(name_of, keys)), strict=True):
        if isinstance(data, ObjectMissing):
            continue  # deleted since it was listed
        try:
            if isinstance(data, Corruption):
                raise data
            record = decode(name, data)
            if wrong := check(key, record):
                raise damaged(name, 0, wrong)
        except Corruption as error:
            problems.append(error.message)
        else:
            records.append(record)
    return records, problems


def _parse(number: int, name: str, data: bytes | Corruption | ObjectMissing) -> ReadRecord:
    if isinstance(data, ObjectMissing):
        return ReadRecord(number, name, b"", None, f"{name}: the record was listed and is missing", is_missing=True)
    if isinstance(data, Corruption):
        return ReadRecord(number, name, b"", None, data.message)
    try:
        return ReadRecord(number, name, data, decode_manifest(name, data), "")
    except Corruption as error:
        return ReadRecord(number, name, data, None, error.message)


def _unlisted(store: Store, names: ArchiveNames, epoch: int, number: int) -> Iterable[ReadRecord]:
    """Yield the records that follow those listed: a listing may lag behind what was created."""
    while True:
        name = names.manifest(epoch, number)
        ((_, data),) = read_records(store, [name])
        if isinstance(data, ObjectMissing):
            return
        yield _parse(number, name, data)
        number += 1


def _left_below(store: Store, names: ArchiveNames, epoch: int, found: list[ReadRecord], floor: int) -> set[SegmentId]:
    """Return the segments below what is promised that are still there, where records list any. Raises StoreError."""
    listed = (entry for one in found if one.record is not None for entry in one.record.entries)
    if not any(entry.end.revision < floor for entry in listed):
        return set()
    segments = (parse_segment(info.name) for info in store.list(names.epoch_segments(epoch)))
    return {segment for segment in segments if segment is not None and segment.last_revision < floor}


class _Assembly:
    """Puts the records of one epoch together, and marks the places through which nothing passes."""

    def __init__(self, names: ArchiveNames, floor: int, left_below: Container[SegmentId]) -> None:
        """``left_below``: the segments that retention has left of those below the first revision that is promised."""
        self._names = names
        self._floor = floor
        self._left_below = left_below
        self._removed: SegmentEntry | None = None
        self.problems: list[str] = []
        self._doubts: list[str] = []
        """What is missing or cannot be used, as long as it may yet turn out that all of it was given up."""
        self._first: ManifestRecord | None = None
        self._before: ReadRecord | None = None
        self._entries: list[SegmentEntry] = []
        self._gaps: list[Gap] = []
        self._closing: Closing | None = None
        self._breaks: set[int] = set()
        self._at: Position | None = None
        self._segment_ids: set[int] = set()
        self._records: list[tuple[int, int]] = []

    def part(self) -> EpochPart | None:
        """Return what the records list, now that all were added; None where none of them could be used."""
        self._tell_doubts()
        first = self._first
        if first is None:
            return None
        entries, gaps, breaks = tuple(self._entries), tuple(self._gaps), frozenset(self._breaks)
        records = tuple(self._records)
        return EpochPart(first.epoch, first.branch, entries, gaps, self._closing, breaks, records, self._removed)

    def add(self, read: ReadRecord) -> None:
        """Add the next record."""
        before = self._before
        if before is None and read.is_missing:
            return  # the oldest ones may be going at this moment; whether they may is checked at the first that is left
        self._before = read
        expected = before.number + 1 if before is not None else 0
        record = read.record
        problem = read.problem if record is None else self._foreign(read.name, record)
        if read.number != expected:
            self._missing(expected, read)
        if record is None or problem:
            self._doubts.append(problem)
            self._before = read._replace(record=None)
            self._break()
            self._records.append((read.number, len(self._entries)))
            return
        if self._doubts and is_given_up_before(record, self._floor):
            self._doubts.clear()
            self._breaks.discard(len(self._entries))  # where what is left begins tells whether it continues what was before
        self._tell_doubts()
        if read.number == expected and before is not None and before.record is not None:
            try:
                check_follows(read.name, record, before.record, before.data)
            except Corruption as error:
                self.problems.append(error.message)
                self._break()
        self._take(read.name, record)

    def _tell_doubts(self) -> None:
        self.problems += self._doubts
        self._doubts.clear()

    def _foreign(self, name: str, record: ManifestRecord) -> str:
        """Say why a record is not one of this epoch as those before it have it; nothing where it is."""
        try:
            check_place(name, record, self._names.cluster_id)
            first = self._first
            if first is not None and (record.epoch, record.branch) != (first.epoch, first.branch):
                raise damaged(name, 0, "it is of another epoch than the records before it, or of one that begins elsewhere")
            if self._closing is not None:
                raise damaged(name, 0, "it follows the record that closes the manifest")
        except Corruption as error:
            return error.message
        return ""

    def _missing(self, expected: int, read: ReadRecord) -> None:
        """Note that records are missing."""
        self._break()
        first, last = self._names.manifest(epoch_of(read.name), expected), read.number - 1
        more = f", and those after it up to {last:08x}" if last > expected else ""
        self._doubts.append(f"{first}: the record is missing{more}; {read.name} follows")

    def _break(self) -> None:
        self._breaks.add(len(self._entries))
        self._at = None

    def _take(self, name: str, record: ManifestRecord) -> None:
        if self._first is None:
            self._first = record
            if record.number == 0:
                self._at = epoch_start(self._names.cluster_id, record.epoch, record.branch)
        try:
            if record.gap is not None:
                check_gap(record.gap, self._at if self._at is not None else record.gap.after)
        except ValueError as error:
            self.problems.append(damaged(name, 0, str(error)).message)
        if record.gap is not None:
            self._gaps.append(record.gap)
            self._break()
        for entry in record.entries:
            self._take_entry(name, entry, record)
        self._closing = record.closing
        self._records.append((record.number, len(self._entries)))

    def _take_entry(self, name: str, entry: SegmentEntry, record: ManifestRecord) -> None:
        """List an entry if it can be one of this epoch's; behind what it does not continue, nothing passes."""
        at = self._at if self._at is not None else entry.start
        try:
            if entry.start.epoch != record.epoch:
                raise ValueError(f"it lists a segment of epoch {entry.start.epoch.number}")
            check_continues([entry], at, record.branch, self._segment_ids)
        except ValueError as error:
            self.problems.append(damaged(name, 0, str(error)).message)
            self._break()
            if not self._is_possible(entry, record):
                return
        self._at = entry.end
        if entry.end.revision < self._floor and entry.id not in self._left_below:
            self._removed = entry
        else:
            self._entries.append(entry)

    def _is_possible(self, entry: SegmentEntry, record: ManifestRecord) -> bool:
        """Say whether an entry could be listed elsewhere: nothing but its place contradicts it, and it goes on in history."""
        if entry.start.epoch != record.epoch or (self._entries and entry.start.revision < self._entries[-1].end.revision):
            return False
        try:
            check_continues([entry], entry.start, record.branch, set())
        except ValueError:
            return False
        return True


def epoch_of(name: str) -> int:
    """Return the number of the epoch to whose manifest a record of this name belongs."""
    parsed = parse_manifest(name)
    assert parsed is not None
    return parsed[0]
