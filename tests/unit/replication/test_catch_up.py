"""A candidate that catches up with another node: exactly up to where that node said its log ends, or not at all."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvserver.base.errors import Code, KvError, NotServing, ReplicationError
from kvserver.base.types import Epoch, LogEnd
from kvserver.replication.catch_up import catch_up
from kvserver.replication.messages import Chunk, Diverged, Envelope, Gone
from support.follow_scene import FollowScene, SceneNode
from support.follow_waits import log_end


async def ahead(scene: FollowScene) -> tuple[SceneNode, SceneNode]:
    """Two members that stopped to follow; the second has more."""
    a = scene.primary("a")
    b, c = scene.member("b", "a"), scene.member("c", "a")
    for node in (b, c):
        node.follower.start()
    revision = a.put("x")
    await scene.until(lambda: b.db.marks.applied == c.db.marks.applied == revision)
    await b.follower.stop()
    revision = a.put("y", "z")
    await scene.until(lambda: c.db.marks.applied == revision)
    await c.follower.stop()
    a.is_down = True
    return b, c


async def caught_up(candidate: SceneNode, other: SceneNode, end: LogEnd | None = None) -> None:
    floor = candidate.follower._floor
    await catch_up(candidate, floor, candidate.peers(other.address), end or log_end(other))


async def test_a_candidate_comes_to_the_same_position_and_hangs_up() -> None:
    async with FollowScene() as scene:
        b, c = await ahead(scene)
        end = log_end(c)
        await caught_up(b, c)
        assert log_end(b).position == end.position
        assert b.db.marks.applied == end.position.revision
        (_, hello) = scene.hellos[-1]
        assert hello.only_log
        assert not [slot for slot in c.shipping.slots() if slot.name == "b"]
        asked = len(scene.hellos)
        await caught_up(b, c)
        assert len(scene.hellos) == asked, "it is there already"


async def test_more_than_was_promised_about_is_not_waited_for() -> None:
    async with FollowScene() as scene:
        b, c = await ahead(scene)
        c.spoil = lambda envelope: envelope._replace(marks=envelope.marks._replace(pending_bytes=1 << 30))
        await caught_up(b, c)


@pytest.mark.parametrize("what", ["gone", "diverged", "beyond", "another chain", "another nonce"])
async def test_another_history_refuses_the_promotion(what: str) -> None:
    async with FollowScene() as scene:
        b, c = await ahead(scene)
        end, before = log_end(c), log_end(b)
        position = before.position
        spoils: dict[str, Callable[[Envelope], Envelope]] = {
            "gone": lambda envelope: envelope._replace(body=Gone(99, 0)),
            "diverged": lambda envelope: envelope._replace(body=Diverged(position, Epoch(1, 1), [])),
        }
        c.spoil = spoils.get(what, lambda envelope: envelope)
        goal = {
            "beyond": end._replace(position=position._replace(revision=position.revision, chain=bytes(16))),
            "another chain": end._replace(position=end.position._replace(chain=bytes(16))),
            "another nonce": end._replace(position=end.position._replace(epoch=Epoch(1, 99))),
        }.get(what, end)
        with pytest.raises(ReplicationError) as refused:
            await caught_up(b, c, goal)
        assert refused.value.code is Code.PROMOTION_REFUSED
        assert c.address in refused.value.message


async def test_a_chunk_that_does_not_continue_the_log_refuses_it_too() -> None:
    async with FollowScene() as scene:
        b, c = await ahead(scene)

        def spoil(envelope: Envelope) -> Envelope:
            body = envelope.body
            return envelope._replace(body=body._replace(data=body.data[:-1] + b"?")) if isinstance(body, Chunk) else envelope

        c.spoil = spoil
        before = log_end(b)
        with pytest.raises(ReplicationError) as refused:
            await caught_up(b, c)
        assert refused.value.code is Code.PROMOTION_REFUSED
        assert log_end(b) == before


async def test_a_node_that_cannot_be_reached_or_hangs_up_says_so() -> None:
    async with FollowScene() as scene:
        b, c = await ahead(scene)
        c.is_down = True
        with pytest.raises(NotServing):
            await caught_up(b, c)
        c.is_down = False

        def down(envelope: Envelope) -> Envelope | None:
            c.is_down = True
            return None

        c.spoil = down
        with pytest.raises(KvError):
            await caught_up(b, c)


async def test_a_silent_node_is_given_up() -> None:
    async with FollowScene() as scene:
        b, c = await ahead(scene)
        c.spoil = lambda envelope: None
        with pytest.raises(NotServing, match="nothing was heard"):
            await caught_up(b, c)
