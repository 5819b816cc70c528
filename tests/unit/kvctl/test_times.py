"""Moments: what is read, what is refused, and that what is printed can be read again."""

from __future__ import annotations

import pytest

from kvctl.times import parse_moment_ms, shown_moment, shown_span

NOON_MS = 1_772_366_400_000
"""2026-03-01 12:00:00 UTC."""


@pytest.mark.parametrize(
    ("text", "later_ms"),
    [
        ("2026-03-01T12:00:00Z", 0),
        ("2026-03-01t12:00:00z", 0),
        ("2026-03-01T12:00:00.250Z", 250),
        ("2026-03-01T12:00:00.2509Z", 250),
        ("2026-03-01T12:00:00.2Z", 200),
        ("2026-03-01T13:00:00+01:00", 0),
        ("2026-03-01T06:30:00-05:30", 0),
        ("2026-03-01 12:00:00", 0),
        ("2026-03-01 12:00:01", 1000),
        ("2026-03-01 12:00:00 UTC", 0),
        ("2026-03-01 12:00:00.123456789+00:00", 123),
        ("5m", -300_000),
        ("5m ago", -300_000),
        ("1h30m", -5_400_000),
        ("250ms", -250),
    ],
)
def test_a_moment_is_read(text: str, later_ms: int) -> None:
    assert parse_moment_ms(text, NOON_MS) == NOON_MS + later_ms


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("2026-03-01T12:00:00", "no zone"),
        ("2026-02-30 12:00:00", "no time that there is"),
        ("2026-03-01 25:00:00", "no time that there is"),
        ("2026-03-01T12:00:00+99:00", "no time that there is"),
        ("1969-12-31 23:59:59", "before 1970"),
        ("99999h 99999h", "is no time"),
        ("600000h", "before 1970"),
        ("9" * 400 + "h", "before 1970"),
        ("2026-03-01", "is no time"),
        ("12:00", "is no time"),
        ("yesterday", "is no time"),
        ("-5m", "is no time"),
        ("0s", "is no time"),
        ("", "is no time"),
        ("2026-03-01 12:00:00 CET", "is no time"),
        ("١٩٩٩-03-01 12:00:00", "is no time"),
    ],
)
def test_what_is_no_moment_is_refused_with_the_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_moment_ms(text, NOON_MS)


def test_what_is_printed_can_be_read_again() -> None:
    for moment_ms in (1, NOON_MS, NOON_MS + 999):
        assert parse_moment_ms(shown_moment(moment_ms)) == moment_ms
    assert shown_moment(NOON_MS + 7) == "2026-03-01T12:00:00.007Z"
    assert shown_moment(0) == "-"
    assert shown_moment(2**63) == f"{2**63} ms since 1970"


def test_without_a_clock_it_is_this_machines() -> None:
    assert parse_moment_ms("1s") > NOON_MS - 10 * 366 * 86_400_000


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0 ms"),
        (850, "850 ms"),
        (12_340, "12.3 s"),
        (312_000, "5 min 12 s"),
        (12_000_000, "3 h 20 min"),
        (187_200_000, "2 d 4 h"),
    ],
)
def test_spans(milliseconds: int, text: str) -> None:
    assert shown_span(milliseconds) == text
