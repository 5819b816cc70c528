"""What follows from the answers: who counts, whose log is furthest, which logs left the line, how many promises are enough."""

from __future__ import annotations

import pytest

from kvserver.base.policy import Policy
from kvserver.base.register import EpochRecord
from kvserver.base.types import NO_EPOCH, Epoch, LogEnd, Position
from kvserver.replication import ballot
from kvserver.replication.ballot import Answer
from unit.replication.promotion_cluster import Entry, Node
from unit.replication.promotion_kit import quorum


def answer(node: Node, **options: object) -> Answer:
    return Answer(node.record, node.end(), True, NO_EPOCH, True)._replace(**options)  # type: ignore[arg-type]


def test_who_did_not_promise_counts_for_nothing() -> None:
    cluster = quorum()
    given = answer(cluster["a"])
    assert given.counts
    for missing in ({"promised": False}, {"complete": False}, {"end": None}):
        assert not answer(cluster["a"], **missing).counts
    records = cluster.register.records()
    assert ballot.furthest(records, [answer(cluster["a"], promised=False)], cluster["c"].end()) == []


def test_the_epoch_of_the_last_frame_comes_before_the_revision() -> None:
    cluster = quorum()
    a, b, c = cluster["a"], cluster["b"], cluster["c"]
    c.log.append(Entry(Epoch(2, 2), 0))
    records = cluster.register.records()
    assert [one.node.name for one in ballot.furthest(records, [answer(a), answer(b), answer(c)], b.end())] == ["c", "a"]


def test_a_log_that_left_the_line_is_told_from_one_that_is_short() -> None:
    def record(number: int, parent: int, revision: int, begun: bool = True) -> EpochRecord:
        return EpochRecord(Epoch(number, number), "id", 0, Position(Epoch(parent, parent), revision, b""), begun)

    def end(number: int, revision: int) -> LogEnd:
        return LogEnd(Position(Epoch(number, number), revision, b""), 1, 1)

    # 2 began and was given up: 3 goes on from 1, 5 from 3; 6 never began
    records = [record(1, 0, 1), record(2, 1, 40), record(3, 1, 50), record(5, 3, 60), record(6, 3, 55, False)]
    for number, revision, left, short in [
        *((1, 50, False, True), (1, 51, True, True), (2, 45, True, True), (3, 59, False, True), (3, 60, False, False)),
        *((3, 61, True, True), (4, 60, True, True), (5, 60, False, False), (5, 99, False, False), (6, 60, False, False)),
    ]:
        assert ballot.has_left_the_line(records, end(number, revision)) == left, (number, revision)
        assert bool(ballot.off_the_line(records, end(number, revision))) == short, (number, revision)


@pytest.mark.parametrize(("quorum_size", "members", "need"), [(0, 0, 0), (1, 1, 1), (2, 2, 1), (2, 3, 2), (3, 5, 3), (1, 3, 3)])
def test_the_quorum_of_promises_meets_every_quorum_of_writes(quorum_size: int, members: int, need: int) -> None:
    names = tuple("abcde"[:members])
    policy = Policy(quorum_size, names)
    for count in range(members + 1):
        assert bool(ballot.unmet([policy], frozenset(names[:count]))) == (count < need)
