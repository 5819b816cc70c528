"""The policy's quorum: acknowledgements in, the replicated revision out. Pure; it reads no clock and speaks to nobody.

An acknowledgement is a member's word that its disk has the log up to a revision. What makes it count:

    Q1  It is of this primacy: the newest epoch whose first header the member has on disk is ours, number and nonce. A member
        that follows somebody else, or has not got our header yet, may have another history at the same revision. So until W
        members have the header, nothing is replicated, what was recovered least of all.
    Q2  It is of a member, by name, and each name counts once. The primary counts by its own disk, and only if it is a member.
    Q3  The newest word of a member counts, a lower one too: it has lost something, and what it lost is not replicated any more.
    Q4  A name that two nodes go by counts what the less advanced one has. One that takes another's place (a new data folder) is
        no such case, until the other one is heard from again.

A revision is replicated when W members have it, under every policy that must hold: the one in force, and each whose commit is
not visible yet. Under ``ASYNC``, and while the quorum is given up, none is waited for: the answer is None.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple

from kvserver.base.errors import Code, ReplicationError
from kvserver.base.policy import Policy
from kvserver.base.register import PolicyNote
from kvserver.base.types import Epoch


class AckVerdict(enum.Enum):
    """What became of an acknowledgement."""

    COUNTED = "counted"
    OTHER_EPOCH = "other epoch"
    """It is not of this primacy, and does not count."""
    LOWERED = "lowered"
    """The node had acknowledged more before: it has lost something, or is not the node that it was. Worth an alarm."""
    CONTESTED = "contested"
    """Two nodes go by this name. Worth an alarm."""


class Standing(NamedTuple):
    """How far a quorum is."""

    replicated: int | None
    """The newest revision that every policy's quorum has, 0: none; None: no quorum is waited for."""
    policy: Policy | None = None
    """The policy that is least met."""
    missing: tuple[str, ...] = ()
    """Its members that have not acknowledged all that is durable here."""

    def __str__(self) -> str:
        """Return who is needed and who is missing, as people say it; empty where nobody is."""
        if self.policy is None or not self.missing:
            return ""
        *others, last = self.missing
        names = f"{', '.join(others)} and {last} do" if others else f"{last} does"
        return f"{self.policy.write_quorum} of {len(self.policy.members)} members needed; {names} not acknowledge"


class _Member:
    """What was heard under one name."""

    __slots__ = ("contested", "durable", "newest")

    def __init__(self, node_id: str) -> None:
        self.newest = node_id
        self.durable: dict[str, int] = {}
        self.contested = False


class Quorum:
    """The acknowledgements of one primacy."""

    def __init__(self, name: str, node_id: str, epoch: Epoch, begin_revision: int) -> None:
        """Begin for the primary of this name, whose epoch begins behind a revision."""
        self.epoch = epoch
        self._name = name
        self._node_id = node_id
        self._begin = begin_revision
        self._members: dict[str, _Member] = {}

    def acknowledge(self, name: str, node_id: str, epoch: Epoch, durable: int) -> AckVerdict:
        """Take a node's word; say what it is worth."""
        if name == self._name:
            return AckVerdict.COUNTED if node_id == self._node_id else AckVerdict.CONTESTED
        member = self._members.get(name)
        before = member.durable.get(node_id) if member is not None else None
        if epoch != self.epoch or durable < self._begin:
            if not before or member is None:
                return AckVerdict.OTHER_EPOCH
            member.durable[node_id] = 0
            return AckVerdict.LOWERED
        if member is None:
            member = self._members[name] = _Member(node_id)
        if node_id != member.newest:
            if before is None:
                member.newest = node_id
            else:
                member.contested = True
        member.durable[node_id] = durable
        if before is not None and durable < before:
            return AckVerdict.LOWERED
        return AckVerdict.CONTESTED if member.contested else AckVerdict.COUNTED

    def forget(self, name: str) -> None:
        """Forget what was heard under a name: somebody said that the node will not come back."""
        self._members.pop(name, None)

    def durable_on(self, name: str, durable: int) -> int:
        """Return what counts for a name, where the primary has ``durable``; 0: nothing."""
        if name == self._name:
            return durable
        member = self._members.get(name)
        if member is None:
            return 0
        return min(member.durable.values()) if member.contested else member.durable[member.newest]

    def standing(self, durable: int, policies: Sequence[Policy], degraded: bool = False) -> Standing:
        """Return how far the quorums of all these policies are, where the primary's own log is durable up to a revision."""
        least = Standing(None)
        if degraded:
            return least
        for policy in policies:
            if not policy.write_quorum:
                continue
            have = [self.durable_on(name, durable) for name in policy.members]
            replicated = sorted(have, reverse=True)[policy.write_quorum - 1]
            if least.replicated is None or replicated < least.replicated:
                behind = tuple(name for name, revision in zip(policy.members, have, strict=True) if revision < durable)
                least = Standing(replicated, policy, behind)
        return least


class DegradeState:
    """Whether the quorum is given up for now, by the register's notes. Nothing here writes: the caller does, and then says so.

    A note takes effect when it is in the register, not before. Its number is taken by the register's create-once, so of two
    nodes that write one at the same time one is told to read again.
    """

    def __init__(self, notes: Sequence[PolicyNote] = ()) -> None:
        self._newest: PolicyNote | None = None
        self.read(notes)

    def read(self, notes: Sequence[PolicyNote]) -> None:
        """Take in all notes of the register, oldest first. Raises ReplicationError where one is missing."""
        for number, note in enumerate(notes, 1):
            if note.number != number:
                raise ReplicationError(
                    Code.REGISTER_UNAVAILABLE,
                    f"the register's note {number} about the policy is missing, but there is a note {note.number}",
                    "see that this node sees the whole register, then try again; list the notes with: kvctl cluster history",
                )
        if len(notes) >= self.next_number - 1:  # a listing that lags takes nothing back that was seen already
            self._newest = notes[-1] if notes else None

    @property
    def degraded(self) -> bool:
        """Say whether the quorum is given up, by whoever is primary."""
        return self._newest is not None and self._newest.degraded

    def degraded_under(self, epoch: Epoch) -> bool:
        """Say whether a primacy may do without the quorum: a note of an earlier one goes on holding, but what a later one wrote
        is no leave for this one, which it has deposed."""
        newest = self._newest
        return newest is not None and newest.degraded and (newest.epoch.number < epoch.number or newest.epoch == epoch)

    @property
    def newest(self) -> PolicyNote | None:
        """Return the note that holds; None: there was never one."""
        return self._newest

    @property
    def next_number(self) -> int:
        """Return the number of the next note."""
        return self._newest.number + 1 if self._newest is not None else 1

    def next_note(self, epoch: Epoch, node: str, time_ms: int, degraded: bool, reason: str) -> PolicyNote | None:
        """Return the note to write so that the quorum is given up, or returned to; None: it is so already.

        Raises ReplicationError where a later primacy than this one has written a note.
        """
        if self._newest is not None and self._newest.epoch.number > epoch.number:
            raise ReplicationError(
                Code.FENCED,
                f"epoch {self._newest.epoch.number} has decided about the policy, which is later than this node's {epoch.number}",
                "ask the primary; see who it is with: kvctl cluster status",
            )
        if degraded == self.degraded:
            return None
        return PolicyNote(self.next_number, epoch, node, time_ms, degraded, reason)

    def written(self, note: PolicyNote) -> None:
        """Note that a note is in the register now; from here on it holds."""
        if note.number != self.next_number:
            raise ValueError(f"note {note.number} does not follow note {self.next_number - 1}")
        self._newest = note
