"""What the nodes answered to a candidate, and what follows from it: pure judgement, nothing is asked or written here.

**Quorum.** A commit was acknowledged when W of M members had it. M - W + 1 members that obey the new epoch leave no W that could
acknowledge under the old one, and among them is at least one that has each acknowledged commit. So the candidate needs that many,
and then the log of whichever of them is furthest: the highest (epoch of the last frame, revision). Whoever lost something that it
had acknowledged is no witness, nor is a node that was made anew under its old name: neither is counted.

**Only the newest policy counts.** Its commit needed the old quorum and the new one, so a log that has it has all that was
acknowledged before it. The candidate may learn of it while it catches up; so the quorum is judged by the log as it is at the end.

**Without a quorum** (an asynchronous policy, or one that was given up for a while) only the former primary knows what it has
acknowledged. Where it promises, nothing is lost. Where it does not, what lies behind the candidate's end may be: as a range, as
far as anybody heard of it.

**The line.** The register knows where each epoch began. A candidate whose log lacks the beginning of the newest one that began,
or went on beside it, would undo what was written there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kvserver.base.policy import Policy
from kvserver.base.register import EpochRecord, NodeRecord, PolicyNote
from kvserver.base.types import NO_EPOCH, Epoch, LogEnd
from kvserver.replication.messages import Description, NodeIdentity, Promised

UNFILLED = frozenset({"EMPTY", "RESTORING"})
"""States of a node whose store is not whole yet."""


class Answer(NamedTuple):
    """What one node answered."""

    node: NodeRecord
    end: LogEnd | None = None
    """None: there is no answer that could be used."""
    promised: bool = False
    highest: Epoch = NO_EPOCH
    complete: bool = False
    """It has all that it ever acknowledged, as far as it knows."""
    heard: int = 0
    error: str = ""
    """Why there is no answer, or why it does not count."""

    @property
    def counts(self) -> bool:
        """Say whether it counts for a quorum."""
        return self.promised and self.complete and self.end is not None


class Loss(NamedTuple):
    """What may be lost."""

    first: int = 0
    """The first revision; 0: nothing is."""
    last: int = 0
    """The last one that anybody heard of; below ``first``: nobody heard of one."""
    why: str = ""

    def said(self) -> str:
        """Return it in words."""
        if not self.first:
            return "nothing that was acknowledged is lost"
        if self.last < self.first:
            return f"what was acknowledged behind revision {self.first - 1} may be lost, nobody has heard of any: {self.why}"
        return f"revisions {self.first} to {self.last} may be lost, and what came behind them: {self.why}"


def from_promised(node: NodeRecord, me: NodeIdentity, given: Promised) -> Answer:
    """Return the answer of a node that was asked for its promise."""
    error = _stranger(node, me, given.identity)
    if error:
        return Answer(node, error=error)
    complete, error = given.complete, "" if given.complete else "it lacks something that it had acknowledged"
    if given.identity.node_id != node.node_id:
        complete, error = False, "it was made anew since it joined"
    elif given.end.position.revision < 1:
        complete, error = False, "it has no data yet"
    if not given.promised:
        error = "it did not promise"
    highest = max(given.highest, given.end.position.epoch)  # what a log holds is obeyed, whether a promise was asked for or not
    return Answer(node, given.end, given.promised, highest, complete, given.heard, error)


def from_description(node: NodeRecord, me: NodeIdentity, said: Description) -> Answer:
    """Return what a node would answer, as far as can be told by its description."""
    filled = said.state not in UNFILLED
    given = Promised(True, said.identity, said.end, said.promised, filled, said.heard)
    answer = from_promised(node, me, given)
    return answer if filled or answer.end is None else answer._replace(error="it has no whole copy of the data yet")


def _stranger(node: NodeRecord, me: NodeIdentity, answered: NodeIdentity) -> str:
    """Say why an answer is not that of the node that was asked; empty where it is."""
    if answered.cluster_id != me.cluster_id:
        return f"at {node.address} answers a node of another cluster"
    if answered.register_id != me.register_id:
        return f"at {node.address} answers a node with another register"
    if answered.node_id == me.node_id:
        return f"at {node.address} answers this node itself"
    if answered.name != node.name:
        return f"at {node.address} answers {answered.name or 'a node without a name'}"
    return ""


def former_primary(records: Sequence[EpochRecord]) -> EpochRecord | None:
    """Return the newest epoch under which something may have been acknowledged; None: there is none."""
    return next((record for record in reversed(records) if record.begun), None)


def is_degraded(notes: Sequence[PolicyNote]) -> bool:
    """Say whether the quorum is given up at the moment."""
    return bool(notes) and notes[-1].degraded


def obeys_another(answers: Iterable[Answer], epoch: Epoch) -> Answer | None:
    """Return a node that refuses an epoch because it obeys a higher one, or another primacy of the same number."""
    return next((one for one in answers if one.end is not None and _is_against(one.highest, epoch)), None)


def _is_against(highest: Epoch, epoch: Epoch) -> bool:
    return highest.number > epoch.number or (highest.number == epoch.number and highest != epoch)


def unmet(policies: Iterable[Policy], names: frozenset[str]) -> list[str]:
    """Return, for each policy whose quorum of promises is not among these nodes, how it falls short."""
    short = []
    for policy in policies:
        have = sorted(names.intersection(policy.members))
        if len(have) < policy.promise_quorum:
            need = f"{policy.promise_quorum} of {', '.join(policy.members)} must promise"
            short.append(f"under the policy {policy.write_quorum} of {len(policy.members)}, {need}, and {_named(have)} did")
    return short


def _named(names: Sequence[str]) -> str:
    return f"only {', '.join(names)}" if names else "none of them"


def order(end: LogEnd) -> tuple[int, int]:
    """Return how far a log is, so that the higher has all that was acknowledged in the lower."""
    return end.position.epoch.number, end.position.revision


def furthest(records: Sequence[EpochRecord], answers: Iterable[Answer], own: LogEnd) -> list[Answer]:
    """Return the nodes that promised and whose logs are further on the line than one's own, the furthest first."""
    ahead = [one for one in answers if one.promised and one.end is not None and order(one.end) > order(own)]
    ahead = [one for one in ahead if one.end is not None and not has_left_the_line(records, one.end)]
    return sorted(ahead, key=lambda one: order(one.end) if one.end else (0, 0), reverse=True)


def conflict(records: Sequence[EpochRecord], ends: Iterable[tuple[str, LogEnd]]) -> str:
    """Say which node's log ends in an epoch that is not the register's; empty: none does."""
    known = {record.epoch.number: record.epoch for record in records}
    newest = max(known, default=0)
    for name, end in ends:
        epoch = end.position.epoch
        if known.setdefault(epoch.number, epoch) != epoch:
            return (
                f"the log of {name} ends in an epoch {epoch.number} with another nonce than the one that is known by this number"
            )
        if epoch.number > newest:
            return f"the log of {name} ends in epoch {epoch.number}, of which the register knows nothing"
    return ""


def has_left_the_line(records: Sequence[EpochRecord], end: LogEnd) -> bool:
    """Say whether a log went on beside the epochs that lead to the newest one that began: what it has of its own was given up."""
    by_number = {record.epoch.number: record for record in records}
    record, number = former_primary(records), end.position.epoch.number
    while record is not None and record.branch is not None and record.epoch.number > number:
        parent = record.branch.epoch.number
        if parent <= number:
            return parent < number or end.position.revision > record.branch.revision
        record = by_number.get(parent)
    return False


def off_the_line(records: Sequence[EpochRecord], end: LogEnd) -> str:
    """Say how a log misses the beginning of the newest epoch that began; empty where it is on its line."""
    newest = former_primary(records)
    if newest is None or newest.branch is None or end.position.epoch.number >= newest.epoch.number:
        return ""
    begins = f"epoch {newest.epoch.number} began behind revision {newest.branch.revision}"
    if has_left_the_line(records, end):
        return f"{begins}, and its log went on to {end.position.revision} in epoch {end.position.epoch.number}"
    if end.position.revision < newest.branch.revision:
        return f"{begins}, and its log ends at {end.position.revision}"
    return ""


def loss(
    records: Sequence[EpochRecord], end: LogEnd, node_ids: frozenset[str], by_quorum: bool, lacking: LogEnd | None, heard: int
) -> Loss:
    """Return what is lost if the candidate goes on from this end.

    ``node_ids``: who promised and lacks nothing, the candidate included; ``by_quorum``: every policy that must hold had its
    quorum of promises; ``lacking``: where a log that is further ends, if one could not be fetched; ``heard``: the highest durable
    revision that anybody heard of the former primary.
    """
    newest = former_primary(records)
    revision = end.position.revision
    known = [heard, lacking.position.revision if lacking is not None else 0]
    if newest is not None and newest.branch is not None:
        known.append(newest.branch.revision)
    missed = off_the_line(records, end)
    if missed or lacking is not None:
        begin = min(revision, newest.branch.revision if newest is not None and newest.branch is not None and missed else revision)
        return Loss(begin + 1, max(known), missed or "the log that is furthest could not be fetched")
    if newest is None or by_quorum or newest.node_id in node_ids:
        return Loss()
    who = newest.node or newest.node_id or "the former primary"
    return Loss(revision + 1, max(*known, revision), f"{who}, primary of epoch {newest.epoch.number}, was not heard")
