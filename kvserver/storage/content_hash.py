"""The hash of everything that a store holds at one revision: equal for equal content, however it came to be.

It is a SHA-256 over the newest version of every key of every namespace that exists, the system's own included, in the order of
namespace and key:

    namespace (u32, big-endian), length of key and of value (u32 each), mod_revision, create_revision, version, lease (u64 each),
    key, value

Numbers are little-endian where nothing else is said. The lease is 0: there are none yet. History is no part of it, nor how rows
lie in files, nor what is left of namespaces that were dropped. ``docs/table_format.md`` has the rows that it is read from.
"""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

from kvserver.base.errors import Corruption
from kvserver.base.limits import MIB
from kvserver.base.types import CREATION_REVISION, SYSTEM_NAMESPACE, Position
from kvserver.storage import rows
from kvserver.storage.resolve import DROPPED_ROW
from kvserver.storage.tables import Row, TableReader

DOMAIN = b"kvserver content 1\n"
"""What is hashed first, so that no other hash of these rows is ever the same."""

CHUNK_ROWS = 4_000
CHUNK_BYTES = 2 * MIB
"""Read at once, about: what bounds the memory."""

_HEAD = struct.Struct("<4sII24sQ")
_PLAIN = 0
_HINT = "restore the tables from a checkpoint"
_SYSTEM = SYSTEM_NAMESPACE.to_bytes(4, "big")
_BEHIND = bytes((rows.DATA[0] + 1,))


class ContentHash(NamedTuple):
    """What a store holds at one revision."""

    position: Position | None
    """Where the tables are; None: nothing was ever flushed, they are empty."""
    sha256: bytes
    keys: int
    """So many were hashed, those of the system's own namespace included."""

    @property
    def revision(self) -> int:
        """Return the revision that was hashed."""
        return self.position.revision if self.position is not None else CREATION_REVISION


def content_hash(tables: TableReader) -> ContentHash:
    """Return the hash of what tables hold that stand still meanwhile. Raises Corruption for rows that cannot be; OSError."""
    (mark,) = tables.get_many([rows.FLUSHED_KEY])
    position = _position(mark) if mark is not None else None
    hasher = _Hasher()
    start = rows.DATA
    while chunk := tables.rows(start, _BEHIND, CHUNK_ROWS, CHUNK_BYTES):
        start = hasher.add(chunk)
    return ContentHash(position, hasher.digest.digest(), hasher.keys)


class _Hasher:
    """Takes rows in, in order."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256(DOMAIN)
        self.keys = 0
        self._dropped: set[bytes] = set()

    def add(self, chunk: list[Row]) -> bytes:
        """Take a chunk in, as far as it is of one namespace that was not dropped; return where the next one begins."""
        parts: list[bytes] = []
        pack, head_length = _HEAD.pack, rows.VERSION_LENGTH
        following = chunk[-1][0] + b"\0"
        checked = b""  # a namespace that was not dropped; the system's own rows, which come first, say which were
        for row_key, row in chunk:
            namespace = row_key[1:5]
            if namespace != checked:
                if namespace in self._dropped:
                    following = _behind(namespace)
                    break
                checked = namespace
            if len(row_key) < 5 or len(row) < head_length or row[0] != _PLAIN:
                raise Corruption("tables", 0, f"the row {row_key[:64]!r} is none of a version", _HINT)
            parts.append(pack(namespace, len(row_key) - 5, len(row) - head_length, row[1:head_length], 0))
            parts.append(row_key[5:])
            parts.append(row[head_length:])
            if namespace == _SYSTEM:
                self._note(row_key[5:])
        self.keys += len(parts) // 3
        self.digest.update(b"".join(parts))
        return following

    def _note(self, system_key: bytes) -> None:
        if system_key.startswith(DROPPED_ROW):
            self._dropped.add(system_key[len(DROPPED_ROW) :])


def _behind(namespace: bytes) -> bytes:
    """Return where the rows of the next namespace begin."""
    return rows.DATA + (int.from_bytes(namespace, "big") + 1).to_bytes(4, "big") if namespace != b"\xff" * 4 else _BEHIND


def _position(mark: bytes) -> Position:
    try:
        return rows.decode_flushed(mark).position
    except ValueError as error:
        raise Corruption("tables", 0, str(error)) from error
