"""Loads a server without the SDK, or opens a folder that such a load left, and prints what it saw as JSON.

wire_load.py frames HOST:PORT SECONDS FRAME IN_FLIGHT KEYS
wire_load.py replay FOLDER
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from suite.streams import puts, repeated, run_closed

VALUE = bytes(range(256))


def frames(address: str, seconds: float, frame: int, in_flight: int, keys: int) -> dict[str, float]:
    """Put over the keys in columnar frames, several under way, for so long."""
    pool = [b"key%08d" % number for number in range(keys)]
    made = [puts(pool[at : at + frame], [VALUE] * frame) for at in range(0, keys - frame + 1, frame)]
    begin = time.perf_counter()
    operations = sum(done.operations for done in run_closed(address, repeated(made, seconds), in_flight))
    return {"per_s": operations / (time.perf_counter() - begin), "operations": operations}


def replay(folder: Path) -> dict[str, float]:
    """Open the folder as a server does, without serving it; say how many commits a second its log gave."""
    from kvserver.base.events import Event, LogRecovered
    from kvserver.engine.database import Database
    from kvserver.engine.table_kit import rocks
    from kvserver.replication.local_register import KIND, LocalRegister

    events: list[Event] = []
    begin = time.perf_counter()
    database = Database.open(
        folder,
        lambda env, paths: LocalRegister(env.fs, paths),
        KIND,
        post=lambda callback: callback(),
        kit=rocks(),
        listener=events.append,
        threads=False,
    )
    elapsed = time.perf_counter() - begin
    database.close()
    commits = sum(event.commits for event in events if isinstance(event, LogRecovered))
    return {"per_s": commits / elapsed, "commits": commits}


def main() -> None:
    """Do what the command line names."""
    what, *words = sys.argv[1:]
    if what == "frames":
        result = frames(words[0], float(words[1]), int(words[2]), int(words[3]), int(words[4]))
    else:
        result = replay(Path(words[0]))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
