"""The follower against real stores and real shipping: every state, what leads to it, and what it does with what goes wrong."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from typing import Any

import pytest

from kvserver.base.errors import Code, Refused
from kvserver.base.replication_events import (
    ArchiveCaughtUp,
    ChunkNotTaken,
    CopyFetched,
    StateChanged,
    SuffixLost,
)
from kvserver.base.types import Epoch, LogEnd, Role
from kvserver.commit.ticket import Ticket
from kvserver.replication.messages import Accepted, Chunk, Diverged, Envelope, Gone, HashAt
from kvserver.replication.states import FollowerState, Lasting
from support.follow_scene import FollowScene, SceneNode, log_end
from support.logs import PATHS
from support.memfs import os_error
from support.memory_store import MemoryStore
from support.stores import content

S = FollowerState


def in_state(state: FollowerState, *nodes: SceneNode) -> Callable[[], bool]:
    return lambda: all(node.follower.state is state for node in nodes)


def streaming(*nodes: SceneNode) -> Callable[[], bool]:
    return in_state(S.STREAMING, *nodes)


def shows(node: SceneNode, revision: int) -> Callable[[], bool]:
    return lambda: node.db is not None and node.db.marks.visible >= revision


def steps(node: SceneNode) -> list[tuple[str, str]]:
    return [(event.old, event.new) for event in node.of(StateChanged) if event.old != event.new]


async def same(scene: FollowScene, one: SceneNode, other: SceneNode) -> None:
    """Wait until both have the same log and show the same."""
    await scene.until(lambda: bool(one.db and other.db) and log_end(one) == log_end(other))
    await scene.until(lambda: bool(one.db and other.db) and one.db.marks.visible == other.db.marks.visible)
    assert one.db is not None and other.db is not None
    assert content(one.db) == content(other.db)


async def test_an_empty_store_is_shipped_from_the_begin_of_the_log() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        a.put("x", "y")
        b = scene.member("b", "a")
        assert b.follower.state is S.EMPTY
        b.follower.start()
        await scene.until(streaming(b))
        await scene.until(shows(b, a.put("z")))
        await same(scene, a, b)
        assert steps(b) == [("EMPTY", "CONNECTING"), ("CONNECTING", "CATCHUP_STREAM"), ("CATCHUP_STREAM", "STREAMING")]
        assert all(event.why for event in b.of(StateChanged))
        assert b.follower.machine.counts["CATCHUP_STREAM", "STREAMING"] == 1
        assert b.follower.marks.primary == a.address
        assert b.follower.source == a.address
        assert b.heard[-1] == (a.db.history.current, a.address)


async def test_a_folder_without_a_store_is_given_a_copy() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        a.put("x", "y")
        b = scene.member("b", "a", has_store=False)
        b.follower.start()
        await scene.until(streaming(b))
        await scene.until(shows(b, a.put("z")))
        await same(scene, a, b)
        assert b.cluster_id == a.cluster_id
        assert steps(b)[:2] == [("EMPTY", "RESTORING"), ("RESTORING", "CONNECTING")]
        (fetched,) = b.of(CopyFetched)
        assert fetched.source == a.address and fetched.files >= 2
        await scene.pass_s(1)
        assert a.node.disk.list_dir(PATHS.scratch) == []


async def test_a_log_that_is_gone_is_fetched_as_a_copy_where_there_is_no_archive() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        a.put("x", "y")
        a.seal()
        a.flush()
        assert a.db._log.first_revision() > 2
        b = scene.member("b", "a")
        b.follower.start()
        await scene.until(streaming(b))
        await scene.until(shows(b, a.put("z")))
        await same(scene, a, b)
        assert ("WAL_GONE", "RESTORING") in steps(b)


async def test_what_is_acknowledged_is_durable_and_of_the_current_epoch() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        b = scene.member("b", "a")
        b.follower.start()
        await scene.until(streaming(b))
        durable_when_acknowledged: list[tuple[int, int]] = []
        receive = b.db.receive

        def watched(segment_id: int, offset: int, data: bytes) -> Ticket[LogEnd]:
            ticket = receive(segment_id, offset, data)
            acks = scene.acks["b", "a"]
            assert all(ack.durable <= log_end(b).position.revision for ack in acks)
            durable_when_acknowledged.append((acks[-1].durable, log_end(b).position.revision))
            return ticket

        b.db.receive = watched  # type: ignore[method-assign]
        for number in range(5):
            await scene.until(shows(b, a.put(f"{number}")))
        await scene.until(lambda: scene.acks["b", "a"][-1].durable == log_end(a).position.revision)
        last = scene.acks["b", "a"][-1]
        assert last.epoch == a.db.history.current
        assert last.applied == last.durable == last.received
        assert durable_when_acknowledged
        before = len(scene.acks["b", "a"])
        await scene.pass_s(3.5)
        assert len(scene.acks["b", "a"]) >= before + 3, "a sign of life every second"


async def test_a_source_that_cannot_be_reached_is_tried_again_and_again() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        b = scene.member("b", "a")
        b.follower.start()
        await scene.until(streaming(b))
        a.is_down = True
        a.put("x")
        await scene.until(in_state(S.CONNECTING, b))
        await scene.until(lambda: "a:7400 cannot be reached" in b.follower.reason)
        await scene.pass_s(60)
        assert b.follower.state is S.CONNECTING
        assert len([event for event in b.of(StateChanged) if "cannot be reached" in event.why]) == 1, "one line, not one a try"
        a.is_down = False
        await scene.until(shows(b, a.put("y")))
        await same(scene, a, b)


async def test_a_silent_connection_is_given_up() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        b = scene.member("b", "a")
        b.follower.start()
        await scene.until(streaming(b))
        a.spoil = lambda envelope: None
        await scene.until(lambda: b.follower.state is not S.STREAMING)
        assert "nothing was heard for 1" in b.follower.reason
        a.spoil = lambda envelope: envelope
        await scene.until(streaming(b))


async def test_a_follower_that_names_the_primary_is_passed_by() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        b, c = scene.member("b", "a"), scene.member("c", "b")
        for node in (b, c):
            node.follower.start()
        await scene.until(streaming(b, c))
        assert c.follower.source == a.address
        await scene.until(shows(c, a.put("x")))
        await same(scene, a, c)


async def test_a_follower_is_followed_where_that_is_asked_for() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        b, c = scene.member("b", "a"), scene.member("c", "b")
        c.cascades = True
        for node in (b, c):
            node.follower.start()
        await scene.until(streaming(b, c))
        assert c.follower.source == b.address
        await scene.until(shows(c, a.put("x")))
        await same(scene, a, c)
        await same(scene, b, c)


async def test_followers_of_each_other_are_refused_by_name_and_tried_again() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        b, c, d = scene.member("b", "c"), scene.member("c", "d"), scene.member("d", "b")
        for node in (b, c, d):
            node.cascades = True
            node.follower.start()
        await scene.until(lambda: any(node.follower.state is S.FAILED for node in (b, c, d)))
        failed = next(node for node in (b, c, d) if node.follower.state is S.FAILED)
        assert "nobody would be first" in failed.follower.reason
        assert failed.follower.machine.lasting is Lasting.TIME
        d.named = a.address
        d.follower.wake()
        await scene.until(streaming(b, c, d))


async def strangers(scene: FollowScene) -> dict[str, tuple[dict[str, Any], str]]:
    identity = scene.nodes["a"].identity()
    return {
        "another cluster": ({"identity": identity._replace(cluster_id=bytes(16))}, "is a node of cluster 0000"),
        "another register": ({"identity": identity._replace(register_id="other")}, "sees the register 'other'"),
        "the same name": ({"identity": identity._replace(name="b")}, "is called 'b'"),
        "the very node": ({"identity": scene.nodes["b"].identity()}, "is this very node"),
    }


@pytest.mark.parametrize("what", ["another cluster", "another register", "the same name", "the very node"])
async def test_a_stranger_is_refused_until_another_source_is_named(what: str) -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        b, c = scene.member("b", "a"), scene.member("c", "a")
        a.changes, why = (await strangers(scene))[what]
        b.follower.start()
        await scene.until(in_state(S.FAILED, b))
        assert why in b.follower.reason
        assert b.follower.machine.lasting is Lasting.SOURCE
        await scene.pass_s(100)
        assert b.follower.state is S.FAILED
        assert not scene.hellos, "nothing was asked of it"
        a.changes = {}
        c.follower.start()
        await scene.until(streaming(c))
        b.named = c.address
        b.cascades = True
        await scene.until(streaming(b))


async def test_a_node_does_not_follow_its_own_address() -> None:
    async with FollowScene() as scene:
        scene.primary("a")
        b = scene.member("b", "b")
        b.follower.start()
        await scene.until(in_state(S.FAILED, b))
        assert "its own address" in b.follower.reason or "own address" in b.follower.reason


async def test_a_lower_epoch_than_was_promised_is_not_followed() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        b, c = scene.member("b", "a"), scene.member("c", "a")
        for node in (b, c):
            node.follower.start()
        await scene.until(shows(b, a.put("x")))
        await scene.until(shows(c, a.db.marks.visible))
        end = log_end(b)
        b.promised = Epoch(2, 5)
        a.put("y")
        await scene.until(in_state(S.FENCED, b))
        await scene.pass_s(30)
        assert b.follower.state is S.FENCED and "promised to obey epoch 2" in b.follower.reason
        assert log_end(b) == end, "nothing was taken any more"
        await c.follower.stop()
        c.promote(follows=(b,))
        await scene.until(streaming(b))
        await scene.until(shows(b, c.put("z")))
        await same(scene, b, c)


async def test_the_same_number_with_another_nonce_halts() -> None:
    async with FollowScene() as scene:
        scene.primary("a")
        b = scene.member("b", "a")
        b.promised = Epoch(1, 5)
        b.follower.start()
        await scene.until(in_state(S.FAILED, b))
        assert "two nodes have claimed one number" in b.follower.reason
        assert b.follower.machine.lasting is Lasting.OPERATOR


async def parted(scene: FollowScene, lost: int = 3) -> tuple[SceneNode, SceneNode]:
    """The old primary with commits that nobody else has, as follower; and the new one."""
    a = scene.primary("a")
    b = scene.member("b", "a")
    b.follower.start()
    await scene.until(streaming(b))
    await scene.until(shows(b, a.put("x")))
    await b.follower.stop()
    a.put(*(f"lost-{number}" for number in range(lost)))
    a.scene.nodes.pop("a")
    b.promote()
    b.put("new", "newer")
    a.scene.nodes["a"] = a
    a.named = b.address
    return a, b


def back_as_follower(a: SceneNode) -> None:
    a.close()
    a.open(Role.FOLLOWER)
    a.make_follower()
    a.follower.start()


async def test_a_deposed_primary_gives_up_what_nobody_else_has_and_keeps_it_aside() -> None:
    async with FollowScene() as scene:
        a, b = await parted(scene)
        back_as_follower(a)
        await scene.until(streaming(a))
        await same(scene, a, b)
        (lost,) = a.of(SuffixLost)
        assert (lost.first_revision, lost.last_revision, lost.kept_from_revision) == (3, 5, 3)
        assert ("CONNECTING", "DIVERGED") in steps(a) and ("DIVERGED", "CONNECTING") in steps(a)
        assert "3 revisions were given up, and kept in" in " ".join(event.why for event in a.of(StateChanged))
        assert a.reopened == 1


async def test_a_deposed_primary_whose_tables_are_beyond_fetches_its_store_anew() -> None:
    async with FollowScene() as scene:
        a, b = await parted(scene)
        a.flush()
        back_as_follower(a)
        await scene.until(streaming(a))
        await same(scene, a, b)
        assert ("DIVERGED", "RESTORING") in steps(a)
        (lost,) = a.of(SuffixLost)
        assert (lost.first_revision, lost.last_revision) == (3, 5)


async def test_histories_that_part_again_and_again_end_in_failure() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        a.put("x")
        b = scene.member("b", "a")
        b.follower.start()
        await scene.until(shows(b, 2))

        def parted_again(envelope: Envelope) -> Envelope:
            if not isinstance(envelope.body, Accepted):
                return envelope
            return envelope._replace(body=Diverged(log_end(b).position, a.db.history.current, []))

        a.spoil = parted_again
        a.is_down = True
        await scene.until(in_state(S.CONNECTING, b))
        a.is_down = False
        await scene.until(in_state(S.FAILED, b))
        assert "times in a row" in b.follower.reason and b.follower.machine.lasting is Lasting.OPERATOR
        assert b.follower.machine.counts["CONNECTING", "DIVERGED"] == 4


async def test_a_log_that_is_gone_again_and_again_ends_in_failure() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        a.put("x")
        b = scene.member("b", "a")
        a.spoil = lambda envelope: envelope._replace(body=Gone(9, 0)) if envelope.body else envelope
        b.follower.start()
        await scene.until(in_state(S.FAILED, b))
        assert "times in a row" in b.follower.reason
        b.follower.reinit()
        a.spoil = lambda envelope: envelope
        await scene.until(streaming(b))
        assert ("FAILED", "RESTORING") in steps(b)


def flipped(envelope: Envelope) -> Envelope:
    body = envelope.body
    if not isinstance(body, Chunk):
        return envelope
    data = bytearray(body.data)
    data[-1] ^= 1
    return envelope._replace(body=body._replace(data=bytes(data)))


def shifted(envelope: Envelope) -> Envelope:
    body = envelope.body
    return envelope._replace(body=body._replace(offset=body.offset + 8)) if isinstance(body, Chunk) else envelope


def truncated(envelope: Envelope) -> Envelope:
    body = envelope.body
    return envelope._replace(body=body._replace(data=body.data[:-8])) if isinstance(body, Chunk) else envelope


def of_another(envelope: Envelope) -> Envelope:
    body = envelope.body
    return envelope._replace(body=body._replace(segment_id=body.segment_id ^ 1)) if isinstance(body, Chunk) else envelope


def unannounced(envelope: Envelope) -> Envelope | None:
    return None if isinstance(envelope.body, Accepted) else envelope


def accepted_twice(envelope: Envelope) -> Envelope:
    return envelope._replace(body=Accepted(1, 0, [])) if isinstance(envelope.body, Chunk) else envelope


@pytest.mark.parametrize("spoil", [flipped, shifted, truncated, of_another, unannounced, accepted_twice])
async def test_what_does_not_check_is_not_taken_and_ends_in_failure(spoil: Callable[[Envelope], Envelope | None]) -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        a.put("x")
        b = scene.member("b", "a")
        a.spoil = spoil
        b.follower.start()
        await scene.until(in_state(S.FAILED, b))
        assert [event.times for event in b.of(ChunkNotTaken)] == [1, 2, 3, 4, 5]
        assert b.follower.machine.lasting is Lasting.SOURCE
        assert log_end(b).position.revision == 1
        assert content(b.db) == {}


async def test_a_chunk_that_was_refused_once_is_asked_for_again() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        a.put("x")
        b = scene.member("b", "a")
        times = iter([True, True])
        a.spoil = lambda envelope: flipped(envelope) if isinstance(envelope.body, Chunk) and next(times, False) else envelope
        b.follower.start()
        await scene.until(streaming(b))
        await same(scene, a, b)


async def test_a_full_disk_is_waited_for() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        b = scene.member("b", "a")
        b.follower.start()
        await scene.until(streaming(b))
        receive = b.db.receive

        def full(segment_id: int, offset: int, data: bytes) -> Ticket[LogEnd]:
            ticket: Ticket[LogEnd] = Ticket(None, lambda end: end)
            ticket.fail(Refused(Code.DISK_FULL, "the disk of the log is full"))
            return ticket

        b.db.receive = full  # type: ignore[method-assign]
        revision = a.put("x")
        await scene.until(in_state(S.CONNECTING, b))
        await scene.pass_s(100)
        assert "a disk is full" in b.follower.reason and b.follower.state is not S.FAILED
        b.db.receive = receive  # type: ignore[method-assign]
        await scene.until(shows(b, revision))


async def test_a_full_disk_while_a_copy_is_fetched_is_waited_for_too() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        a.put("x")
        b = scene.member("b", "a", has_store=False)
        b.node.disk.free_space_bytes = 1000
        b.follower.start()
        await scene.until(lambda: "free" in b.follower.reason)
        assert b.follower.state is S.RESTORING
        await scene.pass_s(60)
        assert b.follower.state is S.RESTORING
        b.node.disk.free_space_bytes = 1 << 40
        await scene.until(streaming(b))


async def test_a_mistake_of_the_disk_says_so() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        b = scene.member("b", "a", has_store=False)

        def broken(part: Any) -> Any:
            raise os_error(errno.ENOSPC)

        a.spoil_part = broken
        b.follower.start()
        await scene.until(lambda: "disk is full" in b.follower.reason)


async def test_the_content_is_looked_at_exactly_at_a_hash_point() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        b = scene.member("b", "a")
        b.follower.start()
        await scene.until(streaming(b))
        assert a.shipping is not None
        point = a.put("x") + 1
        a.spoil = lambda envelope: envelope._replace(marks=envelope.marks._replace(hash_point=point))
        await scene.until(shows(b, point - 1))
        await scene.until(shows(b, a.put("y")))
        await scene.until(shows(b, a.put("z", "and", "more")))
        assert b.points == [(point, point)]
        a.spoil = lambda envelope: envelope._replace(body=HashAt(point, b"h" * 32)) if envelope.body is None else envelope
        await scene.until(lambda: bool(b.hashes))
        assert b.hashes[0] == (point, b"h" * 32)


async def test_a_pause_leaves_nothing_under_way() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        b = scene.member("b", "a")
        b.follower.start()
        await scene.until(streaming(b))
        revision = a.put(*(f"{number}" for number in range(50)))
        for _ in range(12):
            await asyncio.sleep(0)
        await b.follower.pause()
        end = log_end(b)
        assert b.follower.source == ""
        await scene.pass_s(20)
        assert log_end(b) == end
        assert b.follower.state is S.CONNECTING and "told to follow nobody" in b.follower.reason
        b.follower.resume()
        await scene.until(shows(b, revision))
        await same(scene, a, b)


async def test_a_store_is_fetched_anew_when_an_operator_wants_it() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        b = scene.member("b", "a")
        b.follower.start()
        await scene.until(shows(b, a.put("x")))
        b.follower.reinit()
        await scene.until(lambda: b.reopened == 1 and b.follower.state is S.STREAMING)
        await same(scene, a, b)


async def test_a_copy_that_does_not_check_is_fetched_again_and_then_given_up() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        a.put("x")
        b = scene.member("b", "a", has_store=False)
        a.spoil_part = lambda part: [part._replace(data=b"?" + part.data[1:]) if part.data else part]
        b.follower.start()
        await scene.until(in_state(S.FAILED, b))
        assert "5 times in a row" in b.follower.reason and b.follower.machine.lasting is Lasting.SOURCE
        assert b.db is None


# -- the archive --------------------------------------------------------------------------------------------------------


async def archived(scene: FollowScene) -> tuple[SceneNode, MemoryStore]:
    """A primary of which the log up to somewhere is in the archive alone."""
    a = scene.primary("a")
    store = scene.archives["memory:archive"] = MemoryStore()
    for number in range(4):
        a.put(*(f"{number}-{index}" for index in range(5)), value=bytes(3000))
        a.seal()
    a.archive(store)
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
        a, store = await archived(scene)
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
