"""kvctl backup: made through a node, and looked after where it lies."""

from __future__ import annotations

from typing import Any

import pytest

from support.fake_server import CLUSTER_ID, FakeServer
from unit.kvctl.archived import Archived, two_epochs
from unit.kvctl.test_progress import PYTHON, on_a_terminal


@pytest.fixture
def backups(archived: Archived) -> list[str]:
    """The ids of two backups of an archive."""
    two_epochs(archived)
    prefix = archived.scene.names.backups
    return [info.name.removeprefix(prefix).removesuffix(".json") for info in archived.store.list(prefix)]


def test_create_forms(kvctl: Any, fake: FakeServer) -> None:
    kvctl("put", "k", "v")
    made = kvctl("backup", "create", "-o", "json").json
    assert made == {
        "id": f"{2:016x}-{1_700_000_002_000:016x}",
        "epoch": 1,
        "revision": 2,
        "chain": bytes(range(16)).hex(),
        "time_ms": 1_700_000_001_999,
        "files": 3,
        "bytes": 7_000_000,
        "made_ms": 1_700_000_002_000,
        "sent_bytes": 1_000_000,
    }
    assert kvctl("backup", "create", "-o", "raw").out.decode() == made["id"] + "\n"
    assert kvctl("backup", "create").out.decode().splitlines() == [
        f"backup      {made['id']}",
        "revision    2 of epoch 1",
        "time of it  2023-11-14T22:13:21.999Z",
        "tables      6.7 MiB in 3 files, 976.6 KiB of it sent",
    ]


def test_create_shows_how_far_it_is(fake: FakeServer) -> None:
    release = fake.hold("CreateBackup")
    shown, out = on_a_terminal(
        [*PYTHON, "-E", fake.endpoint, "backup", "create", "-o", "raw"], until=b"copying within the node", release=release
    )
    assert b"copying within the node" in shown
    assert b"sending" in shown
    assert b"MB/s" in shown
    assert out.startswith(b"0000000000000001-")


def test_a_backup_that_is_cut_short_is_none(kvctl: Any, fake: FakeServer) -> None:
    fake.backup_is_cut = True
    cut = kvctl("backup", "create", "-o", "json")
    assert (cut.exit_code, cut.out, cut.error["code"]) == (4, b"", "UNEXPECTED_STATUS")


def test_a_node_that_falls_silent_may_have_made_it(kvctl: Any, fake: FakeServer) -> None:
    release = fake.hold("CreateBackup")
    late = kvctl("--timeout", "300ms", "backup", "create", "-o", "json")
    release.set()
    assert (late.exit_code, late.error["code"]) == (3, "DEADLINE")
    assert "may have been made" in late.error["hint"]
    fake.refuse_next("CreateBackup", "ARCHIVE_UNAVAILABLE", "it is down", "try again later")
    refused = kvctl("backup", "create", "-o", "json")
    assert (refused.exit_code, refused.error["hint"]) == (4, "try again later")


def test_list_forms(offline: Any, kvctl: Any, fake: FakeServer, archived: Archived, backups: list[str]) -> None:
    told = offline("backup", "list", "--archive", archived.url, "-o", "json").json_lines
    assert [(one["id"], one["revision"], one["files"]) for one in told] == [(backups[0], 4, 2), (backups[1], 9, 2)]
    assert told[0]["cluster_id"] == CLUSTER_ID.hex()
    raw = offline("backup", "list", "--archive", archived.url, "-o", "raw").out.decode().splitlines()
    assert [line.split("\t")[:2] for line in raw] == [[backups[0], "4"], [backups[1], "9"]]
    table = offline("backup", "list", "--archive", archived.url).out.decode()
    assert table.splitlines()[0].split()[:2] == ["BACKUP", "REVISION"]
    fake.archive_url = archived.url
    assert [one["id"] for one in kvctl("backup", "list", "-o", "json").json_lines] == backups


def test_info_finds_a_backup_by_what_it_begins_with(offline: Any, archived: Archived, backups: list[str]) -> None:
    there = ("--archive", archived.url)
    for name in (backups[0], backups[0][:20]):
        assert offline("backup", "info", name, *there, "-o", "json").json["id"] == backups[0]
    newest = offline("backup", "info", "latest", *there, "-o", "json").json
    assert newest["id"] == backups[1]
    assert [file["file"] for file in newest["file_list"]] == ["CURRENT", "000009.sst"]
    assert newest["bytes"] == sum(file["bytes"] for file in newest["file_list"])
    shown = offline("backup", "info", "latest", *there).out.decode()
    assert newest["file_list"][1]["sha256"] in shown
    raw = offline("backup", "info", "latest", *there, "-o", "raw").out.decode().splitlines()
    assert raw[0].split("\t")[0] == "CURRENT"


@pytest.mark.parametrize("name", ["ffff", "", "../../etc", "0000"])
def test_a_backup_that_is_not_one(offline: Any, archived: Archived, backups: list[str], name: str) -> None:
    unknown = offline("backup", "info", name, "--archive", archived.url, "-o", "json")
    assert (unknown.exit_code, unknown.error["code"]) == (6, "NO_SUCH_BACKUP")
    assert unknown.error["hint"].startswith("see: kvctl backup list")
