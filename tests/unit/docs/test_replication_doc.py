"""docs/replication.md says of roles, states, the register and the steps of a promotion what the code does."""

from __future__ import annotations

import re

import pytest

from kvserver.base.errors import Code
from kvserver.replication import follower, promotion, register_records, shipment, slots
from kvserver.replication.states import TRANSITIONS, FollowerState
from kvserver.server import roles
from unit.docs.documents import ROOT, in_code, section

DOCUMENT = "docs/replication.md"


def test_the_states_and_what_comes_next_are_those_of_the_table() -> None:
    rows = section(DOCUMENT, "States of a follower").table()
    documented = {in_code(row["state"])[0]: set(in_code(row["what comes next"])) for row in rows}
    following: dict[str, set[str]] = {state.value: set() for state in FollowerState}
    for (state, _), to in TRANSITIONS.items():
        if to is not state:
            following[state.value].add(to.value)
    assert documented == following
    assert list(documented) == [state.value for state in FollowerState]


def _columns(text: str, names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Return the rows of a table that is set in columns; a line that begins with blanks goes on with the row before it."""
    lines = text.splitlines()
    number = next(number for number, line in enumerate(lines) if all(name in line for name in names))
    starts = [lines[number].index(name) for name in names]
    rows: list[list[str]] = []
    for line in lines[number + 1 :]:
        if not line.strip():
            break
        cells = [line[begin:end].strip() for begin, end in zip(starts, [*starts[1:], None], strict=True)]
        if cells[0]:
            rows.append(cells)
        else:
            rows[-1] = [f"{old} {new}".strip() for old, new in zip(rows[-1], cells, strict=True)]
    return [tuple(row) for row in rows]


def test_the_roles_are_decided_as_the_code_says() -> None:
    names = ("the register holds", "this node", "begins as")
    documented = [tuple(row[name] for name in names) for row in section(DOCUMENT, "Roles").table()]
    assert documented == _columns(roles.__doc__ or "", names)


def test_the_objects_of_the_register_are_those_of_the_code() -> None:
    rows = section(DOCUMENT, "The register").table()
    named = {in_code(row["object"])[0]: row["changed"] for row in rows}
    made = {
        register_records.REGISTER: "never",
        register_records.claim_name(0xEEEEEEEE).replace("e" * 8, "E" * 8): "never",
        register_records.branch_name(0xEEEEEEEE).replace("e" * 8, "E" * 8): "never",
        register_records.begun_name(0xEEEEEEEE).replace("e" * 8, "E" * 8): "never",
        register_records.node_name("NAME"): "replaced",
        register_records.note_name(1).replace("00000001", "N" * 8): "never",
    }
    assert named == made


def test_the_steps_of_a_promotion_are_those_of_the_code() -> None:
    steps = [in_code(row["step"])[0] for row in section(DOCUMENT, "Promotion").table()]
    told = re.findall(r"^    (\S+) +\S", promotion.__doc__ or "", re.MULTILINE)
    assert steps == told


def test_the_figures_are_those_of_the_code() -> None:
    text = " ".join((ROOT / DOCUMENT).read_text().split())
    assert f"up to {shipment.CHUNK_BYTES >> 10} KiB" in text
    assert f"at most {shipment.MAX_IN_FLIGHT_BYTES >> 20} MiB beyond" in text
    assert f"every {shipment.HEARTBEAT_S * 1000:.0f} ms" in text
    assert f"({follower.SHIP_UPTO_REVISION:,} revisions)" in text
    assert f"time ({follower.RETRY_FAILED_S:.0f} s)" in text
    assert f"At most {slots.MAX_SLOTS}" in text


@pytest.mark.parametrize("title", ["Bad input", "What to do when", "Policies", "Positions, and where histories part"])
def test_the_codes_named_exist(title: str) -> None:
    text = "\n".join(section(DOCUMENT, title).lines)
    others = {state.value for state in FollowerState} | {"TEXT", "NAME", "NODE", "FOLLOWER", "REGISTER"}
    named = set(re.findall(r"`([A-Z_]+)`", text)) - others
    assert named and named <= set(Code.__members__)
