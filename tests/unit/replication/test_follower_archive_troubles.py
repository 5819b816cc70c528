"""The follower and an archive that is of little help: damaged, of somebody else, with a gap, away."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from kvserver.archive.backup import create_backup
from kvserver.archive.names import ArchiveNames
from kvserver.base.environment import Environment
from kvserver.base.replication_events import ArchiveCaughtUp, CopyFetched, StateChanged
from support.fault_store import FaultStore, StoreFault
from support.follow_parts import archive_sealed
from support.follow_scene import FollowScene, SceneNode
from support.follow_waits import S, in_state, log_end, same, shows, streaming
from support.memory_store import MemoryStore
from support.stores import content, run_settling
from support.twin_tables import TwinTables

URL = "memory:archive"


def segments(a: SceneNode, begin: int, count: int) -> None:
    """Write sealed segments of five commits each."""
    for number in range(begin, begin + count):
        a.put(*(f"{number}-{index}" for index in range(5)), value=bytes(3000))
        a.seal()


def archive(scene: FollowScene, a: SceneNode) -> MemoryStore:
    """Put into the archive what is sealed, and let the log go."""
    assert a.db is not None
    store = scene.archives.setdefault(URL, MemoryStore())
    assert isinstance(store, MemoryStore)
    archive_sealed(a.db, a.node.disk, store, scene.clock)
    a.flush()
    return store


def logs(store: MemoryStore) -> list[str]:
    """Return the names of the archived segments, oldest first."""
    return sorted(name for name in store.objects if "/log/" in name)


def spoil(store: MemoryStore, name: str, at: int = 200) -> None:
    """Flip a byte."""
    data = store.objects[name]
    store.objects[name] = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


async def behind(scene: FollowScene, into: int = 2) -> tuple[SceneNode, SceneNode, MemoryStore]:
    """Return a primary, and a follower that stands so many commits into a segment which is in the archive alone by now."""
    a = scene.primary("a")
    b = scene.member("b", "a")
    b.archive_url = URL
    segments(a, 0, 1)
    a.put(*(f"early-{number}" for number in range(into)), value=bytes(3000))
    b.follower.start()
    await scene.until(streaming(b))
    await scene.until(shows(b, 6 + into))
    await b.follower.stop()
    for slot in a.shipping.slots():
        a.shipping.drop_slot(slot.name)
    segments(a, 1, 3)
    store = archive(scene, a)
    a.put("tail")
    assert a.db is not None
    assert a.db._log.first_revision() > 6 + into
    return a, b, store


@pytest.mark.parametrize("into", [0, 2])
async def test_from_the_middle_of_an_archived_segment_the_rest_of_it_follows(into: int) -> None:
    async with FollowScene() as scene:
        a, b, _ = await behind(scene, into)
        b.follower.start()
        await scene.until(streaming(b))
        await same(scene, a, b)
        (caught_up,) = b.of(ArchiveCaughtUp)
        assert (caught_up.from_revision, b.reopened) == (6 + into, 0)


async def test_a_segment_that_is_damaged_is_named_and_the_store_is_fetched_from_a_node() -> None:
    async with FollowScene() as scene:
        a, b, store = await behind(scene)
        spoil(store, logs(store)[2])
        b.follower.start()
        await scene.until(streaming(b))
        await same(scene, a, b)
        why = " ".join(event.why for event in b.of(StateChanged))
        assert logs(store)[2] in why
        (fetched,) = b.of(CopyFetched)
        assert fetched.source == a.address
        assert b.reopened == 1


async def test_what_lies_before_the_damage_is_kept() -> None:
    async with FollowScene() as scene:
        a, b, store = await behind(scene)
        spoil(store, logs(store)[2])
        a.is_down = True
        b.follower.start()
        await scene.until(in_state(S.CONNECTING, b))
        a.is_down = False
        await scene.until(lambda: any("damaged" in event.why for event in b.of(StateChanged)))
        assert b.db is not None
        assert log_end(b).position.revision >= 13


async def test_an_archive_that_ends_elsewhere_than_its_manifest_says_is_not_gone_on_with() -> None:
    """Its segments were exchanged for others that are sound for themselves."""
    async with FollowScene() as scene:
        a, b, store = await behind(scene)
        first, second = logs(store)[1:3]
        store.objects[second] = store.objects[first]
        b.follower.start()
        await scene.until(streaming(b))
        await same(scene, a, b)
        assert len(b.of(CopyFetched)) == 1


@pytest.mark.parametrize("calls", [{"list"}, {"read"}, {"stream"}])
async def test_a_store_that_is_away_for_a_moment_is_tried_again(calls: set[str]) -> None:
    async with FollowScene() as scene:
        a, b, store = await behind(scene)
        scene.archives[URL] = FaultStore(store, [StoreFault(at=2, calls=frozenset(calls))])  # type: ignore[arg-type]
        b.follower.start()
        await scene.until(streaming(b))
        await same(scene, a, b)
        assert b.of(CopyFetched) == []
        assert any("connection refused" in event.why for event in b.of(StateChanged))


async def test_a_store_that_stays_away_is_done_without() -> None:
    async with FollowScene() as scene:
        a, b, store = await behind(scene)
        scene.archives[URL] = FaultStore(store, [StoreFault(at=1, calls=frozenset({"stream"}), forever=True)])
        b.follower.start()
        await scene.until(streaming(b))
        await same(scene, a, b)
        (fetched,) = b.of(CopyFetched)
        assert fetched.source == a.address


async def test_an_archive_of_another_cluster_is_none() -> None:
    async with FollowScene() as scene, FollowScene() as elsewhere:
        a, b, _ = await behind(scene)
        other = elsewhere.primary("other")
        segments(other, 0, 3)
        scene.archives[URL] = archive(elsewhere, other)
        b.follower.start()
        await scene.until(streaming(b))
        await same(scene, a, b)
        assert b.of(ArchiveCaughtUp) == []
        assert len(b.of(CopyFetched)) == 1


async def test_an_empty_node_does_not_take_its_store_from_another_clusters_archive() -> None:
    """It belongs to a cluster already, by its register; the archive that it was pointed at holds none of that."""
    async with FollowScene() as scene, FollowScene() as elsewhere:
        a = scene.primary("a")
        other = elsewhere.primary("other")
        segments(other, 0, 3)
        scene.archives[URL] = archive(elsewhere, other)
        b = scene.member("b", "a")
        b.archive_url = URL
        a.is_down = True
        b.follower.start()
        await scene.until(lambda: any("holds nothing of cluster" in event.why for event in b.of(StateChanged)))
        assert log_end(b).position.revision == 1
        a.is_down = False
        await scene.until(streaming(b))
        await same(scene, a, b)


async def test_where_the_archive_has_a_backup_behind_a_gap_an_empty_node_begins_with_that() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        segments(a, 0, 2)
        store = archive(scene, a)
        assert a.db is not None
        names = ArchiveNames(a.db.identity.cluster_id)
        run_settling(a.db, a.db.checkpoint(Path("/copies/1")))
        env = Environment(a.node.disk, scene.clock, random.Random(1).randbytes)
        create_backup(env, store, Path("/copies/1"), names.cluster_id, open_tables=lambda path: TwinTables(a.node.disk, path))
        segments(a, 2, 2)
        archive(scene, a)
        for name in logs(store)[:2]:
            store.delete(name)
        a.put("tail")
        shown = content(a.db, 21)
        a.is_down = True
        b = scene.member("b", "a", has_store=False)
        b.archive_url = URL
        b.follower.start()
        await scene.until(lambda: b.db is not None)
        assert b.db is not None
        assert log_end(b).position.revision == 21
        assert content(b.db) == shown
        a.is_down = False
        await scene.until(streaming(b))
        await same(scene, a, b)


async def test_a_node_that_stands_before_a_gap_in_the_archive_is_copied_anew() -> None:
    async with FollowScene() as scene:
        a, b, store = await behind(scene)
        store.delete(logs(store)[1])
        b.follower.start()
        await scene.until(streaming(b))
        await same(scene, a, b)
        assert len(b.of(CopyFetched)) == 1


@pytest.mark.parametrize("lost", [0, 3])
async def test_across_a_change_of_the_primary_the_archive_leads_to_what_the_new_one_has(lost: int) -> None:
    """The one before it has archived commits that the new one never had: nobody takes them for history."""
    async with FollowScene() as scene:
        a, b, _ = await behind(scene)
        c = scene.member("c", "a")
        c.archive_url = URL
        c.follower.start()
        await scene.until(streaming(c))
        await same(scene, a, c)
        await c.follower.stop()
        if lost:
            a.put(*(f"lost-{number}" for number in range(lost)))
            a.seal()
            archive(scene, a)
        a.is_down = True
        c.promote((b,))
        c.put("of the new one", value=bytes(3000))
        c.seal()
        c.flush()
        b.follower.start()
        await scene.until(streaming(b))
        await same(scene, c, b)
        assert b.db is not None
        assert not any(key.startswith(b"lost") for _, key in content(b.db))
