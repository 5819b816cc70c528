"""kvctl against a server process: the contract of its JSON, copies of any bytes, large deletions, and a server that dies."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.kvctl_runs import Kvctl
from integration.processes import Process
from unit.kvctl.golden import OFFLINE, SCENARIO, differs, prepare

NOBODY = "127.0.0.1:1"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    with Process("--data-dir", str(tmp_path / "data")) as process:
        yield process.ready()


def test_a_server_gives_what_the_golden_files_hold(server: Process, kvctl: Kvctl, tmp_path: Path) -> None:
    prepare(tmp_path)
    found = []
    for step in SCENARIO:
        words = step.arguments.format(folder=tmp_path, nobody=NOBODY, endpoint=server.address).split()
        told = kvctl("-E", server.address, *words, "-o", "json")
        assert told.exit_code == step.exit_code, (step, told.err)
        if step.name:
            found.append(differs(step, told.exit_code, told.out, told.err))
    assert server.stop() == 0
    for step in OFFLINE:
        told = kvctl(*step.arguments.format(data=tmp_path / "data").split(), "-o", "json")
        found.append(differs(step, told.exit_code, told.out, told.err))
    assert not any(found), "\n".join(found)


def records(count: int) -> dict[bytes, bytes]:
    """Return records of any bytes, in the order of their keys."""
    chosen = random.Random(7)
    pairs = {chosen.randbytes(chosen.randrange(1, 40)): chosen.randbytes(chosen.choice([0, 1, 100, 3000])) for _ in range(count)}
    return dict(sorted(pairs.items()))


def write_lines(path: Path, pairs: dict[bytes, bytes]) -> None:
    path.write_text("".join(json.dumps({"key_hex": key.hex(), "value_hex": value.hex()}) + "\n" for key, value in pairs.items()))


@pytest.mark.parametrize("name", ["all.kvd", "all.jsonl.zst"])
def test_a_copy_by_way_of_a_file_is_equal(server: Process, kvctl: Kvctl, tmp_path: Path, name: str) -> None:
    pairs = records(5_000)
    write_lines(tmp_path / "in.jsonl", pairs)
    there = ("-E", server.address)
    assert kvctl(*there, "import", str(tmp_path / "in.jsonl"), "-o", "json").json["imported"] == len(pairs)
    kvctl(*there, "namespace", "create", "copy")
    saved = kvctl(*there, "export", str(tmp_path / name), "-o", "json").json
    assert saved["exported"] == len(pairs)
    for path in (tmp_path / name, tmp_path / "in.jsonl"):
        dry = kvctl(*there, "import", str(path), "--dry-run", "-o", "json").json
        assert (dry["would_import"], dry["bytes"]) == (len(pairs), sum(len(key) + len(pairs[key]) for key in pairs))
    assert kvctl(*there, "-n", "copy", "import", str(tmp_path / name)).exit_code == 0
    one, two = (kvctl(*there, *which, "export").out for which in ((), ("-n", "copy")))
    assert one == two
    assert len(one.splitlines()) == len(pairs)


def test_through_a_pipe(server: Process, tmp_path: Path) -> None:
    pairs = records(2_000)
    write_lines(tmp_path / "in.jsonl", pairs)
    kvctl = f"{sys.executable} -m kvctl -E {server.address}"
    script = (
        f"set -e -o pipefail; {kvctl} import - < {tmp_path}/in.jsonl; {kvctl} namespace create copy; "
        f"{kvctl} export - --format binary | {kvctl} -n copy import - -o json"
    )
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout.splitlines()[-1])["imported"] == len(pairs)


def test_more_keys_than_a_commit_holds(server: Process, kvctl: Kvctl, tmp_path: Path) -> None:
    write_lines(tmp_path / "in", {b"tmp/%06d" % number: b"" for number in range(12_000)} | {b"z": b"stays"})
    there = ("-E", server.address)
    assert kvctl(*there, "import", str(tmp_path / "in")).exit_code == 0
    assert kvctl(*there, "del", "--prefix", "tmp/", "--dry-run", "-o", "json").json["would_delete"] == 12_000
    gone = kvctl(*there, "del", "--prefix", "tmp/", "--yes", "-o", "json").json
    assert (gone["deleted"], gone["commits"]) == (12_000, 3)
    assert kvctl(*there, "scan", "--keys-only", "-o", "raw").out == b"z\n"


def test_a_batch_is_all_or_nothing(server: Process, kvctl: Kvctl, tmp_path: Path) -> None:
    there = ("-E", server.address)
    lines = [{"op": "put", "key": f"k{number:05}", "value": "v"} for number in range(9_999)]
    lines.append({"op": "put", "key": "guard", "value": "v", "if_absent": True})
    (tmp_path / "batch").write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = kvctl(*there, "write", str(tmp_path / "batch"), "-o", "json").json
    assert (done["put"], done["revision"]) == (10_000, 2)
    assert kvctl(*there, "del", "k00000").exit_code == 0
    again = kvctl(*there, "write", str(tmp_path / "batch"), "-o", "json")
    assert (again.exit_code, again.error["code"], again.error["mod_revision"]) == (7, "CONDITION_FAILED", 2)
    assert kvctl(*there, "get", "k00000").exit_code == 6
    (tmp_path / "twice").write_text('{"op": "delete", "key": "k00001"}\n{"op": "delete_prefix", "prefix": "k"}\n')
    twice = kvctl(*there, "write", str(tmp_path / "twice"), "-o", "json")
    assert (twice.exit_code, twice.error["code"]) == (4, "DUPLICATE_KEY")


def test_records_beyond_the_limits_are_named_and_the_others_loaded(server: Process, kvctl: Kvctl, tmp_path: Path) -> None:
    pairs = {b"a": b"1", b"b": b"x" * 5_000_000, b"c" * 9_000: b"", b"d": b"x" * 1024 * 1024, b"e" * 8192: b"1"}
    write_lines(tmp_path / "in", pairs)
    there = ("-E", server.address)
    stopped = kvctl(*there, "import", str(tmp_path / "in"), "-o", "json")
    assert (stopped.exit_code, stopped.error["code"], stopped.error["line"]) == (4, "VALUE_TOO_LARGE", 2)
    told = kvctl(*there, "import", str(tmp_path / "in"), "--on-error", "skip", "-o", "json")
    assert (told.exit_code, told.json["imported"]) == (1, 3)
    assert [(fault["line"], fault["code"]) for fault in told.json["faults"]] == [(2, "VALUE_TOO_LARGE"), (3, "KEY_TOO_LARGE")]
    assert kvctl(*there, "scan", "--count-only").out == b"3\n"


def test_an_import_goes_on_behind_a_server_that_was_killed(tmp_path: Path, kvctl: Kvctl) -> None:
    """What was told as acknowledged is there after the crash, and the line in the hint brings the rest."""
    data = str(tmp_path / "data")
    path = tmp_path / "in.jsonl"
    total = 60_000
    path.write_text("".join(f'{{"key": "k{number:06}", "value": "{"v" * 100}"}}\n' for number in range(1, total + 1)))
    acked = tmp_path / "acked"
    with Process("--data-dir", data) as server:
        server.ready()
        command = [sys.executable, "-m", "kvctl", "-E", server.address, "import", str(path), "-o", "json"]
        with subprocess.Popen([*command, "--acked-log", str(acked)], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as loader:
            while not acked.exists() or acked.stat().st_size < 100_000:
                assert loader.poll() is None, loader.stderr
            server.signal(signal.SIGKILL)
            out, err = loader.communicate(timeout=60)
    assert (loader.returncode, out) == (3, b"")
    error = json.loads(err.splitlines()[-1])
    assert error["code"] in ("OUTCOME_UNKNOWN", "UNAVAILABLE")
    assert 0 < error["acknowledged"] < total
    words = re.search(r"go on with: kvctl -E \S+ (import .*)$", error["hint"])
    assert words, error["hint"]
    with Process("--data-dir", data) as server:
        server.ready()
        there = ("-E", server.address)
        kept = {line.split("\t")[0] for line in kvctl(*there, "scan", "-o", "raw").out.decode().splitlines()}
        noted = {json.loads(line)["key"] for line in acked.read_text().splitlines()}
        assert noted <= kept
        assert {f"k{number:06}" for number in range(1, error["through_line"] + 1)} <= kept
        rest = kvctl(*there, *words[1].split(), "-o", "json").json
        assert rest["imported"] == total - error["through_line"]
        assert kvctl(*there, "scan", "--count-only").out == b"%d\n" % total
