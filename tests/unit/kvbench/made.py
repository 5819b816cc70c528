"""Notes and surroundings that no run has made, and what one command line did."""

from __future__ import annotations

import array
import dataclasses
import json
from typing import Any

from kvbench import histogram
from kvbench.recording import PhaseResult, Tick


@dataclasses.dataclass
class Outcome:
    """What one run of kvbench did."""

    exit_code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> Any:
        return json.loads(self.err)


def part(*latencies_ms: float) -> histogram.Sparse:
    """Return latencies as a tick brings them."""
    return histogram.fold(array.array("q", [int(value * 1e6) for value in latencies_ms]))


def tick(at_s: float, errors: dict[str, int] | None = None, **latencies_ms: list[float]) -> Tick:
    """Return a tick at a moment, with latencies by kind of operation."""
    return Tick(int(at_s * 1e9), {kind: part(*values) for kind, values in latencies_ms.items()}, errors or {})


def phase_result(*ticks: Tick, ended_s: float, **more: Any) -> PhaseResult:
    """Return what a process that began at 0 brings home."""
    return PhaseResult(began_ns=0, ended_ns=int(ended_s * 1e9), ticks=list(ticks), **more)


SURROUNDINGS: dict[str, Any] = {
    "command": "kvbench run",
    "began_at": "2020-01-01T00:00:00+00:00",
    "machine": {
        "cores": 4,
        "usable_cores": 2,
        "processor": "P <1>",
        "memory_bytes": 2**33,
        "system": "Linux",
        "kernel": "6.1",
        "architecture": "x86_64",
    },
    "versions": dict.fromkeys(("kvserver_client", "kvserver_server", "python", "grpcio", "protobuf", "uvloop", "numpy"), "1.0"),
    "disk": {
        "folder": "/tmp",
        "file_system": "ext4",
        "device": "/dev/vda",
        "fdatasync_bytes": 4096,
        "fdatasyncs": 2,
        "fdatasync_ms": {"min": 0.1, "p50": 0.2, "p99": 0.3, "max": 0.4},
    },
}
