"""Going back to a base: where the tables hold what was given up, those of a checkpoint that does not take their place."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from kvserver.base.environment import Environment
from kvserver.base.events import Event, Listener, ignore
from kvserver.base.fs import write_new_file
from kvserver.base.paths import DataPaths
from kvserver.base.replication_events import LogRewound, RewindBaseFailed, StateChanged, SuffixLost
from kvserver.base.types import Epoch, Position, Role
from kvserver.commit.ticket import answered
from kvserver.engine.rewind_base import Base, begin_base, clear_bases, find_bases, finish_base, surplus
from kvserver.engine.swap import finish_swap
from kvserver.replication.home import FollowerFloor
from kvserver.replication.rewind import Rewound, prepare, rewind
from kvserver.replication.rewind_tables import tables_position
from kvserver.replication.vow import UNKNOWN_LOST
from kvserver.storage.origin import Origin, write_origin
from kvserver.storage.rows import FLUSHED_KEY, decode_flushed, encode_flushed
from kvserver.wal.format import SEGMENT_HEADER_LENGTH
from kvserver.wal.log_range import frames_between
from kvserver.wal.recovery import list_segments
from support.crashes import record_crash_points, sampled_states
from support.follow_scene import FollowScene, SceneNode
from support.follow_waits import log_end, same, shows, steps, streaming
from support.logs import PATHS
from support.memfs import MemoryFileSystem, os_error
from support.recordfs import RecordingFileSystem
from support.stores import TWIN, settle


async def keep_base(node: SceneNode) -> Base:
    """Flush, and keep a checkpoint of that."""
    assert node.db is not None
    node.flush()
    making = begin_base(node.env, PATHS)
    flushed = answered(node.db.flusher.position.revision)
    checkpoint = asyncio.ensure_future(node.db.checkpoint(making.root, scratch=True, flushing=flushed))
    while not checkpoint.done():
        settle(node.db)
        await asyncio.sleep(0)
    checkpoint.result()
    return finish_base(node.env, PATHS)


async def parted(scene: FollowScene, bases: int = 1, held: bool = True) -> tuple[SceneNode, SceneNode]:
    """A primary whose tables hold two revisions that the new primary lacks, with bases of before that."""
    a = scene.primary("a")
    b = scene.member("b", "a")
    b.follower.start()
    await scene.until(streaming(b))
    assert a.db is not None
    for number in range(bases):
        await scene.until(shows(b, a.put(f"{number}/x", f"{number}/y")))
        base = await keep_base(a)
        if held and not number:
            a.db.hold("rewind-base", base.revision + 1)
        a.seal()
    await scene.until(shows(b, a.put("z")))
    await b.follower.stop()
    if not held:
        a.shipping.drop_slot("b")  # type: ignore[union-attr]
    a.put("lost", "lost too")
    a.flush()
    a.seal()
    a.db.tick()
    settle(a.db)
    b.promote()
    b.put("new")
    a.named = b.address
    return a, b


def back(a: SceneNode) -> None:
    a.close()
    a.open(Role.FOLLOWER)
    a.make_follower().start()


async def test_tables_beyond_the_position_give_way_to_those_of_the_base_and_the_log_is_replayed() -> None:
    async with FollowScene() as scene:
        a, b = await parted(scene, bases=2)
        newest = find_bases(a.env, PATHS)[-1].revision
        back(a)
        await scene.until(streaming(a))
        await same(scene, b, a)
        assert [event.base_revision for event in a.of(LogRewound)] == [newest]
        (lost,) = a.of(SuffixLost)
        assert (lost.first_revision, lost.last_revision) == (newest + 2, newest + 3)
        assert ("DIVERGED", "RESTORING") not in steps(a) and ("DIVERGED", "CONNECTING") in steps(a)
        assert any(f"the tables come from the base at revision {newest}" in event.why for event in a.of(StateChanged))
        assert a.reopened == 1 and a.lost == [], "it has all that it shares with the others"
        assert len(find_bases(a.env, PATHS)) == 2, "they can be gone back to again"


async def test_a_base_that_the_log_does_not_reach_back_to_is_of_no_use() -> None:
    async with FollowScene() as scene:
        a, b = await parted(scene, held=False)
        (base,) = find_bases(a.env, PATHS)
        assert a.db is not None and a.db.tail().oldest_revision() > base.revision + 1
        back(a)
        await scene.until(streaming(a))
        await same(scene, b, a)
        assert ("DIVERGED", "RESTORING") in steps(a)


def went_back(floor: FollowerFloor, common: Position, flushed: Position | None) -> Rewound:
    """Go back on a store that nobody has open, with the tables that a base leads to."""
    return rewind(floor.env, PATHS, common, flushed, floor.listener, prepare(floor, common, lambda: True))


def branch(b: SceneNode) -> Position:
    """Return where the new primary's epoch began."""
    assert b.db is not None
    return next(position for epoch, position in b.db.history.epochs if epoch.number == 2)


@pytest.mark.parametrize("wrong", ["hole", "frame", "lineage"])
async def test_a_log_that_does_not_lead_from_the_base_to_the_position_is_seen_before_anything_is_decided(wrong: str) -> None:
    async with FollowScene() as scene:
        a, b = await parted(scene, bases=2)
        first, _ = find_bases(a.env, PATHS)
        clear_bases(a.env, PATHS, [first])
        disk = a.node.disk
        names = list_segments(disk, PATHS)
        behind = PATHS.segment(next(name for name in names if name.first_revision == first.revision + 1))
        if wrong == "hole":
            disk.remove(behind)
        elif wrong == "frame":
            data = bytearray(disk.contents()[behind])
            data[SEGMENT_HEADER_LENGTH + 150] ^= 1
            disk.plant(behind, bytes(data))
        else:
            other = first.origin.position._replace(chain=bytes(16))
            disk.remove(first.paths.origin)
            write_origin(a.env, first.paths, first.origin._replace(position=other))
            tables = TWIN.open_tables(a.env, first.paths, a.tables)
            (row,) = tables.get_many([FLUSHED_KEY])
            assert row is not None
            writer = tables.new_table(PATHS.table_being_built(1))
            writer.put(FLUSHED_KEY, encode_flushed(decode_flushed(row)._replace(position=other)))
            writer.finish()
            tables.ingest(PATHS.table_being_built(1))
            tables.close()
        common, flushed = branch(b), a.db.flusher.position  # type: ignore[union-attr]
        a.close()
        before = {path: data for path, data in disk.contents().items() if path.parent in (PATHS.wal, PATHS.tables)}
        told: list[Event] = []
        done = went_back(FollowerFloor(a.env, PATHS, TWIN, a.tables, told.append), common, flushed)
        assert done.needs_copy
        (failed,) = (event for event in told if isinstance(event, RewindBaseFailed))
        assert {"hole": "missing", "frame": "does not check", "lineage": "the group goes beyond"}[wrong] in failed.reason
        assert {path: data for path, data in disk.contents().items() if path in before} == before


async def test_a_follower_that_is_told_to_stop_meanwhile_stops_and_goes_back_later() -> None:
    async with FollowScene() as scene:
        a, b = await parted(scene, bases=2)
        a.close()
        a.open(Role.FOLLOWER)
        follower = a.make_follower()
        began, beside = asyncio.Event(), follower._floor.beside

        async def slow(work: Callable[[], object], name: str) -> object:
            if name == "rewind-tables":
                began.set()
                await asyncio.sleep(0)
                await asyncio.sleep(0)
            return await beside(work, name)

        object.__setattr__(follower._floor, "beside", slow)
        follower.start()
        await scene.until(began.is_set)
        await follower.stop()
        assert a.of(LogRewound) == [] and a.reopened == 0
        follower.start()
        await scene.until(streaming(a))
        await same(scene, b, a)
        assert len(a.of(LogRewound)) == 1 and ("DIVERGED", "RESTORING") not in steps(a)


async def test_a_disk_that_fails_at_the_base_ends_with_a_copy() -> None:
    async with FollowScene() as scene:
        a, b = await parted(scene)
        base = find_bases(a.env, PATHS)[0]
        opens = a.node.disk.open

        def fails(path: Path, writable: bool = False) -> object:
            if path.is_relative_to(base.paths.tables):
                raise os_error(errno.EIO)
            return opens(path, writable)

        a.node.disk.open = fails  # type: ignore[method-assign,assignment]
        back(a)
        await scene.until(streaming(a))
        await same(scene, b, a)
        assert ("DIVERGED", "RESTORING") in steps(a)


async def test_a_base_beyond_the_position_is_removed_and_the_one_before_it_is_taken() -> None:
    async with FollowScene() as scene:
        a, b = await parted(scene)
        (first,) = find_bases(a.env, PATHS)
        second = await keep_base(a)
        assert second.revision > first.revision + 1
        back(a)
        await scene.until(streaming(a))
        await same(scene, b, a)
        assert [event.base_revision for event in a.of(LogRewound)] == [first.revision]
        assert [base.revision for base in find_bases(a.env, PATHS)] == [first.revision]
        assert not a.node.disk.exists(second.paths.root)


async def test_damaged_bases_are_passed_over_and_without_another_one_a_copy_is_fetched() -> None:
    async with FollowScene() as scene:
        a, b = await parted(scene, bases=2)
        for base in find_bases(a.env, PATHS):
            for name in a.node.disk.list_dir(base.paths.tables):
                a.node.disk.remove(base.paths.tables / name)
        end = log_end(a).position.revision
        back(a)
        await scene.until(streaming(a))
        await same(scene, b, a)
        assert ("DIVERGED", "RESTORING") in steps(a)
        assert find_bases(a.env, PATHS) == [], "with the copy another history begins"
        copied = log_end(b).position.revision
        assert a.lost == ([UNKNOWN_LOST] if end > copied else []), "a copy may lack what the node has acknowledged"


async def test_where_the_bases_cannot_be_listed_the_log_is_cut_all_the_same_and_none_is_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with FollowScene() as scene:
        a, b = await parted(scene)
        common, bases = branch(b), find_bases(a.env, PATHS)
        a.close()

        def fails(env: Environment, paths: DataPaths) -> list[Base]:
            raise os_error(errno.EIO)

        monkeypatch.setattr("kvserver.replication.rewind.find_bases", fails)
        floor = FollowerFloor(a.env, PATHS, TWIN, a.tables)
        assert prepare(floor, common, lambda: True) is None
        assert not rewind(a.env, PATHS, common, None).needs_copy
        assert find_bases(a.env, PATHS) == bases != []


async def test_a_copy_of_the_store_removes_the_bases_of_what_was_there() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        b = scene.member("b", "a")
        b.follower.start()
        await scene.until(streaming(b))
        await scene.until(shows(b, a.put("x", "y")))
        await keep_base(b)
        b.follower.reinit()
        await scene.until(lambda: ("RESTORING", "CONNECTING") in steps(b))
        await scene.until(streaming(b))
        assert find_bases(b.env, PATHS) == []


# -- power ----------------------------------------------------------------------------------------------------------------


async def test_power_lost_at_any_step_leaves_the_old_store_or_the_one_gone_back_to() -> None:
    async with FollowScene() as scene:
        a, b = await parted(scene)
        common = branch(b)
        (base,) = find_bases(a.env, PATHS)
        *_, last = frames_between(a.node.disk, PATHS, base.origin.position, common)
        left = Position(last.epoch, last.header.last_revision, last.header.chain)
        assert left.revision == common.revision
        flushed = a.db.flusher.position  # type: ignore[union-attr]
        a.close()
        disk = a.node.disk

    scene_tables = a.tables

    def floor_of(fs: object, listener: Listener = ignore) -> FollowerFloor:
        return FollowerFloor(Environment(fs=fs), PATHS, TWIN, scene_tables, listener)  # type: ignore[arg-type]

    def ends_at(fs: object) -> Position | None:
        with contextlib.closing(floor_of(fs).open_tables(PATHS)) as tables:
            return tables_position(PATHS, tables)

    def run(recording: RecordingFileSystem[MemoryFileSystem]) -> None:
        went_back(floor_of(recording, lambda event: recording.mark(type(event).__name__)), common, flushed)

    seen = {"old": 0, "base": 0}
    for point in record_crash_points(disk, run):  # type: ignore[arg-type]
        for state in sampled_states(point.disk, random.Random(1), 8):
            fs = state.disk
            finish_swap(Environment(fs=fs), PATHS)  # type: ignore[arg-type]
            at = ends_at(fs)
            assert at in (flushed, left), str(state)
            seen["old" if at == flushed else "base"] += 1
            if point.marks(LogRewound.__name__):
                assert at == left, "it was told"
            done = went_back(floor_of(fs), common, at)
            assert not done.needs_copy, "the base is still there"
            assert ends_at(fs) == left
    assert all(seen.values()), seen


# -- which are kept -------------------------------------------------------------------------------------------------------


def made(env: Environment, revision: int) -> Base:
    making = begin_base(env, PATHS)
    env.fs.make_dir(making.tables)
    write_new_file(env.fs, making.tables / "1.sst", b"rows")
    env.fs.sync_dir(making.tables)
    write_origin(env, making, Origin(bytes(16), "n1", Position(Epoch(1, 11), revision, bytes(16)), [], 1))
    return finish_base(env, PATHS)


@pytest.mark.parametrize(
    ("revisions", "held_by_all", "going"),
    [
        ([], 5, []),
        ([10], 5, []),
        ([10], 15, []),
        ([10, 20], 5, []),
        ([10, 20], 10, []),
        ([10, 20], 20, [10]),
        ([10, 20, 30], 20, [10]),
        ([10, 20, 30], 5, []),
        ([10, 20, 30], 40, [10, 20]),
    ],
)
def test_a_base_goes_when_all_have_what_a_newer_one_holds(revisions: list[int], held_by_all: int, going: list[int]) -> None:
    env = Environment(MemoryFileSystem())  # type: ignore[arg-type]
    bases = [made(env, revision) for revision in revisions]
    assert find_bases(env, PATHS) == bases
    assert [base.revision for base in surplus(bases, held_by_all)] == going


def test_what_is_half_made_or_half_removed_is_no_base_and_goes() -> None:
    fs = MemoryFileSystem()
    env = Environment(fs)  # type: ignore[arg-type]
    whole, half, damaged, misnamed = (made(env, revision) for revision in (10, 20, 30, 40))
    fs.remove(half.paths.origin)
    fs.plant(damaged.paths.origin, b"?")
    fs.rename(misnamed.paths.root, PATHS.base(41).root)
    begin_base(env, PATHS)
    fs.make_dir(PATHS.base_being_made().tables)
    assert find_bases(env, PATHS) == [whole]
    clear_bases(env, PATHS, [whole])
    assert fs.list_dir(PATHS.bases) == [whole.paths.root.name]
    clear_bases(env, PATHS)
    assert fs.list_dir(PATHS.bases) == []


def test_power_lost_while_a_base_is_made_or_removed_leaves_a_whole_one_or_none() -> None:
    def run(recording: RecordingFileSystem[MemoryFileSystem]) -> None:
        env = Environment(recording)  # type: ignore[arg-type]
        made(env, 10)
        recording.mark("made")
        clear_bases(env, PATHS)
        recording.mark("removed")

    fs = MemoryFileSystem()
    fs.make_dir(PATHS.root)
    for point in record_crash_points(fs, run):
        for state in sampled_states(point.disk, random.Random(1), 8):
            env = Environment(state.disk)  # type: ignore[arg-type]
            found = find_bases(env, PATHS)
            assert [base.revision for base in found] in ([], [10])
            assert all(state.disk.exists(base.paths.tables / "1.sst") and state.disk.exists(base.paths.wal) for base in found)
            clear_bases(env, PATHS, found)
            assert find_bases(env, PATHS) == found
