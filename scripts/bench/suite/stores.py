"""Fills a store with the keys that kvbench uses, in an order that makes its tables overlap, and flushes it."""

from __future__ import annotations

import random
import shutil
import sys
from pathlib import Path

from suite.processes import BENCH, execute, kvserver

FRAME = 1_000
IN_FLIGHT = 8
FILL_PER_S = 45_000
"""About how many keys a second are filled in, flushes and all merges included; for the plan only."""


def fill(folder: Path, keys: int, value_bytes: int) -> None:
    """Make a store that holds so many keys, all of them in tables, in place of one that is there.

    They are merged as far as they will be, and in the file cache: the first round finds what later ones find.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with kvserver(folder) as server:
        command = [sys.executable, str(BENCH / "fill_store.py"), server.address, str(keys), str(value_bytes), "settled"]
        execute(command, timeout_s=300 + keys / 5_000)
    for table in folder.rglob("*.sst"):
        table.read_bytes()


def shuffled_keys(number: int) -> list[bytes]:
    """Return the first of the keys that kvbench uses, as its help names them, in a random order that is the same each time."""
    keys = [b"kvbench/%010d" % at for at in range(number)]
    random.Random(1).shuffle(keys)
    return keys
