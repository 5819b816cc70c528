"""kvbench against servers as users start them: every workload, several processes, and servers that go away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import kvclient
from integration.processes import Process
from kvbench.workload import FIRST_KEY, KEY_PREFIX, KEYS_END

KVBENCH = [sys.executable, "-m", "kvbench"]
PATIENCE_S = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with Process("--data-dir", str(tmp_path_factory.mktemp("data"))) as process:
        yield process.ready()


def _kvbench(*arguments: str) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in os.environ.items() if not name.startswith(("KVBENCH_", "KVCTL_"))}
    return subprocess.run([*KVBENCH, *arguments], capture_output=True, text=True, timeout=PATIENCE_S, env=known, check=False)


def _until_it_writes(kv: kvclient.Client) -> None:
    """Wait until 50 more commits are durable."""
    wanted = kv.status().revision + 50
    while kv.sync().revision < wanted:
        pass


def _run(server: Process, *arguments: str) -> Any:
    """Measure a small run; return its result, which must be told without anything on standard error."""
    small = ("--clients", "8", "--keys", "500", "--value-size", "64", "-E", server.address, "-o", "json")
    done = _kvbench("run", *small, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.mark.parametrize("client", ["async", "blocking"])
@pytest.mark.parametrize("workload", ["put", "get", "mixed", "scan", "ycsb-a"])
def test_every_workload_carries_out_every_operation(server: Process, workload: str, client: str) -> None:
    found = _run(server, "--workload", workload, "--total", "300", "--client", client, "--warm-up", "50ms")
    assert found["operations"] == 300
    assert found["errors"] == {}
    assert found["not_found"] == 0
    assert found["not_sent"] == 0
    assert found["ops_per_s"] > 0
    latency = found["latency_ms"]
    assert 0 < latency["min"] <= latency["p50"] <= latency["p99"] <= latency["p999"] <= latency["max"]
    kinds = {"put": {"put"}, "get": {"get"}, "scan": {"scan"}}.get(workload, {"get", "put"})
    assert found["by_operation"].keys() == kinds
    if workload == "scan":
        assert found["keys_read"] == 300 * 100
    assert found["client"]["cpu_s"] > 0
    assert found["versions"]["kvserver_server"] == kvclient.Client(server.address).status().server_version
    assert found["disk"]["fdatasync_ms"]["p50"] > 0


def test_writes_are_in_the_server_and_reads_find_what_was_loaded(tmp_path: Path) -> None:
    with Process("--data-dir", str(tmp_path / "data")) as server, kvclient.Client(server.ready().address) as kv:
        before = kv.status().revision
        _run(server, "--workload", "put", "--total", "200")
        assert kv.status().revision == before + 200, "each put is a commit of its own"
        written = kv.count(KEY_PREFIX)
        assert 100 < written <= 200
        missing = _run(server, "--workload", "get", "--total", "200", "--no-load", "--keys", "100000")
        assert missing["not_found"] > 100
        assert any("found nothing" in warning for warning in missing["warnings"])
        _run(server, "--workload", "get", "--total", "200")
        entries = list(kv.scan(KEY_PREFIX))
        assert len(entries) == 500
        assert entries[0].key == FIRST_KEY
        assert entries[-1].key < KEYS_END
        assert {len(entry.value) for entry in entries} == {64}


def test_processes_share_the_operations_and_the_callers(server: Process) -> None:
    found = _run(server, "--workload", "mixed", "--total", "401", "--processes", "2", "--clients", "3")
    assert found["operations"] == 401
    assert len(found["client"]["cpu_shares"]) == 2
    assert sum(found["histogram"]["counts"]) == 401


def test_a_rate_is_kept_and_what_is_late_is_told(server: Process) -> None:
    found = _run(server, "--workload", "put", "--rate", "200", "--duration", "1s", "--processes", "2")
    assert found["operations"] == 200
    assert found["schedule"]["rate"] == 200
    assert found["schedule"]["lag_ms"]["max"] is not None
    assert found["elapsed_s"] >= 0.9, "the last operation is not due before"


def test_a_run_by_time(server: Process) -> None:
    found = _run(server, "--workload", "get", "--duration", "300ms", "--distribution", "latest")
    assert found["operations"] > 0
    assert found["elapsed_s"] >= 0.3


def test_memory_writes(server: Process) -> None:
    assert _run(server, "--workload", "put", "--total", "100", "--durability", "memory")["errors"] == {}


def test_results_are_written_compared_and_plotted(server: Process, tmp_path: Path) -> None:
    first, second, own_page, page = (str(tmp_path / name) for name in ("a.json", "b.json", "a.html", "ab.html"))
    base = ("run", "--workload", "put", "--clients", "4", "--keys", "100", "-E", server.address)
    shown = _kvbench(*base, "--total", "100", "--out-json", first, "--out-html", own_page)
    assert shown.returncode == 0
    assert "throughput" in shown.stdout
    assert _kvbench(*base, "--total", "150", "--out-json", second, "--label", "longer").returncode == 0
    assert json.loads(Path(first).read_text())["operations"] == 100
    compared = json.loads(_kvbench("compare", first, second, "-o", "json").stdout)
    assert compared["differences"]["options.total"] == [100, 150]
    assert compared["ratios"]["ops_per_s"]["ratio"] > 0
    assert _kvbench("report", first, second, "--out-html", page).returncode == 0
    assert "<svg" in Path(own_page).read_text()
    assert "longer" in Path(page).read_text()


def test_a_namespace_that_is_there_is_used(server: Process) -> None:
    with kvclient.Client(server.address) as kv:
        kv.create_namespace("bench")
    _run(server, "--workload", "get", "--total", "20", "-n", "bench")
    with kvclient.Client(server.address, "bench") as kv:
        assert kv.count(KEY_PREFIX) == 500


def test_a_namespace_that_is_not_there_ends_with_4(server: Process) -> None:
    done = _kvbench("run", "--workload", "put", "--total", "20", "-E", server.address, "-n", "nowhere")
    assert done.returncode == 4
    assert "[UNKNOWN_NAMESPACE]" in done.stderr


def test_a_server_that_goes_away_in_the_middle_is_told_by_code(tmp_path: Path) -> None:
    result = tmp_path / "x.json"
    with Process("--data-dir", str(tmp_path / "data")) as server:
        command = ["run", "--workload", "put", "--clients", "8", "--duration", "4s", "-E", server.ready().address]
        with subprocess.Popen([*KVBENCH, *command, "--out-json", str(result)], stdout=subprocess.PIPE, text=True) as bench:
            with kvclient.Client(server.address) as kv:
                _until_it_writes(kv)
            server.signal(signal.SIGKILL)
            shown, _ = bench.communicate(timeout=PATIENCE_S)
    found = json.loads(result.read_text())
    assert bench.returncode == 0, "some operations succeeded"
    assert found["operations"] >= 50 - 8, "each caller may have had one without an answer"
    assert found["errors"].keys() <= {"UNAVAILABLE", "OUTCOME_UNKNOWN"}
    assert sum(found["errors"].values()) > 0
    assert sum(found["timeline"]["errors_per_s"]["UNAVAILABLE"]) > 0
    assert "UNAVAILABLE" in shown


def test_an_interrupt_ends_with_130_and_leaves_no_process(server: Process) -> None:
    endless = ("--workload", "put", "--duration", "1m", "--processes", "2", "--clients", "2")
    command = [*KVBENCH, "run", *endless, "-E", server.address]
    # A session of its own stands for the terminal, whose Ctrl-C reaches the client processes too.
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as bench:
        with kvclient.Client(server.address) as kv:
            _until_it_writes(kv)
        children = _children(bench.pid)
        os.killpg(bench.pid, signal.SIGINT)
        _, told = bench.communicate(timeout=PATIENCE_S)
    assert bench.returncode == 130
    assert told.strip() == "error: interrupted [INTERRUPTED]"
    assert len(children) == 2
    for child in children:
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


def test_a_client_process_that_dies_is_told(server: Process) -> None:
    command = [*KVBENCH, "run", "--workload", "put", "--duration", "1m", "--clients", "2", "-E", server.address]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as bench:
        with kvclient.Client(server.address) as kv:
            _until_it_writes(kv)
        for child in _children(bench.pid):
            os.kill(child, signal.SIGKILL)
        _, told = bench.communicate(timeout=PATIENCE_S)
    assert bench.returncode == 1
    assert "client process 0 ended with -9" in told
    assert "[CLIENT_PROCESS_ENDED]" in told


def test_a_kvbench_that_is_killed_takes_its_processes_along(server: Process) -> None:
    command = [*KVBENCH, "run", "--workload", "put", "--duration", "1m", "--clients", "2", "-E", server.address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as bench:
        with kvclient.Client(server.address) as kv:
            _until_it_writes(kv)
        assert _children(bench.pid)
        bench.kill()
        bench.communicate(timeout=30)  # ends when nobody holds its output any more


def _children(pid: int) -> list[int]:
    """Return the client processes that a kvbench has started, by their command line."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
