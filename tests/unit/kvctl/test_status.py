"""status of one node and of several, once and again and again; sync."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from support.fake_server import FakeServer

PYTHON = [sys.executable, "-m", "kvctl"]


@pytest.fixture
def second() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


def test_several_nodes(offline: Any, fake: FakeServer, second: FakeServer, fill: Any) -> None:
    fill({b"a": b"1"})
    both = f"{fake.endpoint}, {second.endpoint}"
    one, two = offline("-E", both, "status", "-o", "json").json_lines
    assert (one["endpoint"], one["revision"]) == (fake.endpoint, 2)
    assert (two["endpoint"], two["revision"]) == (second.endpoint, 1)
    assert {*one} == {*two} == {*offline("-E", fake.endpoint, "status", "-o", "json").json}
    lines = offline("-E", both, "status").out.decode().splitlines()
    assert lines[0].split() == ["ENDPOINT", "NODE", "ROLE", "EPOCH", "REVISION", "DURABLE", "FLUSHED", "KEYS", "UP", "VERSION"]
    assert lines[1].split() == [fake.endpoint, "fake", "primary", "1", "2", "2", "1", "1", "1m", "1s", "0.1.0"]
    assert lines[2].startswith(second.endpoint)
    assert lines[3] == f"{fake.endpoint}: warning: the disk is 91 % full"


def test_a_node_that_is_away_does_not_hide_the_others(offline: Any, fake: FakeServer, absent_endpoint: str) -> None:
    both = f"{absent_endpoint},{fake.endpoint}"
    told = offline("-E", both, "status", "-o", "json")
    away, there = told.json_lines
    assert told.exit_code == 3
    assert {*away} == {"endpoint", "error"}
    assert (away["endpoint"], away["error"]["code"], away["error"]["exit_code"]) == (absent_endpoint, "UNAVAILABLE", 3)
    assert there["role"] == "primary"
    lines = offline("-E", both, "status").out.decode().splitlines()
    assert lines[1].split() == [absent_endpoint, *"-" * 9]
    assert lines[3].startswith(f"{absent_endpoint}: cannot connect to")
    raw = offline("-E", both, "status", "-o", "raw").out.decode().splitlines()
    assert raw[0] == f"endpoint\t{absent_endpoint}"
    assert raw[1].startswith("error\tcannot connect")
    assert "role\tprimary" in raw


def test_a_bad_endpoint_among_good_ones_is_wrong_usage(offline: Any, fake: FakeServer) -> None:
    wrong = offline("-E", f"{fake.endpoint},nowhere", "status")
    assert (wrong.exit_code, wrong.out) == (2, b"")


def test_watching_goes_on_until_it_is_interrupted(fake: FakeServer, fill: Any) -> None:
    command = [*PYTHON, "-E", fake.endpoint, "status", "--watch", "--interval", "1ms", "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["revision"] == 1
        fill({b"a": b"1"})
        while json.loads(process.stdout.readline())["revision"] < 2:
            assert process.poll() is None
        port = int(fake.endpoint.rpartition(":")[2])
        fake.stop()  # a node that goes away is what one watches for: no reason to end
        while "error" not in (told := json.loads(process.stdout.readline())):
            assert process.poll() is None
        assert told["error"]["code"] == "UNAVAILABLE"
        fake.start(port)
        while "error" in json.loads(process.stdout.readline()):
            assert process.poll() is None
        os.kill(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert json.loads(err.splitlines()[-1])["code"] == "INTERRUPTED"


def test_watching_clears_a_terminal(fake: FakeServer) -> None:
    ours, theirs = pty.openpty()
    command = [*PYTHON, "-E", fake.endpoint, "status", "-w", "--interval", "1ms"]
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.PIPE) as process:
        os.close(theirs)
        shown = b""
        while shown.count(b"\x1b[2J") < 2:
            shown += os.read(ours, 4096)
        os.kill(process.pid, signal.SIGINT)
        while True:
            try:
                if not os.read(ours, 4096):
                    break
            except OSError:
                break
        assert process.wait(20) == 130
    os.close(ours)
    assert b"fake (primary)" in shown
