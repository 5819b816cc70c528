"""Answers that come later: told once, never early, by callback or to who awaits them."""

from __future__ import annotations

import asyncio

import pytest

from kvserver.base.errors import Code, KvError, Refused
from kvserver.commit.ticket import Ticket, answered, complete_all


def ticket() -> Ticket[str]:
    return Ticket("request", lambda outcome: f"answer {outcome}")


def test_an_answer_is_not_told_before_it_may_be() -> None:
    one = ticket()
    one.decide(7)
    assert not one.done
    with pytest.raises(AssertionError):
        one.answer()
    one.complete()
    assert one.answer() == "answer 7"


def test_a_callback_is_called_once() -> None:
    one = ticket()
    calls: list[str] = []
    one.on_done(lambda: calls.append(one.answer()))
    one.decide(7)
    assert calls == []
    one.complete()
    one.complete()
    assert calls == ["answer 7"]


def test_a_callback_that_comes_late_is_called_at_once() -> None:
    calls: list[str] = []
    done = answered("told")
    done.on_done(lambda: calls.append(done.answer()))
    assert calls == ["told"]


def test_an_error_is_raised_by_who_asks() -> None:
    one = ticket()
    one.fail(Refused(Code.OVERLOADED, "too much"))
    with pytest.raises(Refused, match="too much"):
        one.answer()


def test_an_answer_that_was_told_is_not_replaced() -> None:
    """Who awaits it reads it one turn of the event loop after it was told."""
    one = ticket()
    one.decide(7)
    one.complete()
    one.fail(Refused(Code.OVERLOADED, "too late"))
    assert one.answer() == "answer 7"


def test_giving_up_in_line_is_certain() -> None:
    one = ticket()
    one.waiting_bytes = 0
    assert one.waiting
    assert one.give_up() is True
    with pytest.raises(KvError) as refused:
        one.answer()
    assert refused.value.code is Code.NOT_WRITTEN
    assert one.give_up() is False


def test_giving_up_what_was_carried_out_changes_nothing() -> None:
    one = ticket()
    one.decide(7)
    assert one.give_up() is False
    one.complete()
    assert one.answer() == "answer 7"


def test_an_answer_that_is_held_back_is_told_when_both_have_come() -> None:
    for complete_first in (True, False):
        one = ticket()
        one.hold()
        one.decide(None)
        first, second = (one.complete, one.let_go) if complete_first else (one.let_go, one.complete)
        first()
        assert not one.done
        one.decide(7)
        second()
        assert one.answer() == "answer 7"


def test_what_is_held_back_twice_waits_for_both() -> None:
    one = ticket()
    one.hold()
    one.hold()
    one.complete()
    one.let_go()
    assert not one.done
    one.let_go()
    assert one.done


def test_an_error_is_held_back_by_nothing() -> None:
    one = ticket()
    one.hold()
    one.fail(Refused(Code.LOG_FAILED, "it failed"))
    assert one.done
    one.let_go()
    with pytest.raises(Refused, match="it failed"):
        one.answer()


def test_all_are_told_whatever_one_of_them_does() -> None:
    tickets = [ticket() for _ in range(3)]
    told: list[int] = []

    def fail() -> None:
        raise RuntimeError("a fault of the caller's")

    tickets[0].on_done(fail)
    tickets[2].on_done(lambda: told.append(2))
    with pytest.raises(RuntimeError):
        complete_all(tickets)
    assert told == [2]
    assert all(one.done for one in tickets)


async def test_a_ticket_can_be_awaited_before_and_after() -> None:
    one = ticket()
    one.decide(7)
    task = asyncio.ensure_future(_await(one))
    await asyncio.sleep(0)
    assert not task.done()
    one.complete()
    assert await task == "answer 7"
    assert await one == "answer 7"


async def test_an_error_reaches_who_awaits() -> None:
    one = ticket()
    task = asyncio.ensure_future(_await(one))
    await asyncio.sleep(0)
    one.fail(Refused(Code.OVERLOADED, "too much"))
    with pytest.raises(Refused):
        await task


async def test_who_no_longer_awaits_is_not_disturbed() -> None:
    one = ticket()
    task = asyncio.ensure_future(_await(one))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.sleep(0)
    one.decide(7)
    one.complete()
    with pytest.raises(asyncio.CancelledError):
        await task


async def _await(one: Ticket[str]) -> str:
    return await one
