"""The committed stubs are what the .proto files say, and the check that says so can fail."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def _check(protos: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts" / "protos.py", "--check", "--protos", protos]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def _add_field(protos: Path) -> None:
    path = protos / "kvproto" / "v1" / "errors.proto"
    path.write_text(path.read_text().replace("INTERNAL = 99;", "INTERNAL = 99;\n  // Another code.\n  OTHER = 98;"))


def _edit_by_hand(protos: Path) -> None:
    path = protos / "kvproto" / "v1" / "kv_pb2.pyi"
    path.write_text(path.read_text() + "\n# by hand\n")


def _remove(protos: Path) -> None:
    (protos / "kvproto" / "v1" / "kv_pb2_grpc.py").unlink()


def _leave_behind(protos: Path) -> None:
    (protos / "kvproto" / "v1" / "old_pb2.py").write_text("")


def test_stubs_are_current() -> None:
    done = _check(ROOT / "protos")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        (_add_field, "errors_pb2.py: differs"),
        (_edit_by_hand, "kv_pb2.pyi: differs"),
        (_remove, "kv_pb2_grpc.py: missing"),
        (_leave_behind, "old_pb2.py: belongs to no .proto file"),
    ],
)
def test_stubs_that_are_not_current_are_named(tmp_path: Path, change: Callable[[Path], None], finding: str) -> None:
    protos = tmp_path / "protos"
    shutil.copytree(ROOT / "protos", protos)
    change(protos)
    done = _check(protos)
    assert done.returncode == 1
    assert f"kvproto/v1/{finding}" in done.stdout
    assert "make protos" in done.stdout
