"""What a member says of itself: to other nodes and operators, to probes, and in ``kvctl status``."""

from __future__ import annotations

import kvserver
from kvserver.base.types import NO_EPOCH, LogEnd, Position, Role
from kvserver.replication.messages import Description
from kvserver.replication.states import FollowerState
from kvserver.replication.vow import UNKNOWN_LOST
from kvserver.server.ports import MemberPort
from kvserver.server.probes import Check
from kvserver.service.cluster_views import BAD_STATES, LAG_WARNING_MS

_NO_END = LogEnd(Position(NO_EPOCH, 0, b""), 0, 0)

UNBEGUN_MS = 30_000
"""A claim that was not gone on with for so long is worth a word: a promotion takes a few seconds."""

_NOT_READY = (FollowerState.EMPTY, FollowerState.RESTORING, FollowerState.FAILED)


def heard_revision(member: MemberPort) -> int:
    """Return the highest durable revision that the node has heard of a primary, in this part; of a primary its own."""
    life, driver = member.life, member.parts.driver
    if life is not None and life.role is Role.PRIMARY:
        return life.database.log_end().position.revision
    return driver.marks.durable if driver is not None else 0


def heard_from_primary(member: MemberPort) -> int:
    """Return the highest durable revision that a follower was told by the primary itself; 0 while it follows nobody, or another.

    What another follower has durably may be less than what was acknowledged.
    """
    driver = member.parts.driver
    if driver is None or not driver.heard_from or driver.marks.primary != driver.heard_from:
        return 0
    return driver.marks.durable


def describe(member: MemberPort) -> Description:
    """Say who the node is, which part it plays and how far it is."""
    life, driver = member.life, member.parts.driver
    identity, promised = member.identity(), member.vow.promised
    if life is None:
        state, reason = "CHANGING", "the store is closed while the node changes its part"
        return Description(
            identity, "none", state, reason, NO_EPOCH, promised, _NO_END, *(0, 0, 0, 0), "", "", kvserver.__version__
        )
    database, heard = life.database, heard_revision(member)
    is_primary = life.role is Role.PRIMARY
    state, reason = _state(member)
    return Description(
        identity=identity,
        role=life.role.value,
        state=state,
        reason=reason,
        epoch=database.history.current,
        promised=promised,
        end=database.log_end(),
        applied=database.marks.applied,
        visible=database.marks.visible,
        heard=heard,
        heard_ms=member.world.env.clock.now_ms() if is_primary else driver.heard_ms if driver is not None else 0,
        follows=driver.source if driver is not None else "",
        primary=member.parts.primary_address(),
        server_version=kvserver.__version__,
        lag_revisions=0 if is_primary else max(0, heard - database.marks.applied),
        lag_ms=database.lag_ms(),
        lag_bytes=driver.marks.pending_bytes if driver is not None else 0,
    )


def _state(member: MemberPort) -> tuple[str, str]:
    life, driver = member.life, member.parts.driver
    if member.parts.distrusted:  # as such it serves nobody, and nobody promotes it
        return FollowerState.FAILED.value, member.parts.distrusted
    if life is not None and life.role is Role.PRIMARY:
        return ("FENCED", member.fenced) if member.fenced else ("PRIMARY", "")
    if driver is not None:
        return driver.state.value, driver.reason
    return FollowerState.CONNECTING.value, ""


def checks(member: MemberPort) -> list[Check]:
    """Return what decides, beside the store, whether requests should be sent here. Safe on any thread: it reads plain values.

    A follower that has heard nobody since its start cannot say how old what it holds is; one that is being filled, or has
    failed, holds too little or goes back further every second. One that has lost contact since stays ready: reads that mind say
    how old an answer may be.
    """
    life, driver = member.life, member.parts.driver
    if member.parts.distrusted:
        return [Check("content", False, member.parts.distrusted)]
    if life is None:
        return [Check("part", False, "the store is closed while the node starts or changes its part")]
    if life.role is Role.PRIMARY:
        return [Check("part", not member.fenced, member.fenced or "the node is primary")]
    found = []
    if driver is not None:
        state, reason = driver.state, driver.reason
        found.append(Check("part", state not in _NOT_READY, f"the follower is {state.value}: {reason}"))
    contact = life.database.contact
    heard = contact is not None and contact.was_made
    found.append(Check("contact", heard, f"the primary was {'heard' if heard else 'not heard'} since the store was opened"))
    return found


def warnings(member: MemberPort) -> list[str]:
    """Return what an operator of this node should know, one sentence each."""
    life, found = member.life, []
    if life is not None:
        state, reason = _state(member)
        lag_ms = life.database.lag_ms()
        if life.role is Role.PRIMARY and member.fenced:
            found.append(f"This node takes no writes any more: {_clause(reason)}; see: kvctl cluster status.")
        elif state in BAD_STATES:
            found.append(f"This follower is {state}: {_clause(reason)}.")
        elif lag_ms > LAG_WARNING_MS:
            found.append(f"This follower is {lag_ms / 1000:.1f} s behind: {state}, {_clause(reason)}.")
    claimed = member.watch.newest_claim()
    if member.is_primary and life is not None and claimed is not None:
        silent_ms = member.world.env.clock.now_ms() - claimed.claimed_ms
        if claimed.epoch.number > life.database.history.current.number and silent_ms > UNBEGUN_MS:
            who = claimed.node or "another node"
            what = f"{who} has claimed epoch {claimed.epoch.number} and not gone on; nodes that promised it obey this one no more"
            found.append(f"{what}: promote this one again, or another: kvctl promote.")
    needs = member.vow.needs_revision
    if needs:
        upto = "it has followed a primary" if needs == UNKNOWN_LOST else f"it has fetched again all up to revision {needs}"
        found.append(f"This node counts for no quorum until {upto}.")
    if member.watch.error:
        found.append(f"The register cannot be read, so no node can become primary: {_clause(member.watch.error)}.")
    return found


def _clause(reason: str) -> str:
    """Return a reason as the end of a sentence that sets its own full stop."""
    return reason.rstrip(". \n") or "no reason was given"
