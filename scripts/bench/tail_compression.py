"""Print what compressing the live tail of the log costs and saves: by size of chunk and by kind of compression.

    tail_compression.py [RECORDS.jsonl.zst] [--seconds N]

The chunks are frames of a real log that holds the records, one put each; without a file, lines of Python's own library. The last
column says up to which bandwidth of a link the log arrives sooner with it: one chunk is compressed while the one before is on its
way, so it is ahead as long as a core compresses faster than the link carries the same bytes as they are.
"""

from __future__ import annotations

import argparse
import itertools
import sysconfig
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import zstandard

from kvserver.archive.dictionary import FIRST_ID, train
from kvserver.base.limits import KIB, MIB
from kvserver.wal import format as fmt
from kvserver.wal.commit_record import encode_put_run

SIZES = (4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB, 1024 * KIB)
SAMPLE_BYTES = 16 * MIB
GROUP_COMMITS = 16


class Row(NamedTuple):
    """One line of the table."""

    size: int
    kind: str
    ratio: float
    compress_mb_s: float
    decompress_mb_s: float


class Kind(NamedTuple):
    """A way to compress."""

    name: str
    compress: Callable[[bytes], bytes]
    decompress: Callable[[bytes], bytes]


def records(path: Path | None) -> Iterator[bytes]:
    """Yield values for ever."""
    if path is not None and path.exists():
        with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as reader:
            data = reader.read(SAMPLE_BYTES)
        yield from itertools.cycle(data.splitlines())
    for source in itertools.cycle(sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))):
        yield from source.read_bytes().splitlines()


def log_bytes(values: Iterator[bytes]) -> bytes:
    """Return the frames of a log that holds the values, as a server of a moderate load writes them."""
    frames, chain, revision, total = [], bytes(16), 2, 0
    while total < SAMPLE_BYTES:
        keys = [b"package/%012d" % (revision + number) for number in range(GROUP_COMMITS)]
        payload = encode_put_run(1, keys, [next(values) for _ in keys])
        frame, chain = fmt.build_frame(
            fmt.GROUP, 1, fmt.crc_seed(1), revision, GROUP_COMMITS, (total, revision - 1), 0, chain, payload
        )
        frames.append(frame)
        revision, total = revision + GROUP_COMMITS, total + len(frame)
    return b"".join(frames)


def kinds(data: bytes) -> list[Kind]:
    """Return the ways that are compared; the dictionary is trained on bytes that are not compressed with it later."""
    found = [Kind("none", lambda chunk: chunk, lambda packed: packed)]
    for level in (1, 3):
        compressor, decompressor = zstandard.ZstdCompressor(level=level, write_checksum=True), zstandard.ZstdDecompressor()
        found.append(Kind(f"zstd-{level}", compressor.compress, decompressor.decompress))
    samples = [data[begin : begin + 4 * KIB] for begin in range(0, len(data) // 4, 4 * KIB)]
    dictionary = train(samples, FIRST_ID)
    packer = zstandard.ZstdCompressor(level=1, write_checksum=True, dict_data=dictionary.for_compression(1))
    unpacker = zstandard.ZstdDecompressor(dict_data=dictionary.for_decompression())
    found.append(Kind("zstd-1+dictionary", packer.compress, unpacker.decompress))
    return found


def rate_mb_s(work: Callable[[bytes], bytes], pieces: list[bytes], raw_bytes: int, seconds: float) -> float:
    """Return how many megabytes of log a second the work gets through."""
    done, began = 0, time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds:
        for piece in pieces:
            work(piece)
        done += raw_bytes
    return done / spent / 1e6


def measure(data: bytes, seconds: float) -> Iterator[Row]:
    """Yield the lines of the table."""
    ways = kinds(data)
    for size in SIZES:
        chunks = [data[begin : begin + size] for begin in range(len(data) // 4, len(data) // 4 + 4 * MIB, size)]
        raw = sum(map(len, chunks))
        for kind in ways:
            packed = [kind.compress(chunk) for chunk in chunks]
            yield Row(
                size,
                kind.name,
                raw / sum(map(len, packed)),
                rate_mb_s(kind.compress, chunks, raw, seconds),
                rate_mb_s(kind.decompress, packed, raw, seconds),
            )


def pays_below_mbit_s(row: Row) -> float:
    """Return the bandwidth, in Mbit/s, above which a link carries the bytes as they are sooner."""
    return 8 * min(row.compress_mb_s, row.decompress_mb_s)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", type=Path, nargs="?")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each figure")
    asked = parser.parse_args()
    print(f"{'chunk':>10} {'compression':<18} {'ratio':>6} {'comp MB/s':>10} {'decomp MB/s':>12} {'pays up to':>18}")
    for row in measure(log_bytes(records(asked.records)), asked.seconds):
        link = f"{pays_below_mbit_s(row):,.0f} Mbit/s" if row.ratio > 1 else ""
        print(
            f"{row.size // KIB:>6} KiB {row.kind:<18} {row.ratio:>6.2f} {row.compress_mb_s:>10,.0f} "
            f"{row.decompress_mb_s:>12,.0f} {link:>18}"
        )


if __name__ == "__main__":
    main()
