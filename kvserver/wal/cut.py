"""A group of which only the first commits count: how it is cut, and the chain value of history that ends there.

Nobody writes such a group to a log. A restore to a revision in the middle of one ends there, and so does what a fork takes over
from its parent. The chain value behind the cut follows from the value before the group and the bytes that are kept, so that
whoever cuts at the same revision comes to the same position.
"""

from __future__ import annotations

import struct

from kvserver.base.coding import chain_hash
from kvserver.wal import format as fmt
from kvserver.wal.commit_record import RECORD_LENGTH

_LENGTH = struct.Struct("<I")


def cut_group(header: fmt.FrameHeader, payload: bytes, revision: int) -> tuple[fmt.FrameHeader, bytes]:
    """Return header and payload of a group's commits up to a revision within it; the header's chain and lengths stay as they are.

    Raises ValueError where the payload does not parse as far as that.
    """
    commits = revision - header.first_revision + 1
    if not 0 < commits <= header.commits:
        raise ValueError(f"revision {revision} is not one of the group's, {header.first_revision} to {header.last_revision}")
    at = 0
    for _ in range(commits):
        if at + RECORD_LENGTH > len(payload):
            raise ValueError("a commit is cut off in its head")
        (length,) = _LENGTH.unpack_from(payload, at)
        at += length
        if length < RECORD_LENGTH or at > len(payload):
            raise ValueError(f"a commit says it is {length} bytes long, which does not fit")
    return header._replace(commits=commits), payload[:at]


def cut_chain(chain: bytes, first_revision: int, kept: bytes) -> bytes:
    """Return the chain value behind a cut group: from the value before it, its first revision, the bytes of the commits kept."""
    return chain_hash(b"kvserver cut", chain, first_revision.to_bytes(8, "little"), kept)
