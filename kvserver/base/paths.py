"""Every file name in a data folder: made here, parsed here, nowhere else.

    LOCK                                      held while a process uses the folder
    IDENTITY                                  what the folder is; written once
    epochs/<number>.claim                     the local register: who began the epoch; created once
    epochs/<number>.branch                    where in history it began; created once
    epochs/<number>.begun                     its first segment is durable; created once
    wal/<epoch>-<first revision>.wal          a segment of the log
    wal/<segment name>.<offset>.torn          what recovery cut from a segment's end, kept for inspection
    wal/<segment name>.<n>.damaged            a segment that did not check, kept when a whole one took its place
    wal/prepared-<n>.tmp                      a future segment, zero-filled, without content
    tables/                                   the tables; the names in it are RocksDB's own
    building/<revision>.sst                   a table that a flush is building; moved into ``tables`` when it is whole
    ORIGIN                                    in a checkpoint, and in a store opened from one: where it comes from
    BALLAST                                   space that is given back when the disk is full
    scratch/                                  checkpoints on their way into a backup or a hash; emptied at a start
    archive/                                  the archive, where it is a folder below the data; the names in it are its own
    RESTORE                                   the folder is being restored and is no store yet: from what, up to where
    restore/wal/...                           segments that a restore has fetched; gone when it ends
    restore/<n>.part                          what is being fetched
    PROMISE                                   the highest epoch that the node has promised to obey; replaced
    SLOTS                                     who follows, and from where on the log is held for each; replaced
    incoming/                                 a copy of the store that is to take the place of the one there is
    SWAP                                      it is whole, and taking its place; a start goes on with that
    replaced/                                 what it took the place of; removed when it has
    bases/<revision>/                         a checkpoint to go back to, with tables/, ORIGIN and an empty wal/
    bases/making/                             one that is being made
    lost/<first>-<last>-<chain>/wal/...       revisions that the cluster went on without, in whole segments; never used again

Numbers are lower-case hexadecimal of fixed width, so that the order of names is the order of history.

Who writes and who deletes each of them: the table in ``docs/architecture.md``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

_SEGMENT = re.compile(r"([0-9a-f]{8})-([0-9a-f]{16})\.wal")
_TORN = re.compile(r"([0-9a-f]{8}-[0-9a-f]{16}\.wal)\.([0-9a-f]{8})\.torn")
_DAMAGED = re.compile(r"([0-9a-f]{8}-[0-9a-f]{16}\.wal)\.([0-9]{1,10})\.damaged")
_PREPARED = re.compile(r"prepared-([0-9]{1,10})\.tmp")
_BASE = re.compile(r"([0-9a-f]{16})")
_CLAIM = re.compile(r"([0-9a-f]{8})\.claim")

TOP_LEVEL_NAMES = frozenset(
    {
        *("LOCK", "IDENTITY", "IDENTITY.tmp", "ORIGIN", "ORIGIN.tmp", "wal", "epochs", "tables", "building"),
        *("BALLAST", "scratch", "archive", "RESTORE", "RESTORE.tmp", "restore", "lost+found"),
        *("PROMISE", "PROMISE.tmp", "SLOTS", "SLOTS.tmp", "incoming", "SWAP", "SWAP.tmp", "replaced", "lost", "bases"),
    }
)
"""What may lie in a data folder; a freshly made file system adds the last one."""


class SegmentName(NamedTuple):
    """The parts of a segment's name; they sort as history does."""

    epoch_number: int
    first_revision: int


class DataPaths:
    """The paths below one data folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = root / "LOCK"
        self.identity = root / "IDENTITY"
        self.identity_temporary = root / "IDENTITY.tmp"
        self.wal = root / "wal"
        self.epochs = root / "epochs"
        self.tables = root / "tables"
        self.building = root / "building"
        self.origin = root / "ORIGIN"
        self.origin_temporary = root / "ORIGIN.tmp"
        self.ballast = root / "BALLAST"
        self.scratch = root / "scratch"
        self.archive = root / "archive"
        self.restore = root / "RESTORE"
        self.restore_temporary = root / "RESTORE.tmp"
        self.restoring = root / "restore"
        self.promise = root / "PROMISE"
        self.promise_temporary = root / "PROMISE.tmp"
        self.slots = root / "SLOTS"
        self.slots_temporary = root / "SLOTS.tmp"
        self.incoming = root / "incoming"
        self.swap = root / "SWAP"
        self.swap_temporary = root / "SWAP.tmp"
        self.replaced = root / "replaced"
        self.lost = root / "lost"
        self.bases = root / "bases"

    def base(self, revision: int) -> DataPaths:
        """Return the paths of the folder of a base, whose tables end at a revision."""
        return DataPaths(self.bases / f"{revision:016x}")

    def base_being_made(self) -> DataPaths:
        """Return the paths of the folder in which a base is made."""
        return DataPaths(self.bases / "making")

    def lost_history(self, first_revision: int, last_revision: int, chain: bytes) -> DataPaths:
        """Return the paths of the folder that keeps revisions which the cluster went on without, by the chain at their end."""
        return DataPaths(self.lost / f"{first_revision:016x}-{last_revision:016x}-{chain[:4].hex()}")

    def being_fetched(self, number: int) -> Path:
        """Return the path under which a restore fetches a file or a segment before it has its place."""
        return self.restoring / f"{number}.part"

    def table_being_built(self, revision: int) -> Path:
        """Return the path of the table that a flush up to this revision builds."""
        return self.building / f"{revision:016x}.sst"

    def segment(self, name: SegmentName) -> Path:
        """Return the path of a segment."""
        return self.wal / f"{name.epoch_number:08x}-{name.first_revision:016x}.wal"

    def torn(self, segment: Path, offset: int) -> Path:
        """Return where the torn tail cut from a segment at an offset is kept."""
        return self.wal / f"{segment.name}.{offset:08x}.torn"

    def damaged(self, segment: Path, number: int) -> Path:
        """Return where a damaged segment is kept; ``number``: 1, 2 and so on, of those that had its name."""
        return self.wal / f"{segment.name}.{number}.damaged"

    def prepared(self, number: int) -> Path:
        """Return the path of a future segment."""
        return self.wal / f"prepared-{number}.tmp"

    def claim(self, epoch_number: int) -> Path:
        """Return the path of an epoch's claim."""
        return self.epochs / f"{epoch_number:08x}.claim"

    def branch(self, epoch_number: int) -> Path:
        """Return the path of an epoch's branch record."""
        return self.epochs / f"{epoch_number:08x}.branch"

    def begun(self, epoch_number: int) -> Path:
        """Return the path of the record that an epoch's first segment is durable."""
        return self.epochs / f"{epoch_number:08x}.begun"

    def epoch_temporary(self) -> Path:
        """Return the path under which a record of an epoch is written before it gets its name."""
        return self.epochs / "writing.tmp"


def parse_segment(name: str) -> SegmentName | None:
    """Return the parts of a segment's file name; None for any other name."""
    match = _SEGMENT.fullmatch(name)
    return SegmentName(int(match[1], 16), int(match[2], 16)) if match else None


def parse_claim(name: str) -> int | None:
    """Return the epoch number of a claim's file name; None for any other name."""
    match = _CLAIM.fullmatch(name)
    return int(match[1], 16) if match else None


def parse_base(name: str) -> int | None:
    """Return the revision in the name of a base's folder; None for any other name."""
    match = _BASE.fullmatch(name)
    return int(match[1], 16) if match else None


def is_prepared(name: str) -> bool:
    """Say whether this is the name of a future segment."""
    return _PREPARED.fullmatch(name) is not None


def is_torn(name: str) -> bool:
    """Say whether this is the name of a torn tail kept aside."""
    return _TORN.fullmatch(name) is not None


def is_damaged(name: str) -> bool:
    """Say whether this is the name of a damaged segment kept aside."""
    return _DAMAGED.fullmatch(name) is not None
