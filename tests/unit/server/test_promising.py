"""A node is asked for its promise: what it must have done before it answers, and what it refuses without changing anything."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from kvserver.base.environment import Environment
from kvserver.base.errors import Code, KvError
from kvserver.base.types import NO_EPOCH, Epoch, Role
from kvserver.commit.requests import Put
from kvserver.replication.messages import NodeIdentity
from kvserver.replication.vow import Vow
from kvserver.server.promising import give_promise
from support.fake_log import outcome
from support.logs import PATHS
from support.stores import do, settle
from unit.engine.followed import Node, SharedRegister

CANDIDATE = NodeIdentity(bytes(16), "b", "id of b", "b:7400", "register")


class Scene:
    """A primary of epoch 1 with a commit, and what is asked of its member."""

    def __init__(self) -> None:
        self.node = Node("a", SharedRegister())
        self.database = self.node.open(Role.PRIMARY)
        do(self.database, Put(1, b"k", b"v"))
        self.vow = Vow.open(Environment(self.node.disk, self.node.clock, random.Random(1).randbytes), PATHS)
        self.done: list[str] = []
        self.life: Any = SimpleNamespace(database=self.database, role=Role.PRIMARY, has_failed=False)
        self.member: Any = SimpleNamespace(
            life=self.life,
            is_stopping=False,
            vow=self.vow,
            identity=lambda: CANDIDATE._replace(name="a", node_id="id of a"),
            fence=self._fence,
            parts=SimpleNamespace(promised=self._promised, not_following=self._not_following),
        )

    def _fence(self, error: KvError, why: str) -> None:
        assert self.vow.promised == NO_EPOCH, "a promise of a primary that still acknowledges is none"
        self.done.append(f"fenced: {why}")
        self.database.pipeline.fence(error)

    def _promised(self, given: bool) -> tuple[bool, Epoch, int]:
        return given, self.vow.promised, self.database.log_end().position.revision

    @contextlib.asynccontextmanager
    async def _not_following(self) -> AsyncIterator[None]:
        assert self.vow.promised == NO_EPOCH, "what is under way would be acknowledged behind the promise"
        self.done.append("follows nobody")
        yield

    async def promise(self, epoch: Epoch, **changes: Any) -> Any:
        return await give_promise(self.member, epoch, CANDIDATE._replace(**changes))


async def test_a_primary_is_fenced_and_its_log_stands_still_before_it_promises() -> None:
    scene = Scene()
    late = scene.database.submit(Put(1, b"late", b"v"), lambda done: done)
    asked = asyncio.ensure_future(scene.promise(Epoch(2, 5)))
    for _ in range(5):
        await asyncio.sleep(0)
    assert scene.done == ["fenced: b becomes primary under epoch 2"]
    assert not asked.done() and scene.vow.promised == NO_EPOCH, "a write is on its way to the disk"
    settle(scene.database)
    assert await asked == (True, Epoch(2, 5), 3), "and its end is told with it"
    assert outcome(late).code is Code.OUTCOME_UNKNOWN, "the candidate may lack it"
    assert scene.done[1:] == ["follows nobody"]
    with pytest.raises(KvError):
        do(scene.database, Put(1, b"later", b"v"))


@pytest.mark.parametrize("epoch", [Epoch(1, 5), NO_EPOCH])
async def test_a_primary_obeys_no_epoch_that_is_not_above_its_own_and_goes_on(epoch: Epoch) -> None:
    scene = Scene()
    given, promised, _ = await scene.promise(epoch)
    assert not given and promised == NO_EPOCH and scene.done == []
    do(scene.database, Put(1, b"on", b"v"))


async def test_what_it_promised_to_another_is_not_promised_again_and_fences_nobody() -> None:
    scene = Scene()
    scene.vow.promise(Epoch(3, 3))
    for epoch in (Epoch(2, 2), Epoch(3, 4)):
        given, promised, _ = await scene.promise(epoch)
        assert not given and promised == Epoch(3, 3)
    assert scene.done == []


async def test_a_follower_lets_go_of_whom_it_follows_first() -> None:
    scene = Scene()
    scene.life.role = Role.FOLLOWER
    assert await scene.promise(Epoch(2, 5)) == (True, Epoch(2, 5), 2)
    assert scene.done == ["follows nobody"]


@pytest.mark.parametrize("changes", [{"cluster_id": bytes(15) + b"x"}, {"register_id": "another"}])
async def test_a_stranger_is_promised_nothing(changes: dict[str, Any]) -> None:
    scene = Scene()
    with pytest.raises(KvError) as caught:
        await scene.promise(Epoch(2, 5), **changes)
    assert caught.value.code is Code.WRONG_PEER
    assert scene.vow.promised == NO_EPOCH and scene.done == []
