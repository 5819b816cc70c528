"""The helper process that hashes what a checkpoint, or a restored folder, holds: ``python -m kvserver.archive.hash_main DIR``.

It prints one line of JSON. ``hash_folder`` starts it and reads that line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path

from kvserver.archive.helper import Fields, Helper, run_helper
from kvserver.archive.record_fields import Fields as RecordFields
from kvserver.base.clock import SystemClock
from kvserver.base.errors import Code, InvalidRequest
from kvserver.base.limits import MIB
from kvserver.base.paths import DataPaths
from kvserver.base.record_file import position_fields
from kvserver.storage.content_hash import ContentHash, content_hash

_MODULE = "kvserver.archive.hash_main"
_CACHE_BYTES = 8 * MIB
"""Each block is read once, in order."""


def start_hashing(folder: Path) -> Helper:
    """Start a helper that hashes the tables of a folder which nobody writes to. Its result is for ``hash_of``. Raises KvError."""
    return Helper(_MODULE, [str(folder)])


def hash_folder(folder: Path) -> ContentHash:
    """Return the hash of the tables of a folder which nobody writes to, computed by a helper. Blocks. Raises KvError."""
    return hash_of(start_hashing(folder).result())


def hash_of(fields: Fields) -> ContentHash:
    """Return the hash that a helper's result speaks of."""
    position = RecordFields(fields).position("position") if "position" in fields else None
    return ContentHash(position, bytes.fromhex(fields["sha256"]), fields["keys"])


def hash_fields(found: ContentHash) -> Fields:
    """Return a hash as fields of JSON."""
    fields: Fields = {"revision": found.revision, "sha256": found.sha256.hex(), "keys": found.keys}
    if found.position is not None:
        fields["position"] = position_fields(found.position)
    return fields


def _work(arguments: Sequence[str], tell: Callable[[Fields], None]) -> Fields:
    from kvserver.storage.rocks import open_reader

    if len(arguments) != 1:
        raise InvalidRequest(Code.INVALID_FIELD, "one folder is to be named", "python -m kvserver.archive.hash_main DIR")
    clock = SystemClock()
    begun = clock.monotonic()
    with contextlib.closing(open_reader(DataPaths(Path(arguments[0])).tables, _CACHE_BYTES)) as tables:
        found = content_hash(tables)
    return {**hash_fields(found), "seconds": clock.monotonic() - begun}


if __name__ == "__main__":
    run_helper(_work)
