"""One line of history out of the epochs of an archive: which part of each epoch counts, and where nothing is missing.

    epoch 1 ──●──────●                      what epoch 1 holds behind its branch is not part of history any more
              └── epoch 3 ──────●────●      epoch 2 was claimed and never written, or was given up: epoch 3 names epoch 1
                                └── epoch 4 ───────

The newest epoch decides: it names the position at which it left its parent, that one names its own, and so on. What lies
behind those positions, and epochs that nobody names, are not read. A *run* is a stretch of that line in which each segment
begins where the one before it ends; a restore lies within one run, or is a backup as it is.
"""

from __future__ import annotations

import bisect
from typing import NamedTuple

from kvserver.archive.manifest_chain import at_text, epoch_start
from kvserver.archive.records import Closing, Gap, SegmentEntry
from kvserver.base.types import CREATION_REVISION, NO_EPOCH, Epoch, Position
from kvserver.wal import format as fmt


class EpochPart(NamedTuple):
    """What the manifest of one epoch lists."""

    epoch: Epoch
    branch: Position
    """Where it begins, in its parent epoch."""
    entries: tuple[SegmentEntry, ...]
    """But for those that retention has removed: a record may list some that are gone beside others that are not."""
    gaps: tuple[Gap, ...]
    closing: Closing | None
    breaks: frozenset[int] = frozenset()
    """Indexes of the entries before which something is missing or contradicts the manifest."""
    records: tuple[tuple[int, int], ...] = ()
    """The number of each record, and how many of the entries it and those before it list."""
    removed: SegmentEntry | None = None
    """The newest one listed whose segment retention has removed: so far the epoch was archived once."""


class Leg(NamedTuple):
    """Segments of one epoch that follow each other, as a restore takes them."""

    cluster_id: bytes
    """Below whose prefix they lie."""
    entries: tuple[SegmentEntry, ...]
    """Oldest first; none at all of an epoch that wrote nothing, or of whose end retention has left nothing but the position.

    Those without commits are left out at an epoch's end.
    """
    begin: Position
    """What is in place before it: the backup, or the end of the leg before. May lie in its first segment, at a frame's end."""
    upto: Position | None
    """Where the next epoch parts: nothing behind it is taken. May lie inside a frame. None: to the end of the entries."""
    epoch: Epoch
    branch: Position
    """Where the epoch begins, in its parent."""

    @property
    def first_revision(self) -> int:
        """Return the first revision that can be taken from it."""
        return self.entries[0].start.revision + 1 if self.entries else self.begin.revision + 1

    @property
    def last_revision(self) -> int:
        """Return the last revision that can be taken from it."""
        end = self.entries[-1].end.revision if self.entries else self.begin.revision
        return end if self.upto is None else min(end, self.upto.revision)

    @property
    def with_commits(self) -> list[SegmentEntry]:
        """Return the segments that hold commits, oldest first."""
        return [entry for entry in self.entries if entry.end.revision > entry.start.revision]


class Run(NamedTuple):
    """Legs between which nothing is missing."""

    begin: Position
    """Before its first commit: of the parent epoch where it begins with an epoch."""
    legs: tuple[Leg, ...]
    end: Position

    @property
    def from_creation(self) -> bool:
        """Say whether it begins with the store itself, so that no backup is needed."""
        return self.begin.epoch == NO_EPOCH


class Link(NamedTuple):
    """One epoch's place in the line of history."""

    cluster_id: bytes
    part: EpochPart
    upto: Position | None
    """Where its child left it; None for the newest."""
    floor: int
    """Below this revision nothing is promised, and what is missing is no problem."""


def creation(cluster_id: bytes) -> Position:
    """Return the position at which a store is created."""
    return Position(NO_EPOCH, CREATION_REVISION, fmt.creation_chain(cluster_id))


def trace(cluster_id: bytes, parts: dict[int, EpochPart], head: Position | None, floor: int) -> tuple[list[Link], list[str]]:
    """Return the epochs of one cluster that lead to a position (None: to the newest there is), oldest first.

    Also returns by name what does not fit.
    """
    problems = _contradictions(parts)
    if not parts:
        return [], problems
    upto = head if head is not None else _head(parts)
    number = max(parts) if upto is None else upto.epoch.number
    links: list[Link] = []
    while number in parts:
        part = parts[number]
        if upto is not None and part.epoch != upto.epoch:
            nonces = f"{part.epoch.nonce:016x} in its manifest, and {upto.epoch.nonce:016x} where its successor names it"
            problems.append(f"epoch {number} has the nonce {nonces}: two nodes have used one number")
            break
        if upto is not None and upto.revision < part.branch.revision:
            problems.append(f"the successor of epoch {number} leaves it at {at_text(upto)}, before it begins")
            break
        links.append(Link(cluster_id, part, upto, floor))
        upto = part.branch
        if upto.epoch.number >= number:
            problems.append(f"epoch {number} names epoch {upto.epoch.number} as its parent, which is not older")
            break
        number = upto.epoch.number
        if number not in parts:
            upto, number = _below_missing(parts, number, upto)
    links.reverse()
    return links, problems


def _below_missing(parts: dict[int, EpochPart], number: int, branch: Position) -> tuple[Position, int]:
    """Return where history goes on below epochs whose manifests are missing, if those below were closed."""
    older = [part for part_number, part in parts.items() if part_number < number]
    closing = max(older, key=lambda part: part.epoch.number).closing if older else None
    if closing is None or closing.branch.revision > branch.revision or closing.branch.epoch.number >= number:
        return branch, number
    return closing.branch, closing.branch.epoch.number


def _head(parts: dict[int, EpochPart]) -> Position | None:
    """Return where an epoch of which nothing is archived yet closed those before it; None where the newest epoch goes on."""
    newest = max(parts)
    closings = [part.closing for part in parts.values() if part.closing is not None and part.closing.by.number > newest]
    return max(closings, key=lambda closing: closing.by.number).branch if closings else None


def _contradictions(parts: dict[int, EpochPart]) -> list[str]:
    """Return where the closing of an epoch and the begin of the one that closed it do not say the same."""
    problems = []
    for number, part in sorted(parts.items()):
        if part.closing is None:
            continue
        by, branch = part.closing
        closer = parts.get(by.number)
        if by.number <= number:
            problems.append(f"epoch {number} is closed by epoch {by.number}, which is not newer")
        elif closer is not None and closer.epoch != by:
            nonces = f"{closer.epoch.nonce:016x} in its manifest, and {by.nonce:016x} where it closed epoch {number}"
            problems.append(f"epoch {by.number} has the nonce {nonces}: two nodes have used one number")
        elif closer is not None and closer.branch != branch:
            places = f"{at_text(closer.branch)} by its own manifest, at {at_text(branch)} by that of epoch {number}"
            problems.append(f"history is forked: epoch {by.number} begins at {places}")
    return problems


def join(links: list[Link]) -> tuple[list[Run], list[str]]:
    """Return the runs of a line of history, oldest first, and by name what is missing between them without being said."""
    joiner = _Joiner()
    for link in links:
        joiner.add(link)
    joiner.end_run()
    return joiner.runs, joiner.problems


class _Joiner:
    def __init__(self) -> None:
        self.runs: list[Run] = []
        self.problems: list[str] = []
        self._begin: Position | None = None
        """Of the run under way."""
        self._legs: list[Leg] = []
        self._at: Position | None = None
        """Where the run under way stands; None where there is none."""

    def add(self, link: Link) -> None:
        """Go through one epoch."""
        cluster_id, part, upto, floor = link
        start = epoch_start(cluster_id, part.epoch, part.branch)
        if self._at != part.branch:
            if self._legs:
                self._between(part, floor)
            self.end_run()
            self._begin = part.branch
        at = start
        begin, taken = part.branch, list[SegmentEntry]()
        for index, entry in enumerate(part.entries):
            if upto is not None and entry.start.revision >= upto.revision:
                break
            if entry.start != at or index in part.breaks:
                self._missing(link, at, entry.start)
                if taken:
                    self._leg(link, begin, taken, None, at)
                self.end_run()
                taken = []
                begin = self._begin = part.branch if entry.start == start else entry.start
            taken.append(entry)
            at = entry.end
        wants_more = upto is None or at.revision < upto.revision
        if wants_more and part.removed is not None and at.revision < part.removed.end.revision:
            # The epoch's last segments are gone: a backup may stand where they ended, and history goes on from there.
            if taken:
                self._leg(link, begin, taken, None, at)
            self.end_run()
            at, taken = part.removed.end, []
            begin = self._begin = at if upto is None or at.revision <= upto.revision else upto
        self._leave(link, begin, taken, at)

    def _leave(self, link: Link, begin: Position, taken: list[SegmentEntry], at: Position) -> None:
        """End an epoch: where its child left it, or where its entries end."""
        upto = link.upto
        reached = upto is None or upto.revision < at.revision or upto == at
        if upto is not None and not reached:
            self._missing(link, at, upto)
        self._leg(link, begin, taken, upto if reached else None, at)
        if not reached or upto is None:
            self.end_run()

    def _leg(self, link: Link, begin: Position, taken: list[SegmentEntry], upto: Position | None, at: Position) -> None:
        self._legs.append(Leg(link.cluster_id, tuple(taken), begin, upto, link.part.epoch, link.part.branch))
        self._at = at if upto is None else upto

    def end_run(self) -> None:
        """End the run under way."""
        if self._legs and self._begin is not None and self._at is not None:
            self.runs.append(Run(self._begin, tuple(self._legs), self._at))
        self._legs = []
        self._begin = self._at = None

    def _between(self, part: EpochPart, floor: int) -> None:
        """Say what is missing between the run under way and the branch of the next epoch there is."""
        at, number = self._at, part.epoch.number
        if at is not None and part.branch.revision >= floor:
            what = f"the archive goes from {at_text(at)} to {at_text(part.branch)}, where epoch {number} begins"
            self.problems.append(f"the manifests before epoch {number} are missing: {what}")

    def _missing(self, link: Link, after: Position, to: Position) -> None:
        part, first, last = link.part, after.revision + 1, to.revision
        if last < link.floor:
            return
        if first <= last:
            first = max(first, link.floor)  # what lies below that was given up, and may go on into a gap
            if _covered(part.gaps, first, last):
                return
        number = part.epoch.number
        if first <= last:
            self.problems.append(f"the log of revisions {first} to {last} (epoch {number}) is missing")
        elif first > last + 1:
            self.problems.append(f"epoch {number} goes back from {at_text(after)} to {at_text(to)}: entries are out of order")
        elif after != to:
            self.problems.append(f"history is forked: epoch {number} stands at {at_text(after)} and goes on from {at_text(to)}")


def _covered(gaps: tuple[Gap, ...], first: int, last: int) -> bool:
    """Say whether all revisions from one to another were said to be missing, perhaps by several gaps behind one another."""
    for gap in sorted(gaps, key=lambda gap: gap.first_revision):
        if gap.first_revision <= first <= gap.last_revision:
            first = gap.last_revision + 1
    return first > last


def locate(runs: tuple[Run, ...], position: Position) -> tuple[Run, int] | None:
    """Return the run that passes through a position, and which of its legs stands there; None where none does.

    Between the ends of segments only the revision can be told without reading; whoever reads finds the chain there.
    """
    for run in reversed(runs):
        for index in reversed(range(len(run.legs))):
            leg = run.legs[index]
            if position in (leg.begin, leg.upto) or (position.epoch == leg.epoch and _passes(leg, position)):
                return run, index
    return None


def _passes(leg: Leg, position: Position) -> bool:
    if not leg.entries:  # it may stand for the end of an epoch whose segments are gone, and then does not pass through its start
        return leg.begin == leg.branch and position == epoch_start(leg.cluster_id, leg.epoch, leg.branch)
    revision = position.revision
    if revision > leg.last_revision or (leg.upto is not None and revision == leg.upto.revision):
        return False
    index = bisect.bisect_left(leg.entries, revision, key=lambda entry: entry.end.revision)
    entry = leg.entries[index]
    if revision <= entry.start.revision:
        return position == entry.start
    return revision < entry.end.revision or position == entry.end


def legs_between(run: Run, index: int, after: Position, revision: int | None) -> list[Leg]:
    """Return the legs of a run from a position within the leg of this index up to a revision (None: to the run's end).

    The first one begins at the position, each other one where the one before it ends. What holds nothing between the position
    and the revision is left out at both ends; in between a leg may have no entries, where an epoch wrote nothing.
    """
    legs = list[Leg]()
    if revision is not None and revision <= after.revision:
        return legs
    for leg in run.legs[index:]:
        entries = leg.entries
        if revision is not None:
            if leg.branch.revision >= revision:
                break
            entries = tuple(entry for entry in entries if entry.start.revision < revision)
        if not legs:
            if after.revision >= leg.last_revision:
                continue
            entries = tuple(entry for entry in entries if entry.end.revision > after.revision)
            leg = leg._replace(begin=after)
        legs.append(leg._replace(entries=entries))
    return legs
