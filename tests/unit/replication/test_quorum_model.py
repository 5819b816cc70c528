"""Pipeline, quorum and guard together against a model: what is shown, who is told, before and after changes and restarts.

The model is asked of every single revision that became visible: did each policy that was in force just before it have its
quorum at that very revision? It knows nothing of marks, groups or the order in which things are told.
"""

from __future__ import annotations

import random
from typing import Any

import pytest

from kvserver.base.errors import KvError
from kvserver.base.options import PipelineOptions
from kvserver.base.policy import ASYNC, Policy, make_policy
from kvserver.base.types import SYSTEM_NAMESPACE, Epoch, Position
from kvserver.commit.marks import Marks
from kvserver.commit.pipeline import AnyTicket
from kvserver.commit.requests import Committed, CompactHistory, Delete, Found, Put, PutRun, ReadRun, Request, RunDone, SetPolicy
from kvserver.commit.state import State
from kvserver.replication.messages import Ack
from kvserver.replication.policy_guard import PolicyGuard
from kvserver.replication.quorum import Quorum
from kvserver.storage.rows import data_key, encode_version
from kvserver.wal.commit_record import iter_commits
from kvserver.wal.group_commit import CUT
from support.fake_log import Desk

POLICIES = [
    ASYNC,
    make_policy(1, ["a"]),
    make_policy(2, ["a", "b"]),
    make_policy(2, ["a", "b", "c"]),
    make_policy(2, ["b", "c"]),
    make_policy(1, ["c"]),
    make_policy(3, ["a", "b", "c"]),
]
FOLLOWERS = ["b", "c"]

KINDS = {"submit": 8, "policy": 2, "durable": 8, "ack": 10, "wait": 2, "cut": 1, "degrade": 1, "restart": 1}
"""What can happen, and how often it does."""


def some_request(chance: random.Random) -> Request:
    key = chance.choice([b"k1", b"k2"])
    return chance.choice(
        [
            Put(1, key, b"v"),
            Put(1, key, b"v", chance.choice([0, 3])),
            Delete(1, key),
            PutRun(1, [b"k1", b"k2", b"k3"], [b"1", b"2", b"3"]),
            ReadRun(1, [b"k1", b"k2"]),
            CompactHistory(0),
        ]
    )


class Node:
    """A primary that is started again and again, its followers' words, and the model beside them."""

    def __init__(self, options: PipelineOptions) -> None:
        self.options = options
        self.commits: list[Any] = []
        """What each durable commit did, from revision 2 on."""
        self.degraded = False
        self.epoch = Epoch(0, 0)
        self.words: dict[str, int] = {}
        self.flushed = 1
        self.open()

    # -- the node -------------------------------------------------------------------------------------------------

    def open(self) -> None:
        last = 1 + len(self.commits)
        state = self.recovered()
        self.epoch = Epoch(self.epoch.number + 1, 99)
        self.begin = last
        self.words = {}
        self.tickets: list[tuple[AnyTicket, bool]] = []
        self.cuts: list[Position] = []
        marks = Marks(last, self.flushed, waits=state.needs_quorum(self.flushed))
        self.desk = Desk(self.options, state=state, marks=marks)
        self.desk.pipeline.on_cut = self.cuts.append
        self.shown = self.flushed
        self.guard = PolicyGuard(self.desk.pipeline, Quorum("a", "id-a", self.epoch, last), self.degraded)
        self.desk.pipeline.on_visible = self.guard.consider
        self.check()

    def recovered(self) -> State:
        """Return the state that tables up to ``flushed`` and the log behind them come to."""
        newest: dict[bytes, tuple[int, bytes]] = {}
        for revision, effects in enumerate(self.commits, 2):
            for effect in effects:
                if effect.namespace == SYSTEM_NAMESPACE and revision <= self.flushed:
                    newest[effect.key] = (revision, effect.value)
        state = State()  # what the tables hold of keys is of no interest here
        state.load([(data_key(0, key), encode_version(at, at, 1, value)) for key, (at, value) in sorted(newest.items())])
        for revision, effects in enumerate(self.commits, 2):
            if revision > self.flushed:
                state.apply(effects, revision)
        return state

    def durable(self, count: int) -> None:
        log = self.desk.log
        while log.queue and count:
            before = len(log.written)
            if not self.desk.durable(count):
                self.desk.cut()
            for payload in log.written[before:]:
                number, at = 0, 0
                while at < len(payload):
                    at += int.from_bytes(payload[at : at + 4], "little")
                    number += 1
                self.commits.extend(iter_commits(payload, number))
            self.guard.consider()
            count -= 1

    def ack(self, name: str, less: int) -> None:
        durable = max(0, self.desk.marks.durable - less)
        self.words[name] = durable if durable >= self.begin else 0
        self.guard.on_ack(name, f"id-{name}", Ack(self.epoch, durable, durable, durable, 0))

    # -- the model ------------------------------------------------------------------------------------------------

    def policies_before(self, revision: int) -> list[Policy]:
        """Return what is in force when everything before a revision is visible, by what the log and memory hold."""
        sets = [ASYNC]
        for chain in [self.desk.state.memtable.table(SYSTEM_NAMESPACE).chains.get(b"policy")]:
            while chain is not None:
                sets.append(self.decoded(chain[1], chain[0]))
                chain = chain[4]
        for at, effects in enumerate(self.commits, 2):
            sets += [self.decoded(effect.value, at) for effect in effects if effect.key == b"policy"]
        in_force = max((policy for policy in sets if policy.revision < revision), key=lambda policy: policy.revision)
        return [in_force, *(policy for policy in sets if policy.revision >= revision)]

    @staticmethod
    def decoded(row: bytes, revision: int) -> Policy:
        return next(policy for policy in POLICIES if row == State.policy_effects(policy)[0].value)._replace(revision=revision)

    def is_allowed(self, revision: int) -> bool:
        have = {**self.words, "a": self.desk.marks.durable}
        return self.desk.marks.durable >= revision and (
            self.degraded
            or all(
                sum(have.get(name, 0) >= revision for name in policy.members) >= policy.write_quorum
                for policy in self.policies_before(revision)
            )
        )

    def check(self) -> None:
        marks = self.desk.marks
        marks.check()
        assert self.desk.failures == []
        assert marks.visible >= self.shown, "what was shown stays shown"
        for revision in range(self.shown + 1, marks.visible + 1):
            assert self.is_allowed(revision), f"{revision} was shown too early"
        self.shown = marks.visible
        assert marks.visible == marks.durable or not self.is_allowed(marks.visible + 1), "it could have been shown"
        assert all(position.revision <= marks.visible for position in self.cuts)
        for ticket, memory in self.tickets:
            if ticket.done and not memory:
                assert needed(ticket) <= marks.visible, "told too early"


def needed(ticket: AnyTicket) -> int:
    """Return the newest revision that an answer shows something of."""
    try:
        found = ticket.answer()
    except KvError as error:
        return error.depends_on
    match found:
        case Committed():
            return found.revision or found.depends_on
        case RunDone():
            return found.first_revision + found.commits - 1
        case Found():
            return found.depends_on
    return int(found)


def step(node: Node, kind: str, chance: random.Random) -> None:
    """Let one thing happen."""
    pipeline = node.desk.pipeline
    match kind:
        case "submit":
            memory = chance.random() < 0.2
            node.tickets.append((node.desk.submit(some_request(chance), memory), memory))
        case "policy":
            node.tickets.append((node.desk.submit(SetPolicy(chance.choice(POLICIES))), False))
        case "durable":
            node.durable(chance.randint(1, 4))
        case "ack":
            node.ack(chance.choice(FOLLOWERS), chance.choice([0, 0, 1, 2, 6]))
        case "wait":
            node.tickets.append((pipeline.when_visible(max(1, node.desk.marks.assigned - chance.randint(0, 3))), False))
        case "cut":
            pipeline.request_cut()
        case "degrade":
            node.degraded = chance.random() < 0.3
            node.guard.set_degraded(node.degraded)
        case "restart":
            shown = node.shown
            del node.commits[max(shown - 1, len(node.commits) - chance.randint(0, 5)) :]
            node.flushed = max(node.flushed, shown - chance.randint(0, 5))
            node.open()
            assert node.desk.marks.opened >= shown, "readers of the newest wait for all that was ever shown"


@pytest.mark.parametrize("seed", range(30))
def test_nothing_is_shown_or_told_that_a_policy_in_force_does_not_allow_and_all_is_in_the_end(seed: int) -> None:
    chance = random.Random(seed)
    node = Node(PipelineOptions(max_unreplicated=5) if seed % 2 else PipelineOptions())
    for kind in chance.choices(list(KINDS), list(KINDS.values()), k=120):
        step(node, kind, chance)
        node.check()
    cuts = len(node.cuts) + sum(item is CUT for item in node.desk.log.queue)
    for _ in range(200):  # a bound of five lets five at a time through
        node.durable(1000)
        for name in FOLLOWERS * 2:
            node.ack(name, 0)
        node.check()
    assert node.desk.marks.visible == node.desk.marks.assigned
    assert all(ticket.done for ticket, _ in node.tickets), "nobody is forgotten"
    assert len(node.cuts) >= cuts
    assert node.desk.pipeline._showing.answers == 0
