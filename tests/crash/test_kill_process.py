"""Real processes on the real disk, killed with SIGKILL at every failpoint, twice in a row."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kvserver.base import failpoints
from kvserver.base.errors import OpenRefused
from kvserver.engine.database import Database
from kvserver.replication.local_register import LocalRegister
from support import killed_writer
from support.killed_writer import KIT, copy_of, key_of, value_of
from support.stores import settle

PASSAGES = range(1, 1 + int(os.environ.get("KVSERVER_CRASH_ROUNDS", "1")))
RUNS = 120
ONLY_WITH_A_TORN_TAIL = {"wal.recover.after_torn_saved"}
ROOT = Path(__file__).resolve().parents[2]


def write_until_killed(data_dir: Path, failpoint: str, begin: int) -> tuple[int, int]:
    """Return the exit code of a writer, and the number behind the last key that it acknowledged."""
    command = [sys.executable, killed_writer.__file__, str(data_dir), failpoint, str(RUNS), str(begin)]
    paths = os.pathsep.join(str(ROOT / part) for part in (".", "protos", "client"))
    environment = {**os.environ, "PYTHONPATH": paths}
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    numbers = [int(line) for line in result.stdout.split() if line.isdigit()]
    assert result.returncode in (0, -signal.SIGKILL), result.stderr
    return result.returncode, numbers[-1] if numbers else begin


def held(data_dir: Path) -> int:
    """Open the folder, check that its keys are a prefix with the right values, and return how many there are."""
    db = Database.open(
        data_dir, lambda env, paths: LocalRegister(env.fs, paths), "local", lambda callback: callback(), KIT, threads=False
    )
    count = db.live_keys()
    ticket = db.read(1, [key_of(number) for number in range(count + 1)], db.marks.visible)
    settle(db)
    *versions, behind = ticket.answer()
    assert behind is None
    for number, version in enumerate(versions):
        assert version is not None, f"key {number} is missing, but {count} keys are there"
        assert version.value == value_of(number)
        assert version.mod_revision == number + 2
    db.close()
    return count


def held_in_copy(data_dir: Path, copy: Path) -> int:
    """Return what ``held`` does, without recovering the folder itself."""
    shutil.copytree(data_dir, copy)
    return held(copy)


def look_at_copy(copy: Path, is_whole: bool) -> None:
    """Open what the writer left of its checkpoint: a store of its own, or refused by name."""
    assert copy.exists() or not is_whole
    if (copy / "ORIGIN").exists():
        assert held(copy) > 0
    elif copy.exists():
        assert not is_whole
        with pytest.raises(OpenRefused, match="a checkpoint that was not finished"):
            held(copy)


@pytest.mark.parametrize("passage", PASSAGES)
@pytest.mark.parametrize("name", [name for name in failpoints.NAMES if name not in ONLY_WITH_A_TORN_TAIL])
def test_killed_at(name: str, passage: int, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    if name.startswith("wal.recover."):  # there must be something to recover
        write_until_killed(data_dir, "wal.after_write=kill@30", 0)
    begin = held_in_copy(data_dir, tmp_path / "copy") if data_dir.exists() else 0
    code, acknowledged = write_until_killed(data_dir, f"{name}=kill@{passage}", begin)
    assert code == -signal.SIGKILL or passage > 1, f"{name} was not passed"
    look_at_copy(copy_of(data_dir, begin), is_whole=name == "engine.checkpoint.after_origin")
    count = held(data_dir)
    assert count >= acknowledged, f"{acknowledged} keys were acknowledged, {count} are there"
    _, acknowledged = write_until_killed(data_dir, "wal.after_sync=kill@5", count)
    assert held(data_dir) >= acknowledged
