"""Where the archive stands, seen from the local log: what comes next, and in whose manifest it is listed.

The archive goes on with the segment that follows the last one listed, by its id, position and chain: the position alone would
not do, because the last segment of an epoch may hold nothing. Where no segment follows it:

    the archive holds nothing                  it begins with the oldest segment there is
    it ends before the log begins              it goes on with the oldest segment there is, and a gap is recorded
    it ends elsewhere in the log, or behind it another history was archived here: a copy of this node is in use, or this one
                                               was set back to an old copy of its folder. Nothing is written; people decide

Older epochs are finished and closed before the current one is gone on with. Where another node was primary in one of them, it
may have archived more of it than this node's log has: that is no part of history, and the archive goes on behind the place where
this node's history left the epoch. It may even go on archiving until its epoch is closed; then it is looked again where the
archive stands (``ArchiveOvertaken``). A node that was alone, or primary in both epochs, cannot have left one before its archived
end: it was set back. An epoch that closed an older one and is not part of history was given up by those who know of its claim.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

from kvserver.archive.errors import ArchiveFenced, ArchiveOvertaken, damaged
from kvserver.archive.manifest import EpochManifest
from kvserver.archive.manifest_chain import at_text, read_capped
from kvserver.archive.names import ArchiveNames, parse_manifest
from kvserver.archive.records import ClusterRecord, Gap, SegmentEntry, decode_cluster, encode_cluster
from kvserver.archive.store import ObjectExists, ObjectMissing, Store
from kvserver.base import failpoints
from kvserver.base.clock import Clock
from kvserver.base.types import CREATION_REVISION, Epoch, Position
from kvserver.wal.segment import SegmentInfo


class Standing(NamedTuple):
    """Where the archive stands."""

    archived: Position | None
    """The end of what is listed; None where nothing is."""
    last_id: int
    """The id of the last segment listed; 0 where nothing is, or where its epoch was left before its end."""
    unclosed: Epoch | None
    """The older epoch whose manifest must be closed once its segments are listed; None where there is none."""


NOTHING = Standing(None, 0, None)


def unarchived(sealed: Sequence[SegmentInfo], standing: Standing) -> list[SegmentInfo]:
    """Return the sealed segments that the archive lacks, oldest first, without a hole between them.

    Raises ArchiveFenced where the archive holds another history than the log.
    """
    tail = without_holes(sealed)
    archived, last_id = standing.archived, standing.last_id
    if archived is None or not tail:
        return tail
    for index, info in reversed(list(enumerate(tail))):
        # Where an epoch was left before its end, the archive may hold more of it, or other segments up to there.
        is_last = info.header.segment_id == last_id if last_id else info.header.epoch == archived.epoch
        if is_last and info.end == archived:
            return tail[index + 1 :]
    for index, info in enumerate(tail):
        # Where the log begins at the position itself, only segments that hold nothing can be missing between the two.
        if info.header.previous == archived and (not last_id or index == 0):
            return tail[index:]
    begin = tail[0].header.previous
    if (archived.epoch.number, archived.revision) < (begin.epoch.number, begin.revision):
        return tail
    raise ArchiveFenced(
        f"it ends at {at_text(archived)}, where no segment of this node's log ends; "
        "another node has archived there, or this one was set back to an old copy of its folder"
    )


def without_holes(sealed: Sequence[SegmentInfo]) -> list[SegmentInfo]:
    """Return the newest segments that follow one another: a removal that a loss of power took back leaves older ones."""
    begin = len(sealed) - 1
    while begin > 0 and sealed[begin].header.previous_segment_id == sealed[begin - 1].header.segment_id:
        begin -= 1
    return list(sealed[max(begin, 0) :])


class Continuation:
    """Keeps the manifests of one cluster going. Its calls block, and are made by one thread at a time."""

    def __init__(
        self,
        store: Store,
        names: ArchiveNames,
        cluster: ClusterRecord,
        epochs: Sequence[tuple[Epoch, Position]],
        foreign: Collection[Epoch],
        node_name: str,
        clock: Clock,
    ) -> None:
        """``epochs``: this node's history, oldest first, each with the position at which it began; the last is the current.

        ``foreign``: those that other nodes have claimed in the cluster's register; also such as are not of this history.
        """
        self._store = store
        self._names = names
        self._cluster = cluster
        self._epochs = list(epochs)
        self._foreign = frozenset(foreign)
        self._node_name = node_name
        self._clock = clock
        self._manifest: EpochManifest | None = None
        self._archived: Position | None = None
        self._parent_is_here = False
        self._recorded: list[Gap] = []
        """Gaps that nobody was told of yet: the attempt that recorded them failed after that."""

    def needs_backup(self, begin: Position) -> bool:
        """Say whether an archive that begins at a position can be restored from with a base backup only."""
        if begin.revision == CREATION_REVISION:
            return False
        return not (self._parent_is_here and begin == self._cluster.parent)

    @property
    def standing(self) -> Standing:
        """Return where the archive stands, as of the last call."""
        manifest = self._manifest
        is_open = manifest is not None and manifest.closing is None and manifest.epoch != self._epochs[-1][0]
        last_id = 0
        if manifest is not None and manifest.entries and manifest.entries_end == self._archived:
            last_id = manifest.entries[-1].segment_id
        return Standing(self._archived, last_id, manifest.epoch if manifest is not None and is_open else None)

    def resume(self, sealed: Sequence[SegmentInfo]) -> Standing:
        """Find out where the archive stands. ``sealed``: the log's sealed segments, oldest first.

        Raises ArchiveFenced where this node must not write to it, Corruption, StoreError.
        """
        self._claim_prefix()
        self._parent_is_here = self._has_parent()
        oldest_epoch = sealed[0].header.previous.epoch.number if sealed else 0
        manifest = self._newest_of_history(oldest_epoch) or self._newest_listed()
        if manifest is not None and manifest.closing is not None:
            self._check_closing(manifest, any(info.header.epoch == manifest.epoch for info in sealed))
        self._manifest = manifest
        self._archived = None if manifest is None else self._end_of(manifest)
        return self.standing

    def append(self, entries: Sequence[SegmentEntry]) -> list[Gap]:
        """List segments that follow one another, oldest first; return the gaps that had to be recorded, each of them once.

        May be made again after a failure. Raises ArchiveOvertaken where another node has gone on with an older epoch meanwhile:
        ``resume`` says how far. Raises ArchiveFenced, StoreError; ValueError where an entry does not continue what is listed.
        """
        return self._unless_fenced(lambda: self._append(entries))

    def _append(self, entries: Sequence[SegmentEntry]) -> list[Gap]:
        at = 0
        if self._manifest is not None:  # an attempt before this one has come further, and has closed what those belong to
            at = sum(entry.start.epoch.number < self._manifest.epoch.number for entry in entries)
        while at < len(entries):
            epoch = entries[at].start.epoch
            upto = next((index for index in range(at, len(entries)) if entries[index].start.epoch != epoch), len(entries))
            self._append_in(epoch, entries[at:upto])
            at = upto
        return self._take_recorded()

    def close_older(self) -> list[Gap]:
        """Close the older epoch's manifest, whose segments are all listed; return what gaps had to be recorded for that.

        Raises ArchiveOvertaken, as ``append`` does; ArchiveFenced where it was closed by an epoch that is not this node's;
        StoreError.
        """
        return self._unless_fenced(self._close_older)

    def _unless_fenced(self, step: Callable[[], list[Gap]]) -> list[Gap]:
        try:
            return step()
        except ArchiveOvertaken as error:
            if self._manifest is None or self._manifest.epoch == self._epochs[-1][0]:
                raise ArchiveFenced(error.what) from error
            raise

    def _close_older(self) -> list[Gap]:
        manifest = self._manifest
        if manifest is None or manifest.epoch == self._epochs[-1][0]:
            return []
        self._close(manifest)
        return self._take_recorded()

    def _take_recorded(self) -> list[Gap]:
        gaps, self._recorded = self._recorded, []
        return gaps

    def _close(self, manifest: EpochManifest) -> None:
        by, branch = self._successor(manifest.epoch)
        if manifest.closing is None and manifest.end is not None and manifest.end.revision < branch.revision:
            self._append_to(manifest, [], Gap(manifest.end, manifest.end.revision + 1, branch.revision))
        manifest.close(by, branch)
        failpoints.hit("archive.after_closing")

    def _append_to(self, manifest: EpochManifest, entries: Sequence[SegmentEntry], gap: Gap | None) -> None:
        manifest.append(entries, gap)
        if gap is not None:
            self._recorded.append(gap)

    def _append_in(self, epoch: Epoch, entries: Sequence[SegmentEntry]) -> None:
        """List segments of one epoch, after closing the manifests before it: also those of epochs of which nothing is left."""
        manifest = self._manifest
        if manifest is None:
            manifest = self._manifest = self._open(epoch)
        while manifest.epoch != epoch:
            self._close(manifest)
            manifest = self._manifest = self._open(self._successor(manifest.epoch)[0])
        end = manifest.end
        gap = None
        if end is not None and entries[0].start != end and entries[0] not in manifest.entries:
            gap = Gap(end, end.revision + 1, entries[0].start.revision)
        self._append_to(manifest, entries, gap)
        self._archived = self._end_of(manifest)

    def _claim_prefix(self) -> None:
        """Create the record of the cluster, or check that the one that is there is this cluster's. Raises Corruption."""
        name = self._names.cluster
        try:
            self._store.create(name, [encode_cluster(self._cluster)])
            return
        except ObjectExists:
            data = read_capped(self._store, name)
        found = decode_cluster(name, data)
        if found.cluster_id != self._cluster.cluster_id:
            raise damaged(name, 0, f"it is the record of another cluster, {found.cluster_id.hex()}")

    def _has_parent(self) -> bool:
        """Say whether the archive knows the store that this one was forked from."""
        if not self._cluster.parent_cluster_id:
            return False
        try:
            self._store.length(ArchiveNames(self._cluster.parent_cluster_id).cluster)
        except ObjectMissing:
            return False
        return True

    def _newest_of_history(self, oldest_epoch: int) -> EpochManifest | None:
        """Return the newest manifest with a record, of the epochs from this one on; None where there is none.

        Older ones are closed before a newer one gets its first record, so there is no need to look at them.
        """
        for epoch, branch in reversed(self._epochs):
            if epoch.number < oldest_epoch:
                return None
            manifest = EpochManifest.open(self._store, self._names, epoch, branch, self._node_name, self._clock)
            if manifest.entries or manifest.gaps or manifest.closing is not None:
                return manifest
        return None

    def _newest_listed(self) -> EpochManifest | None:
        """Return the newest manifest there is at all; None where there is none.

        For an archive that holds nothing of what the log holds. Raises ArchiveFenced where the manifest is not of this node's
        history.
        """
        parsed = (parse_manifest(info.name) for info in self._store.list(self._names.manifests))
        own = {epoch.number for epoch, _ in self._epochs}
        given_up = {epoch.number for epoch in self._foreign if epoch.number < max(own)} - own
        newest = max((one[0] for one in parsed if one is not None and one[0] not in given_up), default=None)
        if newest is None:
            return None
        if newest not in own:
            raise ArchiveFenced(f"it goes on with epoch {newest}, which is not part of this node's history")
        return self._open(next(epoch for epoch, _ in self._epochs if epoch.number == newest))

    def _open(self, epoch: Epoch) -> EpochManifest:
        branch = next((branch for one, branch in self._epochs if one == epoch), None)
        if branch is None:
            raise ArchiveFenced(f"epoch {epoch.number} of the log is not part of this node's history")
        return EpochManifest.open(self._store, self._names, epoch, branch, self._node_name, self._clock)

    def _check_closing(self, manifest: EpochManifest, in_log: bool) -> None:
        """Check that nobody but this node has ended an epoch. Raises ArchiveFenced.

        A store that was restored to take its cluster over finds the newest epoch closed by a claim that never began; of that
        epoch it has no segment (``in_log``). The node that it replaces has.
        """
        closing = manifest.closing
        assert closing is not None
        is_ours = any(epoch == closing.by for epoch, _ in self._epochs) or self._is_given_up(closing.by)
        if manifest.epoch == self._epochs[-1][0] or (in_log and not is_ours):
            raise ArchiveFenced(f"epoch {closing.by.number} has closed the manifest of this node's epoch {manifest.epoch.number}")
        manifest.close(*self._successor(manifest.epoch))

    def _is_given_up(self, epoch: Epoch) -> bool:
        """Say whether an epoch was another node's, and history went on without it."""
        current = self._epochs[-1][0]
        return epoch in self._foreign and epoch.number < current.number and all(epoch != one for one, _ in self._epochs)

    def _successor(self, epoch: Epoch) -> tuple[Epoch, Position]:
        """Return the epoch that follows another one in this node's history, with the position at which it began."""
        return next(one for one in self._epochs if one[0].number > epoch.number)

    def _end_of(self, manifest: EpochManifest) -> Position | None:
        """Return where the archive stands by a manifest: where its epoch was left, if that is before its end."""
        end, closing = manifest.entries_end, manifest.closing
        if closing is not None and self._is_given_up(closing.by):
            closing = None
        if end is None:
            return manifest.branch if closing is None else closing.branch
        if closing is not None and closing.branch.revision > end.revision:
            return closing.branch  # what is missing before it is a gap for good: nothing is listed behind a closing
        left = [closing.branch] if closing is not None else []
        following = [one for one in self._epochs if one[0].number > manifest.epoch.number][:1]
        for epoch, branch in following:
            # A store that took its cluster over at a past position has left the epoch there, before others had closed it.
            if closing is not None or not self._foreign.isdisjoint((manifest.epoch, epoch)):
                left.append(branch)
        return min((one for one in left if one.revision <= end.revision), key=lambda one: one.revision, default=end)
