"""``kvctl doctor`` on a real folder with real tables: what it prints, how it ends, and that it changes nothing."""

from __future__ import annotations

import fcntl
import signal
from pathlib import Path

import pytest

from integration.processes import Process
from kvctl.commands import doctor as command
from kvctl.progress import ProgressBar
from kvserver.base.fs import OsFileSystem
from kvserver.base.paths import DataPaths
from kvserver.engine.examination import examine as examination
from kvserver.engine.examination.examine import CHECKS, Check
from kvserver.engine.examination.findings import Finding
from kvserver.engine.examination.subject import Subject
from kvserver.storage import rows
from kvserver.storage.rocks import RocksTables
from support.logs import PATHS
from unit.engine.examined import Scene
from unit.kvctl.conftest import Kvctl, Outcome

_MANY = 4_000


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """The scene of the engine's tests on the real disk, its tables in RocksDB; some rows more, so that there are blocks."""
    scene = Scene()
    root = tmp_path / "node"
    for path, content in scene.fs.contents().items():
        if path.is_relative_to(PATHS.root) and not path.is_relative_to(PATHS.tables):
            target = root / path.relative_to(PATHS.root)
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            target.write_bytes(content)
    root.chmod(0o700)
    paths = DataPaths(root)
    paths.building.mkdir(mode=0o700)
    held = scene.rows | {
        rows.history_key(2, 1, b"x%05d" % number, 9): rows.encode_version(3, 3, 1, b"%099d" % number) for number in range(_MANY)
    }
    tables = RocksTables.open(paths.tables, 8 << 20)
    writer = tables.new_table(paths.table_being_built(9))
    for key in sorted(held):
        writer.put(key, held[key])
    writer.finish()
    tables.ingest(paths.table_being_built(9))
    tables.close()
    return root


def snapshot(root: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in root.rglob("*") if path.is_file()}


def examined(offline: Kvctl, data_dir: Path, *options: str) -> Outcome:
    return offline("doctor", "--data-dir", str(data_dir), *options)


def bad(outcome: Outcome) -> list[tuple[str, str]]:
    """Return check and level of what is worse than ok; what this machine is like is left out."""
    machine = {"mount", "space", "inodes", "memory", "descriptors", "file-size", "owner", "sync"}
    found = [(one["check"], one["level"]) for one in outcome.json["findings"]]
    return [one for one in found if one[1] != "ok" and one[0] not in machine]


def test_a_sound_folder(data_dir: Path, offline: Kvctl) -> None:
    before = snapshot(data_dir)
    outcome = examined(offline, data_dir, "--deep", "-o", "json")
    assert outcome.exit_code == 0, outcome.out
    assert outcome.json["verdict"] in ("ok", "note", "warning")
    assert outcome.json["in_use"] is False
    assert bad(outcome) == []
    found = {one["check"]: one["found"] for one in outcome.json["findings"]}
    assert f"all {_MANY + 14:,} rows were read" in [one["found"] for one in outcome.json["findings"]][7]
    assert found["marks"] == "the tables end at revision 9, the log goes on there to 13"
    assert set(found) == {check.name for check in CHECKS}
    assert sum(outcome.json["counts"].values()) == len(outcome.json["findings"])
    assert set(outcome.json["counts"]) == {"ok", "note", "warning", "problem"}
    assert snapshot(data_dir) == before


def test_the_list_for_people(data_dir: Path, offline: Kvctl, monkeypatch: pytest.MonkeyPatch) -> None:
    (data_dir / "notes\x1b.txt").write_bytes(b"")
    lines = examined(offline, data_dir).out.decode().splitlines()
    assert any(line.startswith("ok: ") and "identity" in line and "-v shows them" in line for line in lines)
    assert lines[-1].split(":")[0] in ("note", "warning")
    assert str(data_dir) in lines[-1]
    at = next(number for number, line in enumerate(lines) if "notes\\x1b.txt" in line)
    assert lines[at].split()[0] == "folder"
    assert lines[at + 1].strip().startswith("do: move what is not needed")
    assert not any("\x1b" in line for line in lines)
    verbose = examined(offline, data_dir, "-v").out.decode()
    assert "the tables end at revision 9" in verbose
    raw = examined(offline, data_dir, "-o", "raw").out.decode().splitlines()
    assert all(len(line.split("\t")) == 5 for line in raw)


def test_only_a_problem_ends_with_5(data_dir: Path, offline: Kvctl) -> None:
    (data_dir / "wal" / "prepared-1.tmp").write_bytes(b"")
    outcome = examined(offline, data_dir, "-o", "json")
    assert (outcome.exit_code, bad(outcome)) == (0, [("leftovers", "note")])
    (data_dir / "IDENTITY").unlink()
    outcome = examined(offline, data_dir)
    assert outcome.exit_code == 5
    assert outcome.out.decode().splitlines()[0] == "problems:"
    assert "holds a log but no IDENTITY" in outcome.out.decode()


def test_a_folder_that_is_not_there(tmp_path: Path, offline: Kvctl) -> None:
    outcome = examined(offline, tmp_path / "none")
    assert outcome.exit_code == 5
    assert "there is no such folder" in outcome.out.decode()
    assert offline("doctor").exit_code == 2
    assert not (tmp_path / "none").exists()


def test_an_empty_folder_stays_empty(tmp_path: Path, offline: Kvctl) -> None:
    outcome = examined(offline, tmp_path, "--probe-disk", "--deep", "-o", "json")
    assert outcome.exit_code == 0, outcome.out
    assert ("folder", "note") in bad(outcome)
    assert list(tmp_path.iterdir()) == []


def table_of(data_dir: Path) -> Path:
    return next((data_dir / "tables").glob("*.sst"))


def test_a_flipped_bit_in_a_table_is_found_by_deep(data_dir: Path, offline: Kvctl) -> None:
    table = table_of(data_dir)
    data = bytearray(table.read_bytes())
    data[len(data) // 3] ^= 1
    table.write_bytes(data)
    outcome = examined(offline, data_dir, "--deep", "-o", "json")
    assert outcome.exit_code == 5
    (finding,) = [one for one in outcome.json["findings"] if one["level"] == "problem"]
    assert (finding["check"], "checkpoint" in finding["advice"]) == ("tables", True)
    assert str(table) in finding["found"]


@pytest.mark.parametrize("damage", ["missing table", "cut table", "missing manifest", "missing CURRENT", "empty CURRENT"])
def test_damaged_tables(data_dir: Path, offline: Kvctl, damage: str) -> None:
    kind, _, what = damage.partition(" ")
    tables = data_dir / "tables"
    path = {"table": table_of(data_dir), "CURRENT": tables / "CURRENT"}.get(what) or next(tables.glob("MANIFEST-*"))
    if kind == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if kind == "cut" else b"")
    before = snapshot(data_dir)
    outcome = examined(offline, data_dir, "-o", "json")
    assert outcome.exit_code == 5
    found = [one for one in outcome.json["findings"] if one["check"] == "tables" and one["level"] == "problem"]
    assert len(found) == 1 and found[0]["advice"], outcome.json
    assert snapshot(data_dir) == before


def test_a_manifest_that_lost_its_end(data_dir: Path, offline: Kvctl) -> None:
    """RocksDB takes what is left of it for the whole, and knows of no table."""
    manifest = next((data_dir / "tables").glob("MANIFEST-*"))
    manifest.write_bytes(manifest.read_bytes()[: manifest.stat().st_size // 2])
    outcome = examined(offline, data_dir, "-o", "json")
    assert ("tables", "warning") in bad(outcome), outcome.out


def test_tables_on_a_disk_that_cannot_be_written(data_dir: Path, offline: Kvctl, monkeypatch: pytest.MonkeyPatch) -> None:
    """The binding writes into a folder whenever it opens it; it must not get at this one."""
    tables = data_dir / "tables"
    (tables / "rocksdict-config.json").unlink()
    outcome = examined(offline, data_dir, "-o", "json")
    assert (outcome.exit_code, bad(outcome)) == (0, [])
    assert not (tables / "rocksdict-config.json").exists()


def test_beside_a_running_server(data_dir: Path, offline: Kvctl) -> None:
    """The lock and the tables are held as a server holds them."""
    lock = OsFileSystem().lock(data_dir / "LOCK")
    tables = RocksTables.open(data_dir / "tables", 8 << 20)
    try:
        outcome = examined(offline, data_dir, "--deep", "-o", "json")
        assert (outcome.exit_code, outcome.json["in_use"], bad(outcome)) == (0, True, []), outcome.out
        told = next(one["found"] for one in outcome.json["findings"] if one["check"] == "lock")
        assert told.startswith("in use by") and "kvctl status" in told
        assert tables.get_many([rows.FLUSHED_KEY]) != [None]
    finally:
        tables.close()
        lock.release()


def test_the_lock_is_not_kept(data_dir: Path, offline: Kvctl) -> None:
    examined(offline, data_dir)
    with (data_dir / "LOCK").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_probe(data_dir: Path, offline: Kvctl) -> None:
    before = snapshot(data_dir)
    outcome = examined(offline, data_dir, "--probe-disk", "-o", "json")
    (finding,) = [one for one in outcome.json["findings"] if one["check"] == "sync"]
    assert "median" in finding["found"] and "99th percentile" in finding["found"]
    assert snapshot(data_dir) == before


def test_names_that_are_no_text_are_printed(data_dir: Path, offline: Kvctl) -> None:
    (data_dir / "wal" / "\udcff\udcfe").write_bytes(b"")
    outcome = examined(offline, data_dir, "-o", "json")
    assert outcome.exit_code == 0
    assert ("leftovers", "warning") in bad(outcome)
    assert "\\xff\\xfe" in examined(offline, data_dir).out.decode()


def test_a_check_that_breaks_is_a_finding(data_dir: Path, offline: Kvctl, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(subject: Subject) -> list[Finding]:
        raise RecursionError("too deep")

    monkeypatch.setattr(examination, "CHECKS", (*CHECKS[:-1], Check("clock", broken)))
    outcome = examined(offline, data_dir, "-o", "json")
    assert outcome.exit_code == 5
    assert outcome.json["findings"][-1]["check"] == "clock"
    assert "RecursionError: too deep" in outcome.json["findings"][-1]["found"]


def test_progress_is_shown_for_log_and_tables(data_dir: Path, offline: Kvctl, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    class Bar(ProgressBar):
        def __init__(self, title: str, total_bytes: int | None) -> None:
            super().__init__(title, total_bytes)
            shown.append(title)

    monkeypatch.setattr(command, "ProgressBar", Bar)
    examined(offline, data_dir, "--deep")
    assert shown == ["reading the tables", "reading the log"]


def test_a_store_of_a_real_server(tmp_path: Path, offline: Kvctl) -> None:
    """All is well beside the server, after it was killed, and in a checkpoint that it made."""
    tmp_path.chmod(0o700)
    data_dir, copy = tmp_path / "node", tmp_path / "copy"
    with Process("--data-dir", str(data_dir)) as server:
        server.ready()
        for arguments in (
            ["put", "a", "1"],
            ["put", "a", "2"],
            ["flush"],
            ["put", "a", "3"],
            ["checkpoint", str(copy)],
            ["put", "a", "4"],
        ):
            assert offline("-E", server.address, *arguments).exit_code == 0, arguments
        beside = examined(offline, data_dir, "--deep", "--probe-disk", "-o", "json")
        assert (beside.exit_code, bad(beside), beside.json["in_use"]) == (0, [], True), beside.out
        told = next(one["found"] for one in beside.json["findings"] if one["check"] == "lock")
        assert f"process {server.popen.pid}" in told or "a running server" in told
        assert offline("-E", server.address, "get", "a").out == b"4"
        server.signal(signal.SIGKILL)
    killed = examined(offline, data_dir, "--deep", "-o", "json")
    assert (killed.exit_code, killed.json["in_use"]) == (0, False)
    assert set(bad(killed)) <= {("leftovers", "note")}, killed.out
    checkpoint = examined(offline, copy, "--deep", "-o", "json")
    assert (checkpoint.exit_code, bad(checkpoint)) == (0, []), checkpoint.out
    assert not (copy / "LOCK").exists()
