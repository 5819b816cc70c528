"""Mutations as JSON lines, and ``kvctl write``: all of them or none, and every slip of the pen is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from kvclient import Delete, DeletePrefix, DeleteRange, Put
from kvctl import mutations
from kvctl.limits import MAX_COMMIT_MUTATIONS
from support.fake_server import FakeServer


@pytest.mark.parametrize(
    ("line", "mutation"),
    [
        ('{"op": "put", "key": "a", "value": "1"}', Put(b"a", b"1")),
        ('{"op": "put", "key_hex": "ff", "value_b64": "/w=="}', Put(b"\xff", b"\xff")),
        ('{"op": "put", "key": "a", "value": "", "if_absent": true}', Put(b"a", b"", if_absent=True)),
        ('{"op": "put", "key": "a", "value": "", "if_absent": false, "if_revision": 0}', Put(b"a", b"", if_revision=0)),
        ('{"op": "put", "key": "a", "value": "", "if_revision": null, "namespace": "t"}', Put(b"a", b"", namespace="t")),
        ('{"op": "delete", "key": "a"}', Delete(b"a")),
        ('{"op": "delete", "key": "a", "if_revision": 7, "namespace": ""}', Delete(b"a", 7, "")),
        ('{"op": "delete_range", "start": "a", "end": ""}', DeleteRange(b"a", b"")),
        ('{"op": "delete_prefix", "prefix_hex": "00"}', DeletePrefix(b"\0")),
    ],
)
def test_each_kind(line: str, mutation: object) -> None:
    assert mutations.parse(line.encode()) == mutation


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"key": "a", "value": "1"}', '"op" must be one of put, delete, delete_range, delete_prefix'),
        ('{"op": "get", "key": "a"}', '"op" must be one of'),
        ('{"op": ["put"], "key": "a"}', '"op" must be one of'),
        ('{"op": "put", "key": "a"}', '"value"'),
        ('{"op": "put", "key": "a", "value": "1", "if_revison": 3}', '"put" has no field "if_revison"'),
        ('{"op": "put", "key": "a", "value": "1", "mod_revision": 3}', '"put" has no field "mod_revision"'),
        ('{"op": "delete", "key": "a", "if_absent": true}', '"delete" has no field "if_absent"'),
        ('{"op": "delete", "key": "a", "value": "1"}', '"delete" has no field "value"'),
        ('{"op": "put", "key": "a", "value": "1", "if_revision": "3"}', '"if_revision" must be a number'),
        ('{"op": "put", "key": "a", "value": "1", "if_revision": -1}', '"if_revision" must be a number'),
        ('{"op": "put", "key": "a", "value": "1", "if_revision": true}', '"if_revision" must be a number'),
        ('{"op": "put", "key": "a", "value": "1", "if_absent": 1}', '"if_absent" must be true or false'),
        ('{"op": "put", "key": "a", "value": "1", "if_absent": true, "if_revision": 0}', "exclude each other"),
        ('{"op": "put", "key": "a", "value": "1", "namespace": 1}', '"namespace" must be a string'),
        ('{"op": "delete_range", "start": "b", "end": "a"}', "the range is empty"),
    ],
)
def test_bad_lines_are_named_and_nothing_is_sent(
    kvctl: Any, fake: FakeServer, stdin: Callable[[bytes], None], line: str, said: str
) -> None:
    stdin(f'\n{{"op": "put", "key": "first", "value": ""}}\n{line}\n'.encode())
    told = kvctl("write", "-", "-o", "json")
    assert (told.exit_code, told.error["code"], told.error["line"]) == (1, "BAD_INPUT", 3)
    assert said in told.error["message"]
    assert told.error["message"].startswith("line 3: ")
    assert told.error["message"].endswith("; nothing was written")
    assert fake.requests == []


def test_limits_are_named_by_their_lines(kvctl: Any, fake: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "batch"
    for fields, code in (
        ({"key": "", "value": ""}, "EMPTY_KEY"),
        ({"key": "k" * 8193, "value": ""}, "KEY_TOO_LARGE"),
        ({"key": "k", "value": "v" * (1024 * 1024 + 1)}, "VALUE_TOO_LARGE"),
    ):
        path.write_text(json.dumps({"op": "put", **fields}))
        told = kvctl("write", str(path), "-o", "json")
        assert (told.exit_code, told.error["code"], told.error["line"]) == (4, code, 1)
    path.write_text("".join(json.dumps({"op": "delete", "key": str(n)}) + "\n" for n in range(MAX_COMMIT_MUTATIONS + 1)))
    told = kvctl("write", str(path), "-o", "json")
    assert (told.exit_code, told.error["code"], told.error["line"]) == (4, "COMMIT_TOO_LARGE", MAX_COMMIT_MUTATIONS + 1)
    assert fake.requests == []


def test_a_batch_is_one_commit(kvctl: Any, fake: FakeServer, fill: Any, tmp_path: Path) -> None:
    fill({b"old": b"1", b"tmp/1": b"", b"tmp/2": b"", b"z": b""})
    lines = [
        {"op": "put", "key": "new", "value": "1", "if_absent": True},
        {"op": "delete", "key": "old", "if_revision": 2},
        {"op": "delete_prefix", "prefix": "tmp/"},
    ]
    path = tmp_path / "batch.zst"
    path.write_bytes(zstandard.compress("\n".join(map(json.dumps, lines)).encode()))
    assert kvctl("write", str(path), "-o", "json").json == {
        "put": 1,
        "deleted": 3,
        "revision": 6,
        "epoch": 1,
        "reached": "local",
    }
    assert kvctl("scan", "--keys-only", "-o", "raw").out == b"new\nz\n"
    assert len([name for name, _ in fake.requests if name == "Write"]) == 1
    again = kvctl("write", str(path), "-o", "json")
    assert (again.exit_code, again.error["code"]) == (7, "CONDITION_FAILED")


def test_forms(kvctl: Any, stdin: Callable[[bytes], None]) -> None:
    stdin(b'{"op": "put", "key": "a", "value": "1"}')
    assert kvctl("write", "-").out == b"put 1 key, deleted 0 keys: revision 2 (local)\n"
    stdin(b'{"op": "put", "key": "a", "value": "1"}')
    assert kvctl("write", "-", "-o", "raw").out == b"3\n"
    stdin(b'{"op": "put", "key": "a", "value": "1"}')
    assert kvctl("write", "-", "-o", "json", "--durability", "memory").json["reached"] == "memory"


def test_a_dry_run_counts_what_ranges_cover(kvctl: Any, fake: FakeServer, fill: Any, stdin: Callable[[bytes], None]) -> None:
    fill({b"a": b"", b"tmp/1": b"", b"tmp/2": b"", b"z": b""})
    kvctl("namespace", "create", "team")
    kvctl("-n", "team", "put", "x", "")
    lines = [
        '{"op": "put", "key": "new", "value": "1"}',
        '{"op": "delete", "key": "gone"}',
        '{"op": "delete_prefix", "prefix": "tmp/"}',
        '{"op": "delete_range", "start": "", "end": "", "namespace": "team"}',
    ]
    stdin("\n".join(lines).encode())
    revision = fake.store.assigned
    expected = {"dry_run": True, "would_put": 1, "would_delete": 3, "deletes_of_keys": 1}
    assert kvctl("write", "-", "--dry-run", "-o", "json").json == expected
    stdin("\n".join(lines).encode())
    assert kvctl("write", "-", "--dry-run").out.startswith(b"would put 1 key, delete 1 key by name, delete 3 keys by range")
    assert fake.store.assigned == revision


def test_a_dry_run_without_ranges_needs_no_server(offline: Any, absent_endpoint: str, stdin: Callable[[bytes], None]) -> None:
    stdin(b'{"op": "put", "key": "new", "value": "1"}')
    assert offline("-E", absent_endpoint, "write", "-", "--dry-run", "-o", "raw").out == b"1\n"


@pytest.mark.parametrize("data", [b"", b"\n \n"])
def test_nothing_to_write_is_an_error(kvctl: Any, fake: FakeServer, stdin: Callable[[bytes], None], data: bytes) -> None:
    stdin(data)
    told = kvctl("write", "-", "-o", "json")
    assert (told.exit_code, told.error["code"], fake.requests) == (1, "BAD_INPUT", [])


def test_a_cut_file_writes_nothing(kvctl: Any, fake: FakeServer, tmp_path: Path) -> None:
    path = tmp_path / "batch.zst"
    path.write_bytes(zstandard.compress(b'{"op": "put", "key": "a", "value": "1"}\n')[:-3])
    told = kvctl("write", str(path), "-o", "json")
    assert (told.exit_code, told.error["code"], fake.requests) == (1, "BAD_INPUT", [])
