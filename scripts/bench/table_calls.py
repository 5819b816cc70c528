"""Measures which calls of the tables keep other threads from running, and for how long: the table in ``docs/tables.md``.

    python scripts/bench/table_calls.py --folder FOLDER [--sync-ms 20] [--rounds 7]

Beside each call a second thread wakes every 0.2 ms and notes the longest time between two wakings. The same is done once more
with a disk whose every sync takes ``--sync-ms`` longer: a small library, compiled with gcc and loaded before all others,
sleeps in fsync and fdatasync. Everything is written below FOLDER and removed again.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from kvserver.storage.rocks import RocksTables, open_reader

TICK_S = 0.0002
SWITCH_INTERVAL_S = 0.0005
CACHE_BYTES = 16 << 20
ROWS = 160_000
VALUE_BYTES = 100

SHIM = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>

static int slow(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    usleep(SYNC_US);
    return real(fd);
}

int fsync(int fd) { return slow("fsync", fd); }
int fdatasync(int fd) { return slow("fdatasync", fd); }
"""


@dataclasses.dataclass
class Figure:
    """How long a call took and how long it kept others waiting, in milliseconds: the median over the rounds, and the worst."""

    call: str
    took_ms: list[float] = dataclasses.field(default_factory=list)
    gap_ms: list[float] = dataclasses.field(default_factory=list)

    def cells(self) -> list[str]:
        """Return the cells of the table."""
        return [f"{statistics.median(self.took_ms):.1f}", f"{statistics.median(self.gap_ms):.1f}", f"{max(self.gap_ms):.1f}"]


class Ticker:
    """A thread that wakes often and knows the longest time between two wakings."""

    def __init__(self) -> None:
        self._stop = False
        self._longest_s = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        before = time.perf_counter()
        while not self._stop:
            time.sleep(TICK_S)
            now = time.perf_counter()
            self._longest_s = max(self._longest_s, now - before)
            before = now

    def measure(self, figure: Figure, call: Callable[[], object]) -> None:
        """Make the call and note how long it took and how long the ticker had to wait."""
        time.sleep(0.02)
        self._longest_s = 0.0
        start = time.perf_counter()
        call()
        took_s = time.perf_counter() - start
        time.sleep(0.002)  # the ticker comes to its next turn
        figure.took_ms.append(took_s * 1000)
        figure.gap_ms.append(self._longest_s * 1000)

    def stop(self) -> None:
        """End the thread."""
        self._stop = True
        self._thread.join()


class Scene:
    """Tables of some size, and the calls that are measured on them."""

    def __init__(self, folder: Path, rounds: int) -> None:
        self.folder = folder
        self.rounds = rounds
        self.chance = random.Random(1)
        self.figures: dict[str, Figure] = {}
        self.ticker = Ticker()
        self.values = [self.chance.randbytes(VALUE_BYTES) for _ in range(500)]

    def measure(self, name: str, call: Callable[[], object]) -> None:
        """Measure one call under a name."""
        self.ticker.measure(self.figures.setdefault(name, Figure(name)), call)

    def key(self) -> bytes:
        """Return a random key."""
        return b"%016x" % self.chance.getrandbits(48)

    def run(self) -> list[Figure]:
        """Make all calls, several times each."""
        self.measure("nothing (50 ms of sleep)", lambda: time.sleep(0.05))
        for number in range(self.rounds):
            opened: list[RocksTables] = []
            self.measure("open", functools.partial(self.open_into, opened))
            self.round(opened[0], number)
            self.measure("close", opened[0].close)
        self.ticker.stop()
        return list(self.figures.values())

    def open_into(self, opened: list[RocksTables]) -> None:
        """Open the tables for writing."""
        opened.append(RocksTables.open(self.folder / "tables", CACHE_BYTES))

    def round(self, tables: RocksTables, number: int) -> None:
        """Add a table and make every call once."""
        keys = sorted({self.key() for _ in range(ROWS)})
        writer = tables.new_table(self.folder / "new.sst")
        for at, key in enumerate(keys):
            writer.put(key, self.values[at % 500])
        self.measure("finish a table of 160,000 rows", writer.finish)
        self.measure("ingest", lambda: tables.ingest(self.folder / "new.sst"))
        known = self.chance.sample(keys, 1500)
        cold, warm = sorted(known[:1000]), sorted(known[1000:])
        self.measure("get_many, 1,000 keys", lambda: tables.get_many(cold))
        tables.get_many(warm)
        self.measure("get_many, 500 keys, cached", lambda: tables.get_many(warm))
        self.measure("rows, 1,000", lambda: tables.rows(self.key(), b"", 1000))
        self.measure("rows, 20,000", lambda: tables.rows(self.key()[:1], b"", 20_000))
        self.measure("figures", tables.figures)
        self.measure("delete_range", lambda: tables.delete_range(b"g", b"h"))
        self.measure("checkpoint", lambda: tables.checkpoint(self.folder / f"copy{number}"))
        self.measure("open_reader and close", lambda: open_reader(self.folder / "tables", CACHE_BYTES).close())
        if number % 3 == 2:
            self.measure("compact all", lambda: tables.compact(b"", b""))
            self.measure("verify", tables.verify)


def measure(folder: Path, rounds: int) -> None:
    """Measure in this process and print the figures for the one that started it."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        print(json.dumps([dataclasses.asdict(figure) for figure in Scene(folder, rounds).run()]))
    finally:
        shutil.rmtree(folder)


def compile_shim(folder: Path, sync_ms: int) -> Path | None:
    """Return the library that makes syncs slow; None without a compiler."""
    compiler = shutil.which("gcc")
    if compiler is None:
        return None
    source, library = folder / "slow_sync.c", folder / "slow_sync.so"
    source.write_text(SHIM)
    command = [compiler, "-shared", "-fPIC", "-O1", f"-DSYNC_US={sync_ms * 1000}", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True)
    return library


def in_child(folder: Path, rounds: int, shim: Path | None) -> list[Figure]:
    """Measure in a process of its own."""
    environment = dict(os.environ)
    if shim is not None:
        environment["LD_PRELOAD"] = str(shim)
    command = [sys.executable, __file__, "--folder", str(folder), "--rounds", str(rounds), "--measure"]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return [Figure(**figure) for figure in json.loads(done.stdout)]


def main() -> None:
    """Measure twice and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, required=True, help="a folder to write in, on the disk in question")
    parser.add_argument("--sync-ms", type=int, default=20, help="how much longer a sync takes on the slow disk")
    parser.add_argument("--rounds", type=int, default=7, help="how often each call is made")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    scratch = arguments.folder / "table_calls"
    if arguments.measure:
        measure(scratch, arguments.rounds)
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    disk = in_child(arguments.folder, arguments.rounds, None)
    shim = compile_shim(arguments.folder, arguments.sync_ms)
    if shim is None:
        print("no gcc on this machine: the slow disk is NOT measured", file=sys.stderr)
    slow = in_child(arguments.folder, arguments.rounds, shim) if shim else [Figure(figure.call, [0], [0]) for figure in disk]
    slower = f"syncs of {arguments.sync_ms} ms more"
    print(f"| call | took ms | others waited ms | at worst | {slower}: took | others waited | at worst |")
    print("|---|---|---|---|---|---|---|")
    for fast, slowed in zip(disk, slow, strict=True):
        print("| " + " | ".join([fast.call, *fast.cells(), *slowed.cells()]) + " |")


if __name__ == "__main__":
    main()
