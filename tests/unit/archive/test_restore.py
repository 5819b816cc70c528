"""A restore: what it leaves, what it goes on with, how much room it takes, and which folders it refuses."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import pytest

from kvserver.archive.lineage import creation
from kvserver.archive.names import parse_segment
from kvserver.archive.plan import RestoreTarget, make_plan
from kvserver.archive.restore import RestoreOptions, RestoreProgress, restore
from kvserver.archive.restore_log import parts_behind
from kvserver.base.environment import Environment
from kvserver.base.limits import MIB
from kvserver.base.paths import DataPaths
from kvserver.base.types import Position
from kvserver.commit.requests import CreateNamespace, Put, PutRun
from kvserver.engine.history import HistoryFound
from kvserver.storage.content_hash import content_hash
from kvserver.storage.origin import read_origin
from kvserver.storage.rocks import open_reader
from kvserver.wal.recovery import list_segments
from support.archived_store import ArchivedStore, all_of, twin_options
from support.archives import ArchiveScene
from support.memfs import MemoryFileSystem
from support.memory_store import MemoryStore
from support.stores import open_store, settle

TARGET = Path("/restored/it")
PATHS = DataPaths(TARGET)


@pytest.fixture
def kept() -> ArchivedStore:
    """Revisions 2 to 9 in two epochs, a backup at 5, all of it archived."""
    kept = ArchivedStore()
    kept.group(Put(1, b"a", b"1"), Put(1, b"b", b"2"), Put(1, b"a", b"3"))
    kept.group(CreateNamespace("team"))
    kept.backup()
    kept.restart()
    kept.group(Put(1, b"a", b"4"), Put(2, b"t", b"5"))
    kept.seal()
    kept.group(PutRun(1, [b"c", b"d"], [b"6", b"7"]))
    kept.archive()
    return kept


# What it leaves


def test_the_result_is_a_copy_as_a_checkpoint_is(kept: ArchivedStore) -> None:
    done = kept.restore(target=TARGET)
    assert set(kept.fs.list_dir(TARGET)) == {"LOCK", "ORIGIN", "tables", "building"}
    assert kept.fs.list_dir(PATHS.building) == []
    origin = read_origin(kept.env, PATHS)
    assert origin is not None
    assert (origin.cluster_id, origin.node_name, origin.position) == (kept.cluster_id, "tester", done.position)
    assert [epoch.number for epoch, _ in origin.epochs] == [1, 2]
    assert [began.revision for _, began in origin.epochs] == [1, 5]
    assert done.position == kept.plan().position
    copy = kept.open_copy(TARGET)
    assert copy.identity.cluster_id != kept.cluster_id, "a fork"
    assert copy.history.current.number == 3
    copy.history.require(2, 9)
    copy.history.require(1, 5)
    assert all_of(copy) == all_of(kept.database)
    assert content_hash(copy._tables) == kept.hash()


def test_a_fork_goes_on_by_itself(kept: ArchivedStore) -> None:
    copy = kept.restored(4)
    assert copy.marks.visible == 4
    for number in range(3):
        ticket = copy.submit(Put(1, b"new", b"%d" % number), lambda outcome: outcome)
        settle(copy)
        assert ticket.done
    assert copy.marks.visible == 7
    copy.close()


def test_history_is_what_it_was(kept: ArchivedStore) -> None:
    copy = kept.restored()
    ticket = copy.key_history(1, b"a", 0, 0, MIB)
    settle(copy)
    found: HistoryFound = ticket.answer()
    assert [(entry.revision, entry.version.value) for entry in found.entries if entry.version] == [
        (6, b"4"),
        (4, b"3"),
        (2, b"1"),
    ]


def test_a_time_between_two_groups_leads_to_the_first_of_them(kept: ArchivedStore) -> None:
    plan = kept.plan(time_ms=kept.clock.now_ms() - 500)
    kept.restore(plan, TARGET)
    assert kept.open_copy(TARGET).marks.visible == plan.revision == 7


def test_statistics_and_times_are_there(kept: ArchivedStore) -> None:
    copy = kept.restored()
    for namespace in (1, 2):
        assert copy.statistics(namespace).keys == sum(version.value is not None for version in _of(copy, namespace))
    times = [when for when, _ in copy._upkeep._notes]
    assert max(times) == kept.clock.now_ms(), "of the commits, not of the restore"


def _of(copy: Any, namespace: int) -> list[Any]:
    name = {1: "", 2: "team"}[namespace]
    return [version for (where, _), version in all_of(copy).items() if where == name]


def test_progress_tells_of_every_stage_and_comes_to_the_end(kept: ArchivedStore) -> None:
    far: list[RestoreProgress] = []
    plan = kept.plan()
    done = restore(kept.env, kept.store, plan, TARGET, twin_options(kept.fs, job_bytes=1), far.append)
    assert list(dict.fromkeys(one.stage for one in far)) == ["base", "log", "end"]
    assert far[-1].raw_bytes_done == far[-1].raw_bytes == plan.raw_bytes == done.raw_bytes
    assert far[-1].base_bytes_done == far[-1].base_bytes == plan.base_bytes == done.base_bytes
    assert [one.revision for one in far] == sorted(one.revision for one in far)
    assert (far[-1].revision, done.revision, done.tables) == (9, 9, 2)
    bytes_done = [one.bytes_done for one in far if one.stage == "log"]
    assert bytes_done == sorted(bytes_done)


def test_segments_are_fetched_a_bounded_way_ahead_and_removed_when_read() -> None:
    kept = ArchivedStore()
    for number in range(12):
        kept.group(Put(1, b"%d" % number, bytes(1000)))
        kept.seal()
    kept.archive()
    length = kept.plan().legs[0].entries[0].raw_length
    held: list[int] = []

    class Watched(MemoryFileSystem):
        def rename(self, old: Path, new: Path) -> None:
            super().rename(old, new)
            folder = DataPaths(PATHS.restoring)
            if new.parent == folder.wal:
                held.append(len(list_segments(self, folder)))

    watched = Watched()
    watched._world = kept.fs._world
    kept.restore(target=TARGET, fs=watched, ahead_bytes=3 * length, workers=3, job_bytes=1)
    assert len(held) == 12
    assert max(held) <= 3
    kept.restore(target=Path("/another"), ahead_bytes=0, workers=3)


def test_a_revision_that_a_backup_is_of_needs_no_log(kept: ArchivedStore) -> None:
    plan = kept.plan(5)
    assert plan.legs == ()
    for name in [name for name in _objects(kept) if parse_segment(name)]:
        del _objects(kept)[name]
    done = kept.restore(plan, TARGET)
    assert (done.revision, done.raw_bytes, done.tables) == (5, 0, 0)
    assert len(all_of(kept.open_copy(TARGET))) == 2


def test_starts_without_a_write_are_gone_through() -> None:
    kept = ArchivedStore()
    kept.restart()
    kept.restart()
    kept.group(Put(1, b"a", b"1"))
    kept.backup()
    for _ in range(3):
        kept.restart()
    kept.group(Put(1, b"b", b"2"), Put(1, b"c", b"3"))
    kept.restart()
    kept.restart()
    kept.group(Put(1, b"d", b"4"))
    kept.restart()
    kept.archive()
    for revision in range(2, 6):
        copy = kept.restored(revision)
        assert len(all_of(copy)) == revision - 1
        copy.close()
    done = kept.restore(target=TARGET)
    origin = read_origin(kept.env, PATHS)
    assert origin is not None
    assert [epoch.number for epoch, _ in origin.epochs] == list(range(1, done.position.epoch.number + 1))


def test_an_epoch_that_parted_in_the_middle_of_a_segment_counts_up_to_there() -> None:
    scene = ArchiveScene()
    scene.begin()
    scene.segment(2, 1, 1)
    parting = scene.frame_ends[4]
    scene.segment(3)
    scene.begin(branch=parting)
    scene.segment(1, 2)
    fs = MemoryFileSystem()
    env = ArchivedStore(fs).env
    for revision in range(2, 8):
        plan = make_plan(scene.store, scene.cluster_id, RestoreTarget(revision=revision))
        target = Path(f"/r/{revision}")
        done = restore(env, scene.store, plan, target, twin_options(fs))
        assert done.revision == revision
        keys = {key for _, key in all_of(open_store(fs, paths=DataPaths(target), seed=revision))}
        assert keys == {f"key-{one}".encode() for one in range(2, revision + 1)}
        assert done.position.epoch.number == (1 if revision <= 4 else 2)


# Cut frames


def test_the_position_inside_a_frame_follows_from_what_is_kept_alone(kept: ArchivedStore) -> None:
    one, other = kept.restore(3, TARGET).position, kept.restore(3, Path("/again")).position
    assert one == other
    assert one.revision == 3
    end = kept.restore(4, Path("/end")).position
    start = kept.restore(2, Path("/start")).position
    assert len({end.chain, one.chain, start.chain}) == 3
    assert isinstance(one, Position)


# In a process of its own


def test_the_collector_rests_where_that_is_allowed_and_works_again_behind_it(kept: ArchivedStore) -> None:
    seen = []

    def look(progress: RestoreProgress) -> None:
        seen.append(gc.isenabled())

    restore(kept.env, kept.store, kept.plan(), TARGET, twin_options(kept.fs, own_process=True), look)
    assert not any(seen)
    assert gc.isenabled()
    with pytest.raises(ValueError, match="who takes over"):
        restore(kept.env, kept.store, kept.plan(), TARGET, RestoreOptions(take_over=True))


def test_segments_without_commits_are_not_fetched() -> None:
    """In the scratch folder a segment's file is called after epoch and first revision, which one behind it may share."""
    scene = ArchiveScene()
    scene.begin()
    segments = [scene.segment(1), scene.segment(), scene.segment(2)]
    plan = make_plan(scene.store, scene.cluster_id, RestoreTarget())
    parts = parts_behind(plan.legs, creation(scene.cluster_id), plan.revision)
    assert [part.entry for part in parts] == [segments[0], segments[2]]


def test_on_a_real_disk_with_real_tables(tmp_path: Path) -> None:
    kept = ArchivedStore()
    for number in range(40):
        kept.group(*(Put(1, b"%d-%d" % (number, key), bytes(200)) for key in range(50)))
        if number % 10 == 9:
            kept.restart()
    kept.archive()
    target = tmp_path / "restored"
    plan = kept.plan(1234)
    done = restore(Environment(), kept.store, plan, target, RestoreOptions(job_bytes=50_000, ahead_bytes=20_000))
    assert done.tables > 3
    with_rocks = open_reader(DataPaths(target).tables, MIB)
    twin = kept.restored(1234)
    assert content_hash(with_rocks).sha256 == content_hash(twin._tables).sha256
    with_rocks.close()
    assert {path.name for path in target.iterdir()} == {"LOCK", "ORIGIN", "tables", "building"}


def _objects(kept: ArchivedStore) -> dict[str, bytes]:
    assert isinstance(kept.store, MemoryStore)
    return kept.store.objects
