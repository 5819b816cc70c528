"""The floors are kept, and every contract about them in pyproject.toml catches an import that breaks it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from tidy.sources import ROOT

# A line that breaks each contract, by the contract's name, and the file that it is appended to.
OFFENDERS = {
    "Server floors: a floor imports only what stands below it": ("kvserver/base/types.py", "import kvserver.wal"),
    "No circles anywhere": ("kvserver/base/limits.py", "import kvserver.base.options"),
    "grpc stops at the transport; the stubs stop at the services": ("kvserver/wal/format.py", "import grpc"),
    "Services know messages, not the transport": ("kvserver/service/offender.py", "import grpc.aio"),
    "The SDK is thin": ("client/kvclient/offender.py", "import kvserver.base.errors"),
    "kvctl touches the server's code only offline": ("client/kvctl/commands/offender.py", "import kvserver.base.errors"),
}


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache"]
    path = os.pathsep.join(str(folder / name) for name in ("", "client", "protos"))
    environment = os.environ | {"PYTHONPATH": path, "NO_COLOR": "1", "COLUMNS": "200"}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)


def _copy(folder: Path) -> Path:
    """Copy what import-linter looks at, so that the project itself is never touched."""
    for name in ("kvserver", "client", "protos"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def _contract_names() -> set[str]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return {contract["name"] for contract in tomllib.load(file)["tool"]["importlinter"]["contracts"]}


def test_the_floors_are_kept() -> None:
    done = _lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_contract_catches_its_offender(tmp_path: Path) -> None:
    assert set(OFFENDERS) == _contract_names(), "every contract needs an offender here"
    copy = _copy(tmp_path)
    for name, line in OFFENDERS.values():
        with (copy / name).open("a") as file:
            file.write(f"\n{line}\n")
    done = _lint(copy)
    assert done.returncode != 0
    broken = set(re.findall(r"^(.+?) BROKEN", done.stdout, re.MULTILINE))
    assert broken == set(OFFENDERS), done.stdout + done.stderr


def test_a_module_outside_the_floors_is_caught(tmp_path: Path) -> None:
    copy = _copy(tmp_path)
    (copy / "kvserver" / "helpers.py").write_text('"""A module that belongs to no floor."""\n')
    done = _lint(copy)
    assert done.returncode != 0
    assert "kvserver.helpers" in done.stdout, done.stdout + done.stderr
