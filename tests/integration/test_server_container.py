"""The server as a container runs it: process 1, a user without a name or a home, and nothing writable but its volume.

No container engine is needed for that: root can take the rest of the disk away from a process of its own with the kernel's
namespaces (``unshare``, ``setpriv``). Without root the same is shown as far as any user can: no home, an empty environment,
a working directory that cannot be written.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
USER = 65532
PATIENCE_S = 30.0

# Reading is allowed everywhere, because interpreter and checkout may lie in root's home; an image has neither there.
_AS_USER = """\
set -e
mount --bind "$1" "$1"
mount -o remount,bind,ro /
shift
exec setpriv --reuid {user} --regid {user} --groups {user} --no-new-privs --inh-caps=-all,+dac_read_search \
    --ambient-caps=-all,+dac_read_search --bounding-set=-all,+dac_read_search -- "$@"
"""
_NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--mount-proc")


class Container:
    """A volume, and processes that may write nowhere else."""

    def __init__(self, volume: Path, isolated: bool) -> None:
        self.volume = volume
        script = _AS_USER.format(user=USER)
        self._prefix = [*_NAMESPACES, "sh", "-c", script, "container", str(volume)] if isolated else []
        self._isolated = isolated

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a program with a nearly empty environment, in a folder that it cannot write."""
        return subprocess.Popen(
            [*self._prefix, *command],
            cwd="/",
            env={"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: str) -> tuple[int, str]:
        """Run a program to its end; return its exit code and all that it printed."""
        process = self.start(*command)
        output, errors = process.communicate(timeout=PATIENCE_S)
        return process.returncode, output + errors

    @contextlib.contextmanager
    def serving(self, *flags: str) -> Iterator[Server]:
        """Serve on ports that the system picks."""
        addresses = ("--listen", "127.0.0.1:0", "--http", "127.0.0.1:0")
        process = self.start(sys.executable, "-m", "kvserver", "serve", *addresses, *flags)
        try:
            yield Server(process, self._isolated)
        finally:
            _kill(process)


def _children(number: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{number}/task/{number}/children").read_text().split()]


def _kill(process: subprocess.Popen[str]) -> None:
    """End a program and what it started: ``--kill-child`` is forgotten when the child becomes another user."""
    if process.poll() is None:
        for number in [*_children(process.pid), process.pid]:
            os.kill(number, signal.SIGKILL)
    process.communicate(timeout=PATIENCE_S)


class Server:
    """One that serves."""

    def __init__(self, process: subprocess.Popen[str], isolated: bool) -> None:
        self._process = process
        self._isolated = isolated
        self._errors: list[str] = []
        assert process.stderr is not None
        self._reader = threading.Thread(target=self._errors.extend, args=(process.stderr,), daemon=True)
        self._reader.start()
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            self._reader.join(PATIENCE_S)
        found = re.match(r"ready listen=(\S+) http=(\S+) name=\S+ epoch=\d+ revision=(\d+)", line)
        assert found is not None, f"not ready: {line}{''.join(self._errors)}"
        self.listen, self.http, self.revision = found[1], found[2], int(found[3])

    def stop(self) -> int:
        """Send SIGTERM as an engine does, from outside and to process 1; return the exit code."""
        number = self._process.pid
        if self._isolated:
            (number,) = _children(number)
            status = Path(f"/proc/{number}/status").read_text()
            assert re.search(r"^NSpid:\s+\d+\s+1$", status, re.MULTILINE), "the server is not process 1"
            assert re.search(rf"^Uid:\s+{USER}\s+{USER}\s+{USER}\s", status, re.MULTILINE), "the server is not the user"
        os.kill(number, signal.SIGTERM)
        code = self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return code

    def errors(self) -> str:
        """Return what it wrote on standard error."""
        return "".join(self._errors)


@pytest.fixture(params=["this user", pytest.param("isolated", marks=pytest.mark.root)])
def container(request: pytest.FixtureRequest) -> Iterator[Container]:
    """A volume as Kubernetes hands it over: root's, with a lost+found, writable for the pod's group."""
    isolated = request.param == "isolated"
    folder = Path(tempfile.mkdtemp(prefix="kvserver-container-"))
    try:
        volume = folder / "data"
        volume.mkdir()
        (volume / "lost+found").mkdir(mode=0o700)
        if isolated:
            if os.geteuid() != 0:
                pytest.skip("namespaces need root")
            folder.chmod(0o711)
            os.chown(volume, 0, USER)
            volume.chmod(0o2775)
            code, output = Container(volume, isolated).run("true")
            if code:
                pytest.skip(f"no namespaces here: {output}")
        yield Container(volume, isolated)
    finally:
        shutil.rmtree(folder)


def _health_check(address: str) -> list[str]:
    """Return the command of the Dockerfile's HEALTHCHECK, for this interpreter and another address."""
    (text,) = re.findall(r"^ +CMD (\[.*\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    command = json.loads(text)
    assert command[0] == "/opt/kvserver/bin/python" and "'127.0.0.1', 7480" in command[-1]
    host, _, port = address.rpartition(":")
    return [sys.executable, *command[1:-1], command[-1].replace("'127.0.0.1', 7480", f"'{host}', {port}")]


def _kvctl(address: str, *arguments: str) -> list[str]:
    return [str(Path(sys.executable).parent / "kvctl"), "-E", address, *arguments]


def test_it_serves_and_ends_with_0_where_only_its_volume_can_be_written(container: Container) -> None:
    folder, copy = container.volume / "node", container.volume / "copy"
    with container.serving("--data-dir", str(folder)) as server:
        assert container.run(*_kvctl(server.listen, "put", "greeting", "hello"))[0] == 0
        assert container.run(*_kvctl(server.listen, "get", "greeting")) == (0, "hello")
        assert container.run(*_kvctl(server.listen, "flush"))[0] == 0
        assert container.run(*_kvctl(server.listen, "checkpoint", str(copy)))[0] == 0
        assert container.run(*_health_check(server.http)) == (0, "")
        assert server.stop() == 0
        assert "everything acknowledged is on disk" in server.errors()
        assert "Traceback" not in server.errors() and "Read-only file system" not in server.errors()
        code, output = container.run(*_health_check(server.http))
        assert code != 0 and "ConnectionRefusedError" in output
    assert sorted(path.name for path in container.volume.iterdir()) == ["copy", "lost+found", "node"]
    for opened in (folder, copy):
        with container.serving("--data-dir", str(opened)) as server:
            assert server.revision == 2
            assert container.run(*_kvctl(server.listen, "get", "greeting")) == (0, "hello")
            assert server.stop() == 0


@pytest.mark.parametrize("container", [pytest.param("isolated", marks=pytest.mark.root)], indirect=True)
def test_a_volume_that_the_user_may_not_write_is_refused_by_name(container: Container) -> None:
    """What happens without the pod's ``fsGroup``."""
    container.volume.chmod(stat.S_IRWXU | stat.S_IRGRP | stat.S_IXGRP)
    code, output = container.run(sys.executable, "-m", "kvserver", "serve", "--data-dir", str(container.volume / "node"))
    assert code == 1
    assert "Permission denied" in output and "hint: " in output and "Traceback" not in output


@pytest.mark.parametrize("container", [pytest.param("isolated", marks=pytest.mark.root)], indirect=True)
def test_nothing_else_can_be_written_in_there(container: Container) -> None:
    """The isolation isolates; or the tests above would show nothing."""
    probe = (
        "import os, tempfile\nassert os.getpid() == 1 and os.getuid() == 65532 and 'HOME' not in os.environ\ntempfile.mkdtemp()"
    )
    code, output = container.run(sys.executable, "-I", "-c", probe)
    assert code == 1
    assert "No usable temporary directory" in output
