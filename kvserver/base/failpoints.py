"""Named places in the code where a test can make something happen: a kill, an error, a pause.

A place calls ``hit(name)``; while nothing is armed that costs one look at an empty dict. Tests arm a name with a callable;
a server process arms them from ``KVSERVER_FAILPOINTS`` (see ``arm_from_text``). The names are a closed table, so that a
campaign can walk all of them and a misspelt one is an error.

The idea is gofail's, as used by etcd's robustness tests (etcd-io/etcd, ``tests/robustness``).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

NAMES = (
    # log writer, in the order in which a group passes them
    "wal.before_write",
    "wal.after_write",
    "wal.after_sync",
    "wal.before_answer",
    # sealing and rotation
    "wal.seal.before_trailer",
    "wal.seal.after_trailer",
    "wal.seal.after_truncate",
    "wal.seal.after_sync",
    "wal.create.after_header",
    "wal.create.after_header_sync",
    "wal.create.after_rename",
    "wal.create.after_dir_sync",
    # space made ready ahead of need
    "wal.prepare.after_create",
    "wal.prepare.after_fill",
    # recovery
    "wal.recover.after_torn_saved",
    "wal.recover.after_cut",
    "wal.recover.after_rewrite",
    "wal.recover.after_rewrite_sync",
    "wal.recover.after_seal",
    # open
    "engine.open.after_lock",
    "engine.open.after_identity",
    "engine.open.after_tables",
    "engine.open.after_recover",
    "engine.open.after_claim",
    "engine.open.after_first_segment",
    "engine.open.after_begun",
    # log release
    "wal.release.before_remove",
    "wal.release.after_remove",
    "wal.release.after_dir_sync",
    # flush
    "flush.build.before_finish",
    "flush.build.after_finish",
    # flush, on the side of the engine
    "engine.flush.after_cut",
    "engine.flush.after_build",
    "engine.flush.after_ingest",
    "engine.flush.after_release",
    # checkpoint
    "engine.checkpoint.after_tables",
    "engine.checkpoint.after_origin",
    # clean end
    "engine.close.before_final_sync",
    "engine.close.after_final_sync",
)

ARCHIVE_NAMES = (
    # a segment on its way into the archive
    "archive.before_put",
    "archive.after_put",
    "archive.after_read_back",
    "archive.after_manifest",
    "archive.after_mark",
    "archive.after_closing",
    # a base backup
    "backup.after_checkpoint",
    "backup.after_files",
    "backup.after_record",
    "backup.delete.after_record",
    # a restore
    "restore.after_plan",
    "restore.after_base",
    "restore.after_segment",
    "restore.after_table",
    "restore.after_ingest",
    "restore.after_origin",
    "restore.after_cleared",
    # retention
    "retention.after_floor",
    "retention.after_backup",
    "retention.after_segment",
    # a damaged segment put back
    "repair.after_fetch",
    "repair.after_aside",
    "repair.after_rename",
)
"""Those of the archive, its backups and restores; walked by campaigns of their own."""

REPLICATION_NAMES = (
    # a store on its way from one node to another
    "bootstrap.after_checkpoint",
    "bootstrap.after_part",
    "bootstrap.after_copy",
    # a checkpoint to go back to
    "base.after_checkpoint",
    "base.after_rename",
    "base.after_origin_removed",
    # a log taken back to where histories part
    "rewind.after_base",
    "rewind.after_link",
    "rewind.after_kept",
    "rewind.after_cut",
    # a copy that takes the place of what there was
    "swap.after_marker",
    "swap.after_out",
    "swap.after_in",
    "swap.after_unmarked",
    # a promise made durable
    "vow.after_write",
    "vow.after_rename",
    # a promotion, in the order of its steps
    "promotion.after_look",
    "promotion.after_claim",
    "promotion.after_own_promise",
    "promotion.after_promises",
    "promotion.after_catch_up",
    "promotion.after_take_over",
    # the register of a single node on its way into a shared one
    "register.move.after_claim",
    "register.move.after_branch",
    "register.move.after_copy",
    "register.move.after_identity",
)
"""Those of several nodes together; walked by campaigns of their own."""

_armed: dict[str, Callable[[], None]] = {}


def hit(name: str) -> None:
    """Do what is armed for this place; nothing, usually."""
    if _armed:
        action = _armed.get(name)
        if action is not None:
            action()


def arm(name: str, action: Callable[[], None]) -> None:
    """Make ``hit(name)`` call the action. Raises KeyError for a name that the table does not hold."""
    if name not in NAMES and name not in ARCHIVE_NAMES and name not in REPLICATION_NAMES:
        raise KeyError(f"no failpoint is called {name!r}")
    _armed[name] = action


def disarm_all() -> None:
    """Make every place do nothing again."""
    _armed.clear()


def _kill_at(count: int) -> Callable[[], None]:
    remaining = count

    def kill() -> None:
        nonlocal remaining
        remaining -= 1
        if remaining <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return kill


def arm_from_text(text: str) -> None:
    """Arm places from text such as ``wal.after_write=kill@3;wal.after_sync=kill`` (kill -9 at the n-th passage).

    Raises ValueError for text of another form, KeyError for an unknown name.
    """
    for part in filter(None, text.split(";")):
        name, _, action = part.partition("=")
        kind, _, count = action.partition("@")
        if kind != "kill" or (count and not count.isdigit()):
            raise ValueError(f"a failpoint reads NAME=kill or NAME=kill@N, not {part!r}")
        arm(name.strip(), _kill_at(int(count or "1")))
