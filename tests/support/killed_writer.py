"""A process that writes until a failpoint kills it: ``python killed_writer.py DATA_DIR FAILPOINTS RUNS BEGIN``.

It opens the store with its real threads and RocksDB on the real file system, writes runs of sequential keys, and prints the end
of each run that was acknowledged. Its memtables and segments are small, so that it flushes and removes segments; half-way it
makes a checkpoint beside the data folder. Tables are built in this process, so that failpoints of the building are passed
here. The test that starts it opens the folder afterwards and compares.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

from kvserver.base import failpoints
from kvserver.base.options import EngineOptions, TableOptions, WalOptions
from kvserver.commit.requests import PutRun
from kvserver.engine.database import Database
from kvserver.engine.flush_helper import InlineBuilder
from kvserver.engine.table_kit import rocks
from kvserver.replication.local_register import LocalRegister

RUN_LENGTH = 20
WAL = WalOptions(
    segment_bytes=96 * 1024,
    max_group_bytes=8 * 1024,
    max_frame_bytes=16 * 1024,
    ahead_bytes=48 * 1024,
    fill_step_bytes=16 * 1024,
)

TABLES = TableOptions(memtable_bytes=80 * 1024)
KIT = dataclasses.replace(
    rocks(), make_builder=lambda env, paths, options, tables, listener: InlineBuilder(env.fs, paths, tables)
)


def key_of(number: int) -> bytes:
    """Return the n-th key."""
    return b"key-%08d" % number


def value_of(number: int) -> bytes:
    """Return the n-th key's value."""
    return b"%d" % number * 10


def copy_of(data_dir: Path, begin: int) -> Path:
    """Return where a writer that began at this number makes its checkpoint."""
    return data_dir.absolute().parent / f"copy-{begin}"


async def write(data_dir: Path, runs: int, begin: int) -> None:
    """Open, write, print what was acknowledged, close."""
    loop = asyncio.get_running_loop()

    def post(callback: Callable[[], None]) -> None:
        loop.call_soon_threadsafe(callback)

    db = Database.open(
        data_dir,
        lambda env, paths: LocalRegister(env.fs, paths),
        "local",
        post,
        KIT,
        EngineOptions(wal=WAL, tables=TABLES),
    )
    number = begin
    for run in range(runs):
        if run == runs // 2:
            await db.checkpoint(copy_of(data_dir, begin))
        numbers = range(number, number + RUN_LENGTH)
        number += RUN_LENGTH
        await db.submit(PutRun(1, [key_of(n) for n in numbers], [value_of(n) for n in numbers]), lambda done: done)
        print(number, flush=True)
    db.close()
    print("closed", flush=True)


if __name__ == "__main__":
    failpoints.arm_from_text(sys.argv[2])
    asyncio.run(write(Path(sys.argv[1]), int(sys.argv[3]), int(sys.argv[4])))
