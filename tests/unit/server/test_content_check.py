"""The comparison of content: what counts as different, how often it has to be, and what is passed over."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from kvserver.base.cluster_events import ContentCompared, ContentDiffers
from kvserver.base.events import Event
from kvserver.server.content_check import ContentCheck

SAME, OTHER = b"s" * 32, b"o" * 32


class Scene:
    """A node whose content hashes to what it is told to, at the revision that its tables have then."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.distrusted: list[str] = []
        self.mine = SAME
        self.found_at = 0
        self.life: Any = self.open()
        self.check = ContentCheck(lambda: self.life, self.events.append, self.distrusted.append)

    def open(self) -> Any:
        database = SimpleNamespace(flush=lambda: None, marks=SimpleNamespace(assigned=10))
        return SimpleNamespace(database=database, copies=SimpleNamespace(hash_flushed=self._hash))

    async def _hash(self, flushing: object) -> Any:
        await asyncio.sleep(0)
        return SimpleNamespace(position=SimpleNamespace(revision=self.found_at), sha256=self.mine)

    async def round(self, revision: int, mine: bytes, theirs: bytes, at: int = 0) -> None:
        """Let this side look at a revision and hear what the other side found; its tables are at ``at``."""
        self.mine, self.found_at = mine, at or revision
        await self.check.on_point(revision)
        await self.check.on_hash(revision, theirs)
        for _ in range(5):
            await asyncio.sleep(0)

    def differed(self) -> list[int]:
        return [event.revision for event in self.events if isinstance(event, ContentDiffers)]


async def test_equal_content_is_said_and_nothing_else() -> None:
    scene = Scene()
    await scene.round(10, SAME, SAME)
    assert scene.events == [ContentCompared(10, SAME.hex())] and scene.distrusted == []


async def test_content_that_differs_once_is_reported_and_twice_in_a_row_distrusted() -> None:
    scene = Scene()
    await scene.round(10, SAME, OTHER)
    assert scene.differed() == [10] and scene.distrusted == []
    await scene.round(20, SAME, SAME)
    await scene.round(30, SAME, OTHER)
    assert scene.distrusted == [], "between the two it was equal"
    await scene.round(40, SAME, OTHER)
    assert len(scene.distrusted) == 1 and "40" in scene.distrusted[0]


async def test_a_hash_of_another_revision_is_compared_with_nothing() -> None:
    scene = Scene()
    for revision in (10, 20, 30):
        await scene.round(revision, SAME, OTHER, at=revision + 1)
    assert scene.events == [] and scene.distrusted == []


async def test_what_a_store_hashed_to_that_is_open_no_more_is_not_compared() -> None:
    scene = Scene()
    scene.found_at = 10
    await scene.check.on_point(10)
    scene.life = scene.open()
    await scene.check.on_hash(10, OTHER)
    for _ in range(5):
        await asyncio.sleep(0)
    assert scene.events == []


async def test_a_store_that_was_fetched_anew_begins_without_a_past() -> None:
    scene = Scene()
    await scene.round(10, SAME, OTHER)
    scene.check.forget()
    await scene.round(20, SAME, OTHER)
    assert scene.distrusted == []


async def test_a_primary_tells_its_hash_of_the_very_revision_that_it_announced() -> None:
    scene = Scene()
    told: list[tuple[int, bytes]] = []
    shipping: Any = SimpleNamespace(announce=lambda revision: ["b"], tell_hash=lambda *hashed: told.append(hashed))
    scene.found_at = 11
    assert await scene.check.lead(shipping) == 0 and told == [], "another flush was faster"
    scene.found_at = 10
    assert await scene.check.lead(shipping) == 10 and told == [(10, SAME)]
    shipping.announce = lambda revision: []
    assert await scene.check.lead(shipping) == 0, "nobody follows, or all of them are beyond it"
