"""A restore that is killed anywhere, or loses power anywhere: it is no store until the same command has gone on with it."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kvserver.archive.catalog import read_catalog
from kvserver.archive.folder_store import FolderStore
from kvserver.archive.records import ClusterRecord, encode_cluster
from kvserver.archive.restore import RestoreOptions, restore
from kvserver.archive.store import StoreError
from kvserver.base import failpoints
from kvserver.base.environment import Environment
from kvserver.base.errors import OpenRefused
from kvserver.base.fs import FileSystem, OsFileSystem
from kvserver.base.limits import MIB
from kvserver.base.paths import DataPaths
from kvserver.commit.requests import CreateNamespace, Delete, Put
from kvserver.storage.content_hash import content_hash
from kvserver.storage.rocks import open_reader
from support.archived_store import ArchivedStore, all_of, twin_options
from support.crashes import record_crash_points, sampled_states
from support.fault_store import FaultStore, StoreFault, failing_store_calls
from support.faultfs import ProcessKilled
from support.memfs import MemoryFileSystem
from support.memory_store import MemoryStore
from support.stores import open_store

TARGET = Path("/restored/it")
PATHS = DataPaths(TARGET)
NAMES = [name for name in failpoints.ARCHIVE_NAMES if name.startswith("restore.")]


def made() -> ArchivedStore:
    """A store of two epochs with a backup in the first, archived; its revision 9 lies inside a frame."""
    kept = ArchivedStore()
    kept.group(Put(1, b"a", b"1"), Put(1, b"b", b"2"))
    kept.group(CreateNamespace("team"))
    kept.backup()
    kept.group(Put(2, b"t", b"5"))
    kept.restart()
    kept.group(Delete(1, b"a"))
    kept.seal()
    kept.group(Put(1, b"c", b"6"), Put(1, b"c", b"7"), Put(1, b"d", b"8"), Put(1, b"d", b"9"))
    kept.archive()
    assert kept.plan(9).position is None
    return kept


@pytest.fixture(scope="module")
def kept() -> ArchivedStore:
    """The archive is not changed by any of it, unless the test says so."""
    return made()


@pytest.fixture(scope="module")
def expected(kept: ArchivedStore) -> Any:
    copy = kept.restored(9)
    return all_of(copy), content_hash(copy._tables)


def run(kept: ArchivedStore, fs: FileSystem, take_over: bool = False) -> Any:
    env = dataclasses.replace(kept.env, fs=fs)
    return restore(env, kept.store, kept.plan(9), TARGET, twin_options(fs, job_bytes=30, take_over=take_over))


def killed_at(kept: ArchivedStore, fs: MemoryFileSystem, name: str, passage: int, take_over: bool = False) -> bool:
    """Kill a restore at the n-th passage of a place; say whether it came there."""
    process = fs.another_process()
    passages = 0

    def kill() -> None:
        nonlocal passages
        passages += 1
        if passages == passage:
            process.kill(for_good=True)  # no ``finally`` reaches the disk any more
            raise ProcessKilled

    failpoints.arm(name, kill)
    with contextlib.suppress(BaseException):
        run(kept, process, take_over)
    failpoints.disarm_all()
    return passages >= passage


def check(fs: MemoryFileSystem, expected: Any, position: Any) -> None:
    """Check what opens."""
    copy = open_store(fs, paths=PATHS, seed=77)
    assert all_of(copy) == expected[0]
    assert content_hash(copy._tables) == expected[1]
    assert position == expected[1].position
    copy.close()


@pytest.mark.parametrize("name", NAMES)
def test_killed_at_any_passage_of_any_place_it_goes_on(kept: ArchivedStore, expected: Any, name: str) -> None:
    passage = 1
    while True:
        fs = MemoryFileSystem()
        if not killed_at(kept, fs, name, passage):
            break
        with pytest.raises(OpenRefused, match="did not end"):
            open_store(fs, paths=PATHS)
        done = run(kept, fs)
        check(fs, expected, done.position)
        passage += 1
    assert passage > 1, "no restore came there"


def test_killed_again_and_again_it_comes_to_its_end(kept: ArchivedStore, expected: Any) -> None:
    fs = MemoryFileSystem()
    for name in NAMES:
        assert killed_at(kept, fs, name, 1), name
    check(fs, expected, run(kept, fs).position)


def test_however_the_power_fails_it_goes_on(kept: ArchivedStore, expected: Any) -> None:
    """At each change of the disk, as it is then and as a loss of power leaves it."""
    points = record_crash_points(MemoryFileSystem(), lambda fs: run(kept, fs))
    assert len(points) > 60
    rng = random.Random(5)
    opened = 0
    for number, point in enumerate(points):
        states = [state.disk for state in sampled_states(point.disk, rng, 0)][: 1 + number % 2]
        for disk in [*states, *([point.disk] if number % 3 == 0 or number > len(points) - 4 else [])]:
            disk.kill()
            try:
                copy = open_store(disk.clone(), paths=PATHS, seed=5)
            except OpenRefused:
                check(disk, expected, run(kept, disk).position)
                continue
            if copy.marks.visible == 1:  # nothing was begun yet: it is a new folder
                assert not disk.exists(PATHS.tables)
                continue
            assert all_of(copy) == expected[0]
            opened += 1
    assert opened, "the last point is a whole store"


@pytest.mark.parametrize("fault", [StoreFault(), StoreFault(kills=True)], ids=["fails", "killed"])
def test_a_store_that_vanishes_at_any_call_is_gone_on_with(expected: Any, kept: ArchivedStore, fault: StoreFault) -> None:
    inner, plan = kept.store, kept.plan(9)
    assert isinstance(inner, MemoryStore)
    failures = 0
    for store in failing_store_calls(inner.copy, fault):
        fs = MemoryFileSystem()
        env = dataclasses.replace(kept.env, fs=fs)
        try:
            restore(env, store, plan, TARGET, twin_options(fs, job_bytes=30))
        except (StoreError, ProcessKilled):
            failures += 1
            store.heal()
            store.dead = False
            fs.kill()
            check(fs, expected, restore(env, store, plan, TARGET, twin_options(fs, job_bytes=30)).position)
    assert failures > 6


def test_a_process_that_died_during_taking_over_goes_on_and_takes_over_once() -> None:
    for name in ("restore.after_origin", "restore.after_cleared"):
        kept = made()
        fs = MemoryFileSystem()
        assert killed_at(kept, fs, name, 1, take_over=True)
        run(kept, fs, take_over=True)
        closings = [part.closing for part in read_catalog(kept.store, kept.cluster_id).epochs]
        assert closings[-1] is not None
        copy = open_store(fs, paths=PATHS, seed=77)
        assert copy.identity.cluster_id == kept.cluster_id
        assert copy.history.current.number == closings[-1].by.number + 1
        copy.close()


@pytest.mark.parametrize("fault", [StoreFault(), StoreFault(performed=True), StoreFault(kills=True)])
def test_a_store_that_fails_while_it_is_taken_over(fault: StoreFault) -> None:
    original = made()
    inner = original.store
    assert isinstance(inner, MemoryStore)
    plan = original.plan(9)
    failures = 0
    for store in failing_store_calls(inner.copy, fault):
        fs = MemoryFileSystem()
        env = dataclasses.replace(original.env, fs=fs)
        options = twin_options(fs, take_over=True)
        try:
            restore(env, store, plan, TARGET, options)
        except (StoreError, ProcessKilled):
            failures += 1
            store.heal()
            store.dead = False
            fs.kill()
            restore(env, store, plan, TARGET, options)
        original.store = store.inner
        closing = read_catalog(original.store, original.cluster_id).epochs[-1].closing
        assert closing is not None
        copy = open_store(fs, paths=PATHS, seed=77)
        assert copy.history.current.number == closing.by.number + 1
        copy.close()
    assert failures > 6
    assert isinstance(store, FaultStore)


CHILD = """
import sys
from pathlib import Path
from kvserver.archive.folder_store import FolderStore
from kvserver.archive.plan import RestoreTarget, make_plan
from kvserver.archive.records import ClusterRecord, encode_cluster
from kvserver.archive.restore import RestoreOptions, restore
from kvserver.base import failpoints
from kvserver.base.environment import Environment
root, cluster, armed = Path(sys.argv[1]), bytes.fromhex(sys.argv[2]), sys.argv[3]
env = Environment()
store = FolderStore(env.fs, root / "archive")
failpoints.arm_from_text(armed)
plan = make_plan(store, cluster, RestoreTarget(revision=900))
restore(env, store, plan, root / "restored", RestoreOptions(job_bytes=40_000, workers=2))
"""


def test_a_process_with_real_tables_that_is_killed_goes_on(tmp_path: Path) -> None:
    kept = ArchivedStore()
    kept.store = FolderStore(OsFileSystem(), tmp_path / "archive")
    kept.store.create(kept.names.cluster, [encode_cluster(ClusterRecord(kept.cluster_id, b"", None, "n", 0))])
    for number in range(30):
        kept.group(*(Put(1, b"%d-%d" % (number % 7, key), bytes(100)) for key in range(40)))
        kept.seal()
    kept.archive()
    arguments = [sys.executable, "-c", CHILD, str(tmp_path), kept.cluster_id.hex()]
    for armed in ("restore.after_segment=kill@9", "restore.after_table=kill@2", "restore.after_ingest=kill@2"):
        found = subprocess.run([*arguments, armed], check=False, capture_output=True)
        assert found.returncode == -9, found.stderr.decode()
    store = FolderStore(OsFileSystem(), tmp_path / "archive")
    done = restore(Environment(), store, kept.plan(900), tmp_path / "restored", RestoreOptions())
    assert done.raw_bytes < kept.plan(900).raw_bytes / 2, "most of it was there"
    reader = open_reader(tmp_path / "restored" / "tables", MIB)
    assert content_hash(reader).sha256 == content_hash(kept.restored(900)._tables).sha256
    reader.close()
