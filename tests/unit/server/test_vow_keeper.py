"""What a follower writes down about promises by itself, and that it cannot count with half of what it may have acknowledged."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kvserver.base.environment import Environment
from kvserver.base.paths import DataPaths
from kvserver.base.types import NO_EPOCH, Epoch, LogEnd, Position
from kvserver.replication.messages import ShippedMarks
from kvserver.replication.vow import UNKNOWN_LOST, Vow
from kvserver.server.describing import heard_from_primary
from kvserver.server.vow_keeper import VowKeeper


@pytest.mark.parametrize(
    ("heard_from", "primary", "heard"),
    [("p:1", "p:1", 7), ("f:1", "p:1", 0), ("f:1", "", 0), ("", "", 0)],
    ids=["the primary itself", "another follower", "one that knows no primary", "nobody"],
)
def test_only_the_primarys_own_word_says_what_was_acknowledged(heard_from: str, primary: str, heard: int) -> None:
    # The follower may be on its way to the primary that the other one named.
    driver = SimpleNamespace(source="p:1", heard_from=heard_from, marks=ShippedMarks(durable=7, primary=primary))
    member: Any = SimpleNamespace(parts=SimpleNamespace(driver=driver))
    assert heard_from_primary(member) == heard


class Scene:
    """A follower's folder and a log that ends where the test says."""

    def __init__(self, folder: Path) -> None:
        self.env, self.paths = Environment(), DataPaths(folder)
        self.vow = Vow.open(self.env, self.paths)
        self.keeper = VowKeeper(lambda: self.vow)
        self.end = Position(NO_EPOCH, 0, b"")
        self.database: Any = SimpleNamespace(log_end=lambda: LogEnd(self.end, 0, 0))

    async def tick(self, revision: int, heard: int, epoch: Epoch = NO_EPOCH) -> None:
        self.end = Position(epoch, revision, b"")
        self.keeper.tick(self.database, heard)
        if self.keeper._under_way is not None:
            await asyncio.wait([self.keeper._under_way])

    def after_kill(self) -> Vow:
        """Return what the next process finds."""
        return Vow.open(self.env, self.paths)


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def test_a_new_folder_counts_when_it_has_what_its_name_may_have_acknowledged(scene: Scene) -> None:
    await scene.keeper.begin(scene.database)
    assert scene.after_kill().needs_revision == UNKNOWN_LOST, "before the first byte of a log"
    await scene.tick(revision=5, heard=0)
    assert scene.after_kill().needs_revision == UNKNOWN_LOST
    await scene.tick(revision=5, heard=20)
    assert scene.after_kill().needs_revision == 20
    await scene.tick(revision=19, heard=30)
    assert not scene.after_kill().is_complete
    await scene.tick(revision=20, heard=30)
    assert scene.after_kill().is_complete and scene.vow.is_complete


async def test_a_follower_of_an_empty_cluster_counts_at_once(scene: Scene) -> None:
    await scene.keeper.begin(scene.database)
    await scene.tick(revision=1, heard=1)
    assert scene.vow.is_complete


async def test_a_folder_that_obeyed_somebody_or_holds_something_has_lost_nothing(scene: Scene) -> None:
    scene.vow.promise(Epoch(1, 1))
    await scene.keeper.begin(scene.database)
    assert scene.vow.is_complete
    scene.vow = Vow(scene.env.fs, scene.paths, NO_EPOCH, 0)
    scene.end = Position(Epoch(1, 1), 7, b"")
    await scene.keeper.begin(scene.database)
    assert scene.vow.is_complete


async def test_the_epoch_that_is_followed_is_obeyed_for_good_and_no_lower_one(scene: Scene) -> None:
    await scene.tick(revision=5, heard=5, epoch=Epoch(3, 9))
    assert scene.after_kill().promised == Epoch(3, 9)
    await scene.tick(revision=6, heard=6, epoch=Epoch(2, 1))
    await scene.tick(revision=6, heard=6, epoch=Epoch(3, 10))
    assert scene.after_kill().promised == Epoch(3, 9)


async def test_what_was_lost_is_not_made_less_by_what_is_heard(scene: Scene) -> None:
    scene.vow.note_lost(50)
    await scene.tick(revision=20, heard=20)
    assert scene.after_kill().needs_revision == 50


async def test_a_disk_that_hangs_is_waited_for_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    may_go_on, calls = threading.Event(), []

    def promise(epoch: Epoch) -> bool:
        calls.append(epoch)
        may_go_on.wait(10)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(scene.vow, "promise", promise)
    scene.end = Position(Epoch(3, 9), 5, b"")
    for _ in range(3):
        scene.keeper.tick(scene.database, 5)
        await asyncio.sleep(0)
    may_go_on.set()
    assert scene.keeper._under_way is not None
    await asyncio.wait([scene.keeper._under_way])
    assert calls == [Epoch(3, 9)]
    await scene.tick(revision=5, heard=5, epoch=Epoch(3, 9))
    assert len(calls) == 2, "what went wrong is tried again with the next tick"
