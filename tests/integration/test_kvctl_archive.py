"""kvctl and an archive, end to end: a mistake undone, drills, repairs, interrupted restores, and the JSON of each command."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from integration.kvctl_runs import Kvctl
from kvserver.testing import Server
from kvserver.testing.plugin import StartServer
from unit.kvctl.golden import ARCHIVED, STOPPED, differs

ROOT = Path(__file__).parents[2]
PACKAGES = str(ROOT / "examples" / "packages.jsonl")
PYTHON = [sys.executable, "-m", "kvctl"]


def scanned(kvctl: Kvctl, server: Server) -> bytes:
    """Return every key with value, revisions and version."""
    told = kvctl("-E", server.address, "scan", "-o", "json")
    assert told.exit_code == 0
    return told.out


def hash_of(kvctl: Kvctl, *arguments: str) -> str:
    told = kvctl(*arguments, "-o", "json")
    assert told.exit_code == 0, told.err
    return str(told.json["sha256"])


def now_text() -> str:
    """Return this moment as --to-time takes it."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime())}.{time.time_ns() // 1_000_000 % 1000:03}Z"


@pytest.fixture
def mistaken(start_kvserver: StartServer, kvctl: Kvctl) -> tuple[Server, str, bytes, str]:
    """A server on which a third was deleted by mistake: it, the moment before, what there was, and the hash of that."""
    server = start_kvserver("--seal-age-s", "1", archive=True)
    there = ("-E", server.address)
    assert kvctl(*there, "import", PACKAGES).exit_code == 0
    assert kvctl(*there, "backup", "create").exit_code == 0
    assert kvctl(*there, "put", "after-the-backup", "v").exit_code == 0
    before, content = scanned(kvctl, server), hash_of(kvctl, *there, "check", "hash")
    time.sleep(0.01)  # commits have milliseconds
    moment = now_text()
    time.sleep(0.01)
    keys = [json.loads(line)["key"] for line in before.splitlines()]
    for key in keys[:: len(keys) // 66 or 1]:
        assert kvctl(*there, "del", key).exit_code == 0
    assert kvctl(*there, "archive", "now").exit_code == 0
    assert scanned(kvctl, server) != before
    return server, moment, before, content


def test_a_third_deleted_by_mistake_is_brought_back(
    mistaken: tuple[Server, str, bytes, str], kvctl: Kvctl, start_kvserver: StartServer, tmp_path: Path
) -> None:
    server, moment, before, content = mistaken
    archive = ("--archive", server.archive_url)
    for number, target in enumerate((("--to-time", moment), ("--to-revision", "202"))):
        folder = tmp_path / f"restored-{number}"
        done = kvctl("restore", *archive, *target, "--target-dir", str(folder), "-o", "json")
        assert (done.exit_code, done.json["revision"]) == (0, 202), done.err
        assert hash_of(kvctl, "check", "hash", "--data-dir", str(folder)) == content
        assert shlex.split(done.json["serve"]) == ["kvserver", "serve", "--data-dir", str(folder)]
        restored = start_kvserver(data_dir=folder)
        assert scanned(kvctl, restored) == before
        assert hash_of(kvctl, "-E", restored.address, "check", "hash") == content
        status = kvctl("-E", restored.address, "status", "-o", "json").json
        assert status["cluster_id"] != done.json["cluster_id"], "it is a fork"
    differ = kvctl("-E", f"{server.address},{restored.address}", "check", "hash", "-o", "json")
    assert (differ.exit_code, len(differ.json_lines)) == (1, 2), "other revisions: they cannot be compared"
    latest = tmp_path / "latest"
    assert kvctl("restore", *archive, "--latest", "--target-dir", str(latest)).exit_code == 0
    assert scanned(kvctl, start_kvserver(data_dir=latest)) == scanned(kvctl, server)


def test_a_fork_archives_beside_its_parent_and_can_be_restored(
    mistaken: tuple[Server, str, bytes, str], kvctl: Kvctl, start_kvserver: StartServer, tmp_path: Path
) -> None:
    server, moment, before, _ = mistaken
    folder, again = tmp_path / "fork", tmp_path / "again"
    archive = ("--archive", server.archive_url)
    assert kvctl("restore", *archive, "--to-time", moment, "--target-dir", str(folder)).exit_code == 0
    fork = start_kvserver(data_dir=folder, archive=server.archive_dir or False)
    assert kvctl("-E", fork.address, "put", "of-the-fork", "v").exit_code == 0
    assert kvctl("-E", fork.address, "archive", "now").exit_code == 0
    cluster = kvctl("-E", fork.address, "status", "-o", "json").json["cluster_id"]
    assert len(kvctl("archive", "list", *archive, "-o", "json").json_lines) == 2
    assert kvctl("archive", "verify", *archive, "--cluster", cluster).exit_code == 0
    which = kvctl("restore", *archive, "--latest", "--target-dir", str(again), "-o", "json")
    assert (which.exit_code, which.error["code"]) == (6, "NO_RESTORE_PLAN"), "it does not say which"
    done = kvctl("restore", *archive, "--latest", "--cluster", cluster[:8], "--target-dir", str(again), "-o", "json")
    assert done.exit_code == 0, done.err
    keys = {json.loads(line)["key"] for line in scanned(kvctl, start_kvserver(data_dir=again)).splitlines()}
    assert keys == {json.loads(line)["key"] for line in before.splitlines()} | {"of-the-fork"}


def test_taking_over_goes_on_as_the_same_store_and_fences_the_old_node(
    mistaken: tuple[Server, str, bytes, str], kvctl: Kvctl, start_kvserver: StartServer, tmp_path: Path
) -> None:
    server, _, _, _ = mistaken
    old = kvctl("-E", server.address, "status", "-o", "json").json
    folder = tmp_path / "taken"
    there = ("restore", "--archive", server.archive_url, "--latest", "--target-dir", str(folder), "--take-over", "-o", "json")
    assert kvctl(*there).error["code"] == "NOT_CONFIRMED"
    assert not folder.exists()
    assert kvctl(*there, "--yes", "--name", "second").exit_code == 0
    new = start_kvserver(data_dir=folder, archive=server.archive_dir or False)
    assert kvctl("-E", new.address, "put", "of-the-new-node", "v").exit_code == 0
    assert kvctl("-E", new.address, "archive", "now").exit_code == 0
    status = kvctl("-E", new.address, "status", "-o", "json").json
    assert (status["cluster_id"], status["node"]) == (old["cluster_id"], "second")
    assert status["epoch"] > old["epoch"]
    assert kvctl("-E", server.address, "put", "of-the-old-node", "v").exit_code == 0
    fenced = kvctl("-E", server.address, "archive", "now", "-o", "json")
    assert (fenced.exit_code, fenced.error["code"]) == (4, "ARCHIVE_FENCED")
    assert kvctl("archive", "verify", "--archive", server.archive_url).exit_code == 0
    third = tmp_path / "third"
    assert kvctl("restore", "--archive", server.archive_url, "--latest", "--target-dir", str(third)).exit_code == 0
    keys = {json.loads(line)["key"] for line in scanned(kvctl, start_kvserver(data_dir=third)).splitlines()}
    assert "of-the-new-node" in keys
    assert "of-the-old-node" not in keys


def test_a_drill_proves_it_and_leaves_nothing(mistaken: tuple[Server, str, bytes, str], kvctl: Kvctl, tmp_path: Path) -> None:
    server, _, _, _ = mistaken
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    listed = kvctl("archive", "list", "--archive", server.archive_url, "-o", "json").json
    passed = kvctl("-E", server.address, "drill", "--scratch-dir", str(scratch), "-o", "json")
    assert (passed.exit_code, passed.json["ok"]) == (0, True), passed.err
    assert passed.json["sha256"] == passed.json["expected_sha256"] == hash_of(kvctl, "-E", server.address, "check", "hash")
    assert list(scratch.iterdir()) == []
    assert kvctl("archive", "list", "--archive", server.archive_url, "-o", "json").json == listed, "nothing was registered"


def test_a_flipped_byte_in_the_archive_is_found_by_all(
    mistaken: tuple[Server, str, bytes, str], kvctl: Kvctl, tmp_path: Path
) -> None:
    server, _, _, _ = mistaken
    assert server.archive_dir is not None
    newest = max(server.archive_dir.glob("*/log/*/*.kva"), key=lambda path: path.name)
    flip(newest, newest.stat().st_size // 2)
    archive = ("--archive", server.archive_url)
    found = kvctl("archive", "verify", *archive, "-o", "json")
    assert (found.exit_code, len(found.json["damaged"])) == (5, 1)
    refused = kvctl("restore", *archive, "--latest", "--target-dir", str(tmp_path / "restored"), "-o", "json")
    assert (refused.exit_code, refused.error["code"]) == (5, "CORRUPTION")
    assert newest.name in refused.error["message"]
    assert kvctl("-E", server.address, "drill", "-o", "json").exit_code == 5


def test_a_damaged_segment_of_the_log_is_repaired(start_kvserver: StartServer, kvctl: Kvctl) -> None:
    server = start_kvserver(archive=True)
    there = ("-E", server.address)
    for part in ("a", "b"):
        assert kvctl(*there, "put", part, "v" * 5000).exit_code == 0
        assert kvctl(*there, "archive", "now").exit_code == 0
    server.kill()
    segments = sorted((server.data_dir / "wal").glob("*.wal"))
    damaged = segments[0]
    flip(damaged, 5000)
    whole = kvctl("wal", "verify", str(server.data_dir), "-o", "json")
    assert whole.exit_code == 5
    repair = ("wal", "repair", "--data-dir", str(server.data_dir), "--from", "archive", "--archive", server.archive_url)
    before = {path: path.read_bytes() for path in server.data_dir.rglob("*") if path.is_file()}
    would = kvctl(*repair, "--dry-run", "-o", "json")
    assert (would.exit_code, [one["segment"] for one in would.json["repaired"]]) == (0, [damaged.name]), would.err
    assert {path: path.read_bytes() for path in server.data_dir.rglob("*") if path.is_file()} == before
    done = kvctl(*repair, "-o", "json")
    assert (done.exit_code, done.json["unrepaired"]) == (0, [])
    (kept,) = (server.data_dir / "wal").glob("*.damaged")
    assert done.json["repaired"][0]["kept_as"] == kept.name
    assert kept.read_bytes() == before[damaged]
    assert kvctl("wal", "verify", str(server.data_dir)).exit_code == 0
    assert kvctl(*repair).out.decode().splitlines()[-1].endswith("nothing is damaged")
    server.start()
    assert kvctl("-E", server.address, "get", "a").out.rstrip() == b"v" * 5000


def test_an_unfinished_restore_is_refused_by_serve_and_gone_on_with(
    mistaken: tuple[Server, str, bytes, str], kvctl: Kvctl, start_kvserver: StartServer, tmp_path: Path
) -> None:
    """kill -9 in the middle; the server refuses the folder and names the command, and that finishes it."""
    server, _, before, content = mistaken
    folder = tmp_path / "restored"
    prelude = (
        "import sys\nfrom kvserver.base import failpoints\nfrom kvctl.main import main\n"
        "failpoints.arm_from_text('restore.after_base=kill')\nmain()"
    )
    arguments = ["restore", "--archive", server.archive_url, "--to-revision", "202", "--target-dir", str(folder)]
    killed = subprocess.run([sys.executable, "-c", prelude, *arguments], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert (folder / "RESTORE").exists()
    serve = [sys.executable, "-m", "kvserver", "serve", "--data-dir", str(folder), "--listen", "127.0.0.1:0", "--http", "off"]
    refused = subprocess.run(serve, capture_output=True, text=True, check=False, timeout=60)
    assert refused.returncode == 1
    (command,) = [line.partition("kvctl ")[2] for line in refused.stderr.splitlines() if "kvctl restore" in line]
    finished = kvctl(*shlex.split(command))
    assert finished.exit_code == 0, (command, finished.err)
    assert hash_of(kvctl, "check", "hash", "--data-dir", str(folder)) == content
    assert scanned(kvctl, start_kvserver(data_dir=folder)) == before


def test_a_stopped_node_is_hashed_once_it_is_flushed(start_kvserver: StartServer, kvctl: Kvctl) -> None:
    server = start_kvserver()
    there = ("-E", server.address)
    assert kvctl(*there, "import", PACKAGES).exit_code == 0
    in_use = kvctl("check", "hash", "--data-dir", str(server.data_dir), "-o", "json")
    assert (in_use.exit_code, in_use.error["code"]) == (1, "FOLDER_IN_USE")
    live = hash_of(kvctl, *there, "check", "hash")
    assert kvctl(*there, "put", "later", "v").exit_code == 0
    server.stop()
    behind = kvctl("check", "hash", "--data-dir", str(server.data_dir), "-o", "json")
    assert (behind.exit_code, behind.error["code"]) == (1, "NOT_FLUSHED")
    server.start()
    there = ("-E", server.address)
    assert kvctl(*there, "del", "later").exit_code == 0
    assert kvctl(*there, "flush").exit_code == 0
    after = hash_of(kvctl, *there, "check", "hash")
    server.stop()
    assert hash_of(kvctl, "check", "hash", "--data-dir", str(server.data_dir)) == after
    assert after == live, "what was put and deleted again leaves nothing behind"


def test_a_server_with_an_archive_gives_what_the_golden_files_hold(
    start_kvserver: StartServer, kvctl: Kvctl, tmp_path: Path
) -> None:
    server = start_kvserver(archive=True)
    places = {"folder": tmp_path, "archive": server.archive_url, "data": server.data_dir}
    found = []
    for steps in (ARCHIVED, STOPPED):
        for step in steps:
            told = kvctl("-E", server.address, *step.arguments.format(**places).split(), "-o", "json")
            assert told.exit_code == step.exit_code, (step, told.err)
            if step.name:
                found.append(differs(step, told.exit_code, told.out, told.err))
        if steps is ARCHIVED:
            server.stop()
    assert not any(found), "\n".join(found)


def flip(path: Path, offset: int) -> None:
    """Change one bit of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)
