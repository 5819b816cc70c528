"""How far a follower is behind in time, which reads wait, and which are refused as stale."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kvserver.base.errors import Code, RevisionError
from kvserver.base.types import Role
from kvserver.commit.requests import CompactHistory, Put, PutRun
from kvserver.engine.freshness import Contact
from support.clocks import ManualClock
from support.fake_log import outcome
from support.stores import do, settle
from unit.engine.followed import Pair, ship


def contact(clock: ManualClock) -> Contact:
    return Contact(clock, clock.now_ms() - 700)


def code(ticket: Any) -> Code:
    error = outcome(ticket)
    assert isinstance(error, RevisionError)
    assert error.hint
    return error.code


# The lag


def test_before_the_first_word_the_lag_counts_from_the_last_frame() -> None:
    clock = ManualClock()
    one = contact(clock)
    assert (one.lag_ms(), one.was_made) == (700, False)
    clock.advance_ms(50)
    assert one.lag_ms() == 750


def test_it_is_none_while_everything_heard_of_is_here_and_the_age_of_the_oldest_that_is_not() -> None:
    clock = ManualClock()
    one = contact(clock)
    one.heard(10, 10)
    assert one.lag_ms() == 0
    clock.advance_ms(1000)
    assert one.lag_ms() == 0
    one.heard(20, 10)
    clock.advance_ms(30)
    one.heard(30, 10)
    clock.advance_ms(5)
    assert one.lag_ms() == 35
    one.reached(20)
    assert one.lag_ms() == 5
    one.reached(30)
    assert one.lag_ms() == 0


def test_a_stream_that_never_pauses_has_the_lag_of_what_is_missing_not_of_when_nothing_was() -> None:
    clock = ManualClock()
    one = contact(clock)
    for revision in range(2, 5000):
        one.heard(revision, revision - 3)
        clock.advance_ms(1)
        assert one.lag_ms() <= 704 if revision < 6 else one.lag_ms() <= 4, revision


def test_who_was_behind_when_the_connection_came_is_behind_since_the_last_word() -> None:
    clock = ManualClock()
    one = contact(clock)
    one.heard(50, 10)
    assert one.lag_ms() == 700
    one.reached(50)
    assert one.lag_ms() == 0
    one.lost()
    clock.advance_ms(5000)
    assert one.lag_ms() == 5000
    one.heard(60, 50)
    assert one.lag_ms() == 5000
    one.reached(60)
    assert one.lag_ms() == 0


def test_a_silent_primary_vouches_for_nothing() -> None:
    clock = ManualClock()
    one = contact(clock)
    one.heard(10, 10)
    clock.advance_ms(1999)
    assert one.lag_ms() == 0
    clock.advance_ms(2)
    assert one.lag_ms() == 2001
    one.heard(10, 10)
    assert one.lag_ms() == 0


def test_what_was_not_reached_counts_when_the_connection_is_lost() -> None:
    clock = ManualClock()
    one = contact(clock)
    one.heard(10, 10)
    one.heard(20, 10)
    clock.advance_ms(300)
    one.heard(20, 10)
    one.lost()
    clock.advance_ms(100)
    assert one.lag_ms() == 400


def test_no_more_is_remembered_than_the_oldest_and_enough_others() -> None:
    clock = ManualClock()
    one = contact(clock)
    one.heard(1, 1)
    for revision in range(2, 9000):
        one.heard(revision, 1)
        clock.advance_ms(1)
    assert one.lag_ms() == 8998
    assert len(one._unreached) <= 1024


# Reads


def pair_with(clock: ManualClock) -> Pair:
    pair = Pair(clock=clock)
    do(pair.primary, PutRun(1, [b"a", b"b"], [b"1", b"2"]))
    return pair


def test_a_read_that_allows_less_lag_is_stale_by_name() -> None:
    clock = ManualClock()
    pair = pair_with(clock)
    pair.ship()
    assert pair.follower.reading_at(0, None, max_lag_ms=1).answer() == 3
    pair.follower.contact_lost()
    clock.advance_ms(250)
    assert pair.follower.lag_ms() == 250
    assert pair.follower.reading_at(0, None, max_lag_ms=250).answer() == 3
    stale = pair.follower.reading_at(0, None, max_lag_ms=249)
    assert code(stale) is Code.STALE
    assert outcome(stale).details == {"lag_ms": "250"}
    assert pair.follower.reading_at(0, None).answer() == 3, "who sets no bound is answered"
    assert pair.follower.reading_at(2, None, max_lag_ms=1).answer() == 2, "a past revision has one answer for all time"
    assert pair.primary.reading_at(0, None, max_lag_ms=1).answer() == 3


def test_before_the_first_word_a_bound_is_not_met_and_without_one_the_read_waits() -> None:
    clock = ManualClock()
    pair = pair_with(clock)
    clock.advance_ms(10_000)
    ship(pair.primary, pair.follower)
    assert code(pair.follower.reading_at(0, None, max_lag_ms=9_000)) is Code.STALE
    reading = pair.follower.reading_at(0, None)
    assert not reading.done
    pair.hear()
    assert reading.answer() == 3


def test_a_read_waits_for_a_revision_that_does_not_exist_yet() -> None:
    pair = pair_with(ManualClock())
    pair.follower.hear(1)
    readings = [
        pair.follower.reading_at(revision, session) for revision, session in ((3, None), (0, (1, 3)), (2, (1, 3)), (2, None))
    ]
    order: list[int] = []
    for number, reading in enumerate(readings):
        reading.on_done(lambda number=number: order.append(number))  # type: ignore[misc]
    ship(pair.primary, pair.follower)
    assert order == []
    pair.follower.hear(2)
    assert order == [3]
    pair.hear()
    assert [reading.answer() for reading in readings] == [3, 3, 2, 2]


def test_a_session_of_an_epoch_that_has_not_come_waits_for_it() -> None:
    pair = pair_with(ManualClock())
    pair.ship()
    reading = pair.follower.reading_at(0, (2, 3))
    exact = pair.follower.reading_at(2, (2, 3))
    pair.hear()
    assert not reading.done
    pair.primary.close()
    pair.primary = pair.a.open(Role.PRIMARY)
    pair.ship()
    assert (reading.answer(), exact.answer()) == (3, 2)


def test_a_session_of_what_was_lost_is_told_so_also_when_that_shows_later() -> None:
    pair = pair_with(ManualClock())
    pair.ship()
    waits = pair.follower.reading_at(0, (1, 5))  # seen of the primary, which loses it now
    assert not waits.done
    pair.primary.close()
    pair.primary = pair.a.open(Role.PRIMARY)
    for number in range(3):
        do(pair.primary, Put(1, b"k%d" % number, b"v"))
    pair.ship()
    assert code(waits) is Code.HISTORY_LOST
    assert code(pair.follower.reading_at(0, (1, 5))) is Code.HISTORY_LOST
    assert pair.follower.reading_at(0, (2, 5)).answer() == 6


def test_a_revision_that_was_given_up_is_refused_at_once() -> None:
    pair = pair_with(ManualClock())
    do(pair.primary, CompactHistory(3))
    pair.ship()
    assert code(pair.follower.reading_at(2, None)) is Code.COMPACTED


async def test_waits_that_were_given_up_are_forgotten() -> None:
    pair = pair_with(ManualClock())
    pair.ship()

    async def wait(revision: int, session: tuple[int, int] | None) -> None:
        await pair.follower.reading_at(revision, session)

    for _ in range(40):
        tasks = [asyncio.ensure_future(wait(1 << 40, None)) for _ in range(10)]
        tasks += [asyncio.ensure_future(wait(0, (99, 1))) for _ in range(10)]
        await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert pair.follower.pipeline.waiting <= 130
    reads = pair.follower._follower_reads
    assert reads is not None
    assert reads.waiting <= 130
    kept = pair.follower.reading_at(4, None)
    do(pair.primary, Put(1, b"c", b"3"))
    pair.ship()
    settle(pair.follower)
    assert kept.answer() == 4


@pytest.mark.parametrize("session", [(1, 0), None])
def test_a_session_that_saw_nothing_waits_for_nothing(session: tuple[int, int] | None) -> None:
    pair = pair_with(ManualClock())
    pair.follower.hear(1)
    assert pair.follower.reading_at(0, session).answer() == 1


def test_what_was_heard_of_and_is_not_here_yet_makes_the_node_late() -> None:
    clock = ManualClock()
    pair = pair_with(clock)
    pair.ship()
    do(pair.primary, Put(1, b"c", b"3"))
    pair.follower.hear(4)
    clock.advance_ms(120)
    pair.follower.hear(4)
    assert pair.follower.lag_ms() == 120
    assert code(pair.follower.reading_at(0, None, max_lag_ms=100)) is Code.STALE
    ship(pair.primary, pair.follower)
    assert pair.follower.lag_ms() == 0
    assert pair.follower.reading_at(0, None, max_lag_ms=100).answer() == 4
