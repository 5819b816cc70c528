"""What is sealed and not archived, and what follows from how much that is.

Counts from the first segment that is not archived, whatever lies in the archive behind it: one segment that is stuck shows
as what it is, a log that grows.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence

from kvserver.archive.continuation import Standing, unarchived, without_holes
from kvserver.archive.errors import ArchiveFenced
from kvserver.archive.log_source import ArchiverOptions, LogSource
from kvserver.archive.pressure import Ladder, Pressure, Step
from kvserver.base.archive_events import ArchiveGap, ArchivePressureChanged
from kvserver.base.environment import Environment
from kvserver.base.events import Listener
from kvserver.base.fs import opened
from kvserver.base.types import Position
from kvserver.wal import format as fmt
from kvserver.wal.segment import SegmentInfo

FAST_LEVEL = 1
"""Of zstd, while the archiver is behind."""


class Backlog:
    """The segments that wait for the archiver, and the ladder. Belongs to the archiver's thread."""

    def __init__(self, env: Environment, source: LogSource, options: ArchiverOptions, listener: Listener) -> None:
        self._env = env
        self._source = source
        self._options = options
        self._listener = listener
        self._ladder = Ladder(options.queue_bytes, options.on_full)
        self.segments: list[SegmentInfo] = []
        """Oldest first. Only replaced, never changed: it may be read on any thread."""
        self.given_up_segments = 0
        self.given_up_revision = 0
        """The last one that was given up, and told of."""
        self._given_up: set[int] = set()
        self._let_go: Position | None = None
        """Up to where the log was told that it may go without being archived."""
        self._oldest: tuple[int, int] = (0, 0)
        """Which segment is the oldest, and the time of its first commit."""

    @property
    def pressure(self) -> Pressure:
        """Return on which step of the ladder the archiver stands."""
        return self._ladder.pressure

    @property
    def workers(self) -> int:
        """Return how many segments may be put at the same time."""
        return self._options.hurry_workers if self.pressure.step >= Step.HURRYING else self._options.workers

    @property
    def level(self) -> int:
        """Return at which level the next segment is compressed."""
        level = self._options.level
        return min(level, FAST_LEVEL) if self.pressure.step >= Step.HURRYING else level

    @property
    def size_bytes(self) -> int:
        """Return the bytes of what waits."""
        return sum(info.length_bytes for info in self.segments)

    def age_ms(self) -> int:
        """Return for how long the oldest commit has been waiting; 0 where nothing waits."""
        began_ms = self._oldest[1]
        return max(0, self._env.clock.now_ms() - began_ms) if self.segments and began_ms else 0

    def look(self, standing: Standing, kept: Collection[int], weighs: bool) -> None:
        """Look at the log and, if it ``weighs``, take or leave steps of the ladder, and give segments up for that.

        ``standing``: where the archive ends, as far as is known. ``kept``: ids of segments that are just being listed.
        Raises ArchiveFenced, after counting the whole log, where the archive holds another history.
        """
        sealed = self._source.sealed()
        fenced: ArchiveFenced | None = None
        try:
            lacking = unarchived(sealed, standing)
        except ArchiveFenced as error:
            lacking, fenced = without_holes(sealed), error
        self._given_up &= {info.header.segment_id for info in sealed}
        self.segments = [info for info in lacking if info.header.segment_id not in self._given_up]
        if self.segments and self.segments[0].header.segment_id != self._oldest[0]:
            self._oldest = (self.segments[0].header.segment_id, self._first_commit_ms(self.segments[0]))
        if weighs:
            self._weigh(kept)
        self._let_log_go(lacking)
        if fenced is not None:
            raise fenced

    def _first_commit_ms(self, info: SegmentInfo) -> int:
        """Return the time of a segment's first frame: when it was created says nothing about how long a commit waits."""
        try:
            with opened(self._env.fs.open(info.path)) as file:
                frame = fmt.parse_frame_header(file.pread(fmt.FRAME_HEADER_LENGTH, fmt.SEGMENT_HEADER_LENGTH), 0)
        except OSError:  # whoever archives it will say so
            frame = None
        return info.header.created_ms if frame is None else frame.time_ms

    def _weigh(self, kept: Collection[int]) -> None:
        size_bytes = self.size_bytes
        try:
            free_bytes: int | None = self._source.free_bytes()
        except OSError:
            free_bytes = None
        before = self.pressure
        pressure = self._ladder.weigh(size_bytes, free_bytes)
        if pressure != before:
            self._source.on_pressure(*pressure)
        if pressure.step is not before.step:
            free = -1 if free_bytes is None else free_bytes
            self._listener(ArchivePressureChanged(pressure.step.name, before.step.name, size_bytes, free))
        self._give_up(self._ladder.excess_bytes(size_bytes, free_bytes), kept)

    def _give_up(self, excess_bytes: int, kept: Collection[int]) -> None:
        """Leave the oldest segments out of the archive, and tell."""
        given: list[SegmentInfo] = []
        for info in self.segments:
            if excess_bytes <= 0:
                break
            if info.header.segment_id not in kept:
                given.append(info)
                excess_bytes -= info.length_bytes
        if given:
            self._given_up |= {info.header.segment_id for info in given}
            self.segments = [info for info in self.segments if info.header.segment_id not in self._given_up]
            self.given_up_segments += len(given)
            after, last = given[0].header.previous.revision, given[-1].end.revision
            self.given_up_revision = max(self.given_up_revision, last)
            reason = "the queue was full, and the policy says that writes go on"
            self._listener(ArchiveGap(after, after + 1, last, reason))

    def _let_log_go(self, lacking: Sequence[SegmentInfo]) -> None:
        """Let the log go up to the first segment that still waits: what is just being listed lies before what was given up."""
        given = list(itertools.takewhile(lambda info: info.header.segment_id in self._given_up, lacking))
        if given and given[-1].end != self._let_go:
            self._let_go = given[-1].end
            self._source.on_given_up(given[-1].end)
