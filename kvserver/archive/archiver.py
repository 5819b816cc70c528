"""Archives sealed segments beside the write path: compressed and put in parallel, listed in order, oldest first.

    archiver          looks at the log, climbs the ladder (``backlog``), decides what comes next; never blocks on the store
    archive-upload-N  put a segment and read it back (``upload``)
    archive-manifest  finds out where the archive stands, lists what was put, closes older epochs (``continuation``)

A segment counts as archived when it was put, read back, and is listed behind everything before it. Only then the log may let
it go. What fails is tried again, and counts on the ladder for as long as it lasts, whatever else succeeds: the measure is what
is not archived, not how many attempts fail. A store that hangs holds up nothing but itself.

When another node has taken the archive over, the archiver stops for good and says so. The node goes on serving and keeps
its log, so the ladder goes on being climbed, up to the step that refuses writes.

Nothing is kept on disk beside the log: every start asks the archive where it stands.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from kvserver.archive.backlog import Backlog
from kvserver.archive.continuation import NOTHING, Continuation, Standing, unarchived
from kvserver.archive.crew import Crew, Done, Job, perform
from kvserver.archive.errors import ArchiveFenced, ArchiveOvertaken
from kvserver.archive.failures import Failures
from kvserver.archive.log_source import ArchiveFigures, ArchiverOptions, LogSource
from kvserver.archive.names import ArchiveNames
from kvserver.archive.rate_limit import RateLimiter
from kvserver.archive.records import ClusterRecord, Gap
from kvserver.archive.store import Store
from kvserver.archive.upload import Put, Uploader
from kvserver.base import failpoints
from kvserver.base.archive_events import ArchiveFencedOff, ArchiveGap, ArchiveNeedsBackup, SegmentArchived
from kvserver.base.environment import Environment
from kvserver.base.events import Listener
from kvserver.base.types import Position
from kvserver.wal.segment import SegmentInfo

__all__ = ["ArchiveFigures", "Archiver", "ArchiverOptions", "LogSource"]

POLL_S = 1.0
"""How often the log and its disk are looked at when nothing wakes the archiver."""

AHEAD = 32
"""So many segments are put before the oldest of them is listed: one that is stuck must not keep the others from safety."""

THE_ARCHIVER, THE_ARCHIVE, THE_MANIFEST = "the archiver", "the archive", "the manifest"


class _Stopped(Exception):
    """The archiver is ending; what was under way is left."""


class Archiver:
    """Archives one log into one archive. ``start`` it on threads of its own, or call ``run_once``."""

    def __init__(
        self,
        env: Environment,
        store_factory: Callable[[], Store],
        names: ArchiveNames,
        source: LogSource,
        options: ArchiverOptions,
        listener: Listener,
        node_name: str,
        cluster_record: ClusterRecord,
    ) -> None:
        """``store_factory`` is called where it may block, and again after it raised."""
        self._env = env
        self._store_factory = store_factory
        self._names = names
        self._source = source
        self._options = options
        self._listener = listener
        self._node_name = node_name
        self._cluster = cluster_record
        self._backlog = Backlog(env, source, options, listener)
        self._limiter = RateLimiter(env.clock, options.rate_bytes_per_s)
        self._failures = Failures(env, options.retry_ms, listener)
        self._changed = threading.Condition()
        self._woken = self._draining = self._stopped = False
        self._thread: threading.Thread | None = None
        self._uploads = Crew("archive-upload", options.hurry_workers, self.wake)
        self._manifests = Crew("archive-manifest", 1, self.wake)
        self._store: Store | None = None
        self._continuation: Continuation | None = None
        self._uploader: Uploader | None = None
        self._standing: Standing | None = None
        """None until the archive has said where it stands."""
        self._begin: Position | None = None
        self._untold: Position | None = None
        self._fenced: ArchiveFenced | None = None
        self._uploading: set[int] = set()
        self._put: dict[int, Put] = {}
        self._listing: set[int] = set()
        self._manifest_busy = False
        self._totals = (0, 0, 0)
        """Segments, raw bytes and stored bytes archived since the start."""
        self._archived_time_ms = 0

    # -- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to archive, on threads of its own."""
        self._uploads.start()
        self._manifests.start()
        self._thread = threading.Thread(target=self._run, name="archiver", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Look at the log now; to be called when a segment was sealed. Safe on any thread, and quick."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def hurry(self) -> int:
        """Try at once what has failed, and what is under way, should it fail; return a number to compare ``answer`` with."""
        with self._changed:
            ask = self._failures.ask()
        self.wake()
        return ask

    def stop(self, timeout_s: float) -> None:
        """End: archive what is sealed, if that does not fail and takes no longer than this, and leave the rest. Blocks."""
        self._draining = True
        self.wake()
        if self._thread is not None:
            self._thread.join(timeout_s)
        self._stopped = True
        self.wake()
        self._limiter.close()
        ended = [True]
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            ended = [crew.stop(timeout_s=0.2) for crew in (self._uploads, self._manifests)]
        if all(ended) and self._store is not None:  # who hangs in the store goes with the process, and the store with it
            self._store.close()

    def run_once(self) -> bool:
        """Do one turn and at most one job on this thread; say whether there was one. Only without ``start``."""
        self._look()
        job = self._next_job()
        if job is None:
            return False
        self._finish(perform(job))
        self._look()
        return True

    def _run(self) -> None:
        while not self._stopped:
            try:
                self._turn()
            except Exception as error:  # whatever it is, the thread must go on: the log waits for it
                self._failures.failed(THE_ARCHIVER, error)
            with self._changed:
                if self._draining and not self._manifest_busy and not self._uploading:
                    break
                if not self._woken:
                    self._env.clock.wait(self._changed, min(POLL_S, self._failures.rest_s() or POLL_S))
                self._woken = False
        self._stopped = True
        self.wake()

    def _turn(self) -> None:
        self._failures.begun(THE_ARCHIVER)
        for crew in (self._manifests, self._uploads):
            while crew.results:
                self._finish(crew.results.popleft())
        self._look()
        while (job := self._next_job()) is not None:
            (self._manifests if job.what in (THE_ARCHIVE, THE_MANIFEST) else self._uploads).do(job)
        self._failures.succeeded(THE_ARCHIVER)

    # -- asking ---------------------------------------------------------------------------------------------------

    def figures(self) -> ArchiveFigures:
        """Return how the archiver stands. Safe on any thread, and quick."""
        backlog, fenced = self._backlog, self._fenced
        segments, raw_bytes, stored_bytes = self._totals
        return ArchiveFigures(
            archived=self._archived(),
            unarchived_segments=len(backlog.segments),
            unarchived_bytes=backlog.size_bytes,
            oldest_unarchived_ms=backlog.age_ms(),
            step=backlog.pressure.step,
            pace_ms=backlog.pressure.pace_ms,
            error=self._failures.message,
            failures=self._failures.total,
            answer=self._failures.answer,
            fenced=fenced.what if fenced is not None else "",
            segments=segments,
            raw_bytes=raw_bytes,
            stored_bytes=stored_bytes,
            level=backlog.level,
            workers_busy=len(self._uploading),
            given_up_segments=backlog.given_up_segments,
            heard=self._standing is not None,
            archived_time_ms=self._archived_time_ms,
        )

    def _archived(self) -> Position | None:
        """Return the end of what is archived; where nothing is, and the log has sealed nothing yet, where the log begins."""
        standing = self._standing
        return None if standing is None else standing.archived or self._begin

    # -- what comes next ------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Look at the log, and forget what is no longer to be archived."""
        self._tell_log()
        # A start finds segments that are archived already; it must not refuse writes before the archive could say so.
        weighs = self._standing is not None or self._failures.total > 0 or self._fenced is not None
        try:
            self._backlog.look(self._standing or NOTHING, self._listing, weighs)
        except ArchiveFenced as error:
            self._fence(error)
        waiting = {info.header.segment_id: info.path.name for info in self._backlog.segments}
        self._put = {segment_id: put for segment_id, put in self._put.items() if segment_id in waiting}
        self._failures.forget_all_but({THE_ARCHIVER, THE_ARCHIVE, THE_MANIFEST, *waiting.values()})

    def _next_job(self) -> Job | None:
        """Return the next thing to do, and count it as under way; None where there is nothing that can be done now."""
        if self._fenced is not None or self._stopped:
            return None
        job = self._next_for_the_manifest() or self._next_upload()
        if job is not None:
            self._failures.begun(job.what)
        return job

    def _next_for_the_manifest(self) -> Job | None:
        continuation, standing = self._continuation, self._standing
        if self._manifest_busy:
            return None
        if continuation is None or standing is None:
            return self._manifest_job(THE_ARCHIVE, self._resume, self._resumed)
        if not self._failures.is_due(THE_MANIFEST):
            return None
        batch = self._ready()
        if batch:
            entries = [put.entry for put in batch]
            self._listing = {entry.segment_id for entry in entries}
            return self._manifest_job(THE_MANIFEST, lambda: continuation.append(entries), lambda gaps: self._listed(batch, gaps))
        if standing.unclosed is not None and all(info.header.epoch != standing.unclosed for info in self._backlog.segments):
            return self._manifest_job(THE_MANIFEST, continuation.close_older, self._closed)
        return None

    def _manifest_job(self, what: str, work: Callable[[], Any], done: Callable[[Any], None]) -> Job | None:
        if not self._failures.is_due(what):
            return None
        self._manifest_busy = True

        def ended() -> None:
            self._manifest_busy = False
            self._listing = set()

        return Job(what, work, done, ended)

    def _ready(self) -> list[Put]:
        """Return what was put of the oldest segments, up to the first one that was not, or before which some were given up."""
        found: list[Put] = []
        for info in self._backlog.segments:
            put = self._put.get(info.header.segment_id)
            if put is None:
                break
            if found and found[-1].info.header.segment_id != info.header.previous_segment_id:
                break
            found.append(put)
        return found

    def _next_upload(self) -> Job | None:
        if self._uploader is None or self._standing is None or len(self._uploading) >= self._backlog.workers:
            return None
        visible = self._source.visible_revision()
        for info in self._backlog.segments[:AHEAD]:
            if info.end.revision > visible:
                return None
            segment_id = info.header.segment_id
            if segment_id not in self._uploading and segment_id not in self._put and self._failures.is_due(info.path.name):
                return self._upload_job(self._uploader, info)
        return None

    def _upload_job(self, uploader: Uploader, info: SegmentInfo) -> Job:
        segment_id, level = info.header.segment_id, self._backlog.level
        self._uploading.add(segment_id)

        def done(put: Put) -> None:
            self._put[segment_id] = put

        return Job(info.path.name, lambda: uploader.upload(info, level), done, lambda: self._uploading.discard(segment_id))

    def _throttle(self, length: int) -> None:
        self._limiter.take(length)
        if self._stopped:
            raise _Stopped

    def _resume(self) -> Standing:
        """Find out where the archive stands; on the manifest's thread."""
        if self._store is None:
            self._store = self._store_factory()
        epochs, foreign = self._source.epochs(), self._source.foreign_epochs()
        line = Continuation(self._store, self._names, self._cluster, epochs, foreign, self._node_name, self._env.clock)
        self._continuation, standing = line, line.resume(self._source.sealed())
        self._uploader = Uploader(self._env, self._store, self._names, self._options, self._throttle)
        return standing

    # -- what came of it ------------------------------------------------------------------------------------------

    def _finish(self, done: Done) -> None:
        job, result = done
        job.ended()
        if isinstance(result, ArchiveOvertaken):
            self._continuation = None  # whoever was primary before still archives: see how far it has come
        elif isinstance(result, ArchiveFenced):
            self._fence(result)
        elif isinstance(result, Exception):
            if not isinstance(result, _Stopped):
                self._failures.failed(job.what, result)
        else:
            self._failures.succeeded(job.what)
            job.done(result)

    def _resumed(self, standing: Standing) -> None:
        """Let go of what was archived before the start, if the log itself shows that it is the same history."""
        sealed = self._source.sealed()
        try:
            unarchived(sealed, standing)
        except ArchiveFenced as error:
            self._fence(error)
            return
        self._begin = None if sealed else self._source.epochs()[-1][1]
        self._standing = standing
        if standing.archived is not None and sealed:
            self._advance(standing.archived)
        self.wake()

    def _listed(self, batch: Sequence[Put], gaps: Sequence[Gap]) -> None:
        assert self._continuation is not None and self._store is not None and self._standing is not None
        failpoints.hit("archive.after_manifest")
        before, self._standing = self._standing, self._continuation.standing
        for put in batch:
            entry, (segments, raw_bytes, stored_bytes) = put.entry, self._totals
            self._totals = (segments + 1, raw_bytes + entry.raw_length, stored_bytes + entry.stored_length)
            self._archived_time_ms = entry.last_time_ms
            self._listener(
                SegmentArchived(put.info.path.name, entry.end.revision, entry.raw_length, entry.stored_length, put.seconds)
            )
        begin = batch[0].entry.previous
        if before.archived is None and self._continuation.needs_backup(begin):
            self._listener(ArchiveNeedsBackup(begin.revision, self._store.url))
        elif before.archived is not None:
            self._tell_gaps(gaps)
        self._advance(batch[-1].entry.end)

    def _closed(self, gaps: Sequence[Gap]) -> None:
        assert self._continuation is not None
        self._standing = self._continuation.standing
        self._tell_gaps(gaps)

    def _tell_gaps(self, gaps: Sequence[Gap]) -> None:
        """Tell of gaps, but for those that were told of when the segments were given up."""
        for gap in gaps:
            if gap.last_revision > self._backlog.given_up_revision:
                reason = "the log does not hold them any more: it was not archived for a while"
                self._listener(ArchiveGap(gap.after.revision, gap.first_revision, gap.last_revision, reason))

    def _advance(self, position: Position) -> None:
        """Tell the log, and those who wait, how far the archive is."""
        self._untold = position
        self._tell_log()
        failpoints.hit("archive.after_mark")
        self.wake()

    def _tell_log(self) -> None:
        """Tell the log, once it shows that much: a new primary may still wait for what another one has shown and archived."""
        position = self._untold
        if position is not None and position.revision <= self._source.visible_revision():
            self._untold = None
            self._source.on_archived(position)

    def _fence(self, error: ArchiveFenced) -> None:
        """Archive nothing any more."""
        if self._fenced is None:
            self._fenced = error
            self._listener(ArchiveFencedOff(error.what))
            self.wake()
