"""The ladder: each step entered where it says and left lower, a full disk counted, a pace in proportion."""

from __future__ import annotations

import pytest

from kvserver.archive.pressure import DISK_RESERVE_BYTES, LEFT_AT, MAX_PACE_MS, Ladder, Step
from kvserver.base.limits import MIB

QUEUE = 1600
HUGE_DISK = 1 << 50


def steps(ladder: Ladder, *unarchived: int, free_bytes: int | None = None) -> list[Step]:
    """Return the step after each of these figures."""
    return [ladder.weigh(one, free_bytes).step for one in unarchived]


@pytest.mark.parametrize(
    ("unarchived", "step"),
    [
        (0, Step.KEEPING_UP),
        (400, Step.KEEPING_UP),
        (401, Step.HURRYING),
        (800, Step.HURRYING),
        (801, Step.SLOWING),
        (1599, Step.SLOWING),
        (1600, Step.REFUSING),
        (9999, Step.REFUSING),
    ],
)
def test_steps_are_entered_at_a_quarter_half_and_all_of_the_queue(unarchived: int, step: Step) -> None:
    assert Ladder(QUEUE).weigh(unarchived, HUGE_DISK).step is step
    assert Ladder(QUEUE).weigh(unarchived, None).step is step


def test_a_step_is_left_at_three_quarters_of_where_it_was_entered() -> None:
    ladder = Ladder(QUEUE)
    assert steps(ladder, 1600, 1201, 1200) == [Step.REFUSING, Step.REFUSING, Step.SLOWING]
    assert steps(ladder, 801, 601, 600) == [Step.SLOWING, Step.SLOWING, Step.HURRYING]
    assert steps(ladder, 401, 301, 300) == [Step.HURRYING, Step.HURRYING, Step.KEEPING_UP]
    assert steps(ladder, 400, 301, 300) == [Step.KEEPING_UP] * 3


def test_a_figure_that_moves_about_a_border_is_not_told_again_and_again() -> None:
    ladder = Ladder(QUEUE)
    ladder.weigh(1600, None)
    assert set(steps(ladder, *[1599, 1601, 1580, 1600] * 5)) == {Step.REFUSING}


def test_several_steps_are_taken_at_once_both_ways() -> None:
    assert steps(Ladder(QUEUE), 1600, 0, 1600, 310, 0) == [
        Step.REFUSING,
        Step.KEEPING_UP,
        Step.REFUSING,
        Step.HURRYING,
        Step.KEEPING_UP,
    ]


def test_the_operator_may_rather_lose_the_archive_than_writes() -> None:
    ladder = Ladder(QUEUE, on_full="gap")
    assert steps(ladder, 801, 1600, 1201, 1200) == [Step.SLOWING, Step.DROPPING, Step.DROPPING, Step.SLOWING]


@pytest.mark.parametrize(
    ("unarchived", "pace_ms"), [(400, 0), (800, 0), (801, 0), (816, 2), (1200, 50), (1584, 98), (1600, 100), (5000, 100)]
)
def test_the_pace_grows_in_proportion_from_nothing_to_its_bound(unarchived: int, pace_ms: int) -> None:
    assert Ladder(QUEUE).weigh(unarchived, HUGE_DISK).pace_ms == pace_ms <= MAX_PACE_MS


def test_who_has_almost_caught_up_is_not_paced_any_more() -> None:
    ladder = Ladder(QUEUE)
    ladder.weigh(1000, None)
    assert ladder.weigh(700, None) == (Step.SLOWING, 0)


# The disk


def test_a_disk_that_fills_up_shortens_the_queue() -> None:
    queue = 2048 * MIB
    ladder = Ladder(queue)
    waiting = 256 * MIB

    def step(left_for_the_queue: int) -> Step:
        return ladder.weigh(waiting, DISK_RESERVE_BYTES + left_for_the_queue).step

    assert step(8192 * MIB) is Step.KEEPING_UP
    assert step(700 * MIB) is Step.HURRYING
    assert step(200 * MIB) is Step.SLOWING
    assert step(0) is Step.REFUSING
    assert ladder.weigh(waiting, 0).step is Step.REFUSING


def test_little_that_waits_is_not_to_blame_for_a_full_disk() -> None:
    queue = 2048 * MIB
    assert Ladder(queue).weigh(queue // 16 - 1, 0).step is Step.KEEPING_UP
    assert Ladder(queue).weigh(queue // 16, 0).step is Step.REFUSING
    assert Ladder(queue).weigh(0, 0).step is Step.KEEPING_UP


# What must be given up


def test_nothing_is_given_up_unless_the_top_step_says_so() -> None:
    refusing = Ladder(QUEUE)
    refusing.weigh(1600, None)
    assert refusing.excess_bytes(1600, None) == 0
    dropping = Ladder(QUEUE, on_full="gap")
    dropping.weigh(1599, None)
    assert dropping.excess_bytes(1599, None) == 0


@pytest.mark.parametrize("unarchived", [1600, 1601, 3200, 10_000])
def test_so_much_is_given_up_that_the_step_is_left(unarchived: int) -> None:
    ladder = Ladder(QUEUE, on_full="gap")
    ladder.weigh(unarchived, HUGE_DISK)
    left = unarchived - ladder.excess_bytes(unarchived, HUGE_DISK)
    assert left == pytest.approx(QUEUE * LEFT_AT, abs=1)
    assert ladder.weigh(left - 1, HUGE_DISK).step is Step.SLOWING


def test_what_a_full_disk_asks_for_is_given_up_bit_by_bit_until_it_is_enough() -> None:
    queue, free = 2048 * MIB, 0
    ladder = Ladder(queue, on_full="gap")
    waiting = 1024 * MIB
    for _ in range(20):
        if ladder.weigh(waiting, free).step is not Step.DROPPING:
            break
        excess = ladder.excess_bytes(waiting, free)
        assert excess > 0
        waiting, free = waiting - excess, free + excess
    assert ladder.pressure.step is Step.SLOWING
    assert waiting > 256 * MIB, "not everything goes"
