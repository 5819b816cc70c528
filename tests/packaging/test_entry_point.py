"""The command ``kvserver`` says what to install where the extra ``server`` is missing, and else starts the server."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

from kvserver import __main__ as entry_point

ROOT = Path(__file__).resolve().parents[2]

# Which distribution of the extra brings which module.
DISTRIBUTIONS = {
    "sortedcontainers": "sortedcontainers",
    "uvloop": "uvloop",
    "google-crc32c": "google_crc32c",
    "grpcio-health-checking": "grpc_health",
    "grpcio-reflection": "grpc_reflection",
    "prometheus-client": "prometheus_client",
    "rocksdict": "rocksdict",
}

RUN_BLOCKED = """
import runpy, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

BLOCKED = sys.argv.pop().split(",")
sys.meta_path.insert(0, Blocker())
runpy.run_module("kvserver", run_name="__main__", alter_sys=True)
"""


def _run_without(*modules: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", RUN_BLOCKED, "serve", ",".join(modules)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


@pytest.mark.parametrize("missing", [(name,) for name in entry_point.SERVER_MODULES] + [entry_point.SERVER_MODULES])
def test_a_missing_extra_is_answered_with_the_command_that_installs_it(missing: tuple[str, ...]) -> None:
    done = _run_without(*missing)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert ", ".join(missing) in done.stderr
    assert done.stderr.endswith("pip install 'kvserver[server]'\n")


def test_the_modules_looked_for_are_those_of_the_extra() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        extra = tomllib.load(file)["project"]["optional-dependencies"]["server"]
    names = {requirement.partition(">")[0] for requirement in extra}
    assert {DISTRIBUTIONS[name] for name in names} == set(entry_point.SERVER_MODULES)


def test_an_extra_that_is_there_but_broken_is_not_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def import_module(name: str) -> types.ModuleType:
        raise ModuleNotFoundError("No module named '_inner'", name="_inner")

    monkeypatch.setattr("importlib.import_module", import_module)
    with pytest.raises(ModuleNotFoundError, match="_inner"):
        entry_point.main()


def test_with_the_extra_the_server_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    server = types.ModuleType("kvserver.server")
    server.main = types.ModuleType("kvserver.server.main")  # type: ignore[attr-defined]
    server.main.main = lambda: 7  # type: ignore[attr-defined]
    monkeypatch.setattr("kvserver.server", server, raising=False)
    monkeypatch.setitem(sys.modules, "kvserver.server", server)
    monkeypatch.setitem(sys.modules, "kvserver.server.main", server.main)
    assert entry_point.main() == 7
