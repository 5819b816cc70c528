"""A promise that another node asks for: who wants to be primary asks all members to refuse lower epochs from now on.

What the answer says of the log holds until the new epoch is followed. So a primary is fenced first, and what it had under way is
waited for; a follower takes what is under way to its end, and follows nobody meanwhile.
"""

from __future__ import annotations

import asyncio

from kvserver.base.errors import Code, NotPrimary, NotServing, ReplicationError
from kvserver.base.types import Epoch, Role
from kvserver.replication.messages import NodeIdentity, Promised
from kvserver.server.life import Life
from kvserver.server.ports import MemberPort

SETTLE_S = 5.0
"""How long a primary that is fenced waits for what it has under way to come back from the log."""


async def give_promise(member: MemberPort, epoch: Epoch, candidate: NodeIdentity) -> Promised:
    """Do what ``Member.promise`` does. ``changing`` is held, and this is not cancelled. Raises KvError."""
    life, me = member.life, member.identity()
    if life is None or member.is_stopping:
        raise ReplicationError(Code.FENCED, "this node is changing its part", "ask again in a moment")
    if candidate.cluster_id != me.cluster_id:
        raise ReplicationError(Code.WRONG_PEER, "the candidate is of another cluster", "ask nodes of its own cluster")
    if candidate.register_id != me.register_id:
        what = f"the candidate claims its epochs in the register {candidate.register_id!r}, not in {me.register_id!r}"
        raise ReplicationError(Code.WRONG_PEER, what, "all nodes of a cluster name the same one: see --register")
    if not member.vow.allows(epoch):
        return member.parts.promised(False)
    if life.role is Role.PRIMARY:
        if epoch.number <= life.database.history.current.number:  # of the same number there is one epoch, and this is its primary
            return member.parts.promised(False)
        if candidate.node_id != me.node_id:
            member.fence(NotPrimary(candidate.address), f"{candidate.name} becomes primary under epoch {epoch.number}")
            await _settled(life)
    async with member.parts.not_following():
        try:
            given = await asyncio.to_thread(member.vow.promise, epoch)
        except OSError as error:
            what = f"the promise cannot be kept: {error.strerror or error}"
            raise ReplicationError(Code.FENCED, what, "see that the node's disk can be written") from error
        return member.parts.promised(given)


async def _settled(life: Life) -> None:
    """Wait until what was under way is on disk: the log's end does not move behind this. Raises KvError."""
    moved = asyncio.Event()
    stop = life.database.observe(moved.set)
    try:
        async with asyncio.timeout(SETTLE_S):
            while life.database.pipeline.unwritten and not life.has_failed:
                moved.clear()
                await moved.wait()
    except TimeoutError:
        what = f"what this node had under way did not come back from its disk within {SETTLE_S:.0f} s"
        raise ReplicationError(Code.FENCED, what, "ask again in a moment; it takes no writes any more") from None
    finally:
        stop()
    if life.has_failed:
        raise NotServing("the log has failed; the process is ending", Code.LOG_FAILED)
