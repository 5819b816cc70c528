"""Each rule refuses what breaks it by name, and lets pass what just keeps it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvserver.base.errors import Code, InvalidRequest
from kvserver.base.limits import (
    MAX_COMMIT_MUTATIONS,
    MAX_FRAME_OPERATIONS,
    MAX_KEY_BYTES,
    MAX_NAMESPACE_NAME_BYTES,
    MAX_VALUE_BYTES,
)
from kvserver.service import validation
from kvserver.storage.ranges import KeySpan

KEY = b"k" * MAX_KEY_BYTES

REFUSED: list[tuple[Callable[[], object], Code, str]] = [
    (lambda: validation.check_key(b""), Code.EMPTY_KEY, "at least one byte"),
    (lambda: validation.check_key(KEY + b"k"), Code.KEY_TOO_LARGE, str(MAX_KEY_BYTES)),
    (lambda: validation.check_pair(b"", b""), Code.EMPTY_KEY, ""),
    (lambda: validation.check_pair(b"k", bytes(MAX_VALUE_BYTES + 1)), Code.VALUE_TOO_LARGE, str(MAX_VALUE_BYTES)),
    (lambda: validation.check_span(KeySpan(b"b", b"a")), Code.INVERTED_RANGE, "not below"),
    (lambda: validation.check_span(KeySpan(b"a", b"a")), Code.INVERTED_RANGE, "not below"),
    (lambda: validation.check_span(KeySpan(KEY + b"kk", b"")), Code.KEY_TOO_LARGE, "start"),
    (lambda: validation.check_span(KeySpan(b"", KEY + b"kk")), Code.KEY_TOO_LARGE, "end"),
    (lambda: validation.check_prefix(KEY + b"k"), Code.KEY_TOO_LARGE, "prefix"),
    (lambda: validation.wants_memory(2), Code.INVALID_FIELD, "durability"),
    (lambda: validation.wants_memory(3), Code.INVALID_FIELD, "durability"),
    (lambda: validation.wants_memory(77), Code.INVALID_FIELD, "77"),
    (lambda: validation.wants_memory(-1), Code.INVALID_FIELD, "-1"),
    (lambda: validation.check_limit(-1), Code.INVALID_FIELD, "limit"),
    (lambda: validation.check_mutation_count(0), Code.INVALID_FIELD, "mutations"),
    (lambda: validation.check_mutation_count(MAX_COMMIT_MUTATIONS + 1), Code.COMMIT_TOO_LARGE, str(MAX_COMMIT_MUTATIONS)),
    (lambda: validation.check_operation_count(MAX_FRAME_OPERATIONS + 1), Code.FRAME_TOO_LARGE, str(MAX_FRAME_OPERATIONS)),
    *[
        (lambda name=name: validation.check_namespace_name(name), Code.INVALID_NAMESPACE_NAME, "name")  # type: ignore[misc]
        for name in ("", "a b", "a\n", "ä", "a\0", "a:b", "n" * (MAX_NAMESPACE_NAME_BYTES + 1))
    ],
]


@pytest.mark.parametrize(("check", "code", "said"), REFUSED)
def test_what_breaks_a_rule_is_refused_by_name(check: Callable[[], object], code: Code, said: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        check()
    assert caught.value.code is code
    assert said in caught.value.message


def test_what_keeps_the_rules_passes() -> None:
    validation.check_pair(KEY, bytes(MAX_VALUE_BYTES))
    validation.check_span(KeySpan(b"", b""))
    validation.check_span(KeySpan(b"a", b""))
    validation.check_span(KeySpan(KEY + b"\0", b"z" * MAX_KEY_BYTES))
    validation.check_prefix(KEY)
    validation.check_mutation_count(MAX_COMMIT_MUTATIONS)
    validation.check_operation_count(MAX_FRAME_OPERATIONS)
    for name in ("a", "team/app_1.x-y", "n" * MAX_NAMESPACE_NAME_BYTES):
        validation.check_namespace_name(name)
    assert validation.check_limit(0) == 0
    assert (validation.wants_memory(0), validation.wants_memory(1)) == (False, True)


def test_a_message_never_repeats_a_large_key_or_name() -> None:
    with pytest.raises(InvalidRequest) as caught:
        validation.check_namespace_name("!" * 1_000_000)
    assert len(caught.value.message) < 300


def test_columns_are_judged_like_pairs() -> None:
    good = [b"a", KEY]
    assert validation.are_puttable(good, [b"", bytes(MAX_VALUE_BYTES)])
    assert not validation.are_puttable([b"a", b""], [b"", b""])
    assert not validation.are_puttable([b"a", KEY + b"k"], [b"", b""])
    assert not validation.are_puttable(good, [b"", bytes(MAX_VALUE_BYTES + 1)])
    assert validation.are_keys(good)
    assert not validation.are_keys([b"a", b""])
    assert not validation.are_keys([KEY + b"k"])
