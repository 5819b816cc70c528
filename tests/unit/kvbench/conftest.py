"""Fixtures: kvbench as a function from a command line to what it printed, options, and results that were never measured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvbench import results
from kvbench.main import execute
from kvbench.options import RunOptions
from kvbench.recording import PhaseResult
from unit.kvbench.made import SURROUNDINGS, Outcome, phase_result, tick


@pytest.fixture
def kvbench(capfdbinary: pytest.CaptureFixture[bytes]) -> Callable[..., Outcome]:
    """Runs kvbench in this process."""

    def run(*arguments: str) -> Outcome:
        capfdbinary.readouterr()
        exit_code = execute(arguments)
        captured = capfdbinary.readouterr()
        return Outcome(exit_code, captured.out.decode(), captured.err.decode())

    return run


@pytest.fixture
def options() -> Callable[..., RunOptions]:
    """Makes options that can be carried out, but for what the test gives."""

    def make(**given: Any) -> RunOptions:
        defaults: dict[str, Any] = {"workload": "put", "clients": 4, "keys": 100, "value_size_bytes": 16}
        if "duration_s" not in given:
            defaults["total"] = 40
        return RunOptions(**defaults | given)

    return make


@pytest.fixture
def result(options: Callable[..., RunOptions]) -> Callable[..., dict[str, Any]]:
    """Makes the document of a run with the options and the notes given; without notes, of ten puts in two seconds."""

    def make(*notes: PhaseResult, **given: Any) -> dict[str, Any]:
        found = list(notes) or [phase_result(tick(1, put=[1.0] * 5), tick(2, put=[2.0] * 5), ended_s=2)]
        return results.document(options(**given), found, SURROUNDINGS)

    return make
