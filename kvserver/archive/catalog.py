"""What an archive holds of one cluster: epochs, the line of history through them, backups and named points.

Everything is read once, by ``read_catalog``; a ``Catalog`` is a value, and asks the store for nothing. What is missing or does
not check is named in ``problems``, so that all of it can be shown. A restore relies on ``runs`` only: stretches of the log
through which nothing is missing, no record contradicts another, and each segment begins where the one before it ends.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Container

from kvserver.archive.catalog_reading import read_backups, read_parts, read_points
from kvserver.archive.errors import damaged, no_plan
from kvserver.archive.lineage import EpochPart, Leg, Link, Run, join, legs_between, locate, trace
from kvserver.archive.manifest_chain import at_text, read_capped
from kvserver.archive.names import ArchiveNames, SegmentId, parse_cluster
from kvserver.archive.records import (
    BackupRecord,
    ClusterRecord,
    PointRecord,
    RetentionRecord,
    SegmentEntry,
    decode_cluster,
)
from kvserver.archive.retention_record import read_retention
from kvserver.archive.store import ObjectMissing, Store
from kvserver.base.errors import Corruption
from kvserver.base.types import Epoch, Position

__all__ = [
    "Catalog",
    "EpochPart",
    "Leg",
    "Run",
    "choose_cluster",
    "cluster_ids",
    "list_clusters",
    "read_catalog",
    "read_cluster",
    "without",
]

MAX_ANCESTORS = 32
"""A fork of a fork of a fork is followed so far back."""

_CLUSTER_TEXT = re.compile(r"[0-9a-f]{1,32}")
_SHOWN = 20
"""So many clusters are listed where one has to be chosen."""


@dataclasses.dataclass(frozen=True)
class Catalog:
    """What the records of one cluster say, and what of it holds together."""

    cluster: ClusterRecord
    epochs: tuple[EpochPart, ...]
    """All whose manifest can be read, oldest first."""
    backups: tuple[BackupRecord, ...]
    """Its own, oldest first."""
    points: tuple[PointRecord, ...]
    retention: RetentionRecord | None
    problems: tuple[str, ...]
    """What is missing, contradicts something or does not check, in words; explicit gaps and what was given up are none."""
    line: tuple[Link, ...]
    """The epochs that lead to the newest position, those of the stores it was forked from included, oldest first."""
    runs: tuple[Run, ...]
    """The stretches of that line through which nothing is missing, oldest first."""
    parent: Catalog | None
    """The store that it was forked from, where the archive holds that too."""

    @property
    def cluster_id(self) -> bytes:
        """Return the id of the cluster."""
        return self.cluster.cluster_id

    @property
    def archived(self) -> Position | None:
        """Return the end of the newest stretch of log through which nothing is missing; None where there is no log."""
        return self.runs[-1].end if self.runs else None

    @property
    def floor(self) -> int:
        """Return the first revision that retention still promises; 0 where nothing was given up."""
        return self.retention.first_revision if self.retention is not None else 0

    @property
    def newest_time_ms(self) -> int:
        """Return up to which time the log is archived; 0 where there is none."""
        entries = [entry for run in self.runs[-1:] for leg in run.legs for entry in leg.entries]
        entries += [link.part.removed for link in self.line[-1:] if not entries and link.part.removed is not None]
        return max((entry.last_time_ms for entry in entries), default=0)

    @property
    def abandoned(self) -> tuple[Epoch, ...]:
        """Return the epochs whose commits are no part of history: another one parted before them."""
        kept = {link.part.epoch for link in self.line}
        return tuple(part.epoch for part in self.epochs if part.epoch not in kept)

    def bases(self) -> list[BackupRecord]:
        """Return the backups that lie on the line of history, oldest first; also of the stores that this is a fork of."""
        return list(self._bases)

    @functools.cached_property
    def _bases(self) -> list[BackupRecord]:
        found = [backup for catalog in self._family() for backup in catalog.backups if not self.misfit(backup)]
        return sorted(found, key=lambda backup: (backup.position.revision, backup.made_ms, backup.id))

    def misfit(self, backup: BackupRecord) -> str:
        """Say why a backup is no state of this line of history; nothing where it is one, as far as records can tell."""
        at = backup.position
        limit = self._forked_at(backup.cluster_id)
        if limit is not None and (at.epoch.number > limit.epoch.number or at.revision > limit.revision):
            return f"it is of the store that this one was forked from at {at_text(limit)}, and newer"
        if locate(self.runs, at) is not None:
            return ""
        own = next((link for link in self.line if link.part.epoch.number == at.epoch.number), None)
        if own is not None:
            if own.part.epoch != at.epoch:
                return f"it is of another epoch {at.epoch.number} (nonce {at.epoch.nonce:016x}) than the log"
            if at.revision < own.part.branch.revision or (own.upto is not None and own.upto.revision < at.revision):
                return f"its position {at_text(at)} is no part of history any more: another epoch parted before it"
            if any(leg.epoch == at.epoch and leg.first_revision <= at.revision <= leg.last_revision for leg in self._legs()):
                return f"the log comes to revision {at.revision} by another history"
            return ""
        child = next((link for link in self.line if link.part.epoch.number > at.epoch.number), None)
        if child is None:
            closings = (part.closing.by.number for part in self.epochs if part.closing is not None)
            closer = max(closings, default=0)
            replaced = backup.cluster_id == self.cluster_id and closer > at.epoch.number
            return f"its epoch {at.epoch.number} is no part of history any more: epoch {closer} replaced it" if replaced else ""
        branch = child.part.branch
        if branch.epoch.number < at.epoch.number or (branch.epoch.number == at.epoch.number and branch.epoch != at.epoch):
            return f"its epoch {at.epoch.number} is no part of history any more: epoch {child.part.epoch.number} replaced it"
        if branch.revision < at.revision or (branch.revision == at.revision and branch.epoch == at.epoch and branch != at):
            return f"its position {at_text(at)} is no part of history any more: another epoch parted at {at_text(branch)}"
        return ""

    def legs(self, after: Position, revision: int | None) -> list[Leg]:
        """Return the segments that lead from a position to a revision (None: as far as nothing is missing), by epoch.

        The segment that holds the revision is the last; the position may lie inside the first. Raises RevisionError
        (NO_RESTORE_PLAN) where the log does not pass through the position, or something is missing on the way.
        """
        found = locate(self.runs, after)
        hint = "see what the archive holds with: kvctl archive list"
        if found is None:
            raise no_plan(f"the archived log does not pass through {at_text(after)}", hint)
        run, index = found
        if revision is not None and not after.revision <= revision <= run.end.revision:
            what = f"from revision {after.revision} the archived log leads to revision {run.end.revision}, not to {revision}"
            raise no_plan(what, hint)
        return legs_between(run, index, after, revision)

    def _legs(self) -> list[Leg]:
        return [leg for run in self.runs for leg in run.legs]

    def _forked_at(self, cluster_id: bytes) -> Position | None:
        """Return where the line of history left an ancestor; None for the cluster itself."""
        if cluster_id == self.cluster_id or self.parent is None:
            return None
        above = self.parent._forked_at(cluster_id)
        here = self.cluster.parent
        return min(
            (one for one in (above, here) if one is not None), key=lambda one: (one.epoch.number, one.revision), default=None
        )

    def _family(self) -> list[Catalog]:
        return [self] if self.parent is None else [self, *self.parent._family()]


def cluster_ids(store: Store) -> list[bytes]:
    """Return the ids of the clusters that the archive has a prefix for. Raises StoreError."""
    found = []
    for folder in store.folders(""):
        cluster_id = parse_cluster(f"{folder}CLUSTER")
        if cluster_id is not None and _holds(store, cluster_id):
            found.append(cluster_id)
    return found


def list_clusters(store: Store) -> list[ClusterRecord]:
    """Return the records of all clusters. Raises Corruption for one that does not check, StoreError."""
    return [read_cluster(store, cluster_id) for cluster_id in cluster_ids(store)]


def read_cluster(store: Store, cluster_id: bytes) -> ClusterRecord:
    """Return the record of a cluster. Raises ObjectMissing, Corruption, StoreError."""
    name = ArchiveNames(cluster_id).cluster
    record = decode_cluster(name, read_capped(store, name))
    if record.cluster_id != cluster_id:
        raise damaged(name, 0, f"it is the record of another cluster, {record.cluster_id.hex()}")
    return record


def choose_cluster(store: Store, text: str | None) -> bytes:
    """Return the cluster whose id begins with a text, or the only one there is.

    Raises RevisionError (NO_RESTORE_PLAN), which lists those there are, where that names none or several; StoreError.
    """
    if text is not None and len(text) == 32 and _CLUSTER_TEXT.fullmatch(text) and _holds(store, bytes.fromhex(text)):
        return bytes.fromhex(text)
    known = cluster_ids(store)
    wanted = known if text is None else [one for one in known if _CLUSTER_TEXT.fullmatch(text) and one.hex().startswith(text)]
    if len(wanted) == 1:
        return wanted[0]
    if not known:
        raise no_plan(f"the archive {store.url} holds no cluster", "see that the address is the right one")
    listed = ", ".join(one.hex() for one in known[:_SHOWN]) + (", ..." if len(known) > _SHOWN else "")
    if text is None:
        what = f"the archive {store.url} holds {len(known)} clusters"
    else:
        what = f"{len(wanted) or 'no'} cluster{'s' * (len(wanted) != 1)} of {store.url} have an id that begins with {text[:32]!r}"
    raise no_plan(what, f"name one of them with --cluster: {listed}")


def read_catalog(store: Store, cluster_id: bytes, floor: int = 0) -> Catalog:
    """Read what the archive holds of a cluster; ``floor``: as if what is below this revision were given up.

    Raises RevisionError (NO_RESTORE_PLAN) where it holds nothing, Corruption for more records than are read, StoreError.
    """
    return _read(store, cluster_id, (), floor)


def without(
    catalog: Catalog,
    cluster_id: bytes,
    segments: Container[SegmentId],
    backups: Container[str],
    epochs: Container[int] = (),
) -> Catalog:
    """Return the catalog of the same archive without some segments, backups and whole epochs' manifests of one cluster.

    That is the catalog's own or one of those that it was forked from.
    """
    own = catalog.cluster_id == cluster_id
    parent = without(catalog.parent, cluster_id, segments, backups, epochs) if catalog.parent is not None else None
    kept = {part.epoch.number: part for part in catalog.epochs}
    if own:
        kept = {number: _without_entries(part, segments) for number, part in kept.items() if number not in epochs}
    line, _ = _line(catalog.cluster_id, kept, catalog.floor, catalog.cluster, parent, None)
    return dataclasses.replace(
        catalog,
        epochs=tuple(kept.values()),
        backups=tuple(backup for backup in catalog.backups if not (own and backup.id in backups)),
        line=tuple(line),
        runs=tuple(join(line)[0]),
        parent=parent,
    )


def _without_entries(part: EpochPart, segments: Container[SegmentId]) -> EpochPart:
    entries = list[SegmentEntry]()
    breaks = set[int]()
    broken = False
    for index, entry in enumerate(part.entries):
        broken = broken or index in part.breaks
        if entry.id not in segments:
            if broken:
                breaks.add(len(entries))
            entries.append(entry)
            broken = False
    return part._replace(entries=tuple(entries), breaks=frozenset(breaks)) if len(entries) < len(part.entries) else part


def _read(store: Store, cluster_id: bytes, children: tuple[bytes, ...], least_floor: int) -> Catalog:
    names = ArchiveNames(cluster_id)
    problems: list[str] = []
    cluster, retention = _read_cluster(store, names, problems), _read_retention(store, names, problems)
    floor = max(least_floor, retention.first_revision if retention is not None else 0)
    parts, wrong = read_parts(store, names, floor)
    problems += wrong
    backups, wrong = read_backups(store, names)
    problems += wrong
    points, wrong = read_points(store, names)
    problems += wrong
    if cluster is None and not parts and not backups:
        what = f"the archive {store.url} holds nothing of cluster {cluster_id.hex()}"
        raise no_plan(what, "see which clusters there are with: kvctl archive list")
    cluster = cluster or ClusterRecord(cluster_id, b"", None, "", 0)
    parent = _read_parent(store, cluster, (*children, cluster_id), problems)
    line, wrong = _line(cluster_id, parts, floor, cluster, parent, None)
    problems += wrong
    runs, wrong = join(line)
    problems += wrong
    ordered = tuple(parts[number] for number in sorted(parts))
    return Catalog(cluster, ordered, tuple(backups), tuple(points), retention, tuple(problems), tuple(line), tuple(runs), parent)


def _line(
    cluster_id: bytes,
    parts: dict[int, EpochPart],
    floor: int,
    cluster: ClusterRecord,
    parent: Catalog | None,
    head: Position | None,
) -> tuple[list[Link], list[str]]:
    """Return the epochs that lead to a position, those of the stores that this one was forked from before its own."""
    links, problems = trace(cluster_id, parts, head, floor)
    if parent is not None and cluster.parent is not None:
        forked_at = head if head is not None and not links else cluster.parent
        above = {part.epoch.number: part for part in parent.epochs}
        older, wrong = _line(parent.cluster_id, above, parent.floor, parent.cluster, parent.parent, forked_at)
        links = older + links
        problems += [f"in the store that it was forked from: {problem}" for problem in wrong]
    return links, problems


def _read_cluster(store: Store, names: ArchiveNames, problems: list[str]) -> ClusterRecord | None:
    try:
        return read_cluster(store, names.cluster_id)
    except ObjectMissing:
        problems.append(f"{names.cluster}: the record of the cluster is missing")
    except Corruption as error:
        problems.append(error.message)
    return None


def _read_retention(store: Store, names: ArchiveNames, problems: list[str]) -> RetentionRecord | None:
    try:
        return read_retention(store, names)
    except Corruption as error:
        problems.append(error.message)
        return None


def _read_parent(store: Store, cluster: ClusterRecord, children: tuple[bytes, ...], problems: list[str]) -> Catalog | None:
    """Return the catalog of the store that this is a fork of; None where it is none, or that has another archive."""
    parent_id = cluster.parent_cluster_id
    if not parent_id or cluster.parent is None:
        return None
    if parent_id in children or len(children) > MAX_ANCESTORS:
        problems.append(f"the store is a fork of itself, or of more than {MAX_ANCESTORS} others")
        return None
    return _read(store, parent_id, children, 0) if _holds(store, parent_id) else None


def _holds(store: Store, cluster_id: bytes) -> bool:
    try:
        store.length(ArchiveNames(cluster_id).cluster)
    except ObjectMissing:
        return False
    return True
