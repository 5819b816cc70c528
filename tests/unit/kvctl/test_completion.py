"""Completion: the scripts are made, and what they ask kvctl is answered, also where a part is not installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import Any

import pytest

from kvctl.commands.completion import COMPLETE_VARIABLE

PROGRAM = "import sys; sys.argv[0] = 'kvctl'; from kvctl.main import main; main()"


def completed(*words: str, prelude: str = "") -> list[str]:
    """Return what kvctl offers for the last word."""
    environment = {
        **os.environ,
        COMPLETE_VARIABLE: "bash_complete",
        "COMP_WORDS": " ".join(("kvctl", *words)),
        "COMP_CWORD": str(len(words)),
    }
    done = subprocess.run([sys.executable, "-c", prelude + PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(offline: Any, shell: str) -> None:
    told = offline("completion", shell)
    assert (told.exit_code, told.err) == (0, "")
    assert COMPLETE_VARIABLE.encode() in told.out
    assert b"kvctl" in told.out


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_the_script_for_bash_is_bash(offline: Any) -> None:
    script = offline("completion", "bash").out
    assert subprocess.run(["bash", "-n"], input=script, capture_output=True, check=False).returncode == 0


def test_commands_and_options_and_choices() -> None:
    assert completed("ex") == ["export"]
    assert completed("namespace", "dr") == ["drop"]
    assert "--if-absent" in completed("put", "--if")
    assert completed("get", "-o", "t") == ["table"]
    assert completed("export", "--format", "b") == ["binary"]
    assert completed("wal", "") == ["dump", "list", "repair", "verify"]
    assert completed("archive", "") == ["dictionary", "list", "now", "point", "retain", "status", "verify"]
    assert completed("archive", "point", "s") == ["set"]
    assert completed("cluster", "") == ["history", "policy", "status"]
    assert completed("cluster", "policy", "") == ["degrade", "get", "return", "set"]
    assert "--accept-loss" in completed("promote", "--acc")


def test_commands_are_offered_without_being_imported() -> None:
    guard = (
        "import sys\nclass Guard:\n    def find_spec(self, name, path=None, target=None):\n"
        "        assert not name.startswith(('kvctl.commands', 'grpc', 'kvserver')), name\n"
        "sys.meta_path.insert(0, Guard())\n"
    )
    assert "put" in completed("", prelude=guard)


def test_what_is_not_installed_is_no_trouble() -> None:
    """The helper above sees that nothing is written on standard error, into somebody's command line."""
    assert "dump" not in completed("wal", "", prelude="import sys; sys.modules['kvserver'] = None; ")


def test_an_unknown_shell_is_wrong_usage(offline: Any) -> None:
    wrong = offline("completion", "csh")
    assert wrong.exit_code == 2
    assert "'bash', 'zsh', 'fish'" in wrong.err
