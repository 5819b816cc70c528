"""The commands and the example of the README do what it says, on a port of their own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from unit.docs.documents import ROOT, section

README = "README.md"
ENDPOINT = "127.0.0.1:7400"
SECOND = "127.0.0.1:7401"


def _block(title: str, language: str, number: int = 0) -> str:
    """Return a fenced block of a section."""
    text = "\n".join(section(README, title).lines)
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)[number]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder in which the README's paths lead to what is tested."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


@pytest.fixture
def environment() -> dict[str, str]:
    endpoint = f"127.0.0.1:{_free_port()}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("KVCTL_", "KVSERVER_"))}
    return {**kept, "KVSERVER_LISTEN": endpoint, "KVSERVER_HTTP": "off", "KVCTL_ENDPOINT": endpoint, "NO_COLOR": "1"}


@pytest.fixture
def server(folder: Path, environment: dict[str, str]) -> Iterator[None]:
    command = [folder / ".venv/bin/kvserver", "serve", "--data-dir", folder / "node"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline().startswith("ready ")
            yield
        finally:
            process.terminate()
            assert process.wait(30) == 0


def _run(script: str, folder: Path, environment: dict[str, str]) -> str:
    """Run a script in a process group of its own, of which nothing is left afterwards."""
    script = script.replace(ENDPOINT, environment["KVCTL_ENDPOINT"]).replace(SECOND, f"127.0.0.1:{_free_port()}")
    with subprocess.Popen(
        ["bash", "-c", script],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=100)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, output
    return output


@pytest.mark.usefixtures("server")
def test_the_first_commands_and_the_example_work(folder: Path, environment: dict[str, str]) -> None:
    output = _run("set -e\n" + _block("Try it", "sh", 1), folder, environment)
    assert "hello" in output
    assert "imported 200 records" in output
    example = _block("Try it", "python")
    assert len(example.split("\n\n")[0].splitlines()) + len(example.split("\n\n")[1].splitlines()) == 5, "five lines"
    assert _run(f".venv/bin/python - <<'END'\n{example}END", folder, environment).startswith("b'hello' ")


@pytest.mark.usefixtures("server")
def test_the_commands_about_the_past_and_copies_work(folder: Path, environment: dict[str, str]) -> None:
    output = _run("set -e\n" + _block("Try it", "sh", 2), folder, environment)
    assert "\nred" in output, "the value of the revision before the last"
    assert f"--data-dir {folder}/data/copy" in output, "what opens the copy"
    assert (folder / "data" / "copy" / "ORIGIN").exists()


def test_no_acknowledged_write_is_lost_in_the_walk_through(folder: Path, environment: dict[str, str]) -> None:
    output = _run(_block("Kill it", "sh"), folder, environment)
    match = re.search(r"^(\d+) acknowledged, 0 lost$", output, re.MULTILINE)
    assert match is not None, output
    assert int(match[1]) > 200, "the import was not under way when the server was killed"


def test_a_mistake_is_undone_in_the_walk_through(folder: Path, environment: dict[str, str]) -> None:
    output = _run("set -e\n" + _block("Undo a mistake", "sh"), folder, environment)
    before, restored, drilled = re.findall(r"\b[0-9a-f]{64}\b", output)
    assert before == restored != drilled, output
    assert re.findall(r"^\d+$", output, re.MULTILINE) == ["127", "200"], "a third is gone in the first, and back in the second"
    assert "nothing was restored" in output, "the plan is looked at first"
    assert "well: revision" in output, "the drill"


def test_the_documents_named_are_links() -> None:
    named = re.findall(r"`(docs/[\w/]+\.md)`", (ROOT / README).read_text())
    assert not named, "link to documents, so that the test of links sees them"
