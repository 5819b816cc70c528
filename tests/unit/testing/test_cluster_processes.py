"""The processes of a cluster: which flags each node is started with, in which order they start and end; no process is started."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kvserver.testing import running
from kvserver.testing.cluster import ClusterProcesses, free_ports, running_cluster
from kvserver.testing.process import ServerFailed

STARTED: list[tuple[str, ...]] = []
EVENTS: list[str] = []


class StubProcess:
    """Stands in for a process: it makes its data folder, and ends when it is told to."""

    fails_to_stop = ""

    def __init__(self, flags: Any, environment: Any = None, on_line: Any = None) -> None:
        STARTED.append(tuple(flags))
        self.values = dict(zip(flags[::2], flags[1::2], strict=True))
        self.name = self.values["--name"]
        EVENTS.append(f"start {self.name}")
        folder = Path(self.values["--data-dir"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "IDENTITY").touch()
        self.exit_code: int | None = None
        self.pid = 1
        if on_line is not None:
            on_line(f"ready listen={self.values['--listen']}")

    @property
    def running(self) -> bool:
        return self.exit_code is None

    def wait_until_ready(self, timeout_s: float) -> None:
        EVENTS.append(f"ready {self.name}")

    def field(self, name: str) -> str:
        return self.values[f"--{name}"]

    def kill(self) -> None:
        if self.exit_code is None:
            EVENTS.append(f"kill {self.name}")
            self.exit_code = -9

    def stop(self) -> int:
        EVENTS.append(f"stop {self.name}")
        if self.name == StubProcess.fails_to_stop:
            raise ServerFailed("it does not end")
        self.exit_code = 0
        return 0

    def lines(self) -> list[str]:
        return ["a line"]

    def report(self, what: str) -> str:
        return what


@pytest.fixture(autouse=True)
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(running, "ServerProcess", StubProcess)
    monkeypatch.setattr(ClusterProcesses, "status", lambda self: None)
    monkeypatch.setattr("kvserver.testing.cluster.os.kill", lambda pid, number: None)
    StubProcess.fails_to_stop = ""
    STARTED.clear()
    EVENTS.clear()
    yield


def flags_of(number: int) -> dict[str, str]:
    return dict(zip(STARTED[number][::2], STARTED[number][1::2], strict=True))


def test_the_first_start_makes_a_cluster(tmp_path: Path) -> None:
    cluster = ClusterProcesses(tmp_path, flags=("--memtable-mb", "8"), write_quorum=2, ports=(1, 2, 3), http_ports=(4, 5, 6))
    cluster.start()
    assert EVENTS == ["start n1", "ready n1", "start n2", "start n3", "ready n2", "ready n3"]
    first, second, third = (flags_of(number) for number in range(3))
    assert (first["--members"], first["--write-quorum"], "--follow" in first) == ("n1,n2,n3", "2", False)
    assert (second["--follow"], third["--follow"], "--members" in second) == ("127.0.0.1:1", "127.0.0.1:1", False)
    for number, told in enumerate((first, second, third), 1):
        assert told["--listen"] == told["--advertise"] == f"127.0.0.1:{number}"
        assert told["--http"] == f"127.0.0.1:{number + 3}"
        assert told["--data-dir"] == str(tmp_path / f"n{number}")
        assert told["--register"] == (tmp_path / "register").as_uri()
        assert told["--archive"] == (tmp_path / "archive").as_uri()
        assert told["--memtable-mb"] == "8"
    assert cluster.endpoints == "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3"


def test_a_later_start_tells_nobody_anything_and_waits_for_all(tmp_path: Path) -> None:
    ClusterProcesses(tmp_path, write_quorum=2, ports=(1, 2, 3)).start()
    STARTED.clear()
    EVENTS.clear()
    again = ClusterProcesses(tmp_path, write_quorum=2, ports=(1, 2, 3))
    again.start()
    assert EVENTS == ["start n1", "start n2", "start n3", "ready n1", "ready n2", "ready n3"]
    assert not {"--follow", "--members", "--write-quorum"} & {name for flags in STARTED for name in flags}
    assert shlex.split(again["n2"].command)[1:4] == ["serve", "--data-dir", str(tmp_path / "n2")]


def test_a_node_whose_data_are_gone_is_told_whom_to_follow(tmp_path: Path) -> None:
    cluster = ClusterProcesses(tmp_path, ports=(1, 2, 3), archive=False)
    cluster.start()
    cluster.kill("n3")
    (tmp_path / "n3" / "IDENTITY").unlink()
    assert cluster["n3"].is_new
    cluster.restart("n3")
    assert flags_of(-1)["--follow"] == "127.0.0.1:1"
    assert "--archive" not in flags_of(-1)


def test_only_those_that_are_away_are_started(tmp_path: Path) -> None:
    cluster = ClusterProcesses(tmp_path)
    cluster.start()
    cluster.kill("n2")
    assert [node.name for node in cluster.running] == ["n1", "n3"]
    assert cluster["n2"].exit_code == -9
    EVENTS.clear()
    cluster.start()
    assert EVENTS == ["start n2", "ready n2"]


def test_the_primary_ends_first_and_one_that_does_not_end_keeps_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = ClusterProcesses(tmp_path)
    cluster.start()
    EVENTS.clear()
    monkeypatch.setattr(ClusterProcesses, "primary", lambda self: "n2")
    StubProcess.fails_to_stop = "n2"
    with pytest.raises(ServerFailed, match="does not end"):
        cluster.stop()
    assert EVENTS == ["stop n2", "stop n1", "stop n3"]


def test_nothing_outlives_the_block() -> None:
    with pytest.raises(KeyError), running_cluster(("a", "b")) as cluster:
        folder = cluster.folder
        cluster["c"]
    assert EVENTS[-2:] == ["kill a", "kill b"]
    assert not folder.exists()


def test_what_nodes_print_is_told_with_their_names(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    ClusterProcesses(tmp_path, ports=(1, 2, 3), on_line=lambda name, line: told.append((name, line))).start()
    assert told == [(f"n{number}", f"ready listen=127.0.0.1:{number}") for number in (1, 2, 3)]


def test_waiting_in_vain_says_for_what(tmp_path: Path) -> None:
    cluster = ClusterProcesses(tmp_path)
    with pytest.raises(TimeoutError, match=r"waited 0 s for n1 to be primary; no node answers"):
        cluster.wait_for_primary("n1", timeout_s=0)
    with pytest.raises(TimeoutError, match="to have what the primary has"):
        cluster.wait_until_caught_up(timeout_s=0)


def test_free_ports_differ() -> None:
    assert len(set(free_ports(20))) == 20
