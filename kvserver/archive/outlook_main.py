"""The helper process that finds out what a restore would take: ``python -m kvserver.archive.outlook_main URL CLUSTER``.

It reads every record of the archive. ``start_outlook`` starts it; its result is for ``outlook_from``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence

from kvserver.archive.catalog import read_catalog
from kvserver.archive.helper import Fields, Helper, run_helper
from kvserver.archive.open_store import open_store
from kvserver.archive.outlook import Outlook, outlook_of

_MODULE = "kvserver.archive.outlook_main"


def start_outlook(archive_url: str, cluster_id: bytes) -> Helper:
    """Start a helper that reads the records of a cluster's archive. Raises KvError."""
    return Helper(_MODULE, [archive_url, cluster_id.hex()])


def outlook_from(fields: Fields) -> Outlook:
    """Return the outlook that a helper's result speaks of."""
    return Outlook(**fields)


def _work(arguments: Sequence[str], tell: Callable[[Fields], None]) -> Fields:
    url, cluster = arguments
    with contextlib.closing(open_store(url)) as store:
        return outlook_of(read_catalog(store, bytes.fromhex(cluster)))._asdict()


if __name__ == "__main__":
    run_helper(_work)
