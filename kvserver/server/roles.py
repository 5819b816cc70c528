"""Which part a node of a cluster begins with: decided by the register, not by how it was started.

    the register holds                     this node                        begins as
    no epoch                               was told nobody to follow        primary: it makes the cluster
    no epoch                               was told whom to follow          follower, of a primary that is yet to come
    a newest claim of this node's          promised nobody a higher epoch   primary, under the next epoch
    the same, but never gone on with       another node led or claimed      follower: its promotion came to nothing
                                           before
    a newest claim of this node's          promised a higher epoch          follower: another node is about to take over
    a newest claim of another node's       whatever it was                  follower
    nothing that could be read             has a store                      follower, until the register says more

A claim that was not gone on with counts like one that was: whoever made it may hold promises of the others. So a primary that
comes back behind the claim of a candidate that died waits for an operator (``kvctl promote``), and loses nothing by that. So does
the candidate itself. It died before it had the promises of the others and all that they have, and a start asks for neither: only
a node whose branch is recorded, and behind which nobody else has claimed anything, is known to lack nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kvserver.base.register import EpochRecord
from kvserver.base.types import Epoch, Role
from kvserver.engine.claiming import before_leading


class Beginning(NamedTuple):
    """A part, and why it is this one."""

    role: Role
    why: str


def decide(records: Sequence[EpochRecord], node_id: str, promised: Epoch, told_to_follow: bool) -> Beginning:
    """Return the part to begin with. ``node_id``: empty for a folder that is no store yet; ``records``: all claims, in order."""
    if not records:
        if told_to_follow:
            return Beginning(Role.FOLLOWER, "the cluster has no primary yet, and it was told whom to follow")
        return Beginning(Role.PRIMARY, "it makes the cluster: nobody has claimed an epoch yet")
    newest = records[-1]
    number = newest.epoch.number
    if newest.node_id != node_id:
        return Beginning(Role.FOLLOWER, f"{newest.node or 'another node'} has claimed epoch {number}, the newest one")
    if promised > newest.epoch:
        return Beginning(Role.FOLLOWER, f"it has promised to obey epoch {promised.number}, and epoch {number} was its own")
    other = before_leading(records, lambda record: record.node_id == node_id)
    if other is not None:
        who = f"{other.node or 'another node'} has claimed epoch {other.epoch.number}"
        return Beginning(Role.FOLLOWER, f"{who}, and this node's own promotion behind that, to epoch {number}, came to nothing")
    return Beginning(Role.PRIMARY, f"epoch {number}, the newest one, was its own")
