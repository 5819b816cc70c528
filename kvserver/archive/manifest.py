"""An epoch's manifest: which segments the archive holds, in records that are created once and name the one before.

    record 0 ── record 1 ── record 2 ── ... ── record n, perhaps with the closing

Each record names the SHA-256 of the bytes of the record before it, so none can be left out, exchanged or added in between
without being noticed. Two writers of one epoch want the same number sooner or later; the store lets one of them create it,
and the other one reads there that it must stop (``ArchiveFenced``).

Whether a record was created is not always known: the answer may be lost on the way, and a request that seemed lost may still
take effect a while later. So what an attempt has offered under a number is never replaced by something else: it is offered
again until the store answers, and what is found under the number counts as created if it is the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Sequence

from kvserver.archive.errors import ArchiveFenced, ArchiveOvertaken, damaged
from kvserver.archive.manifest_chain import at_text, check_continues, check_gap, epoch_start, read_capped, read_chained
from kvserver.archive.names import ArchiveNames
from kvserver.archive.records import (
    MAX_RECORD_BYTES,
    Closing,
    Gap,
    ManifestRecord,
    SegmentEntry,
    decode_manifest,
    encode_manifest,
)
from kvserver.archive.store import ObjectExists, ObjectMissing, Store, StoreUnavailable
from kvserver.base.clock import Clock
from kvserver.base.types import Epoch, Position

ENTRIES_PER_RECORD = 1000
"""More entries than that are listed by several records, each of which stays far below the largest size."""

ENTRIES_REMEMBERED = 4 * ENTRIES_PER_RECORD
"""At least so many of the newest entries are remembered, and at most twice as many: a node may run for years."""

_CLOSING_ATTEMPTS = 100
"""So many records of an epoch's late writer are read past by whoever closes its manifest."""


def read_epoch_manifest(store: Store, names: ArchiveNames, epoch_number: int) -> list[ManifestRecord]:
    """Return an epoch's records, oldest first: whole and chained. Raises Corruption, StoreError.

    The oldest may have been removed by retention; then the list begins with the first one that is left.
    """
    return [record for record, _ in read_chained(store, names, epoch_number)]


class EpochManifest:
    """The manifest of one epoch, for its writer. Used by one thread at a time.

    ``entries`` are the newest that the records list.
    """

    def __init__(self, store: Store, names: ArchiveNames, epoch: Epoch, branch: Position, node_name: str, clock: Clock) -> None:
        """Begin with nothing; ``open`` reads what there is."""
        self._store = store
        self._names = names
        self.epoch = epoch
        self.branch = branch
        self._node_name = node_name
        self._clock = clock
        self._number = 0
        self._previous_sha256 = b""
        self._segment_ids: set[int] = set()
        self._offered: ManifestRecord | None = None
        """What was offered under the next number, and whose fate is not known."""
        self.entries: list[SegmentEntry] = []
        self.gaps: list[Gap] = []
        self.closing: Closing | None = None
        self._end: Position | None = epoch_start(names.cluster_id, epoch, branch)

    @classmethod
    def open(
        cls, store: Store, names: ArchiveNames, epoch: Epoch, branch: Position, node_name: str, clock: Clock
    ) -> EpochManifest:
        """Return an epoch's manifest with what is listed in it so far.

        A manifest that is closed opens as well: ``closing`` says by whom. Only going on with it is refused. Raises ArchiveFenced
        where the epoch's number belongs to another nonce, Corruption where records do not check or the epoch begins
        elsewhere, StoreError.
        """
        manifest = cls(store, names, epoch, branch, node_name, clock)
        data = b""
        for record, data in read_chained(store, names, epoch.number):
            manifest._check_ours(record)
            if record.number > 0 and manifest._number == 0:
                manifest._end = None  # what came before was given up
            manifest._adopt(record, data)
        if data:
            _make_durable(store, names.manifest(epoch.number, manifest._number - 1), data)
        return manifest

    @property
    def entries_end(self) -> Position | None:
        """Return the end of the newest segment listed; None where none is."""
        return self.entries[-1].end if self.entries else None

    @property
    def end(self) -> Position | None:
        """Return where the next segment must begin; None behind a gap, which only says at which revision."""
        return self._end

    def append(self, entries: Sequence[SegmentEntry], gap: Gap | None = None) -> None:
        """List segments, durably on return; ``gap``: what is missing before them, said openly.

        Those that are listed already are passed over, so that whoever does not know whether an attempt took effect may make it
        again. Raises ValueError, before anything is written, for entries that do not continue what is listed. Without a gap the
        first of an epoch begins where the epoch does; an archive that begins later says so by a gap behind ``end``. Raises
        ArchiveFenced where another writer has continued or closed the manifest, StoreError.
        """
        if self._offered is not None:
            self._settle()
        if gap is not None and gap in self.gaps[-1:]:
            gap = None
        known = set(self.entries[-len(entries) - ENTRIES_PER_RECORD :])
        fresh = [entry for entry in entries if entry not in known]
        if not fresh and gap is None:
            return
        self._check(fresh, gap)
        if self.closing is not None:
            raise self._closed(self.closing)
        for begin in range(0, max(len(fresh), 1), ENTRIES_PER_RECORD):
            self._offered = self._record(fresh[begin : begin + ENTRIES_PER_RECORD], gap=gap)
            gap = None
            self._settle()

    def close(self, by: Epoch, branch: Position) -> None:
        """End the manifest because another epoch has begun at a position; durable on return.

        A late writer's records are left standing, and the closing is put behind them. Nothing happens where the manifest was
        closed by the same epoch, or by an older one, which this one has replaced. Raises ArchiveFenced where a newer epoch
        has closed it, StoreError.
        """
        closing = Closing(by, branch)
        if self._offered is not None:
            with contextlib.suppress(ArchiveFenced):
                self._settle()
        for _ in range(_CLOSING_ATTEMPTS):
            if self.closing is not None:
                replaces = self.closing.by.number < by.number
                if self.closing != closing and not replaces:
                    raise self._closed(self.closing)
                return
            self._offered = self._record([], closing=closing)
            try:
                self._settle()
            except ArchiveFenced:
                self._read_past()
        raise ArchiveOvertaken(f"the manifest of epoch {self.epoch.number} is being continued by another node")

    def _check(self, entries: Sequence[SegmentEntry], gap: Gap | None) -> None:
        at = self._end
        if gap is not None:
            check_gap(gap, at if at is not None else gap.after)
            if at is None and self.gaps and gap.first_revision != self.gaps[-1].last_revision + 1:
                raise ValueError(f"a gap ends at revision {self.gaps[-1].last_revision}, and the next one begins later or before")
            at = None
        if not entries:
            return
        begin = entries[0].start
        if begin.epoch != self.epoch:
            raise ValueError(
                f"a segment of epoch {begin.epoch.number} is not listed by the manifest of epoch {self.epoch.number}"
            )
        if at is None:
            last_gap = gap or (self.gaps[-1] if self.gaps else None)
            if last_gap is not None and begin.revision != last_gap.last_revision:
                raise ValueError(
                    f"a gap ends at revision {last_gap.last_revision}, and the segment behind it begins at {at_text(begin)}"
                )
            at = begin
        check_continues(entries, at, self.branch, set(self._segment_ids))

    def _record(self, entries: Sequence[SegmentEntry], gap: Gap | None = None, closing: Closing | None = None) -> ManifestRecord:
        return ManifestRecord(
            cluster_id=self._names.cluster_id,
            epoch=self.epoch,
            branch=self.branch,
            number=self._number,
            previous_sha256=self._previous_sha256,
            entries=list(entries),
            gap=gap,
            closing=closing,
            node_name=self._node_name,
            written_ms=self._clock.now_ms(),
        )

    def _settle(self) -> None:
        """Create what is offered, or find it created. Raises ArchiveFenced where the number is another's, StoreError."""
        record = self._offered
        assert record is not None
        data = encode_manifest(record)
        name = self._names.manifest(self.epoch.number, record.number)
        try:
            self._store.create(name, [data])
        except (ObjectExists, StoreUnavailable) as error:
            try:
                found = self._store.read(name, limit=MAX_RECORD_BYTES)
            except ObjectMissing:
                raise error from None
            except ValueError:
                found = b""
            if found != data:
                self._offered = None
                raise ArchiveOvertaken(f"another node has written record {record.number} of epoch {self.epoch.number}") from error
            if isinstance(error, StoreUnavailable):
                _make_durable(self._store, name, data)
        self._offered = None
        self._adopt(record, data)

    def _read_past(self) -> None:
        """Take over what another writer has put under the next number. Raises Corruption, StoreError."""
        name = self._names.manifest(self.epoch.number, self._number)
        data = read_capped(self._store, name)
        record = decode_manifest(name, data)
        self._check_ours(record)
        if record.number != self._number or record.previous_sha256 != self._previous_sha256:
            raise damaged(name, 0, "it does not continue the record before it")
        self._adopt(record, data)

    def _check_ours(self, record: ManifestRecord) -> None:
        number = self.epoch.number
        if record.epoch != self.epoch:
            what = f"epoch {number} is that of {record.node_name or 'another node'} (nonce {record.epoch.nonce:016x})"
            raise ArchiveFenced(f"{what}, not this node's (nonce {self.epoch.nonce:016x})")
        if record.branch != self.branch:
            name = self._names.manifest(number, record.number)
            raise damaged(
                name, 0, f"epoch {number} begins at {at_text(record.branch)} there, and at {at_text(self.branch)} in the log"
            )

    def _closed(self, closing: Closing) -> ArchiveFenced:
        return ArchiveFenced(f"epoch {closing.by.number} has closed the manifest of epoch {self.epoch.number}")

    def _adopt(self, record: ManifestRecord, data: bytes) -> None:
        """Go on behind a record that the store holds. Raises Corruption where its entries do not continue what is listed."""
        try:
            self._check(record.entries, record.gap)
        except ValueError as error:
            raise damaged(self._names.manifest(self.epoch.number, record.number), 0, str(error)) from error
        self._number = record.number + 1
        self._previous_sha256 = hashlib.sha256(data).digest()
        if record.gap is not None:
            self.gaps.append(record.gap)
            self._end = None
        if record.entries:
            self.entries += record.entries
            if len(self.entries) > 2 * ENTRIES_REMEMBERED:
                del self.entries[:-ENTRIES_REMEMBERED]
            self._segment_ids.update(entry.segment_id for entry in record.entries)
            self._end = record.entries[-1].end
        self.closing = self.closing or record.closing


def _make_durable(store: Store, name: str, data: bytes) -> None:
    """Make a record durable that was read: whoever created it may have died, or failed, before it was. Raises StoreError."""
    with contextlib.suppress(ObjectExists):
        store.create(name, [data])
