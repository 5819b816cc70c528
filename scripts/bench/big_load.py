"""Loads many keys in random order while another process reads them, and records rate, memory and stalls over time.

    scripts/bench/big_load.py --keys 10000000 --plot docs/img/big_load.svg

Writer and reader are processes of their own, so that neither's work is taken for the server's. The loop's stalls are the
server's own figure, the latest that a timer of 10 ms fired. Memory is resident memory of the server and its helper.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import itertools
import json
import math
import multiprocessing
import random
import re
import time
import urllib.request
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from kvproto.v1 import kv_pb2
from suite.plots import Line, write_plots
from suite.processes import Server, kvserver, scratch_folder
from suite.streams import OnAnswer, gets, puts, run_closed

FRAME = 500
IN_FLIGHT = 4
GET_FRAME = 500
SAMPLE_S = 0.5
STEP = 7_368_787
"""A prime that divides no round number of keys: its multiples visit every key once, far from each other."""


def key_of(number: int, keys: int) -> bytes:
    """Return the key that is put as the n-th: each of ``keys`` keys once, in an order that looks random."""
    return b"key:%016x" % ((number * STEP) % keys * 0x9E3779B97F4A7C15 % (1 << 64))


def value_of(number: int) -> bytes:
    """Return 100 bytes of which half can be compressed."""
    return random.Random(number).randbytes(50) + b"x" * 50


@dataclasses.dataclass
class Sample:
    """One look at the run."""

    seconds: float
    puts: int
    gets: int
    server_mib: float
    helper_mib: float
    stall_ms: float
    level0_files: int
    pending_mib: float
    unflushed_mib: float


def add_to(count: Synchronized[int]) -> OnAnswer:
    """Return what adds up answered operations where the parent sees them."""

    def add(operations: int) -> None:
        count.value += operations

    return add


def write(address: str, first: int, keys: int, count: Synchronized[int]) -> None:
    """Put all keys, in frames."""
    values = [value_of(number) for number in range(4096)]
    at = first

    def make() -> kv_pb2.PipelineRequest | None:
        nonlocal at
        if at >= keys:
            return None
        numbers = range(at, min(at + FRAME, keys))
        at += FRAME
        return puts([key_of(n, keys) for n in numbers], [values[n % 4096] for n in numbers])

    run_closed(address, make, IN_FLIGHT, add_to(count))


def read(address: str, keys: int, put: Synchronized[int], count: Synchronized[int], per_s: int, going: Synchronized[int]) -> None:
    """Get random keys among those put, at a rate at most, and check that each is there."""
    rng = random.Random(1)
    begin = time.perf_counter()
    asked = 0

    def make() -> kv_pb2.PipelineRequest | None:
        nonlocal asked
        if not going.value:
            return None
        ahead = asked / per_s - (time.perf_counter() - begin)
        if ahead > 0:
            time.sleep(ahead)
        asked += GET_FRAME
        newest = max(1, put.value - 20_000)
        return gets([key_of(rng.randrange(newest), keys) for _ in range(GET_FRAME)])

    while not put.value:
        time.sleep(0.05)
    begin = time.perf_counter()
    run_closed(address, make, 2, add_to(count))


def resident_mib(pid: int) -> float:
    """Return a process's resident memory; 0 once it has ended."""
    try:
        found = re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    except OSError:
        return 0.0
    return int(found[0]) / 1024 if found else 0.0


def children(pid: int) -> list[int]:
    """Return the processes that a process started."""
    found: list[str] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # a thread that ended meanwhile
            found += (task / "children").read_text().split()
    return [int(one) for one in set(found)]


def metrics(http: str) -> dict[str, float]:
    """Return the server's metrics that have no labels."""
    with urllib.request.urlopen(f"http://{http}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.split() for line in lines if line.count(" ") == 1 and line[0] != "#")}


def sample(server: Server, begin: float, puts: int, gets: int) -> Sample:
    """Look at the server once."""
    seen = metrics(server.http)
    return Sample(
        seconds=time.perf_counter() - begin,
        puts=puts,
        gets=gets,
        server_mib=resident_mib(server.process.pid),
        helper_mib=sum(resident_mib(pid) for pid in children(server.process.pid)),
        stall_ms=seen["kv_event_loop_lag_seconds"] * 1000,
        level0_files=int(seen.get("kv_table_level0_files", 0)),
        pending_mib=seen.get("kv_table_pending_compaction_bytes", 0) / (1 << 20),
        unflushed_mib=seen.get("kv_memory_bytes", 0) / (1 << 20),
    )


def run(keys: int, gets_per_s: int, data_dir: Path, flags: list[str]) -> list[Sample]:
    """Load the keys and return what was seen meanwhile."""
    put, got = multiprocessing.Value("q", 0), multiprocessing.Value("q", 0)
    going = multiprocessing.Value("q", 1)
    samples: list[Sample] = []
    with kvserver(data_dir, *flags) as server:
        writer = multiprocessing.Process(target=write, args=(server.address, 0, keys, put))
        reader = multiprocessing.Process(target=read, args=(server.address, keys, put, got, gets_per_s, going))
        begin = time.perf_counter()
        writer.start()
        if gets_per_s:
            reader.start()
        while writer.is_alive():
            samples.append(sample(server, begin, put.value, got.value))
            time.sleep(SAMPLE_S)
        samples.append(sample(server, begin, put.value, got.value))
        going.value = 0
        if gets_per_s:
            reader.join()
    failed = writer.exitcode or (gets_per_s and reader.exitcode)
    if failed:
        raise SystemExit("the load failed")
    return samples


def summary(samples: list[Sample], keys: int) -> dict[str, float]:
    """Return the figures that the run is judged by."""

    def rate(first: float, last: float) -> float:
        within = [one for one in samples if first * keys <= one.puts <= last * keys]
        if len(within) < 2:  # so few keys that hardly a sample falls into this part
            return math.nan
        return (within[-1].puts - within[0].puts) / (within[-1].seconds - within[0].seconds)

    reading = [one for one in samples if one.gets]
    return {
        "keys": keys,
        "seconds": samples[-1].seconds,
        "puts_per_s": samples[-1].puts / samples[-1].seconds,
        "first_tenth_per_s": rate(0.001, 0.1),
        "last_tenth_per_s": rate(0.9, 1.0),
        "last_to_first": rate(0.9, 1.0) / rate(0.001, 0.1),
        "gets_per_s": (reading[-1].gets - reading[0].gets) / (reading[-1].seconds - reading[0].seconds) if reading else 0.0,
        "resident_mib": max(one.server_mib + one.helper_mib for one in samples),
        "server_mib": max(one.server_mib for one in samples),
        "helper_mib": max(one.helper_mib for one in samples),
        "longest_stall_ms": max(one.stall_ms for one in samples),
        "level0_files": max(one.level0_files for one in samples),
    }


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description="Loads many keys in random order and plots what the server did meanwhile.")
    parser.add_argument("--keys", type=int, default=10_000_000, help="how many (default: %(default)s)")
    parser.add_argument("--gets-per-s", type=int, default=32_000, help="gets beside the load, at most; 0: none")
    parser.add_argument("--plot", type=Path, help="write an SVG")
    parser.add_argument("--json", type=Path, help="write all samples")
    parser.add_argument("--flags", default="", help="more flags for the server")
    given = parser.parse_args()
    with scratch_folder() as folder:
        samples = run(given.keys, given.gets_per_s, folder / "data", given.flags.split())
    figures = summary(samples, given.keys)
    for name, value in figures.items():
        print(f"{name:20} {value:14,.2f}")
    if given.json:
        given.json.write_text(json.dumps({"summary": figures, "samples": [dataclasses.asdict(one) for one in samples]}))
    if given.plot:
        plot(samples, given.plot)


def plot(samples: list[Sample], path: Path) -> None:
    """Draw rate, memory and stalls over time."""
    times = [one.seconds for one in samples[1:]]

    def rates(name: str) -> list[float]:
        pairs = itertools.pairwise(samples)
        return [(getattr(b, name) - getattr(a, name)) / (b.seconds - a.seconds) / 1000 for a, b in pairs]

    write_plots(
        path,
        "seconds",
        times,
        [
            ("thousand a second", [Line("puts", rates("puts")), Line("gets", rates("gets"))]),
            (
                "resident MiB",
                [
                    Line("server", [one.server_mib for one in samples[1:]]),
                    Line("helper", [one.helper_mib for one in samples[1:]]),
                    Line("not in tables yet", [one.unflushed_mib for one in samples[1:]]),
                ],
            ),
            ("longest stall of the loop in 15 s, ms", [Line("stall", [one.stall_ms for one in samples[1:]])]),
            ("tables not merged yet", [Line("level 0", [float(one.level0_files) for one in samples[1:]])]),
        ],
    )


if __name__ == "__main__":
    main()
