"""kvctl register move: a node that was alone gets a register that others see, and keeps its epochs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kvserver.base.environment import Environment
from kvserver.base.fs import OsFileSystem
from kvserver.base.paths import DataPaths
from kvserver.engine.identity import read_identity
from kvserver.replication.open_register import find_register
from support.stores import open_store
from unit.kvctl.golden import MOVED, differs


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """The folder of a node that was alone in two epochs."""
    root = tmp_path / "node"
    for _ in range(2):
        open_store(OsFileSystem(), paths=DataPaths(root)).close()
    return root


def test_the_golden_files(offline: Any, data_dir: Path, tmp_path: Path) -> None:
    register = f"file://{tmp_path}/register"
    found = []
    for step in MOVED:
        told = offline(*step.arguments.format(data=data_dir, register=register).split(), "-o", "json")
        assert told.exit_code == step.exit_code, told.err
        found.append(differs(step, told.exit_code, told.out, told.err))
    assert not any(found), "\n".join(found)


def test_the_epochs_are_there_and_the_node_names_the_register(offline: Any, data_dir: Path, tmp_path: Path) -> None:
    url, env = f"file://{tmp_path}/register", Environment(fs=OsFileSystem())
    line = ("register", "move", "--data-dir", str(data_dir), "--to", url)
    assert offline(*line, "--dry-run").exit_code == 0
    assert find_register(url, env) is None, "a dry run makes nothing"
    refused = offline(*line, "-o", "json")
    assert (refused.exit_code, refused.error["code"]) == (1, "NOT_CONFIRMED")
    assert find_register(url, env) is None
    told = offline(*line, "--yes", "-o", "json").json
    assert told["epochs"] == 2
    assert told["serve"] == f"kvserver serve --data-dir {data_dir} --register {url}"
    register = find_register(url, env)
    assert register is not None and [record.epoch.number for record in register.records()] == [1, 2]
    identity = read_identity(env, DataPaths(data_dir))
    assert identity is not None and identity.register == register.kind
    assert offline(*line, "--yes", "-o", "json").json == told, "once more does no harm"


def test_a_folder_that_cannot_be_moved_is_refused_by_name(offline: Any, data_dir: Path, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/register"
    none = offline("register", "move", "--data-dir", str(tmp_path), "--to", url, "--yes", "-o", "json")
    assert (none.exit_code, none.error["code"]) == (1, "NOT_A_DATA_DIR")
    lock = OsFileSystem().lock(DataPaths(data_dir).lock)
    try:
        used = offline("register", "move", "--data-dir", str(data_dir), "--to", url, "--yes", "-o", "json")
    finally:
        lock.release()
    assert (used.exit_code, used.error["code"]) == (1, "FOLDER_IN_USE")
    nonsense = offline("register", "move", "--data-dir", str(data_dir), "--to", "nonsense", "--yes", "-o", "json")
    assert (nonsense.error["code"], nonsense.out) == ("REGISTER_UNAVAILABLE", b"")
