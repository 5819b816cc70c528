"""What a data folder is: read it, create it, refuse what is not ours or not of our time."""

from __future__ import annotations

from kvserver.base.environment import Environment
from kvserver.base.errors import OpenRefused
from kvserver.base.fs import create_once, read_file
from kvserver.base.paths import TOP_LEVEL_NAMES, DataPaths, parse_segment
from kvserver.base.record_file import decode_record, encode_record
from kvserver.base.types import Identity

FORMAT_VERSION = 2
"""Version of the data folder's layout; raised when an older software could misread it. 1: a log without tables."""

READABLE_VERSIONS = (1, 2)

_STORE = "kvserver"


def read_identity(env: Environment, paths: DataPaths) -> Identity | None:
    """Return the folder's identity; None where it is new. Raises OpenRefused, Corruption."""
    names = env.fs.list_dir(paths.root)
    if paths.identity.name in names:
        return _parse(paths, read_file(env.fs, paths.identity))
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


def create_identity(env: Environment, paths: DataPaths, node_name: str, register: str) -> Identity:
    """Make a new folder into a store. Durable on return."""
    identity = Identity(
        cluster_id=env.random_bytes(16),
        node_id=env.random_bytes(8).hex(),
        node_name=node_name,
        format_version=FORMAT_VERSION,
        created_ms=env.clock.now_ms(),
        register=register,
    )
    fields = {
        "store": _STORE,
        "format_version": identity.format_version,
        "cluster_id": identity.cluster_id.hex(),
        "node_id": identity.node_id,
        "created_ms": identity.created_ms,
        "node_name": identity.node_name,
        "register": identity.register,
    }
    create_once(env.fs, paths.identity, paths.identity_temporary, encode_record(fields))
    return identity


def _parse(paths: DataPaths, data: bytes) -> Identity:
    fields = decode_record(paths.identity, data)
    if fields.get("store") != _STORE:
        raise OpenRefused(f"{paths.root} belongs to another software", "name another folder with --data-dir")
    version = fields.get("format_version")
    if version not in READABLE_VERSIONS:
        raise OpenRefused(
            f"{paths.root} is of format version {version}; this software reads versions up to {FORMAT_VERSION}",
            "open it with the software that wrote it, or a newer one",
        )
    return Identity(
        cluster_id=bytes.fromhex(fields["cluster_id"]),
        node_id=fields["node_id"],
        node_name=fields["node_name"],
        format_version=version,
        created_ms=fields["created_ms"],
        register=fields["register"],
    )
