"""put, get, del and scan: what they print and how they end."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

from kvproto.v1 import kv_pb2
from support.fake_server import FakeServer


def test_put_and_get(kvctl: Any) -> None:
    assert kvctl("put", "k", "v").out == b"revision 2 (local)\n"
    got = kvctl("get", "k")
    assert (got.exit_code, got.out, got.err) == (0, b"v", "")


def test_forms_of_put(kvctl: Any) -> None:
    expected = {"key": "k", "revision": 2, "epoch": 1, "reached": "local"}
    assert kvctl("put", "k", "v", "-o", "json").json == expected
    assert kvctl("put", "k", "v", "-o", "raw").out == b"3\n"
    assert kvctl("put", "k", "v", "--durability", "memory", "-o", "json").json["reached"] == "memory"


def test_forms_of_get(kvctl: Any) -> None:
    kvctl("put", "k", "v")
    expected = {"key": "k", "value": "v", "create_revision": 2, "mod_revision": 2, "version": 1}
    assert kvctl("get", "k", "-o", "json").json == expected
    assert kvctl("get", "k", "-o", "table").out.decode().splitlines()[-1] == "value            v"
    assert kvctl("get", "k", "-o", "raw").out == b"v"


def test_values_are_bytes(kvctl: Any, stdin: Any) -> None:
    value = bytes(range(256)) + b"\n\n"
    stdin(value)
    assert kvctl("put", "photo", "-").exit_code == 0
    assert kvctl("get", "photo").out == value
    assert "value_b64" in kvctl("get", "photo", "-o", "json").json


def test_keys_may_be_any_bytes_of_a_command_line(kvctl: Any, fake: FakeServer) -> None:
    assert kvctl("put", os.fsdecode(b"\xff\x01"), "v").exit_code == 0
    assert fake.last("Put").key == b"\xff\x01"
    assert kvctl("get", os.fsdecode(b"\xff\x01"), "-o", "json").json["key_b64"] == "/wE="


def test_get_at_a_revision(kvctl: Any) -> None:
    kvctl("put", "k", "one")
    kvctl("put", "k", "two")
    assert kvctl("get", "k", "--revision", "2").out == b"one"
    future = kvctl("get", "k", "--revision", "99", "-o", "json")
    assert (future.exit_code, future.error["code"]) == (4, "FUTURE_REVISION")


def test_an_absent_key_ends_with_6(kvctl: Any) -> None:
    absent = kvctl("get", "nothing")
    assert (absent.exit_code, absent.out) == (6, b"")
    assert absent.err == "error: there is no key 'nothing' [KEY_NOT_FOUND]\n"
    assert kvctl("get", "nothing", "-o", "json").error["exit_code"] == 6


def test_a_failed_condition_ends_with_7(kvctl: Any) -> None:
    assert kvctl("put", "k", "v", "--if-absent").exit_code == 0
    again = kvctl("put", "k", "v", "--if-absent")
    assert again.exit_code == 7
    assert again.err.splitlines() == ["error: key b'k' is at 2, not 0 [CONDITION_FAILED]", "hint: read again"]
    told = kvctl("put", "k", "v", "--if-revision", "9", "-o", "json").error
    assert (told["code"], told["mod_revision"], told["exit_code"]) == ("CONDITION_FAILED", 2, 7)
    assert kvctl("put", "k", "v", "--if-revision", "2").exit_code == 0
    assert kvctl("del", "k", "--if-revision", "2").exit_code == 7
    assert kvctl("del", "k", "--if-revision", "3").exit_code == 0


def test_if_revision_zero_is_a_condition(kvctl: Any, fake: FakeServer) -> None:
    assert kvctl("put", "k", "v", "--if-revision", "0").exit_code == 0
    assert kvctl("put", "k", "v", "--if-revision", "0").exit_code == 7


def test_a_value_may_begin_with_a_dash(kvctl: Any) -> None:
    assert kvctl("put", "k", "--", "-5").exit_code == 0
    assert kvctl("get", "k").out == b"-5"


def test_del(kvctl: Any, fill: Any) -> None:
    fill({b"a": b"", b"p/1": b"", b"p/2": b"", b"r1": b"", b"r2": b"", b"z": b""})
    assert kvctl("del", "a").out == b"deleted 1 key\n"
    absent = kvctl("del", "a")
    assert (absent.exit_code, absent.out) == (0, b"deleted 0 keys\n")
    assert kvctl("del", "--prefix", "p/", "-o", "raw").out == b"2\n"
    told = kvctl("del", "--range", "r", "s", "-o", "json").json
    assert told == {"deleted": 2, "commits": 1, "revision": 10, "epoch": 1, "reached": "local"}
    assert [entry["key"] for entry in kvctl("scan", "-o", "json").json_lines] == ["z"]


@pytest.mark.parametrize(
    "arguments",
    [(), ("k", "--prefix", "p"), ("--prefix", "p", "--range", "a", "b"), ("--prefix", "p", "--if-revision", "3")],
)
def test_del_wants_one_target(kvctl: Any, fake: FakeServer, arguments: tuple[str, ...]) -> None:
    assert kvctl("del", *arguments).exit_code == 2
    assert fake.requests == []


@pytest.mark.parametrize(("answer", "left"), [("n\n", 2), ("\n", 2), ("y\n", 0)])
def test_del_asks_on_a_terminal(
    kvctl: Any, fill: Any, stdin: Any, monkeypatch: pytest.MonkeyPatch, answer: str, left: int
) -> None:
    fill({b"p/1": b"", b"p/2": b""})
    stdin(answer.encode())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    asked = kvctl("del", "--prefix", "p/")
    assert "Delete 2 keys with the prefix 'p/'?" in asked.err
    assert asked.exit_code == (1 if left else 0)
    assert kvctl("scan", "--count-only").out == b"%d\n" % left


def test_del_does_not_ask_with_yes(kvctl: Any, fill: Any, stdin: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fill({b"p/1": b""})
    stdin(b"")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    assert kvctl("del", "--prefix", "p/", "--yes").out == b"deleted 1 key\n"


@pytest.mark.parametrize("target", [("--prefix", "k"), ("--range", "k", "l")])
def test_a_large_range_is_deleted_in_parts(
    kvctl: Any, fake: FakeServer, fill: Any, monkeypatch: pytest.MonkeyPatch, target: tuple[str, ...]
) -> None:
    monkeypatch.setattr("kvctl.commands.deleting.PART_KEYS", 4)
    fake.store.max_range = 5
    fill({b"a": b"", **{b"k%02d" % number: b"" for number in range(10)}, b"z": b""})
    assert kvctl("del", *target).out == b"deleted 10 keys in 3 commits\n"
    assert kvctl("scan", "--keys-only", "-o", "raw").out == b"a\nz\n"


def test_a_deletion_in_parts_that_breaks_off_says_how_far_it_was(
    kvctl: Any, fake: FakeServer, fill: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kvctl.commands.deleting.PART_KEYS", 1)
    fake.store.max_range = 1
    fill({b"k1": b"", b"k2": b""})
    arrive = fake.arrive

    def second_fails(method: str, request: Any, context: Any) -> None:
        if method == "Write" and any(name == "Write" for name, _ in fake.requests):
            fake.refuse_next("Write", "DISK_FULL", "no space")
        arrive(method, request, context)

    monkeypatch.setattr(fake, "arrive", second_fails)
    told = kvctl("del", "--prefix", "k", "-o", "json")
    assert told.exit_code == 4
    assert (told.error["code"], told.error["deleted"]) == ("DISK_FULL", 1)


def test_scan_forms(kvctl: Any, fill: Any) -> None:
    fill({b"a": b"1", b"b1": b"2", b"b2": b"3"})
    first = {"key": "a", "value": "1", "create_revision": 2, "mod_revision": 2, "version": 1}
    assert kvctl("scan", "-o", "json").json_lines[0] == first
    assert "value" not in kvctl("scan", "-o", "json", "--keys-only").json_lines[0]
    assert kvctl("scan", "-o", "raw").out == b"a\t1\nb1\t2\nb2\t3\n"
    assert kvctl("scan", "b", "-o", "raw", "--keys-only").out == b"b1\nb2\n"
    assert kvctl("scan").out.decode().splitlines() == [
        "KEY  REVISION  VERSION  VALUE",
        "a    2         1        1",
        "b1   3         1        2",
        "b2   4         1        3",
    ]
    assert kvctl("scan", "b", "--count-only").out == b"2\n"
    assert kvctl("scan", "--count-only", "-o", "json").json == {"count": 3}


def test_scan_options(kvctl: Any, fill: Any) -> None:
    fill({b"a": b"1", b"b": b"2", b"c": b"3"})

    def keys(*arguments: str) -> bytes:
        found: bytes = kvctl("scan", "--keys-only", "-o", "raw", *arguments).out
        return found.replace(b"\n", b"")

    assert keys("--start", "b") == b"bc"
    assert keys("--start", "a", "--end", "c") == b"ab"
    assert keys("--reverse", "--limit", "2") == b"cb"
    assert keys("--revision", "3") == b"ab"
    assert kvctl("scan", "b", "--start", "a").exit_code == 2
    assert kvctl("scan", "--count-only", "--limit", "3").exit_code == 2
    assert kvctl("scan", "--limit", "-1").exit_code == 2


def test_tables_never_carry_control_bytes(kvctl: Any, fill: Any) -> None:
    fill({b"\x1b[2J\xff\xc2\x9b\\": b"a\nb\xe2\x80\xae\xc3\xa9"})
    row = kvctl("scan").out.decode().splitlines()[1]
    assert row.startswith(r"\x1b[2J\xff\xc2\x9b\\  2")
    assert row.endswith(r"a\x0ab\xe2\x80\xaeé")


def test_json_never_carries_control_characters(kvctl: Any, fill: Any) -> None:
    key = "\x1b[2J\x7f\x9b\u2028ä"
    fill({key.encode(): b""})
    told = kvctl("scan", "-o", "json")
    assert told.json["key"] == key
    assert all(mark.isprintable() for mark in told.out.decode().rstrip("\n"))


def test_json_is_text_where_it_can_be(kvctl: Any, fill: Any) -> None:
    fill({"schlüssel".encode(): b"\xff"})
    told = kvctl("scan", "-o", "json")
    assert told.json_lines[0]["key"] == "schlüssel"
    assert told.json_lines[0]["value_b64"] == "/w=="
    assert "schlüssel".encode() in told.out


def test_the_namespace_is_passed_on(kvctl: Any, fake: FakeServer) -> None:
    missing = kvctl("-n", "team", "put", "k", "v")
    assert (missing.exit_code, missing.err.splitlines()[1]) == (4, "hint: create it")
    assert kvctl("namespace", "create", "team").out == b"namespace team has the id 2 (revision 2)\n"
    assert kvctl("put", "k", "v", "-n", "team").exit_code == 0
    assert fake.last("Put").namespace == "team"
    assert kvctl("get", "k").exit_code == 6
    assert kvctl("namespace", "create", "team").exit_code == 4
    rows = kvctl("namespace", "list", "-o", "json").json_lines
    assert rows == [
        {"name": "", "id": 1, "create_revision": 1, "keys": 0, "size_bytes": 0},
        {"name": "team", "id": 2, "create_revision": 2, "keys": 1, "size_bytes": 2},
    ]
    assert kvctl("namespace", "list").out.decode().splitlines() == [
        "NAME       ID  CREATE REVISION  KEYS  SIZE",
        "(default)  1   1                0     0 B",
        "team       2   2                1     2 B",
    ]
    assert kvctl("namespace", "list", "-o", "raw").out == b"\t1\t1\t0\t0\nteam\t2\t2\t1\t2\n"


def test_status(kvctl: Any, fake: FakeServer, fill: Any) -> None:
    fill({b"a": b"1"})
    told = kvctl("status", "-o", "json").json
    assert (told["role"], told["epoch"], told["revision"], told["durable_revision"]) == ("primary", 1, 2, 2)
    assert told["cluster_id"] == bytes(range(16)).hex()
    assert told["epoch_nonce"] == "8000000000000005"
    assert told["warnings"] == ["the disk is 91 % full"]
    assert (told["flushed_revision"], told["table_files"], told["holds"]) == (1, 3, [{"name": "flush", "revision": 2}])
    lines = kvctl("status").out.decode().splitlines()
    assert lines[0] == "node                      fake (primary)"
    assert "up                        1m 1s" in lines
    assert "flushed revision          1" in lines
    assert "tables                    6.7 MiB in 3 files (2 not merged yet, 3.9 KiB to merge; 5 flushes)" in lines
    assert "log is kept               from revision 2 on for flush" in lines
    assert lines[-1].endswith("the disk is 91 % full")
    raw = kvctl("status", "-o", "raw").out.decode().splitlines()
    assert raw[:2] == [f"endpoint\t{fake.endpoint}", "role\tprimary"]
    assert raw[-2:] == ["hold\tflush 2", "warning\tthe disk is 91 % full"]


def test_sync(kvctl: Any, fake: FakeServer) -> None:
    kvctl("put", "k", "v", "--durability", "memory")
    assert kvctl("sync").out == b"revision 2 (local)\n"
    assert kvctl("sync", "2", "--level", "local", "-o", "json").json == {"revision": 2, "epoch": 1, "reached": "local"}
    assert fake.last("Sync").level == kv_pb2.DURABILITY_LOCAL
    assert kvctl("sync", "99").exit_code == 4
