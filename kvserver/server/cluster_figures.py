"""The figures of a member for ``/metrics``: taken on the event loop every second, because some of them belong to it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from kvserver.base.types import Role
from kvserver.replication.slots import AWAY, CATCHING_UP, LOST, STREAMING, SlotInfo
from kvserver.replication.states import FollowerState
from kvserver.server.describing import heard_revision
from kvserver.server.life import Life
from kvserver.server.ports import MemberPort

Samples = Mapping[str, list[tuple[tuple[str, ...], float]]]
"""By the name of a metric: the values of its labels, and its value."""


def samples(member: MemberPort, transitions: Counter[tuple[str, str]], has_quorum: bool) -> Samples:
    """Return what there is to be said now. ``transitions``: how often a follower went from one state to another."""
    life = member.life
    found: dict[str, list[tuple[tuple[str, ...], float]]] = {
        "kv_register_reachable": [((), float(not member.watch.error))],
        "kv_state_transitions_total": [(way, count) for way, count in transitions.items()],
    }
    if life is None:
        return found
    slots = member.parts.slots()
    states = Counter(slot.state for slot in slots)
    found["kv_followers"] = [((state,), states[state]) for state in (STREAMING, CATCHING_UP, AWAY, LOST)]
    found |= _of_slots(life, slots)
    found["kv_rewind_base_revision"] = [((), member.parts.newest_base)]
    if life.role is Role.PRIMARY:
        replicated = life.database.marks.replicated
        found["kv_quorum_met"] = [((), float(has_quorum))]
        found["kv_quorum_degraded"] = [((), float(member.parts.is_degraded))]
        if replicated is not None:
            found["kv_replicated_revision"] = [((), replicated)]
    else:
        found |= _of_follower(member, life)
    return found


def _of_slots(life: Life, slots: list[SlotInfo]) -> dict[str, list[tuple[tuple[str, ...], float]]]:
    durable = life.database.marks.durable
    return {
        "kv_slot_connected": [((slot.name,), float(slot.connected)) for slot in slots],
        "kv_slot_durable_revision": [((slot.name,), slot.durable_revision) for slot in slots],
        "kv_slot_lag_revisions": [((slot.name,), max(0, durable - slot.durable_revision)) for slot in slots],
        "kv_slot_lag_bytes": [((slot.name,), slot.lag_bytes) for slot in slots],
        "kv_slot_held_bytes": [((slot.name,), slot.held_bytes) for slot in slots],
    }


def _of_follower(member: MemberPort, life: Life) -> dict[str, list[tuple[tuple[str, ...], float]]]:
    driver, database = member.parts.driver, life.database
    found: dict[str, list[tuple[tuple[str, ...], float]]] = {
        "kv_replication_lag_seconds": [((), database.lag_ms() / 1000)],
        "kv_replication_lag_revisions": [((), max(0, heard_revision(member) - database.marks.applied))],
    }
    if driver is not None:
        found["kv_replication_lag_bytes"] = [((), driver.marks.pending_bytes)]
        found["kv_follower_state"] = [((state.value,), float(state is driver.state)) for state in FollowerState]
    return found
