"""A candidate takes from another node what that node's log has beyond its own, and nothing else: it does not follow it.

All that was acknowledged lies in the log of one of the nodes that gave their promise, up to where it said that its log ends. The
candidate has to come to exactly that position: the same epoch, revision and chain. A node whose history is no continuation of
the candidate's cannot be caught up with; then the promotion is refused, and nobody has lost anything.
"""

from __future__ import annotations

import contextlib
from typing import NoReturn

from kvserver.base.errors import Code, NotServing, ReplicationError
from kvserver.base.types import LogEnd, Position
from kvserver.replication.home import FollowerFloor, Home
from kvserver.replication.messages import Diverged, Envelope, Gone
from kvserver.replication.peer import Peer
from kvserver.replication.receiving import Ended, Intake, IntakeFailed, LogTaker, Receiving, hello_of


async def catch_up(home: Home, floor: FollowerFloor, peer: Peer, end: LogEnd) -> None:
    """Take another node's log until this one's ends at the same position, durably; then hang up.

    Raises ReplicationError (PROMOTION_REFUSED) where that node's history is no continuation of this one's; NotServing where the
    node cannot be reached or hangs up before its end; KvError where the store cannot take what comes.
    """
    database = home.database()
    if database is None:
        raise NotServing("the store is not open")
    goal = end.position
    if _is_there(database, peer, goal):
        return
    call = await peer.follow(hello_of(database, home.identity(), home.vow.promised, floor.compressions, only_log=True))
    intake = Intake(database)
    receiving = Receiving(database, call, floor.env.clock, floor.sleep, intake)

    async def on_envelope(envelope: Envelope) -> Ended | None:
        return Ended(envelope.body) if isinstance(envelope.body, Gone | Diverged) else None

    async def until_there() -> None:
        while not _is_there(database, peer, goal):
            await intake.settled()

    try:
        ended = await receiving.run(on_envelope, [until_there()])
    except IntakeFailed as failed:
        if failed.is_chunks_fault:
            _refuse(peer, goal, f"what it sends does not continue this log: {failed.error.message}")
        raise failed.error from failed
    finally:
        with contextlib.suppress(IntakeFailed):
            await intake.ended()
    if ended is None:
        return
    if isinstance(ended.body, Gone):
        _refuse(peer, goal, f"its log begins at revision {ended.body.oldest}, behind the end of this one")
    at = ended.body.common
    _refuse(peer, goal, f"its history parts from this one's at epoch {at.epoch.number}, revision {at.revision}")


def _is_there(database: LogTaker, peer: Peer, goal: Position) -> bool:
    """Say whether the log has come to a position. Raises ReplicationError where it can come to it no more."""
    at = database.log_end().position
    if at == goal:
        return True
    beyond = at.epoch.number > goal.epoch.number or (at.epoch == goal.epoch and at.revision >= goal.revision)
    if beyond or (at.epoch.number == goal.epoch.number and at.epoch != goal.epoch):
        _refuse(peer, goal, f"this log is at epoch {at.epoch.number}, revision {at.revision}, and does not pass through that")
    return False


def _refuse(peer: Peer, goal: Position, why: str) -> NoReturn:
    where = f"epoch {goal.epoch.number}, revision {goal.revision}"
    what = f"this node cannot catch up with {peer.address}, whose log ends at {where}: {why}"
    raise ReplicationError(Code.PROMOTION_REFUSED, what, f"promote that node instead: kvctl -E {peer.address} promote")
