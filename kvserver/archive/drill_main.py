"""The helper process that carries a drill out: ``python -m kvserver.archive.drill_main JSON``.

``start_drill`` starts it; while it works it tells how far it is, and its result is for ``report_of``.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from kvserver.archive.drill import DrillReport, drill
from kvserver.archive.hash_main import hash_fields, hash_of
from kvserver.archive.helper import Fields, Helper, run_helper
from kvserver.archive.open_store import open_store
from kvserver.archive.restore import RestoreOptions, RestoreProgress
from kvserver.base.environment import Environment
from kvserver.storage.content_hash import ContentHash

_MODULE = "kvserver.archive.drill_main"
_TELL_EVERY_BYTES = 16 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class DrillAsked:
    """What a drill is to do."""

    archive_url: str
    cluster_id: bytes
    expected: ContentHash
    scratch: Path
    """A folder that does not exist yet."""
    workers: int = 2


def start_drill(asked: DrillAsked) -> Helper:
    """Start a helper that carries a drill out. Raises KvError.

    Its answers before the last one have ``stage``, ``bytes_done`` and ``total_bytes``. Killed, it leaves its folder behind.
    """
    fields: Fields = {
        "archive_url": asked.archive_url,
        "cluster_id": asked.cluster_id.hex(),
        "expected": hash_fields(asked.expected),
        "scratch": str(asked.scratch),
        "workers": asked.workers,
    }
    return Helper(_MODULE, [json.dumps(fields)])


def report_of(fields: Fields) -> DrillReport:
    """Return the report that a helper's result speaks of."""
    return DrillReport(**{**fields, "expected": hash_of(fields["expected"]), "found": hash_of(fields["found"])})


def report_fields(report: DrillReport) -> Fields:
    """Return a report as fields of JSON."""
    return {**report._asdict(), "expected": hash_fields(report.expected), "found": hash_fields(report.found)}


def _work(arguments: Sequence[str], tell: Callable[[Fields], None]) -> Fields:
    asked = json.loads(arguments[0])
    told = 0

    def progress(far: RestoreProgress) -> None:
        nonlocal told
        done = far.base_bytes_done + far.raw_bytes_done
        if done >= told + _TELL_EVERY_BYTES or not done:
            told = done
            tell({"stage": far.stage, "bytes_done": far.bytes_done, "total_bytes": far.total_bytes})

    report = drill(
        Environment(),
        open_store(asked["archive_url"]),
        bytes.fromhex(asked["cluster_id"]),
        hash_of(asked["expected"]),
        Path(asked["scratch"]),
        RestoreOptions(workers=asked["workers"], own_process=True),
        progress,
    )
    return report_fields(report)


if __name__ == "__main__":
    run_helper(_work)
