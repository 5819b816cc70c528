"""One frame: what is sent for it, and what becomes of each operation, whatever a server may answer."""

from __future__ import annotations

import array
from collections.abc import Callable
from typing import Any

import pytest

from kvclient import (
    BatchResult,
    ConditionFailed,
    Delete,
    DeletePrefix,
    DeleteRange,
    DeleteResult,
    Durability,
    Entry,
    InvalidRequestError,
    OutcomeUnknown,
    Put,
    ServerError,
    WriteResult,
)
from kvclient import _operations as operations
from kvclient._frames import Frame, Kind, kind_of
from kvproto.v1 import errors_pb2, kv_pb2
from unit.kvclient.joining import POLICY, Waiter, answer_to, failure

LOCAL = Durability.LOCAL


def frame_of(*made: operations.Operation[Any]) -> Frame:
    frame = Frame(made[0].kind)
    frame.frame_id = 7
    for operation in made:
        assert operation.kind is frame.kind
        frame.keys.append(operation.key)
        frame.values.append(operation.value)
        frame.waiters.append(Waiter())
        frame.deadlines.append(1.0)
    return frame


def told(frame: Frame) -> list[Any]:
    return [waiter.outcome for waiter in frame.waiters]  # type: ignore[attr-defined]


def gets(*keys: bytes) -> Frame:
    return frame_of(*map(operations.get, keys))


def puts(*keys: bytes, durability: Durability = POLICY) -> Frame:
    return frame_of(*(operations.put(key, b"v" + key, durability) for key in keys))


def deletes(*keys: bytes) -> Frame:
    return frame_of(*(operations.delete(Delete(key), POLICY) for key in keys))


def mixed() -> Frame:
    return frame_of(
        operations.put_if(b"a", b"1", True, None, POLICY),
        operations.delete(DeletePrefix(b"p"), POLICY),
        operations.write([Put(b"x", b"1"), Put(b"y", b"2"), Delete(b"z")], POLICY),
    )


# -- what is sent -----------------------------------------------------------------------------------------------------


def test_columns_and_what_goes_with_them() -> None:
    request = puts(b"a", b"b").request("team", None)
    assert (request.frame_id, request.namespace, request.durability) == (7, "team", kv_pb2.DURABILITY_UNSPECIFIED)
    assert (list(request.puts.keys), list(request.puts.values)) == ([b"a", b"b"], [b"va", b"vb"])
    assert list(deletes(b"a", b"b").request("", None).deletes.keys) == [b"a", b"b"]
    assert list(gets(b"a", b"b").request("", None).gets.keys) == [b"a", b"b"]
    kinds = [operation.WhichOneof("kind") for operation in mixed().request("", None).mixed.operations]
    assert kinds == ["put", "delete", "write"]


def test_only_reads_carry_what_was_seen() -> None:
    seen = kv_pb2.SessionToken(epoch=2, revision=9)
    assert gets(b"a").request("", seen).session == seen
    assert not gets(b"a").request("", None).HasField("session")
    for frame in (puts(b"a"), deletes(b"a"), mixed()):
        assert not frame.request("", seen).HasField("session")


@pytest.mark.parametrize("kind", [Kind.PUTS, Kind.DELETES, Kind.MIXED])
def test_each_kind_of_writes_has_one_that_waits_for_no_disk(kind: Kind) -> None:
    waiting, hurried = kind_of(kind, POLICY), kind_of(kind, Durability.MEMORY)
    assert waiting is kind
    assert hurried.name == f"MEMORY_{kind.name}"
    assert Frame(hurried).request("", None).durability == kv_pb2.DURABILITY_MEMORY
    assert Frame(waiting).request("", None).durability == kv_pb2.DURABILITY_UNSPECIFIED
    for other in (Durability.LOCAL, Durability.REPLICATED, Durability.UNRECOGNIZED):
        with pytest.raises(InvalidRequestError, match="INVALID_FIELD"):
            kind_of(kind, other)


# -- honest answers ---------------------------------------------------------------------------------------------------


def test_each_read_gets_its_own_row() -> None:
    frame = gets(b"a", b"absent", b"b")
    assert frame.settle(answer_to(frame)) == {}
    assert told(frame) == [Entry(b"a", b"of a", 1, 1, 1), None, Entry(b"b", b"of b", 1, 1, 1)]


def test_each_put_gets_its_revision_and_failures_take_none() -> None:
    frame = puts(b"a", b"b", b"c", b"d")
    failures = frame.settle(answer_to(frame, {1: "DISK_FULL"}, first=5))
    assert {place: error.code for place, error in failures.items()} == {1: "DISK_FULL"}
    assert frame.waiters[1].done() is False, "whoever settles the frame decides what becomes of it"
    revisions = [frame.waiters[place].outcome for place in (0, 2, 3)]  # type: ignore[attr-defined]
    assert revisions == [WriteResult(5, LOCAL, 1), WriteResult(6, LOCAL, 1), WriteResult(7, LOCAL, 1)]


def test_deletions_that_found_nothing_made_no_commit() -> None:
    frame = deletes(b"a", b"absent", b"b", b"c")
    failures = frame.settle(answer_to(frame, {2: "EMPTY_KEY"}, first=5))
    assert set(failures) == {2}
    assert frame.waiters[0].outcome == DeleteResult(1, 5, LOCAL, 1)  # type: ignore[attr-defined]
    assert frame.waiters[1].outcome == DeleteResult(0, 9, LOCAL, 1), "the revision that showed it"  # type: ignore[attr-defined]
    assert frame.waiters[3].outcome == DeleteResult(1, 6, LOCAL, 1)  # type: ignore[attr-defined]


def test_a_mixed_frame_has_a_result_of_its_kind_for_each() -> None:
    frame = mixed()
    answer = answer_to(frame)
    for result, (revision, deleted) in zip(answer.results, [(5, 0), (0, 0), (6, 1)], strict=True):
        result.revision, result.deleted = revision, deleted
    frame.settle(answer)
    header = answer.header.revision
    assert told(frame) == [WriteResult(5, LOCAL, 1), DeleteResult(0, header, LOCAL, 1), BatchResult(2, 1, 6, LOCAL, 1)]


def test_a_failed_condition_names_the_revision_and_a_failure_all_that_was_sent_along() -> None:
    frame = mixed()
    answer = answer_to(frame, {0: "CONDITION_FAILED", 1: "DISK_FULL"})
    answer.failures[0].mod_revision = 12
    answer.failures[1].MergeFrom(kv_pb2.Failure(hint="free some", details={"folder": "wal"}))
    failed, full = frame.settle(answer).values()
    assert isinstance(failed, ConditionFailed)
    assert failed.mod_revision == 12
    assert (full.message, full.hint, full.details, full.from_server) == ("refused", "free some", {"folder": "wal"}, True)


def test_the_reason_of_a_rejection_is_everybodys_with_an_error_each() -> None:
    frame = puts(b"a", b"b")
    failures = frame.settle(kv_pb2.PipelineResponse(rejected=True, failures=[failure(0, "OVERLOADED")]))
    assert [error.code for error in failures.values()] == ["OVERLOADED"] * 2
    assert failures[0] is not failures[1], "two callers must not raise the same object"


@pytest.mark.parametrize("code", ["INTERNAL", "CORRUPTION"])
def test_a_fault_leaves_a_write_open_but_not_in_a_frame_that_was_rejected(code: str) -> None:
    for frame, kind in ((puts(b"a"), OutcomeUnknown), (gets(b"a"), ServerError)):
        (error,) = frame.settle(answer_to(frame, {0: code})).values()
        assert (isinstance(error, OutcomeUnknown), isinstance(error, kind)) == (kind is OutcomeUnknown, True)
        (error,) = frame.settle(kv_pb2.PipelineResponse(rejected=True, failures=[failure(0, code)])).values()
        assert isinstance(error, ServerError)


def test_a_code_of_tomorrow_leaves_a_write_open() -> None:
    frame = puts(b"a")
    unknown = kv_pb2.Failure(index=0, message="new")
    unknown.MergeFromString(bytes([0x10]) + b"\xe7\x07")  # the field ``code``, 999
    (error,) = frame.settle(kv_pb2.PipelineResponse(failures=[unknown])).values()
    assert (type(error), error.code) == (OutcomeUnknown, "ERROR_CODE_999")
    assert 999 not in errors_pb2.ErrorCode.values()


def test_those_who_gave_up_are_told_nothing() -> None:
    for frame in (gets(b"a", b"b", b"c"), puts(b"a", b"b", b"c"), deletes(b"a", b"b", b"c")):
        for failed in ({}, {2: "EMPTY_KEY"}):
            frame.waiters = [Waiter() for _ in range(3)]
            frame.waiters[0].given_up = True  # type: ignore[attr-defined]
            frame.settle(answer_to(frame, failed))
            assert [len(waiter.told) for waiter in frame.waiters] == [0, 1, not failed]  # type: ignore[attr-defined]


# -- answers that do not fit ------------------------------------------------------------------------------------------

Spoil = Callable[[kv_pb2.PipelineResponse], Any]


def spoilt_columns() -> list[tuple[str, Spoil]]:
    columns = ("values", "mod_revisions", "create_revisions", "versions")
    shorter = [(f"{name} too short", lambda answer, name=name: getattr(answer.gets, name).pop()) for name in columns]
    longer = [(f"{name} too long", lambda answer, name=name: _lengthen(getattr(answer.gets, name))) for name in columns]
    return [*shorter, *longer, ("no columns", lambda answer: answer.ClearField("gets"))]


def _lengthen(column: Any) -> None:
    column.append(column[0])


def _with(**fields: Any) -> Spoil:
    def spoil(answer: kv_pb2.PipelineResponse) -> None:
        for name, value in fields.items():
            if isinstance(value, list):
                answer.ClearField(name)  # type: ignore[arg-type]
                getattr(answer, name).extend(value)
            else:
                setattr(answer, name, value)

    return spoil


UNFIT: list[tuple[str, Callable[[], Frame], Spoil]] = [
    *((name, lambda: gets(b"a", b"b", b"c"), spoil) for name, spoil in spoilt_columns()),
    ("too many commits", lambda: puts(b"a", b"b"), _with(commits=3)),
    ("too few commits", lambda: puts(b"a", b"b"), _with(commits=1)),
    ("commits of failures", lambda: puts(b"a", b"b"), _with(failures=[failure(0, "EMPTY_KEY")])),
    ("commits without a revision", lambda: puts(b"a", b"b"), _with(first_revision=0)),
    ("a failure of nothing", lambda: puts(b"a", b"b"), _with(failures=[failure(2, "EMPTY_KEY")], commits=1)),
    ("a failed read of nothing", lambda: gets(b"a"), _with(failures=[failure(1, "EMPTY_KEY")])),
    ("rejected without a reason", lambda: puts(b"a"), _with(rejected=True)),
    ("rejected reads without a reason", lambda: gets(b"a"), _with(rejected=True)),
    ("too many deletions", lambda: deletes(b"a", b"b"), _with(commits=3)),
    ("too few deletions", lambda: deletes(b"a", b"b"), _with(commits=1)),
    ("deletions without a revision", lambda: deletes(b"a", b"b"), _with(first_revision=0)),
    ("absent behind the last", lambda: deletes(b"a", b"b"), _with(absent=[2], commits=1)),
    ("absent and failed", lambda: deletes(b"a", b"b"), _with(absent=[0], failures=[failure(0, "EMPTY_KEY")], commits=0)),
    ("too few results", mixed, lambda answer: answer.results.pop()),
    ("too many results", mixed, lambda answer: answer.results.add()),
    ("a put without a revision", mixed, lambda answer: answer.results[0].ClearField("revision")),
]


@pytest.mark.parametrize(("make", "spoil"), [row[1:] for row in UNFIT], ids=[row[0] for row in UNFIT])
def test_an_answer_that_does_not_fit_tells_nobody_anything(make: Callable[[], Frame], spoil: Spoil) -> None:
    frame = make()
    answer = answer_to(frame)
    spoil(answer)
    with pytest.raises(ServerError, match="does not fit its frame"):
        frame.settle(answer)
    assert [waiter.told for waiter in frame.waiters] == [[]] * len(frame.keys)  # type: ignore[attr-defined]
    frame.settle(answer_to(frame))
    assert len(told(frame)) == len(frame.keys), "the same answer without the flaw fits"


def test_the_answer_to_another_kind_does_not_fit() -> None:
    frames = [gets(b"a"), puts(b"a"), deletes(b"a"), mixed()]
    for frame in frames:
        for other in frames:
            if {frame.kind, other.kind} in ({frame.kind}, {Kind.PUTS, Kind.DELETES}):
                continue
            with pytest.raises(ServerError, match="does not fit its frame"):
                frame.settle(answer_to(other))


# -- operations -------------------------------------------------------------------------------------------------------


def test_plain_operations_have_columns_and_all_others_are_mixed() -> None:
    assert operations.get(b"k").kind is Kind.GETS
    assert operations.put(b"k", b"v", POLICY).kind is Kind.PUTS
    assert operations.put(b"k", b"v", Durability.MEMORY).kind is Kind.MEMORY_PUTS
    assert operations.delete(Delete(b"k"), Durability.MEMORY).kind is Kind.MEMORY_DELETES
    for target in (Delete(b"k", if_revision=0), DeleteRange(b"a", b"b"), DeletePrefix(b"")):
        assert operations.delete(target, POLICY).kind is Kind.MIXED
    assert operations.put_if(b"k", b"v", False, 0, POLICY).key.put.HasField("if_revision")
    assert operations.write([], Durability.MEMORY).kind is Kind.MEMORY_MIXED


@pytest.mark.parametrize("operation_size", [0, 1, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152])
def test_no_operation_takes_more_of_a_message_than_it_says(operation_size: int) -> None:
    value = bytes(operation_size)
    made: list[operations.Operation[Any]] = [
        operations.put(b"key", value, POLICY),
        operations.delete(Delete(value), POLICY),
        operations.get(value),
        operations.put_if(b"key", value, True, None, POLICY),
        operations.write([Put(b"key", value)], POLICY),
    ]
    for operation in made:
        one, two = frame_of(operation), frame_of(operation, operation)
        added = two.request("", None).ByteSize() - one.request("", None).ByteSize()
        assert added <= operation.size_bytes + 3, "three bytes more for the length of them all"


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_whatever_holds_bytes_is_taken_as_it_is_now(kind: Any) -> None:
    buffer = bytearray(b"k")
    key = kind(buffer)
    put = operations.put(key, key, POLICY)
    batch = operations.write([Put(key, key), Delete(key), DeletePrefix(key), DeleteRange(key, key)], POLICY)
    buffer[:] = b"x"
    assert (put.key, put.value) == (b"k", b"k")
    assert type(put.key) is type(put.value) is bytes
    assert b"x" not in batch.key.SerializeToString()


def test_bytes_are_counted_not_items() -> None:
    wide = memoryview(array.array("Q", range(100)))
    assert operations.put(b"k", wide, POLICY).size_bytes > 800
    assert operations.get(wide).size_bytes > 800
    assert operations.delete(Delete(wide), POLICY).size_bytes > 800


@pytest.mark.parametrize("bad", ["text", None, 7, ["k"]])
def test_anything_else_is_a_type_error(bad: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: operations.get(bad),
        lambda: operations.put(bad, b"v", POLICY),
        lambda: operations.put(b"k", bad, POLICY),
        lambda: operations.put_if(bad, b"v", True, None, POLICY),
        lambda: operations.delete(Delete(bad), POLICY),
        lambda: operations.delete(Delete(bad, if_revision=1), POLICY),
        lambda: operations.delete(DeletePrefix(bad), POLICY),
        lambda: operations.delete(DeleteRange(bad, b""), POLICY),
        lambda: operations.write([Put(bad, b"v")], POLICY),
        lambda: operations.write([Delete(bad)], POLICY),
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()
