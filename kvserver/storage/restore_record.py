"""The record in a folder that is being restored: from what, up to where, and how to go on with it.

While it is there the folder is no store. It is written before anything else, and removed when everything else is durable.
"""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, NamedTuple

from kvserver.base.environment import Environment
from kvserver.base.errors import Corruption
from kvserver.base.fs import create_once, read_file, write_new_file
from kvserver.base.paths import DataPaths
from kvserver.base.record_file import decode_record, encode_record

_STORE = "kvserver restore"


class RestoreRecord(NamedTuple):
    """What is being restored."""

    archive_url: str
    """As people may see it: without credentials."""
    cluster_id: bytes
    """Whose log it is."""
    revision: int
    """Where it ends."""
    take_over: bool
    """Whether the folder becomes the old cluster, not a fork of it."""
    target: str
    """The folder's own path."""
    base_done: bool
    """Whether all files of the backup that it begins with are in their place."""
    begun_ms: int
    plan: dict[str, Any]
    """Which backup and which segments, as ``kvserver.archive.plan_record`` has it."""

    @property
    def command(self) -> str:
        """Return the command line that goes on with it."""
        words = ["kvctl", "restore", "--archive", self.archive_url, "--cluster", self.cluster_id.hex()]
        words += ["--to-revision", str(self.revision), "--target-dir", self.target]
        return shlex.join([*words, "--take-over"] if self.take_over else words)


def create_restore_record(env: Environment, paths: DataPaths, record: RestoreRecord) -> None:
    """Make a folder one that is being restored. Durable on return. Raises FileExistsError, OSError."""
    create_once(env.fs, paths.restore, paths.restore_temporary, _encode(record))


def replace_restore_record(env: Environment, paths: DataPaths, record: RestoreRecord) -> None:
    """Put another record in the place of the one that is there, at once and durably. Raises OSError."""
    if env.fs.exists(paths.restore_temporary):
        env.fs.remove(paths.restore_temporary)
    write_new_file(env.fs, paths.restore_temporary, _encode(record))
    env.fs.rename(paths.restore_temporary, paths.restore)
    env.fs.sync_dir(paths.root)


def remove_restore_record(env: Environment, paths: DataPaths) -> None:
    """Make a folder a store that may be opened. Durable on return. Raises OSError."""
    env.fs.remove(paths.restore)
    env.fs.sync_dir(paths.root)


def read_restore_record(env: Environment, paths: DataPaths) -> RestoreRecord | None:
    """Return the record of a folder; None where it is not being restored. Raises Corruption, OSError."""
    if not env.fs.exists(paths.restore):
        return None
    return _decode(paths.restore, read_file(env.fs, paths.restore))


def _encode(record: RestoreRecord) -> bytes:
    return encode_record({"store": _STORE, **record._asdict(), "cluster_id": record.cluster_id.hex()})


def _decode(path: Path, data: bytes) -> RestoreRecord:
    hint = "remove the folder, and restore again into a new one"
    try:
        fields = decode_record(path, data)
        if fields.pop("store", None) != _STORE:
            raise Corruption(path, 0, "it is not the record of a restore")
        return RestoreRecord(**{**fields, "cluster_id": bytes.fromhex(fields["cluster_id"])})
    except Corruption as error:
        raise Corruption(path, error.offset, error.what, hint) from error
    except (KeyError, TypeError, ValueError) as error:
        raise Corruption(path, 0, f"a field is missing or of another kind: {error}", hint) from error
