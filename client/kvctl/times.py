"""Moments on the command line and in output: what people write is read strictly, what is printed names its zone.

A time without a zone is the classical way to restore to the wrong hour. So a moment is one of RFC 3339, which has a zone;
or a date and a time with a blank between them, which is UTC and nothing else; or a duration, which is that long ago.
"""

from __future__ import annotations

import datetime
import re
import time

from kvctl.settings import parse_duration_s

_MOMENT = re.compile(
    r"(\d{4}-\d\d-\d\d)(?P<between>[Tt ])(\d\d:\d\d:\d\d)(?:\.(?P<fraction>\d{1,9}))?(?P<zone> ?UTC|[Zz]|[+-]\d\d:\d\d)?",
    re.ASCII,
)
_FORMS = "2026-03-01T12:00:00Z, 2026-03-01T13:00:00+01:00, '2026-03-01 12:00:00' (UTC) or 5m (ago)"


def parse_moment_ms(text: str, now_ms: int | None = None) -> int:
    """Return the milliseconds since 1970 that a text stands for; raise ValueError for anything that is no moment.

    A fraction beyond milliseconds is cut off: what was committed later in the same millisecond is not meant.
    """
    match = _MOMENT.fullmatch(text)
    if match is None:
        return _ago_ms(text, int(time.time() * 1000) if now_ms is None else now_ms)
    zone = (match["zone"] or "").strip().upper()
    if not zone and match["between"] != " ":
        raise ValueError(f"{text!r} has no zone: put Z (UTC) or an offset such as +01:00 behind it")
    offset = "+00:00" if zone in ("", "Z", "UTC") else zone
    try:
        moment = datetime.datetime.fromisoformat(f"{match[1]}T{match[3]}{offset}")
    except ValueError as error:
        raise ValueError(f"{text!r} is no time that there is: {error}") from error
    milliseconds = int((match["fraction"] or "0").ljust(3, "0")[:3])
    since_1970_ms = int(moment.timestamp()) * 1000 + milliseconds
    if since_1970_ms < 0:
        raise ValueError(f"{text!r} is before 1970")
    return since_1970_ms


def shown_moment(time_ms: int) -> str:
    """Return a moment for people, as ``parse_moment_ms`` takes it; ``-`` for 0, which stands for an unknown one."""
    if not time_ms:
        return "-"
    seconds, milliseconds = divmod(time_ms, 1000)
    try:
        moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (OverflowError, OSError, ValueError):  # a record of an archive may hold any number
        return f"{time_ms} ms since 1970"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{milliseconds:03}Z"


def shown_span(milliseconds: float) -> str:
    """Return a span of time for people: ``850 ms``, ``12.3 s``, ``5 min 12 s``, ``3 h 20 min``, ``2 d 4 h``."""
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest_s} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"


def _ago_ms(text: str, now_ms: int) -> int:
    try:
        ago_s = parse_duration_s(text.removesuffix(" ago"))
    except ValueError as error:
        raise ValueError(f"{text!r} is no time; write one such as {_FORMS}") from error
    if ago_s * 1000 > now_ms:
        raise ValueError(f"{text!r} ago is before 1970")
    return now_ms - int(ago_s * 1000)
