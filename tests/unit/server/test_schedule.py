"""When things that recur are due."""

from __future__ import annotations

from kvserver.server.schedule import FIRST_S, RETRY_S, Recurring

DAY_S = 86_400.0


def test_never_is_never() -> None:
    never = Recurring(0.0, 100.0)
    assert not never.due(1e12)
    never.at_most_in(100.0, 0.0)
    assert not never.due(1e12)


def test_what_is_seldom_comes_soon_after_a_start_and_then_seldom() -> None:
    seldom = Recurring(DAY_S, 100.0)
    assert not seldom.due(100.0 + FIRST_S - 1)
    assert seldom.due(100.0 + FIRST_S)
    seldom.done(5_000.0, ok=True)
    assert not seldom.due(5_000.0 + DAY_S - 1)
    assert seldom.due(5_000.0 + DAY_S)


def test_what_is_frequent_does_not_wait_longer_for_its_first_time() -> None:
    assert Recurring(10.0, 0.0).due(10.0)
    assert not Recurring(10.0, 0.0).due(9.0)


def test_what_failed_comes_again_earlier_but_not_more_often_than_it_should() -> None:
    seldom, frequent = Recurring(DAY_S, 0.0), Recurring(10.0, 0.0)
    for one, again_s in ((seldom, RETRY_S), (frequent, 10.0)):
        one.done(0.0, ok=False)
        assert not one.due(again_s - 1)
        assert one.due(again_s)


def test_what_is_known_of_the_last_time_counts() -> None:
    known = Recurring(DAY_S, 0.0, first_in_s=50.0)
    assert known.due(50.0) and not known.due(49.0)
    known.at_most_in(0.0, 20.0)
    assert known.due(20.0)
    known.at_most_in(0.0, 40.0)
    assert known.due(20.0), "it is never put off"
