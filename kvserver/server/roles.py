"""Which part a node of a cluster begins with: decided by the register, not by how it was started.

    the register holds                     this node                        begins as
    no epoch                               was told nobody to follow        primary: it makes the cluster
    no epoch                               was told whom to follow          follower, of a primary that is yet to come
    a newest claim of this node's          promised nobody a higher epoch   primary, under the next epoch
    a newest claim of this node's          promised a higher epoch          follower: another node is about to take over
    a newest claim of another node's       whatever it was                  follower
    nothing that could be read             has a store                      follower, until the register says more

A claim that was not gone on with counts like one that was: whoever made it may hold promises of the others. So a primary that
comes back behind the claim of a candidate that died waits for an operator (``kvctl promote``), and loses nothing by that.
"""

from __future__ import annotations

from typing import NamedTuple

from kvserver.base.register import EpochRecord
from kvserver.base.types import Epoch, Role


class Beginning(NamedTuple):
    """A part, and why it is this one."""

    role: Role
    why: str


def decide(newest: EpochRecord | None, node_id: str, promised: Epoch, told_to_follow: bool) -> Beginning:
    """Return the part to begin with. ``node_id``: empty for a folder that is no store yet; ``newest``: the newest claim."""
    if newest is None:
        if told_to_follow:
            return Beginning(Role.FOLLOWER, "the cluster has no primary yet, and it was told whom to follow")
        return Beginning(Role.PRIMARY, "it makes the cluster: nobody has claimed an epoch yet")
    number = newest.epoch.number
    if newest.node_id != node_id:
        return Beginning(Role.FOLLOWER, f"{newest.node or 'another node'} has claimed epoch {number}, the newest one")
    if promised > newest.epoch:
        return Beginning(Role.FOLLOWER, f"it has promised to obey epoch {promised.number}, and epoch {number} was its own")
    return Beginning(Role.PRIMARY, f"epoch {number}, the newest one, was its own")
