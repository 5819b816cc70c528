"""The follower against real stores and real shipping: how it gets a store and its log, whom it follows, how it goes back."""

from __future__ import annotations

from typing import Any

import pytest

from kvserver.base.replication_events import CopyFetched, StateChanged, SuffixLost
from kvserver.base.types import Epoch, LogEnd, Role
from kvserver.commit.ticket import Ticket
from kvserver.replication.states import Lasting
from support.follow_scene import FollowScene, SceneNode
from support.follow_waits import S, in_state, log_end, same, shows, steps, streaming
from support.logs import PATHS


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
        assert b.follower.marks.primary == b.follower.heard_from == b.follower.source == a.address
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


async def test_marks_say_nothing_before_the_log_was_accepted() -> None:
    async with FollowScene() as scene:
        a = scene.primary("a")
        b = scene.member("b", "a")
        heard: list[tuple[Any, ...]] = []
        b.db.hear = lambda *marks: heard.append(marks)  # type: ignore[method-assign]
        a.spoil = lambda envelope: envelope._replace(body=None)  # marks alone, with what the source shows
        b.follower.start()
        await scene.until(lambda: b.follower.marks.visible > 0)
        await scene.pass_s(2)
        assert heard == []


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
        assert (c.follower.heard_from, c.follower.marks.primary) == (b.address, a.address), (
            "it speaks of the primary, and is not it"
        )
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
