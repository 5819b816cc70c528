"""Frames: what is carried out, in which order, what fails alone, and when the answer may be told."""

from __future__ import annotations

import asyncio
import errno
import inspect
from typing import Any

import pytest

from kvproto.v1 import errors_pb2, kv_pb2
from kvserver.base import failpoints
from kvserver.base.limits import MAX_FRAME_OPERATIONS, MAX_KEY_BYTES, MAX_MESSAGE_BYTES, MAX_VALUE_BYTES
from kvserver.base.options import PipelineOptions
from kvserver.commit.requests import CreateNamespace, Put
from kvserver.engine.database import Database
from kvserver.service.pipeline import PipelineSession
from support.memfs import MemoryFileSystem
from support.stores import open_store, settle

LOCAL, MEMORY = kv_pb2.DURABILITY_LOCAL, kv_pb2.DURABILITY_MEMORY


class Frames:
    """A session on a store that moves only when it is told to."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.session = PipelineSession(database)
        self.answers: dict[int, kv_pb2.PipelineResponse] = {}

    def send(self, frame_id: int, **fields: Any) -> None:
        pending = self.session.handle(kv_pb2.PipelineRequest(frame_id=frame_id, **fields))
        if inspect.isawaitable(pending):
            pending = asyncio.run(_awaited(pending))
        pending.on_done(lambda: self.answers.__setitem__(frame_id, pending.response()))

    def puts(self, frame_id: int, keys: list[bytes], values: list[bytes] | None = None, **fields: Any) -> None:
        values = [b"v"] * len(keys) if values is None else values
        self.send(frame_id, puts=kv_pb2.PutColumns(keys=keys, values=values), **fields)

    def deletes(self, frame_id: int, *keys: bytes, **fields: Any) -> None:
        self.send(frame_id, deletes=kv_pb2.DeleteColumns(keys=keys), **fields)

    def gets(self, frame_id: int, *keys: bytes, **fields: Any) -> None:
        self.send(frame_id, gets=kv_pb2.GetColumns(keys=keys), **fields)

    def mixed(self, frame_id: int, *operations: kv_pb2.Operation, **fields: Any) -> None:
        self.send(frame_id, mixed=kv_pb2.MixedOperations(operations=operations), **fields)

    def settled(self, frame_id: int) -> kv_pb2.PipelineResponse:
        settle(self.database)
        return self.answers.pop(frame_id)


async def _awaited(pending: Any) -> Any:
    return await pending


@pytest.fixture
def frames() -> Frames:
    return Frames(open_store(MemoryFileSystem()))


def failures(answer: kv_pb2.PipelineResponse) -> dict[int, str]:
    assert [failure.index for failure in answer.failures] == sorted(failure.index for failure in answer.failures)
    return {failure.index: errors_pb2.ErrorCode.Name(failure.code) for failure in answer.failures}


def put(key: bytes, value: bytes = b"v", **fields: Any) -> kv_pb2.Operation:
    return kv_pb2.Operation(put=kv_pb2.PutRequest(key=key, value=value, **fields))


def get(key: bytes, **fields: Any) -> kv_pb2.Operation:
    return kv_pb2.Operation(get=kv_pb2.GetRequest(key=key, **fields))


def delete(**fields: Any) -> kv_pb2.Operation:
    return kv_pb2.Operation(delete=kv_pb2.DeleteRequest(**fields))


# -- columnar puts --------------------------------------------------------------------------------------------------


def test_a_frame_of_puts_is_answered_by_one_run_when_it_is_durable(frames: Frames) -> None:
    frames.puts(9, [b"a", b"b", b"a"])
    assert 9 not in frames.answers
    answer = frames.settled(9)
    assert (answer.first_revision, answer.commits, answer.frame_id) == (2, 3, 9)
    assert (answer.header.revision, answer.reached, answer.rejected) == (4, LOCAL, False)
    assert not answer.failures
    version = frames.database.get(1, b"a", 4)
    assert version is not None
    assert (version.create_revision, version.mod_revision, version.version) == (2, 4, 2)


def test_pairs_that_break_a_rule_fail_alone_and_take_no_revision(frames: Frames) -> None:
    frames.puts(
        1,
        [b"", b"a", b"k" * (MAX_KEY_BYTES + 1), b"b", b"c"],
        [b"v", b"v", b"v", bytes(MAX_VALUE_BYTES + 1), b"v"],
    )
    answer = frames.settled(1)
    assert failures(answer) == {0: "EMPTY_KEY", 2: "KEY_TOO_LARGE", 3: "VALUE_TOO_LARGE"}
    assert (answer.first_revision, answer.commits, answer.header.revision) == (2, 2, 3)
    assert not answer.rejected
    assert str(MAX_VALUE_BYTES) in answer.failures[2].message


def test_a_frame_in_which_all_fail_makes_no_commit(frames: Frames) -> None:
    frames.puts(1, [b"", b""])
    answer = frames.answers[1]
    assert failures(answer) == {0: "EMPTY_KEY", 1: "EMPTY_KEY"}
    assert (answer.first_revision, answer.commits, answer.header.revision) == (0, 0, 1)


def test_memory_puts_are_answered_at_once_and_say_so(frames: Frames) -> None:
    frames.puts(1, [b"a"], durability=MEMORY)
    answer = frames.answers[1]
    assert (answer.first_revision, answer.commits, answer.reached) == (2, 1, MEMORY)
    assert frames.database.marks.visible == 1


@pytest.mark.parametrize("kind", ["puts", "deletes", "gets"])
def test_an_empty_frame_is_answered(frames: Frames, kind: str) -> None:
    frames.send(1, **{kind: {}})
    answer = frames.answers[1]
    assert (answer.commits, answer.header.revision, answer.reached) == (0, 1, LOCAL)
    assert not answer.failures


# -- refused as a whole ---------------------------------------------------------------------------------------------


def test_frames_that_cannot_be_understood_are_rejected_with_one_failure(frames: Frames) -> None:
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({}, "INVALID_FIELD", "operations"),
        ({"puts": kv_pb2.PutColumns(keys=[b"a", b"b"], values=[b"v"])}, "INVALID_FIELD", "2 keys and 1 values"),
        ({"puts": kv_pb2.PutColumns(keys=[b"a"], values=[b"v"]), "durability": 2}, "INVALID_FIELD", "durability"),
        ({"puts": kv_pb2.PutColumns(keys=[b"a"], values=[b"v"]), "durability": 99}, "INVALID_FIELD", "99"),
        ({"gets": kv_pb2.GetColumns(keys=[b"a"]), "namespace": "nowhere"}, "UNKNOWN_NAMESPACE", "nowhere"),
        ({"gets": kv_pb2.GetColumns(keys=[b"a"]), "namespace": "not a name"}, "INVALID_NAMESPACE_NAME", ""),
        ({"gets": kv_pb2.GetColumns(keys=[b"a"] * (MAX_FRAME_OPERATIONS + 1))}, "FRAME_TOO_LARGE", "16384"),
        ({"deletes": kv_pb2.DeleteColumns(keys=[b"a"] * (MAX_FRAME_OPERATIONS + 1))}, "FRAME_TOO_LARGE", "16384"),
        (
            {"puts": kv_pb2.PutColumns(keys=[b"a"] * (MAX_FRAME_OPERATIONS + 1), values=[b""] * (MAX_FRAME_OPERATIONS + 1))},
            "FRAME_TOO_LARGE",
            "16384",
        ),
        ({"mixed": kv_pb2.MixedOperations(operations=[get(b"a")] * (MAX_FRAME_OPERATIONS + 1))}, "FRAME_TOO_LARGE", "16384"),
    ]
    for frame_id, (fields, code, said) in enumerate(cases):
        frames.send(frame_id, **fields)
        answer = frames.answers[frame_id]
        assert answer.rejected
        assert failures(answer) == {0: code}
        assert said in answer.failures[0].message
    assert frames.database.marks.assigned == 1


def test_a_full_memory_rejects_the_frame_and_the_next_reads_still_work() -> None:
    frames = Frames(open_store(MemoryFileSystem(), pipeline=PipelineOptions(memory_limit_bytes=1000)))
    frames.puts(1, [b"a"], [bytes(400)])
    assert frames.settled(1).commits == 1
    frames.puts(2, [b"b"], [bytes(400)])
    answer = frames.settled(2)
    assert answer.rejected
    assert failures(answer) == {0: "MEMORY_FULL"}
    frames.gets(3, b"a")
    assert frames.settled(3).gets.mod_revisions == [2]


def test_a_line_that_is_full_rejects_a_frame_but_not_the_reads_behind_it() -> None:
    frames = Frames(open_store(MemoryFileSystem(), pipeline=PipelineOptions(overlap=False, max_waiting=1)))
    frames.puts(1, [b"a"])  # under way
    frames.puts(2, [b"b"])  # stands in line
    frames.puts(3, [b"c"])
    answer = frames.answers[3]
    assert answer.rejected
    assert failures(answer) == {0: "OVERLOADED"}
    assert frames.settled(1).first_revision == 2
    assert frames.settled(2).first_revision == 3


def test_of_a_frame_with_bad_pairs_that_is_refused_only_the_refusal_is_told() -> None:
    frames = Frames(open_store(MemoryFileSystem(), pipeline=PipelineOptions(memory_limit_bytes=1)))
    frames.puts(1, [b"", b"a"])
    answer = frames.answers[1]
    assert answer.rejected
    assert failures(answer) == {0: "MEMORY_FULL"}


# -- deletes and gets -----------------------------------------------------------------------------------------------


def test_deletes_say_what_was_absent_and_number_what_was_there(frames: Frames) -> None:
    frames.puts(1, [b"a", b"b", b"c"])
    frames.deletes(2, b"a", b"x", b"", b"b", b"a")
    answer = frames.settled(2)
    assert (answer.first_revision, answer.commits, answer.header.revision) == (5, 2, 6)
    assert answer.absent == [1, 4]
    assert failures(answer) == {2: "EMPTY_KEY"}


def test_a_deletion_of_what_is_not_durably_gone_waits(frames: Frames) -> None:
    frames.puts(1, [b"a"])
    settle(frames.database)
    frames.deletes(2, b"a", durability=MEMORY)
    assert frames.answers[2].reached == MEMORY
    frames.deletes(3, b"a")
    assert 3 not in frames.answers, "it would show a deletion that a crash could take back"
    answer = frames.settled(3)
    assert (answer.absent, answer.commits, answer.header.revision) == ([0], 0, 3)


def test_gets_see_what_was_sent_before_them_and_wait_until_it_is_durable(frames: Frames) -> None:
    frames.puts(1, [b"a", b"b"], [b"1", b"2"])
    frames.deletes(2, b"b")
    frames.gets(3, b"a", b"b", b"c", b"")
    assert 3 not in frames.answers
    answer = frames.settled(3)
    assert list(answer.gets.values) == [b"1", b"", b"", b""]
    assert answer.gets.mod_revisions == [2, 0, 0, 0]
    assert answer.gets.create_revisions == [2, 0, 0, 0]
    assert answer.gets.versions == [1, 0, 0, 0]
    assert failures(answer) == {3: "EMPTY_KEY"}
    assert answer.header.revision == 4


def test_reads_that_would_not_fit_an_answer_fail_and_say_what_to_do(frames: Frames) -> None:
    value = bytes(MAX_VALUE_BYTES)
    frames.puts(1, [b"a"], [value])
    frames.gets(2, b"a", b"a", b"a", b"nothing")
    answer = frames.settled(2)
    assert list(map(len, answer.gets.values)) == [MAX_VALUE_BYTES, 0, 0, 0]
    assert failures(answer) == {1: "FRAME_TOO_LARGE", 2: "FRAME_TOO_LARGE"}
    frames.mixed(3, get(b"a"), get(b"a"), get(b"nothing"))
    answer = frames.settled(3)
    assert failures(answer) == {1: "FRAME_TOO_LARGE"}
    assert len(answer.results[0].kv.value) == MAX_VALUE_BYTES


def test_the_largest_answers_fit_a_message(frames: Frames) -> None:
    frames.puts(1, [b"\0" * 64], [bytes(MAX_VALUE_BYTES - 100)])
    conditional = put(b"\0" * 64, b"", if_absent=True)
    frames.mixed(2, get(b"\0" * 64), *[conditional] * (MAX_FRAME_OPERATIONS - 1))
    answer = frames.settled(2)
    assert len(answer.failures) == MAX_FRAME_OPERATIONS - 1
    assert answer.failures[0].message
    assert answer.ByteSize() < MAX_MESSAGE_BYTES
    frames.gets(3, *[b"\0" * 64] * MAX_FRAME_OPERATIONS)
    assert frames.settled(3).ByteSize() < MAX_MESSAGE_BYTES


# -- mixed ----------------------------------------------------------------------------------------------------------


def test_mixed_operations_take_effect_in_order_and_fail_alone(frames: Frames) -> None:
    frames.mixed(
        1,
        put(b"a", b"1"),
        get(b"a"),
        put(b"a", b"2", if_absent=True),
        put(b"a", b"3", if_revision=2),
        get(b"a"),
        delete(key=b"a", if_revision=3),
        delete(key=b"a"),
        get(b"a"),
        kv_pb2.Operation(),
    )
    answer = frames.settled(1)
    assert failures(answer) == {2: "CONDITION_FAILED", 8: "INVALID_FIELD"}
    assert answer.failures[0].mod_revision == 2
    assert [result.revision for result in answer.results] == [2, 0, 0, 3, 0, 4, 0, 0, 0]
    assert (answer.results[1].kv.value, answer.results[4].kv.value) == (b"1", b"3")
    assert answer.results[5].deleted == 1
    assert not answer.results[7].HasField("kv")
    assert (answer.commits, answer.header.revision) == (3, 4)


def test_a_failed_condition_waits_for_what_it_shows(frames: Frames) -> None:
    frames.mixed(1, put(b"a"), durability=MEMORY)
    assert frames.answers[1].reached == MEMORY
    frames.mixed(2, put(b"a", if_absent=True))
    assert 2 not in frames.answers
    assert frames.settled(2).failures[0].mod_revision == 2


def test_the_frames_own_fields_must_not_be_given_again(frames: Frames) -> None:
    operations = [
        put(b"a", namespace="x"),
        put(b"a", durability=MEMORY),
        delete(key=b"a", namespace="x"),
        delete(key=b"a", durability=MEMORY),
        get(b"a", namespace="x"),
        get(b"a", revision=1),
        get(b"a", session=kv_pb2.SessionToken()),
        kv_pb2.Operation(write=kv_pb2.WriteRequest(namespace="x")),
        kv_pb2.Operation(write=kv_pb2.WriteRequest(durability=MEMORY)),
        get(b""),
        delete(),
        delete(range=kv_pb2.KeyRange(start=b"b", end=b"a")),
        delete(prefix=b"a", if_revision=1),
        put(b"a", if_absent=True, if_revision=1),
        kv_pb2.Operation(write=kv_pb2.WriteRequest()),
    ]
    frames.mixed(1, *operations)
    codes = failures(frames.answers[1])
    assert set(codes) == set(range(len(operations)))
    assert {codes[9], codes[11]} == {"EMPTY_KEY", "INVERTED_RANGE"}
    assert {code for index, code in codes.items() if index not in (9, 11)} == {"INVALID_FIELD"}
    assert frames.database.marks.assigned == 1


def test_ranges_and_commits_within_a_frame_see_what_came_before(frames: Frames) -> None:
    frames.puts(1, [b"p1", b"p2", b"q"])
    settle(frames.database)
    frames.mixed(
        2,
        put(b"p3"),
        delete(prefix=b"p"),
        kv_pb2.Operation(
            write=kv_pb2.WriteRequest(
                mutations=[
                    kv_pb2.Mutation(put=kv_pb2.PutMutation(key=b"w", value=b"1")),
                    kv_pb2.Mutation(delete=kv_pb2.DeleteMutation(range=kv_pb2.KeyRange(start=b"q", end=b"r"))),
                ]
            )
        ),
        delete(prefix=b"p"),
    )
    answer = frames.settled(2)
    assert [(result.revision, result.deleted) for result in answer.results] == [(5, 0), (6, 3), (7, 1), (0, 0)]


def test_the_keys_of_ranges_are_put_in_order_before_a_frame_is_carried_out(frames: Frames, monkeypatch: Any) -> None:
    prepared: list[tuple[int, int]] = []

    async def prepare(namespace: int) -> None:
        prepared.append((namespace, frames.database.marks.assigned))

    monkeypatch.setattr(frames.database, "prepare_span", prepare)
    mutation = kv_pb2.Mutation(delete=kv_pb2.DeleteMutation(prefix=b"p"))
    frames.mixed(1, put(b"a"), delete(prefix=b"p"), kv_pb2.Operation(write=kv_pb2.WriteRequest(mutations=[mutation])))
    assert prepared == [(1, 1)]
    frames.mixed(2, put(b"a"), delete(key=b"a"))
    assert prepared == [(1, 1)], "a frame without ranges does not need it"


def test_a_large_mixed_frame_keeps_its_order(frames: Frames) -> None:
    operations = [put(b"k%d" % (number % 7), b"%d" % number) for number in range(3000)]
    frames.mixed(1, *operations, get(b"k3"))
    answer = frames.settled(1)
    assert [result.revision for result in answer.results[:-1]] == list(range(2, 3002))
    assert answer.results[-1].kv.value == max((b"%d" % n for n in range(3000) if n % 7 == 3), key=int)


def test_namespaces_within_a_frame(frames: Frames) -> None:
    frames.database.submit(CreateNamespace("ns"), lambda done: done)
    settle(frames.database)
    frames.puts(1, [b"a"], namespace="ns")
    frames.gets(2, b"a")
    frames.gets(3, b"a", namespace="ns")
    settle(frames.database)
    assert frames.answers[2].gets.mod_revisions == [0]
    assert frames.answers[3].gets.mod_revisions == [3]


# -- when the log fails -----------------------------------------------------------------------------------------------


def _fail() -> None:
    raise OSError(errno.EIO, "the disk is gone")


def test_after_a_failed_sync_nothing_is_called_failed_that_may_be_there() -> None:
    database = open_store(MemoryFileSystem())
    frames = Frames(database)
    frames.puts(1, [b"", b"a", b"b"])
    frames.deletes(2, b"a")
    frames.mixed(3, put(b"c"), get(b"a"))
    frames.gets(4, b"a")
    failpoints.arm("wal.after_write", _fail)
    try:
        settle(database)
    finally:
        failpoints.disarm_all()
    assert failures(frames.answers[1]) == {0: "EMPTY_KEY", 1: "OUTCOME_UNKNOWN", 2: "OUTCOME_UNKNOWN"}
    assert failures(frames.answers[2]) == {0: "OUTCOME_UNKNOWN"}
    assert failures(frames.answers[3]) == {0: "OUTCOME_UNKNOWN", 1: "LOG_FAILED"}
    assert failures(frames.answers[4]) == {0: "LOG_FAILED"}
    assert not any(frames.answers[number].rejected for number in (1, 2, 3))
    frames.puts(5, [b"d"])
    assert frames.answers[5].rejected
    assert failures(frames.answers[5]) == {0: "LOG_FAILED"}


def test_writes_of_others_do_not_come_between_the_revisions_of_a_frame() -> None:
    frames = Frames(open_store(MemoryFileSystem(), pipeline=PipelineOptions(overlap=False)))
    frames.puts(1, [b"a", b"b", b"c"])
    frames.deletes(2, b"a", b"b", b"x", b"c")
    other = frames.database.submit(Put(1, b"other", b""), lambda done: done)
    answer = frames.settled(2)
    assert (answer.first_revision, answer.commits) == (5, 3)
    assert other.answer().revision == 8
