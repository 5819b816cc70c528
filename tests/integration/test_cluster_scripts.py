"""`make run` and `make demo` as their users start them: real processes, on ports of their own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvserver.testing.cluster import free_ports

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("KVCTL_", "KVSERVER_"))}


class Running:
    """A `make run` that prints into a pipe."""

    def __init__(self, folder: Path, first_port: int) -> None:
        script = str(ROOT / "scripts" / "cluster" / "run.py")
        command = [sys.executable, script, "--data-dir", str(folder), "--first-port", str(first_port), "--write-quorum", "2"]
        self.process = subprocess.Popen(
            command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.lines: list[str] = []

    def until(self, pattern: str) -> re.Match[str]:
        """Read until a line matches."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"it ended before {pattern!r}:\n" + "\n".join(self.lines[-40:]))

    def interrupt(self) -> str:
        """Press Ctrl-C, and return what it prints until its end."""
        self.process.send_signal(signal.SIGINT)
        rest, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, rest
        return rest


@contextlib.contextmanager
def running(folder: Path, first_port: int) -> Iterator[Running]:
    run = Running(folder, first_port)
    try:
        yield run
    finally:
        run.process.kill()
        run.process.wait(30)


def kvctl(port: int, line: str) -> str:
    command = [sys.executable, "-m", "kvctl", "-E", f"127.0.0.1:{port}", *line.split()]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(240)
def test_run_says_who_is_what_goes_on_when_one_dies_and_comes_up_again_whoever_was_primary(tmp_path: Path) -> None:
    port = free_ports(1)[0] % 20_000 + 20_000  # six ports from here on are to be free; below those that the system gives away
    with running(tmp_path / "a b", port) as run:
        pid = int(run.until(r"^  n1  primary .* pid (\d+)$")[1])
        run.until(r"^Ctrl-C stops all nodes$")
        assert any(line.startswith("n2 | ready ") for line in run.lines)
        assert any(re.match(rf"  \S*kvctl -E 127.0.0.1:{port} cluster status$", line) for line in run.lines)
        kvctl(port, "put greeting hello")
        os.kill(pid, signal.SIGKILL)
        assert "n2 and n3 go on" in run.until(r"n1 ended with exit code -9; (.*)")[0]
        run.until(r"start it again from another terminal: .*kvserver serve ")
        kvctl(port + 1, "promote")
        rest = run.interrupt()
        told = [line[:2] for line in rest.splitlines() if "SIGTERM: stopping" in line]
        assert told == ["n2", "n3"], "the primary ends first"
        assert "all nodes have stopped" in rest
    with running(tmp_path / "a b", port) as run:
        run.until(r"^  n2  primary ")
        run.until(r"^Ctrl-C stops all nodes$")
        assert kvctl(port, "get greeting") == "hello"
        nodes = [line.split("\t") for line in kvctl(port, "cluster status -o raw").splitlines()]
        assert [(node[0], node[2]) for node in nodes] == [("n1", "follower"), ("n2", "primary"), ("n3", "follower")]
        run.interrupt()


@pytest.mark.timeout(240)
def test_a_port_that_is_taken_is_named_and_nothing_is_left_running(tmp_path: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with running(tmp_path, taken.getsockname()[1]) as run:
            run.until("the cluster did not start")
            rest, _ = run.process.communicate(timeout=60)
    assert run.process.returncode == 1
    assert "all nodes have stopped" in rest


@pytest.mark.timeout(240)
def test_the_demo_keeps_every_promise(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "cluster" / "demo.py"), "--keep"]
    environment = ENVIRONMENT | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    summary = done.stdout.partition("\nSummary\n")[2]
    assert summary.count("   ok      ") == 8
    assert "FAILED" not in summary
    assert [path.name[:14] for path in tmp_path.iterdir()] == ["kvserver-demo-"], "--keep keeps the folder"
