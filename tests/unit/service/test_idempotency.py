"""Writes with a key are carried out once: frames of every kind, calls of their own, across crashes, and on who takes over."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from kvproto.v1 import errors_pb2, kv_pb2
from kvserver.base.errors import Code, KvError
from kvserver.commit.requests import CreateNamespace, DropNamespace
from kvserver.commit.state import State
from kvserver.engine.database import Database
from kvserver.service.context import FixedContext
from kvserver.service.kv import KvService
from kvserver.wal.group_commit import Submission
from support.clocks import ManualClock
from support.memfs import MemoryFileSystem
from support.stores import content, do, flush, open_store, settle
from unit.service.framing import Frames, delete, failures, put

MEMORY = kv_pb2.DURABILITY_MEMORY
CLIENT = bytes(range(16))
NOW_MS = ManualClock().now_ms()
CALL = FixedContext()


def key(number: int = 1, issued_ms: int = NOW_MS, client: bytes = CLIENT) -> kv_pb2.IdempotencyKey:
    return kv_pb2.IdempotencyKey(client_id=client, number=number, issued_ms=issued_ms)


@pytest.fixture
def disk() -> MemoryFileSystem:
    return MemoryFileSystem()


@pytest.fixture
def frames(disk: MemoryFileSystem) -> Frames:
    return Frames(open_store(disk))


def same(first: kv_pb2.PipelineResponse, second: kv_pb2.PipelineResponse) -> bool:
    """Say whether two answers tell the same of a frame, whatever its id and whenever they were given."""
    told = []
    for answer in (first, second):
        copy = kv_pb2.PipelineResponse()
        copy.CopyFrom(answer)
        copy.frame_id = 0
        copy.header.revision = 0
        told.append(copy)
    return told[0] == told[1]


# -- frames -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 3, 1000])
def test_a_frame_of_puts_is_carried_out_once(frames: Frames, count: int) -> None:
    keys = [b"k%d" % number for number in range(count)]
    frames.puts(1, keys, idempotency=key())
    first = frames.settled(1)
    assert (first.first_revision, first.commits, first.header.revision) == (2, count, count + 1)
    before, assigned = content(frames.database), frames.database.marks.assigned
    frames.puts(2, keys, idempotency=key())
    assert same(first, frames.settled(2))
    assert (content(frames.database), frames.database.marks.assigned) == (before, assigned)
    assert all(version.version == 1 for version in before.values())


def test_another_number_or_client_is_another_write(frames: Frames) -> None:
    for number, one in enumerate([key(1), key(2), key(1, client=bytes(16))], 1):
        frames.puts(number, [b"k"], idempotency=one)
        assert frames.settled(number).first_revision == number + 1


def test_a_frame_of_deletions_is_carried_out_once(frames: Frames) -> None:
    frames.puts(1, [b"a", b"b", b"c"])
    settle(frames.database)
    frames.deletes(2, b"a", b"nothing", b"b", b"a", b"", b"c", idempotency=key())
    first = frames.settled(2)
    assert (first.first_revision, first.commits, list(first.absent)) == (5, 3, [1, 3])
    assert failures(first) == {4: "EMPTY_KEY"}
    frames.puts(3, [b"a", b"nothing"])
    settle(frames.database)
    frames.deletes(4, b"a", b"nothing", b"b", b"a", b"", b"c", idempotency=key())
    assert same(first, frames.settled(4))
    assert sorted(name for _, name in content(frames.database)) == [b"a", b"nothing"]


def test_many_absent_keys_are_told_again_at_their_places(frames: Frames) -> None:
    frames.puts(1, [b"k%03d" % number for number in range(0, 300, 7)])
    settle(frames.database)
    asked = [b"k%03d" % number for number in range(300)]
    for frame in (2, 3):
        frames.deletes(frame, *asked, idempotency=key())
        answer = frames.settled(frame)
        assert list(answer.absent) == [number for number in range(300) if number % 7]
        assert answer.commits == 43


def test_deletions_see_what_lies_in_tables(disk: MemoryFileSystem, frames: Frames) -> None:
    frames.puts(1, [b"a", b"b"])
    settle(frames.database)
    flush(frames.database)
    session_frames = Frames(frames.database)

    async def deletes() -> kv_pb2.PipelineResponse:
        request = kv_pb2.PipelineRequest(deletes=kv_pb2.DeleteColumns(keys=[b"a", b"x", b"b"]), idempotency=key())
        pending: Any = session_frames.session.handle(request)
        task = asyncio.ensure_future(pending)
        while not task.done():
            settle(frames.database)
            await asyncio.sleep(0)
        settle(frames.database)
        response: kv_pb2.PipelineResponse = task.result().response()
        return response

    first, second = asyncio.run(deletes()), asyncio.run(deletes())
    assert (first.commits, list(first.absent)) == (2, [1])
    assert same(first, second)


def test_mixed_operations_have_keys_of_their_own(frames: Frames) -> None:
    batch = kv_pb2.WriteRequest(
        mutations=[
            kv_pb2.Mutation(put=kv_pb2.PutMutation(key=b"w", value=b"1")),
            kv_pb2.Mutation(delete=kv_pb2.DeleteMutation(prefix=b"p")),
        ],
        idempotency=key(4),
    )
    operations = [
        put(b"a", if_absent=True, idempotency=key(1)),
        put(b"p1", idempotency=key(2)),
        delete(key=b"a", idempotency=key(3)),
        kv_pb2.Operation(write=batch),
    ]
    frames.mixed(1, *operations)
    first = frames.settled(1)
    assert [result.revision for result in first.results] == [2, 3, 4, 5]
    assert [result.deleted for result in first.results] == [0, 0, 1, 1]
    frames.mixed(2, *operations, put(b"a", if_absent=True, idempotency=key(1)))
    again = frames.settled(2)
    assert [result.revision for result in again.results] == [2, 3, 4, 5, 2]
    assert [result.deleted for result in again.results] == [0, 0, 1, 1, 0]
    assert sorted(name for _, name in content(frames.database)) == [b"w"]


@pytest.mark.parametrize("operations", [{"gets": kv_pb2.GetColumns(keys=[b"a"])}, {"mixed": kv_pb2.MixedOperations()}])
def test_a_frame_of_another_kind_has_no_key(frames: Frames, operations: Any) -> None:
    frames.send(1, **operations, idempotency=key())
    assert frames.answers[1].rejected
    assert failures(frames.answers[1]) == {0: "INVALID_FIELD"}


# -- calls of their own -----------------------------------------------------------------------------------------------


def call(database: Database, method: str, **fields: Any) -> Any:
    service = KvService(database)
    request = {"Put": kv_pb2.PutRequest, "Delete": kv_pb2.DeleteRequest, "Write": kv_pb2.WriteRequest}[method](**fields)

    async def run() -> Any:
        outcome: Any = getattr(service, method.lower())(request, CALL)
        return await outcome if inspect.isawaitable(outcome) else outcome

    async def begin() -> Any:
        outcome: Any = getattr(service, method.lower())(request, CALL)
        while not hasattr(outcome, "on_done"):
            outcome = await outcome
        return outcome

    ticket = asyncio.run(begin())
    settle(database)
    return ticket.answer()


def test_unary_writes_are_carried_out_once(frames: Frames) -> None:
    database = frames.database
    for _ in range(2):
        assert call(database, "Put", key=b"k", value=b"v", if_absent=True, idempotency=key(1)).header.revision == 2
    for _ in range(2):
        done = call(database, "Delete", prefix=b"k", idempotency=key(2))
        assert (done.header.revision, done.deleted) == (3, 1)
    mutation = kv_pb2.Mutation(put=kv_pb2.PutMutation(key=b"w", value=b"1"))
    for _ in range(2):
        written = call(database, "Write", mutations=[mutation], idempotency=key(3))
        assert (written.header.revision, written.put, written.deleted) == (4, 1, 0)
    assert database.marks.assigned == 4


def test_what_changed_nothing_is_judged_anew(frames: Frames) -> None:
    """It is not remembered, as nothing is lost by judging it as if it had come later."""
    database = frames.database
    assert call(database, "Delete", key=b"k", idempotency=key(1)).deleted == 0
    with pytest.raises(KvError) as refused:
        call(database, "Put", key=b"k", value=b"v", if_revision=9, idempotency=key(2))
    assert refused.value.code is Code.CONDITION_FAILED
    assert len(database.state.answers) == 0
    call(database, "Put", key=b"k", value=b"v")
    assert call(database, "Delete", key=b"k", idempotency=key(1)).deleted == 1
    call(database, "Put", key=b"k", value=b"v")
    assert call(database, "Put", key=b"k", value=b"v", if_revision=4, idempotency=key(2)).header.revision == 5


# -- while the first is under way -------------------------------------------------------------------------------------


def test_a_repeat_is_answered_when_the_first_is_durable_and_not_before(frames: Frames) -> None:
    frames.puts(1, [b"a", b"b"], idempotency=key())
    frames.puts(2, [b"a", b"b"], idempotency=key())
    assert frames.answers == {}
    settle(frames.database)
    assert same(frames.answers[1], frames.answers[2])
    assert frames.database.state.view.newest(1, b"a", frames.database.state.view.pin()) == (2, True)


def test_a_repeat_of_what_was_answered_from_memory_waits_for_the_disk(frames: Frames) -> None:
    """The first caller asked for less; what a repeat shows of it must still not be taken back."""
    frames.puts(1, [b"a"], idempotency=key(), durability=MEMORY)
    assert frames.answers[1].reached == MEMORY
    frames.puts(2, [b"a"], idempotency=key())
    assert 2 not in frames.answers
    assert frames.settled(2).first_revision == 2


def test_a_write_that_fails_on_its_way_is_unknown_and_so_is_its_repeat(disk: MemoryFileSystem, frames: Frames) -> None:
    frames.puts(1, [b"a"], idempotency=key())
    frames.puts(2, [b"a"], idempotency=key())
    disk.fail_next_sync()
    settle(frames.database)
    assert failures(frames.answers[1]) == {0: "OUTCOME_UNKNOWN"}
    assert frames.answers[2].failures[0].code in (errors_pb2.OUTCOME_UNKNOWN, errors_pb2.LOG_FAILED)


# -- crashes, and who takes over --------------------------------------------------------------------------------------


@pytest.mark.parametrize("flushed", [False, True])
def test_what_was_answered_is_remembered_after_a_start(disk: MemoryFileSystem, frames: Frames, flushed: bool) -> None:
    frames.puts(1, [b"a", b"b"], idempotency=key())
    first = frames.settled(1)
    if flushed:
        flush(frames.database)
    disk.kill()
    again = Frames(open_store(disk.another_process()))
    assert len(again.database.state.answers) == 1
    again.puts(1, [b"a", b"b"], idempotency=key())
    repeated = again.settled(1)
    assert (repeated.first_revision, repeated.commits) == (first.first_revision, first.commits)
    assert {version.version for version in content(again.database).values()} == {1}


def test_a_crash_keeps_a_write_and_its_answer_or_neither(disk: MemoryFileSystem, frames: Frames) -> None:
    """They are one submission, which lies within one frame of the log, under one checksum."""
    handed: list[Submission[Any]] = []
    pass_on = frames.database._leading.submit_to_log
    frames.database._leading.submit_to_log = lambda item: (handed.append(item), pass_on(item))[1]  # type: ignore[method-assign, assignment, func-returns-value]
    frames.puts(1, [b"a", b"b"], idempotency=key())
    frames.puts(2, [b"c"], idempotency=key(2))
    frames.mixed(3, put(b"d", if_absent=True, idempotency=key(3)))
    frames.deletes(4, b"a", b"b", idempotency=key(4))
    assert [item.commits for item in handed] == [3, 1, 1, 3]
    for item, number in zip(handed, (1, 2, 3, 4), strict=True):
        state = State()
        state.replay_group(2, item.commits, item.data)
        assert state.answers.find(_inner(number)) is not None, "the answer is within the bytes of the effects"


def _inner(number: int) -> Any:
    from kvserver.commit.idempotency import IdempotencyKey

    return IdempotencyKey(CLIENT, number, NOW_MS)


def test_a_log_that_is_replayed_elsewhere_answers_repeats_alike(frames: Frames) -> None:
    """What a new primary is: a state made from the log alone, without tables and without a clock."""
    groups: list[tuple[int, int, bytes]] = []
    pass_on = frames.database._leading.submit_to_log

    def tap(item: Any) -> None:
        if isinstance(item, Submission) and item.commits:
            first = frames.database.marks.assigned - item.commits + 1
            groups.append((first, item.commits, item.data))
        pass_on(item)

    frames.database._leading.submit_to_log = tap  # type: ignore[method-assign]
    frames.puts(1, [b"a", b"b"], idempotency=key(1))
    frames.puts(2, [b"plain"] * 5)
    frames.deletes(3, b"a", b"x", idempotency=key(2))
    frames.mixed(4, put(b"m", if_absent=True, idempotency=key(3)))
    settle(frames.database)
    other = State()
    for group in groups:
        other.replay_group(*group)
    for number in (1, 2, 3):
        found = other.answers.find(_inner(number))
        assert found is not None
        assert found == frames.database.state.answers.find(_inner(number))


def test_remembered_answers_are_no_keys_of_anybody(frames: Frames) -> None:
    frames.puts(1, [b"a"], idempotency=key())
    settle(frames.database)
    assert list(content(frames.database)) == [("", b"a")]
    assert frames.database.live_keys() == 1


# -- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        kv_pb2.IdempotencyKey(number=1, issued_ms=NOW_MS),
        key(client=b"short"),
        key(client=bytes(17)),
        key(issued_ms=0),
        key(issued_ms=NOW_MS + 61_000),
        key(issued_ms=(1 << 64) - 1),
    ],
)
def test_a_key_that_cannot_be_is_refused_by_name(frames: Frames, bad: kv_pb2.IdempotencyKey) -> None:
    frames.puts(1, [b"a"], idempotency=bad)
    assert (failures(frames.answers[1]), frames.answers[1].rejected) == ({0: "INVALID_FIELD"}, True)
    assert "idempotency" in frames.answers[1].failures[0].message
    frames.mixed(2, put(b"a", idempotency=bad))
    assert failures(frames.settled(2)) == {0: "INVALID_FIELD"}
    assert frames.database.marks.assigned == 1


@pytest.mark.parametrize("kind", ["more puts", "deletions", "a single put"])
def test_another_write_under_the_same_key_is_refused(frames: Frames, kind: str) -> None:
    frames.puts(1, [b"a", b"b"], idempotency=key())
    settle(frames.database)
    match kind:
        case "more puts":
            frames.puts(2, [b"a", b"b", b"c"], idempotency=key())
        case "deletions":
            frames.deletes(2, b"a", b"b", idempotency=key())
        case _:
            frames.mixed(2, put(b"a", idempotency=key()))
    assert failures(frames.settled(2)) == {0: "INVALID_FIELD"}
    assert sorted(name for _, name in content(frames.database)) == [b"a", b"b"]


def test_bad_pairs_of_a_frame_fail_again_and_the_others_are_answered_again(frames: Frames) -> None:
    for frame in (1, 2):
        frames.puts(frame, [b"a", b"", b"b"], idempotency=key())
        answer = frames.settled(frame)
        assert failures(answer) == {1: "EMPTY_KEY"}
        assert (answer.first_revision, answer.commits) == (2, 2)
    frames.puts(3, [b""], idempotency=key(2))
    assert failures(frames.settled(3)) == {0: "EMPTY_KEY"}


def test_a_dropped_namespace_takes_no_keyed_write(frames: Frames) -> None:
    do(frames.database, CreateNamespace("ns"))
    do(frames.database, DropNamespace("ns"))
    frames.puts(1, [b"a"], namespace="ns", idempotency=key())
    assert failures(frames.settled(1)) == {0: "UNKNOWN_NAMESPACE"}
    assert len(frames.database.state.answers) == 0
