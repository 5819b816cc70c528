"""What the tests of followers wait for and look at."""

from __future__ import annotations

from collections.abc import Callable

from kvserver.base.replication_events import StateChanged
from kvserver.base.types import LogEnd
from kvserver.replication.states import FollowerState
from support.follow_scene import FollowScene, SceneNode
from support.stores import content

S = FollowerState


def log_end(node: SceneNode) -> LogEnd:
    """Return where a node's log ends."""
    assert node.db is not None
    return node.db.log_end()


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
