"""Looking at the past and giving it up: history, get and scan at a revision, compact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.fake_server import FakeServer

Answer = Callable[[str], None]


@pytest.fixture
def changed(kvctl: Any) -> None:
    """Puts a key at the revisions 2 and 3, deletes it at 4 and puts it again at 5."""
    for arguments in (("put", "k", "one"), ("put", "k", "two"), ("del", "k"), ("put", "k", "a\x1bb")):
        assert kvctl(*arguments).exit_code == 0


@pytest.mark.usefixtures("changed")
def test_history_forms(kvctl: Any) -> None:
    assert kvctl("history", "k").out.decode().splitlines() == [
        "REVISION  CHANGE  VERSION  VALUE",
        r"5         put     1        a\x1bb",
        "4         delete",
        "3         put     2        two",
        "2         put     1        one",
    ]
    assert kvctl("history", "k", "-o", "json").json_lines[1:3] == [
        {"revision": 4, "op": "delete", "key": "k"},
        {"revision": 3, "op": "put", "key": "k", "value": "two", "create_revision": 2, "version": 2},
    ]
    assert kvctl("history", "k", "-o", "raw").out == b"5\tput\ta\x1bb\n4\tdelete\t\n3\tput\ttwo\n2\tput\tone\n"


@pytest.mark.usefixtures("changed")
def test_history_options(kvctl: Any) -> None:
    assert kvctl("history", "k", "--limit", "1", "--before", "4", "-o", "raw").out == b"3\tput\ttwo\n"
    assert kvctl("history", "k", "--no-values", "-o", "raw").out == b"5\tput\n4\tdelete\n3\tput\n2\tput\n"
    assert kvctl("history", "k", "--no-values", "--limit", "1").out.decode().splitlines() == [
        "REVISION  CHANGE  VERSION",
        "5         put     1",
    ]
    assert "value" not in kvctl("history", "k", "--no-values", "-o", "json").json_lines[0]
    for wrong in (("--limit", "0"), ("--before", "0")):
        assert kvctl("history", "k", *wrong).exit_code == 2


@pytest.mark.usefixtures("changed")
def test_a_key_of_which_nothing_is_known_ends_with_6(kvctl: Any) -> None:
    absent = kvctl("history", "other", "-o", "json")
    assert (absent.exit_code, absent.out, absent.error["code"]) == (6, b"", "KEY_NOT_FOUND")
    assert "before revision 2" in kvctl("history", "k", "--before", "2").err


@pytest.mark.usefixtures("changed")
def test_values_of_the_past(kvctl: Any) -> None:
    assert kvctl("get", "k", "--revision", "2").out == b"one"
    assert kvctl("get", "k", "--revision", "4").exit_code == 6
    assert kvctl("scan", "--revision", "3", "-o", "raw").out == b"k\ttwo\n"


@pytest.mark.usefixtures("changed")
@pytest.mark.parametrize("command", [("get", "k"), ("scan",), ("scan", "--count-only"), ("export",)])
def test_what_was_given_up_is_refused_with_the_way_out(kvctl: Any, command: tuple[str, ...]) -> None:
    assert kvctl("compact", "4", "--yes").out == b"revisions from 4 on can be read\n"
    refused = kvctl(*command, "--revision", "3")
    assert refused.exit_code == 4
    assert refused.err.splitlines()[-1] == "hint: read at revision 4 or a later one"
    told = kvctl(*command, "--revision", "3", "-o", "json").error
    assert (told["code"], told["oldest_readable_revision"]) == ("COMPACTED", 4)


def test_the_servers_own_hint_comes_first(kvctl: Any, fake: FakeServer) -> None:
    fake.refuse_next("Get", "COMPACTED", "too old", "do that", oldest_readable_revision="9")
    told = kvctl("get", "k", "--revision", "3", "-o", "json").error
    assert (told["hint"], told["oldest_readable_revision"]) == ("do that", 9)
    fake.refuse_next("Get", "COMPACTED", "too old")
    told = kvctl("get", "k", "--revision", "3", "-o", "json").error
    assert "kvctl status" in told["hint"]
    assert "oldest_readable_revision" not in told


@pytest.mark.usefixtures("changed")
def test_compact_forms(kvctl: Any, fake: FakeServer) -> None:
    assert kvctl("compact", "3", "--yes", "-o", "json").json == {"oldest_readable_revision": 3, "revision": 6, "epoch": 1}
    assert kvctl("compact", "4", "--yes", "-o", "raw").out == b"4\n"
    assert kvctl("compact", "-y").exit_code == 0
    assert fake.last("Compact").revision == 7, "the newest one, by its number"


@pytest.mark.usefixtures("changed")
@pytest.mark.parametrize(("keep", "oldest"), [("1", 5), ("3", 3), ("5", 1), ("99", 1)])
def test_compact_keeps_so_many(kvctl: Any, keep: str, oldest: int) -> None:
    assert kvctl("compact", "--keep", keep, "--yes", "-o", "raw").out == b"%d\n" % oldest


@pytest.mark.usefixtures("changed")
@pytest.mark.parametrize(("typed", "oldest"), [("y\n", 4), ("n\n", 1), ("\n", 1), ("", 1)])
def test_compact_asks(kvctl: Any, on_a_terminal: Answer, fake: FakeServer, typed: str, oldest: int) -> None:
    on_a_terminal(typed)
    asked = kvctl("compact", "4")
    assert "Give up the history of revisions 1 to 3, for good?" in asked.err
    assert fake.store.oldest_readable == oldest
    assert (asked.exit_code == 0) is (oldest == 4)


@pytest.mark.usefixtures("changed")
def test_compact_without_a_terminal_wants_to_be_told(kvctl: Any, fake: FakeServer) -> None:
    refused = kvctl("compact", "4", "-o", "json")
    assert (refused.exit_code, refused.error["code"]) == (1, "NOT_CONFIRMED")
    assert "--yes" in refused.error["hint"]
    assert fake.store.oldest_readable == 1


@pytest.mark.usefixtures("changed")
def test_compact_does_not_ask_where_nothing_is_given_up(kvctl: Any) -> None:
    assert kvctl("compact", "1", "-o", "raw").out == b"1\n"
    beyond = kvctl("compact", "99", "-o", "json")
    assert (beyond.exit_code, beyond.error["code"]) == (4, "FUTURE_REVISION")


def test_compact_wants_one_choice(kvctl: Any, fake: FakeServer) -> None:
    for wrong in (("3", "--keep", "2"), ("0",), ("--keep", "0"), ("x",)):
        assert kvctl("compact", *wrong).exit_code == 2
    assert fake.requests == []
