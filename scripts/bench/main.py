"""Measures this machine: unary puts from a foreign client against an empty echo, columnar frames, ablations, replay.

    make bench                          # five rounds, interleaved; medians, spread and ratios
    make bench ARGS='--rounds 3 --write docs/performance.md'

Absolute figures belong to one machine and one hour; the ratios are taken within one run. With --write, the tables between
the markers of the file are replaced.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import shutil
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import google.protobuf
import grpc

import load
from processes import echo, kvserver, scratch_folder

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
WARM_UP_CALLS = 3_000
LADDER = (
    ("one message an operation, a protobuf a commit, SortedDict with lists, previous versions fetched", 14.0),
    ("without fetching previous versions", 7.5),
    ("+ fixed-layout record instead of a protobuf a commit", 5.6),
    ("+ chains as flat tuples", 4.6),
    ("+ dict with a lazily sorted key index", 2.7),
    ("+ columnar frames", 2.0),
)
"""Server cost an operation in microseconds, as measured with prototypes before the project began."""


def main() -> None:
    """Parse flags, measure, print."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="interleaved rounds (default 5)")
    parser.add_argument("--calls", type=int, default=20_000, help="unary calls a round (default 20000)")
    parser.add_argument("--in-flight", type=int, default=256, help="unary calls in flight (default 256)")
    parser.add_argument("--seconds", type=float, default=3.0, help="length of each pipeline load (default 3)")
    parser.add_argument("--write", type=Path, help="replace the tables in this file")
    args = parser.parse_args()
    if shutil.which("h2load") is None:
        sys.exit("error: h2load is not installed\nhint: apt-get install nghttp2-client")
    text = report(args)
    print(text)
    if args.write:
        before, _, rest = args.write.read_text().partition(BEGIN)
        after = rest.partition(END)[2]
        args.write.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def report(args: argparse.Namespace) -> str:
    """Measure everything and return the tables."""
    figures: dict[str, list[float]] = defaultdict(list)
    with scratch_folder() as scratch:
        for number in range(args.rounds):
            for measure in (unary, pipelines, disk):
                measure(args, scratch / str(number), figures)
                print(".", end="", flush=True, file=sys.stderr)
        print(file=sys.stderr)
    sections = [machine(), table(figures), ratios(figures), ladder(figures)]
    return "\n\n".join(sections)


def unary(args: argparse.Namespace, scratch: Path, figures: dict[str, list[float]]) -> None:
    """Unary puts and the empty echo, one after the other, under the same load."""
    with echo() as server:
        load.h2load_unary(server, WARM_UP_CALLS, args.in_flight)
        figures["empty grpc.aio echo, unary (calls/s)"].append(load.h2load_unary(server, args.calls, args.in_flight))
    with kvserver(scratch / "unary") as server:
        load.h2load_unary(server, WARM_UP_CALLS, args.in_flight)
        before = asyncio.run(load.status(server)).durable_revision
        figures["durable Put, unary (calls/s)"].append(load.h2load_unary(server, args.calls, args.in_flight))
        made = asyncio.run(load.status(server)).durable_revision - before
        if made != args.calls:
            sys.exit(f"error: {args.calls} puts were answered, but {made} commits are durable")


def pipelines(args: argparse.Namespace, scratch: Path, figures: dict[str, list[float]]) -> None:
    """Columnar frames at several sizes; then each switch off alone, and both."""

    def one(name: str, frame: int, in_flight: int, *flags: str) -> None:
        with kvserver(scratch / name.replace(" ", "-").replace("/", "-"), *flags) as server:
            rate, cost = asyncio.run(load.pipeline_puts(server, args.seconds, frame, in_flight, 100_000))
        figures[f"{name} (puts/s)"].append(rate)
        figures[f"{name} (server µs an operation)"].append(cost)

    one("frames of 1,000, 4 under way", 1000, 4)
    one("frames of 250, 8 under way", 250, 8)
    one("frames of 25, 16 under way", 25, 16)
    one("frames of 25, 16 under way, no overlap", 25, 16, "--no-overlap")
    one("frames of 25, 16 under way, no grouping", 25, 16, "--no-grouping")
    one("frames of 25, 16 under way, neither", 25, 16, "--no-overlap", "--no-grouping")


def disk(args: argparse.Namespace, scratch: Path, figures: dict[str, list[float]]) -> None:
    """Replay of what the first pipeline load left, and the disk alone."""
    rate, _ = load.replay(scratch / "frames-of-1,000,-4-under-way")
    figures["replay (commits/s)"].append(rate)
    figures["write of 4 KiB and fdatasync (ms)"].append(load.bare_syncs(scratch))
    shutil.rmtree(scratch)


def machine() -> str:
    """Return what was measured on."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}, Python {platform.python_version()}, "
        f"grpcio {grpc.__version__}, protobuf {google.protobuf.__version__}; client and server on the same cores; 256-byte values"
    )


def table(figures: dict[str, list[float]]) -> str:
    """Return every figure with its median and spread."""
    rows = ["| what | median | lowest | highest |", "|---|---:|---:|---:|"]
    for name, values in figures.items():
        show: Callable[[float], str] = (lambda v: f"{v:,.0f}") if values[0] > 100 else (lambda v: f"{v:.2f}")
        rows.append(f"| {name} | {show(statistics.median(values))} | {show(min(values))} | {show(max(values))} |")
    return "\n".join(rows)


def ratios(figures: dict[str, list[float]]) -> str:
    """Return the ratios, each the median of the rounds' own."""
    base = "frames of 25, 16 under way"
    pairs = [
        ("durable Put, unary (calls/s)", "empty grpc.aio echo, unary (calls/s)"),
        (f"{base} (puts/s)", f"{base}, no overlap (puts/s)"),
        (f"{base} (puts/s)", f"{base}, no grouping (puts/s)"),
        (f"{base} (puts/s)", f"{base}, neither (puts/s)"),
    ]
    rows = ["| ratio, round by round | median |", "|---|---:|"]
    for above, below in pairs:
        ratio = statistics.median(a / b for a, b in zip(figures[above], figures[below], strict=True))
        rows.append(f"| {above} / {below} | {ratio:.2f} |")
    return "\n".join(rows)


def ladder(figures: dict[str, list[float]]) -> str:
    """Return the server's cost an operation beside the ladder of the prototypes."""
    rows = ["| server cost an operation | µs |", "|---|---:|"]
    rows += [f"| prototype: {name} | {cost:.1f} |" for name, cost in LADDER]
    name = "frames of 1,000, 4 under way (server µs an operation)"
    rows.append(
        f"| **this server, {name.removesuffix(' (server µs an operation)')}** | **{statistics.median(figures[name]):.1f}** |"
    )
    return "\n".join(rows)


if __name__ == "__main__":
    main()
