"""Which base and which segments bring a store back to a revision or a time: decided over the catalog, before anything is done.

What can be restored is a set of *spans*. A run of the log is one from its oldest backup on, or from the store's creation where
it goes back that far; a backup behind which the log is missing is one of a single revision. The newest base at or below the
target is taken. The only bytes read beside the records are those of the one segment in which the target lies, because only its
frames tell where commits end and when they were made.

A time means: the last group of commits made at or before it, in the order of history. Times never go back within an epoch. They
may where another machine took over; then the plan says so in ``notes``, and which revision it has chosen is plain to see.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from kvserver.archive.catalog import Catalog, Leg, Run, read_catalog
from kvserver.archive.dictionary import Dictionaries
from kvserver.archive.errors import ARCHIVE_MORE, SEE_WHAT, damaged, no_plan
from kvserver.archive.lineage import legs_between, locate
from kvserver.archive.names import ArchiveNames
from kvserver.archive.records import BackupRecord, SegmentEntry
from kvserver.archive.segment_reading import GetDictionary, frame_headers
from kvserver.archive.store import Store
from kvserver.base.errors import RevisionError
from kvserver.base.types import CREATION_REVISION, Epoch, Position
from kvserver.wal import format as fmt

DictionariesOf = Callable[[ArchiveNames], GetDictionary]
"""Returns what gives the dictionaries of a cluster: a fork's plan reads those of its parent too."""


class RestoreTarget(NamedTuple):
    """What a store is to be brought back to; neither: the newest that there is."""

    revision: int | None = None
    time_ms: int | None = None

    def text(self) -> str:
        """Return it as people say it."""
        if self.revision is not None:
            return f"revision {self.revision}"
        return f"the time {time_text(self.time_ms)}" if self.time_ms is not None else "the newest revision"


@dataclasses.dataclass(frozen=True)
class RestorePlan:
    """Base and segments, and where they lead. ``plan_record`` makes it a record and back."""

    cluster_id: bytes
    target: RestoreTarget
    base: BackupRecord | None
    """None: the log goes back to the store's creation."""
    legs: tuple[Leg, ...]
    """What to replay on the base; none where the base is the state itself."""
    revision: int
    """The last revision that the result holds."""
    time_ms: int
    """When it was committed; 0 where that is not known."""
    position: Position | None
    """The position reached; None where the revision lies inside a frame, which is then cut."""
    end: Position
    """The end of what the archive holds."""
    oldest_possible_revision: int
    epochs: tuple[tuple[Epoch, Position], ...]
    """The epochs that lead to the position, each with the position at which it began, oldest first."""
    notes: tuple[str, ...] = ()
    """What whoever restores should know."""

    @property
    def segments(self) -> int:
        """Return the number of segments to fetch."""
        return sum(len(leg.entries) for leg in self.legs)

    @property
    def stored_bytes(self) -> int:
        """Return the bytes of the segments as they lie in the archive."""
        return sum(entry.stored_length for leg in self.legs for entry in leg.entries)

    @property
    def raw_bytes(self) -> int:
        """Return the bytes of the segments as they lie in a log."""
        return sum(entry.raw_length for leg in self.legs for entry in leg.entries)

    @property
    def base_bytes(self) -> int:
        """Return the bytes of the base's files."""
        return self.base.length if self.base is not None else 0

    def describe(self) -> dict[str, Any]:
        """Return what is planned as plain fields, for people and for ``-o json``."""
        base = self.base
        return {
            "cluster_id": self.cluster_id.hex(),
            "target": self.target.text(),
            "revision": self.revision,
            "time_ms": self.time_ms,
            "time": time_text(self.time_ms),
            "inside_a_frame": self.position is None,
            "epoch": self.legs[-1].epoch.number if self.legs else (base.position.epoch.number if base else 0),
            "base": None
            if base is None
            else {
                "id": base.id,
                "cluster_id": base.cluster_id.hex(),
                "revision": base.position.revision,
                "time_ms": base.time_ms,
                "time": time_text(base.time_ms),
                "files": len(base.files),
                "bytes": base.length,
            },
            "log": [
                {
                    "cluster_id": leg.cluster_id.hex(),
                    "epoch": leg.epoch.number,
                    "first_revision": max(leg.first_revision, leg.begin.revision + 1),
                    "last_revision": min(leg.last_revision, self.revision),
                    "segments": len(leg.entries),
                    "stored_bytes": sum(entry.stored_length for entry in leg.entries),
                }
                for leg in self.legs
            ],
            "segments": self.segments,
            "stored_bytes": self.stored_bytes,
            "raw_bytes": self.raw_bytes,
            "base_bytes": self.base_bytes,
            "archive_ends_at_revision": self.end.revision,
            "oldest_possible_revision": self.oldest_possible_revision,
            "notes": list(self.notes),
        }


class Span(NamedTuple):
    """Revisions each of which can be restored."""

    first_revision: int
    last_revision: int
    first_time_ms: int
    last_time_ms: int

    def text(self) -> str:
        """Return it as people read it."""
        first = f"revision {self.first_revision} ({time_text(self.first_time_ms)})"
        more = self.last_revision > self.first_revision
        return f"{first} to {self.last_revision} ({time_text(self.last_time_ms)})" if more else first


def time_text(time_ms: int | None) -> str:
    """Return a time in milliseconds as people read it, in UTC."""
    if not time_ms:
        return "time unknown"
    try:
        moment = datetime.datetime.fromtimestamp(time_ms / 1000, datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return f"{time_ms} ms"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def possible_spans(catalog: Catalog) -> list[Span]:
    """Return what can be restored, oldest first."""
    bases = catalog.bases()
    spans = []
    alone = list[BackupRecord]()
    lowest: dict[int, BackupRecord] = {}
    for base in bases:
        found = locate(catalog.runs, base.position)
        if found is None:
            alone.append(base)
        else:
            lowest.setdefault(id(found[0]), base)
    for run in catalog.runs:
        first_base = lowest.get(id(run))
        newest_ms = max((entry.last_time_ms for leg in run.legs for entry in leg.entries), default=0)
        if run.from_creation and run.end.revision > CREATION_REVISION:
            oldest_ms = next((entry.first_time_ms for leg in run.legs for entry in leg.with_commits), 0)
            spans.append(Span(CREATION_REVISION + 1, run.end.revision, oldest_ms, newest_ms))
        elif first_base is not None:
            base_ms = first_base.time_ms  # when its tables were written, which may be later than the newest commit
            times_ms = min(base_ms, newest_ms or base_ms), newest_ms or base_ms
            spans.append(Span(first_base.position.revision, run.end.revision, *times_ms))
    for base in alone:
        if not any(span.first_revision <= base.position.revision <= span.last_revision for span in spans):
            spans.append(Span(base.position.revision, base.position.revision, base.time_ms, base.time_ms))
    return sorted(spans)


def way_to(catalog: Catalog, revision: int) -> tuple[BackupRecord | None, tuple[Leg, ...]] | None:
    """Return the newest base that leads to a revision (None: the store's creation) and the log between; None where none does."""
    for base in reversed(catalog.bases()):
        if base.position.revision == revision:
            return base, ()
        if base.position.revision < revision:
            found = locate(catalog.runs, base.position)
            if found is not None and revision <= found[0].end.revision:
                return base, tuple(legs_between(*found, base.position, revision))
    for run in catalog.runs:
        if run.from_creation and CREATION_REVISION < revision <= run.end.revision:
            return None, tuple(legs_between(run, 0, run.begin, revision))
    return None


def make_plan(
    store: Store,
    cluster_id: bytes,
    target: RestoreTarget,
    dictionaries: DictionariesOf | None = None,
    catalog: Catalog | None = None,
) -> RestorePlan:
    """Return the plan for a target. Reads the catalog, unless one is given, and at most one segment.

    Raises RevisionError (NO_RESTORE_PLAN), which says what is possible, Corruption, StoreError.
    """
    catalog = catalog if catalog is not None else read_catalog(store, cluster_id)
    return _Planner(store, catalog, target, dictionaries or (lambda names: Dictionaries(store, names))).plan()


class _Place(NamedTuple):
    """A segment with commits, and in which run and leg it lies."""

    run: Run
    leg: Leg
    entry: SegmentEntry


class _Planner:
    def __init__(self, store: Store, catalog: Catalog, target: RestoreTarget, dictionaries: DictionariesOf) -> None:
        self._store = store
        self._catalog = catalog
        self._target = target
        self._dictionaries = dictionaries
        self._spans = possible_spans(catalog)
        self._notes: list[str] = []

    def plan(self) -> RestorePlan:
        """Decide. Raises RevisionError, Corruption, StoreError."""
        if self._target.revision is not None and self._target.time_ms is not None:
            raise ValueError("a target is a revision or a time, not both")
        if not self._spans:
            raise self._nothing()
        revision = self._revision()
        if not any(span.first_revision <= revision <= span.last_revision for span in self._spans):
            raise self._impossible(revision)
        way = way_to(self._catalog, revision)
        if way is None:
            raise self._impossible(revision)
        base, legs = way
        time_ms, position = self._arrival(revision, base, legs)
        if self._catalog.problems and self._target.revision is None:
            first, *others = self._catalog.problems
            more = f" (and {len(others)} more)" if others else ""
            what = "records of the archive are damaged or missing, and what they list is not counted"
            self._notes.append(f"{what}: {first}{more}; see kvctl archive verify")
        ends = [one for one in (self._catalog.archived, base.position if base else None) if one is not None]
        return RestorePlan(
            cluster_id=self._catalog.cluster_id,
            target=self._target,
            base=base,
            legs=legs,
            revision=revision,
            time_ms=time_ms,
            position=position,
            end=max(ends, key=lambda end: end.revision),
            oldest_possible_revision=self._spans[0].first_revision,
            epochs=self._epochs(base, legs),
            notes=tuple(self._notes),
        )

    def _revision(self) -> int:
        if self._target.revision is not None:
            return self._target.revision
        if self._target.time_ms is not None:
            return self._revision_at(self._target.time_ms)
        newest = max(span.last_revision for span in self._spans)
        archived = self._catalog.archived
        if archived is not None and archived.revision > newest:
            raise self._refusal(
                f"the newest archived revision, {archived.revision}, cannot be reached: behind revision {newest} log is missing,"
                " and there is no backup behind that",
                f"restore what is before it with --to-revision {newest}, and make a backup of what still runs",
            )
        return newest

    def _arrival(self, revision: int, base: BackupRecord | None, legs: tuple[Leg, ...]) -> tuple[int, Position | None]:
        """Return the time of a revision, and its position where a frame ends with it."""
        if not legs:
            assert base is not None
            return base.time_ms, base.position
        leg = legs[-1]
        entry = leg.entries[-1]
        for frame in self._frames(leg, entry):
            if frame.first_revision <= revision <= frame.last_revision:
                at_end = revision == frame.last_revision
                return frame.time_ms, Position(leg.epoch, revision, frame.chain) if at_end else None
        raise damaged(ArchiveNames(leg.cluster_id).segment(entry.id), 0, f"it does not hold revision {revision}")

    def _epochs(self, base: BackupRecord | None, legs: tuple[Leg, ...]) -> tuple[tuple[Epoch, Position], ...]:
        known = {epoch.number: (epoch, began) for epoch, began in base.epochs} if base is not None else {}
        last = legs[-1].epoch.number if legs else (base.position.epoch.number if base is not None else 0)
        for link in self._catalog.line:
            known.setdefault(link.part.epoch.number, (link.part.epoch, link.part.branch))
        for leg in legs:
            known[leg.epoch.number] = (leg.epoch, leg.branch)
        return tuple(known[number] for number in sorted(known) if number <= last)

    def _frames(self, leg: Leg, entry: SegmentEntry) -> Iterator[fmt.FrameHeader]:
        names = ArchiveNames(leg.cluster_id)
        return frame_headers(self._store, names, entry, self._dictionaries(names))

    def _revision_at(self, time_ms: int) -> int:
        """Return the last revision at or before a time, in the order of history. Raises RevisionError."""
        places = [_Place(run, leg, entry) for run in self._catalog.runs for leg in run.legs for entry in leg.with_commits]
        index = next((at for at in reversed(range(len(places))) if places[at].entry.first_time_ms <= time_ms), None)
        if index is None:
            base = self._base_at(time_ms, 0)
            if base is None:
                raise self._no_time(time_ms, "lies before the oldest commit that can be restored")
            return base.position.revision
        place = places[index]
        revision = self._last_before(place, time_ms)
        if any(earlier.entry.last_time_ms > time_ms for earlier in places[:index]):
            self._notes.append(
                "the clock went back where another machine took over: commits before this revision are later than the time asked"
                " for; see that it is the revision that is meant"
            )
        ends_run = index + 1 == len(places) or places[index + 1].run is not place.run
        if ends_run and revision == place.run.end.revision:
            proven_ms = max(entry.last_time_ms for leg in place.run.legs for entry in leg.entries)
            if time_ms > proven_ms:
                base = self._base_at(time_ms, revision)
                if base is None:
                    raise self._not_proven(place.run, time_ms)
                return base.position.revision
        return revision

    def _last_before(self, place: _Place, time_ms: int) -> int:
        last = 0
        for frame in self._frames(place.leg, place.entry):
            beyond = place.leg.upto is not None and frame.first_revision > place.leg.upto.revision
            if frame.time_ms > time_ms or beyond:
                break
            last = min(frame.last_revision, place.leg.last_revision)
        if not last:
            name = ArchiveNames(place.leg.cluster_id).segment(place.entry.id)
            raise damaged(name, 0, "it does not hold the times it is listed with")
        return last

    def _base_at(self, time_ms: int, behind: int) -> BackupRecord | None:
        """Return the backup, of a later revision than this, that is the state at a time which lies before all log there is later.

        Raises RevisionError where the log right behind it would have to tell, and is not there.
        """
        runs = self._catalog.runs
        for base in reversed(self._catalog.bases()):
            found = locate(runs, base.position)
            if found is None or base.position.revision <= behind or not 0 < base.time_ms <= time_ms:
                continue
            run = found[0]
            proven_ms = self._catalog.newest_time_ms if run is runs[-1] else base.time_ms
            if run.end.revision == base.position.revision and time_ms > proven_ms:
                raise self._not_proven(run, time_ms)
            return base
        return None

    def _not_proven(self, run: Run, time_ms: int) -> RevisionError:
        if run is self._catalog.runs[-1]:
            hint = f"take --latest if nothing was committed since; {ARCHIVE_MORE}"
            return self._refusal(f"{time_text(time_ms)} lies after the newest archived commit", hint)
        return self._no_time(time_ms, f"lies in a gap: behind revision {run.end.revision} log is missing")

    def _no_time(self, time_ms: int, what: str) -> RevisionError:
        return self._refusal(f"{time_text(time_ms)} {what}", "name one of those times or revisions")

    def _impossible(self, revision: int) -> RevisionError:
        asked = f"revision {revision}" + (f" (for {self._target.text()})" if self._target.time_ms is not None else "")
        hint = "name one of those revisions, or --latest"
        if revision > max(span.last_revision for span in self._spans):
            what = f"{asked} lies after the newest one that can be restored"
            hint = f"{hint}; {ARCHIVE_MORE}"
        elif revision < self._catalog.floor:
            what = f"{asked} was given up by retention, which promises revisions from {self._catalog.floor} on"
        elif revision < self._spans[0].first_revision:
            what = f"{asked} lies before the oldest one that can be restored"
        else:
            what = f"{asked} lies in a gap: log is missing between it and the backup before it"
        return self._refusal(what, hint)

    def _refusal(self, what: str, hint: str) -> RevisionError:
        possible = "; ".join(span.text() for span in self._spans)
        damage = f". Records of the archive are damaged or missing: {SEE_WHAT}" if self._catalog.problems else ""
        return no_plan(f"{what}. Possible: {possible}", f"{hint}{damage}")

    def _nothing(self) -> RevisionError:
        catalog = self._catalog
        what = "holds no backup, and its log does not go back to the store's creation" if catalog.runs else "holds no commit yet"
        if catalog.backups:
            what = "holds no backup that lies on the store's line of history"
        hint = SEE_WHAT if catalog.problems else "make a backup with: kvctl backup create"
        return no_plan(f"the archive of cluster {catalog.cluster_id.hex()} {what}: nothing can be restored", hint)
