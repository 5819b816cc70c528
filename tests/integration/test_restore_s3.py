"""The same round trip over S3: a node archives into a bucket, a mistake is undone from it, and every command reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.kvctl_runs import Kvctl
from kvserver.testing import Server
from kvserver.testing.plugin import StartServer
from support.s3_server import S3Server, s3_server

URL = "s3://backups/kv"
PACKAGES = str(Path(__file__).parents[2] / "examples" / "packages.jsonl")


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """An object storage with an empty bucket, which this process and those that it starts know."""
    with s3_server() as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        server.make_bucket("backups")
        yield server


def keys_of(kvctl: Kvctl, server: Server) -> list[str]:
    told = kvctl("-E", server.address, "scan", "--keys-only", "-o", "json")
    return [json.loads(line)["key"] for line in told.out.splitlines()]


@pytest.mark.usefixtures("storage")
def test_a_mistake_is_undone_from_a_bucket(start_kvserver: StartServer, kvctl: Kvctl, tmp_path: Path) -> None:
    server = start_kvserver("--archive", URL)
    there = ("-E", server.address)
    assert kvctl(*there, "import", PACKAGES).exit_code == 0
    assert kvctl(*there, "backup", "create").exit_code == 0
    assert kvctl(*there, "put", "after-the-backup", "v").exit_code == 0
    before, content = keys_of(kvctl, server), kvctl(*there, "check", "hash", "-o", "raw").out
    revision = kvctl(*there, "status", "-o", "json").json["revision"]
    for key in before[::3]:
        assert kvctl(*there, "del", key).exit_code == 0
    assert kvctl(*there, "archive", "now").exit_code == 0
    assert kvctl(*there, "archive", "status", "-o", "json").json["archive"] == URL

    archive = ("--archive", URL)
    verified = kvctl("archive", "verify", *archive, "-o", "json")
    assert (verified.exit_code, verified.json["whole"], verified.json["backups"]) == (0, True, 1), verified.err
    assert kvctl("archive", "point", "set", "before", "--revision", str(revision), *archive).exit_code == 0
    folder = tmp_path / "restored"
    target = ("--to-revision", str(revision), "--target-dir", str(folder))
    planned = kvctl("restore", *archive, *target, "--dry-run", "-o", "json").json
    assert (planned["revision"], planned["base"]["revision"]) == (revision, revision - 1)
    done = kvctl("restore", *archive, *target, "-o", "json")
    assert done.exit_code == 0, done.err
    assert kvctl("check", "hash", "--data-dir", str(folder), "-o", "raw").out == content
    restored = start_kvserver("--archive", URL, data_dir=folder)
    assert keys_of(kvctl, restored) == before
    assert kvctl("-E", restored.address, "archive", "now").exit_code == 0
    assert len(kvctl("archive", "list", *archive, "-o", "json").json_lines) == 2, "the fork archives beside its parent"
    assert kvctl(*there, "drill", "--scratch-dir", str(tmp_path), "-o", "json").json["ok"] is True


def test_a_storage_that_refuses_or_is_gone(
    storage: S3Server, kvctl: Kvctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = ("restore", "--latest", "--target-dir", str(tmp_path / "restored"), "-o", "json")
    nothing = kvctl(*there, "--archive", URL)
    assert (nothing.exit_code, nothing.error["code"]) == (6, "NO_RESTORE_PLAN")
    elsewhere = kvctl(*there, "--archive", "s3://no-such-bucket/kv")
    assert (elsewhere.exit_code, elsewhere.error["code"]) == (4, "ARCHIVE_UNAVAILABLE")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    gone = kvctl(*there, "--archive", URL)
    assert (gone.exit_code, gone.error["code"]) == (3, "ARCHIVE_UNAVAILABLE"), gone.err
    assert not (tmp_path / "restored").exists()
