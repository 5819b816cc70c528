"""A process that changes tables in RocksDB until it is killed, and says on its standard output what is durable.

    python -m support.tables_writer FOLDER FIRST_NUMBER

Table ``number`` gives every key of ``KEYS`` the value ``number``, and adds a row of its own; after every fifth the rows of
their own are removed and the tables merged. A line ``taken <number>`` or ``removed <number>`` is printed once it has.
"""

from __future__ import annotations

import sys
from pathlib import Path

from kvserver.storage.rocks import RocksTables

KEYS = [b"key%03d" % number for number in range(300)]
CACHE_BYTES = 1 << 20


def own_key(number: int) -> bytes:
    """Return the key of the row that only one table has."""
    return b"own%06d" % number


def main(folder: Path, number: int) -> None:
    """Change tables for ever."""
    tables = RocksTables.open(folder / "tables", CACHE_BYTES)
    while True:
        writer = tables.new_table(folder / "building.sst")
        for key in KEYS:
            writer.put(key, b"%d" % number)
        writer.put(own_key(number), b"")
        writer.finish()
        tables.ingest(folder / "building.sst")
        print("taken", number, flush=True)
        if number % 5 == 0:
            tables.delete_range(own_key(0), own_key(number + 1))
            print("removed", number, flush=True)
            tables.compact(b"", b"")
        number += 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
