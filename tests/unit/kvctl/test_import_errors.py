"""Bad input to import: broken lines, records beyond limits, files cut or damaged; stopped at, or left out and named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import zstandard

from kvctl import binary, loading
from support.fake_server import FakeServer
from support.fake_store import FakeError


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a frame of at most ten records, and a block of about ten."""
    monkeypatch.setattr(loading, "MAX_FRAME_PUTS", 10)
    monkeypatch.setattr(binary, "TARGET_BLOCK_BYTES", 240)


def line(number: int) -> str:
    return json.dumps({"key": f"k{number:04}", "value": "x" * 19})


def write_lines(path: Path, count: int, broken: dict[int, str]) -> None:
    path.write_text("".join(broken.get(number, line(number)) + "\n" for number in range(1, count + 1)))


@pytest.fixture
def exported(kvctl: Any, fake: FakeServer, tmp_path: Path) -> Path:
    """A binary export of fifty records in blocks of ten; the server has forgotten them."""
    write_lines(tmp_path / "lines", 50, {})
    assert kvctl("import", str(tmp_path / "lines")).exit_code == 0
    path = tmp_path / "all.kvd"
    assert kvctl("export", str(path)).exit_code == 0
    fake.store.rows.clear()
    return path


def keys(fake: FakeServer) -> set[int]:
    return {int(key[1:]) for _, key in fake.store.rows}


BROKEN = {7: "nonsense", 20: '{"key": "k"}', 33: json.dumps({"key": "k" * 9000, "value": ""})}


def test_stop_ends_at_the_first_broken_line(kvctl: Any, fake: FakeServer, tmp_path: Path) -> None:
    write_lines(tmp_path / "in", 50, BROKEN)
    told = kvctl("import", str(tmp_path / "in"), "-o", "json")
    assert told.exit_code == 1
    assert (told.error["line"], told.error["acknowledged"], told.error["through_line"]) == (7, 6, 6)
    assert told.error["hint"].startswith("mend it, or leave such ones out with --on-error skip; then go on with: kvctl ")
    assert keys(fake) == set(range(1, 7)), "nothing behind it was sent"


def test_skip_leaves_broken_lines_out_and_names_them(kvctl: Any, fake: FakeServer, tmp_path: Path) -> None:
    write_lines(tmp_path / "in", 50, BROKEN)
    told = kvctl("import", str(tmp_path / "in"), "--on-error", "skip", "-o", "json")
    assert told.exit_code == 1, "a part must not pass for the whole"
    assert (told.json["imported"], told.json["left_out"]) == (47, 3)
    assert [(fault["line"], fault["code"]) for fault in told.json["faults"]] == [
        (7, "BAD_INPUT"),
        (20, "BAD_INPUT"),
        (33, "KEY_TOO_LARGE"),
    ]
    assert (told.error["code"], told.error["left_out"], told.error["faults"]) == ("LEFT_OUT", 3, told.json["faults"])
    assert keys(fake) == set(range(1, 51)) - BROKEN.keys()
    people = kvctl("import", str(tmp_path / "in"), "--on-error", "skip")
    assert people.out.startswith(b"imported 47 records")
    assert people.err.startswith("error: 3 records left out: line 7: not JSON: ")
    assert "line 33: the key has 9000 bytes; a key may have 8192 [LEFT_OUT]" in people.err


def test_skip_of_nothing_is_no_error(kvctl: Any, tmp_path: Path) -> None:
    write_lines(tmp_path / "in", 50, {})
    told = kvctl("import", str(tmp_path / "in"), "--on-error", "skip", "-o", "json")
    assert (told.exit_code, told.err, told.json["left_out"]) == (0, "", 0)


def test_many_faults_are_counted_and_the_first_named(kvctl: Any, tmp_path: Path) -> None:
    write_lines(tmp_path / "in", 100, dict.fromkeys(range(1, 101, 2), "nonsense"))
    told = kvctl("import", str(tmp_path / "in"), "--on-error", "skip", "-o", "json")
    assert (told.json["imported"], told.json["left_out"], len(told.json["faults"])) == (50, 50, loading.NAMED_FAULTS)
    assert told.error["message"].endswith("; and more")


def test_what_breaks_off_names_what_was_left_out_before(kvctl: Any, fake: FakeServer, tmp_path: Path) -> None:
    write_lines(tmp_path / "in", 50, {7: "nonsense"})
    fake.pipeline_failures[b"k0030"] = FakeError("DISK_FULL", "no space")
    told = kvctl("import", str(tmp_path / "in"), "--on-error", "skip", "-o", "json")
    assert (told.exit_code, told.error["code"], told.error["line"]) == (4, "DISK_FULL", 30)
    assert (told.error["through_line"], told.error["left_out"]) == (29, 1)
    assert told.error["hint"].endswith("--skip 29 --on-error skip")


def test_what_the_server_refuses_as_such_is_left_out(kvctl: Any, fake: FakeServer, tmp_path: Path) -> None:
    write_lines(tmp_path / "in", 50, {})
    fake.pipeline_failures[b"k0030"] = FakeError("INVALID_FIELD", "a rule that kvctl does not know")
    told = kvctl("import", str(tmp_path / "in"), "--on-error", "skip", "-o", "json")
    assert (told.exit_code, told.json["imported"], told.json["left_out"]) == (1, 49, 1)
    assert told.json["faults"][0]["line"] == 30
    stopped = kvctl("import", str(tmp_path / "in"), "-o", "json")
    assert (stopped.exit_code, stopped.error["line"]) == (4, 30)


def test_skipped_lines_are_not_looked_at(kvctl: Any, fake: FakeServer, tmp_path: Path) -> None:
    write_lines(tmp_path / "in", 50, {7: "nonsense"})
    told = kvctl("import", str(tmp_path / "in"), "--skip", "7", "-o", "json")
    assert (told.exit_code, told.json["imported"], told.json["skipped_lines"]) == (0, 43, 7)


def test_binary_goes_round(kvctl: Any, fake: FakeServer, exported: Path, tmp_path: Path) -> None:
    told = kvctl("import", str(exported), "-o", "json").json
    assert (told["imported"], told["format"], told["left_out"]) == (50, "binary", 0)
    packed = tmp_path / "named as it likes"
    packed.write_bytes(zstandard.compress(exported.read_bytes()))
    fake.store.rows.clear()
    assert kvctl("import", str(packed), "--skip", "12", "-o", "raw").out == b"38\n"
    assert keys(fake) == set(range(13, 51))


@pytest.mark.parametrize("cut", [1, 40, 100, 200])
def test_a_cut_binary_file_is_named_with_byte_and_record(kvctl: Any, fake: FakeServer, exported: Path, cut: int) -> None:
    data = exported.read_bytes()[:-cut]
    exported.write_bytes(data)
    for more in ((), ("--on-error", "skip")):
        fake.store.rows.clear()
        told = kvctl("import", str(exported), *more, "-o", "json")
        error = told.error
        assert (told.exit_code, error["code"], error["offset"]) == (1, "BAD_INPUT", len(data))
        assert error["record"] == error["acknowledged"] == error["through_record"] == len(keys(fake))
        assert f"{exported} ends at byte {len(data)}, behind record {error['record']}" in error["message"]
        assert "line" not in error
        if error["acknowledged"]:
            assert f"--skip {error['record']}" in error["hint"]


def test_a_damaged_block_stops_or_is_left_out(kvctl: Any, fake: FakeServer, exported: Path) -> None:
    data = bytearray(exported.read_bytes())
    blocks = [place for place in range(len(data)) if data[place : place + 4] == binary.BLOCK]
    assert len(blocks) == 5
    data[blocks[2] + 40] ^= 1
    exported.write_bytes(data)
    told = kvctl("import", str(exported), "-o", "json")
    assert (told.exit_code, told.error["code"]) == (1, "BAD_INPUT")
    assert (told.error["record"], told.error["acknowledged"], told.error["through_record"]) == (21, 20, 20)
    assert f"records 21 to 30: the block at byte {blocks[2]} of {exported} is damaged" in told.error["message"]
    fake.store.rows.clear()
    told = kvctl("import", str(exported), "--on-error", "skip", "-o", "json")
    assert (told.exit_code, told.json["imported"], told.json["left_out"]) == (1, 40, 10)
    (fault,) = told.json["faults"]
    assert (fault["record"], fault["records"]) == (21, 10)
    assert keys(fake) == set(range(1, 51)) - set(range(21, 31))


def test_a_damaged_head_ends_it_in_any_case(kvctl: Any, fake: FakeServer, exported: Path) -> None:
    data = bytearray(exported.read_bytes())
    blocks = [place for place in range(len(data)) if data[place : place + 4] == binary.BLOCK]
    data[blocks[2] + 5] ^= 1
    exported.write_bytes(data)
    told = kvctl("import", str(exported), "--on-error", "skip", "-o", "json")
    assert (told.exit_code, told.error["offset"], told.error["record"]) == (1, blocks[2], 20)
    assert keys(fake) == set(range(1, 21))


@pytest.mark.parametrize("keep", [0, 2, 100, -1])
def test_a_cut_zst_is_named_as_such(kvctl: Any, fake: FakeServer, tmp_path: Path, keep: int) -> None:
    path = tmp_path / "in.jsonl.zst"
    lines = b"".join(json.dumps({"key": f"k{n}", "value": os.urandom(100).hex()}).encode() + b"\n" for n in range(2000))
    data = zstandard.compress(lines)[:keep]
    path.write_bytes(data)
    told = kvctl("import", str(path), "-o", "json")
    assert (told.exit_code, told.error["code"], told.error["offset"]) == (1, "BAD_INPUT", len(data))
    assert f"{path} ends inside compressed data, behind byte {len(data)}: it is not whole" in told.error["message"]
    assert told.error["acknowledged"] == told.error["through_line"] == len(fake.store.rows)
    if not fake.store.rows:
        assert told.error["message"].endswith("; nothing was written")


def test_a_dry_run_checks_and_sends_nothing(offline: Any, exported: Path, tmp_path: Path, absent_endpoint: str) -> None:
    write_lines(tmp_path / "in", 50, BROKEN)

    def check(path: Path, *more: str) -> Any:
        return offline("-E", absent_endpoint, "import", str(path), "--dry-run", "-o", "json", *more)

    stopped = check(tmp_path / "in")
    assert (stopped.exit_code, stopped.out, stopped.error["line"]) == (1, b"", 7)
    skipped = check(tmp_path / "in", "--on-error", "skip")
    assert (skipped.exit_code, skipped.json["would_import"], skipped.json["left_out"]) == (1, 47, 3)
    assert skipped.error["code"] == "LEFT_OUT"
    sound = check(exported).json
    source = sound.pop("source")
    assert sound == {
        "dry_run": True,
        "would_import": 50,
        "skipped_lines": 0,
        "bytes": 50 * 24,
        "left_out": 0,
        "faults": [],
        "format": "binary",
    }
    assert (source["revision"], source["namespace"], source["epoch"]) == (51, "", 1)
    told = offline("-E", absent_endpoint, "import", str(exported), "--dry-run")
    assert told.out == b"would import 50 records (1.2 KiB); nothing was sent\n"
    assert offline("import", str(exported), "--dry-run", "-o", "raw", "--skip", "7").out == b"43\n"


def test_the_line_to_go_on_with_reaches_the_same_keys(kvctl: Any, fake: FakeServer, tmp_path: Path) -> None:
    kvctl("namespace", "create", "team/a")
    path = tmp_path / "in put"
    write_lines(path, 50, {30: "nonsense"})
    told = kvctl("-n", "team/a", "import", str(path))
    assert told.err.endswith(f"; then go on with: kvctl -E {fake.endpoint} -n team/a import '{path}' --skip 29\n")


def test_what_the_server_refuses_ends_the_sending(kvctl: Any, fake: FakeServer, tmp_path: Path) -> None:
    write_lines(tmp_path / "in", 2000, {})
    fake.pipeline_failures[b"k0005"] = FakeError("DISK_FULL", "no space")
    told = kvctl("import", str(tmp_path / "in"), "-o", "json")
    assert (told.exit_code, told.error["line"], told.error["through_line"]) == (4, 5, 4)
    assert len(fake.store.rows) < 1000, "only what was under way by then"
