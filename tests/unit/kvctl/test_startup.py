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


@pytest.mark.parametrize(
    "command",
    [
        *("put", "get", "del", "write", "scan", "import", "export", "status", "namespace", "compact"),
        *(
            "archive",
            "archive status",
            "archive verify",
            "archive point set",
            "backup",
            "backup list",
            "restore",
            "drill",
            "check",
        ),
        *("cluster", "cluster status", "cluster policy set", "promote", "repl", "reinit", "register move"),
    ],
)
def test_help_of_a_command_imports_no_client(command: str) -> None:
    loaded = loaded_by([*command.split(), "--help"])
    assert not loaded & (CLIENT | EXTRAS)


def test_what_asks_the_node_about_its_archive_imports_nothing_of_the_server(fake: FakeServer) -> None:
    there = ["--endpoint", fake.endpoint]
    loaded = loaded_by(
        [*there, "archive", "status"], [*there, "archive", "now"], [*there, "backup", "create"], [*there, "check", "hash"]
    )
    assert not loaded & EXTRAS


LACKING = """
import sys
for name in ("google_crc32c", "sortedcontainers", "rocksdict", "obstore"):
    sys.modules[name] = None
from kvctl.main import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("command", "extra"),
    [
        ("archive list --archive file:///srv/archive", "server"),
        ("archive verify --archive file:///srv/archive", "server"),
        ("backup list --archive file:///srv/archive", "server"),
        ("restore --archive file:///srv/archive --latest --dry-run", "server"),
        ("check hash --data-dir .", "server"),
        ("wal repair --data-dir . --from archive --archive file:///srv/archive", "server"),
        ("doctor --data-dir .", "server"),
    ],
)
def test_without_the_extra_the_command_that_installs_it_is_named(command: str, extra: str) -> None:
    done = subprocess.run([sys.executable, "-c", LACKING, *command.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert "[NOT_INSTALLED]" in done.stderr
    assert done.stderr.splitlines()[-1] == f"hint: pip install 'kvserver[{extra}]'"


def test_an_archive_in_s3_needs_an_extra_of_its_own() -> None:
    program = LACKING.replace('"google_crc32c", "sortedcontainers", "rocksdict", "obstore"', '"obstore",')
    command = ["archive", "list", "--archive", "s3://bucket/prefix"]
    done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=False)
    assert done.returncode in (1, 4), done.stderr
    assert "kvserver[s3]" in done.stderr


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
