"""The watch over the register: one that hangs, fails, takes nothing; and who may rely on what a look saw."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from kvserver.base.errors import Code, ReplicationError
from kvserver.base.register import EpochRecord, NodeRecord, PolicyNote
from kvserver.base.types import Epoch
from kvserver.server import register_watch
from kvserver.server.register_watch import RegisterWatch, RememberedRegister

ME = NodeRecord("a", "id of a", "a:1")


def record(number: int, nonce: int = 1, begun: bool = False, node: str = "a") -> EpochRecord:
    return EpochRecord(Epoch(number, nonce), f"id of {node}", 0, None, begun, node)


class Register:
    """A register in memory that fails, hangs and counts."""

    id = "r"
    url = "memory:"
    founded = None

    def __init__(self) -> None:
        self.held: list[EpochRecord] = []
        self.joined: list[NodeRecord] = []
        self.fails: BaseException | None = None
        self.takes_nothing = False
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.readings = 0

    def records(self) -> list[EpochRecord]:
        self.readings += 1
        found = list(self.held)
        self.may_go_on.wait(20)
        if self.fails is not None:
            raise self.fails
        return found

    def nodes(self) -> list[NodeRecord]:
        return list(self.joined)

    def notes(self) -> list[PolicyNote]:
        return []

    def join(self, node: NodeRecord) -> None:
        if self.takes_nothing:
            raise ReplicationError(Code.REGISTER_UNAVAILABLE, "it is mounted read-only")
        self.joined.append(node)


@pytest.fixture
def register() -> Register:
    return Register()


@pytest.fixture
def looks() -> list[int]:
    return []


@pytest.fixture
def watch(register: Register, looks: list[int]) -> RegisterWatch:
    found: Any = register
    made = RegisterWatch(found, lambda: looks.append(len(made.records)))
    return made


async def test_what_was_seen_stays_known_and_that_nothing_new_was_is_said(
    watch: RegisterWatch, register: Register, looks: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    register.held = [record(1, begun=True), record(2)]
    await watch.look()
    assert (watch.looked, watch.error, looks) == (True, "", [2])
    newest, begun = watch.newest_claim(), watch.newest_begun()
    assert newest is not None and begun is not None and (newest.epoch.number, begun.epoch.number) == (2, 1)
    register.fails = ReplicationError(Code.REGISTER_UNAVAILABLE, "it is gone")
    for _ in range(3):
        await watch.look()
    assert (watch.error, len(watch.records), looks) == ("it is gone", 2, [2])
    assert caplog.text.count("the register cannot be read") == 1
    register.fails = None
    await watch.look()
    assert (watch.error, looks) == ("", [2, 2])


async def test_another_epoch_of_one_number_is_found(watch: RegisterWatch, register: Register) -> None:
    register.held = [record(1), record(2, nonce=7)]
    await watch.look()
    assert watch.twin_of(Epoch(2, 7)) is None and watch.twin_of(Epoch(3, 1)) is None
    twin = watch.twin_of(Epoch(2, 8))
    assert twin is not None and twin.epoch == Epoch(2, 7)


async def test_a_register_that_hangs_is_given_up_and_gets_no_second_thread(
    watch: RegisterWatch, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(register_watch, "ANSWER_S", 0.02)
    register.may_go_on.clear()
    for _ in range(3):
        await watch.look()
    assert "has not answered" in watch.error and not watch.looked and register.readings == 1
    register.may_go_on.set()
    monkeypatch.setattr(register_watch, "ANSWER_S", 5.0)
    await watch.look()
    assert (watch.error, watch.looked, register.readings) == ("", True, 2)


async def test_a_look_has_begun_behind_the_question(watch: RegisterWatch, register: Register) -> None:
    register.may_go_on.clear()
    first = asyncio.create_task(watch.look())
    while not register.readings:  # noqa: ASYNC110 - it is on a thread
        await asyncio.sleep(0)
    register.held = [record(1)]  # the first look has passed this place
    second = asyncio.create_task(watch.look())
    register.may_go_on.set()
    await first
    assert watch.records == []
    await second
    assert len(watch.records) == 1


async def test_a_register_that_takes_no_address_is_read_all_the_same(watch: RegisterWatch, register: Register) -> None:
    watch.me, register.takes_nothing = ME, True
    register.held = [record(1)]
    await watch.look()
    assert (watch.error, len(watch.records), register.joined) == ("", 1, [])
    register.takes_nothing = False
    for _ in range(2):
        await watch.look()
    assert register.joined == [ME] and watch.named("a", "id of a") == ME and watch.named("a", "another") is None


async def test_a_fault_in_what_follows_a_look_does_not_end_the_watch(
    register: Register, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(register_watch, "LOOK_S", 0.0)
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            raise ValueError("a mistake")

    found: Any = register
    watch = RegisterWatch(found, look)
    await watch.start()
    async with asyncio.timeout(5):
        while looks < 4:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0)
    await watch.stop()
    assert "a fault while the register was looked at" in caplog.text
    count = looks
    for _ in range(5):
        await asyncio.sleep(0)
    assert looks == count


async def test_a_followers_start_does_with_what_was_seen_last(watch: RegisterWatch, register: Register) -> None:
    register.held = [record(1)]
    await watch.look()
    found: Any = register
    remembered = RememberedRegister(found, watch)
    register.held = [record(1), record(2)]
    assert len(remembered.records()) == 2
    register.fails = ReplicationError(Code.REGISTER_UNAVAILABLE, "it is gone")
    assert len(remembered.records()) == 1


async def test_a_primary_takes_its_name_back_from_a_node_that_joined_under_it(register: Register) -> None:
    watch = RegisterWatch(register, lambda: None)  # type: ignore[arg-type]
    watch.me = ME
    register.held = [record(1, begun=True)]
    watch.leads = Epoch(1, 1)
    await watch.look()
    stranger = NodeRecord("a", "id of another", "b:1")
    register.joined = [stranger]
    await watch.look()
    await watch.look()
    assert register.joined == [stranger, ME]


async def test_a_follower_leaves_its_name_to_whoever_joined_last(register: Register) -> None:
    watch = RegisterWatch(register, lambda: None)  # type: ignore[arg-type]
    watch.me = ME
    register.held = [record(1, begun=True, node="b")]
    await watch.look()
    register.joined = [NodeRecord("a", "id of another", "c:1")]
    await watch.look()
    await watch.look()
    assert len(register.joined) == 1
