"""A node's promise to obey an epoch, kept on its disk: the file PROMISE.

Whoever wants to be primary first claims an epoch and then asks the members to refuse every lower one. Promises given by enough
members (M - W + 1) leave the old primary without a quorum, whatever it does later and whatever is still on its way to it. That
holds only if a promise outlives the node's process and machine: so it is durable before it is answered, and it is never taken
back. A lower epoch is refused, and so is the same number with another nonce, which is another primacy.

The file also says what the node lost. A member's acknowledgement is worth what its disk keeps; one whose log ends below what it
ever acknowledged (a torn tail behind its acknowledgement, a copy fetched anew) could help to elect a primary that lacks an
acknowledged commit. It counts for no quorum until its log reaches that revision again.

A file that does not check is corruption. To take it for none would forget a promise.
"""

from __future__ import annotations

import threading
from typing import Any

from kvserver.archive.record_fields import Fields
from kvserver.base import failpoints
from kvserver.base.environment import Environment
from kvserver.base.errors import Corruption
from kvserver.base.fs import FileSystem, read_file, write_new_file
from kvserver.base.paths import DataPaths
from kvserver.base.record_file import decode_record, encode_record
from kvserver.base.types import NO_EPOCH, Epoch

UNKNOWN_LOST = 1 << 62
"""Stands for the revision until a primary was heard: in a new folder, whose name may have acknowledged before, and behind a copy
of less than there was."""

_STORE = "kvserver promise"
_REMEDY = "fetch the node anew from another one with: kvctl reinit NODE; what it has promised cannot be known any more"


class Vow:
    """The promise of one data folder, which has one user at a time. Every change blocks; safe for several threads."""

    def __init__(self, fs: FileSystem, paths: DataPaths, promised: Epoch, needs_revision: int) -> None:
        self._fs = fs
        self._paths = paths
        self._changing = threading.Lock()
        self._promised, self._needs_revision = promised, needs_revision

    @classmethod
    def open(cls, env: Environment, paths: DataPaths) -> Vow:
        """Read the file; a folder without one has promised nothing. Raises Corruption, OSError.

        What is read may not be durable yet: whoever gave the file its name may have died before it was.
        """
        if env.fs.exists(paths.root):
            env.fs.sync_dir(paths.root)
        return cls(env.fs, paths, *_read(env.fs, paths))

    @property
    def promised(self) -> Epoch:
        """Return the highest epoch that the node has promised to obey; ``NO_EPOCH``: none."""
        return self._promised

    @property
    def needs_revision(self) -> int:
        """Return the revision that the log must reach before the node counts for a quorum; 0: it counts."""
        return self._needs_revision

    @property
    def is_complete(self) -> bool:
        """Say whether the node has all that it ever acknowledged, and so counts for a quorum."""
        return self._needs_revision == 0

    def allows(self, epoch: Epoch) -> bool:
        """Say whether the node may obey an epoch: it is the one that it has promised, or a higher one."""
        return epoch == self._promised or epoch.number > self._promised.number

    def promise(self, epoch: Epoch) -> bool:
        """Refuse epochs lower than this one from now on; durable when this returns True.

        False where the node has promised a higher epoch, or the same number with another nonce: then nothing was changed.
        Raises OSError; then the promise may or may not be kept, and may be asked for again.
        """
        with self._changing:
            if not self.allows(epoch):
                return False
            if epoch != self._promised:
                self._write(epoch, self._needs_revision)
            return True

    def note_lost(self, revision: int) -> None:
        """Count for no quorum until the log reaches a revision that was acknowledged. Durable on return. Raises OSError."""
        with self._changing:
            if revision > self._needs_revision:
                self._write(self._promised, revision)

    def settle_lost(self, revision: int) -> None:
        """Note which revision it is, where only ``UNKNOWN_LOST`` was noted. Durable on return. Raises OSError."""
        with self._changing:
            if self._needs_revision == UNKNOWN_LOST:
                self._write(self._promised, revision)

    def complete(self, end_revision: int) -> bool:
        """Count again if the log durably reaches what was lost, and say whether the node counts. Raises OSError."""
        with self._changing:
            if self._needs_revision and end_revision >= self._needs_revision:
                self._write(self._promised, 0)
            return self._needs_revision == 0

    def _write(self, promised: Epoch, needs_revision: int) -> None:
        """Replace the file; what the process believes changes only when that is durable."""
        fields: dict[str, Any] = {"store": _STORE, "epoch": promised.number, "nonce": promised.nonce}
        if self._fs.exists(self._paths.promise_temporary):
            self._fs.remove(self._paths.promise_temporary)
        data = encode_record({**fields, "needs_revision": needs_revision})
        write_new_file(self._fs, self._paths.promise_temporary, data)
        failpoints.hit("vow.after_write")
        self._fs.rename(self._paths.promise_temporary, self._paths.promise)
        failpoints.hit("vow.after_rename")
        self._fs.sync_dir(self._paths.root)
        self._promised, self._needs_revision = promised, needs_revision


def _read(fs: FileSystem, paths: DataPaths) -> tuple[Epoch, int]:
    path = paths.promise
    if not fs.exists(path):
        return NO_EPOCH, 0
    try:
        raw = decode_record(path, read_file(fs, path))
        fields = Fields(raw)
        if raw.keys() != {"store", "epoch", "nonce", "needs_revision"} or fields.text("store") != _STORE:
            raise ValueError("it is no promise")
        return fields.own_epoch("epoch"), fields.number("needs_revision")
    except Corruption as error:
        raise Corruption(path, 0, error.what, _REMEDY) from None
    except ValueError as error:
        raise Corruption(path, 0, str(error), _REMEDY) from None
