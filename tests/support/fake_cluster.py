"""The service Cluster of the fake server: a cluster of three as its second node tells of it, the same each time.

Of n1 it says that it is primary, of itself that it follows, of n3 that it does not answer. Tests change what it says.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import grpc

from kvproto.v1 import cluster_pb2, cluster_pb2_grpc, replication_pb2
from support.fake_errors import abort
from support.fake_store import FakeError

if TYPE_CHECKING:
    from support.fake_server import FakeServer

MEMBERS = ("n1", "n2", "n3")
BEGAN_MS = 1_700_000_000_000
UNREACHABLE = "it did not answer within 2 s"


class FakeCluster(cluster_pb2_grpc.ClusterServicer):
    """The fake server's service Cluster."""

    def __init__(self, fake: FakeServer) -> None:
        self.fake = fake
        self.addresses = {"n1": "db1:7400", "n2": "", "n3": "db3:7400"}
        """Where nodes are, by name; empty: it is the fake server itself."""
        self.primary = "n1"
        """Who is primary; empty: nobody."""
        self.away = {"n3"}
        """Who does not answer."""
        self.warnings = [f"n3 at db3:7400 cannot be asked: {UNREACHABLE}."]
        self.policy = cluster_pb2.Policy(write_quorum=2, members=MEMBERS, revision=5)
        self.lost = (91, 93)
        """What a promotion says that may be lost."""
        self.promotion_is_cut = False
        self.promotion_breaks = False
        self.slots = {
            "n3": cluster_pb2.Slot(
                name="n3",
                node_id="c3",
                address="db3:7400",
                state="away",
                received_revision=80,
                durable_revision=80,
                applied_revision=79,
                hold_revision=81,
                held_bytes=9_000_000,
                max_bytes=4_000_000_000,
                silent_ms=61_000,
                lag_bytes=9_000_000,
            )
        }
        self.reinits = 0

    def ClusterStatus(
        self, request: cluster_pb2.ClusterStatusRequest, context: grpc.ServicerContext
    ) -> cluster_pb2.ClusterStatusResponse:
        if self.fake.node.role:  # one of several fake servers, which knows only itself
            return self.fake.node.status()
        self.fake.arrive("ClusterStatus", request, context)
        names = [name for name, address in self.addresses.items() if not request.only_self or not address]
        return cluster_pb2.ClusterStatusResponse(
            header=self.fake.header(90),
            nodes=[self._node(name) for name in names],
            policy=self.policy,
            register_url="file:///mnt/register",
            warnings=self.warnings,
        )

    def _node(self, name: str) -> cluster_pb2.ClusterNode:
        is_self = not self.addresses[name]
        identity = replication_pb2.NodeIdentity(name=name, address=self.addresses[name] or self.fake.endpoint)
        node = cluster_pb2.ClusterNode(is_self=is_self, is_member=name in self.policy.members)
        if name in self.away:
            node.error = UNREACHABLE
            node.described.identity.CopyFrom(identity)
            return node
        node.reachable = True
        identity.node_id, identity.cluster_id = f"id-{name}", bytes(range(16))
        node.described.CopyFrom(self._described(name))
        node.described.identity.CopyFrom(identity)
        return node

    def _described(self, name: str) -> replication_pb2.DescribeResponse:
        epoch = replication_pb2.EpochId(number=2, nonce=2**63 + 7)
        durable = 93 if name == "n1" else 90
        position = replication_pb2.LogPosition(epoch=epoch, revision=durable, chain=bytes(16))
        end = replication_pb2.LogEnd(position=position, segment_id=7, offset=4096)
        primary = self.addresses.get(self.primary, "") or (self.fake.endpoint if self.primary else "")
        described = replication_pb2.DescribeResponse(
            epoch=epoch, promised=epoch, end=end, heard_ms=BEGAN_MS, primary=primary, server_version="0.1.0"
        )
        if name == self.primary:
            described.role, described.state = "primary", "PRIMARY"
            described.applied_revision = described.visible_revision = described.heard_revision = durable
            return described
        described.role, described.state, described.reason = "follower", "STREAMING", "it has what there is"
        described.applied_revision, described.visible_revision, described.heard_revision = durable - 1, durable - 2, 93
        described.lag_ms, described.lag_revisions, described.lag_bytes = 12, 3, 1234
        described.follows = primary
        return described

    def ClusterHistory(
        self, request: cluster_pb2.ClusterHistoryRequest, context: grpc.ServicerContext
    ) -> cluster_pb2.ClusterHistoryResponse:
        self.fake.arrive("ClusterHistory", request, context)

        def begin(number: int, nonce: int, parent: int, revision: int, chain: bytes) -> replication_pb2.EpochBegin:
            begun = replication_pb2.EpochBegin(epoch=replication_pb2.EpochId(number=number, nonce=nonce))
            if revision:
                began = replication_pb2.LogPosition(epoch=replication_pb2.EpochId(number=parent), revision=revision, chain=chain)
                begun.began.CopyFrom(began)
            return begun

        epochs = [
            (begin(1, 11, 0, 1, bytes(16)), "n1", BEGAN_MS, True),
            (begin(2, 2**63 + 7, 1, 40, bytes(range(16))), "n2", BEGAN_MS + 60_000, True),
            (begin(3, 5, 0, 0, b""), "n3", BEGAN_MS + 90_000, False),
        ]
        return cluster_pb2.ClusterHistoryResponse(
            header=self.fake.header(90),
            epochs=[
                cluster_pb2.EpochEntry(begin=began, node=node, node_id=f"id-{node}", claimed_ms=claimed_ms, begun=begun)
                for began, node, claimed_ms, begun in epochs
            ],
            notes=[
                cluster_pb2.PolicyNote(time_ms=BEGAN_MS + 30_000, epoch=1, node="n1", degraded=True, reason="n2 has no power"),
                cluster_pb2.PolicyNote(time_ms=BEGAN_MS + 40_000, epoch=1, node="n1"),
            ],
        )

    def GetPolicy(self, request: cluster_pb2.GetPolicyRequest, context: grpc.ServicerContext) -> cluster_pb2.GetPolicyResponse:
        self.fake.arrive("GetPolicy", request, context)
        return cluster_pb2.GetPolicyResponse(header=self.fake.header(90), policy=self.policy)

    def SetPolicy(self, request: cluster_pb2.SetPolicyRequest, context: grpc.ServicerContext) -> cluster_pb2.SetPolicyResponse:
        self.fake.arrive("SetPolicy", request, context)
        self.policy.CopyFrom(
            cluster_pb2.Policy(write_quorum=request.policy.write_quorum, members=request.policy.members, revision=94)
        )
        return cluster_pb2.SetPolicyResponse(header=self.fake.header(94))

    def Degrade(self, request: cluster_pb2.DegradeRequest, context: grpc.ServicerContext) -> cluster_pb2.DegradeResponse:
        self.fake.arrive("Degrade", request, context)
        self.policy.degraded = True
        return cluster_pb2.DegradeResponse(header=self.fake.header(90))

    def EndDegrade(self, request: cluster_pb2.EndDegradeRequest, context: grpc.ServicerContext) -> cluster_pb2.EndDegradeResponse:
        self.fake.arrive("EndDegrade", request, context)
        self.policy.degraded = False
        return cluster_pb2.EndDegradeResponse(header=self.fake.header(90))

    def Promote(
        self, request: cluster_pb2.PromoteRequest, context: grpc.ServicerContext
    ) -> Iterator[cluster_pb2.PromoteResponse]:
        self.fake.arrive("Promote", request, context)
        yield cluster_pb2.PromoteResponse(step="claim", message="epoch 3 is claimed")
        if self.promotion_breaks:
            context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
        yield cluster_pb2.PromoteResponse(step="promises", message="n2 refuses lower epochs from now on")
        if self.promotion_is_cut:
            return
        self.fake.leave("Promote")
        if not request.dry_run:
            self.primary = "n2"
        yield cluster_pb2.PromoteResponse(
            step="serve",
            message="n2 is the primary",
            done=True,
            epoch=replication_pb2.EpochId(number=3, nonce=9),
            revision=90,
            lost_from=self.lost[0],
            lost_upto=self.lost[1],
        )

    def ListSlots(self, request: cluster_pb2.ListSlotsRequest, context: grpc.ServicerContext) -> cluster_pb2.ListSlotsResponse:
        self.fake.arrive("ListSlots", request, context)
        return cluster_pb2.ListSlotsResponse(header=self.fake.header(90), slots=self.slots.values())

    def DropSlot(self, request: cluster_pb2.DropSlotRequest, context: grpc.ServicerContext) -> cluster_pb2.DropSlotResponse:
        self.fake.arrive("DropSlot", request, context)
        if self.slots.pop(request.name, None) is None:
            abort(context, FakeError("INVALID_FIELD", f"there is no slot {request.name!r}"))
        return cluster_pb2.DropSlotResponse(header=self.fake.header(90))

    def Reinit(self, request: cluster_pb2.ReinitRequest, context: grpc.ServicerContext) -> cluster_pb2.ReinitResponse:
        self.fake.arrive("Reinit", request, context)
        self.reinits += 1
        return cluster_pb2.ReinitResponse(header=self.fake.header(90))
