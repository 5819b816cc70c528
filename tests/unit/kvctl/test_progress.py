"""Progress: shown on a terminal, with rate and time left, and nowhere else."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from kvctl import progress
from support.fake_server import FakeServer
from unit.kvctl.archived import Archived, log_only

PYTHON = [sys.executable, "-m", "kvctl"]
TERMINAL = {**os.environ, "TERM": "xterm", "COLUMNS": "160"}


def on_a_terminal(command: list[str], *, until: bytes = b"", release: threading.Event | None = None) -> tuple[bytes, bytes]:
    """Run with standard error on a terminal; return what was shown there, and standard output.

    Once ``until`` is shown, the event is set.
    """
    ours, theirs = pty.openpty()
    with tempfile.TemporaryFile() as out, subprocess.Popen(command, stdout=out, stderr=theirs, env=TERMINAL) as process:
        os.close(theirs)
        shown = b""
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:
                break
            if release is not None and until in shown:
                release.set()
        assert process.wait(60) == 0
        os.close(ours)
        out.seek(0)
        return shown, out.read()


@pytest.fixture
def many(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"key": f"k{n:05}", "value": "v" * 20}) + "\n" for n in range(20_000)))
    return path


def test_import_shows_rate_and_time_left(fake: FakeServer, many: Path) -> None:
    command = [*PYTHON, "-E", fake.endpoint, "import", str(many)]
    shown, _ = on_a_terminal(command)
    for part in (b"importing in.jsonl", b" record", b"/s", b"left", b" %"):
        assert part in shown, part
    quiet = subprocess.run(command, capture_output=True, check=True, env=TERMINAL)
    assert quiet.stderr == b""
    assert quiet.stdout.startswith(b"imported 20,000 records")


def test_export_shows_rate_and_time_left(fake: FakeServer, many: Path, tmp_path: Path) -> None:
    fake.chunk_keys = 1000
    subprocess.run([*PYTHON, "-E", fake.endpoint, "import", str(many)], capture_output=True, check=True)
    for more, parts in (
        ([], (b"exporting to out.kvd", b" record", b"/s", b"left", b" %")),
        (["--prefix", "k0"], (b"exporting to out.kvd", b" record", b"left")),
    ):
        command = [*PYTHON, "-E", fake.endpoint, "export", str(tmp_path / "out.kvd"), *more]
        shown, _ = on_a_terminal(command)
        assert all(part in shown for part in parts), shown
    names = [name for name, _ in fake.requests]
    quiet = subprocess.run(command, capture_output=True, check=True, env=TERMINAL)
    assert quiet.stderr == b""
    new = [name for name, _ in fake.requests][len(names) :]
    assert sorted(new) == ["Scan", "Status"], "nothing is counted for nobody"


def test_output_in_a_pipe_stays_clean_below_a_bar(fake: FakeServer, many: Path) -> None:
    fake.chunk_keys = 1000
    subprocess.run([*PYTHON, "-E", fake.endpoint, "import", str(many)], capture_output=True, check=True)
    shown, out = on_a_terminal([*PYTHON, "-E", fake.endpoint, "export"])
    assert b"exporting" in shown
    assert len([json.loads(line) for line in out.splitlines()]) == 20_000


def test_what_takes_long_shows_a_sign_of_life(fake: FakeServer) -> None:
    release = fake.hold("Flush")
    shown, out = on_a_terminal([*PYTHON, "-E", fake.endpoint, "flush"], until=b"flushing", release=release)
    assert release.is_set()
    assert b"flushing" in shown
    assert out == b"everything up to revision 1 is in tables\n"


def test_what_does_not_take_long_shows_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "shows_progress", lambda: True)
    monkeypatch.setattr(progress, "_SPINNER_DELAY_S", 3600.0)
    with progress.Spinner("flushing"):
        assert [thread.name for thread in threading.enumerate() if thread.name == "kvctl-spinner"]
    assert not [thread.name for thread in threading.enumerate() if thread.name == "kvctl-spinner"]
    assert capsys.readouterr().err == ""


def test_what_is_done_with_an_archive_shows_bytes_and_their_rate(archived: Archived, tmp_path: Path) -> None:
    log_only(archived)
    restore = ["restore", "--archive", archived.url, "--latest", "--target-dir", str(tmp_path / "restored"), "-o", "raw"]
    for command, title in (
        (["archive", "verify", "--archive", archived.url, "-o", "raw"], b"reading"),
        (restore, b"replaying the log"),
    ):
        shown, _ = on_a_terminal([*PYTHON, *command])
        for part in (title, b" KiB", b"MB/s", b"left"):
            assert part in shown, (command, part)
        quiet = subprocess.run(
            [*PYTHON, "archive", "verify", "--archive", archived.url], capture_output=True, check=True, env=TERMINAL
        )
        assert quiet.stderr == b""
