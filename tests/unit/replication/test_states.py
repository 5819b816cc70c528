"""The transition table of a follower, row by row, and what lies around it."""

from __future__ import annotations

import itertools

import pytest

from kvserver.base.events import Event
from kvserver.base.replication_events import StateChanged
from kvserver.replication.states import TRANSITIONS, FollowerState, Happening, Lasting, StateMachine

ROWS = """
    EMPTY           SOURCE_FOUND      RESTORING
    EMPTY           HAS_STORE         CONNECTING
    EMPTY           LOWER_EPOCH       FENCED
    EMPTY           SET_BACK          EMPTY
    EMPTY           REFUSED           FAILED
    EMPTY           GAVE_UP           FAILED
    EMPTY           REINIT            RESTORING
    RESTORING       COPY_TAKEN        CONNECTING
    RESTORING       LOWER_EPOCH       FENCED
    RESTORING       SET_BACK          RESTORING
    RESTORING       REFUSED           FAILED
    RESTORING       GAVE_UP           FAILED
    RESTORING       REINIT            RESTORING
    CONNECTING      ACCEPTED          CATCHUP_STREAM
    CONNECTING      HAS_NO_STORE      EMPTY
    CONNECTING      LOG_GONE          WAL_GONE
    CONNECTING      PARTED            DIVERGED
    CONNECTING      LOWER_EPOCH       FENCED
    CONNECTING      SET_BACK          CONNECTING
    CONNECTING      REFUSED           FAILED
    CONNECTING      GAVE_UP           FAILED
    CONNECTING      REINIT            RESTORING
    CATCHUP_STREAM  CAUGHT_UP         STREAMING
    CATCHUP_STREAM  LOG_GONE          WAL_GONE
    CATCHUP_STREAM  LOWER_EPOCH       FENCED
    CATCHUP_STREAM  SOURCE_CHANGED    CONNECTING
    CATCHUP_STREAM  SET_BACK          CONNECTING
    CATCHUP_STREAM  REFUSED           FAILED
    CATCHUP_STREAM  GAVE_UP           FAILED
    CATCHUP_STREAM  REINIT            RESTORING
    STREAMING       FELL_BEHIND       CATCHUP_STREAM
    STREAMING       LOG_GONE          WAL_GONE
    STREAMING       LOWER_EPOCH       FENCED
    STREAMING       SOURCE_CHANGED    CONNECTING
    STREAMING       SET_BACK          CONNECTING
    STREAMING       REFUSED           FAILED
    STREAMING       GAVE_UP           FAILED
    STREAMING       REINIT            RESTORING
    WAL_GONE        ARCHIVE_HAS_IT    CATCHUP_ARCHIVE
    WAL_GONE        ARCHIVE_LACKS_IT  RESTORING
    WAL_GONE        SET_BACK          WAL_GONE
    WAL_GONE        GAVE_UP           FAILED
    WAL_GONE        REINIT            RESTORING
    CATCHUP_ARCHIVE ARCHIVE_ENDED     CONNECTING
    CATCHUP_ARCHIVE SET_BACK          CONNECTING
    CATCHUP_ARCHIVE GAVE_UP           FAILED
    CATCHUP_ARCHIVE REINIT            RESTORING
    DIVERGED        REWOUND           CONNECTING
    DIVERGED        NEEDS_COPY        RESTORING
    DIVERGED        SET_BACK          CONNECTING
    DIVERGED        GAVE_UP           FAILED
    DIVERGED        REINIT            RESTORING
    FENCED          SOURCE_CHANGED    CONNECTING
    FENCED          SET_BACK          FENCED
    FENCED          REFUSED           FAILED
    FENCED          GAVE_UP           FAILED
    FENCED          REINIT            RESTORING
    FAILED          SOURCE_CHANGED    CONNECTING
    FAILED          RETRIED           CONNECTING
    FAILED          REINIT            RESTORING
"""

EXPECTED = {
    (FollowerState[old], Happening[happening]): FollowerState[new]
    for old, happening, new in (line.split() for line in ROWS.strip().splitlines())
}


def test_the_table_is_this() -> None:
    assert TRANSITIONS == EXPECTED


@pytest.mark.parametrize(("old", "happening"), list(itertools.product(FollowerState, Happening)))
def test_each_row_leads_where_it_says_and_what_is_no_row_is_a_mistake(old: FollowerState, happening: Happening) -> None:
    events: list[Event] = []
    machine = StateMachine(old, "before", events.append)
    machine.lasting = Lasting.TIME if old is FollowerState.FAILED else None
    new = EXPECTED.get((old, happening))
    if new is None:
        with pytest.raises(RuntimeError, match="cannot have it"):
            machine.happen(happening, "why", None)
        assert (machine.state, machine.reason, events) == (old, "before", [])
        return
    lasting = Lasting.OPERATOR if new is FollowerState.FAILED else None
    machine.happen(happening, "why", lasting)
    assert (machine.state, machine.reason, machine.lasting) == (new, "why", lasting)
    assert events == [StateChanged(old.value, new.value, "why")]
    assert machine.counts.total() == (new is not old)


def test_the_same_again_is_no_event_and_another_reason_is() -> None:
    events: list[Event] = []
    machine = StateMachine(FollowerState.CONNECTING, "begin", events.append)
    for why in ("nobody is there", "nobody is there", "the disk is full"):
        machine.happen(Happening.SET_BACK, why)
    assert [event.why for event in events if isinstance(event, StateChanged)] == ["nobody is there", "the disk is full"]


def test_a_failure_says_what_ends_it_and_nothing_else_does() -> None:
    machine = StateMachine(FollowerState.CONNECTING, "begin")
    with pytest.raises(RuntimeError):
        machine.happen(Happening.REFUSED, "a stranger")
    with pytest.raises(RuntimeError):
        machine.happen(Happening.ACCEPTED, "it is", Lasting.TIME)
    machine.happen(Happening.REFUSED, "a stranger", Lasting.SOURCE)
    assert machine.lasting is Lasting.SOURCE
    machine.happen(Happening.SOURCE_CHANGED, "another one")
    assert machine.lasting is None


def test_every_state_can_be_left_and_every_happening_can_happen() -> None:
    assert {old for old, _ in TRANSITIONS} == set(FollowerState)
    assert {happening for _, happening in TRANSITIONS} == set(Happening)
    assert set(TRANSITIONS.values()) == set(FollowerState)
    for state in FollowerState:
        assert TRANSITIONS[state, Happening.REINIT] is FollowerState.RESTORING, "an operator can always have it fetched anew"


def test_what_goes_wrong_and_is_no_row_is_a_failure_that_somebody_hears_of() -> None:
    events: list[Event] = []
    machine = StateMachine(FollowerState.WAL_GONE, "begin", events.append)
    machine.suffer(Happening.SET_BACK, "the archive is down")
    assert machine.state is FollowerState.WAL_GONE
    machine.suffer(Happening.REFUSED, "a stranger", Lasting.SOURCE)
    assert machine.state is FollowerState.FAILED and machine.lasting is Lasting.OPERATOR
    assert "a stranger" in machine.reason
    assert isinstance(events[-1], StateChanged) and events[-1].new == "FAILED"
