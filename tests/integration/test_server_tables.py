"""Tables, history and checkpoints through a server process and the SDK: what is flushed, given up, dropped and copied."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from integration.processes import Process
from kvclient import (
    Client,
    Compacted,
    FutureRevision,
    HistoryEntry,
    InvalidRequestError,
    Put,
    TargetUnusable,
    UnknownNamespace,
)

LOADED = 300


def client(server: Process, namespace: str = "") -> Client:
    return Client(server.address, namespace, timeout_s=20.0)


def load(kv: Client) -> dict[str, int]:
    """Fill a new store: keys, some of them changed, some deleted, one made again. Returns the revisions that matter."""
    for number in range(LOADED):
        kv.put(b"k%04d" % number, b"first %d" % number)
    loaded = kv.put(b"changed", b"1").revision
    for number in range(0, LOADED, 10):
        kv.put(b"k%04d" % number, b"second %d" % number)
    changed = kv.put(b"changed", b"2").revision
    kv.delete_range(b"k0050", b"k0060")
    deleted = kv.delete(b"changed").revision
    kv.put(b"changed", b"3")
    return {"loaded": loaded, "changed": changed, "deleted": deleted}


def content(kv: Client, revision: int | None = None) -> dict[bytes, tuple[bytes, int, int, int]]:
    return {entry.key: entry[1:] for entry in kv.scan(revision=revision)}


def everything(kv: Client, revisions: dict[str, int]) -> Any:
    """Return all that can be read of a loaded store, now and in the past."""
    past = {name: content(kv, revision) for name, revision in revisions.items()}
    return past, content(kv), list(kv.history(b"changed")), list(kv.history(b"k0050")), list(kv.history(b"k0010"))


def kvctl(server: Process, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kvctl", "-E", server.address, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def flushed(kv: Client) -> None:
    before = kv.status()
    done = kv.flush()
    assert done.flushed_revision >= before.visible_revision
    after = kv.status()
    assert after.flushed_revision == done.flushed_revision
    assert after.table_files >= 1
    assert after.table_bytes > 0
    assert after.warnings == ()


def killed(kv: Client) -> None:
    """Leave everything as it is; the restart does the rest."""


@pytest.mark.parametrize("between", [flushed, killed])
def test_the_past_is_the_same_from_memory_from_tables_and_after_a_kill(tmp_path: Path, between: Callable[[Client], None]) -> None:
    with Process("--data-dir", str(tmp_path)) as server, client(server.ready()) as kv:
        revisions = load(kv)
        told = everything(kv, revisions)
        assert len(told[0]["loaded"]) == LOADED + 1
        assert told[0]["changed"][b"k0010"][0] == b"second 10"
        assert told[0]["loaded"][b"k0010"][0] == b"first 10"
        assert b"changed" not in told[0]["deleted"] and b"k0055" not in told[0]["deleted"]
        assert len(told[1]) == LOADED + 1 - 10
        assert [entry.entry is None for entry in told[2]] == [False, True, False, False]
        assert [entry.entry.version for entry in told[2] if entry.entry is not None] == [1, 2, 1]
        between(kv)
        assert everything(kv, revisions) == told
        server.signal(signal.SIGKILL)
        server.wait()
    with Process("--data-dir", str(tmp_path)) as server, client(server.ready()) as kv:
        assert everything(kv, revisions) == told
        flushed(kv)
        assert everything(kv, revisions) == told
        entry = kv.get(b"changed", revision=revisions["changed"])
        assert entry is not None and entry.value == b"2"
        assert kv.get(b"changed", revision=revisions["deleted"]) is None
        with pytest.raises(FutureRevision):
            kv.get(b"changed", revision=kv.status().visible_revision + 1)


def test_a_version_is_right_whether_its_past_is_in_memory_or_in_tables(tmp_path: Path) -> None:
    with Process("--data-dir", str(tmp_path)) as server, client(server.ready()) as kv:
        expected: list[HistoryEntry] = []
        for number in range(1, 7):
            kv.put(b"k", b"%d" % number)
            entry = kv.get(b"k")
            assert entry is not None and (entry.version, entry.create_revision) == (number, 2)
            expected.insert(0, HistoryEntry(entry.mod_revision, entry))
            if number % 2:
                kv.flush()
        assert list(kv.history(b"k")) == expected
        assert list(kv.history(b"k", limit=2)) == expected[:2]
        assert list(kv.history(b"k", before_revision=expected[1].revision)) == expected[2:]


def test_what_is_compacted_is_refused_and_stays_so(tmp_path: Path) -> None:
    with Process("--data-dir", str(tmp_path)) as server, client(server.ready()) as kv:
        revisions = load(kv)
        newest = content(kv)
        with pytest.raises(FutureRevision):
            kv.compact(10_000)
        done = kv.compact(revisions["changed"])
        assert done.oldest_readable_revision == revisions["changed"]
        assert kv.compact(5).oldest_readable_revision == revisions["changed"], "it never moves back"
        for flush in (False, True):
            if flush:
                kv.flush()
            for call in (lambda: kv.get(b"changed", revision=revisions["loaded"]), lambda: kv.count(revision=2)):
                with pytest.raises(Compacted) as caught:
                    call()
                assert caught.value.oldest_readable_revision == revisions["changed"]
                assert str(revisions["changed"]) in caught.value.hint
            assert content(kv) == newest
            entry = kv.get(b"changed", revision=revisions["changed"])
            assert entry is not None and entry.value == b"2"
            assert [entry.revision >= revisions["changed"] for entry in kv.history(b"changed")] == [True] * 3
        refused = kvctl(server, "get", "changed", "--revision", "2", "-o", "json")
        assert refused.returncode == 4
        assert json.loads(refused.stderr)["oldest_readable_revision"] == revisions["changed"]
        server.signal(signal.SIGKILL)
        server.wait()
    with Process("--data-dir", str(tmp_path)) as server, client(server.ready()) as kv:
        assert kv.status().oldest_readable_revision == revisions["changed"]
        with pytest.raises(Compacted):
            kv.get(b"changed", revision=revisions["loaded"])
        assert content(kv) == newest


def test_a_dropped_namespace_is_gone_and_its_name_can_be_used_again(tmp_path: Path) -> None:
    with Process("--data-dir", str(tmp_path)) as server, client(server.ready()) as kv, client(server, "team") as team:
        kv.put(b"k", b"of the default namespace")
        made = kv.create_namespace("team")
        team.write([Put(b"k%d" % number, b"v" * 100) for number in range(50)])
        kv.flush()
        team.put(b"k0", b"newer")
        row = next(row for row in kv.list_namespaces() if row.name == "team")
        assert row.keys >= 50
        assert row.size_bytes >= 49 * 100
        done = kv.drop_namespace("team")
        assert (done.namespace.id, done.namespace.create_revision) == (made.id, made.create_revision)
        for call in (lambda: team.get(b"k0"), lambda: team.put(b"k", b"v"), team.count, lambda: list(team.history(b"k0"))):
            with pytest.raises(UnknownNamespace):
                call()
        with pytest.raises(UnknownNamespace):
            kv.drop_namespace("team")
        with pytest.raises(InvalidRequestError):
            kv.drop_namespace("")
        again = kv.create_namespace("team")
        assert again.id > made.id
        assert team.count() == 0
        assert list(team.history(b"k0")) == []
        kv.flush()
        assert team.count() == 0
        team.put(b"k0", b"of the younger one")
        server.signal(signal.SIGKILL)
        server.wait()
    with Process("--data-dir", str(tmp_path)) as server, client(server.ready()) as kv, client(server, "team") as team:
        assert [(entry.key, entry.version) for entry in team.scan()] == [(b"k0", 1)]
        assert kv.count() == 1
        assert [row.name for row in kv.list_namespaces()] == ["", "team"]


def test_a_checkpoint_opens_elsewhere_and_reads_the_same(tmp_path: Path) -> None:
    copy = tmp_path / "backup" / "copy"
    copy.parent.mkdir()
    with Process("--data-dir", str(tmp_path / "data")) as server, client(server.ready()) as kv:
        revisions = load(kv)
        kv.create_namespace("team")
        told = everything(kv, revisions)
        done = kv.checkpoint(str(copy))
        assert done.target_dir == str(copy)
        assert done.revision == kv.status().flushed_revision
        assert done.table_files >= 1
        kv.put(b"later", b"not in the copy")
        for unusable in (copy, tmp_path / "data", tmp_path / "data" / "inside", Path("/proc/nowhere")):
            with pytest.raises(TargetUnusable) as caught:
                kv.checkpoint(str(unusable))
            assert caught.value.hint
        with Process("--data-dir", str(copy)) as second, client(second.ready()) as copied:
            assert everything(copied, revisions) == told
            assert [row.name for row in copied.list_namespaces()] == ["", "team"]
            assert copied.get(b"later") is None
            copied.put(b"own", b"of the copy")
            assert kv.get(b"own") is None
            assert second.stop() == 0
        with Process("--data-dir", str(copy)) as second, client(second.ready()) as copied:
            entry = copied.get(b"own")
            assert entry is not None and entry.value == b"of the copy"
        assert everything(kv, revisions)[0] == told[0]


def test_the_commands_of_an_operator(tmp_path: Path) -> None:
    """The same through kvctl, whose line to open a checkpoint is taken at its word."""
    copy = tmp_path / "copy"
    with Process("--data-dir", str(tmp_path / "data")) as server:
        server.ready()
        for arguments in (("put", "k", "1"), ("put", "k", "2"), ("del", "k"), ("namespace", "create", "team")):
            assert kvctl(server, *arguments).returncode == 0
        history = [json.loads(line) for line in kvctl(server, "history", "k", "-o", "json").stdout.splitlines()]
        assert [(row["op"], row["revision"], row.get("value")) for row in history] == [
            ("delete", 4, None),
            ("put", 3, "2"),
            ("put", 2, "1"),
        ]
        assert kvctl(server, "get", "k", "--revision", "2").stdout == "1"
        assert json.loads(kvctl(server, "flush", "-o", "json").stdout)["flushed_revision"] >= 5
        assert kvctl(server, "namespace", "drop", "team").returncode == 1, "nobody to ask, and no --yes"
        assert kvctl(server, "namespace", "drop", "team", "--yes").returncode == 0
        assert kvctl(server, "compact", "3", "--yes").stdout == "revisions from 3 on can be read\n"
        assert "[COMPACTED]" in kvctl(server, "get", "k", "--revision", "2").stderr
        made = kvctl(server, "checkpoint", str(copy))
        assert made.returncode == 0, made.stderr
        line = next(line for line in made.stdout.splitlines() if line.startswith("open it with"))
        flags = line.partition("kvserver serve ")[2].split()
        told = json.loads(kvctl(server, "status", "-o", "json").stdout)
        assert (told["oldest_readable_revision"], told["warnings"]) == (3, [])
        assert {hold["name"] for hold in told["holds"]} >= {"flush"}
    with Process(*flags) as second:
        second.ready()
        assert kvctl(second, "get", "k", "--revision", "3").stdout == "2"
        assert kvctl(second, "get", "k").returncode == 6
