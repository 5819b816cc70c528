"""Spans of keys made from prefixes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.storage.ranges import EVERYTHING, KeySpan, prefix_span

# Few different bytes, the last one among them, so that carries happen all the time.
keys = st.lists(st.sampled_from([0, 1, 0x61, 0xFE, 0xFF]), max_size=5).map(bytes)


def holds(span: KeySpan, key: bytes) -> bool:
    return span.start <= key and (not span.end or key < span.end)


@given(keys, keys)
def test_a_prefix_span_holds_exactly_the_keys_with_the_prefix(prefix: bytes, key: bytes) -> None:
    assert holds(prefix_span(prefix), key) == key.startswith(prefix)


@given(keys, keys)
def test_a_prefix_span_holds_every_continuation(prefix: bytes, rest: bytes) -> None:
    assert holds(prefix_span(prefix), prefix + rest)


@pytest.mark.parametrize(
    ("prefix", "span"),
    [
        (b"", EVERYTHING),
        (b"a", (b"a", b"b")),
        (b"a\xff", (b"a\xff", b"b")),
        (b"a\xff\xff", (b"a\xff\xff", b"b")),
        (b"\x00", (b"\x00", b"\x01")),
        (b"\xfe", (b"\xfe", b"\xff")),
        (b"\xff", (b"\xff", b"")),
        (b"\xff\xff", (b"\xff\xff", b"")),
        (b"\xffa", (b"\xffa", b"\xffb")),
    ],
)
def test_the_end_is_the_least_key_behind_the_prefix(prefix: bytes, span: tuple[bytes, bytes]) -> None:
    assert prefix_span(prefix) == span
