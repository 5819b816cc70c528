"""A stand-in for a store without a log: each write puts the whole state as JSON into a new file and syncs it.

rewrite_state.py FILE KEYS SECONDS
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

AT_LEAST = 5
"""Writes that are measured however long they take."""


def save(path: Path, state: dict[str, str]) -> None:
    """Replace the file by one that holds the state; durable when this returns."""
    new = path.with_suffix(".new")
    with new.open("w") as file:
        json.dump(state, file)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def main() -> None:
    """Write for so long, one write after the other, and print the median."""
    path, keys, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    state = {f"key:{number:016x}": "v" * 256 for number in range(keys)}
    times: list[float] = []
    until = time.perf_counter() + seconds
    while len(times) < AT_LEAST or time.perf_counter() < until:
        begin = time.perf_counter()
        state[f"key:{len(times) % keys:016x}"] = f"{len(times):0256d}"
        save(path, state)
        times.append(time.perf_counter() - begin)
    path.unlink()
    print(json.dumps({"p50_ms": sorted(times)[len(times) // 2] * 1000, "writes": len(times)}))


if __name__ == "__main__":
    main()
