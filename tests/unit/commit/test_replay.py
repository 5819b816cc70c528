"""The pipeline of a follower by itself: what is inserted when, shown when, and who is told in which order."""

from __future__ import annotations

from typing import Any

import pytest

from kvserver.base.errors import Code, Corruption, KvError, NotServing, ReplicationError
from kvserver.base.types import NO_EPOCH, Epoch, Position
from kvserver.commit.marks import Marks
from kvserver.commit.reading import Reader
from kvserver.commit.replay import COMMIT_COST, EFFECT_COST, ReplayPipeline
from kvserver.commit.requests import Put, ReadRun
from kvserver.commit.state import State
from kvserver.wal.chunk import ReceivedGroup
from kvserver.wal.commit_record import DELETE, PUT, Effect, encode_commit, encode_put_run
from support.fake_log import outcome

EPOCH = Epoch(1, 11)


class NoTables:
    """Nothing was ever flushed, so nobody asks."""

    def fetch(self, keys: list[bytes], done: Any, heads_only: bool = False) -> None:
        raise AssertionError("there are no tables")

    def run_job(self, job: Any, done: Any) -> None:
        raise AssertionError("there are no tables")


def at(revision: int) -> Position:
    return Position(EPOCH, revision, b"chain %10d" % revision)


def group(first: int, *keys: bytes) -> ReceivedGroup:
    return ReceivedGroup(first, len(keys), encode_put_run(1, list(keys), list(keys)), at(first + len(keys) - 1))


def mixed_group(first: int, commits: int) -> ReceivedGroup:
    """Return a group whose commits are of every kind."""
    parts = []
    for number in range(commits):
        key = b"k%d" % number
        if number % 3 == 2:
            parts.append(encode_commit([Effect(DELETE, 1, b"k%d" % (number - 1), b""), Effect(PUT, 2, key, b"x" * number)]))
        else:
            parts.append(encode_put_run(1 + number % 2, [key], [b"v" * number]))
    return ReceivedGroup(first, commits, b"".join(parts), at(first + commits - 1))


@pytest.fixture
def pipeline() -> ReplayPipeline:
    state, marks = State(), Marks(1)
    return ReplayPipeline(state, marks, Reader(state, marks, NoTables()), Position(NO_EPOCH, 1, bytes(16)))


def give(pipeline: ReplayPipeline, one: ReceivedGroup) -> None:
    pipeline.received(one.position)
    pipeline.apply(one)
    pipeline.marks.check()


def chains(pipeline: ReplayPipeline) -> dict[int, dict[bytes, Any]]:
    return {namespace: dict(pipeline.state.memtable.table(namespace).chains) for namespace in (1, 2)}


@pytest.mark.parametrize("cost", [1, COMMIT_COST, 400, 1000, 5000, 1 << 20])
def test_a_group_inserted_in_parts_comes_to_the_same_as_in_one(cost: int, pipeline: ReplayPipeline) -> None:
    whole = State()
    one = mixed_group(2, 50)
    whole.replay_group(2, 50, one.payload)
    pipeline.received(one.position)
    pipeline.hear(99)
    pipeline.begin(one)
    parts = 0
    while pipeline.is_inserting:
        assert (pipeline.marks.applied, pipeline.marks.visible) == (1, 1), "not before it is whole"
        spent = pipeline.insert(cost)
        assert COMMIT_COST <= spent <= max(cost, 2 * EFFECT_COST + 200)
        parts += 1
    assert (parts == 1) == (cost == 1 << 20)
    assert (pipeline.marks.applied, pipeline.marks.visible, pipeline.commits) == (51, 51, 50)
    assert chains(pipeline) == {namespace: dict(whole.memtable.table(namespace).chains) for namespace in (1, 2)}


def test_groups_are_inserted_in_order_and_each_once(pipeline: ReplayPipeline) -> None:
    give(pipeline, group(2, b"a", b"b"))
    for wrong in (group(2, b"a"), group(3, b"b"), group(5, b"d")):
        with pytest.raises(ValueError, match="does not follow"):
            pipeline.begin(wrong)
    pipeline.begin(group(4, b"c"))
    with pytest.raises(ValueError, match="does not follow"):
        pipeline.begin(group(4, b"c"))


def test_what_is_shown_is_the_lower_of_what_is_here_and_what_was_heard(pipeline: ReplayPipeline) -> None:
    visible = []
    for do in (
        lambda: pipeline.hear(3),
        lambda: give(pipeline, group(2, b"a")),
        lambda: give(pipeline, group(3, b"b", b"c")),
        lambda: pipeline.hear(2),
        lambda: pipeline.contact_lost(),
        lambda: give(pipeline, group(5, b"d")),
        lambda: pipeline.hear(4),
        lambda: pipeline.hear(77),
    ):
        do()
        visible.append(pipeline.marks.visible)
    assert visible == [1, 2, 3, 3, 3, 3, 4, 5]


def test_waits_end_in_order_of_revision(pipeline: ReplayPipeline) -> None:
    told: list[str] = []
    for name, revision in (("d", 4), ("b", 2), ("c", 3), ("e", 4), ("later", 6), ("b2", 2)):
        ticket = pipeline.when_visible(revision)
        ticket.on_done(lambda name=name: told.append(name))  # type: ignore[misc]
    pipeline.hear(9)
    give(pipeline, group(2, b"a", b"b", b"c"))
    assert told == ["b", "b2", "c", "d", "e"]
    assert pipeline.waiting == 1
    assert pipeline.when_visible(4).answer() == 4
    assert pipeline.when_durable(4).done


def test_what_is_durable_is_told_before_it_is_visible(pipeline: ReplayPipeline) -> None:
    pipeline.received(at(5))
    assert pipeline.when_durable(5).answer() == 5
    assert not pipeline.when_durable(6).done


def test_a_cut_is_told_when_all_of_it_is_visible(pipeline: ReplayPipeline) -> None:
    cuts: list[Position] = []
    pipeline.on_cut = cuts.append
    give(pipeline, group(2, b"a", b"b"))
    pipeline.request_cut()
    give(pipeline, group(4, b"c"))
    pipeline.request_cut()
    pipeline.hear(2)
    assert cuts == []
    pipeline.hear(3)
    assert cuts == [at(3)]
    pipeline.hear(4)
    pipeline.request_cut()
    assert cuts == [at(3), at(4), at(4)]


def test_the_end_tells_everybody_who_waits_and_shows_nothing_more(pipeline: ReplayPipeline) -> None:
    waits = [pipeline.when_visible(revision) for revision in (5, 3)]
    give(pipeline, group(2, b"a", b"b"))
    pipeline.close()
    assert [type(outcome(wait)) for wait in waits] == [NotServing, NotServing]
    assert outcome(waits[0]) is not outcome(waits[1])
    pipeline.hear(3)
    assert pipeline.marks.visible == 1
    assert isinstance(outcome(pipeline.when_visible(2)), NotServing)


def test_a_fence_says_why(pipeline: ReplayPipeline) -> None:
    wait = pipeline.when_visible(2)
    pipeline.fence(ReplicationError(Code.FENCED, "another one is", "see who"))
    assert [outcome(one).code for one in (wait, pipeline.when_visible(2))] == [Code.FENCED] * 2


def test_a_failure_is_told_once_and_to_all(pipeline: ReplayPipeline) -> None:
    failures: list[BaseException] = []
    pipeline.on_failure = failures.append
    wait = pipeline.when_visible(2)
    error = OSError("gone")
    pipeline.fail(error)
    pipeline.fail(OSError("again"))
    assert failures == [error]
    read = pipeline.submit(ReadRun(1, [b"a"]), lambda found: found)
    for ticket in (wait, pipeline.when_visible(9), read, pipeline.submit(Put(1, b"a", b""), lambda done: done)):
        assert outcome(ticket).code is Code.LOG_FAILED
    pipeline.request_cut()
    assert not pipeline.request_seal(now=True)


@pytest.mark.parametrize("damage", [b"", b"\0\0\0\0\0\0\0\0", b"\xff\0\0\0\0\0\0\0", b"abc"])
@pytest.mark.parametrize("cost", [1, 1 << 20])
def test_a_group_that_does_not_parse_is_corruption(damage: bytes, cost: int, pipeline: ReplayPipeline) -> None:
    good = group(2, b"a", b"b")
    pipeline.begin(good._replace(count=3, payload=good.payload + damage))
    while pipeline.is_inserting:
        pipeline.insert(cost)
    assert isinstance(pipeline.failure, Corruption)
    assert pipeline.marks.applied == 1


def test_a_read_of_a_namespace_that_was_visibly_dropped_is_told(pipeline: ReplayPipeline) -> None:
    create = encode_commit(pipeline.state.creation_effects("n"))
    give(pipeline, ReceivedGroup(2, 1, create, at(2)))
    drop = encode_commit(pipeline.state.drop_effects(pipeline.state.namespaces["n"]))
    give(pipeline, ReceivedGroup(3, 1, drop, at(3)))
    pipeline.hear(2)
    assert pipeline.submit(ReadRun(2, [b"a"]), lambda found: found).answer().versions == [None]
    pipeline.hear(3)
    error = outcome(pipeline.submit(ReadRun(2, [b"a"]), lambda found: found))
    assert isinstance(error, KvError)
    assert error.code is Code.UNKNOWN_NAMESPACE


@pytest.mark.parametrize("commits", [1, 20, 5000])
def test_what_is_inserted_in_one_turn_is_counted_by_what_it_takes_to(commits: int, pipeline: ReplayPipeline) -> None:
    """A put of a row costs a microsecond, each effect of anything else three: they count so."""
    blind = group(2, *[b"k%d" % number for number in range(commits)])
    spent = {}
    for name, one in (("blind", blind), ("other", mixed_group(2 + commits, commits))):
        pipeline.begin(one)
        spent[name] = 0
        while pipeline.is_inserting:
            spent[name] += pipeline.insert(1 << 30)
    assert spent["blind"] >= commits * COMMIT_COST
    if commits == 5000:
        assert spent["blind"] < commits * 2 * COMMIT_COST
        assert spent["other"] > commits // 3 * 2 * EFFECT_COST
