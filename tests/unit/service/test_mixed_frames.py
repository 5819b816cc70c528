"""Mixed frames: each operation has a result or a failure of its own, in the order sent."""

from __future__ import annotations

from typing import Any

import pytest

from kvproto.v1 import kv_pb2
from kvserver.commit.requests import CreateNamespace
from kvserver.engine import database
from kvserver.storage.memtable import Memtable
from support.memfs import MemoryFileSystem
from support.stores import open_store, settle
from unit.service.framing import Frames, delete, failures, get, put

MEMORY = kv_pb2.DURABILITY_MEMORY


@pytest.fixture
def frames() -> Frames:
    return Frames(open_store(MemoryFileSystem()))


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

    async def order(memtables: list[Memtable], namespace: int) -> None:
        assert memtables == frames.database.state.view.memtables()
        prepared.append((namespace, frames.database.marks.assigned))

    monkeypatch.setattr(database, "order_keys", order)
    mutation = kv_pb2.Mutation(delete=kv_pb2.DeleteMutation(prefix=b"p"))
    frames.mixed(1, put(b"a"), delete(prefix=b"p"), kv_pb2.Operation(write=kv_pb2.WriteRequest(mutations=[mutation])))
    assert prepared == [(1, 1), (1, 1)], "for each range"
    frames.mixed(2, put(b"a"), delete(key=b"a"))
    assert prepared == [(1, 1), (1, 1)], "a frame without ranges does not need it"


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
