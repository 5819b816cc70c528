"""Every stable code has a status; the details carry what programs need, and fit metadata."""

from __future__ import annotations

import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

from kvserver.base.errors import Code, ConditionFailed, InvalidRequest, KvError
from kvserver.service import status
from kvserver.service.status import CANONICAL, Canonical

CERTAINLY_NOT_WRITTEN = {Code.NOT_WRITTEN, Code.LOG_FAILED, Code.NOT_SERVING}


def parsed(error: KvError) -> tuple[status_pb2.Status, error_details_pb2.ErrorInfo]:
    message = status_pb2.Status.FromString(status.details(error))
    info = error_details_pb2.ErrorInfo()
    assert message.details[0].Unpack(info)
    return message, info


def test_every_code_has_a_status() -> None:
    assert set(CANONICAL) == set(Code)


def test_statuses_are_those_of_google_rpc() -> None:
    assert {canonical.name: canonical.value for canonical in Canonical} == dict(code_pb2.Code.items())


def test_generic_clients_are_told_to_repeat_only_what_was_not_carried_out() -> None:
    assert {code for code, canonical in CANONICAL.items() if canonical is Canonical.UNAVAILABLE} == CERTAINLY_NOT_WRITTEN


@pytest.mark.parametrize("code", list(Code), ids=lambda code: code.name)
def test_the_details_name_the_code(code: Code) -> None:
    message, info = parsed(KvError(code, "what happened", "what to do"))
    assert (info.reason, info.domain) == (code.name, "kvserver")
    assert dict(info.metadata) == {"hint": "what to do"}
    assert (message.code, message.message) == (CANONICAL[code], "what happened")


def test_a_failed_condition_carries_the_newest_revision() -> None:
    _, info = parsed(ConditionFailed(b"k", 7, "if_revision=3", depends_on=7))
    assert info.metadata["mod_revision"] == "7"
    _, info = parsed(ConditionFailed(b"k", 0, "if_revision=3", depends_on=9))
    assert info.metadata["mod_revision"] == "0"


def test_an_error_without_a_hint_has_none() -> None:
    assert "hint" not in parsed(InvalidRequest(Code.EMPTY_KEY, "the key is empty"))[1].metadata


def test_long_messages_are_cut_so_that_they_fit_metadata() -> None:
    error = KvError(Code.INTERNAL, "m" * 100_000, "h" * 100_000)
    assert len(status.message(error)) + len(status.details(error)) * 4 // 3 < 8 * 1024


def test_a_fault_shows_nothing_of_the_inside() -> None:
    error = status.internal_error()
    assert error.code is Code.INTERNAL
    assert "Traceback" not in error.message
