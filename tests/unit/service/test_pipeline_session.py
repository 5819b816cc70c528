"""Frames: what is carried out, in which order, what fails alone, and when the answer may be told."""

from __future__ import annotations

import dataclasses
import errno
import gc
from typing import Any

import pytest

from kvproto.v1 import kv_pb2
from kvserver.base import failpoints
from kvserver.base.limits import MAX_FRAME_OPERATIONS, MAX_KEY_BYTES, MAX_MESSAGE_BYTES, MAX_VALUE_BYTES
from kvserver.base.options import PipelineOptions, TableOptions
from kvserver.commit.requests import Put
from kvserver.service.frames import PendingFrame
from kvserver.storage.flush_job import FlushFailed, FlushJob, FlushOutcome
from support.memfs import MemoryFileSystem
from support.stores import TWIN, flush, open_store, peek, settle
from unit.service.framing import Frames, failures, get, put

LOCAL, MEMORY = kv_pb2.DURABILITY_LOCAL, kv_pb2.DURABILITY_MEMORY


@pytest.fixture
def frames() -> Frames:
    return Frames(open_store(MemoryFileSystem()))


# -- columnar puts --------------------------------------------------------------------------------------------------


def test_a_frame_of_puts_is_answered_by_one_run_when_it_is_durable(frames: Frames) -> None:
    frames.puts(9, [b"a", b"b", b"a"])
    assert 9 not in frames.answers
    answer = frames.settled(9)
    assert (answer.first_revision, answer.commits, answer.frame_id) == (2, 3, 9)
    assert (answer.header.revision, answer.reached, answer.rejected) == (4, LOCAL, False)
    assert not answer.failures
    version = peek(frames.database, 1, b"a", 4)
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


class BrokenBuilder:
    """Builds no table."""

    def build(self, job: FlushJob) -> FlushOutcome:
        raise FlushFailed("the helper died")

    def close(self) -> None:
        pass


def full_store(memory_limit_bytes: int) -> Frames:
    """Return frames on a store whose memory cannot be flushed."""
    return Frames(
        open_store(
            MemoryFileSystem(),
            pipeline=PipelineOptions(memory_limit_bytes=memory_limit_bytes),
            tables=TableOptions(memtable_bytes=1024),
            kit=dataclasses.replace(TWIN, make_builder=lambda *_: BrokenBuilder()),
        )
    )


def test_a_full_memory_that_cannot_be_flushed_rejects_the_frame_and_the_next_reads_still_work() -> None:
    frames = full_store(1024)
    frames.puts(1, [b"a"], [bytes(1000)])
    assert frames.settled(1).commits == 1
    frames.puts(2, [b"b"], [bytes(400)])
    answer = frames.settled(2)
    assert answer.rejected
    assert failures(answer) == {0: "TABLES_FAILED"}
    frames.gets(3, b"a")
    assert frames.settled(3).gets.mod_revisions == [2]


def test_a_frame_waits_while_memory_is_full_and_goes_on_when_it_was_flushed() -> None:
    frames = Frames(open_store(MemoryFileSystem(), pipeline=PipelineOptions(memory_limit_bytes=1000)))
    frames.puts(1, [b"a"], [bytes(1000)])
    assert frames.settled(1).commits == 1
    frames.puts(2, [b"b"])
    frames.gets(3, b"a", b"b")
    settle(frames.database)
    assert not frames.answers
    assert flush(frames.database) == 2
    assert frames.settled(2).first_revision == 3
    assert list(frames.settled(3).gets.values) == [bytes(1000), b"v"]


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
    frames = full_store(1)
    frames.puts(1, [b"a"], [bytes(1000)])
    frames.settled(1)
    frames.puts(2, [b"", b"a"])
    answer = frames.answers[2]
    assert answer.rejected
    assert failures(answer) == {0: "TABLES_FAILED"}


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


def test_a_frame_that_was_answered_keeps_nothing_alive(frames: Frames) -> None:
    """Its keys and values, say: they would be there until the collector looks, thousands of frames later."""
    keys = [b"%d" % number for number in range(10)]
    gc.collect()
    before = sum(type(one) is PendingFrame for one in gc.get_objects())
    gc.disable()
    try:
        frames.puts(1, keys)
        frames.deletes(2, *keys)
        frames.gets(3, *keys)
        frames.mixed(4, put(b"a"), get(b"b"))
        frames.puts(5, keys)
        settle(frames.database)
        assert len(frames.answers) == 5
        frames.answers.clear()
        assert sum(type(one) is PendingFrame for one in gc.get_objects()) == before
    finally:
        gc.enable()


def test_writes_of_others_do_not_come_between_the_revisions_of_a_frame() -> None:
    frames = Frames(open_store(MemoryFileSystem(), pipeline=PipelineOptions(overlap=False)))
    frames.puts(1, [b"a", b"b", b"c"])
    frames.deletes(2, b"a", b"b", b"x", b"c")
    other = frames.database.submit(Put(1, b"other", b""), lambda done: done)
    answer = frames.settled(2)
    assert (answer.first_revision, answer.commits) == (5, 3)
    assert other.answer().revision == 8
