"""Fixtures that several files share."""

from __future__ import annotations

import os

import pytest

from integration.kvctl_runs import Kvctl, Outcome
from kvctl.main import run


@pytest.fixture
def kvctl(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Kvctl:
    """Runs kvctl in this process; standard input is no terminal."""
    for name in [name for name in os.environ if name.startswith("KVCTL_")]:
        monkeypatch.delenv(name)

    def call(*arguments: str) -> Outcome:
        capfdbinary.readouterr()
        exit_code = run(arguments)
        captured = capfdbinary.readouterr()
        return Outcome(exit_code, captured.out, captured.err.decode())

    return call
