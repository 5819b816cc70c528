"""kvctl cluster, promote, repl and reinit: what is shown, what is asked before, and which exit code says what."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from support.fake_server import FakeServer
from unit.kvctl.golden import CLUSTERED, differs

PROMISED = (*("name", "address", "role", "state", "epoch", "durable_revision", "applied_revision", "lag_ms", "lag_revisions"),)
"""What others rely on, of each node."""


def words(told: Any) -> list[list[str]]:
    return [line.split() for line in told.out.decode().splitlines()]


def test_the_commands_print_what_the_golden_files_hold(kvctl: Any) -> None:
    found = []
    for step in CLUSTERED:
        told = kvctl(*step.arguments.split(), "-o", "json")
        assert told.exit_code == step.exit_code, (step, told.err)
        found.append(differs(step, told.exit_code, told.out, told.err))
    assert not any(found), "\n".join(found)


# -- cluster status ---------------------------------------------------------------------------------------------------


def test_every_node_has_a_line_and_a_row(kvctl: Any, fake: FakeServer) -> None:
    told = kvctl("cluster", "status", "-o", "json")
    lines = told.json_lines
    assert [tuple(line)[: len(PROMISED)] for line in lines] == [PROMISED] * 3
    first, second, third = lines
    assert [first[name] for name in PROMISED] == ["n1", "db1:7400", "primary", "PRIMARY", 2, 93, 93, 0, 0]
    assert [second[name] for name in PROMISED] == ["n2", fake.endpoint, "follower", "STREAMING", 2, 90, 89, 12, 3]
    assert (second["is_self"], second["follows"], second["lag_bytes"]) == (True, "db1:7400", 1234)
    assert [third[name] for name in PROMISED] == ["n3", "db3:7400", "unknown", "UNREACHABLE", *[None] * 5]
    assert (third["reachable"], third["error"]) == (False, "it did not answer within 2 s")
    table = words(kvctl("cluster", "status"))
    assert table[0] == ["NAME", "ADDRESS", "ROLE", "STATE", "EPOCH", "DURABLE", "APPLIED", "BEHIND", "LAG", "MEMBER"]
    assert table[1] == ["n1", "db1:7400", "primary", "PRIMARY", "2", "93", "93", "-", "-", "yes"]
    assert table[2] == ["n2*", fake.endpoint, "follower", "STREAMING", "2", "90", "89", "3", "12", "ms", "yes"]
    assert table[3] == ["n3", "db3:7400", "unknown", "UNREACHABLE", *"-----", "yes"]
    raw = kvctl("cluster", "status", "-o", "raw").out.decode().splitlines()
    assert raw[1].split("\t") == ["n2", fake.endpoint, "follower", "STREAMING", "2", "90", "89", "12", "3"]


def test_what_needs_attention_is_told_and_is_no_error_unless_asked_for(kvctl: Any, fake: FakeServer) -> None:
    told = kvctl("cluster", "status", "-o", "json")
    assert (told.exit_code, told.error["warning"]) == (0, "CLUSTER")
    assert "n3 at db3:7400 cannot be asked" in told.error["message"]
    assert "warning: n3 at db3:7400 cannot be asked: it did not answer within 2 s." in kvctl("cluster", "status").out.decode()
    assert kvctl("cluster", "status", "--check").exit_code == 5
    fake.cluster.away, fake.cluster.warnings = set(), []
    assert kvctl("cluster", "status", "--check").exit_code == 0
    fake.cluster.primary = ""
    assert kvctl("cluster", "status", "--check").exit_code == 5, "nobody is primary"
    assert kvctl("cluster", "status", "--check", "-w").exit_code == 2


def test_the_reason_for_a_state_and_the_policy_stand_below(kvctl: Any, fake: FakeServer) -> None:
    shown = kvctl("cluster", "status").out.decode()
    assert "it has what there is" not in shown, "of one that streams nobody asks why"
    assert "\npolicy    2 of n1, n2, n3\n" in shown
    assert "\nregister  file:///mnt/register\n" in shown
    fake.cluster.policy.degraded = True
    assert "DEGRADED" in kvctl("cluster", "status").out.decode()
    fake.cluster.policy.Clear()
    assert "asynchronous" in kvctl("cluster", "status").out.decode()


def test_a_node_that_is_away_is_shown_with_its_reason_also_without_warnings(kvctl: Any, fake: FakeServer) -> None:
    fake.cluster.warnings = []
    assert "n3: it did not answer within 2 s" in kvctl("cluster", "status").out.decode()


def test_nothing_that_a_node_says_reaches_the_terminal_raw(kvctl: Any, fake: FakeServer) -> None:
    fake.cluster.addresses = {"n\x1b[2J": ""}
    fake.cluster.warnings = ["\x1b]0;x\x07"]
    for form in ("table", "json", "raw"):
        told = kvctl("cluster", "status", "-o", form)
        assert b"\x1b" not in told.out
        assert "\x1b" not in told.err


def test_of_several_endpoints_the_first_that_answers_is_asked(offline: Any, fake: FakeServer, absent_endpoint: str) -> None:
    told = offline("-E", f"{absent_endpoint},{fake.endpoint}", "cluster", "status", "-o", "raw")
    assert (told.exit_code, len(told.out.splitlines())) == (0, 3)
    gone = offline("-E", absent_endpoint, "cluster", "status", "-o", "json")
    assert (gone.exit_code, gone.out, gone.error["code"]) == (3, b"", "UNAVAILABLE")
    assert offline("-E", "nowhere", "cluster", "status").exit_code == 2


def test_watching_goes_on_until_it_is_interrupted(fake: FakeServer) -> None:
    command = [sys.executable, "-m", "kvctl", "-E", fake.endpoint, "cluster", "status", "-w", "--interval", "1ms", "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        assert json.loads(process.stdout.readline())["name"] == "n1"
        port = int(fake.endpoint.rpartition(":")[2])
        fake.stop()  # no reason to end
        try:
            while json.loads(process.stderr.readline()).get("code") != "UNAVAILABLE":
                assert process.poll() is None
            fake.start(port)
            while not process.stdout.readline():
                assert process.poll() is None
            os.kill(process.pid, signal.SIGINT)
            _, err = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 130
    assert json.loads(err.splitlines()[-1])["code"] == "INTERRUPTED"


# -- cluster history --------------------------------------------------------------------------------------------------


def test_epochs_and_notes_stand_in_the_order_in_which_they_came(kvctl: Any) -> None:
    lines = kvctl("cluster", "history", "-o", "json").json_lines
    assert [(line["event"], line["epoch"], line["node"]) for line in lines] == [
        ("epoch", 1, "n1"),
        ("degraded", 1, "n1"),
        ("returned", 1, "n1"),
        ("epoch", 2, "n2"),
        ("epoch", 3, "n3"),
    ]
    assert (lines[3]["parent_epoch"], lines[3]["began_revision"], lines[3]["begun"]) == (1, 40, True)
    assert (lines[4]["parent_epoch"], lines[4]["began_revision"], lines[4]["begun"]) == (None, None, False)
    shown = kvctl("cluster", "history").out.decode()
    assert "begins with the store" in shown
    assert "begins behind revision 40 of epoch 1" in shown
    assert "claimed, and not begun" in shown
    assert kvctl("cluster", "history", "-o", "raw").out.decode().splitlines()[1].split("\t")[0] == "degraded"


# -- cluster policy ---------------------------------------------------------------------------------------------------


def test_a_stronger_policy_is_set_without_a_word(kvctl: Any, fake: FakeServer) -> None:
    told = kvctl("cluster", "policy", "set", "--members", "n1, n2,n3", "--write-quorum", "3", "-o", "json")
    assert (told.exit_code, told.json["revision"], told.json["members"]) == (0, 94, ["n1", "n2", "n3"])
    sent = fake.last("SetPolicy").policy
    assert (sent.write_quorum, list(sent.members)) == (3, ["n1", "n2", "n3"])


def test_a_weaker_policy_is_asked_about(kvctl: Any, fake: FakeServer, on_a_terminal: Any) -> None:
    refused = kvctl("cluster", "policy", "set", "--async")
    assert (refused.exit_code, "NOT_CONFIRMED" in refused.err) == (1, True)
    on_a_terminal("n\n")
    assert kvctl("cluster", "policy", "set", "--async").exit_code == 1
    assert not [name for name, _ in fake.requests if name == "SetPolicy"]
    on_a_terminal("y\n")
    assert kvctl("cluster", "policy", "set", "--async").exit_code == 0
    assert fake.cluster.policy.write_quorum == 0
    assert kvctl("cluster", "policy", "set", "--members", "n1", "--write-quorum", "1", "--yes").exit_code == 0


def test_a_dry_run_changes_nothing(kvctl: Any, fake: FakeServer) -> None:
    told = kvctl("cluster", "policy", "set", "--async", "--dry-run", "-o", "json").json
    assert (told["dry_run"], told["write_quorum"], told["instead_of"]["write_quorum"]) == (True, 0, 2)
    assert kvctl("cluster", "policy", "degrade", "--dry-run").exit_code == 0
    assert kvctl("repl", "drop", "n3", "--dry-run").exit_code == 0
    assert kvctl("reinit", "--dry-run").exit_code == 0
    assert kvctl("promote", "--dry-run").exit_code == 0
    assert not {"SetPolicy", "Degrade", "DropSlot", "Reinit"} & {name for name, _ in fake.requests}
    assert fake.last("Promote").dry_run


@pytest.mark.parametrize(
    "line",
    [
        "cluster policy set",
        "cluster policy set --members n1",
        "cluster policy set --write-quorum 1",
        "cluster policy set --members n1,n2 --write-quorum 3",
        "cluster policy set --members n1,n1 --write-quorum 1",
        "cluster policy set --members n1,,n2 --write-quorum 1",
        "cluster policy set --members n1 --write-quorum 0",
        "cluster policy set --async --members n1",
        "cluster policy set --async --write-quorum 1",
        "cluster status --interval 0s",
        "cluster stats",
        "repl drop",
        "promote n2",
        "-E db1:7400,db2:7400 promote",
        "-E db1:7400,db2:7400 reinit",
        "register move --to file:///mnt/register",
        "register move --data-dir .",
    ],
)
def test_wrong_usage_sends_nothing(kvctl: Any, fake: FakeServer, line: str) -> None:
    wrong = kvctl(*line.split(), "-o", "json")
    assert (wrong.exit_code, wrong.out, fake.requests) == (2, b"", [])
    assert wrong.error["code"] == "USAGE"


def test_the_quorum_is_given_up_only_if_somebody_says_so(kvctl: Any, fake: FakeServer) -> None:
    assert kvctl("cluster", "policy", "degrade").exit_code == 1
    assert not fake.cluster.policy.degraded
    assert kvctl("cluster", "policy", "degrade", "--reason", "no power", "--yes").exit_code == 0
    assert (fake.cluster.policy.degraded, fake.last("Degrade").reason) == (True, "no power")
    assert kvctl("cluster", "policy", "return").exit_code == 0
    assert not fake.cluster.policy.degraded


def test_a_refusal_is_told_in_the_servers_words(kvctl: Any, fake: FakeServer) -> None:
    fake.refuse_next("SetPolicy", "POLICY_UNMET", "n2 and n3 do not answer", "see: kvctl cluster status")
    told = kvctl("cluster", "policy", "set", "--members", "n1,n2,n3", "--write-quorum", "3", "-o", "json")
    assert (told.exit_code, told.error["code"], told.error["hint"]) == (4, "POLICY_UNMET", "see: kvctl cluster status")


# -- promote ----------------------------------------------------------------------------------------------------------


def test_each_step_is_told_and_the_range_that_may_be_lost_at_the_end(kvctl: Any, fake: FakeServer) -> None:
    told = kvctl("promote")
    assert told.exit_code == 0
    lines = told.out.decode().splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["claim", "promises", "serve"]
    assert lines[3] == "epoch 3 begins behind revision 90"
    assert lines[4].startswith("revisions 91 to 93 may be lost")
    assert fake.cluster.primary == "n2"
    fake.cluster.lost = (91, 0)
    unheard = kvctl("promote").out.decode().splitlines()[-1]
    assert unheard == "what was acknowledged behind revision 90 may be lost; nobody has heard of any such write"
    fake.cluster.lost = (0, 0)
    assert kvctl("promote").out.decode().splitlines()[-1].startswith("nothing that was acknowledged is lost")
    assert kvctl("promote", "-o", "raw").out == b"3\n"
    last = kvctl("promote", "-o", "json").json_lines[-1]
    assert (last["done"], last["epoch"], last["revision"], last["lost_from"], last["lost_upto"]) == (True, 3, 90, 0, 0)


def test_without_a_terminal_only_a_loss_must_be_meant(kvctl: Any, fake: FakeServer) -> None:
    refused = kvctl("promote", "--accept-loss")
    assert (refused.exit_code, "NOT_CONFIRMED" in refused.err) == (1, True)
    assert not [name for name, _ in fake.requests if name == "Promote"]
    assert kvctl("promote", "--accept-loss", "--yes").exit_code == 0
    assert fake.last("Promote").accept_loss
    assert kvctl("promote").exit_code == 0
    assert not fake.last("Promote").accept_loss


def test_on_a_terminal_it_is_asked_with_names(kvctl: Any, fake: FakeServer, on_a_terminal: Any) -> None:
    on_a_terminal("n\n")
    refused = kvctl("promote")
    assert refused.exit_code == 1
    assert "Make n2 the primary instead of n1, which answers?" in refused.err
    fake.cluster.away = {"n1"}
    on_a_terminal("y\n")
    agreed = kvctl("promote")
    assert "Make n2 the primary? No other one can be reached." in agreed.err
    assert agreed.exit_code == 0
    on_a_terminal("n\n")
    assert "is the primary already" in kvctl("promote").err


def test_a_refused_promotion_is_an_error(kvctl: Any, fake: FakeServer) -> None:
    fake.refuse_next("Promote", "PROMOTION_REFUSED", "n3 has more", "promote n3 instead")
    told = kvctl("promote", "-o", "json")
    assert (told.exit_code, told.out, told.error["code"]) == (4, b"", "PROMOTION_REFUSED")


def test_a_promotion_without_an_end_is_no_success(kvctl: Any, fake: FakeServer) -> None:
    fake.cluster.promotion_is_cut = True
    cut = kvctl("promote", "-o", "json")
    assert (cut.exit_code, len(cut.json_lines), cut.error["code"]) == (4, 2, "UNEXPECTED_STATUS")
    fake.cluster.promotion_breaks = True
    broken = kvctl("promote", "-o", "json")
    assert (broken.exit_code, len(broken.json_lines)) == (3, 1)
    assert broken.error["hint"] == "the node may still become primary; see: kvctl cluster status"


def test_a_step_that_does_not_come_is_waited_for_so_long(kvctl: Any, fake: FakeServer) -> None:
    fake.hold("Promote")
    late = kvctl("--timeout", "200ms", "promote", "-o", "json")
    assert (late.exit_code, len(late.json_lines), late.error["code"]) == (3, 2, "DEADLINE")
    assert "may still become primary" in late.error["hint"]


# -- repl and reinit --------------------------------------------------------------------------------------------------


def test_slots(kvctl: Any, fake: FakeServer) -> None:
    row = words(kvctl("repl", "slots"))[1]
    assert row[:5] == ["n3", "db3:7400", "away", "80", "79"]
    told = kvctl("repl", "slots", "-o", "json").json
    assert (told["name"], told["connected"], told["hold_revision"], told["held_bytes"]) == ("n3", False, 81, 9_000_000)
    assert kvctl("repl", "slots", "-o", "raw").out.decode().split("\t")[0] == "n3"
    assert kvctl("repl", "drop", "n3").exit_code == 1
    assert "n3" in fake.cluster.slots
    assert kvctl("repl", "drop", "n3", "--yes", "-o", "json").json["dropped"] == "n3"
    absent = kvctl("repl", "drop", "n3", "--yes", "-o", "json")
    assert (absent.exit_code, absent.error["code"]) == (6, "NO_SUCH_SLOT")
    assert kvctl("repl", "slots").out == b"the node ships its log to nobody\n"


def test_reinit_is_for_the_node_named(kvctl: Any, fake: FakeServer) -> None:
    assert kvctl("reinit").exit_code == 1
    assert fake.cluster.reinits == 0
    assert kvctl("reinit", "--yes", "-o", "json").json["reinit"] == "n2"
    assert kvctl("reinit", "n2", "--yes").exit_code == 0
    assert fake.cluster.reinits == 2
    assert kvctl("reinit", "n9", "--yes", "-o", "json").error["code"] == "NO_SUCH_NODE"
    assert kvctl("reinit", "n1", "--yes", "-o", "json").error["code"] == "IS_PRIMARY"
    assert kvctl("reinit", "n3", "--yes", "-o", "json").error["code"] == "UNAVAILABLE"


def test_reinit_goes_to_another_node_by_its_name(offline: Any, fake: FakeServer) -> None:
    with FakeServer() as other:
        fake.cluster.away = set()
        fake.cluster.addresses["n3"] = other.endpoint
        assert offline("-E", fake.endpoint, "reinit", "n3", "--yes").exit_code == 0
        assert (fake.cluster.reinits, other.cluster.reinits) == (0, 1)
