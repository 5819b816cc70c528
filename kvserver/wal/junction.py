"""Where the log meets the tables: which cases there are, and what is taken from the log in each.

Tables hold the beginning of history, and the log's oldest segments may be gone. Two facts are proven at every start: that
nothing is missing between the tables' position and the end of the log, and that the log passes exactly through that
position, chain and all. The table of cases stands in ``docs/durability.md``, and the tests walk it.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from pathlib import Path

from kvserver.base.errors import Corruption
from kvserver.base.paths import SegmentName
from kvserver.base.types import Position
from kvserver.wal.reader import Frame, SegmentReader


class Fit(enum.Enum):
    """How log and tables lie to each other."""

    NO_TABLES = "no tables: the log is the whole store"
    NO_LOG = "tables, and no segment: a checkpoint that is opened for the first time"
    MEETS = "the log begins at or before the tables' end, passes through it, and ends at or behind it"
    GAP = "the log begins behind the tables' end"
    SHORT = "the log ends before the tables do"
    STRADDLES = "the tables end inside a frame"
    FOREIGN = "the log comes to the tables' last revision by another history"


class Take(enum.Enum):
    """What is taken from the log."""

    ALL = "every group"
    NEWER = "the groups behind the tables' end"
    NOTHING = "nothing: history goes on from the tables' end"
    REFUSE = "refuse to open: CORRUPTION"


TAKES = {
    Fit.NO_TABLES: Take.ALL,
    Fit.NO_LOG: Take.NOTHING,
    Fit.MEETS: Take.NEWER,
    Fit.GAP: Take.REFUSE,
    Fit.SHORT: Take.REFUSE,
    Fit.STRADDLES: Take.REFUSE,
    Fit.FOREIGN: Take.REFUSE,
}

RESTORE_HINT = "put back what is missing in wal/, or take wal/, epochs/ and tables/ from copies of one moment"


class Junction:
    """Watches a walk over the log, oldest frame first, and refuses what does not fit to the tables.

    One revision can have several positions: every epoch begins with a chain of its own, also where nothing was written in the
    one before it. So the tables' position counts as met when the log passes through exactly it, not through its revision.
    """

    def __init__(self, base: Position | None) -> None:
        """Watch for ``base``, the position that the tables hold; None where there are none, and then everything fits."""
        self.base = base
        self.met = False

    def first_needed(self, names: Sequence[SegmentName]) -> int:
        """Return the index of the first segment that is needed: the tables hold all before it. 0 without tables.

        Of several that begin right behind the tables' end it is the last one: the others hold no commit.
        """
        index = 0
        if self.base is not None:
            while index + 1 < len(names) and names[index + 1].first_revision <= self.base.revision + 1:
                index += 1
        return index

    def begin(self, reader: SegmentReader) -> None:
        """Begin at a segment of which what is before it is not known, and check that this may be. Raises Corruption."""
        first, base = reader.header.first_revision, self.base
        self.met = reader.header.previous == base
        if base is not None and first > base.revision + 1:
            what = f"the log begins at revision {first}, but the tables end at {base.revision}: segments are missing"
            _settle(Fit.GAP, reader.path, 0, what)

    def see(self, position: Position) -> None:
        """Note a position that the log passes through."""
        self.met = self.met or position == self.base

    def takes(self, reader: SegmentReader, frame: Frame) -> bool:
        """Say whether a frame, the last one that was read, is behind the tables. Raises Corruption."""
        self.see(reader.position)
        base, header = self.base, frame.header
        if base is None:
            return True
        if header.last_revision <= base.revision:
            return False
        if header.first_revision <= base.revision:
            where = (
                f"the tables end at revision {base.revision}, inside revisions {header.first_revision} to {header.last_revision}"
            )
            _settle(Fit.STRADDLES, reader.path, frame.offset, f"the log and the tables are of different histories: {where}")
        self._check_met(reader.path, frame.offset)
        return True

    def check_end(self, reader: SegmentReader) -> None:
        """Check the end of the last segment, before anything of it is cut. Raises Corruption."""
        end, base = reader.revision, self.base
        if base is not None and end < base.revision:
            what = f"the log ends at revision {end}, but the tables end at {base.revision}: its newest part is missing"
            _settle(Fit.SHORT, reader.path, reader.offset, what)
        self._check_met(reader.path, reader.offset)

    def _check_met(self, path: Path, offset: int) -> None:
        if self.base is not None and not self.met:
            what = f"the log does not pass through revision {self.base.revision} as the tables have it"
            _settle(Fit.FOREIGN, path, offset, f"the log and the tables are of different histories: {what}")


def _settle(fit: Fit, path: Path, offset: int, what: str) -> None:
    """Do what the table says about a case. Raises Corruption."""
    if TAKES[fit] is Take.REFUSE:
        raise Corruption(path, offset, what, RESTORE_HINT)
