"""docs/durability.md has a row for every case of recovery and names every failpoint at the step where it stands."""

from __future__ import annotations

from kvserver.base import failpoints
from kvserver.wal.recovery import DECISIONS, RECEIVED_DECISIONS, Case, Decision
from unit.docs.documents import in_code, section

DOCUMENT = "docs/durability.md"


def test_the_recovery_table_is_that_of_the_code() -> None:
    rows = section(DOCUMENT, "Recovery").table()
    documented = {in_code(row["case"])[0]: in_code(row["decision"])[0] for row in rows}
    assert documented == {case.name: decision.name for case, decision in DECISIONS.items()}
    assert [in_code(row["case"])[0] for row in rows] == [case.name for case in Case]
    received = {in_code(row["case"])[0]: in_code(row["received"])[0] for row in rows}
    assert received == {case.name: decision.name for case, decision in RECEIVED_DECISIONS.items()}


def test_every_decision_is_explained() -> None:
    explained = {line[3:].partition("`")[0] for line in section(DOCUMENT, "Recovery").lines if line.startswith("- `")}
    assert explained == {decision.name for decision in Decision}


def test_every_failpoint_stands_at_a_step() -> None:
    named = {name for line in section(DOCUMENT, "Step by step").lines for name in in_code(line)}
    points = {name for name in named if name.startswith(("wal.", "flush.", "engine."))}
    assert points == set(failpoints.NAMES)


def test_every_failpoint_of_the_archive_stands_at_a_step() -> None:
    rows = [row for table in section(DOCUMENT, "Archive, backup, restore").tables() for row in table]
    assert all("step" in row and any("crash here leaves" in name for name in row) for row in rows)
    named = {name for line in section(DOCUMENT, "Archive, backup, restore").lines for name in in_code(line)}
    points = {name for name in named if name.startswith(("archive.", "backup.", "restore.", "retention.", "repair."))}
    assert points == set(failpoints.ARCHIVE_NAMES)


def test_the_failpoints_stand_in_the_order_in_which_they_are_passed() -> None:
    text = "\n".join(section(DOCUMENT, "Archive, backup, restore").lines)
    places = [text.index(f"`{name}`") for name in failpoints.ARCHIVE_NAMES]
    assert places == sorted(places)


def test_every_failpoint_of_several_nodes_stands_at_a_step() -> None:
    rows = [row for table in section(DOCUMENT, "Several nodes").tables() for row in table]
    assert all("step" in row and "a crash here leaves" in row for row in rows)
    named = {name for row in rows for name in in_code(row["step"])}
    points = {
        name for name in named if name.startswith(("bootstrap.", "base.", "rewind.", "swap.", "vow.", "promotion.", "register."))
    }
    assert points == set(failpoints.REPLICATION_NAMES)
