"""kvctl archive status, now and list: what a node says, and what is read from an archive without one."""

from __future__ import annotations

from typing import Any

import pytest

from kvproto.v1 import admin_pb2
from support.archives import ArchiveScene, family
from support.fake_server import CLUSTER_ID, FakeServer
from unit.kvctl.archived import Archived, two_epochs


@pytest.fixture
def scene(archived: Archived) -> ArchiveScene:
    """An archive with two epochs, two backups, a named point and nothing wrong."""
    two_epochs(archived)
    return archived.scene


@pytest.fixture
def url(archived: Archived) -> str:
    return archived.url


def test_status_for_people_names_what_waits(kvctl: Any, fake: FakeServer) -> None:
    lines = dict(line.split("  ", 1) for line in kvctl("archive", "status").out.decode().splitlines())
    told = {name.strip(): value.strip() for name, value in lines.items()}
    assert told["archive"] == fake.archive_url
    assert told["archived up to"] == "revision 1 of epoch 1; 0 revisions behind"
    assert told["not archived"] == "2 sealed segments, 28.6 MiB, the oldest for 1 min 1 s"
    assert told["state"] == "slowing; each group of commits is held up by 12 ms"
    assert told["queue"] == "1.9 GiB; when it is full, writes are refused"
    assert told["archiving"] == "2 workers, level 1, at most 47.7 MiB/s"
    assert told["last backup"] == "none; make one with: kvctl backup create"
    assert told["last verify"] == "well, 2023-11-14T22:13:21.000Z, in 1.5 s: 7 segments check"
    assert told["last drill"] == "none since the node began to serve"
    assert told["last error"] == "the archive cannot be reached"
    assert told["warning"] == "the archive is 61 seconds behind"


def test_status_for_people_says_what_is_in_the_open_segment(kvctl: Any, fake: FakeServer) -> None:
    fake.unarchived_segments = 0
    assert "not archived     nothing" in kvctl("archive", "status").out.decode().splitlines()
    kvctl("put", "a", "1")
    kvctl("put", "b", "2")
    assert "not archived     2 revisions, in the open segment" in kvctl("archive", "status").out.decode().splitlines()


def test_status_forms(kvctl: Any, fake: FakeServer) -> None:
    fake.archive_step = admin_pb2.ARCHIVE_STEP_KEEPING_UP
    kvctl("backup", "create")
    told = kvctl("archive", "status", "-o", "json").json
    assert (told["step"], told["cluster_id"]) == ("keeping_up", CLUSTER_ID.hex())
    assert told["last_backup"]["revision"] == 1
    assert told["last_verify"] == {"time_ms": 1_700_000_001_000, "ok": True, "what": "7 segments check", "seconds": 1.5}
    assert told["last_drill"] is None
    raw = dict(line.split("\t") for line in kvctl("archive", "status", "-o", "raw").out.decode().splitlines())
    assert (raw["step"], raw["last_verify"], raw["last_drill"]) == ("keeping_up", "True", "")
    assert raw["last_backup"] == told["last_backup"]["id"]
    assert raw["warning"] == "the archive is 61 seconds behind"


def test_a_node_without_an_archive_says_so(kvctl: Any, fake: FakeServer) -> None:
    fake.archive_url = ""
    for command in (("archive", "status"), ("archive", "now"), ("backup", "create"), ("archive", "list")):
        refused = kvctl(*command, "-o", "json")
        assert (refused.exit_code, refused.out) == (4, b""), command
        assert refused.error["code"] == "NO_ARCHIVE"
        assert "--archive URL" in refused.error["hint"]


def test_now_forms(kvctl: Any) -> None:
    kvctl("put", "k", "v")
    assert kvctl("archive", "now").out == b"everything up to revision 2 is in the archive\n"
    assert kvctl("archive", "now", "-o", "json").json == {"archived_revision": 2, "archived_epoch": 1}
    assert kvctl("archive", "now", "-o", "raw").out == b"2\n"


def test_now_without_an_answer_goes_on(kvctl: Any, fake: FakeServer) -> None:
    release = fake.hold("ArchiveNow")
    late = kvctl("--timeout", "300ms", "archive", "now", "-o", "json")
    release.set()
    assert (late.exit_code, late.error["code"]) == (3, "DEADLINE")
    assert late.error["hint"] == "the node goes on by itself; see how far the archive is with: kvctl archive status"


def test_status_of_an_archive_asks_no_node(offline: Any, scene: ArchiveScene, url: str) -> None:
    told = offline("archive", "status", "--archive", url, "-o", "json").json
    assert (told["archived_revision"], told["archived_epoch"], told["segments"]) == (scene.position.revision, 2, 4)
    assert (told["backups"], told["points"], told["problems"]) == (2, 1, [])
    assert told["archived_time_ms"] == scene.now_ms - 1
    lines = offline("archive", "status", "--archive", url).out.decode()
    assert f"archived up to  revision {scene.position.revision}, " in lines
    assert "4 segments in 2 epochs" in lines
    raw = dict(line.split("\t") for line in offline("archive", "status", "--archive", url, "-o", "raw").out.decode().splitlines())
    assert (raw["backups"], raw["last_backup"]) == ("2", told["last_backup"]["id"])
    assert offline("archive", "status", "--cluster", "00").exit_code == 2


def test_list_names_epochs_backups_and_points(offline: Any, scene: ArchiveScene, url: str) -> None:
    told = offline("archive", "list", "--archive", url, "-o", "json").json
    assert told["archived"] == {"epoch": 2, "revision": scene.position.revision, "chain": scene.position.chain.hex()}
    assert [(one["epoch"], one["segments"], one["closed_by"], one["last_revision"]) for one in told["epochs"]] == [
        (1, 2, 2, 6),
        (2, 2, None, 9),
    ]
    assert [one["revision"] for one in told["backups"]] == [4, 9]
    assert [(one["name"], one["revision"]) for one in told["points"]] == [("before-upgrade", 4)]
    assert "segment_list" not in told["epochs"][0]
    with_segments = offline("archive", "list", "--archive", url, "--segments", "-o", "json").json
    listed = [one for epoch in with_segments["epochs"] for one in epoch["segment_list"]]
    assert [(one["first_revision"], one["last_revision"]) for one in listed] == [(2, 4), (5, 6), (7, 6), (7, 9)]
    table = offline("archive", "list", "--archive", url, "--segments").out.decode()
    assert all(one["segment"] in table for one in listed)
    assert "before-upgrade" in table
    raw = [line.split("\t") for line in offline("archive", "list", "--archive", url, "-o", "raw").out.decode().splitlines()]
    assert [row[0] for row in raw] == ["cluster", "epoch", "epoch", "backup", "backup", "point"]
    assert raw[0][1:] == [CLUSTER_ID.hex(), "9"]


def test_list_asks_the_node_where_its_archive_is(kvctl: Any, fake: FakeServer, scene: ArchiveScene, url: str) -> None:
    fake.archive_url = url
    scene.fork()
    told = kvctl("archive", "list")
    assert told.err == f"the archive is {url}, as {fake.endpoint} says\n"
    assert told.out.decode().count("\ncluster") == 1
    assert kvctl("archive", "list", "-o", "json").json["cluster_id"] == CLUSTER_ID.hex()


def test_list_of_an_archive_that_several_stores_share(offline: Any, scene: ArchiveScene, url: str) -> None:
    fork = scene.fork()
    both = offline("archive", "list", "--archive", url, "-o", "json").json_lines
    assert {one["cluster_id"] for one in both} == {CLUSTER_ID.hex(), fork.cluster_id.hex()}
    (of_fork,) = [one for one in both if one["parent_cluster_id"]]
    assert (of_fork["parent_cluster_id"], of_fork["parent_revision"]) == (CLUSTER_ID.hex(), 9)
    named = offline("archive", "list", "--archive", url, "--cluster", fork.cluster_id.hex()[:6], "-o", "json").json
    assert named["cluster_id"] == fork.cluster_id.hex()
    unknown = offline("archive", "list", "--archive", url, "--cluster", "ffffff", "-o", "json")
    assert (unknown.exit_code, unknown.error["code"]) == (6, "NO_RESTORE_PLAN")
    assert CLUSTER_ID.hex() in unknown.error["hint"]
    which = offline("archive", "status", "--archive", url, "-o", "json")
    assert (which.exit_code, which.error["code"]) == (6, "NO_RESTORE_PLAN")


def test_the_variable_names_the_archive(
    offline: Any, scene: ArchiveScene, url: str, monkeypatch: pytest.MonkeyPatch, absent_endpoint: str
) -> None:
    monkeypatch.setenv("KVCTL_ARCHIVE", url)
    assert offline("archive", "list", "-o", "raw").exit_code == 0
    asked = offline("-E", absent_endpoint, "archive", "status")
    assert asked.exit_code == 3, "status is about the node, whatever the variable says"


def test_problems_are_told(offline: Any, scene: ArchiveScene, url: str) -> None:
    scene.store.delete(scene.names.manifest(1, 0))
    found = offline("archive", "list", "--archive", url)
    assert found.exit_code == 0
    assert "problem: " in found.out.decode()
    assert offline("archive", "list", "--archive", url, "-o", "json").json["problems"]


@pytest.mark.parametrize(
    ("address", "exit_code", "code"),
    [
        ("file:///nowhere/at/all", 6, "NO_RESTORE_PLAN"),
        ("ftp://somewhere/else", 4, "ARCHIVE_UNAVAILABLE"),
        ("/srv/archive", 4, "ARCHIVE_UNAVAILABLE"),
        ("file:///srv/../etc", 4, "ARCHIVE_UNAVAILABLE"),
        ("s3://user:secret@bucket/x", 4, "ARCHIVE_UNAVAILABLE"),
    ],
)
def test_an_address_that_leads_nowhere(offline: Any, address: str, exit_code: int, code: str) -> None:
    refused = offline("archive", "list", "--archive", address, "-o", "json")
    assert (refused.exit_code, refused.error["code"]) == (exit_code, code), refused.err
    assert refused.error["hint"]
    assert "secret" not in refused.err


def test_a_rich_archive_is_listed_without_problems(offline: Any, archived: Archived) -> None:
    rich = family()
    archived.store.delete(archived.scene.names.cluster)
    for info in rich.store.list(""):
        archived.store.create(info.name, rich.store.stream(info.name))
    told = offline("archive", "list", "--archive", archived.url, "-o", "json").json
    assert (len(told["epochs"]), told["problems"]) == (4, [])
    assert told["archived"]["revision"] == rich.position.revision
