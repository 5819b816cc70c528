"""The service Cluster: who the nodes are, which part each plays, what the policy says, and having a node change its part.

What it takes to answer (the register, the other nodes, the database that is closed and opened again) belongs to the server;
here stand the questions, the checks of what was asked, and the messages. A node answers also while it has no database, as one
that is being filled: its answers then have an empty header.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from kvproto.v1 import cluster_pb2, kv_pb2, replication_pb2
from kvserver.base.policy import make_policy
from kvserver.base.register import EpochRecord, PolicyNote
from kvserver.service import convert, replication_convert, validation
from kvserver.service.cluster_views import (
    ClusterControl,
    ClusterView,
    HistoryView,
    NodeView,
    PolicyView,
    SlotView,
    warnings,
)
from kvserver.service.context import CallContext
from kvserver.service.methods import Method, ScanMethod, UnaryMethod
from kvserver.service.replication_values import to_epoch, to_position

if TYPE_CHECKING:
    from kvserver.replication.promotion import PromotionStep

__all__ = [
    "NAME",
    "ClusterControl",
    "ClusterService",
    "ClusterView",
    "HistoryView",
    "NodeView",
    "PolicyView",
    "SlotView",
]

NAME = "kvproto.v1.Cluster"

MAX_REASON_CHARACTERS = 1_000
"""Of what somebody says about giving the quorum up; it is kept in the register for good."""

_SLOT_FIELDS = tuple(field.name for field in cluster_pb2.Slot.DESCRIPTOR.fields)


class ClusterService:
    """The handlers; all of them belong to the event loop."""

    def __init__(self, control: ClusterControl) -> None:
        self._control = control

    def methods(self) -> list[Method]:
        """Return the table of what this service serves."""
        return [
            UnaryMethod(NAME, "ClusterStatus", cluster_pb2.ClusterStatusRequest, self.cluster_status),
            UnaryMethod(NAME, "ClusterHistory", cluster_pb2.ClusterHistoryRequest, self.cluster_history),
            ScanMethod(NAME, "Promote", cluster_pb2.PromoteRequest, self.promote),
            UnaryMethod(NAME, "GetPolicy", cluster_pb2.GetPolicyRequest, self.get_policy),
            UnaryMethod(NAME, "SetPolicy", cluster_pb2.SetPolicyRequest, self.set_policy, writes=True),
            UnaryMethod(NAME, "Degrade", cluster_pb2.DegradeRequest, self.degrade, writes=True),
            UnaryMethod(NAME, "EndDegrade", cluster_pb2.EndDegradeRequest, self.end_degrade, writes=True),
            UnaryMethod(NAME, "ListSlots", cluster_pb2.ListSlotsRequest, self.list_slots),
            UnaryMethod(NAME, "DropSlot", cluster_pb2.DropSlotRequest, self.drop_slot, writes=True),
            UnaryMethod(NAME, "Reinit", cluster_pb2.ReinitRequest, self.reinit, writes=True),
        ]

    # -- looking --------------------------------------------------------------------------------------------------

    async def cluster_status(
        self, request: cluster_pb2.ClusterStatusRequest, context: CallContext
    ) -> cluster_pb2.ClusterStatusResponse:
        """Say what every node is doing."""
        view = await self._control.status(request.only_self)
        return cluster_pb2.ClusterStatusResponse(
            header=self._header(),
            nodes=[_node(node) for node in sorted(view.nodes, key=lambda node: (node.name, node.address))],
            policy=_policy(view.policy),
            register_url=view.register_url,
            warnings=[*view.warnings, *([] if request.only_self else warnings(view))],
        )

    async def cluster_history(
        self, request: cluster_pb2.ClusterHistoryRequest, context: CallContext
    ) -> cluster_pb2.ClusterHistoryResponse:
        """List the epochs, and what was noted about the policy."""
        view = await self._control.history()
        return cluster_pb2.ClusterHistoryResponse(
            header=self._header(),
            epochs=[_epoch_entry(record) for record in view.epochs],
            notes=[_note(note) for note in view.notes],
        )

    def get_policy(self, request: cluster_pb2.GetPolicyRequest, context: CallContext) -> cluster_pb2.GetPolicyResponse:
        """Say which policy holds."""
        return cluster_pb2.GetPolicyResponse(header=self._header(), policy=_policy(self._control.policy()))

    def list_slots(self, request: cluster_pb2.ListSlotsRequest, context: CallContext) -> cluster_pb2.ListSlotsResponse:
        """List who is shipped the log."""
        slots = sorted(self._control.slots(), key=lambda slot: slot.name)
        return cluster_pb2.ListSlotsResponse(header=self._header(), slots=[_slot(slot) for slot in slots])

    # -- changing -------------------------------------------------------------------------------------------------

    async def promote(
        self, request: cluster_pb2.PromoteRequest, context: CallContext
    ) -> AsyncGenerator[cluster_pb2.PromoteResponse, None]:
        """Make this node the primary, and tell each step as it is taken."""
        steps = self._control.promote(request.dry_run, request.accept_loss)
        async with _closed(steps):
            async for step in steps:
                yield cluster_pb2.PromoteResponse(
                    step=step.step,
                    message=step.message,
                    done=step.done,
                    epoch=to_epoch(step.epoch) if step.done else None,
                    revision=step.revision,
                    lost_from=step.lost_from,
                    lost_upto=step.lost_upto,
                )

    async def set_policy(self, request: cluster_pb2.SetPolicyRequest, context: CallContext) -> cluster_pb2.SetPolicyResponse:
        """Change the policy."""
        wanted = make_policy(request.policy.write_quorum, request.policy.members)
        revision = await self._control.set_policy(wanted.write_quorum, wanted.members)
        return cluster_pb2.SetPolicyResponse(header=self._header(revision))

    async def degrade(self, request: cluster_pb2.DegradeRequest, context: CallContext) -> cluster_pb2.DegradeResponse:
        """Give the quorum up for now."""
        if len(request.reason) > MAX_REASON_CHARACTERS:
            told = f"has {len(request.reason)} characters; {MAX_REASON_CHARACTERS} may stand there"
            raise validation.invalid_field("reason", told)
        await self._control.degrade(request.reason)
        return cluster_pb2.DegradeResponse(header=self._header())

    async def end_degrade(self, request: cluster_pb2.EndDegradeRequest, context: CallContext) -> cluster_pb2.EndDegradeResponse:
        """Return to the quorum."""
        await self._control.end_degrade()
        return cluster_pb2.EndDegradeResponse(header=self._header())

    async def drop_slot(self, request: cluster_pb2.DropSlotRequest, context: CallContext) -> cluster_pb2.DropSlotResponse:
        """Let go of what is held for a follower."""
        if not request.name:
            raise validation.invalid_field("name", "is empty; kvctl repl slots lists the names")
        await self._control.drop_slot(request.name)
        return cluster_pb2.DropSlotResponse(header=self._header())

    async def reinit(self, request: cluster_pb2.ReinitRequest, context: CallContext) -> cluster_pb2.ReinitResponse:
        """Have this follower begin anew."""
        header = self._header()  # afterwards there may be no database to speak of
        await self._control.reinit()
        return cluster_pb2.ReinitResponse(header=header)

    def _header(self, revision: int = 0) -> kv_pb2.ResponseHeader:
        database = self._control.database
        return convert.Answers(database).header(revision) if database is not None else kv_pb2.ResponseHeader()


@asynccontextmanager
async def _closed(steps: AsyncIterator[PromotionStep]) -> AsyncIterator[None]:
    """Close the steps at the end of the block, so that whoever takes them hears at once that nobody listens."""
    try:
        yield
    finally:
        if isinstance(steps, AsyncGenerator):
            await steps.aclose()


def _node(node: NodeView) -> cluster_pb2.ClusterNode:
    return cluster_pb2.ClusterNode(
        described=_described(node),
        reachable=node.description is not None,
        error=node.error,
        is_self=node.is_self,
        is_member=node.is_member,
    )


def _described(node: NodeView) -> replication_pb2.DescribeResponse:
    """Return what a node said of itself; of one that could not be asked, its name and address."""
    found = node.description
    if found is None:
        identity = replication_pb2.NodeIdentity(name=node.name, address=node.address)
        return replication_pb2.DescribeResponse(identity=identity)
    return replication_convert.to_description(found)


def _policy(view: PolicyView) -> cluster_pb2.Policy:
    return cluster_pb2.Policy(
        write_quorum=view.write_quorum, members=view.members, degraded=view.degraded, revision=view.revision
    )


def _epoch_entry(record: EpochRecord) -> cluster_pb2.EpochEntry:
    return cluster_pb2.EpochEntry(
        begin=replication_pb2.EpochBegin(
            epoch=to_epoch(record.epoch), began=to_position(record.branch) if record.branch is not None else None
        ),
        node=record.node,
        node_id=record.node_id,
        claimed_ms=record.claimed_ms,
        begun=record.begun,
    )


def _slot(slot: SlotView) -> cluster_pb2.Slot:
    return cluster_pb2.Slot(**{name: getattr(slot, name) for name in _SLOT_FIELDS})


def _note(note: PolicyNote) -> cluster_pb2.PolicyNote:
    return cluster_pb2.PolicyNote(
        time_ms=note.time_ms, epoch=note.epoch.number, node=note.node, degraded=note.degraded, reason=note.reason
    )
