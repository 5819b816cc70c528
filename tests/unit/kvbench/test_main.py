"""The command line itself: refusals, exit codes, help, and starting without what measures."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kvbench.commands import run
from kvbench.main import cli
from unit.kvbench.made import Outcome

Kvbench = Callable[..., Outcome]
RUN = ("run", "-w", "put", "--total", "10")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("run", "--total", "10"), "name a workload: --workload put|get|mixed|scan|ycsb-a"),
        (("run", "-w", "erase", "--total", "10"), "'erase' is not one of"),
        (("run", "-w", "put"), "give --total N operations, or --duration such as 30s"),
        ((*RUN, "--duration", "5s"), "give one of them"),
        (("run", "-w", "put", "--duration", "5"), "is not a duration such as 500ms, 5s or 1m30s"),
        ((*RUN, "--clients", "many"), "'many' is not a valid integer"),
        ((*RUN, "--clients", "0"), "give --clients 1 or more"),
        ((*RUN, "--processes", "2"), "2 processes for 1 clients"),
        ((*RUN, "--read-share", "0.5"), "--read-share belongs to --workload mixed"),
        ((*RUN, "--scan-length", "5"), "--scan-length belongs to --workload scan"),
        (("run", "-w", "ycsb-a", "--total", "10", "--distribution", "uniform"), "YCSB's workload A is zipfian"),
        ((*RUN, "-E", "nowhere"), "not an endpoint of the form HOST:PORT: 'nowhere'"),
        ((*RUN, "--fsync-dir", "/no/such/folder"), "there is no such folder"),
        ((*RUN, "--out-json", "/no/such/folder/x.json"), "there is no folder /no/such/folder"),
        ((*RUN, "-o", "raw"), "'raw' is not one of"),
        (("measure",), "No such command 'measure'"),
        (("compare", "a.json"), "Missing argument 'B.json'"),
        (("report",), "Missing argument"),
    ],
)
def test_wrong_usage_ends_with_2_and_names_the_help(kvbench: Kvbench, arguments: tuple[str, ...], told: str) -> None:
    refused = kvbench(*arguments)
    assert refused.exit_code == 2
    error, hint = refused.err.splitlines()
    assert error.startswith("error: ")
    assert error.endswith("[USAGE]")
    assert told in error
    command = f" {arguments[0]}" if arguments[0] in cli.commands else ""
    assert hint == f"hint: see: kvbench{command} --help"
    assert refused.out == ""


def test_wrong_usage_as_json(kvbench: Kvbench) -> None:
    for arguments in ((*RUN, "--clients", "0", "-o", "json"), ("run", "-o", "json", "-w", "put")):
        assert kvbench(*arguments).error["code"] == "USAGE"


def test_a_server_that_is_not_there_ends_with_3(kvbench: Kvbench) -> None:
    missing = kvbench(*RUN, "-E", "127.0.0.1:1")
    assert missing.exit_code == 3
    assert missing.err.startswith("error: cannot connect to 127.0.0.1:1")
    assert "[UNAVAILABLE]\nhint: is a server running there?" in missing.err


def test_every_help_has_examples_and_short_lines(kvbench: Kvbench) -> None:
    for command in ((), *((name,) for name in cli.commands)):
        shown = kvbench(*command, "-h")
        assert shown.exit_code == 0
        assert "Examples:\n" in shown.out
        assert max(map(len, shown.out.splitlines())) <= 100


def test_nothing_asked_for_shows_the_help(kvbench: Kvbench) -> None:
    shown = kvbench()
    assert "Commands:" in shown.out + shown.err


def test_version(kvbench: Kvbench) -> None:
    assert kvbench("--version").out.startswith("kvbench ")


def test_help_and_refusals_import_nothing_heavy() -> None:
    program = (
        "import sys\nfrom kvbench.main import execute\n"
        "assert [execute(['run', '-h']), execute(['run', '-w', 'put'])] == [0, 2]\n"
        "heavy = {'grpc', 'numpy', 'rich', 'kvclient', 'kvserver', 'asyncio', 'multiprocessing'} & set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr


def test_without_its_extra_it_names_the_command_that_installs_it(tmp_path: Path) -> None:
    program = (
        "import sys\nsys.modules['numpy'] = None\nfrom kvbench.main import execute\n"
        "sys.exit(execute(['run', '-w', 'put', '--total', '5', '-E', '127.0.0.1:1']))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr == (
        "error: kvbench needs numpy, which is not installed [NOT_INSTALLED]\nhint: pip install 'kvserver[bench]'\n"
    )


@pytest.mark.parametrize(
    ("operations", "errors", "exit_code"),
    [
        (1, {"UNAVAILABLE": 9}, 0),
        (0, {"UNAVAILABLE": 9, "OUTCOME_UNKNOWN": 1, "DEADLINE": 1}, 3),
        (0, {"DISK_FULL": 9}, 4),
        (0, {"UNAVAILABLE": 9, "DISK_FULL": 1}, 4),
    ],
)
def test_a_run_in_which_nothing_succeeded_ends_as_kvctl_would(operations: int, errors: dict[str, int], exit_code: int) -> None:
    assert run._exit_code({"operations": operations, "errors": errors}) == exit_code
