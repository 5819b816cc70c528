"""Runs of kvctl in the tests' own process, and what each printed; the fixture ``kvctl`` is such a function."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any


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
        return json.loads(self.err.splitlines()[-1])


Kvctl = Callable[..., Outcome]
