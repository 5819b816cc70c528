"""What may be given up: decided over the catalog, and proven before anything is done.

Kept are the newest backups by number, everything that brings back any moment of a window of time, and what each named point
needs; also what a fork needs that has no backup of its own yet. All that goes lies below the oldest base that is kept. The proof
does not trust the decision: it takes the catalog without what is to go, and asks it for a plan for everything that is to be
kept. Objects that those plans name must be there with their lengths.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from kvserver.archive.catalog import Catalog, EpochPart, Leg, list_clusters, read_catalog, without
from kvserver.archive.file_sweep import Sweep, unnamed_files
from kvserver.archive.lineage import locate
from kvserver.archive.names import ArchiveNames, SegmentId, parse_segment
from kvserver.archive.plan import possible_spans, way_to
from kvserver.archive.records import BackupRecord, SegmentEntry
from kvserver.archive.store import ObjectInfo, Store
from kvserver.archive.verify import subtract
from kvserver.base.errors import Code, KvError


class RetentionPolicy(NamedTuple):
    """What is kept beside named points; with both, what either of them keeps."""

    keep_backups: int = 0
    """So many of the newest backups, and the log behind the oldest of them; 0: not by number."""
    keep_ms: int = 0
    """Every moment of so many milliseconds before now can be restored; 0: not by time."""


class RetentionRefused(KvError):
    """Nothing was removed, because it is not proven that what is to be kept could still be restored."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(Code.NO_RESTORE_PLAN, f"nothing is removed: {what}", hint)


class Kept(NamedTuple):
    """A state that must remain restorable."""

    what: str
    revision: int


@dataclasses.dataclass(frozen=True)
class RetentionPlan:
    """What goes, and what stays."""

    cluster_id: bytes
    first_revision: int
    """Nothing below it is promised afterwards."""
    backups: tuple[BackupRecord, ...]
    files: tuple[ObjectInfo, ...]
    """Files of backups that nothing names then."""
    segments: tuple[ObjectInfo, ...]
    """Objects, those that no manifest lists included."""
    records: tuple[str, ...]
    """Records of manifests that list nothing else, in the order in which they may go."""
    kept: tuple[Kept, ...]
    reason: str = ""
    """Why no more goes than that."""

    def after_sweep(self, swept: Sweep) -> RetentionPlan:
        """Return the plan as it was carried out, with the files that really went."""
        return dataclasses.replace(self, files=swept.files, reason=swept.postponed or self.reason)

    def describe(self) -> dict[str, Any]:
        """Return the plan as plain fields, for people and for ``-o json``."""
        return {
            "cluster_id": self.cluster_id.hex(),
            "first_revision": self.first_revision,
            "backups": [backup.id for backup in self.backups],
            "files": len(self.files),
            "file_bytes": sum(info.length for info in self.files),
            "segments": len(self.segments),
            "segment_bytes": sum(info.length for info in self.segments),
            "records": len(self.records),
            "kept": [one._asdict() for one in self.kept],
            "reason": self.reason,
        }


def plan_retention(
    store: Store, cluster_id: bytes, policy: RetentionPolicy, now_ms: int, floor: int | None = None
) -> RetentionPlan:
    """Decide what may go under a policy, and prove that all that is to be kept can still be restored.

    ``floor``: the first revision that is promised, instead of the one that follows from the policy and what was promised before.
    Raises RetentionRefused where that is not proven, ValueError for a policy that keeps nothing, RevisionError (NO_RESTORE_PLAN)
    where the archive holds nothing of the cluster, Corruption, StoreError.
    """
    if policy.keep_backups < 0 or policy.keep_ms < 0 or not (policy.keep_backups or policy.keep_ms):
        raise ValueError("a policy keeps a number of backups, or a time, or both")
    catalog = read_catalog(store, cluster_id)
    base, reason = _oldest_kept(catalog, policy, now_ms)
    if floor is None:
        floor = max(catalog.floor, base.position.revision + 1 if base is not None else 0)
    if not floor:
        return RetentionPlan(cluster_id, 0, (), (), (), (), (), reason)
    catalog = read_catalog(store, cluster_id, floor)
    if catalog.problems:
        hint = "see all of it with: kvctl archive verify; put back what is missing, or wait until it is old enough to go"
        raise RetentionRefused(f"the archive's records do not fit together: {catalog.problems[0]}", hint)
    return _Decision(store, catalog, policy, now_ms, floor).plan(reason)


def _oldest_kept(catalog: Catalog, policy: RetentionPolicy, now_ms: int) -> tuple[BackupRecord | None, str]:
    """Return the oldest base that the policy keeps; None, and why, where nothing may go."""
    bases = [base for base in catalog.bases() if locate(catalog.runs, base.position) is not None]
    own = [base for base in bases if base.cluster_id == catalog.cluster_id]
    oldest = list[BackupRecord]()
    if policy.keep_backups:
        if len(own) < policy.keep_backups:
            return None, f"there are {len(own)} backups, and {policy.keep_backups} are to be kept"
        oldest.append(own[-policy.keep_backups])
    if policy.keep_ms:
        before = [base for base in own if (base.time_ms or base.made_ms) <= now_ms - policy.keep_ms]
        if not before:
            return None, "no backup is older than the time that is to be kept"
        oldest.append(before[-1])
    return min(oldest, key=lambda base: base.position.revision), ""


def what_needs(store: Store, cluster_id: bytes, backup_id: str) -> list[str]:
    """Return what could not be restored any more without a backup: points, forks, revisions, in words.

    Raises RevisionError (NO_RESTORE_PLAN) where the archive holds nothing of the cluster, Corruption, StoreError.
    """
    catalog = read_catalog(store, cluster_id)
    lost = subtract(possible_spans(catalog), possible_spans(without(catalog, cluster_id, (), {backup_id})))
    return [kept.what for kept in lost_without(store, catalog, backup_id)] + [
        f"revisions {first} to {last}" for first, last in lost
    ]


def lost_without(store: Store, catalog: Catalog, backup_id: str) -> list[Kept]:
    """Return the points and forks that can be restored now, and could not without a backup of the catalog's cluster.

    Raises Corruption, StoreError.
    """
    needs = _Needs(store, catalog)
    return list(needs.lost(needs.named(), set(), {backup_id}, set()))


class _Needs:
    """What must remain restorable beside what a policy says: named points, and forks without a backup of their own."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self.catalog = catalog
        parents = {one.cluster_id: one.parent_cluster_id for one in list_clusters(store)}
        self.forks = [
            read_catalog(store, cluster_id) for cluster_id in parents if _descends(parents, cluster_id, catalog.cluster_id)
        ]

    def named(self) -> Iterator[tuple[Catalog, Kept]]:
        """Yield the states, each with the catalog of the store whose history it is part of."""
        for point in self.catalog.points:
            yield self.catalog, Kept(f"point {point.name}", point.revision)
        for fork in self.forks:
            name = f"the fork {fork.cluster_id.hex()}"
            for point in fork.points:
                yield fork, Kept(f"point {point.name} of {name}", point.revision)
            own = any(base.cluster_id == fork.cluster_id for base in fork.bases())
            if fork.cluster.parent is not None and not own:
                yield fork, Kept(name, fork.cluster.parent.revision)
                if fork.archived is not None:
                    yield fork, Kept(f"the newest revision of {name}", fork.archived.revision)

    def lost(
        self,
        states: Iterable[tuple[Catalog, Kept]],
        segments: set[SegmentId],
        backups: set[str],
        epochs: set[int],
    ) -> Iterator[Kept]:
        """Yield the states that can be restored now, and could not without these segments, backups and epochs."""
        reduced: dict[bytes, Catalog] = {}
        for view, kept in states:
            if view.cluster_id not in reduced:
                reduced[view.cluster_id] = without(view, self.catalog.cluster_id, segments, backups, epochs)
            if way_to(view, kept.revision) is not None and way_to(reduced[view.cluster_id], kept.revision) is None:
                yield kept


class _Decision:
    def __init__(self, store: Store, catalog: Catalog, policy: RetentionPolicy, now_ms: int, floor: int) -> None:
        self._store = store
        self._catalog = catalog
        self._names = ArchiveNames(catalog.cluster_id)
        self._floor = floor
        self._needs = _Needs(store, catalog)
        usable = [one.id for one in catalog.backups if not catalog.misfit(one)]
        self._newest = set(usable[-policy.keep_backups :]) if policy.keep_backups else set[str]()
        self._young_ms = now_ms - policy.keep_ms if policy.keep_ms else now_ms + 1

    def plan(self, reason: str) -> RetentionPlan:
        """Decide and prove. Raises RetentionRefused, StoreError."""
        catalog, floor = self._catalog, self._floor
        self._check_points()
        kept = list(self._kept())
        ways = [way for view, one in kept if (way := way_to(view, one.revision)) is not None]
        self._oldest_epoch = min((self._needed_from(*way) for way in ways), default=0)
        legs = [leg for _, way in ways for leg in way if leg.cluster_id == catalog.cluster_id]
        needed = {entry.id for leg in legs for entry in leg.entries}
        bases = {base.id for base, _ in ways if base is not None and base.cluster_id == catalog.cluster_id}
        backups = [one for one in catalog.backups if one.id not in bases and not self._keeps(one)]
        entries = [entry for part in catalog.epochs for entry in part.entries]
        gone = {entry.id for entry in entries if entry.end.revision < floor and entry.id not in needed}
        objects = list(self._store.list(self._names.segments))
        ids = frozenset(one.id for one in backups)
        records = list(self._records(gone))
        self._prove(kept, gone, set(ids), self._emptied(records))
        self._check_present((entry for entry in entries if entry.id not in gone), objects, ids)
        listed = {entry.id for entry in entries}
        return RetentionPlan(
            cluster_id=catalog.cluster_id,
            first_revision=floor,
            backups=tuple(backups),
            files=unnamed_files(self._store, self._names, without=ids).files,
            segments=tuple(info for info in objects if self._goes(info, gone, listed)),
            records=tuple(self._names.manifest(*record) for record in records),
            kept=tuple(one for _, one in kept),
            reason=reason,
        )

    def _keeps(self, backup: BackupRecord) -> bool:
        """Say whether a backup is kept for its own sake."""
        above = backup.position.revision + 1 >= self._floor
        return above or backup.id in self._newest or backup.made_ms >= self._young_ms

    def _kept(self) -> Iterator[tuple[Catalog, Kept]]:
        """Yield every state that must remain, each with the catalog of the store whose history it is part of."""
        catalog = self._catalog
        for backup in catalog.backups:
            if self._keeps(backup) and not catalog.misfit(backup):
                yield catalog, Kept(f"backup {backup.id}", backup.position.revision)
        if catalog.archived is not None:
            yield catalog, Kept("the newest revision", catalog.archived.revision)
        yield from self._needs.named()

    def _check_points(self) -> None:
        """Check that each point can be restored: what is left for one may be all that it takes, once the rest is put back."""
        for point in self._catalog.points:
            if way_to(self._catalog, point.revision) is None:
                what = f"the point {point.name} (revision {point.revision}) cannot be restored as the archive is"
                hint = "put back what is missing (kvctl archive verify tells), or delete the point: kvctl archive point delete"
                raise RetentionRefused(what, f"{hint} {point.name}")

    def _goes(self, info: ObjectInfo, gone: set[SegmentId], listed: set[SegmentId]) -> bool:
        """Say whether an object of the log goes: what no manifest lists too, if it ends below what is promised."""
        segment = parse_segment(info.name)
        if segment is None or info.name != self._names.segment(segment):
            return False
        return segment in gone or (segment not in listed and segment.last_revision < self._floor)

    def _needed_from(self, base: BackupRecord | None, legs: tuple[Leg, ...]) -> int:
        """Return the oldest epoch of ours whose manifest a way needs, if only to show that nothing was written in it."""
        own = self._catalog.cluster_id
        if base is not None and base.cluster_id == own:
            return base.position.epoch.number
        uses_ours = any(leg.cluster_id == own for leg in legs)
        return 0 if uses_ours else max((part.epoch.number for part in self._catalog.epochs), default=0)

    def _emptied(self, records: list[tuple[int, int]]) -> set[int]:
        """Return the epochs of whose manifest nothing is left without these records."""
        counts = collections.Counter(number for number, _ in records)
        return {part.epoch.number for part in self._catalog.epochs if counts[part.epoch.number] == len(part.records)}

    def _records(self, gone: set[SegmentId]) -> Iterator[tuple[int, int]]:
        """Yield the manifest records that may go: an epoch's oldest ones, and whole epochs that nothing older needs.

        Each by its epoch and its number.
        """
        parts = self._catalog.epochs
        nothing_below = True  # so that no epoch is missing between two others
        for index, part in enumerate(parts):
            newer = parts[index + 1] if index + 1 < len(parts) else None
            empty = all(entry.id in gone for entry in part.entries)
            needed = newer is None or newer.branch.revision >= self._floor or part.epoch.number >= self._oldest_epoch
            whole = nothing_below and empty and not needed
            nothing_below = nothing_below and whole
            numbers = [number for number, _ in part.records] if whole else self._oldest(part, gone)
            for number in numbers:
                yield part.epoch.number, number

    def _oldest(self, part: EpochPart, gone: set[SegmentId]) -> list[int]:
        """Return the oldest records of an epoch of which nothing is left, so that the first one kept tells that by itself."""
        numbers = list[int]()
        begin = 0
        for number, end in part.records[:-1]:
            if any(entry.id not in gone for entry in part.entries[begin:end]):
                break
            following = part.entries[end].start.revision if end < len(part.entries) else None
            if following is None:
                following = part.closing.branch.revision if part.closing is not None else self._floor
            if following >= self._floor:
                break
            numbers.append(number)
            begin = end
        return numbers

    def _prove(self, kept: list[tuple[Catalog, Kept]], gone: set[SegmentId], backups: set[str], epochs: set[int]) -> None:
        """Check by the catalog without what goes that all that must remain can be restored. Raises RetentionRefused."""
        catalog = self._catalog
        hint = "see what can be restored with: kvctl archive list"
        reduced = without(catalog, catalog.cluster_id, gone, backups, epochs)
        for first, last in subtract(possible_spans(catalog), possible_spans(reduced)):
            if last + 1 >= self._floor:
                raise RetentionRefused(f"revisions {max(first, self._floor - 1)} to {last} could not be restored any more", hint)
        for one in self._needs.lost(kept, gone, backups, epochs):
            raise RetentionRefused(f"{one.what} (revision {one.revision}) could not be restored any more", hint)

    def _check_present(self, entries: Iterable[SegmentEntry], objects: list[ObjectInfo], without_backups: frozenset[str]) -> None:
        """Check that what is kept is there: an older base must not go for one that is not whole. Raises RetentionRefused."""
        lengths = {info.name: info.length for info in objects}
        lengths.update((info.name, info.length) for info in self._store.list(self._names.files))
        wanted = [(self._names.segment(entry.id), entry.stored_length) for entry in entries if entry.end.revision >= self._floor]
        for backup in self._catalog.backups:
            if backup.id not in without_backups:
                wanted += [(self._names.file(file.sha256), file.length) for file in backup.files]
        for name, length in wanted:
            if lengths.get(name) != length:
                what = "is missing" if name not in lengths else f"has {lengths[name]} bytes and not {length}"
                raise RetentionRefused(f"{name} {what}, which is to be kept", "see what is damaged with: kvctl archive verify")


def _descends(parents: dict[bytes, bytes], cluster_id: bytes, ancestor: bytes) -> bool:
    """Say whether a store is a fork of another one, or of a fork of it."""
    seen = {cluster_id}
    while (cluster_id := parents.get(cluster_id, b"")) and cluster_id not in seen:
        if cluster_id == ancestor:
            return True
        seen.add(cluster_id)
    return False
