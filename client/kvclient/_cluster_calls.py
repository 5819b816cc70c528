"""Builds the requests about a cluster and reads their answers: pure, and shared by both clients."""

from __future__ import annotations

from collections.abc import Iterable

from kvclient import _cluster_types as types
from kvclient._calls import Call, checked_text
from kvclient._errors import InvalidRequestError, ServerError
from kvproto.v1 import cluster_pb2

_MOST_MEMBERS = 1 << 32
_SLOT_FIELDS = tuple(field.name for field in cluster_pb2.Slot.DESCRIPTOR.fields)


def status(only_self: bool) -> Call[types.ClusterStatus]:
    """Make the call that asks what every node is doing."""
    return Call("Cluster", "ClusterStatus", cluster_pb2.ClusterStatusRequest(only_self=only_self), _status, writes=False)


def history() -> Call[types.ClusterHistory]:
    """Make the call that lists the epochs."""
    return Call("Cluster", "ClusterHistory", cluster_pb2.ClusterHistoryRequest(), _history, writes=False)


def get_policy() -> Call[types.Policy]:
    """Make the call that asks which policy holds."""
    return Call("Cluster", "GetPolicy", cluster_pb2.GetPolicyRequest(), lambda answer: _policy(answer.policy), writes=False)


def set_policy(write_quorum: int, members: Iterable[str]) -> Call[types.SetPolicyResult]:
    """Make the call that changes the policy."""
    if not 0 <= write_quorum < _MOST_MEMBERS:
        raise InvalidRequestError("INVALID_FIELD", f"write_quorum must be 0 or more, not {write_quorum}")
    names = [checked_text("members", name) for name in members]
    request = cluster_pb2.SetPolicyRequest(policy=cluster_pb2.Policy(write_quorum=write_quorum, members=names))
    return Call("Cluster", "SetPolicy", request, _set_policy_result, writes=True)


def degrade(reason: str) -> Call[None]:
    """Make the call that gives the quorum up for now."""
    request = cluster_pb2.DegradeRequest(reason=checked_text("reason", reason))
    return Call("Cluster", "Degrade", request, _nothing, writes=True)


def end_degrade() -> Call[None]:
    """Make the call that returns to the quorum."""
    return Call("Cluster", "EndDegrade", cluster_pb2.EndDegradeRequest(), _nothing, writes=True)


def slots() -> Call[list[types.Slot]]:
    """Make the call that lists who is shipped the log."""
    return Call("Cluster", "ListSlots", cluster_pb2.ListSlotsRequest(), _slots, writes=False)


def drop_slot(name: str) -> Call[None]:
    """Make the call that drops a slot."""
    request = cluster_pb2.DropSlotRequest(name=checked_text("name", name))
    return Call("Cluster", "DropSlot", request, _nothing, writes=True)


def reinit() -> Call[None]:
    """Make the call that has a follower begin anew."""
    return Call("Cluster", "Reinit", cluster_pb2.ReinitRequest(), _nothing, writes=True)


class PromotionCursor:
    """Knows whether a stream of steps has brought its end."""

    def __init__(self, dry_run: bool, accept_loss: bool) -> None:
        self.request = cluster_pb2.PromoteRequest(dry_run=dry_run, accept_loss=accept_loss)
        self._done = False

    def take(self, answer: cluster_pb2.PromoteResponse) -> types.PromotionStep:
        """Take in a message and return what it says."""
        self._done = answer.done
        return types.PromotionStep(
            step=answer.step,
            message=answer.message,
            done=answer.done,
            epoch=answer.epoch.number,
            revision=answer.revision,
            lost_from=answer.lost_from,
            lost_upto=answer.lost_upto,
        )

    def check_ended(self) -> None:
        """Raise ServerError if the stream ended without an outcome; that must not pass for a promotion."""
        if not self._done:
            raise ServerError("UNEXPECTED_STATUS", "the server ended the promotion before it said that it is primary")


def _status(answer: cluster_pb2.ClusterStatusResponse) -> types.ClusterStatus:
    return types.ClusterStatus(
        nodes=tuple(_node(node) for node in answer.nodes),
        policy=_policy(answer.policy),
        register_url=answer.register_url,
        warnings=tuple(answer.warnings),
    )


def _node(node: cluster_pb2.ClusterNode) -> types.ClusterNode:
    found = node.described
    return types.ClusterNode(
        name=found.identity.name,
        address=found.identity.address,
        reachable=node.reachable,
        error=node.error,
        is_self=node.is_self,
        is_member=node.is_member,
        node_id=found.identity.node_id,
        cluster_id=found.identity.cluster_id,
        role=found.role,
        state=found.state,
        reason=found.reason,
        epoch=found.epoch.number,
        epoch_nonce=found.epoch.nonce,
        promised_epoch=found.promised.number,
        durable_revision=found.end.position.revision,
        chain=found.end.position.chain,
        applied_revision=found.applied_revision,
        visible_revision=found.visible_revision,
        heard_revision=found.heard_revision,
        heard_ms=found.heard_ms,
        lag_revisions=found.lag_revisions,
        lag_ms=found.lag_ms,
        lag_bytes=found.lag_bytes,
        follows=found.follows,
        primary=found.primary,
        server_version=found.server_version,
    )


def _policy(policy: cluster_pb2.Policy) -> types.Policy:
    return types.Policy(policy.write_quorum, tuple(policy.members), policy.degraded, policy.revision)


def _history(answer: cluster_pb2.ClusterHistoryResponse) -> types.ClusterHistory:
    notes = (types.PolicyNote(note.time_ms, note.epoch, note.node, note.degraded, note.reason) for note in answer.notes)
    return types.ClusterHistory(tuple(_epoch_entry(entry) for entry in answer.epochs), tuple(notes))


def _epoch_entry(entry: cluster_pb2.EpochEntry) -> types.EpochEntry:
    began = entry.begin.began
    known = entry.begin.HasField("began")
    return types.EpochEntry(
        epoch=entry.begin.epoch.number,
        epoch_nonce=entry.begin.epoch.nonce,
        parent_epoch=began.epoch.number if known else None,
        began_revision=began.revision if known else None,
        chain=began.chain,
        node=entry.node,
        node_id=entry.node_id,
        claimed_ms=entry.claimed_ms,
        begun=entry.begun,
    )


def _set_policy_result(answer: cluster_pb2.SetPolicyResponse) -> types.SetPolicyResult:
    return types.SetPolicyResult(answer.header.revision, answer.header.epoch)


def _slots(answer: cluster_pb2.ListSlotsResponse) -> list[types.Slot]:
    return [types.Slot(**{name: getattr(slot, name) for name in _SLOT_FIELDS}) for slot in answer.slots]


def _nothing(answer: object) -> None:
    return None
