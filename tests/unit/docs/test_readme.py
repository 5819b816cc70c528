"""The commands and the example of the README do what it says, on a port of their own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from unit.docs.documents import ROOT, section

README = "README.md"
ENDPOINT = "127.0.0.1:7400"
SECOND = "127.0.0.1:7401"
NODES = 3
HTTP_ABOVE = 80
"""The HTTP port of a node of ``make run`` is so far above its own."""
PROMOTABLE = ".venv/bin/kvctl -E 127.0.0.1:{} promote --dry-run > /dev/null 2>&1"
"""A new follower looks once a second whether it has all that there was when it joined; people are slower than that."""


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


def _free_ports_in_a_row() -> int:
    """Return the first of some ports in a row, each free together with the one that is ``HTTP_ABOVE`` it."""
    for first in range(20_000, 30_000, 2 * HTTP_ABOVE):
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for number in range(NODES):
                for port in (first + number, first + number + HTTP_ABOVE):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise AssertionError("no ports are free")


def _run(script: str, folder: Path, environment: dict[str, str]) -> str:
    """Run a script on ports of its own."""
    script = script.replace(ENDPOINT, environment["KVCTL_ENDPOINT"]).replace(SECOND, f"127.0.0.1:{_free_port()}")
    return _run_as_it_is(script, folder, environment)


def _run_as_it_is(script: str, folder: Path, environment: dict[str, str]) -> str:
    """Run a script in a process group of its own, of which nothing is left afterwards."""
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


@pytest.fixture
def cluster(folder: Path, environment: dict[str, str]) -> Iterator[int]:
    """What ``make run`` does, on ports of its own; the first of them."""
    first = _free_ports_in_a_row()
    shared = {name: value for name, value in environment.items() if not name.startswith("KVSERVER_")}
    words = [ROOT / "scripts/cluster/run.py", "--data-dir", "data/cluster", "--first-port", str(first)]
    with subprocess.Popen(
        [folder / ".venv/bin/python", *words], cwd=folder, env=shared, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            assert any("Ctrl-C stops" in line for line in process.stdout), "it ended before it served"
            drained = threading.Thread(target=process.stdout.read)
            drained.start()
            yield first
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
            drained.join()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_the_primary_dies_in_the_first_tour_and_all_three_hold_the_same(
    folder: Path, environment: dict[str, str], cluster: int
) -> None:
    told = {name: value for name, value in environment.items() if not name.startswith("KVSERVER_")}
    told["KVCTL_ENDPOINT"] = f"127.0.0.1:{cluster}"

    def run(number: int) -> str:
        script = re.sub(
            r"127\.0\.0\.1:740([012])", lambda match: f"127.0.0.1:{cluster + int(match[1])}", _block("Try it", "sh", number)
        )
        return _run_as_it_is("set -e\n" + script, folder, told)

    looked = run(1)
    assert "imported 200 records" in looked
    assert looked.count("follower  ") == NODES - 1
    assert len(re.findall(r"^pkg/", looked, re.MULTILINE)) == NODES, "a follower serves the scan"
    _run_as_it_is(f"until {PROMOTABLE.format(cluster + 1)}; do sleep 0.1; done", folder, told)
    promoted = run(2)
    assert "UNREACHABLE" in promoted
    assert "is primary under epoch 2" in promoted
    returned = run(3)
    hashes = re.findall(r"\b[0-9a-f]{64}\b", returned)
    assert len(hashes) == NODES and len(set(hashes)) == 1, returned


@pytest.mark.usefixtures("server")
def test_the_first_commands_and_the_example_work(folder: Path, environment: dict[str, str]) -> None:
    output = _run("set -e\n" + _block("One node", "sh"), folder, environment)
    assert "hello" in output
    assert "imported 200 records" in output
    example = _block("One node", "python")
    assert len(example.split("\n\n")[0].splitlines()) + len(example.split("\n\n")[1].splitlines()) == 5, "five lines"
    assert _run(f".venv/bin/python - <<'END'\n{example}END", folder, environment).startswith("b'hello' ")


@pytest.mark.usefixtures("server")
def test_the_commands_about_the_past_and_copies_work(folder: Path, environment: dict[str, str]) -> None:
    output = _run("set -e\n" + _block("One node", "sh", 1), folder, environment)
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
