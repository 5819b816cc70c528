"""The file that says what a data folder is: made once, checked at every look; only its register may change.

Whoever makes a folder into a store writes it: the first start of a server, and a restore that takes an old store over.
"""

from __future__ import annotations

import dataclasses

from kvserver.base.environment import Environment
from kvserver.base.errors import OpenRefused
from kvserver.base.fs import create_once, write_new_file
from kvserver.base.paths import DataPaths
from kvserver.base.record_file import decode_record, encode_record
from kvserver.base.types import Identity

FORMAT_VERSION = 2
"""Version of the data folder's layout; raised when an older software could misread it. 1: a log without tables."""

READABLE_VERSIONS = (1, 2)

_STORE = "kvserver"


def create_identity(
    env: Environment, paths: DataPaths, node_name: str, register: str, cluster_id: bytes | None = None
) -> Identity:
    """Make a folder into a store: a new one, or a node of the cluster that is named. Durable on return. Raises OSError."""
    identity = Identity(
        cluster_id=cluster_id or env.random_bytes(16),
        node_id=env.random_bytes(8).hex(),
        node_name=node_name,
        format_version=FORMAT_VERSION,
        created_ms=env.clock.now_ms(),
        register=register,
    )
    create_once(env.fs, paths.identity, paths.identity_temporary, _encode(identity))
    return identity


def replace_register(env: Environment, paths: DataPaths, identity: Identity, register: str) -> Identity:
    """Say of a store that it claims its epochs in another register from now on, and return its new identity.

    Durable on return; after a crash the file says the one or the other. Raises OSError.
    """
    changed = dataclasses.replace(identity, register=register)
    if env.fs.exists(paths.identity_temporary):
        env.fs.remove(paths.identity_temporary)
    write_new_file(env.fs, paths.identity_temporary, _encode(changed))
    env.fs.rename(paths.identity_temporary, paths.identity)
    env.fs.sync_dir(paths.root)
    return changed


def parse_identity(paths: DataPaths, data: bytes) -> Identity:
    """Return the identity of the file's content. Raises Corruption; OpenRefused for what is not ours or not of our time."""
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


def _encode(identity: Identity) -> bytes:
    return encode_record(
        {
            "store": _STORE,
            "format_version": identity.format_version,
            "cluster_id": identity.cluster_id.hex(),
            "node_id": identity.node_id,
            "created_ms": identity.created_ms,
            "node_name": identity.node_name,
            "register": identity.register,
        }
    )
