"""``kvctl wal`` on sound, torn and damaged logs; it changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kvctl.main import run
from kvserver.base.fs import OsFileSystem
from kvserver.base.paths import DataPaths
from kvserver.commit.requests import Batch, Delete, Put, PutRun
from kvserver.engine.database import Database
from support.stores import open_store

KEYS = [b"key-%03d" % number for number in range(50)]


def open_db(data_dir: Path) -> Database:
    return open_store(OsFileSystem(), paths=DataPaths(data_dir))


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    db = open_db(tmp_path)
    db.submit(Put(1, b"first", b"\xff\x00", if_revision=0), lambda done: done)
    db.run_log_once()
    db.submit(PutRun(1, KEYS, [b"value"] * 50), lambda done: done)
    db.run_log_once()
    db.submit(Batch([Delete(1, b"first"), Put(1, b"second", b"2")]), lambda done: done)
    db.run_log_once()
    db.close()
    open_db(tmp_path).close()
    return tmp_path


def first_segment(data_dir: Path) -> Path:
    return sorted((data_dir / "wal").iterdir())[0]


def ctl(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(["wal", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_list_names_every_segment(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ctl(capsys, "list", str(data_dir), "-o", "json")
    segments = json.loads(out)["segments"]
    assert code == 0
    assert [(s["state"], s["epoch"], s["first_revision"], s["commits"], s["groups"]) for s in segments] == [
        ("sealed", 1, 2, 52, 3),
        ("sealed", 2, 54, 0, 0),
    ]
    code, out, _ = ctl(capsys, "list", str(data_dir))
    assert out.splitlines()[0].split()[:3] == ["SEGMENT", "STATE", "EPOCH"]


def test_dump_prints_every_commit_as_it_was(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ctl(capsys, "dump", str(data_dir), "-o", "json")
    commits = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert [commit["revision"] for commit in commits] == list(range(2, 54))
    assert commits[0]["effects"] == [
        {"op": "put", "namespace_id": 1, "key": "first", "value_b64": "/wA=", "create_revision": 2, "version": 1}
    ]
    assert [effect["op"] for effect in commits[-1]["effects"]] == ["delete", "put"]


def test_dump_of_a_part(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = ctl(capsys, "dump", str(data_dir), "--from-revision", "10", "--limit", "2")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["10", "11"]
    code, out, _ = ctl(capsys, "dump", str(data_dir), "--segment", "00000002-0000000000000036.wal")
    assert (code, out) == (0, "")
    code, _, err = ctl(capsys, "dump", str(data_dir), "--segment", "../../etc/passwd")
    assert code == 1
    assert "NO_SUCH_SEGMENT" in err


def test_verify_of_a_sound_log(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}
    code, out, _ = ctl(capsys, "verify", str(data_dir), "-o", "json")
    found = json.loads(out)
    assert code == 0
    assert (found["sound"], found["revision"], found["epoch"], found["commits"]) == (True, 53, 2, 52)
    assert before == {path: path.read_bytes() for path in data_dir.rglob("*") if path.is_file()}


def test_verify_beside_a_running_server(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = open_db(data_dir)
    db.submit(Put(1, b"live", b"1"), lambda done: done)
    db.run_log_once()
    code, out, _ = ctl(capsys, "verify", str(data_dir))
    assert code == 0
    assert ["revision", "54"] in [line.split() for line in out.splitlines()]
    assert ctl(capsys, "list", str(data_dir))[1].splitlines()[-1].split()[1] == "open"
    db.close()


def test_verify_finds_a_flipped_bit(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    segment = first_segment(data_dir)
    data = bytearray(segment.read_bytes())
    data[4096 + 100] ^= 1
    segment.write_bytes(data)
    code, out, _ = ctl(capsys, "verify", str(data_dir))
    assert code == 5
    assert segment.name in out
    assert "offset 4096" in out
    code, _, err = ctl(capsys, "dump", str(data_dir))
    assert code == 5
    assert "CORRUPTION" in err


def test_verify_finds_a_missing_segment(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = open_db(data_dir)
    db.submit(Put(1, b"third", b"3"), lambda done: done)
    db.run_log_once()
    db.close()
    segments = sorted((data_dir / "wal").iterdir())
    assert len(segments) == 3
    segments[1].unlink()
    code, out, _ = ctl(capsys, "verify", str(data_dir))
    assert code == 5
    assert segments[2].name in out
    assert "a segment is missing" in out


def test_verify_of_a_log_that_begins_later(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Segments that hold only what is in tables are released: that they are gone is no damage."""
    first_segment(data_dir).unlink()
    code, out, _ = ctl(capsys, "verify", str(data_dir), "-o", "json")
    found = json.loads(out)
    assert (code, found["sound"], found["commits"], found["revision"]) == (0, True, 0, 53)
    assert [one["first_revision"] for one in json.loads(ctl(capsys, "list", str(data_dir), "-o", "json")[1])["segments"]] == [54]


def test_verify_calls_a_torn_end_torn(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = sorted((data_dir / "wal").iterdir())[-1]
    data = last.read_bytes()[:4096] + first_segment(data_dir).read_bytes()[4096:4150]
    last.write_bytes(data)
    code, out, _ = ctl(capsys, "verify", str(data_dir))
    assert code == 0
    assert "torn at offset 4096" in out


def test_a_folder_without_a_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = ctl(capsys, "verify", str(tmp_path))
    assert code == 1
    assert "NOT_A_DATA_DIR" in err
    assert "hint:" in err


def test_raw_forms(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ctl(capsys, "list", str(data_dir), "-o", "raw")
    assert [line.split("\t")[:5] for line in out.splitlines()] == [
        ["00000001-0000000000000002.wal", "sealed", "1", "2", "53"],
        ["00000002-0000000000000036.wal", "sealed", "2", "54", "53"],
    ]
    _, out, _ = ctl(capsys, "dump", str(data_dir), "-o", "raw", "--hex", "--from-revision", "53")
    delete, put = (line.split("\t") for line in out.splitlines())
    assert (delete[0], delete[2:]) == ("53", ["delete", "1", b"first".hex()])
    assert (put[0], put[2:]) == ("53", ["put", "1", b"second".hex(), b"2".hex()])
    _, out, _ = ctl(capsys, "verify", str(data_dir), "-o", "raw")
    fields = dict(line.split("\t") for line in out.splitlines())
    assert (fields["sound"], fields["revision"], fields["commits"]) == ("True", "53", "52")


def test_digits(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = ctl(capsys, "dump", str(data_dir), "--limit", "1", "--hex", "-o", "json")
    (effect,) = json.loads(out)["effects"]
    assert (effect["key_hex"], effect["value_hex"]) == (b"first".hex(), "ff00")
    _, out, _ = ctl(capsys, "dump", str(data_dir), "--limit", "1", "--hex")
    assert out.split()[-1] == b"first".hex()
