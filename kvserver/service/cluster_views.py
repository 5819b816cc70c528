"""What the service Cluster asks of the server that composes it, as values, and what can be read from them all together."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from kvserver.base.register import EpochRecord, PolicyNote
from kvserver.replication.messages import Description
from kvserver.replication.slots import SlotInfo

if TYPE_CHECKING:
    from kvserver.engine.database import Database
    from kvserver.replication.promotion import PromotionStep

LAG_WARNING_MS = 10_000
"""A follower that shows what was true so long ago is worth a word."""

BAD_STATES = frozenset({"WAL_GONE", "DIVERGED", "FENCED", "FAILED"})
"""States that a node does not leave, or leaves only with a loss that somebody should know of."""


class NodeView(NamedTuple):
    """One node, as the one that was asked knows it."""

    name: str
    address: str
    description: Description | None
    """What it said of itself; None: it could not be asked."""
    error: str = ""
    """Why not, as a clause without its full stop."""
    is_self: bool = False
    is_member: bool = False


class PolicyView(NamedTuple):
    """The policy, and whether it is waited for."""

    write_quorum: int
    """0: the primary alone decides."""
    members: tuple[str, ...]
    degraded: bool = False
    revision: int = 0
    """The commit that set it; 0: it was never set."""


class ClusterView(NamedTuple):
    """All nodes."""

    nodes: Sequence[NodeView]
    policy: PolicyView
    register_url: str
    warnings: tuple[str, ...] = ()
    """What the server itself has to say; what the nodes tell together is said by ``warnings``."""


class HistoryView(NamedTuple):
    """What the register holds."""

    epochs: Sequence[EpochRecord]
    """Oldest first."""
    notes: Sequence[PolicyNote]
    """Oldest first."""


SlotView = SlotInfo
"""One follower, as the node that ships to it knows it."""


class ClusterControl(Protocol):
    """What the server does for this service. Belongs to the event loop; every call may raise KvError."""

    @property
    def database(self) -> Database | None:
        """The database that is open at this moment; None while there is none."""

    async def status(self, only_self: bool) -> ClusterView:
        """Return what the nodes say of themselves; a node that does not answer in time is part of the answer."""

    async def history(self) -> HistoryView:
        """Return what the register holds."""

    def promote(self, dry_run: bool, accept_loss: bool) -> AsyncIterator[PromotionStep]:
        """Make this node the primary; the last step says that it is.

        Closed before that, because its caller hung up, a promotion that was begun goes on by itself: half of one would leave
        a claimed epoch without a primary.
        """

    def policy(self) -> PolicyView:
        """Return the policy as this node knows it."""

    async def set_policy(self, write_quorum: int, members: tuple[str, ...]) -> int:
        """Change the policy by a commit; return its revision when the old and the new quorum have it. Raises NotPrimary."""

    async def degrade(self, reason: str) -> None:
        """Wait for the quorum no more; in the register when this returns. Raises NotPrimary."""

    async def end_degrade(self) -> None:
        """Return to the quorum once it has caught up. Raises NotPrimary."""

    def slots(self) -> Sequence[SlotView]:
        """Return who is shipped the log."""

    async def drop_slot(self, name: str) -> None:
        """Let go of what is held for a follower. Raises InvalidRequest where there is no such slot, or it is connected."""

    async def reinit(self) -> None:
        """Throw this follower's copy away and begin to fetch a new one. Raises ReplicationError where it is no follower."""


def warnings(view: ClusterView) -> list[str]:
    """Return what needs somebody's attention, one sentence each: what no single node can say of itself."""
    return [
        *_about_primaries(view),
        *(sentence for node in view.nodes for sentence in _about_node(node)),
        *_about_names(view),
        *_about_policy(view),
    ]


def _about_primaries(view: ClusterView) -> Iterator[str]:
    primaries = [node for node in view.nodes if node.description is not None and node.description.role == "primary"]
    if not primaries:
        yield "No node that can be reached is primary: nothing can be written; see: kvctl -E FOLLOWER promote --dry-run."
    if len(primaries) > 1:
        told = ", ".join(f"{node.name} of epoch {node.description.epoch.number}" for node in primaries if node.description)
        yield f"{len(primaries)} nodes say that they are primary ({told}): only the one of the highest epoch is, stop the others."


def _about_node(node: NodeView) -> Iterator[str]:
    described = node.description
    if described is None:
        yield f"{node.name} at {node.address} cannot be asked: {_clause(node.error) or 'it gave no reason'}."
        return
    if described.state in BAD_STATES:
        yield f"{node.name} is {described.state}: {_clause(described.reason) or 'it gave no reason'}."
    elif described.role != "primary" and described.lag_ms > LAG_WARNING_MS:
        behind = f"{described.lag_revisions} revisions, {described.lag_bytes} bytes"
        yield f"{node.name} is {described.lag_ms / 1000:.1f} s behind ({behind})."


def _about_names(view: ClusterView) -> Iterator[str]:
    for name, count in sorted(Counter(node.name for node in view.nodes).items()):
        if count > 1:
            yield f"{count} nodes have the name {name}: a policy counts names, give each node its own."
    described = [node.description for node in view.nodes if node.description is not None]
    registers = {one.identity.register_id for one in described}
    if len(registers) > 1:
        yield f"The nodes see {len(registers)} different registers: epochs that are claimed in one are not known in the other."


def _about_policy(view: ClusterView) -> Iterator[str]:
    policy = view.policy
    if not policy.write_quorum:
        return
    rule = f"{policy.write_quorum} of {', '.join(policy.members)}"
    if policy.degraded:
        yield f"The policy ({rule}) is degraded: writes are acknowledged by the primary alone; see: kvctl cluster policy return."
    there = {node.name for node in view.nodes if node.description is not None and node.description.state not in BAD_STATES}
    absent = [name for name in policy.members if name not in there]
    if len(policy.members) - len(absent) < policy.write_quorum and not policy.degraded:
        yield f"The policy ({rule}) cannot be met without {', '.join(absent)}: writes wait."


def _clause(reason: str) -> str:
    """Return a reason as the end of a sentence that sets its own full stop."""
    return reason.rstrip(". \n")
