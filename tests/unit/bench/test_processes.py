"""What the benchmark starts ends with it, however it ends; what fails is told with what it printed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from suite import processes
from suite.processes import ProcessFailed, background, execute, free_port, scratch_folder, server_command, wait_until

BENCH = Path(__file__).resolve().parents[3] / "scripts" / "bench"
HOLDER = """
import subprocess, sys, time
sys.path.insert(0, {bench!r})
from pathlib import Path
from suite.processes import background, scratch_folder
with scratch_folder(Path({folder!r})) as scratch:
    with background(["sleep", "600"], scratch / "sleep.log") as process:
        print(process.pid, scratch, flush=True)
        time.sleep(600)
"""
PARENT = "import subprocess,sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True); sys.stdin.read()"


def gone(pid: int, wait_s: float = 10.0) -> bool:
    """Tell whether a process, which need not be a child of this one, has ended; wait for it."""
    try:
        with open_pidfd(pid) as watched:
            return watched.ended(wait_s)
    except ProcessLookupError:
        return True


class open_pidfd:
    """A process that can be waited for without being its parent."""

    def __init__(self, pid: int) -> None:
        self._fd = os.pidfd_open(pid)

    def __enter__(self) -> open_pidfd:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._fd)

    def ended(self, wait_s: float) -> bool:
        import select

        return bool(select.select([self._fd], [], [], wait_s)[0])


def test_a_command_gives_what_it_prints_and_what_it_took() -> None:
    outcome = execute([sys.executable, "-c", "print(sum(range(3_000_000)))"], timeout_s=60)
    assert outcome.printed == "4499998500000\n"
    assert outcome.cpu_seconds > 0
    assert outcome.seconds > 0


def test_a_command_that_fails_is_told_with_what_it_printed() -> None:
    with pytest.raises(ProcessFailed, match=r"ended with 3:\nout\nwrong"):
        execute([sys.executable, "-c", "import sys; print('out'); print('wrong', file=sys.stderr); sys.exit(3)"], timeout_s=60)


def test_a_command_that_does_not_end_is_ended() -> None:
    with pytest.raises(ProcessFailed, match="did not end within"):
        execute(["sleep", "600"], timeout_s=0.1)


def test_a_background_process_ends_with_its_block_and_takes_its_children_along(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with background([sys.executable, "-c", PARENT.replace("sys.stdin.read()", "__import__('time').sleep(600)")], log) as process:
        wait_until(lambda: log.read_text().endswith("\n"), process, log)
        child = int(log.read_text())
    assert process.returncode is not None
    assert gone(child)


def test_a_process_that_ends_before_it_serves_is_told_with_its_log(tmp_path: Path) -> None:
    log = tmp_path / "etcd.log"
    with pytest.raises(ProcessFailed, match=r"etcd did not stay: it ended with 4:\nno port"):
        with background([sys.executable, "-c", "print('no port'); raise SystemExit(4)"], log) as process:
            wait_until(lambda: False, process, log)


@pytest.mark.parametrize(("number", "folder_stays"), [(signal.SIGTERM, False), (signal.SIGINT, False), (signal.SIGKILL, True)])
def test_whatever_ends_the_benchmark_ends_what_it_started(tmp_path: Path, number: signal.Signals, folder_stays: bool) -> None:
    code = HOLDER.format(bench=str(BENCH), folder=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as holder:
        assert holder.stdout is not None
        pid, folder = holder.stdout.readline().split()
        with open_pidfd(int(pid)) as sleeper:
            holder.send_signal(number)
            holder.wait(30)
            assert sleeper.ended(10.0)
    assert Path(folder).exists() is folder_stays


def test_the_scratch_folder_goes_also_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), scratch_folder(tmp_path / "deep") as folder:
        (folder / "x").write_text("x")
        raise RuntimeError
    assert not list((tmp_path / "deep").iterdir())


def test_impatience_does_not_leave_half_of_the_scratch_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove = shutil.rmtree
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    handlers = [signal.getsignal(number) for number in numbers]

    def remove_under_fire(folder: Path, ignore_errors: bool) -> None:
        for number in numbers:
            signal.raise_signal(number)
        remove(folder, ignore_errors=ignore_errors)

    with scratch_folder(tmp_path) as folder:
        (folder / "x").write_text("x")
        monkeypatch.setattr(shutil, "rmtree", remove_under_fire)
    assert not folder.exists()
    assert [signal.getsignal(number) for number in numbers] == handlers


def test_ports_are_free_and_ours_are_chosen_by_the_server() -> None:
    assert 0 < free_port() < 65536
    assert server_command("DIR").count("127.0.0.1:0") == 2


def test_the_stand_in_writes_the_whole_state_each_time(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    printed = execute([sys.executable, str(processes.BENCH / "rewrite_state.py"), str(state), "50", "0.05"], timeout_s=60).printed
    values = json.loads(printed)
    assert values["writes"] >= 5
    assert values["p50_ms"] > 0
    assert not state.exists()
