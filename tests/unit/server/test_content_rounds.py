"""When a primary has its followers compare: at its hour, twice, and again soon where that came to nothing."""

from __future__ import annotations

import asyncio
from typing import Any

from kvserver.base.errors import NotServing
from kvserver.server.content_check import HOUR_S, SECOND_ROUND_S, ContentRounds
from kvserver.server.schedule import FIRST_S, RETRY_S
from support.clocks import ManualClock


class Check:
    """Answers a round as it is told to."""

    def __init__(self) -> None:
        self.answer: int | Exception = 7
        self.rounds = 0
        self.hangs = False

    async def lead(self, shipping: object) -> int:
        self.rounds += 1
        if self.hangs:
            await asyncio.Event().wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Scene:
    def __init__(self, every_h: int) -> None:
        self.clock, self.check = ManualClock(), Check()
        check: Any = self.check
        self.rounds = ContentRounds(check, self.clock, every_h)

    async def after(self, seconds: float) -> int:
        """Return how many rounds there were when so much time is over."""
        self.clock.advance_ms(round(seconds * 1000))
        shipping: Any = None
        self.rounds.tick(shipping)
        for _ in range(3):
            await asyncio.sleep(0)
        return self.check.rounds


async def test_each_check_is_two_rounds_soon_behind_one_another() -> None:
    scene = Scene(24)
    assert await scene.after(FIRST_S - 1) == 0
    assert await scene.after(1) == 1
    assert await scene.after(SECOND_ROUND_S - 1) == 1
    assert await scene.after(1) == 2
    assert await scene.after(24 * HOUR_S - 1) == 2
    assert await scene.after(1) == 3


async def test_a_round_that_nobody_took_part_in_is_made_again() -> None:
    for answer in (0, NotServing("it was ended")):
        scene = Scene(24)
        scene.check.answer = answer
        assert await scene.after(FIRST_S) == 1
        assert await scene.after(RETRY_S - 1) == 1
        assert await scene.after(1) == 2


async def test_never_is_never_and_one_round_at_a_time() -> None:
    scene = Scene(0)
    assert await scene.after(1e9) == 0
    scene = Scene(1)
    scene.check.hangs = True
    assert await scene.after(HOUR_S) == 1
    assert await scene.after(10 * HOUR_S) == 1
    await asyncio.wait_for(scene.rounds.stop(), 1)
    scene.check.hangs = False
    assert await scene.after(1) == 2
