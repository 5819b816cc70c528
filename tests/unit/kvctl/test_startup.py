"""Starting quickly: what a short run must not import, because importing it takes longer than the run."""

from __future__ import annotations

import subprocess
import sys

import pytest

from support.fake_server import FakeServer

CLIENT = {"grpc", "google.protobuf", "kvclient", "kvproto", "asyncio"}
"""What speaks to a server: only for a command that does."""
EXTRAS = {"rich", "zstandard", "kvserver", "difflib", "click.shell_completion"}
"""What only some runs need: tables on a terminal, compressed files, logs on disk, slips of the pen."""


def loaded_by(*command_lines: list[str]) -> set[str]:
    """Return the modules that a process has loaded after these command lines."""
    program = (
        "import sys\nfrom kvctl.main import run\n"
        f"for line in {list(command_lines)!r}:\n"
        "    assert run(line) == 0, line\n"
        "sys.stderr.write(' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


def test_help_imports_no_command() -> None:
    loaded = loaded_by(["--help"])
    assert not loaded & (CLIENT | EXTRAS)
    assert not [name for name in loaded if name.startswith("kvctl.commands.")]
    assert not loaded & {"kvctl.output", "kvctl.files", "kvctl.progress"}


@pytest.mark.parametrize("command", ["put", "get", "del", "write", "scan", "import", "export", "status", "namespace", "compact"])
def test_help_of_a_command_imports_no_client(command: str) -> None:
    loaded = loaded_by([command, "--help"])
    assert not loaded & (CLIENT | EXTRAS)


def test_a_put_imports_the_client_and_nothing_else(fake: FakeServer) -> None:
    loaded = loaded_by(["--endpoint", fake.endpoint, "put", "k", "v"], ["--endpoint", fake.endpoint, "get", "k"])
    assert "grpc" in loaded
    assert not loaded & EXTRAS
    others = {name for name in loaded if name.startswith("kvctl.commands.")}
    assert others == {"kvctl.commands.keys"}
    assert not loaded & {"kvctl.files", "kvctl.progress", "kvctl.records", "kvctl.binary"}


def test_wrong_usage_imports_no_client() -> None:
    program = (
        "import sys\nfrom kvctl.main import run\n"
        "for line in (['put', 'k'], ['put', '', 'v'], ['get', '--hex', 'x'], ['scan', '--limit', '0'], ['del']):\n"
        "    assert run(line) == 2, line\n"
        f"sys.exit(repr({CLIENT!r} & set(sys.modules)) if {CLIENT!r} & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
