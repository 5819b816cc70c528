"""What a data folder is: read it, refuse what is not ours, not of our time, or not whole."""

from __future__ import annotations

from kvserver.base.environment import Environment
from kvserver.base.errors import OpenRefused
from kvserver.base.fs import read_file
from kvserver.base.identity_file import parse_identity
from kvserver.base.paths import TOP_LEVEL_NAMES, DataPaths, parse_segment
from kvserver.base.types import Identity
from kvserver.storage.restore_record import RestoreRecord, read_restore_record


def read_identity(env: Environment, paths: DataPaths) -> Identity | None:
    """Return the folder's identity; None where it is new. Raises OpenRefused, Corruption."""
    restoring = read_restore_record(env, paths)
    if restoring is not None:
        raise unfinished(paths, restoring)
    names = env.fs.list_dir(paths.root)
    if paths.identity.name in names:
        return parse_identity(paths, read_file(env.fs, paths.identity))
    strangers = [name for name in names if name not in TOP_LEVEL_NAMES]
    if strangers:
        raise OpenRefused(
            f"{paths.root} is not a data folder: it holds {strangers[0]!r} but no {paths.identity.name}",
            "name an empty or new folder with --data-dir",
        )
    if "wal" in names and any(parse_segment(name) for name in env.fs.list_dir(paths.wal)):
        raise OpenRefused(
            f"{paths.root} holds a log but no {paths.identity.name}: the file was lost",
            "put the IDENTITY file back from a copy of the folder; it is never made anew beside a log",
        )
    if "tables" in names and paths.origin.name not in names and env.fs.list_dir(paths.tables):
        raise OpenRefused(
            f"{paths.root} holds tables but neither {paths.identity.name} nor {paths.origin.name}: it is a checkpoint that was "
            "not finished, or a file was lost",
            "make the checkpoint again, or put the file back from a copy of the folder",
        )
    return None


def unfinished(paths: DataPaths, restoring: RestoreRecord) -> OpenRefused:
    """Return the error that a folder is still being restored, with the command that goes on with it."""
    return OpenRefused(
        f"{paths.root} is no store yet: its restore to revision {restoring.revision} from {restoring.archive_url} did not end",
        f"go on with it: {restoring.command}",
    )
