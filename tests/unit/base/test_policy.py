"""The policy: what it may say, its row byte by byte, and rows that are none."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.base.errors import Code, InvalidRequest
from kvserver.base.policy import ASYNC, MAX_MEMBERS, MEMBER_NAME, Policy, decode_policy, encode_policy, make_policy
from kvserver.server.flags import NODE_NAME

names = st.from_regex(MEMBER_NAME, fullmatch=True)
policies = st.one_of(
    st.just(ASYNC),
    st.lists(names, min_size=1, max_size=MAX_MEMBERS, unique=True).flatmap(
        lambda members: st.integers(1, len(members)).map(lambda quorum: make_policy(quorum, members))
    ),
)


def test_members_are_called_as_nodes_are() -> None:
    assert MEMBER_NAME.pattern == NODE_NAME.pattern


def test_a_row_is_what_the_document_says() -> None:
    assert encode_policy(make_policy(2, ["kv-2", "a", "kv-10"])) == b"\x01\x02\x03\x01a\x05kv-10\x04kv-2"
    assert encode_policy(ASYNC) == b"\x01\x00\x00"


@given(policies, st.integers(0, 1 << 60))
def test_a_row_says_what_was_set(policy: Policy, revision: int) -> None:
    found = decode_policy(encode_policy(policy), revision)
    assert found.is_same_rule(policy)
    assert found.revision == revision


@given(policies, st.data())
def test_a_damaged_row_is_a_policy_or_a_value_error(policy: Policy, data: st.DataObject) -> None:
    row = bytearray(encode_policy(policy))
    for _ in range(data.draw(st.integers(1, 3))):
        row[data.draw(st.integers(0, len(row) - 1))] = data.draw(st.integers(0, 255))
    hostile = bytes(row[: data.draw(st.integers(0, len(row)))]) + data.draw(st.binary(max_size=3))
    try:
        found = decode_policy(hostile, 7)
    except ValueError:
        return
    assert encode_policy(found) == hostile, "there is one row for each policy"


@given(st.binary(max_size=40))
def test_no_bytes_do_more_than_a_value_error(row: bytes) -> None:
    with contextlib.suppress(ValueError):
        assert encode_policy(decode_policy(row, 1)) == row


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (b"", "cut off in its head"),
        (b"\x01\x01", "cut off in its head"),
        (b"\x02\x00\x00", "version 2"),
        (b"\x01\x01\x01", "cut off in its members"),
        (b"\x01\x01\x01\x02a", "cut off in its members"),
        (b"\x01\x01\x01\x00", "cut off in its members"),
        (b"\x01\x01\x01\x01ab", "longer"),
        (b"\x01\x01\x02\x01b\x01a", "out of order"),
        (b"\x01\x01\x02\x01a\x01a", "named twice"),
        (b"\x01\x02\x01\x01a", "can never be met"),
        (b"\x01\x00\x01\x01a", "counts nobody"),
        (b"\x01\x01\x00", "can never be met"),
        (b"\x01\x01\x01\x01\xff", "cannot be the name"),
        (b"\x01\x01\x01\x02a-", "cannot be the name"),
        (b"\x01\x01\x10" + b"".join(b"\x01%c" % (97 + number) for number in range(16)), "at most 15"),
    ],
)
def test_a_row_that_is_none_is_refused_by_what_is_wrong(row: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        decode_policy(row, 1)


@pytest.mark.parametrize(
    ("quorum", "members", "why"),
    [
        (2, ["a"], "2 out of 1"),
        (1, [], "1 out of 0"),
        (-1, ["a"], "-1 out of 1"),
        (0, ["a"], "counts nobody"),
        (1, ["a", "b", "a"], "'a' is named twice"),
        (1, [""], "cannot be the name"),
        (1, ["a b"], "cannot be the name"),
        (1, ["x" * 64], "cannot be the name"),
        (1, [f"n{number}" for number in range(16)], "16 members are named; at most 15"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(quorum: int, members: list[str], why: str) -> None:
    with pytest.raises(InvalidRequest, match=why) as refused:
        make_policy(quorum, members)
    assert refused.value.code is Code.INVALID_FIELD
    assert "kvctl cluster policy set" in refused.value.hint


@pytest.mark.parametrize(("quorum", "promises"), [(1, 3), (2, 2), (3, 1)])
def test_a_promise_quorum_meets_every_write_quorum(quorum: int, promises: int) -> None:
    policy = make_policy(quorum, ["a", "b", "c"])
    assert policy.promise_quorum == promises
    assert policy.promise_quorum + policy.write_quorum > len(policy.members)


def test_without_a_quorum_nobody_has_to_promise() -> None:
    assert ASYNC.promise_quorum == 0


def test_a_policy_is_said_as_people_say_it() -> None:
    assert (str(ASYNC), str(make_policy(2, ["c", "a", "b"]))) == ("asynchronous", "2 of 3 (a, b, c)")
