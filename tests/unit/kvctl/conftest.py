"""Fixtures: a fake server, and kvctl as a function from a command line to what it printed."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kvctl.main import run
from support.fake_server import FakeServer
from unit.kvctl.archived import Archived, archive_in


@dataclasses.dataclass
class Outcome:
    """What one run of kvctl did."""

    exit_code: int
    out: bytes
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def json_lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> Any:
        return json.loads(self.err)

    @property
    def error_lines(self) -> list[Any]:
        return [json.loads(line) for line in self.err.splitlines()]


Kvctl = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes out of the environment what whoever runs the tests may have set for kvctl."""
    for name in [name for name in os.environ if name.startswith("KVCTL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with FakeServer() as server:
        yield server


@pytest.fixture
def offline(capfdbinary: pytest.CaptureFixture[bytes]) -> Kvctl:
    """Runs kvctl in this process, without naming a server."""

    def kvctl(*arguments: str) -> Outcome:
        capfdbinary.readouterr()
        exit_code = run(arguments)
        captured = capfdbinary.readouterr()
        return Outcome(exit_code, captured.out, captured.err.decode())

    return kvctl


@pytest.fixture
def kvctl(fake: FakeServer, offline: Kvctl) -> Kvctl:
    return lambda *arguments: offline("-E", fake.endpoint, *arguments)


@pytest.fixture
def on_a_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], None]:
    """Makes text what a user types on a terminal."""

    def answer(text: str) -> None:
        path = tmp_path / "typed"
        path.write_text(text)
        monkeypatch.setattr(sys, "stdin", path.open())
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True)

    return answer


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[bytes], None]:
    """Makes bytes the standard input."""

    def feed(data: bytes) -> None:
        path = tmp_path / "stdin"
        path.write_bytes(data)
        monkeypatch.setattr(sys, "stdin", path.open())

    return feed


@pytest.fixture
def absent_endpoint() -> str:
    """An endpoint on which nothing listens."""
    with FakeServer() as server:
        return server.endpoint


@pytest.fixture
def fill(fake: FakeServer) -> Callable[..., None]:
    """Puts pairs into the store behind the server's back."""

    def put(pairs: dict[bytes, bytes]) -> None:
        for key, value in pairs.items():
            fake.store.write_row("", key, value, fake.store.commit(0))

    return put


@pytest.fixture
def archived(tmp_path: Path) -> Iterator[Archived]:
    """An archive in a folder, with nothing in it but the record of the fake server's cluster."""
    archived = archive_in(tmp_path / "archive")
    yield archived
    archived.store.close()
