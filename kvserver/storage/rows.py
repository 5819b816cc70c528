"""What the rows of the tables mean: their keys and values, byte by byte. Pure. ``docs/table_format.md`` says the same.

    d  namespace (u32)  key                                             the newest version of a key
    h  bucket (u64)  namespace (u32)  escaped key  superseded_at (u64)  a past version, readable at revisions below superseded_at
    m  name                                                             of the store: how far it is flushed
    s  namespace (u32)                                                  statistics of a namespace
    t  revision (u64)                                                   the time at which a flush ended at that revision

Numbers within keys are big-endian, so that the order of bytes is the order of numbers; numbers within values are
little-endian. A bucket is ``superseded_at // bucket_revisions``: once every revision below its end is given up, all of its rows
are, and they are removed by one range deletion. Keys within history are escaped (0 becomes 0 255, and 0 1 ends the key), so
that the versions of one key lie together, oldest first, whatever bytes other keys have.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from kvserver.base.types import CHAIN_LENGTH, Epoch, Position, Version

DATA = b"d"
HISTORY = b"h"
META = b"m"
STATISTICS = b"s"
TIMES = b"t"

FLUSHED_KEY = META + b"flushed"

_VERSION = struct.Struct("<BQQQ")  # flags (0), mod_revision, create_revision, version; the value follows
VERSION_LENGTH = _VERSION.size
_STATISTICS = struct.Struct("<QQQ")
_TIME = struct.Struct("<Q")
_FLUSHED = struct.Struct(f"<B16sQQQ{CHAIN_LENGTH}sQQ")
_FLUSHED_FORMAT = 1

pack_version = _VERSION.pack
"""``pack_version(0, mod_revision, create_revision, version)``: the head of a data or history row."""


class Stored(NamedTuple):
    """A version as a row holds it."""

    mod_revision: int
    create_revision: int
    version: int
    value: bytes

    def of(self, key: bytes) -> Version:
        """Return it as the version of a key."""
        return Version(key, self.value, self.create_revision, self.mod_revision, self.version)


class Flushed(NamedTuple):
    """How far the tables are: the row that every flush replaces, in the same table as the rows it speaks of."""

    cluster_id: bytes
    position: Position
    time_ms: int
    bucket_revisions: int


class Statistics(NamedTuple):
    """What a namespace holds at the flushed revision."""

    keys: int
    key_bytes: int
    value_bytes: int


def data_prefix(namespace: int) -> bytes:
    """Return what the data keys of a namespace begin with."""
    return DATA + namespace.to_bytes(4, "big")


def data_key(namespace: int, key: bytes) -> bytes:
    """Return the key of the row of a key's newest version."""
    return DATA + namespace.to_bytes(4, "big") + key


def data_span(namespace: int, start: bytes, end: bytes) -> tuple[bytes, bytes]:
    """Return the span of rows for the keys k with start <= k < end (end empty: no end)."""
    prefix = data_prefix(namespace)
    return prefix + start, prefix + end if end else data_prefix(namespace + 1)


def key_of(row_key: bytes) -> bytes:
    """Return the key that a data row is of."""
    return row_key[5:]


def encode_version(mod_revision: int, create_revision: int, version: int, value: bytes) -> bytes:
    """Return the value of a data or history row."""
    return _VERSION.pack(0, mod_revision, create_revision, version) + value


def decode_version(row: bytes) -> Stored:
    """Return what a data or history row holds. Raises ValueError."""
    if len(row) < VERSION_LENGTH:
        raise ValueError("a row is shorter than its head")
    flags, mod_revision, create_revision, version = _VERSION.unpack_from(row)
    if flags:
        raise ValueError(f"a row with flags {flags} is not known to this version")
    return Stored(mod_revision, create_revision, version, row[VERSION_LENGTH:])


def version_of(key: bytes, row: bytes) -> Version:
    """Return the version of a key that its row holds, in one step. Raises ValueError."""
    mod_revision, create_revision, version, value = decode_version(row)
    return Version(key, value, create_revision, mod_revision, version)


def escape(key: bytes) -> bytes:
    """Return a key as history rows hold it: no escaped key is the beginning of another, and their order is the keys' order."""
    return key.replace(b"\0", b"\0\xff") + b"\0\1"


def unescape(escaped: bytes) -> bytes:
    """Return the key of an escaped one."""
    return escaped[:-2].replace(b"\0\xff", b"\0")


def bucket_prefix(bucket: int) -> bytes:
    """Return what the rows of a bucket begin with; also the end of those of all buckets before it."""
    return HISTORY + bucket.to_bytes(8, "big")


def history_prefix(bucket: int, namespace: int) -> bytes:
    """Return what a namespace's rows within a bucket begin with."""
    return bucket_prefix(bucket) + namespace.to_bytes(4, "big")


def history_key(bucket: int, namespace: int, key: bytes, superseded_at: int) -> bytes:
    """Return the key of the row of a past version."""
    return history_prefix(bucket, namespace) + escape(key) + superseded_at.to_bytes(8, "big")


def parse_history_key(row_key: bytes) -> tuple[int, int, bytes, int]:
    """Return bucket, namespace, key and superseded_at of a history row's key."""
    bucket = int.from_bytes(row_key[1:9], "big")
    namespace = int.from_bytes(row_key[9:13], "big")
    return bucket, namespace, unescape(row_key[13:-8]), int.from_bytes(row_key[-8:], "big")


def statistics_key(namespace: int) -> bytes:
    """Return the key of a namespace's statistics."""
    return STATISTICS + namespace.to_bytes(4, "big")


def encode_statistics(statistics: Statistics) -> bytes:
    """Return the value of a row of statistics."""
    return _STATISTICS.pack(*statistics)


def decode_statistics(row: bytes) -> Statistics:
    """Return what a row of statistics holds."""
    return Statistics(*_STATISTICS.unpack(row))


def time_key(revision: int) -> bytes:
    """Return the key of the row that says when a flush ended at this revision."""
    return TIMES + revision.to_bytes(8, "big")


def encode_time(time_ms: int) -> bytes:
    """Return the value of such a row."""
    return _TIME.pack(time_ms)


def decode_time(row_key: bytes, row: bytes) -> tuple[int, int]:
    """Return revision and time of such a row."""
    return int.from_bytes(row_key[1:], "big"), int(_TIME.unpack(row)[0])


def encode_flushed(flushed: Flushed) -> bytes:
    """Return the value of the row ``FLUSHED_KEY``."""
    epoch, revision, chain = flushed.position
    return _FLUSHED.pack(
        _FLUSHED_FORMAT,
        flushed.cluster_id,
        epoch.number,
        epoch.nonce,
        revision,
        chain,
        flushed.time_ms,
        flushed.bucket_revisions,
    )


def decode_flushed(row: bytes) -> Flushed:
    """Return what the row ``FLUSHED_KEY`` holds. Raises ValueError."""
    if len(row) != _FLUSHED.size or row[0] != _FLUSHED_FORMAT:
        raise ValueError("the row that says how far the tables are is not of a known form")
    _, cluster_id, number, nonce, revision, chain, time_ms, bucket_revisions = _FLUSHED.unpack(row)
    return Flushed(cluster_id, Position(Epoch(number, nonce), revision, chain), time_ms, bucket_revisions)
