"""What ``make setup`` cannot do is answered with the reason and its remedy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def _interpreter(folder: Path, old: bool = False, without_venv: bool = False) -> Path:
    """Make a stand-in for an interpreter: this one, but for what it says of its version or of the module venv."""
    path = folder / "python-stand-in"
    cases = "*version_info*) exit 1 ;;\n*platform*) echo 3.9.2; exit ;;\n" if old else ""
    cases += "*'import venv'*) exit 1 ;;\n" if without_venv else ""
    path.write_text(f'#!/bin/sh\ncase "$*" in\n{cases}esac\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return path


def _setup(folder: Path, interpreter: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["sh", ROOT / "scripts" / "venv.sh", "locked", folder / "venv"]
    settings = os.environ | {"PYTHON": str(interpreter)} | environment
    return subprocess.run(command, env=settings, capture_output=True, text=True, timeout=100)


def test_an_old_python_is_named(tmp_path: Path) -> None:
    done = _setup(tmp_path, _interpreter(tmp_path, old=True))
    assert done.returncode == 1
    assert "kvserver needs Python 3.11 or newer" in done.stderr
    assert "python-stand-in is 3.9.2" in done.stderr
    assert "make setup PYTHON=" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_a_python_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = _setup(tmp_path, tmp_path / "none")
    assert done.returncode == 1
    assert f"{tmp_path}/none is not to be found" in done.stderr


def test_an_old_python_in_the_environment_is_named(tmp_path: Path) -> None:
    (tmp_path / "venv" / "bin").mkdir(parents=True)
    _interpreter(tmp_path, old=True).rename(tmp_path / "venv" / "bin" / "python")
    done = _setup(tmp_path, Path(sys.executable))
    assert done.returncode == 1
    assert f"the one in {tmp_path}/venv is 3.9.2" in done.stderr
    assert f"rm -r {tmp_path}/venv" in done.stderr


def test_a_missing_venv_module_is_answered_with_its_package(tmp_path: Path) -> None:
    done = _setup(tmp_path, _interpreter(tmp_path, without_venv=True))
    assert done.returncode == 1
    assert "its module venv or ensurepip is missing" in done.stderr
    assert "apt-get install python3-venv" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_an_index_out_of_reach_is_said(tmp_path: Path) -> None:
    unreachable = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_RETRIES": "0",
        "PIP_NO_CACHE_DIR": "1",
    }
    done = _setup(tmp_path, Path(sys.executable), **unreachable)
    assert done.returncode == 1
    assert "pip could not install what is needed" in done.stderr
    assert "Is the package index within reach?" in done.stderr


def test_bare_make_lists_every_target_with_a_sentence() -> None:
    done = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    listed = {line.split()[0]: line.split(maxsplit=1)[1] for line in done.stdout.splitlines()[1:]}
    phony = "".join(line for line in (ROOT / "Makefile").read_text().splitlines(True) if line.startswith(".PHONY:"))
    assert set(listed) == set(phony.replace(".PHONY:", "").split())
    assert all(sentence.endswith((".", ")")) for sentence in listed.values())
