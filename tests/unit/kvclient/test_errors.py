"""The one place where answers become errors: complete, and never surer of a write than it may be."""

from __future__ import annotations

import inspect
import pickle
import time
from typing import Any

import grpc
import pytest

import kvclient
from kvclient import _errors as errors
from kvproto.v1 import errors_pb2, kv_pb2
from support.fake_errors import details_of
from support.fake_server import FakeServer
from support.fake_store import FakeError

CODES = [name for name in errors_pb2.ErrorCode.keys() if name != "ERROR_CODE_UNSPECIFIED"]  # noqa: SIM118


class Failure:
    """A failed call as both gRPC stacks show it."""

    def __init__(self, status: str, text: str = "", metadata: Any = None) -> None:
        self._status, self._text, self._metadata = status, text, metadata

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode[self._status]

    def details(self) -> str:
        return self._text

    def trailing_metadata(self) -> Any:
        return self._metadata


def judged(status: str, *, writes: bool, metadata: Any = None, text: str = "") -> kvclient.KvClientError:
    return errors.from_rpc(Failure(status, text, metadata), writes=writes, endpoint="h:1")


def with_details(code: str, *, writes: bool, status: str = "UNKNOWN", **extra: str) -> kvclient.KvClientError:
    blob = details_of(FakeError(code, "the message", "the hint", **extra))
    return judged(status, writes=writes, metadata=[("other", "x"), ("grpc-status-details-bin", blob)])


def test_the_table_holds_every_code_and_no_other() -> None:
    assert sorted(errors._CLASS_OF) == sorted(CODES)


@pytest.mark.parametrize("code", CODES)
def test_every_code_becomes_its_class_with_all_that_was_sent(code: str) -> None:
    error = with_details(code, writes=False, mod_revision="17", branch="5")
    assert type(error) is errors._CLASS_OF[code]
    assert (error.code, error.message, error.hint, error.from_server) == (code, "the message", "the hint", True)
    assert error.details == {"mod_revision": "17", "branch": "5"}
    assert str(error) == f"the message [{code}]"


@pytest.mark.parametrize("code", ["CORRUPTION", "INTERNAL", "A_CODE_OF_TOMORROW"])
def test_a_fault_leaves_the_outcome_of_a_write_open(code: str) -> None:
    error = with_details(code, writes=True)
    assert type(error) is kvclient.OutcomeUnknown
    assert error.code == code
    assert type(with_details(code, writes=False)) is not kvclient.OutcomeUnknown


def test_an_unknown_code_with_a_clear_status_is_a_refusal() -> None:
    error = with_details("A_RULE_OF_TOMORROW", writes=True, status="INVALID_ARGUMENT")
    assert type(error) is kvclient.InvalidRequestError


@pytest.mark.parametrize("status", [code.name for code in grpc.StatusCode if code.name not in ("OK", "UNIMPLEMENTED")])
def test_a_bare_status_never_proves_that_a_write_did_not_happen(status: str) -> None:
    error = judged(status, writes=True, text="Socket closed")
    assert type(error) is kvclient.OutcomeUnknown
    assert (error.code, error.from_server) == ("OUTCOME_UNKNOWN", False)


@pytest.mark.parametrize(
    ("status", "kind", "code"),
    [
        ("DEADLINE_EXCEEDED", kvclient.Timeout, "DEADLINE"),
        ("UNAVAILABLE", kvclient.Unavailable, "UNAVAILABLE"),
        ("CANCELLED", kvclient.Unavailable, "UNAVAILABLE"),
        ("UNKNOWN", kvclient.ServerError, "UNEXPECTED_STATUS"),
        ("INTERNAL", kvclient.ServerError, "UNEXPECTED_STATUS"),
        ("RESOURCE_EXHAUSTED", kvclient.ServerError, "UNEXPECTED_STATUS"),
    ],
)
def test_a_bare_status_on_a_read(status: str, kind: type[kvclient.KvClientError], code: str) -> None:
    error = judged(status, writes=False)
    assert (type(error), error.code) == (kind, code)


def test_a_method_that_does_not_exist_was_not_carried_out() -> None:
    assert type(judged("UNIMPLEMENTED", writes=True)) is kvclient.ServerError


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        [],
        [("grpc-status-details-bin", b"\xff\xff\xffgarbage")],
        [("grpc-status-details-bin", "text")],
        [("grpc-status-details-bin", details_of(FakeError("NOT_WRITTEN"), domain="somebody.else"))],
        [("grpc-status-details-bin", details_of(FakeError("")))],
    ],
)
def test_details_that_are_not_ours_say_nothing(metadata: Any) -> None:
    assert type(judged("UNAVAILABLE", writes=True, metadata=metadata)) is kvclient.OutcomeUnknown


@pytest.mark.parametrize("text", ["", "x", "-3", "١"])
def test_an_unreadable_mod_revision_is_zero(text: str) -> None:
    error = with_details("CONDITION_FAILED", writes=True, mod_revision=text)
    assert isinstance(error, kvclient.ConditionFailed)
    assert error.mod_revision == 0


def test_what_was_compacted_names_the_oldest_revision_where_the_server_does() -> None:
    for told, number in (({"oldest_readable_revision": "17"}, 17), ({}, 0), ({"oldest_readable_revision": "x"}, 0)):
        error = with_details("COMPACTED", writes=False, **told)
        assert isinstance(error, kvclient.Compacted)
        assert error.oldest_readable_revision == number


def test_tables_that_fail_leave_no_write_open() -> None:
    for writes in (True, False):
        assert type(with_details("TABLES_FAILED", writes=writes)) is kvclient.TablesFailed
    assert issubclass(kvclient.TablesFailed, kvclient.NotWritten)


def test_failures_inside_a_pipeline_answer() -> None:
    failed = kv_pb2.Failure(code=errors_pb2.CONDITION_FAILED, message="no", mod_revision=12, hint="do", details={"more": "x"})
    error = errors.from_failure(failed, writes=True)
    assert isinstance(error, kvclient.ConditionFailed)
    assert (error.mod_revision, error.message, error.hint, error.from_server) == (12, "no", "do", True)
    assert error.details == {"mod_revision": "12", "more": "x"}


@pytest.mark.parametrize("code", CODES)
def test_a_failure_has_the_class_that_the_same_code_has_in_a_call_of_its_own(code: str) -> None:
    failure = kv_pb2.Failure(code=errors_pb2.ErrorCode.Value(code))
    for writes in (True, False):
        error = errors.from_failure(failure, writes=writes)
        assert type(error) is type(with_details(code, writes=writes))
        assert error.code == code
        rejected = errors.from_failure(failure, writes=writes, rejected=True)
        assert type(rejected) is errors._CLASS_OF[code], "nothing of the frame was carried out: that leaves nothing open"


def test_errors_survive_pickling() -> None:
    error = with_details("CONDITION_FAILED", writes=True, mod_revision="17")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.code, copy.hint, copy.mod_revision) == (type(error), error.code, error.hint, 17)


def test_every_error_is_public_and_every_public_name_is_documented() -> None:
    classes = [kvclient.KvClientError]
    for kind in classes:
        classes.extend(kind.__subclasses__())
    assert {kind.__name__ for kind in classes} <= set(kvclient.__all__)
    for name in kvclient.__all__:
        thing = getattr(kvclient, name)
        if not inspect.isclass(thing):
            continue
        assert (inspect.getdoc(thing) or "").split("\n")[0].endswith("."), name
        for member_name, member in vars(thing).items():
            if inspect.isfunction(member) and not member_name.startswith("_"):
                assert member.__doc__, f"{name}.{member_name}"


async def test_details_travel_over_a_real_connection(kv: Any, fake: FakeServer) -> None:
    fake.refuse_next("Put", "DISK_FULL", "no space", "free some", folder="wal")
    with pytest.raises(kvclient.NotWritten) as caught:
        await kv.put(b"k", b"v")
    assert (caught.value.code, caught.value.hint, caught.value.details) == ("DISK_FULL", "free some", {"folder": "wal"})
    assert await kv.get(b"k") is None
    fake.refuse_next("Scan", "COMPACTED", oldest_readable_revision="9")
    with pytest.raises(kvclient.Compacted) as compacted:
        await kv.entries(revision=3)
    assert compacted.value.oldest_readable_revision == 9


async def test_lost_history_is_said_until_the_session_is_forgotten(kv: Any, fake: FakeServer) -> None:
    await kv.put(b"kept", b"v")
    await kv.put(b"lost", b"v", durability=kvclient.Durability.MEMORY)
    fake.store.restart()
    for _ in range(2):
        with pytest.raises(kvclient.HistoryLost):
            await kv.get(b"kept")
    kv.forget_session()
    assert (await kv.get(b"kept")).value == b"v"
    assert await kv.get(b"lost") is None
    assert kv.session == (2, 2)


@pytest.mark.parametrize(
    ("writes", "rest_s", "kind"),
    [
        (True, 9.0, kvclient.OutcomeUnknown),
        (True, -9.0, kvclient.OutcomeUnknown),
        (False, 9.0, kvclient.ServerError),
        (False, -9.0, kvclient.Timeout),
    ],
)
def test_an_answer_that_is_none_is_an_error_of_its_own(writes: bool, rest_s: float, kind: type[Exception]) -> None:
    with kvclient.Client("h:1") as kv, pytest.raises(kind):
        kv._routes._primary.admit_answer(None, "h:1", time.monotonic() + rest_s, writes=writes)
