"""``--hex``: digits in, digits out, of every command that takes or prints keys; and where values come from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.fake_server import FakeServer

KEY = b"\x00\xff\n"
VALUE = b"\xfe\x00"


@pytest.fixture
def changed(fake: FakeServer, kvctl: Any) -> None:
    """Puts one key of bytes that no terminal should see, and then again."""
    for digits in ("00", "fe00"):
        assert kvctl("put", "--hex", "00ff0a", digits).exit_code == 0
    assert (fake.last("Put").key, fake.last("Put").value) == (KEY, VALUE)


@pytest.mark.usefixtures("changed")
def test_output_is_digits(kvctl: Any) -> None:
    assert kvctl("get", "00FF0a", "--hex").out == b"fe00\n"
    assert kvctl("get", "00ff0a", "--hex", "-o", "json").json["value_hex"] == "fe00"
    assert b"value            fe00" in kvctl("get", "00ff0a", "--hex", "-o", "table").out
    assert kvctl("get", "00", "--prefix", "--hex").out == b"00ff0a\tfe00\n"
    assert kvctl("scan", "--hex", "-o", "raw").out == b"00ff0a\tfe00\n"
    assert kvctl("scan", "--hex", "-o", "raw", "--keys-only").out == b"00ff0a\n"
    assert kvctl("scan", "--hex").out.splitlines()[1].split() == [b"00ff0a", b"3", b"2", b"fe00"]
    row = {"key_hex": "00ff0a", "value_hex": "fe00", "create_revision": 2, "mod_revision": 3, "version": 2}
    assert kvctl("--hex", "scan", "-o", "json").json == row
    assert kvctl("history", "00ff0a", "--hex", "-o", "raw").out == b"3\tput\tfe00\n2\tput\t00\n"
    assert kvctl("history", "00ff0a", "--hex", "-o", "json").json_lines[0]["key_hex"] == "00ff0a"
    assert kvctl("history", "00ff0a", "--hex").out.splitlines()[1].split() == [b"3", b"put", b"2", b"fe00"]


@pytest.mark.usefixtures("changed")
def test_arguments_are_digits(kvctl: Any, fake: FakeServer) -> None:
    assert kvctl("scan", "00ff", "--hex", "--count-only").out == b"1\n"
    assert kvctl("scan", "--start", "00", "--end", "01", "--hex", "--count-only").out == b"1\n"
    assert kvctl("del", "--prefix", "01", "--hex", "--dry-run", "-o", "raw").out == b"0\n"
    assert kvctl("del", "--range", "00", "01", "--hex", "--dry-run").out.startswith(b"would delete 1 key from '00' to '01'")
    assert kvctl("export", "--prefix", "00ff", "--hex").out == b'{"key_hex": "00ff0a", "value_hex": "fe00"}\n'
    assert kvctl("del", "00ff0a", "--hex").out == b"deleted 1 key\n"
    absent = kvctl("get", "00ff0a", "--hex")
    assert (absent.exit_code, absent.err) == (6, "error: there is no key '00ff0a' [KEY_NOT_FOUND]\n")


def test_values_from_files_and_standard_input_are_taken_as_they_are(
    kvctl: Any, fake: FakeServer, stdin: Callable[[bytes], None], tmp_path: Path
) -> None:
    value = bytes(range(256)) * 3 + b"\n"
    path = tmp_path / "value"
    path.write_bytes(value)
    stdin(value)
    for arguments in (("k", "--value-file", str(path)), ("k", "-"), ("--hex", "6b", "--value-file", str(path))):
        assert kvctl("put", *arguments).exit_code == 0
        assert (fake.last("Put").key, fake.last("Put").value) == (b"k", value)
    stdin(value)
    assert kvctl("put", "k", "--value-file", "-").exit_code == 0
    path.write_bytes(b"")
    assert kvctl("put", "empty", "--value-file", str(path)).exit_code == 0
    assert fake.last("Put").value == b""


def test_a_value_beyond_the_limit_is_not_sent(
    kvctl: Any, fake: FakeServer, stdin: Callable[[bytes], None], tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(b"x" * (1024 * 1024 + 1))
    stdin(b"x" * (1024 * 1024 + 1))
    for arguments in (("k", "-"), ("k", "--value-file", str(tmp_path / "large"))):
        told = kvctl("put", *arguments, "-o", "json")
        assert (told.exit_code, told.error["code"]) == (4, "VALUE_TOO_LARGE")
        assert told.error["message"].endswith("nothing was written")
    told = kvctl("put", "k" * 8193, "v", "-o", "json")
    assert (told.exit_code, told.error["code"]) == (4, "KEY_TOO_LARGE")
    assert fake.requests == []


def test_values_that_cannot_be_read(kvctl: Any, fake: FakeServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    absent = kvctl("put", "k", "--value-file", str(tmp_path / "absent"))
    assert (absent.exit_code, absent.err) == (1, f"error: {tmp_path}/absent: No such file or directory [FILE_ERROR]\n")
    monkeypatch.setattr("sys.stdin", None)
    closed = kvctl("put", "k", "-")
    assert (closed.exit_code, closed.err) == (1, "error: standard input is closed [FILE_ERROR]\n")
    assert fake.requests == []


def test_get_of_a_prefix(kvctl: Any, fill: Any) -> None:
    fill({b"a": b"1", b"p/1": b"2", b"p/2": b"3"})
    assert kvctl("get", "p/", "--prefix").out == b"p/1\t2\np/2\t3\n"
    assert kvctl("get", "p/", "--prefix", "--limit", "1").out == b"p/1\t2\n"
    assert kvctl("get", "p/", "--prefix", "--revision", "3").out == b"p/1\t2\n"
    assert kvctl("get", "", "--prefix", "-o", "json").json_lines == kvctl("scan", "-o", "json").json_lines
    assert kvctl("get", "p/", "--prefix", "-o", "table").out == kvctl("scan", "p/").out
    absent = kvctl("get", "q/", "--prefix", "-o", "table")
    assert (absent.exit_code, absent.out) == (6, b"")
    assert absent.err == "error: no key begins with 'q/' [KEY_NOT_FOUND]\n"
