"""import and export: whole, fast enough to be frames, and honest about what was kept when something breaks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zstandard

from support.fake_server import FakeServer
from support.fake_store import FakeError

PYTHON = [sys.executable, "-m", "kvctl"]


@pytest.fixture
def small_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a frame of ten lines at most."""
    monkeypatch.setattr("kvctl.loading.MAX_FRAME_PUTS", 10)


def line(number: int) -> str:
    return json.dumps({"key": f"k{number:04}", "value": f"value {number}"})


@pytest.fixture
def hundred(tmp_path: Path) -> Path:
    """A hundred records with a blank line behind the fiftieth."""
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join([line(n) for n in range(1, 51)] + [""] + [line(n) for n in range(52, 102)]))
    return path


def test_import_and_export(kvctl: Any, fake: FakeServer, hundred: Path, tmp_path: Path) -> None:
    told = kvctl("import", str(hundred))
    assert told.exit_code == 0
    assert told.out.startswith(b"imported 100 records (1.3 KiB) in ")
    assert told.out.endswith(b"/s, revisions 2 to 101\n")
    for name in ("out.jsonl", "out.jsonl.zst"):
        out = tmp_path / name
        assert kvctl("export", str(out), "-o", "json").json["exported"] == 100
        stored = out.read_bytes()
        text = zstandard.ZstdDecompressor().decompressobj().decompress(stored) if name.endswith("zst") else stored
        assert text.decode().splitlines() == [row for row in hundred.read_text().splitlines() if row]
    assert kvctl("export").out == (tmp_path / "out.jsonl").read_bytes()
    assert len(kvctl("export", "--prefix", "k000").out.splitlines()) == 9
    assert len(kvctl("export", "-", "--revision", "11").out.splitlines()) == 10


def test_import_as_json(kvctl: Any, hundred: Path) -> None:
    told = kvctl("import", str(hundred), "-o", "json").json
    seconds = told.pop("seconds")
    assert seconds >= 0
    assert told == {
        "imported": 100,
        "skipped_lines": 0,
        "bytes": 1293,
        "first_revision": 2,
        "last_revision": 101,
        "left_out": 0,
        "faults": [],
        "format": "lines",
    }


def test_import_compressed_and_from_a_pipe(kvctl: Any, fake: FakeServer, hundred: Path, tmp_path: Path) -> None:
    packed = tmp_path / "in.jsonl.zst"
    packed.write_bytes(zstandard.compress(hundred.read_bytes()))
    assert kvctl("import", str(packed), "-o", "raw").out == b"100\n"
    command = [*PYTHON, "-E", fake.endpoint, "import", "-", "-o", "raw"]
    for data in (hundred.read_bytes(), packed.read_bytes()):
        done = subprocess.run(command, input=data, capture_output=True, check=True)
        assert (done.stdout, done.stderr) == (b"100\n", b"")


def test_any_bytes_survive_export_and_import(kvctl: Any, fake: FakeServer, fill: Any, tmp_path: Path) -> None:
    pairs = {bytes([number, 255 - number]): bytes(range(number, 256)) for number in range(256)}
    fill(pairs)
    out = tmp_path / "all.zst"
    assert kvctl("export", str(out)).exit_code == 0
    fake.store.rows.clear()
    assert kvctl("import", str(out)).exit_code == 0
    found = {key: chain[-1].value for (_, key), chain in fake.store.rows.items()}
    assert found == pairs


def test_scan_output_can_be_imported(kvctl: Any, fake: FakeServer, fill: Any, tmp_path: Path) -> None:
    fill({b"a": b"1", b"\xff": b"\xfe"})
    path = tmp_path / "scan.jsonl"
    path.write_bytes(kvctl("scan", "-o", "json").out)
    assert kvctl("import", str(path)).exit_code == 0
    assert fake.store.rows["", b"\xff"][-1].version == 2


def test_an_empty_file_is_nothing_to_import(kvctl: Any, tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.write_bytes(b"\n\n")
    told = kvctl("import", str(path))
    assert told.exit_code == 0
    assert told.out.startswith(b"imported 0 records (0 B)")


@pytest.mark.usefixtures("small_frames")
@pytest.mark.parametrize("bad_line", [1, 7, 31, 49])
def test_a_bad_line_is_named_and_all_before_it_is_kept(kvctl: Any, fake: FakeServer, hundred: Path, bad_line: int) -> None:
    lines = hundred.read_text().splitlines()
    lines[bad_line - 1] = '{"key": "k"'
    hundred.write_text("\n".join(lines))
    told = kvctl("import", str(hundred), "-o", "json")
    assert told.exit_code == 1
    assert told.error["code"] == "BAD_INPUT"
    assert told.error["message"].startswith(f"line {bad_line}: not JSON")
    assert (told.error["line"], told.error["acknowledged"]) == (bad_line, bad_line - 1)
    assert told.error["through_line"] == bad_line - 1
    assert len(fake.store.rows) == bad_line - 1
    lines[bad_line - 1] = line(bad_line)
    hundred.write_text("\n".join(lines))
    assert kvctl("import", str(hundred), "--skip", str(bad_line - 1)).exit_code == 0
    assert len(fake.store.rows) == 100
    assert {len(chain) for chain in fake.store.rows.values()} == {1}, "nothing was sent twice"


@pytest.mark.usefixtures("small_frames")
def test_a_refused_line_is_named(kvctl: Any, fake: FakeServer, hundred: Path) -> None:
    fake.pipeline_failures[b"k0033"] = FakeError("MEMORY_FULL", "no room")
    told = kvctl("import", str(hundred))
    assert told.exit_code == 4
    error, hint = told.err.splitlines()
    assert error.startswith("error: line 33: no room; ")
    assert error.endswith("all up to line 32 [MEMORY_FULL]")
    assert hint == f"hint: go on with: kvctl -E {fake.endpoint} import {hundred} --skip 32"
    fake.pipeline_failures.clear()
    assert kvctl("import", str(hundred), "--skip", "32").exit_code == 0
    assert len(fake.store.rows) == 100


@pytest.mark.parametrize(
    ("record", "code"),
    [
        ({"key": "", "value": "v"}, "EMPTY_KEY"),
        ({"key": "k" * 9000, "value": "v"}, "KEY_TOO_LARGE"),
        ({"key": "k", "value": "v" * (1024 * 1024 + 1)}, "VALUE_TOO_LARGE"),
    ],
)
def test_records_outside_the_limits(kvctl: Any, tmp_path: Path, record: dict[str, str], code: str) -> None:
    path = tmp_path / "in"
    path.write_text(f"{line(1)}\n\n{json.dumps(record)}\n{line(4)}\n")
    told = kvctl("import", str(path), "-o", "json")
    assert (told.exit_code, told.error["code"], told.error["line"]) == (4, code, 3)


@pytest.mark.usefixtures("small_frames")
def test_a_broken_connection_says_what_was_kept_and_how_to_go_on(
    kvctl: Any, fake: FakeServer, hundred: Path, tmp_path: Path
) -> None:
    acked = tmp_path / "acked"
    fake.pipeline_breaks_after = 6
    told = kvctl("import", str(hundred), "--acked-log", str(acked))
    assert told.exit_code == 3
    error, hint = told.err.splitlines()
    assert "may or may not have been kept" in error
    assert error.endswith("; 60 records acknowledged, all up to line 61 [OUTCOME_UNKNOWN]")
    assert hint.endswith(f"; go on with: kvctl -E {fake.endpoint} import {hundred} --skip 61")
    noted = [json.loads(row) for row in acked.read_text().splitlines()]
    assert [row["key"] for row in noted] == [f"k{n:04}" for n in range(1, 62) if n != 51]
    assert [row["revision"] for row in noted] == list(range(2, 62))
    fake.pipeline_breaks_after = None
    assert kvctl("import", str(hundred), "--skip", "61", "--acked-log", str(acked)).exit_code == 0
    assert len(acked.read_text().splitlines()) == 100
    assert len(fake.store.rows) == 100


def test_a_server_that_falls_silent_ends_with_3(kvctl: Any, fake: FakeServer, hundred: Path) -> None:
    fake.pipeline_mute = True
    told = kvctl("import", str(hundred), "--timeout", "300ms", "-o", "json")
    assert (told.exit_code, told.error["code"], told.error["acknowledged"]) == (3, "OUTCOME_UNKNOWN", 0)


def test_a_missing_server_or_file(offline: Any, kvctl: Any, absent_endpoint: str, hundred: Path, tmp_path: Path) -> None:
    assert offline("-E", absent_endpoint, "import", str(hundred)).exit_code == 3
    missing = kvctl("import", str(tmp_path / "no.jsonl"))
    assert missing.exit_code == 1
    assert missing.err == f"error: {tmp_path}/no.jsonl: No such file or directory [FILE_ERROR]\n"
    assert kvctl("import", str(tmp_path)).err.endswith("Is a directory [FILE_ERROR]\n")
    assert kvctl("export", str(tmp_path)).err == f"error: {tmp_path} is a folder [FILE_ERROR]\n"
    assert kvctl("export", str(tmp_path / "no" / "out")).exit_code == 1


def test_an_unknown_namespace(kvctl: Any, hundred: Path) -> None:
    told = kvctl("-n", "nowhere", "import", str(hundred), "-o", "json")
    assert (told.exit_code, told.error["code"], told.error["line"]) == (4, "UNKNOWN_NAMESPACE", 1)


def test_an_export_that_fails_leaves_the_old_file(kvctl: Any, fake: FakeServer, fill: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_bytes(b"before")
    fill({b"a": b"1"})
    fake.scan_is_cut = True
    assert kvctl("export", str(out)).exit_code == 4
    assert out.read_bytes() == b"before"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out.jsonl"]


def test_interrupting_an_import_says_what_was_kept(fake: FakeServer) -> None:
    command = [*PYTHON, "-E", fake.endpoint, "import", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(f"{line(1)}\n{line(2)}\n".encode())
        process.stdin.flush()
        while ("", b"k0002") not in fake.store.rows:
            assert process.poll() is None
        os.kill(process.pid, signal.SIGINT)
        told = process.stderr.read().decode()
        assert process.wait(20) == 130
    assert "records acknowledged, all up to line" in told
    assert told.endswith("error: interrupted [INTERRUPTED]\n")
    assert "Traceback" not in told
    assert "Fatal" not in told
