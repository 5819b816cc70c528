"""A process that writes until a failpoint kills it: ``python killed_writer.py DATA_DIR FAILPOINTS RUNS BEGIN``.

It opens the store with its real threads on the real file system, writes runs of sequential keys, and prints the end of each
run that was acknowledged. The test that starts it opens the folder afterwards and compares.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from kvserver.base import failpoints
from kvserver.base.options import EngineOptions, WalOptions
from kvserver.commit.requests import PutRun
from kvserver.engine.database import Database
from kvserver.replication.local_register import LocalRegister

RUN_LENGTH = 20
WAL = WalOptions(
    segment_bytes=96 * 1024,
    max_group_bytes=8 * 1024,
    max_frame_bytes=16 * 1024,
    ahead_bytes=48 * 1024,
    fill_step_bytes=16 * 1024,
)


def key_of(number: int) -> bytes:
    """Return the n-th key."""
    return b"key-%08d" % number


def value_of(number: int) -> bytes:
    """Return the n-th key's value."""
    return b"%d" % number * 10


async def write(data_dir: Path, runs: int, begin: int) -> None:
    """Open, write, print what was acknowledged, close."""
    loop = asyncio.get_running_loop()
    db = Database.open(
        data_dir,
        lambda env, paths: LocalRegister(env.fs, paths),
        "local",
        loop.call_soon_threadsafe,
        EngineOptions(wal=WAL),
    )
    number = begin
    for _ in range(runs):
        numbers = range(number, number + RUN_LENGTH)
        number += RUN_LENGTH
        await db.submit(PutRun(1, [key_of(n) for n in numbers], [value_of(n) for n in numbers]), lambda done: done)
        print(number, flush=True)
    db.close()
    print("closed", flush=True)


if __name__ == "__main__":
    failpoints.arm_from_text(sys.argv[2])
    asyncio.run(write(Path(sys.argv[1]), int(sys.argv[3]), int(sys.argv[4])))
