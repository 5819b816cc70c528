"""The service Cluster: what is asked of the server and how it is told, what is refused, and what needs attention."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from kvproto.v1 import cluster_pb2, kv_pb2
from kvserver.base.errors import Code, InvalidRequest, KvError, ReplicationError
from kvserver.base.register import EpochRecord, PolicyNote
from kvserver.base.types import NO_EPOCH, Epoch, LogEnd, Position
from kvserver.replication.messages import Description, NodeIdentity
from kvserver.replication.promotion import PromotionStep
from kvserver.service.cluster import (
    MAX_REASON_CHARACTERS,
    NAME,
    ClusterService,
    ClusterView,
    HistoryView,
    NodeView,
    PolicyView,
    SlotView,
)
from kvserver.service.cluster_views import LAG_WARNING_MS, warnings
from kvserver.service.context import FixedContext
from kvserver.service.methods import ScanMethod, UnaryMethod
from unit.service.fake_database import CHAIN, CLUSTER_ID, FakeDatabase

CALL = FixedContext()
EPOCH = Epoch(3, 2**63 + 1)
END = LogEnd(Position(EPOCH, 90, CHAIN), 7, 4096)


def described(name: str = "n2", role: str = "follower", **changes: Any) -> Description:
    found = Description(
        identity=NodeIdentity(CLUSTER_ID, name, f"id-{name}", f"{name}:7400", "reg"),
        role=role,
        state="PRIMARY" if role == "primary" else "STREAMING",
        reason="it has what there is",
        epoch=EPOCH,
        promised=Epoch(4, 5),
        end=END,
        applied=89,
        visible=88,
        heard=93,
        heard_ms=1_000,
        follows="n1:7400",
        primary="n1:7400",
        server_version="0.1.0",
        lag_revisions=4,
        lag_ms=12,
        lag_bytes=1_234,
    )
    return found._replace(**changes)


def node(name: str, role: str = "follower", **changes: Any) -> NodeView:
    return NodeView(name, f"{name}:7400", described(name, role, **changes), is_member=True)


THREE = [node("n1", "primary"), node("n2"), node("n3")]
TWO_OF_THREE = PolicyView(2, ("n1", "n2", "n3"), revision=5)


class FakeControl:
    """Answers what the test sets, and notes what it was asked."""

    def __init__(self) -> None:
        self.database: Any = FakeDatabase()
        self.view = ClusterView(THREE, TWO_OF_THREE, "file:///mnt/register", ("the server's own.",))
        self.asked: list[Any] = []
        self.steps = [PromotionStep("claim", "claimed epoch 4"), PromotionStep("serve", "serves", True, Epoch(4, 9), 90, 91, 93)]
        self.error: KvError | None = None
        self.closed = False

    async def status(self, only_self: bool) -> ClusterView:
        self.asked.append(only_self)
        return self.view

    async def history(self) -> HistoryView:
        began = Position(Epoch(1, 11), 40, CHAIN)
        epochs = [
            EpochRecord(Epoch(1, 11), "id-n1", 1_000, Position(NO_EPOCH, 1, CHAIN), True, "n1"),
            EpochRecord(Epoch(2, 12), "id-n2", 2_000, began, True, "n2"),
            EpochRecord(Epoch(3, 13), "id-n3", 3_000, None, False, "n3"),
        ]
        return HistoryView(epochs, [PolicyNote(1, Epoch(2, 12), "n2", 2_500, True, "no power")])

    async def promote(self, dry_run: bool, accept_loss: bool) -> AsyncIterator[PromotionStep]:
        self.asked.append((dry_run, accept_loss))
        try:
            for step in self.steps:
                yield step
            if self.error is not None:
                raise self.error
        finally:
            self.closed = True

    def policy(self) -> PolicyView:
        return TWO_OF_THREE._replace(degraded=True)

    async def set_policy(self, write_quorum: int, members: tuple[str, ...]) -> int:
        self.asked.append((write_quorum, members))
        return 17

    async def degrade(self, reason: str) -> None:
        self.asked.append(reason)

    async def end_degrade(self) -> None:
        self.asked.append("end")

    def slots(self) -> list[SlotView]:
        figures = (90, 89, 88, 91, 5_000, 9_000, 61, 700)
        return [SlotView(name, f"id-{name}", f"{name}:1", name == "a", "streaming", *figures) for name in ("b", "a")]

    async def drop_slot(self, name: str) -> None:
        self.asked.append(name)

    async def reinit(self) -> None:
        self.database = None
        self.asked.append("reinit")
        if self.error is not None:
            raise self.error


@pytest.fixture
def control() -> FakeControl:
    return FakeControl()


def serve(control: FakeControl) -> ClusterService:
    return ClusterService(cast(Any, control))


# -- the table --------------------------------------------------------------------------------------------------------


def test_the_contract_is_served_as_a_whole_each_method_in_its_form(control: FakeControl) -> None:
    contract = cluster_pb2.DESCRIPTOR.services_by_name["Cluster"]
    methods = {method.name: method for method in serve(control).methods()}
    assert {*methods} == {method.name for method in contract.methods}
    for promised in contract.methods:
        method = methods[promised.name]
        assert isinstance(method, ScanMethod if promised.server_streaming else UnaryMethod)
        assert method.service == contract.full_name == NAME
        assert method.request.DESCRIPTOR is promised.input_type
    writes = {"SetPolicy", "Degrade", "EndDegrade", "DropSlot", "Reinit"}
    assert {name for name, method in methods.items() if isinstance(method, UnaryMethod) and method.writes} == writes


# -- looking ----------------------------------------------------------------------------------------------------------


async def test_every_word_of_a_node_is_told(control: FakeControl) -> None:
    control.view = control.view._replace(nodes=[node("n2")._replace(is_self=True)])
    answer = await serve(control).cluster_status(cluster_pb2.ClusterStatusRequest(), CALL)
    (told,) = answer.nodes
    assert (told.reachable, told.is_self, told.is_member, told.error) == (True, True, True, "")
    found = told.described
    assert (found.identity.name, found.identity.node_id, found.identity.address) == ("n2", "id-n2", "n2:7400")
    assert (found.identity.cluster_id, found.identity.register_id) == (CLUSTER_ID, "reg")
    assert (found.role, found.state, found.reason) == ("follower", "STREAMING", "it has what there is")
    assert (found.epoch.number, found.epoch.nonce, found.promised.number) == (3, 2**63 + 1, 4)
    assert (found.end.position.revision, found.end.position.chain, found.end.segment_id, found.end.offset) == (90, CHAIN, 7, 4096)
    assert (found.applied_revision, found.visible_revision, found.heard_revision, found.heard_ms) == (89, 88, 93, 1_000)
    assert (found.lag_revisions, found.lag_ms, found.lag_bytes) == (4, 12, 1_234)
    assert (found.follows, found.primary, found.server_version) == ("n1:7400", "n1:7400", "0.1.0")
    assert (answer.policy.write_quorum, list(answer.policy.members), answer.policy.revision) == (2, ["n1", "n2", "n3"], 5)
    assert answer.register_url == "file:///mnt/register"
    assert (answer.header.cluster_id, answer.header.node, answer.header.revision) == (CLUSTER_ID, "tester", 20)


async def test_nodes_stand_by_name_and_those_that_are_away_are_among_them(control: FakeControl) -> None:
    away = NodeView("n0", "n0:7400", None, "it did not answer")
    control.view = control.view._replace(nodes=[*reversed(THREE), away])
    answer = await serve(control).cluster_status(cluster_pb2.ClusterStatusRequest(), CALL)
    assert [told.described.identity.name for told in answer.nodes] == ["n0", "n1", "n2", "n3"]
    absent = answer.nodes[0]
    assert (absent.reachable, absent.error, absent.described.identity.address) == (False, "it did not answer", "n0:7400")
    assert absent.described.role == ""
    assert answer.warnings[0] == "the server's own."
    assert "n0 at n0:7400 cannot be asked: it did not answer." in answer.warnings


async def test_of_itself_alone_a_node_says_nothing_about_the_cluster(control: FakeControl) -> None:
    control.view = control.view._replace(nodes=[node("n2")])
    answer = await serve(control).cluster_status(cluster_pb2.ClusterStatusRequest(only_self=True), CALL)
    assert control.asked == [True]
    assert list(answer.warnings) == ["the server's own."]


async def test_a_node_without_a_database_answers_with_an_empty_header(control: FakeControl) -> None:
    control.database = None
    service = serve(control)
    assert (await service.cluster_status(cluster_pb2.ClusterStatusRequest(), CALL)).header == kv_pb2.ResponseHeader()
    assert (await service.cluster_history(cluster_pb2.ClusterHistoryRequest(), CALL)).header == kv_pb2.ResponseHeader()
    assert service.list_slots(cluster_pb2.ListSlotsRequest(), CALL).header == kv_pb2.ResponseHeader()


async def test_the_epochs_with_and_without_a_beginning(control: FakeControl) -> None:
    answer = await serve(control).cluster_history(cluster_pb2.ClusterHistoryRequest(), CALL)
    _, second, third = answer.epochs
    assert (second.begin.epoch.number, second.begin.epoch.nonce, second.node, second.node_id) == (2, 12, "n2", "id-n2")
    assert (second.begin.began.epoch.number, second.begin.began.revision, second.begin.began.chain) == (1, 40, CHAIN)
    assert (second.claimed_ms, second.begun) == (2_000, True)
    assert (third.begin.HasField("began"), third.begun) == (False, False)
    (note,) = answer.notes
    assert (note.time_ms, note.epoch, note.node, note.degraded, note.reason) == (2_500, 2, "n2", True, "no power")


def test_the_policy_and_the_slots(control: FakeControl) -> None:
    policy = serve(control).get_policy(cluster_pb2.GetPolicyRequest(), CALL).policy
    assert (policy.write_quorum, list(policy.members), policy.degraded, policy.revision) == (2, ["n1", "n2", "n3"], True, 5)
    first, second = serve(control).list_slots(cluster_pb2.ListSlotsRequest(), CALL).slots
    assert (first.name, second.name, first.connected, second.connected) == ("a", "b", True, False)
    assert (first.node_id, first.address, first.state) == ("id-a", "a:1", "streaming")
    assert (first.received_revision, first.durable_revision, first.applied_revision, first.hold_revision) == (90, 89, 88, 91)
    assert (first.held_bytes, first.max_bytes, first.silent_ms, first.lag_bytes) == (5_000, 9_000, 61, 700)


# -- changing ---------------------------------------------------------------------------------------------------------


async def test_each_step_of_a_promotion_is_told_and_its_end(control: FakeControl) -> None:
    request = cluster_pb2.PromoteRequest(dry_run=True, accept_loss=True)
    first, last = [step async for step in serve(control).promote(request, CALL)]
    assert (control.asked, control.closed) == ([(True, True)], True)
    assert (first.step, first.message, first.done, first.HasField("epoch")) == ("claim", "claimed epoch 4", False, False)
    assert (last.step, last.done, last.epoch.number, last.epoch.nonce, last.revision) == ("serve", True, 4, 9, 90)
    assert (last.lost_from, last.lost_upto) == (91, 93)


async def test_a_promotion_whose_caller_hangs_up_is_told_so(control: FakeControl) -> None:
    steps = serve(control).promote(cluster_pb2.PromoteRequest(), CALL)
    await anext(steps)
    assert not control.closed
    await steps.aclose()
    assert control.closed


async def test_a_refused_promotion_raises_behind_its_steps(control: FakeControl) -> None:
    control.steps = control.steps[:1]
    control.error = ReplicationError(Code.PROMOTION_REFUSED, "n3 has more")
    told = []
    with pytest.raises(ReplicationError, match="n3 has more"):
        async for step in serve(control).promote(cluster_pb2.PromoteRequest(), CALL):
            told.append(step.step)
    assert told == ["claim"]


async def test_the_policy_is_set_with_its_members_in_order(control: FakeControl) -> None:
    policy = cluster_pb2.Policy(write_quorum=2, members=["n3", "n1"])
    answer = await serve(control).set_policy(cluster_pb2.SetPolicyRequest(policy=policy), CALL)
    assert (control.asked, answer.header.revision) == ([(2, ("n1", "n3"))], 17)
    await serve(control).set_policy(cluster_pb2.SetPolicyRequest(), CALL)
    assert control.asked[-1] == (0, ())


@pytest.mark.parametrize(("quorum", "members"), [(0, ["a"]), (3, ["a", "b"]), (1, ["a", "a"]), (1, [""]), (1, [])])
async def test_a_policy_that_cannot_be_met_is_refused(control: FakeControl, quorum: int, members: list[str]) -> None:
    policy = cluster_pb2.Policy(write_quorum=quorum, members=members)
    with pytest.raises(InvalidRequest) as refused:
        await serve(control).set_policy(cluster_pb2.SetPolicyRequest(policy=policy), CALL)
    assert (refused.value.code, control.asked) == (Code.INVALID_FIELD, [])


async def test_degrading_and_returning(control: FakeControl) -> None:
    service = serve(control)
    await service.degrade(cluster_pb2.DegradeRequest(reason="no power"), CALL)
    await service.end_degrade(cluster_pb2.EndDegradeRequest(), CALL)
    assert control.asked == ["no power", "end"]
    with pytest.raises(InvalidRequest, match="reason"):
        await service.degrade(cluster_pb2.DegradeRequest(reason="x" * (MAX_REASON_CHARACTERS + 1)), CALL)


async def test_a_slot_is_dropped_by_name(control: FakeControl) -> None:
    await serve(control).drop_slot(cluster_pb2.DropSlotRequest(name="n3"), CALL)
    assert control.asked == ["n3"]
    with pytest.raises(InvalidRequest, match="name"):
        await serve(control).drop_slot(cluster_pb2.DropSlotRequest(), CALL)


async def test_reinit_answers_as_who_the_node_was(control: FakeControl) -> None:
    answer = await serve(control).reinit(cluster_pb2.ReinitRequest(), CALL)
    assert (control.asked, answer.header.node) == (["reinit"], "tester")
    control.error = ReplicationError(Code.WRONG_PEER, "it is primary")
    with pytest.raises(ReplicationError):
        await serve(control).reinit(cluster_pb2.ReinitRequest(), CALL)


# -- what needs attention ---------------------------------------------------------------------------------------------


def told_of(nodes: list[NodeView], policy: PolicyView = TWO_OF_THREE) -> list[str]:
    return warnings(ClusterView(nodes, policy, ""))


def test_of_a_cluster_in_order_nothing_is_said() -> None:
    assert told_of(THREE) == []
    assert told_of([node("n1", "primary")], PolicyView(0, ())) == []


def test_primaries() -> None:
    (none,) = told_of(THREE[1:], PolicyView(0, ()))
    assert none.startswith("No node that can be reached is primary")
    two = told_of([node("n1", "primary", epoch=Epoch(2, 1)), node("n2", "primary"), node("n3")])
    assert two == [
        "2 nodes say that they are primary (n1 of epoch 2, n2 of epoch 3): only the one of the highest epoch is, stop the others."
    ]


def test_nodes_that_are_away_or_in_trouble_or_far_behind() -> None:
    away = NodeView("n3", "n3:7400", None, "nobody listens there.")
    assert told_of([*THREE[:2], away]) == ["n3 at n3:7400 cannot be asked: nobody listens there."]
    failed = node("n3", state="FAILED", reason="it met a circle")
    assert told_of([*THREE[:2], failed]) == ["n3 is FAILED: it met a circle."]
    slow = node("n3", lag_ms=LAG_WARNING_MS + 1)
    assert told_of([*THREE[:2], slow]) == ["n3 is 10.0 s behind (4 revisions, 1234 bytes)."]


def test_names_and_registers() -> None:
    (twice,) = told_of([*THREE, node("n3")])
    assert twice.startswith("2 nodes have the name n3")
    other = node("n3")
    assert other.description is not None
    other = other._replace(
        description=other.description._replace(identity=other.description.identity._replace(register_id="other"))
    )
    (apart,) = told_of([*THREE[:2], other])
    assert apart.startswith("The nodes see 2 different registers")


def test_the_policy() -> None:
    (degraded,) = told_of(THREE, TWO_OF_THREE._replace(degraded=True))
    assert "is degraded" in degraded
    assert [line for line in told_of(THREE[:2]) if "policy" in line] == [], "two of three are there"
    (unmet,) = (line for line in told_of(THREE[:1]) if "policy" in line)
    assert unmet == "The policy (2 of n1, n2, n3) cannot be met without n2, n3: writes wait."
    failed = [THREE[0], node("n2", state="FAILED"), node("n3", state="DIVERGED")]
    assert any("cannot be met without n2, n3" in line for line in told_of(failed))
