"""The helper process that reads and checks every byte of an archive: ``python -m kvserver.archive.verify_main URL CLUSTER``.

``start_verify`` starts it; its result is for ``verdict_of``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from kvserver.archive.helper import Fields, Helper, run_helper
from kvserver.archive.open_store import open_store
from kvserver.archive.verify import VerifyReport, verify_archive

_MODULE = "kvserver.archive.verify_main"
_WORKERS = 1
"""It runs beside a node that serves, and is in no hurry."""


class Verdict(NamedTuple):
    """What a check came to."""

    ok: bool
    what: str
    """What was found, in a sentence without its full stop."""


def start_verify(archive_url: str, cluster_id: bytes) -> Helper:
    """Start a helper that checks a cluster's archive. Raises KvError."""
    return Helper(_MODULE, [archive_url, cluster_id.hex()])


def verdict_of(fields: Fields) -> Verdict:
    """Return the verdict that a helper's result speaks of."""
    return Verdict(fields["ok"], fields["what"])


def verdict(report: VerifyReport) -> Verdict:
    """Return what a report comes to, for people who look at it later."""
    if report.is_whole:
        read = report.stored_bytes + report.file_bytes
        return Verdict(True, f"{report.segments} segments and {report.backups} backups are whole, {read} bytes were read")
    first = f"{report.damaged[0].name}: {report.damaged[0].what}" if report.damaged else report.problems[0]
    count = len(report.damaged) + len(report.problems)
    others = f", and {count - 1} more; see: kvctl archive verify" if count > 1 else ""
    return Verdict(False, f"{first}{others}")


def _work(arguments: Sequence[str], tell: Callable[[Fields], None]) -> Fields:
    url, cluster = arguments
    with contextlib.closing(open_store(url)) as store:
        return dict(verdict(verify_archive(store, bytes.fromhex(cluster), _WORKERS))._asdict())


if __name__ == "__main__":
    run_helper(_work)
