"""The helper process that gives up what an archive need not keep: ``python -m kvserver.archive.retention_main JSON``.

``start_retention`` starts it; its result has ``removed``, a number of objects, and ``what``, a sentence.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence

from kvserver.archive.helper import Fields, Helper, run_helper
from kvserver.archive.open_store import open_store
from kvserver.archive.retention import RetentionPlan, RetentionPolicy, retain
from kvserver.base.environment import Environment
from kvserver.base.errors import Code, RevisionError

_MODULE = "kvserver.archive.retention_main"


def start_retention(archive_url: str, cluster_id: bytes, policy: RetentionPolicy) -> Helper:
    """Start a helper that plans, proves and carries out retention. Raises KvError."""
    return Helper(_MODULE, [json.dumps({"url": archive_url, "cluster": cluster_id.hex(), "policy": list(policy)})])


def outcome(plan: RetentionPlan) -> Fields:
    """Return what became of a plan that was carried out."""
    removed = len(plan.backups) + len(plan.files) + len(plan.segments) + len(plan.records)
    freed_bytes = sum(info.length for info in (*plan.files, *plan.segments))
    what = (
        f"{len(plan.backups)} backups, {len(plan.files)} of their files and {len(plan.segments)} segments, {freed_bytes} bytes; "
        f"history is promised from revision {plan.first_revision} on"
    )
    return {"removed": removed, "what": what if removed else plan.reason}


def _work(arguments: Sequence[str], tell: Callable[[Fields], None]) -> Fields:
    asked = json.loads(arguments[0])
    with contextlib.closing(open_store(asked["url"])) as store:
        try:
            return outcome(retain(Environment(), store, bytes.fromhex(asked["cluster"]), RetentionPolicy(*asked["policy"])))
        except RevisionError as error:  # not RetentionRefused, which is none
            if error.code is not Code.NO_RESTORE_PLAN:
                raise
            return {"removed": 0, "what": error.message}


if __name__ == "__main__":
    run_helper(_work)
