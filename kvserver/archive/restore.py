"""Restores a store from its archive, as far as a plan says, into a folder of its own.

    1  record      says what is being restored: from now on the folder is no store, and the same command goes on with it
    2  base        the files of the backup, each checked before it gets its name
    3  log         segments fetched ahead, checked, and built into tables, as flushes would have done
    4  origin      which store this is a copy of, and where it stands; now the folder is whole
    5  take over   only where that is asked for
    6  clear       what was fetched and not needed any more; the record last

A crash after any of them leaves a folder that the same command goes on with. The result is a copy, as a checkpoint is: a server
that opens it makes a store of its own of it, a fork.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from kvserver.archive.catalog import read_cluster
from kvserver.archive.lineage import creation
from kvserver.archive.plan import RestorePlan
from kvserver.archive.plan_record import plan_fields, plan_of
from kvserver.archive.records import BackupRecord, SegmentEntry
from kvserver.archive.restore_files import BaseFiles
from kvserver.archive.restore_log import FetchedLog, parts_behind
from kvserver.archive.restore_tables import JOB_BYTES, OpenTables, Standing, TableJobs, standing_of
from kvserver.archive.restore_target import require_same, require_space, room_bytes, target_folder
from kvserver.archive.store import ObjectMissing, Store
from kvserver.archive.take_over import NewNode, check_take_over, take_over
from kvserver.base import failpoints
from kvserver.base.environment import Environment
from kvserver.base.errors import Corruption
from kvserver.base.fs import remove_tree
from kvserver.base.limits import MIB
from kvserver.base.paths import DataPaths
from kvserver.base.types import Position
from kvserver.storage.origin import Origin, read_origin, write_origin
from kvserver.storage.restore_record import (
    RestoreRecord,
    create_restore_record,
    read_restore_record,
    remove_restore_record,
    replace_restore_record,
)
from kvserver.storage.tables import TableReader, Tables

WORKERS = 4
AHEAD_BYTES = 256 * MIB
_CACHE_BYTES = 64 * MIB
_MERGE_AT_FILES = 20
"""Rarer than a server does, which goes on merging: tables come as fast as they are built, and few of their rows are looked up."""
_AGAIN = "remove the folder, and restore again into a new one"


@dataclasses.dataclass(frozen=True, slots=True)
class RestoreOptions:
    """How a restore is carried out."""

    workers: int = WORKERS
    """So many files or segments are fetched at once."""
    take_over: bool = False
    """The result is the old cluster itself, not a fork of it."""
    node: NewNode | None = None
    """The node that takes over; needed where that is asked for."""
    ahead_bytes: int = AHEAD_BYTES
    """Segments may take so much room in the folder before they are in tables; one more than that, if it is larger."""
    job_bytes: int = JOB_BYTES
    check_space: bool = True
    """Refuse a disk that may be too small. How small the tables become is only known afterwards."""
    own_process: bool = False
    """The process does nothing else: Python's search for circles, of which there are none, may rest."""
    open_tables: OpenTables | None = None
    """How tables are opened; None: RocksDB."""


class RestoreProgress(NamedTuple):
    """How far a restore is."""

    stage: Literal["base", "log", "end"]
    base_bytes: int
    base_bytes_done: int
    raw_bytes: int
    """Of the log."""
    raw_bytes_done: int
    revision: int
    """What the tables hold."""

    @property
    def bytes_done(self) -> int:
        """Return the bytes of this stage that were gone through."""
        return self.base_bytes_done if self.stage == "base" else self.raw_bytes_done

    @property
    def total_bytes(self) -> int:
        """Return the bytes of this stage."""
        return self.base_bytes if self.stage == "base" else self.raw_bytes


class RestoreDone(NamedTuple):
    """A folder was restored."""

    position: Position
    cluster_id: bytes
    """The cluster that the tables name: the folder is a copy of its state."""
    base_bytes: int
    raw_bytes: int
    """Of the log that this run went through."""
    tables: int
    """Built by this run."""
    base_seconds: float
    log_seconds: float
    seconds: float

    @property
    def revision(self) -> int:
        """Return the revision that was restored."""
        return self.position.revision


OnProgress = Callable[[RestoreProgress], None]
"""Called on any thread, one call at a time. What it raises ends the restore, which may be gone on with."""


def restore(
    env: Environment,
    store: Store,
    plan: RestorePlan,
    target: Path,
    options: RestoreOptions | None = None,
    progress: OnProgress = lambda progress: None,
) -> RestoreDone:
    """Carry out a plan in a folder that does not exist yet, is empty, or holds the same restore, begun before.

    Blocks. Raises InvalidRequest (TARGET_UNUSABLE), Refused (DISK_FULL), Corruption, StoreError, and RevisionError
    (NO_RESTORE_PLAN) where the archive has lost what was planned.
    """
    options = options or RestoreOptions()
    if options.take_over and options.node is None:
        raise ValueError("who takes over has to be said")
    if options.take_over:
        check_take_over(store, plan.cluster_id, plan.revision)
    with target_folder(env, store.url, target) as paths, _collector_resting(options.own_process):
        return _Restore(env, store, plan, paths, options, progress).run()


class _Restore:
    """One run of the steps."""

    def __init__(
        self, env: Environment, store: Store, plan: RestorePlan, paths: DataPaths, options: RestoreOptions, progress: OnProgress
    ) -> None:
        self._env = env
        self._store = store
        self._plan = plan
        self._paths = paths
        self._options = options
        self._progress = progress
        self._so_far = RestoreProgress("base", 0, 0, 0, 0, 0)
        self._telling = threading.Lock()
        self._tables_built = 0
        self._read_bytes = 0

    def run(self) -> RestoreDone:
        """Carry the steps out."""
        clock, paths = self._env.clock, self._paths
        begun = base_done = log_done = clock.monotonic()
        record = self._begin()
        failpoints.hit("restore.after_plan")
        self._tell(base_bytes=self._plan.base_bytes, raw_bytes=self._plan.raw_bytes)
        remove_tree(self._env.fs, paths.restoring)
        origin = read_origin(self._env, paths)
        if origin is None:
            self._fetch_base(record)
            base_done = clock.monotonic()
            standing = self._add_log()
            log_done = clock.monotonic()
            origin = self._write_origin(standing)
        failpoints.hit("restore.after_origin")
        self._tell(stage="end", revision=origin.position.revision)
        if self._options.node is not None and self._options.take_over:
            take_over(self._env, self._store, paths, self._plan.cluster_id, origin.position, self._options.node)
        remove_tree(self._env.fs, paths.restoring)
        failpoints.hit("restore.after_cleared")
        remove_restore_record(self._env, paths)
        return RestoreDone(
            position=origin.position,
            cluster_id=origin.cluster_id,
            base_bytes=self._plan.base_bytes,
            raw_bytes=self._read_bytes,
            tables=self._tables_built,
            base_seconds=base_done - begun,
            log_seconds=log_done - base_done,
            seconds=clock.monotonic() - begun,
        )

    # -- 1: record ------------------------------------------------------------------------------------------------

    def _begin(self) -> RestoreRecord:
        """Return the record of this restore: written now, or by the run that this one goes on with, whose plan holds then."""
        env, plan, paths = self._env, self._plan, self._paths
        wanted = RestoreRecord(
            archive_url=self._store.url,
            cluster_id=plan.cluster_id,
            revision=plan.revision,
            take_over=self._options.take_over,
            target=str(paths.root),
            base_done=plan.base is None,
            begun_ms=env.clock.now_ms(),
            plan=plan_fields(plan),
        )
        found = read_restore_record(env, paths)
        if found is None:
            self._require_space()
            create_restore_record(env, paths, wanted)
            return wanted
        try:
            begun = plan_of(found.plan)
        except (ValueError, KeyError, TypeError, Corruption) as error:
            raise Corruption(paths.restore, 0, f"the plan in it does not check: {error}", _AGAIN) from error
        require_same(paths, found, wanted, begun.target == plan.target)
        self._plan = begun
        return found

    def _require_space(self) -> None:
        plan, options = self._plan, self._options
        if options.check_space:
            require_space(self._env, self._paths.root, room_bytes(plan.base_bytes, plan.raw_bytes, options.ahead_bytes))

    # -- 2: base --------------------------------------------------------------------------------------------------

    def _fetch_base(self, record: RestoreRecord) -> None:
        base = self._plan.base
        if base is not None and not record.base_done:

            def note(length: int) -> None:
                self._tell(base_bytes_done=self._so_far.base_bytes_done + length)

            with _naming_other_bases(base):
                BaseFiles(self._env, self._store, self._paths, base).fetch(self._options.workers, note)
                self._check_base(base)
            replace_restore_record(self._env, self._paths, record._replace(base_done=True))
        self._tell(stage="log", base_bytes_done=self._plan.base_bytes)
        failpoints.hit("restore.after_base")

    def _check_base(self, base: BackupRecord) -> None:
        """Check that the files are of the moment that their record says. Raises Corruption, OSError."""
        with contextlib.closing(self._open_reader()) as tables:
            standing = standing_of(tables, self._paths, base.owner_id, base.position)
        if (standing.cluster_id, standing.position) != (base.owner_id, base.position):
            raise self._corruption("the files of the backup are of another moment than its record says")

    def _open_reader(self) -> TableReader:
        if self._options.open_tables is not None:
            return self._options.open_tables(self._paths.tables)
        from kvserver.storage.rocks import open_reader

        return open_reader(self._paths.tables, _CACHE_BYTES)

    # -- 3: log ---------------------------------------------------------------------------------------------------

    def _add_log(self) -> Standing:
        """Add the log to the base; return where the tables are then."""
        with contextlib.closing(self._open_tables()) as tables:
            begin = self._standing(tables)
            plan, options = self._plan, self._options
            parts = parts_behind(plan.legs, begin.position, plan.revision)
            ahead_bytes = sum(part.entry.raw_length for part in parts)
            self._tell(raw_bytes_done=plan.raw_bytes - ahead_bytes, revision=begin.position.revision)
            if begin.position.revision == plan.revision:
                return begin
            jobs = TableJobs(self._env, self._paths, tables, options.job_bytes)
            log = FetchedLog(self._env, self._store, self._paths, parts, options.workers, options.ahead_bytes)
            with (
                contextlib.closing(log),
                contextlib.closing(log.groups(begin.position, plan.revision, self._on_segment)) as groups,
            ):
                end = jobs.run(begin, groups, self._on_table)
            if plan.position is not None and end.position != plan.position:
                raise self._corruption("the log leads to another position than was planned")
            return end

    def _open_tables(self) -> Tables:
        if self._options.open_tables is not None:
            return self._options.open_tables(self._paths.tables)
        from kvserver.storage.rocks import RocksTables

        return RocksTables.open(self._paths.tables, _CACHE_BYTES, _MERGE_AT_FILES)

    def _standing(self, tables: Tables) -> Standing:
        """Return where the tables are, and check that a restore of this plan may have left them there. Raises Corruption."""
        plan, base = self._plan, self._plan.base
        if base is not None:
            first, owner = base.position, base.owner_id
        else:
            owner = plan.legs[0].cluster_id if plan.legs else plan.cluster_id
            first = creation(owner)
        standing = standing_of(tables, self._paths, owner, first)
        if not first.revision <= standing.position.revision <= plan.revision:
            raise self._corruption(f"the tables are at revision {standing.position.revision}")
        return standing

    def _on_segment(self, entry: SegmentEntry) -> None:
        self._read_bytes += entry.raw_length
        self._tell(more_raw_bytes=entry.raw_length)

    def _on_table(self, position: Position) -> None:
        self._tables_built += 1
        self._tell(revision=position.revision)

    # -- 4: origin ------------------------------------------------------------------------------------------------

    def _write_origin(self, standing: Standing) -> Origin:
        position = standing.position
        epochs = [one for one in self._plan.epochs if one[0].number <= position.epoch.number]
        origin = Origin(standing.cluster_id, self._node_name(), position, epochs, self._env.clock.now_ms())
        write_origin(self._env, self._paths, origin)
        return origin

    def _node_name(self) -> str:
        if self._plan.base is not None:
            return self._plan.base.node_name
        try:
            return read_cluster(self._store, self._plan.cluster_id).node_name
        except (Corruption, ObjectMissing):  # it names no more than who it was
            return ""

    def _tell(self, more_raw_bytes: int = 0, **changed: int | str) -> None:
        with self._telling:
            done = self._so_far.raw_bytes_done + more_raw_bytes
            self._so_far = self._so_far._replace(**{"raw_bytes_done": done, **changed})  # type: ignore[arg-type]
            self._progress(self._so_far)

    def _corruption(self, what: str) -> Corruption:
        return Corruption(self._paths.tables, 0, what, _AGAIN)


@contextlib.contextmanager
def _naming_other_bases(base: BackupRecord) -> Iterator[None]:
    """Say of a backup that is not whole that another one may do, or the log alone."""
    try:
        yield
    except (Corruption, ObjectMissing) as error:
        error.hint = (
            "put the object back from a copy of the archive and run the same command again; or restore into another folder, "
            f"with an older backup: add --without-backup {base.id} (kvctl archive verify names all that are damaged)"
        )
        raise


@contextlib.contextmanager
def _collector_resting(rest: bool) -> Iterator[None]:
    """Keep the search for circles from walking the hundreds of thousands of tuples of a build, again and again."""
    if not rest or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
