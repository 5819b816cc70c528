"""Ranges of keys: one value, one way to make it from a prefix."""

from __future__ import annotations

from typing import NamedTuple


class KeySpan(NamedTuple):
    """The keys k with start <= k < end; an empty end means no end."""

    start: bytes
    end: bytes


EVERYTHING = KeySpan(b"", b"")


def prefix_span(prefix: bytes) -> KeySpan:
    """Return the span of the keys that begin with the prefix."""
    stripped = prefix.rstrip(b"\xff")
    if not stripped:  # nothing, or 0xff only: no key behind all that begin with it
        return KeySpan(prefix, b"")
    return KeySpan(prefix, stripped[:-1] + bytes((stripped[-1] + 1,)))
