"""When a base is made, what of the log is held for it, and when it goes."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import AsyncIterator

import pytest

from kvserver.base.events import Event
from kvserver.base.replication_events import RewindBaseFailed, RewindBaseKept
from kvserver.base.types import Role
from kvserver.engine.rewind_base import HOLD, begin_base, find_bases
from kvserver.server.rewind_bases import MOST_LOG, REST_S, RewindBases
from support.follow_scene import FollowScene, SceneNode
from support.logs import PATHS
from support.memfs import os_error
from support.stores import settle

EVERY_BYTES = 20_000
FAR = 1 << 40


class Keeper:
    """A primary that is alone, and its bases."""

    def __init__(self, scene: FollowScene) -> None:
        self.node: SceneNode = scene.primary("a")
        self.clock = scene.clock
        self.events: list[Event] = []
        self.begin()

    def begin(self, every_bytes: int = EVERY_BYTES) -> None:
        assert self.node.db is not None
        self.bases = RewindBases(self.node.env, PATHS, self.node.db, every_bytes, self.events.append)

    async def tick(self, held_by_all: int = FAR) -> None:
        """Let a second pass, and what is begun then come to its end."""
        self.bases.tick(held_by_all)
        work = self.bases._work
        while work is not None and not work.done():
            settle(self.node.db)  # type: ignore[arg-type]
            await asyncio.sleep(0.001)

    def write(self, share: float = 0.1) -> int:
        """Write so much of what makes a new base due, and flush it; return the newest revision."""
        revision = self.node.put("k", value=bytes(int(EVERY_BYTES * share)))
        self.node.flush()
        self.node.seal()
        return revision

    @property
    def kept(self) -> list[int]:
        return [base.revision for base in find_bases(self.node.env, PATHS)]

    @property
    def log_bytes(self) -> int:
        return sum(info.length_bytes for info in self.node.db.sealed_segments())  # type: ignore[union-attr]

    @property
    def held(self) -> int | None:
        return self.node.db._holds.list().get(HOLD)  # type: ignore[union-attr]


@pytest.fixture
async def keeper() -> AsyncIterator[Keeper]:
    async with FollowScene() as scene:
        yield Keeper(scene)


async def test_the_first_is_made_behind_the_first_flush_and_the_log_is_held_behind_it(keeper: Keeper) -> None:
    await keeper.tick()
    assert keeper.kept == [] and keeper.held is None
    revision = keeper.write()
    await keeper.tick()
    await keeper.tick()
    assert keeper.kept == [revision] and keeper.held == revision + 1
    assert keeper.bases.newest_revision == revision
    assert [event.revision for event in keeper.events if isinstance(event, RewindBaseKept)] == [revision]


async def test_the_next_is_made_after_so_much_log_and_takes_the_place_of_the_first_once_all_have_it(keeper: Keeper) -> None:
    first = keeper.write()
    await keeper.tick()
    await keeper.tick()
    keeper.write(0.5)
    await keeper.tick()
    assert keeper.kept == [first], "too little was written since"
    keeper.write(0.6)
    await keeper.tick(held_by_all=first - 1)
    assert keeper.kept == [first], "somebody lacks what the first holds: another one would be no better"
    await keeper.tick(held_by_all=first)
    (_, second) = keeper.kept
    assert keeper.held == first + 1
    await keeper.tick(held_by_all=second - 1)
    assert keeper.kept == [first, second]
    await keeper.tick(held_by_all=second)
    assert keeper.kept == [second] and keeper.held == second + 1


async def test_what_was_kept_before_a_restart_is_held_again_before_anything_is_deleted(keeper: Keeper) -> None:
    first = keeper.write()
    await keeper.tick()
    await keeper.tick()
    await keeper.bases.stop()
    keeper.node.close()
    begin_base(keeper.node.env, PATHS)
    keeper.node.node.disk.make_dir(PATHS.base_being_made().tables)
    keeper.node.open(Role.PRIMARY)
    keeper.begin()
    assert keeper.held == first + 1
    await keeper.tick(held_by_all=0)
    assert keeper.kept == [first], "nothing is known of the others yet"
    assert keeper.node.node.disk.list_dir(PATHS.bases) == [PATHS.base(first).root.name], "what was half made is gone"


async def test_without_the_setting_none_is_kept_and_those_of_before_go(keeper: Keeper) -> None:
    keeper.write()
    await keeper.tick()
    await keeper.tick()
    await keeper.bases.stop()
    keeper.begin(every_bytes=0)
    assert keeper.held is None
    keeper.write(2.0)
    await keeper.tick()
    await keeper.tick()
    assert keeper.kept == []


async def test_the_log_that_is_held_is_bounded_also_where_a_follower_is_away_for_long(keeper: Keeper) -> None:
    first = keeper.write()
    await keeper.tick()
    await keeper.tick()
    second = keeper.write(1.1)
    await keeper.tick(held_by_all=first)
    assert keeper.kept == [first, second]
    for _ in range(MOST_LOG):
        keeper.write(1.0)
        await keeper.tick(held_by_all=first)
    await keeper.tick(held_by_all=first)
    assert keeper.kept and keeper.kept[0] >= second and keeper.held == keeper.kept[0] + 1


async def test_the_log_that_is_held_is_bounded_also_where_nothing_is_heard_of_the_others(keeper: Keeper) -> None:
    for _ in range(4 * MOST_LOG):
        keeper.write(1.0)
        await keeper.tick(held_by_all=0)
        assert keeper.log_bytes <= (MOST_LOG + 3) * EVERY_BYTES
    await keeper.tick(held_by_all=0)
    assert len(keeper.kept) == 1, "of what is newest"


async def test_a_disk_that_is_nearly_full_has_them_go(keeper: Keeper) -> None:
    keeper.write()
    await keeper.tick()
    await keeper.tick()
    assert keeper.kept
    keeper.node.node.disk.free_bytes = lambda path: EVERY_BYTES - 1  # type: ignore[method-assign,assignment]
    for _ in range(3):
        await keeper.tick()
    assert keeper.kept == [] and keeper.held is None


async def test_one_that_cannot_be_removed_is_tried_again(keeper: Keeper) -> None:
    first = keeper.write()
    await keeper.tick()
    await keeper.tick()
    second = keeper.write(1.1)
    await keeper.tick(held_by_all=first)
    disk = keeper.node.node.disk
    remove = disk.remove
    disk.remove = lambda path: (_ for _ in ()).throw(os_error(errno.EIO))  # type: ignore[method-assign,assignment]
    await keeper.tick(held_by_all=second)
    disk.remove = remove  # type: ignore[method-assign]
    assert keeper.kept == [first, second] and keeper.held == second + 1, "what is of no use holds nothing"
    await keeper.tick(held_by_all=second)
    assert keeper.kept == [first, second], "it rests"
    keeper.clock.advance_ms(1000 * REST_S + 1)
    await keeper.tick(held_by_all=second)
    assert keeper.kept == [second] and keeper.held == second + 1


async def test_a_folder_that_cannot_be_read_keeps_nobody_from_serving(keeper: Keeper) -> None:
    keeper.write()
    await keeper.tick()
    await keeper.tick()
    disk = keeper.node.node.disk
    disk.list_dir = lambda path: (_ for _ in ()).throw(os_error(errno.EIO))  # type: ignore[method-assign,assignment]
    keeper.begin()
    assert keeper.bases.newest_revision == 0
    assert isinstance(keeper.events[-1], RewindBaseFailed)
    del disk.list_dir
    keeper.clock.advance_ms(1000 * REST_S + 1)
    await keeper.tick()
    await keeper.tick()
    assert keeper.kept == [keeper.bases.newest_revision], "it is found later, and not removed as a stranger"


async def test_a_disk_that_refuses_is_told_of_once_and_asked_again_after_a_rest(keeper: Keeper) -> None:
    revision = keeper.write()
    await keeper.tick()
    disk = keeper.node.node.disk
    make_dir, broken = disk.make_dir, True

    def refuse(path: object) -> None:
        if broken and PATHS.bases.name in str(path):
            raise os_error(errno.ENOSPC)
        make_dir(path)  # type: ignore[arg-type]

    disk.make_dir = refuse  # type: ignore[method-assign,assignment]
    for _ in range(3):
        await keeper.tick()
        keeper.clock.advance_ms(1000 * REST_S + 1)
    broken = False
    assert keeper.kept == [] and keeper.held is None, "nothing is held for one that is not there"
    await keeper.tick()
    assert keeper.kept == [revision]
    assert [type(event) for event in keeper.events] == [RewindBaseFailed, RewindBaseKept]
