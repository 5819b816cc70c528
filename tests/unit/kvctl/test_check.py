"""kvctl check hash of nodes and of folders, and kvctl drill: what is compared, what is refused, which exit code says so."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from support.fake_server import CLUSTER_ID, FakeServer
from unit.kvctl.archived import Archived, log_only


def test_hash_of_a_node(kvctl: Any, fake: FakeServer) -> None:
    kvctl("put", "k", "v")
    told = kvctl("check", "hash", "-o", "json").json
    assert (told["source"], told["revision"], told["keys"], told["took_ms"]) == (fake.endpoint, 2, 1, 17)
    assert told["chain"] == bytes(range(16)).hex()
    assert kvctl("check", "hash", "-o", "raw").out.decode() == told["sha256"] + "\n"
    table = kvctl("check", "hash").out.decode().splitlines()
    assert table[0].split() == ["STORE", "EPOCH", "REVISION", "KEYS", "TOOK", "HASH"]
    assert table[1].split() == [fake.endpoint, "1", "2", "1", "17", "ms", told["sha256"]]


def test_hash_of_several_nodes(offline: Any, fake: FakeServer) -> None:
    with FakeServer() as other:
        both = f"{fake.endpoint},{other.endpoint}"
        for endpoint in (fake.endpoint, other.endpoint):
            assert offline("-E", endpoint, "put", "k", "v").exit_code == 0
        same = offline("-E", both, "check", "hash", "-o", "json")
        assert (same.exit_code, len({one["sha256"] for one in same.json_lines})) == (0, 1)
        assert offline("-E", fake.endpoint, "put", "k", "w").exit_code == 0
        apart = offline("-E", both, "check", "hash", "-o", "json")
        assert (apart.exit_code, apart.error["code"], len(apart.json_lines)) == (1, "NOT_COMPARABLE", 2)
        assert offline("-E", other.endpoint, "put", "k", "x").exit_code == 0
        differ = offline("-E", both, "check", "hash", "-o", "json")
        assert (differ.exit_code, differ.err) == (5, "")


def test_a_node_that_does_not_answer_keeps_no_other_from_being_hashed(
    offline: Any, fake: FakeServer, absent_endpoint: str
) -> None:
    told = offline("-E", f"{absent_endpoint},{fake.endpoint}", "check", "hash", "-o", "json")
    first, second = told.json_lines
    assert (told.exit_code, first["error"]["code"], "sha256" in second) == (3, "UNAVAILABLE", True)
    shown = offline("-E", f"{absent_endpoint},{fake.endpoint}", "check", "hash")
    assert f"{absent_endpoint}: " in shown.out.decode()
    alone = offline("-E", absent_endpoint, "check", "hash", "-o", "json")
    assert (alone.exit_code, alone.out, alone.error["code"]) == (3, b"", "UNAVAILABLE")


def test_hashing_may_take_minutes(kvctl: Any, fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    import kvclient

    waited: list[float] = []
    real = kvclient.Client.content_hash

    def noting(client: Any, *, timeout_s: float) -> Any:
        waited.append(timeout_s)
        return real(client, timeout_s=timeout_s)

    monkeypatch.setattr(kvclient.Client, "content_hash", noting)
    assert kvctl("check", "hash").exit_code == 0
    assert kvctl("--timeout", "7s", "check", "hash").exit_code == 0
    assert waited == [300, 7]
    release = fake.hold("ContentHash")
    late = kvctl("--timeout", "300ms", "check", "hash", "-o", "json")
    release.set()
    assert (late.exit_code, late.error["code"]) == (3, "DEADLINE")
    assert late.error["hint"].startswith("nothing of it goes on at the node")


def test_a_folder_that_cannot_be_hashed(offline: Any, tmp_path: Path) -> None:
    nothing = offline("check", "hash", "--data-dir", str(tmp_path), "-o", "json")
    assert (nothing.exit_code, nothing.error["code"]) == (1, "NOT_A_DATA_DIR")
    assert offline("check", "hash", "--data-dir", str(tmp_path / "absent")).exit_code == 2
    (tmp_path / "RESTORE").write_text("half of it")
    damaged = offline("check", "hash", "--data-dir", str(tmp_path), "-o", "json")
    assert (damaged.exit_code, damaged.error["code"]) == (5, "CORRUPTION")


def test_a_checkpoint_is_not_written_to(offline: Any, archived: Archived, tmp_path: Path) -> None:
    log_only(archived)
    target = tmp_path / "copy"
    assert offline("restore", "--archive", archived.url, "--latest", "--target-dir", str(target)).exit_code == 0
    (target / "LOCK").unlink()
    before = sorted(path.name for path in target.iterdir())
    assert offline("check", "hash", "--data-dir", str(target)).exit_code == 0
    assert sorted(path.name for path in target.iterdir()) == before


def test_a_drill_against_a_node_that_holds_something_else(
    kvctl: Any, fake: FakeServer, archived: Archived, tmp_path: Path
) -> None:
    """The fake node's content is not what the archive of its cluster holds: the drill says so, and leaves nothing behind."""
    log_only(archived)
    fake.archive_url = archived.url
    for number in range(2, 10):
        kvctl("put", f"k{number}", "v")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    before = {info.name for info in archived.store.list("")}
    found = kvctl("drill", "--scratch-dir", str(scratch), "-o", "json")
    assert (found.exit_code, found.json["ok"], found.json["revision"]) == (5, False, 9)
    assert found.json["sha256"] != found.json["expected_sha256"]
    assert found.json["base"] is None
    assert list(scratch.iterdir()) == []
    assert {info.name for info in archived.store.list("")} == before
    assert [name for name, _ in fake.requests[-6:] if name in ("ContentHash", "ArchiveNow")] == ["ContentHash", "ArchiveNow"]
    shown = kvctl("drill", "--scratch-dir", str(scratch))
    assert shown.exit_code == 5
    assert shown.out.decode().splitlines()[-1].startswith("FAILED: what was restored of revision 9 is not what the node held")
    raw = dict(line.split("\t") for line in kvctl("drill", "-o", "raw").out.decode().splitlines())
    assert (raw["ok"], raw["base"]) == ("False", "")


def test_a_drill_whose_archive_lacks_the_revision(kvctl: Any, fake: FakeServer, archived: Archived) -> None:
    log_only(archived)
    fake.archive_url = archived.url
    for number in range(20):
        kvctl("put", f"k{number}", "v")
    missing = kvctl("drill", "-o", "json")
    assert (missing.exit_code, missing.error["code"]) == (6, "NO_RESTORE_PLAN")
    fake.archive_url = ""
    assert kvctl("drill", "-o", "json").error["code"] == "NO_ARCHIVE"


def test_a_drill_at_another_address_is_about_the_nodes_cluster(kvctl: Any, fake: FakeServer, archived: Archived) -> None:
    log_only(archived)
    archived.scene.fork(cluster_id=hashlib.sha256(CLUSTER_ID).digest()[:16])
    for number in range(2, 10):
        kvctl("put", f"k{number}", "v")
    assert kvctl("drill", "--archive", archived.url, "-o", "json").json["revision"] == 9
