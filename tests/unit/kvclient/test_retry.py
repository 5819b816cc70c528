"""Retry: what may be sent again, how often, and after which pause."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvclient import KvClientError, NotWritten, OutcomeUnknown, Retry, ServerError, Stale, Timeout, Unavailable
from kvclient import _errors as errors
from kvclient._retry import DEFAULT_RETRY, REFUSALS
from kvproto.v1 import errors_pb2, kv_pb2

CODES = [name for name in errors_pb2.ErrorCode.keys() if errors_pb2.ErrorCode.Value(name)]  # noqa: SIM118
LONG = 1e9

PAUSES = st.floats(0.001, 10.0)
RETRIES = st.builds(
    lambda attempts, one, other: Retry(attempts, min(one, other), max(one, other)), st.integers(1, 12), PAUSES, PAUSES
)


def said_by_the_server(code: str, writes: bool = True) -> KvClientError:
    return errors.from_failure(kv_pb2.Failure(code=errors_pb2.ErrorCode.Value(code)), writes=writes)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"attempts": 0}, "attempts"),
        ({"attempts": -1}, "attempts"),
        ({"first_pause_s": 0.0}, "pauses"),
        ({"first_pause_s": -1.0}, "pauses"),
        ({"first_pause_s": math.nan}, "pauses"),
        ({"first_pause_s": 2.0, "max_pause_s": 1.0}, "pauses"),
    ],
)
def test_nonsense_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Retry(**options)


@given(RETRIES, st.integers(1, 60) | st.integers(1_000, 10_000))
def test_pauses_double_and_are_shortened_by_half_at_most(retry: Retry, attempt: int) -> None:
    longest = min(retry.max_pause_s, retry.first_pause_s * 2.0 ** min(attempt - 1, 100))
    assert longest / 2 <= retry.pause_s(attempt) <= longest <= retry.max_pause_s


def test_callers_who_were_refused_together_do_not_come_back_together() -> None:
    assert len({DEFAULT_RETRY.pause_s(3) for _ in range(50)}) > 40


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("writes", [True, False])
def test_only_what_a_server_refused_for_now_may_be_repeated(code: str, writes: bool) -> None:
    error = said_by_the_server(code, writes)
    error.details["next_epoch"] = "2"  # of HISTORY_LOST: it is known to be lost
    assert DEFAULT_RETRY.may_repeat(error, 1) is (code in REFUSALS)
    assert (DEFAULT_RETRY.next_pause_s(error, 1, LONG, writes=writes) is not None) is (code in REFUSALS)


def test_a_node_that_does_not_know_an_epoch_may_only_be_behind() -> None:
    assert DEFAULT_RETRY.may_repeat(said_by_the_server("HISTORY_LOST"), 1)


def test_what_passes_by_itself_leaves_no_write_open() -> None:
    for code in REFUSALS:
        assert isinstance(said_by_the_server(code), (NotWritten, Unavailable, Stale))


@pytest.mark.parametrize("code", sorted(REFUSALS))
def test_the_clients_own_conclusion_is_no_promise_of_the_server(code: str) -> None:
    assert not DEFAULT_RETRY.may_repeat(NotWritten(code, "no room to send it"), 1)


@given(RETRIES, st.integers(1, 20), st.sampled_from(sorted(REFUSALS)), st.booleans())
def test_so_often_and_no_oftener(retry: Retry, attempt: int, code: str, writes: bool) -> None:
    error = said_by_the_server(code)
    again = attempt < retry.attempts
    assert retry.may_repeat(error, attempt) is again
    assert (retry.next_pause_s(error, attempt, LONG, writes=writes) is not None) is again


@given(RETRIES, st.floats(0.0, 1e-4))
def test_without_time_for_the_pause_nothing_is_repeated(retry: Retry, left_s: float) -> None:
    assert retry.next_pause_s(said_by_the_server("OVERLOADED"), 1, left_s, writes=True) is None


@pytest.mark.parametrize(
    ("error", "reads_again"),
    [
        (Unavailable("UNAVAILABLE", "the connection is broken"), True),
        (OutcomeUnknown("OUTCOME_UNKNOWN", "lost"), False),
        (Timeout("DEADLINE", "late"), False),
        (ServerError("UNEXPECTED_STATUS", "odd"), False),
    ],
)
def test_a_read_whose_connection_broke_is_repeated_and_a_write_never(error: KvClientError, reads_again: bool) -> None:
    assert (DEFAULT_RETRY.next_pause_s(error, 1, LONG, writes=False) is not None) is reads_again
    assert DEFAULT_RETRY.next_pause_s(error, 1, LONG, writes=True) is None
    assert DEFAULT_RETRY.next_pause_s(error, DEFAULT_RETRY.attempts, LONG, writes=False) is None


def test_it_is_a_value() -> None:
    assert Retry() == DEFAULT_RETRY
    assert hash(Retry(attempts=2)) == hash(Retry(attempts=2))
    with pytest.raises(AttributeError):
        DEFAULT_RETRY.attempts = 9  # type: ignore[misc]
