"""What tables cost: puts over a store that does not fit memory, latency beside flush and compaction, reads after many flushes,
the start after a kill. Prints one line a figure; each figure is of one run, so compare only what stands in one line.

    scripts/bench/tables.py --keys 2000000
"""

from __future__ import annotations

import argparse
import gc
import random
import signal
import statistics
import time
from pathlib import Path

from suite.processes import Server, kvserver, scratch_folder
from suite.streams import Done, flush, gets, percentile, puts, repeated, run_closed, run_paced

FRAME = 1_000
VALUE = bytes(range(256))


def key_of(number: int) -> bytes:
    """Return the n-th key; neighbours lie far from each other."""
    return b"key:%016x" % (number * 0x9E3779B97F4A7C15 % (1 << 64))


def load(server: Server, keys: int) -> None:
    """Put the keys once, and flush."""
    numbers = iter(range(0, keys, FRAME))

    def make() -> object:
        first = next(numbers, None)
        if first is None:
            return None
        return puts([key_of(n) for n in range(first, min(first + FRAME, keys))], [VALUE] * (min(first + FRAME, keys) - first))

    run_closed(server.address, make, 8)  # type: ignore[arg-type]
    flush(server.address)


def rate(done: list[Done], seconds: float) -> float:
    """Return operations a second."""
    return sum(one.operations for one in done) / seconds


def put_rate(server: Server, keys: int, seconds: float) -> float:
    """Return durable puts a second over random ones of so many keys."""
    rng = random.Random(keys)
    frames = [puts([key_of(rng.randrange(keys)) for _ in range(FRAME)], [VALUE] * FRAME) for _ in range(200)]
    begin = time.perf_counter()
    done = run_closed(server.address, repeated(frames, seconds), 8)
    return rate(done, time.perf_counter() - begin)


def hot_and_cold(server: Server, keys: int, rounds: int) -> None:
    """Compare puts over 100,000 keys with puts over all of them, side by side."""
    hot, cold, ratios = [], [], []
    put_rate(server, 100_000, 3)
    for _ in range(rounds):
        hot.append(put_rate(server, 100_000, 6))
        cold.append(put_rate(server, keys, 6))
        ratios.append(cold[-1] / hot[-1])
    print(
        f"puts over 100,000 keys {statistics.median(hot):,.0f}/s, over {keys:,} keys {statistics.median(cold):,.0f}/s, "
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )
    latency(server, keys, statistics.median(cold) / 2)


def latency(server: Server, keys: int, puts_per_s: float) -> None:
    """Measure the latency of puts at a fixed rate, in frames of 100, long enough for flushes and merges."""
    flush(server.address)  # what the runs at full speed left over is not what is measured here
    time.sleep(3)
    rng = random.Random(2)
    frames = [puts([key_of(rng.randrange(keys)) for _ in range(100)], [VALUE] * 100) for _ in range(1000)]
    done = run_paced(server.address, repeated(frames, 20), puts_per_s / 100)
    print(
        f"puts at half of that, {puts_per_s:,.0f}/s for 20 s: p50 {percentile(done, 0.5):.1f} ms, "
        f"p99 {percentile(done, 0.99):.1f} ms, p99.9 {percentile(done, 0.999):.1f} ms, longest {percentile(done, 1.0):.1f} ms"
    )


def restart(data_dir: Path, keys: int) -> None:
    """Measure the start after kill -9 in the middle of a load."""
    with kvserver(data_dir) as server:
        rng = random.Random(3)
        frames = [puts([key_of(rng.randrange(keys)) for _ in range(FRAME)], [VALUE] * FRAME) for _ in range(200)]
        run_closed(server.address, repeated(frames, 4), 8)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
    begin = time.perf_counter()
    with kvserver(data_dir):
        print(f"open after kill -9, {keys:,} keys: {time.perf_counter() - begin:.2f} s until it serves")


def many_flushes(folder: Path) -> None:
    """Compare reads of 1 KiB values after 10 flushes and after 100."""
    with kvserver(folder / "flushes") as server:
        rng = random.Random(4)
        for number in range(1, 101):
            keys = [key_of(rng.randrange(50_000)) for _ in range(1_000)]
            run_closed(server.address, iter([puts(keys, [rng.randbytes(1024) for _ in keys]), None]).__next__, 1)
            flush(server.address)
            if number == 1:
                known = keys
            if number in (10, 100):
                done = run_closed(server.address, repeated([gets([key]) for key in known], 5), 1)
                p50, p99 = percentile(done, 0.5), percentile(done, 0.99)
                print(f"get of 1 KiB after {number} flushes: p50 {p50:.3f} ms, p99 {p99:.3f} ms")


def main() -> None:
    """Run all of it."""
    parser = argparse.ArgumentParser(description="Measures what tables cost.")
    parser.add_argument("--keys", type=int, default=2_000_000, help="keys of the large store (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of runs (default: %(default)s)")
    given = parser.parse_args()
    gc.disable()  # the client's own pauses are not the server's
    with scratch_folder() as folder:
        with kvserver(folder / "data") as server:
            load(server, given.keys)
            hot_and_cold(server, given.keys, given.rounds)
        restart(folder / "data", given.keys)
        many_flushes(folder)


if __name__ == "__main__":
    main()
