"""What the clients give about a cluster: its nodes, its policy, its epochs, the steps of a promotion, who is shipped the log."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """How well a write is kept before it is acknowledged."""

    write_quorum: int
    """How many members must have synced it, the primary included; 0: the primary alone decides (asynchronous)."""
    members: tuple[str, ...] = ()
    """The names that count."""
    degraded: bool = False
    """The quorum is not waited for at the moment: somebody said so."""
    revision: int = 0
    """The commit that set it; 0: it was never set."""


@dataclasses.dataclass(frozen=True, slots=True)
class ClusterNode:
    """One node; of one that cannot be reached only the name, the address and the error are known."""

    name: str
    """The name that the policy counts it by."""
    address: str
    """Where it is spoken to, ``HOST:PORT``."""
    reachable: bool
    """It answered."""
    error: str
    """Why not; empty where it did."""
    is_self: bool
    """It is the node that was asked."""
    is_member: bool
    """The policy counts it."""
    node_id: str
    """Random, given with its data folder."""
    cluster_id: bytes
    """The 16 bytes that name the cluster; empty: it belongs to none yet."""
    role: str
    """``"primary"``, ``"follower"``, or ``"none"`` while that changes."""
    state: str
    """Of a follower the state by its name in the transition table; of a primary ``"PRIMARY"`` or ``"FENCED"``."""
    reason: str
    """Why it is in this state; empty where there is nothing to say."""
    epoch: int
    """The number of the epoch under which it serves."""
    epoch_nonce: int
    """Its random part."""
    promised_epoch: int
    """The highest epoch that it has promised to obey."""
    durable_revision: int
    """Where its log durably ends."""
    chain: bytes
    """The chain hash behind that revision."""
    applied_revision: int
    """Applied in memory."""
    visible_revision: int
    """What its readers are shown."""
    heard_revision: int
    """The highest durable revision that it has heard of a primary; of a primary its own."""
    heard_ms: int
    """When it heard that, in milliseconds since 1970 by its own clock."""
    lag_revisions: int
    """How many revisions it is behind what it has heard of."""
    lag_ms: int
    """The same in milliseconds."""
    lag_bytes: int
    """The same in bytes of the log."""
    follows: str
    """Whom it follows, ``HOST:PORT``; empty: nobody."""
    primary: str
    """The address of the primary, as far as it knows."""
    server_version: str
    """The version of the server."""


@dataclasses.dataclass(frozen=True, slots=True)
class ClusterStatus:
    """All nodes, as the one that was asked found them."""

    nodes: tuple[ClusterNode, ...]
    """By name."""
    policy: Policy
    """As far as the node that was asked knows it."""
    register_url: str
    """The register, without credentials; empty where a node has one of its own."""
    warnings: tuple[str, ...]
    """What needs somebody's attention, one sentence each."""

    @property
    def primary(self) -> ClusterNode | None:
        """The primary of the highest epoch among the nodes that could be asked; None where there is none."""
        primaries = [node for node in self.nodes if node.role == "primary"]
        return max(primaries, key=lambda node: node.epoch, default=None)


@dataclasses.dataclass(frozen=True, slots=True)
class EpochEntry:
    """One epoch: one primacy."""

    epoch: int
    """Its number."""
    epoch_nonce: int
    """Its random part."""
    parent_epoch: int | None
    """The epoch in whose history it began; None while its beginning is not recorded: nothing was acknowledged under it."""
    began_revision: int | None
    """The last revision before it; None likewise."""
    chain: bytes
    """The chain hash behind that revision."""
    node: str
    """The node that claimed it."""
    node_id: str
    """Its id."""
    claimed_ms: int
    """When it was claimed, in milliseconds since 1970."""
    begun: bool
    """Its first segment is durable: writes were taken under it."""


@dataclasses.dataclass(frozen=True, slots=True)
class PolicyNote:
    """Somebody gave the policy's quorum up for now, or returned to it."""

    time_ms: int
    """When, in milliseconds since 1970."""
    epoch: int
    """The epoch at that time."""
    node: str
    """The node that wrote it."""
    degraded: bool
    """The quorum was given up from here on; else it was returned to."""
    reason: str
    """What somebody said about it."""


@dataclasses.dataclass(frozen=True, slots=True)
class ClusterHistory:
    """What the register holds."""

    epochs: tuple[EpochEntry, ...]
    """Oldest first."""
    notes: tuple[PolicyNote, ...]
    """Oldest first."""


@dataclasses.dataclass(frozen=True, slots=True)
class PromotionStep:
    """A step of a promotion; the last one has the outcome."""

    step: str
    """Its name: ``"claim"``, ``"promises"``, ``"catch-up"``, ``"branch"``, ``"serve"``."""
    message: str
    """What was done, in a sentence."""
    done: bool
    """The node is primary (or, in a dry run, would be)."""
    epoch: int
    """With the last step: the new epoch."""
    revision: int
    """With it: the revision at which the epoch begins."""
    lost_from: int
    """With it: the first revision that may be lost; 0: none."""
    lost_upto: int
    """With it: the last one, as far as was heard."""


@dataclasses.dataclass(frozen=True, slots=True)
class SetPolicyResult:
    """Says which commit changed the policy."""

    revision: int
    """The commit."""
    epoch: int
    """The primacy under which it was made."""


@dataclasses.dataclass(frozen=True, slots=True)
class Slot:
    """One follower, as the node that ships it the log knows it."""

    name: str
    """Its name."""
    node_id: str
    """Its id."""
    address: str
    """Where it is spoken to."""
    connected: bool
    """It is connected now."""
    state: str
    """``"streaming"``, ``"catching-up"``, ``"away"``, or ``"lost"`` where the log that it needs was let go."""
    received_revision: int
    """Received, as far as it has acknowledged."""
    durable_revision: int
    """Synced."""
    applied_revision: int
    """Applied."""
    hold_revision: int
    """The first revision of the log that is held for it; 0: nothing is."""
    held_bytes: int
    """Bytes of the log that are held for it."""
    max_bytes: int
    """The most that are."""
    silent_ms: int
    """Milliseconds since it was heard from."""
    lag_bytes: int
    """Bytes that it lacks."""
