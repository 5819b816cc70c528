"""How the live tail of the log is compressed on its way to a follower: which way is agreed on, and both directions of it.

A chunk is compressed as one zstd frame by itself, so nothing is kept between two of them. Within one machine that only costs:
both sides share the processors. Between machines it is the rule: a log of text shrinks to a quarter, and that pays on every link
that is slower than a core compresses. ``scripts/bench/tail_compression.py`` prints the table, with that bandwidth at the end.

There is no dictionary: a busy tail goes in chunks of many commits that hold their own repetitions, and an idle one has bytes to
spare.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from kvserver.archive.compression import Compressor, Decompressor
from kvserver.base.errors import Code, ReplicationError
from kvserver.base.limits import MAX_LOG_FRAME_BYTES, MIB
from kvserver.wal.format import FRAME_OVERHEAD, SEGMENT_HEADER_LENGTH

NONE = "none"
ZSTD = "zstd"
AUTO = "auto"
SETTINGS = (AUTO, NONE, ZSTD)

LEVEL = 1

MIN_BYTES = 256
"""Less is sent as it is."""

MAX_CHUNK_BYTES = max(1 * MIB, MAX_LOG_FRAME_BYTES + FRAME_OVERHEAD + SEGMENT_HEADER_LENGTH)
"""No chunk is longer before compression: one frame, the largest there is, behind a header block."""


def choose(offered: Sequence[str], setting: str, address: str) -> str:
    """Return the compression of the chunks to a follower that can undo those offered.

    ``setting``: "none", "zstd" (where it is offered), or "auto": zstd, but not within one machine. ``address``: the follower's,
    HOST:PORT. Raises ValueError for another setting.
    """
    if setting not in SETTINGS:
        raise ValueError(f"the compression of the tail is one of {', '.join(SETTINGS)}, not {setting!r}")
    if setting == NONE or ZSTD not in offered:
        return NONE
    return NONE if setting == AUTO and is_loopback(address) else ZSTD


def is_loopback(address: str) -> bool:
    """Say whether an address, HOST:PORT, is one of this machine that no network carries."""
    host = address.rpartition(":")[0].strip("[]")
    if host in ("", "localhost") or address.startswith("unix:"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class ChunkCompressor:
    """Compresses the chunks of one call, one after the other."""

    def __init__(self, compression: str) -> None:
        """Raises ReplicationError (WRONG_PEER) for a compression that is not known."""
        _check(compression)
        self._library = Compressor(LEVEL) if compression == ZSTD else None

    @property
    def works(self) -> bool:
        """Say whether it does anything."""
        return self._library is not None

    def compress(self, data: bytes) -> tuple[bytes, int]:
        """Return what is to be sent, and the length before compression; 0: it is not compressed, where that saves nothing."""
        if self._library is None or len(data) < MIN_BYTES:
            return data, 0
        packed = self._library.compress(data)
        return (packed, len(data)) if len(packed) < len(data) else (data, 0)


class ChunkDecompressor:
    """Undoes it. What comes is hostile: nothing is believed of its length."""

    def __init__(self, compression: str) -> None:
        """Raises ReplicationError (WRONG_PEER) for a compression that is not known."""
        _check(compression)
        self._library = Decompressor() if compression == ZSTD else None

    def decompress(self, data: bytes, raw_length: int) -> bytes:
        """Return the bytes of a chunk. Raises ReplicationError (WRONG_PEER) for what cannot be one."""
        if not raw_length:
            if len(data) > MAX_CHUNK_BYTES:
                raise _refused(f"a chunk of {len(data)} bytes; none has more than {MAX_CHUNK_BYTES}")
            return data
        if self._library is None:
            raise _refused("a chunk is compressed, and nothing of that was agreed on")
        if raw_length > MAX_CHUNK_BYTES:
            raise _refused(f"a chunk claims {raw_length} bytes; none has more than {MAX_CHUNK_BYTES}")
        try:
            return self._library.decompress(data, raw_length)
        except ValueError as error:
            raise _refused(f"a chunk cannot be decompressed: {error}") from error


def _check(compression: str) -> None:
    if compression not in (NONE, ZSTD):
        raise _refused(f"the compression {compression!r} is not known")


def _refused(what: str) -> ReplicationError:
    return ReplicationError(Code.WRONG_PEER, what, "run the same version on all nodes; if they do, the network changed the bytes")
