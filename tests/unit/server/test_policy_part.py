"""Giving the quorum up and returning to it, against a candidate that claims and reads at the worst moment.

What a candidate reads of the notes is what it relies on: the quorum alone, or the former primary. So at each moment from its
claim on, a primary that does without the quorum must have a note that the candidate will read, or has read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from kvserver.base.errors import Code, KvError
from kvserver.base.events import Event
from kvserver.base.policy import make_policy
from kvserver.base.register import NodeRecord, PolicyNote
from kvserver.base.types import Epoch, Role
from kvserver.commit.requests import Put, SetPolicy
from kvserver.replication.messages import Ack
from kvserver.server.policy_part import PolicyPart
from kvserver.server.register_watch import RegisterWatch
from support.stores import settle
from unit.engine.followed import Node, SharedRegister


class NotedRegister(SharedRegister):
    """A register with notes, that lets something happen around one of its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[PolicyNote] = []
        self.before: dict[str, Callable[[], None]] = {}

    def meet(self, name: str) -> None:
        happens = self.before.pop(name, None)
        if happens is not None:
            happens()

    def records(self) -> list[Any]:
        self.meet("records")
        found = super().records()
        self.meet("nodes")
        return found

    def notes(self) -> list[PolicyNote]:
        return list(self.noted)

    def add_note(self, note: PolicyNote) -> None:
        self.meet("add_note")
        self.noted.append(note)
        self.meet("noted")


class Scene:
    """A primary of which two of three must have everything, and the other two are away."""

    def __init__(self) -> None:
        self.register = NotedRegister()
        self.node = Node("a", self.register)
        self.database = self.node.open(Role.PRIMARY)
        self.epoch = self.database.history.current
        self.events: list[Event] = []
        self.life: Any = SimpleNamespace(database=self.database)
        self.shipping: Any = SimpleNamespace(on_ack=None, on_begins_anew=None)
        self.watch = RegisterWatch(self.register, self._on_look)
        member: Any = SimpleNamespace(
            watch=self.watch,
            register=self.register,
            life=self.life,
            fenced="",
            cluster=SimpleNamespace(members=(), write_quorum=0),
            world=SimpleNamespace(env=SimpleNamespace(clock=self.node.clock), listener=self.events.append),
            identity=lambda: SimpleNamespace(name="a", node_id=self.database.identity.node_id),
        )
        self.part = PolicyPart(member)

    def _on_look(self) -> None:
        self.part.on_look()

    async def lead(self) -> None:
        await self.watch.look()
        self.part.lead(self.life, self.shipping)
        ticket = self.database.submit(SetPolicy(make_policy(2, ["a", "b", "c"])), lambda done: done)
        settle(self.database)
        self.ack()
        assert ticket.done

    def claim(self, number: int = 2) -> list[PolicyNote]:
        """Claim as a candidate; return the notes that it reads then."""
        self.register.claim(Epoch(number, 99), NodeRecord("b", "id of b", ""), 0)
        return self.register.notes()

    def ack(self) -> None:
        durable = self.database.log_end().position.revision
        self.shipping.on_ack("b", "id of b", Ack(self.epoch, durable, durable, durable, 0))

    def shows_alone(self) -> bool:
        """Say whether a write is acknowledged that no other node has."""
        ticket = self.database.submit(Put(1, b"alone", b"value"), lambda done: done)
        settle(self.database)
        return ticket.done


async def started() -> Scene:
    scene = Scene()
    await scene.lead()
    assert not scene.shows_alone()
    return scene


async def test_the_quorum_is_given_up_and_returned_to() -> None:
    scene = await started()
    await scene.part.note(True, "two are away")
    assert scene.shows_alone() and scene.part.is_degraded
    await scene.watch.look()
    await scene.watch.look()
    assert scene.shows_alone()
    with pytest.raises(KvError, match="has not caught up"):
        await scene.part.note(False, "too early")
    assert scene.shows_alone()
    scene.ack()
    await scene.part.note(False, "they are back")
    assert not scene.part.is_degraded and not scene.shows_alone()
    assert [note.degraded for note in scene.register.noted] == [True, False]


async def test_a_claim_before_the_note_keeps_the_quorum_whatever_is_looked_at_later() -> None:
    scene = await started()
    read: list[list[PolicyNote]] = []
    scene.register.before["add_note"] = lambda: read.append(scene.claim())
    with pytest.raises(KvError, match="has claimed epoch 2") as error:
        await scene.part.note(True, "two are away")
    assert error.value.code is Code.FENCED and read == [[]], "the candidate relies on the quorum"
    for _ in range(3):
        assert not scene.shows_alone()
        await scene.watch.look()


async def test_a_look_that_read_the_claims_before_the_note_is_no_leave() -> None:
    """The periodic look: it reads the claims, then a candidate claims, then the note is written, then it reads the notes."""
    scene = await started()
    read: list[list[PolicyNote]] = []

    def meanwhile() -> None:
        read.append(scene.claim())
        scene.register.add_note(PolicyNote(1, scene.epoch, "a", 0, True, "two are away"))

    scene.register.before["nodes"] = meanwhile
    await scene.watch.look()
    assert read == [[]] and scene.part.is_degraded
    assert not scene.shows_alone()
    await scene.watch.look()
    assert not scene.shows_alone()


async def test_a_note_whose_answer_was_lost_counts_from_the_second_look_on() -> None:
    scene = await started()
    scene.register.add_note(PolicyNote(1, scene.epoch, "a", 0, True, "two are away"))
    await scene.watch.look()
    assert not scene.shows_alone()
    await scene.watch.look()
    assert scene.shows_alone()


async def test_giving_up_again_what_a_failed_call_has_noted_takes_effect() -> None:
    scene = await started()
    scene.register.add_note(PolicyNote(1, scene.epoch, "a", 0, True, "two are away"))
    await scene.part.note(True, "again")
    assert scene.shows_alone() and len(scene.register.noted) == 1


@pytest.mark.parametrize("moment", ["records", "add_note", "noted"])
async def test_nothing_is_acknowledged_alone_from_the_return_on(moment: str) -> None:
    """Whoever reads the note relies on the quorum: nothing may be shown alone behind what the quorum has then."""
    scene = await started()
    await scene.part.note(True, "two are away")
    scene.ack()
    alone: list[bool] = []
    loop = asyncio.get_running_loop()

    def meanwhile() -> None:
        asyncio.run_coroutine_threadsafe(try_it(), loop).result(10)

    async def try_it() -> None:
        alone.append(scene.shows_alone())

    scene.register.before[moment] = meanwhile
    await scene.part.note(False, "they are back")
    assert alone == [False]


async def test_a_return_that_failed_is_strict_until_the_quorum_is_given_up_anew() -> None:
    scene = await started()
    await scene.part.note(True, "two are away")
    scene.ack()

    def fails() -> None:
        raise OSError(5, "lost on the way")

    scene.register.before["add_note"] = fails
    with pytest.raises(OSError, match="lost on the way"):
        await scene.part.note(False, "they are back")
    for _ in range(3):
        assert not scene.shows_alone(), "the note may be there a moment later"
        await scene.watch.look()
    await scene.part.note(True, "two are away again")
    assert scene.shows_alone()


@pytest.mark.parametrize("looks", [1, 2])
@pytest.mark.parametrize("claimed", [False, True])
async def test_a_new_primary_goes_on_without_the_quorum_only_where_no_candidate_can_have_missed_that(
    looks: int, claimed: bool
) -> None:
    scene = Scene()
    scene.register.add_note(PolicyNote(1, Epoch(0, 5), "b", 0, True, "two are away"))
    if claimed:
        scene.claim()
    for _ in range(looks - 1):
        await scene.watch.look()
    await scene.watch.look()
    scene.database.submit(SetPolicy(make_policy(2, ["a", "b", "c"])), lambda done: done)
    settle(scene.database)
    scene.part.lead(scene.life, scene.shipping)
    assert scene.shows_alone() is (looks == 2 and not claimed)
