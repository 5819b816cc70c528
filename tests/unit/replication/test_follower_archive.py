"""The follower and the archive: what the source does not have any more, and a store while the primary is down."""

from __future__ import annotations

from kvserver.base.replication_events import ArchiveCaughtUp, CopyFetched, StateChanged
from support.follow_parts import archive_sealed
from support.follow_scene import FollowScene, SceneNode
from support.follow_waits import S, in_state, log_end, same, steps, streaming
from support.memory_store import MemoryStore


async def archived(scene: FollowScene) -> tuple[SceneNode, MemoryStore]:
    """A primary of which the log up to somewhere is in the archive alone."""
    a = scene.primary("a")
    store = scene.archives["memory:archive"] = MemoryStore()
    for number in range(4):
        a.put(*(f"{number}-{index}" for index in range(5)), value=bytes(3000))
        a.seal()
    archive_sealed(a.db, a.node.disk, store, scene.clock)
    a.flush()
    a.put("tail")
    return a, store


async def test_what_the_source_does_not_have_comes_from_the_archive() -> None:
    async with FollowScene() as scene:
        a, _ = await archived(scene)
        assert a.db._log.first_revision() > 10
        b = scene.member("b", "a")
        b.archive_url = "memory:archive"
        b.follower.start()
        await scene.until(streaming(b))
        await same(scene, a, b)
        taken = [("CONNECTING", "WAL_GONE"), ("WAL_GONE", "CATCHUP_ARCHIVE"), ("CATCHUP_ARCHIVE", "CONNECTING")]
        assert [step for step in steps(b) if step in taken] == taken
        (caught_up,) = b.of(ArchiveCaughtUp)
        assert caught_up.from_revision == 1 and caught_up.upto_revision == 21
        assert b.reopened == 0


async def test_what_came_from_the_archive_is_no_word_of_the_primary() -> None:
    async with FollowScene() as scene:
        _a, _ = await archived(scene)
        b = scene.member("b", "a")
        b.archive_url = "memory:archive"
        b.follower.start()
        await scene.until(lambda: bool(b.of(ArchiveCaughtUp)))
        assert b.db.marks.visible == 21
        assert not b.db.contact.was_made, "whoever reads the newest waits for the primary"
        await scene.until(streaming(b))
        assert b.db.contact.was_made


async def test_an_archive_that_lacks_it_is_no_help() -> None:
    async with FollowScene() as scene:
        a, store = await archived(scene)
        for name in [info.name for info in store.list("")]:
            if "/log/" in name or "/manifest/" in name:
                store.delete(name)
        b = scene.member("b", "a")
        b.archive_url = "memory:archive"
        b.follower.start()
        await scene.until(streaming(b))
        await same(scene, a, b)
        assert ("WAL_GONE", "RESTORING") in steps(b)


async def test_a_damaged_archive_is_tried_some_times_and_then_the_store_is_fetched() -> None:
    async with FollowScene() as scene:
        _a, store = await archived(scene)
        name = next(name for name in store.objects if "/log/" in name)
        store.objects[name] = store.objects[name][:200] + b"?" + store.objects[name][201:]
        b = scene.member("b", "a")
        b.archive_url = "memory:archive"
        b.follower.start()
        await scene.until(lambda: b.follower.state in (S.STREAMING, S.FAILED))
        assert "damaged" in " ".join(event.why for event in b.of(StateChanged))


async def test_the_archive_alone_gives_a_store_while_the_primary_is_down() -> None:
    async with FollowScene() as scene:
        a, _ = await archived(scene)
        b = scene.member("b", "a", has_store=False)
        b.archive_url = "memory:archive"
        a.is_down = True
        b.follower.start()
        await scene.until(lambda: b.db is not None)
        assert b.cluster_id == a.cluster_id
        assert log_end(b).position.revision == 21
        assert b.db.marks.visible == 21
        await scene.until(in_state(S.CONNECTING, b))
        a.is_down = False
        await scene.until(streaming(b))
        await same(scene, a, b)
        (fetched,) = b.of(CopyFetched)
        assert fetched.source == "memory:archive"
