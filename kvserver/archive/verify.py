"""Reads every byte of a cluster's archive and says what is damaged, and which revisions cannot be restored because of it.

Checked are all records, every segment that a manifest lists (each block, each frame, the chain, and that it is the segment that
is listed), that segments follow one another and each epoch begins where it should, that the log passes exactly through each
backup's position, every file of every backup, and every dictionary. What no record names is reported, and is no damage: a crash
between an object and its record leaves one. What lies below the first revision that retention promises may be missing.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from kvserver.archive.backup_files import check_file
from kvserver.archive.catalog import Catalog, read_catalog, without
from kvserver.archive.dictionary import Dictionaries, load_dictionary
from kvserver.archive.errors import damaged
from kvserver.archive.manifest_chain import at_text
from kvserver.archive.names import (
    ArchiveNames,
    parse_backup,
    parse_cluster,
    parse_dictionary,
    parse_file,
    parse_manifest,
    parse_point,
    parse_segment,
    parse_upload,
)
from kvserver.archive.ordered_pool import in_order
from kvserver.archive.plan import Span, possible_spans
from kvserver.archive.records import BackupFile, Gap, SegmentEntry
from kvserver.archive.segment_reading import check_segment, frame_headers, open_segment
from kvserver.archive.store import ObjectInfo, ObjectMissing, Store
from kvserver.base.errors import Corruption
from kvserver.base.types import Position
from kvserver.wal import format as fmt

WORKERS = 2
"""So many objects are read at once."""

OnProgress = Callable[[int, int, str], None]
"""Called on the caller's thread with the bytes read, the bytes there are to read, and the name of what was read last."""

_EXPLAINED = 64
"""Of so many damaged objects it is worked out one by one what they prevent; of all together always."""


class Damage(NamedTuple):
    """An object that is missing or does not check."""

    name: str
    what: str
    prevents: str
    """What cannot be restored because of it."""


@dataclasses.dataclass(frozen=True)
class VerifyReport:
    """What was read, and what is wrong."""

    cluster_id: bytes
    segments: int
    stored_bytes: int
    """Of the segments, as they lie in the archive."""
    raw_bytes: int
    """Of the segments, as they lie in a log."""
    backups: int
    files: int
    file_bytes: int
    dictionaries: int
    damaged: tuple[Damage, ...]
    problems: tuple[str, ...]
    """What is wrong with the records: missing, exchanged, of another cluster, contradicting one another."""
    gaps: tuple[Gap, ...]
    """Commits that were given up by explicit policy, and said so."""
    leftovers: tuple[ObjectInfo, ...]
    """Objects that no record names."""
    lost: tuple[tuple[int, int], ...]
    """Revisions, from and to, that cannot be restored because of damaged objects."""
    restorable: tuple[Span, ...]
    """What can be restored in spite of them."""

    @property
    def is_whole(self) -> bool:
        """Say whether nothing is damaged and no record is wrong."""
        return not self.damaged and not self.problems

    def describe(self) -> dict[str, Any]:
        """Return the report as plain fields, for people and for ``-o json``."""
        return {
            "cluster_id": self.cluster_id.hex(),
            "whole": self.is_whole,
            "segments": self.segments,
            "stored_bytes": self.stored_bytes,
            "raw_bytes": self.raw_bytes,
            "backups": self.backups,
            "files": self.files,
            "file_bytes": self.file_bytes,
            "dictionaries": self.dictionaries,
            "damaged": [one._asdict() for one in self.damaged],
            "problems": list(self.problems),
            "gaps": [{"first_revision": gap.first_revision, "last_revision": gap.last_revision} for gap in self.gaps],
            "leftovers": [one._asdict() for one in self.leftovers],
            "lost": [{"first_revision": first, "last_revision": last} for first, last in self.lost],
            "restorable": [span._asdict() for span in self.restorable],
        }


class _Found(NamedTuple):
    """What reading one object came to."""

    name: str
    length: int
    raw_length: int
    wrong: str
    """Nothing where the object is whole."""
    is_missing: bool
    off: tuple[str, ...]
    """The backups through whose position this segment does not pass."""


class _Segment(NamedTuple):
    entry: SegmentEntry
    branch: Position
    passes: tuple[tuple[str, Position], ...]
    """Backups, by id, whose positions lie inside it."""
    left_at: Position | None
    """Where the next epoch parts, if that is inside it."""


Item = _Segment | BackupFile | int
"""A segment, a file, the id of a dictionary."""


def verify_archive(
    store: Store,
    cluster_id: bytes,
    workers: int = WORKERS,
    progress: OnProgress = lambda done, total, name: None,
) -> VerifyReport:
    """Read every byte of a cluster's archive, so many objects at once. Memory does not grow with their sizes.

    Raises RevisionError (NO_RESTORE_PLAN) where the archive holds nothing of the cluster; StoreError where it cannot be read,
    because nothing is known then. What ``progress`` raises ends it.
    """
    return _Verification(store, cluster_id).run(workers, progress)


class _Verification:
    def __init__(self, store: Store, cluster_id: bytes) -> None:
        self._store = store
        self._names = ArchiveNames(cluster_id)
        # First: what is put and listed from here on is not taken for something that no record names.
        self._objects = list(store.list(self._names.prefix))
        self._catalog = read_catalog(store, cluster_id)
        self._named = _named(self._names, self._catalog)
        self._dictionaries = Dictionaries(store, self._names)
        self._dictionary_ids = sorted(
            {entry.dictionary_id for part in self._catalog.epochs for entry in part.entries if entry.dictionary_id}
            | {id for info in self._objects if (id := parse_dictionary(info.name)) is not None}
        )

    def run(self, workers: int, progress: OnProgress) -> VerifyReport:
        """Read it all and report."""
        items = list(self._items())
        total = sum(map(_length, items))
        done = 0
        progress(0, total, "")
        found = list[_Found]()
        for item, one in zip(items, in_order(self._check, items, workers), strict=True):
            found.append(one)
            done += _length(item)
            progress(done, total, one.name)
        if self._catalog.problems or any(one.is_missing for one in found):
            found = self._look_again(found)
        return self._report(found)

    def _look_again(self, found: list[_Found]) -> list[_Found]:
        """Read the records again, and leave out what is missing and not named any more: retention has removed it meanwhile."""
        self._catalog = read_catalog(self._store, self._names.cluster_id)
        still = _named(self._names, self._catalog)
        self._named |= still
        return [one for one in found if not one.is_missing or one.name in still or parse_dictionary(one.name) is not None]

    def _items(self) -> Iterator[Item]:
        begins = {part.branch for part in self._catalog.epochs}
        left = {(link.cluster_id, link.part.epoch): link.upto for link in self._catalog.line}
        for part in self._catalog.epochs:
            inside: dict[int, list[tuple[str, Position]]] = {}
            for backup in self._catalog.backups:
                at = backup.position
                if at.epoch != part.epoch or at in begins:
                    continue  # where an epoch begins, the frame may have been cut, and only a restore can tell
                index = bisect.bisect_left(part.entries, at.revision, key=lambda entry: entry.end.revision)
                if index < len(part.entries) and part.entries[index].start.revision <= at.revision:
                    inside.setdefault(index, []).append((backup.id, at))
            upto = left.get((self._names.cluster_id, part.epoch))
            for index, entry in enumerate(part.entries):
                is_left = upto is not None and entry.start.revision < upto.revision < entry.end.revision
                yield _Segment(entry, part.branch, tuple(inside.get(index, ())), upto if is_left else None)
        yield from {file.sha256: file for backup in self._catalog.backups for file in backup.files}.values()
        yield from self._dictionary_ids

    def _check(self, item: Item) -> _Found:
        name = self._name(item)
        try:
            raw_length, off = 0, tuple[str, ...]()
            if isinstance(item, _Segment):
                raw_length, off = self._check_segment(item)
            elif isinstance(item, BackupFile):
                check_file(self._store, self._names, item, lambda length: None)
            else:
                load_dictionary(self._store, self._names, item)
        except ObjectMissing as error:
            is_missing = error.name == name
            return _Found(name, 0, 0, "the object is missing" if is_missing else error.message, is_missing, ())
        except Corruption as error:
            what = f"damaged at offset {error.offset}: {error.what}" if error.path == name else error.message
            return _Found(name, 0, 0, what, False, ())
        return _Found(name, _length(item), raw_length, "", False, off)

    def _check_segment(self, item: _Segment) -> tuple[int, tuple[str, ...]]:
        entry = item.entry
        off: tuple[str, ...] = ()
        if item.passes or item.left_at is not None:
            at = {entry.start.revision: entry.start.chain}
            for frame in frame_headers(self._store, self._names, entry, self._dictionaries):
                at[frame.last_revision] = frame.chain
            off = tuple(id for id, position in item.passes if at.get(position.revision) != position.chain)
            left_at = item.left_at  # within a frame, which is cut then, only a restore can tell
            if left_at is not None and at.get(left_at.revision, left_at.chain) != left_at.chain:
                what = f"history is forked: it does not pass through {at_text(left_at)}, where the next epoch parts"
                raise damaged(self._names.segment(entry.id), 0, what)
            block = open_segment(self._store, self._names, entry, self._dictionaries).block(0)
            header = fmt.decode_segment_header(block[: fmt.SEGMENT_HEADER_LENGTH])
        else:
            header = check_segment(self._store, self._names, entry, self._dictionaries).header
        if header.branch != item.branch:
            raise damaged(self._names.segment(entry.id), 0, "its epoch begins at another position than the manifest says")
        return entry.raw_length, off

    def _name(self, item: Item) -> str:
        if isinstance(item, _Segment):
            return self._names.segment(item.entry.id)
        return self._names.file(item.sha256) if isinstance(item, BackupFile) else self._names.dictionary(item)

    def _report(self, found: list[_Found]) -> VerifyReport:
        catalog = self._catalog
        wrong = {one.name: one.wrong for one in found if one.wrong}
        bad = _Bad(catalog, {id for one in found for id in one.off})
        damages = list[Damage]()
        for index, (name, what) in enumerate(wrong.items()):
            prevents = bad.prevents({name}, set()) if index < _EXPLAINED else "see what is lost by all of it"
            damages.append(Damage(name, what, prevents))
        for id in sorted(bad.off):
            what = "the log does not pass through its position: it is of another history"
            damages.append(Damage(self._names.backup(id), what, bad.prevents(set(), {id})))
        reduced = bad.reduced(set(wrong), bad.off)
        segments = [one for one in found if one.raw_length]
        files = [one for one in found if parse_file(one.name) is not None and not one.wrong]
        restorable = possible_spans(reduced)
        return VerifyReport(
            cluster_id=catalog.cluster_id,
            segments=len(segments),
            stored_bytes=sum(one.length for one in segments),
            raw_bytes=sum(one.raw_length for one in segments),
            backups=len(catalog.backups),
            files=len(files),
            file_bytes=sum(one.length for one in files),
            dictionaries=len(self._dictionary_ids),
            damaged=tuple(damages),
            problems=(*catalog.problems, *self._unlisted_epochs(), *self._points(restorable)),
            gaps=tuple(gap for part in catalog.epochs for gap in part.gaps),
            leftovers=tuple(self._leftovers()),
            lost=tuple(subtract(possible_spans(catalog), restorable)),
            restorable=tuple(restorable),
        )

    def _unlisted_epochs(self) -> Iterator[str]:
        """Yield the epochs above what was given up that have segments, and no manifest that could be read."""
        known = {part.epoch.number for part in self._catalog.epochs}
        newest = max(known, default=0)
        told = set[int]()
        for info in self._objects:
            segment = parse_segment(info.name)
            if segment is None or segment.epoch_number in known | told or segment.last_revision < self._catalog.floor:
                continue
            if segment.epoch_number < newest:  # else it may have been put a moment ago, and be listed next
                told.add(segment.epoch_number)
                yield f"{self._names.epoch_manifest(segment.epoch_number)}: there are segments of the epoch, and no manifest"

    def _points(self, restorable: list[Span]) -> Iterator[str]:
        """Yield the named points that cannot be restored."""
        for point in self._catalog.points:
            if not any(span.first_revision <= point.revision <= span.last_revision for span in restorable):
                yield f"the point {point.name}, revision {point.revision}, cannot be restored"

    def _leftovers(self) -> Iterator[ObjectInfo]:
        known = {*self._named, self._names.cluster, self._names.retention}
        parsers = (parse_manifest, parse_backup, parse_point, parse_dictionary, parse_upload, parse_cluster)
        for info in self._objects:
            if info.name not in known and all(parse(info.name) is None for parse in parsers):
                yield info


class _Bad:
    """Works out what cannot be restored because of damaged objects."""

    def __init__(self, catalog: Catalog, off: set[str]) -> None:
        """``off``: the backups that are of another history than the log."""
        self._catalog = catalog
        self._whole = possible_spans(catalog)
        self.off = off

    def reduced(self, wrong: set[str], off: set[str]) -> Catalog:
        """Return the catalog without what is damaged."""
        segments = {id for name in wrong if (id := parse_segment(name)) is not None}
        return without(self._catalog, self._catalog.cluster_id, segments, self._backups(wrong) | off)

    def _backups(self, wrong: set[str]) -> set[str]:
        files = {sha256 for name in wrong if (sha256 := parse_file(name)) is not None}
        return {one.id for one in self._catalog.backups if files and any(file.sha256 in files for file in one.files)}

    def _left_out(self, wrong: set[str], off: set[str]) -> str:
        return " ".join(f"--without-backup {id}" for id in sorted(self._backups(wrong) | off))

    def prevents(self, wrong: set[str], off: set[str]) -> str:
        """Say what cannot be restored because of these objects alone."""
        lost = subtract(self._whole, possible_spans(self.reduced(wrong, off)))
        if lost:
            spans = ", ".join(f"{first} to {last}" if first < last else f"{first}" for first, last in lost)
            return f"revisions {spans} cannot be restored"
        if any(parse_dictionary(name) is not None for name in wrong):
            return "the segments that were compressed with it cannot be read"
        if off or any(parse_file(name) is not None for name in wrong):
            return f"nothing, if restores begin with an older base: kvctl restore {self._left_out(wrong, off)}"
        return "nothing that is part of history"


def subtract(spans: list[Span], others: list[Span]) -> list[tuple[int, int]]:
    """Return the revisions, from and to, that lie in some of the spans and in none of the others."""
    left: list[tuple[int, int]] = []
    for span in spans:
        pieces = [(span.first_revision, span.last_revision)]
        for other in others:
            low, high = other.first_revision, other.last_revision
            pieces = [
                piece
                for first, last in pieces
                for piece in ((first, min(last, low - 1)), (max(first, high + 1), last))
                if piece[0] <= piece[1]
            ]
        left += pieces
    return sorted(set(left))


def _named(names: ArchiveNames, catalog: Catalog) -> set[str]:
    """Return the names of the segments and files that records name."""
    named = {names.segment(entry.id) for part in catalog.epochs for entry in part.entries}
    return named.union(names.file(file.sha256) for backup in catalog.backups for file in backup.files)


def _length(item: Item) -> int:
    if isinstance(item, _Segment):
        return item.entry.stored_length
    return item.length if isinstance(item, BackupFile) else 0
