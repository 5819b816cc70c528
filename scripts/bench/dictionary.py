"""Measures what a dictionary brings, and what it costs: ratio and speed of frames of several sizes, and of whole segments.

    python scripts/bench/dictionary.py RECORDS.jsonl.zst [--dictionary-kib 64] [--rounds 3]

RECORDS has one object a line with the texts ``key`` and ``value``, such as Debian's packages. The dictionary is trained on frames
of 4 KiB from the first half of them, and everything is measured on the second half, which it has never seen. Speeds are of
processor time, the best of several rounds; of compression and of decompression, each block alone, as the archive does it.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import zstandard

from kvserver.archive.compression import Compressor, Decompressor
from kvserver.archive.dictionary import FIRST_ID, SMALL_SEGMENT_BYTES, Dictionary, train
from kvserver.archive.segment_format import DEFAULT_BLOCK_BYTES
from kvserver.base.limits import KIB, MIB
from kvserver.base.types import CREATION_REVISION, NO_EPOCH, Epoch, Position
from kvserver.wal import format as fmt
from kvserver.wal.commit_record import encode_put_run

CLUSTER_ID = bytes(range(16))
CREATION = Position(NO_EPOCH, CREATION_REVISION, fmt.creation_chain(CLUSTER_ID))
HEADER = fmt.SegmentHeader(CLUSTER_ID, 0x123456789ABCDEF, Epoch(1, 7), CREATION, CREATION_REVISION + 1, 1, 0, CREATION)
TRAINED_FRAME_BYTES = 4 * KIB
MAX_SAMPLES = 4_000
MEASURED_BYTES = 8 * MIB
FRAME_BYTES = (1 * KIB, 4 * KIB, 16 * KIB, 64 * KIB, 256 * KIB)
GROUP_BYTES = 256 * KIB
LEVELS = (1, 3)

Pair = tuple[bytes, bytes]


class Figure(NamedTuple):
    """What became of some blocks."""

    ratio: float
    compress_mb_s: float
    decompress_mb_s: float

    def cells(self) -> list[str]:
        """Return the cells of the table."""
        return [f"{self.ratio:.2f}", f"{self.compress_mb_s:,.0f}", f"{self.decompress_mb_s:,.0f}"]


def read_pairs(path: Path) -> list[Pair]:
    """Return the keys and values of a file of records."""
    with path.open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True) as plain:
        lines = (json.loads(line) for line in io.TextIOWrapper(plain, "utf-8"))
        return [(line["key"].encode(), line["value"].encode()) for line in lines]


def frames(pairs: list[Pair], frame_bytes: int) -> Iterator[bytes]:
    """Yield the frames that a log would hold, were groups of this size committed, one put a commit."""
    chain, at, revision = HEADER.start_chain(), fmt.SEGMENT_HEADER_LENGTH, CREATION_REVISION
    seed = fmt.crc_seed(HEADER.segment_id)
    group: list[Pair] = []
    length = 0
    for pair in pairs:
        group.append(pair)
        length += len(pair[0]) + len(pair[1]) + 20
        if length >= frame_bytes:
            payload = encode_put_run(1, [key for key, _ in group], [value for _, value in group])
            durable, time_ms = (at, revision), HEADER.created_ms + revision
            frame, chain = fmt.build_frame(
                fmt.GROUP, HEADER.segment_id, seed, revision + 1, len(group), durable, time_ms, chain, payload
            )
            yield frame
            at, revision, group, length = at + len(frame), revision + len(group), [], 0


def thinned(blocks: list[bytes], most: int) -> list[bytes]:
    """Return so many of the blocks at the most, from all over."""
    return blocks[:: max(1, -(-len(blocks) // most))]


def blocks_of_segment(pairs: list[Pair]) -> list[bytes]:
    """Return the blocks of one segment that holds all pairs."""
    segment = fmt.encode_segment_header(HEADER) + b"".join(frames(pairs, GROUP_BYTES))
    return [segment[at : at + DEFAULT_BLOCK_BYTES] for at in range(0, len(segment), DEFAULT_BLOCK_BYTES)]


def best_mb_s(length: int, rounds: int, work: Callable[[], object]) -> float:
    """Return the highest speed of some rounds in MB/s of processor time."""
    best = float("inf")
    for _ in range(rounds):
        begin = time.thread_time()
        work()
        best = min(best, time.thread_time() - begin)
    return length / max(best, 1e-9) / 1e6


def measure(blocks: list[bytes], level: int, dictionary: Dictionary | None, rounds: int) -> Figure:
    """Compress and decompress each block alone."""
    compressor, decompressor = Compressor(level, dictionary), Decompressor(dictionary)
    stored = [compressor.compress(block) for block in blocks]
    raw_bytes = sum(map(len, blocks))

    def compress() -> None:
        for block in blocks:
            compressor.compress(block)

    def decompress() -> None:
        for block, packed in zip(blocks, stored, strict=True):
            decompressor.decompress(packed, len(block))

    compress_mb_s, decompress_mb_s = (best_mb_s(raw_bytes, rounds, work) for work in (compress, decompress))
    return Figure(raw_bytes / sum(map(len, stored)), compress_mb_s, decompress_mb_s)


def main() -> None:
    """Train, measure, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "records", type=Path, metavar="RECORDS", help="one object a line with key and value, compressed with zstd"
    )
    parser.add_argument("--dictionary-kib", type=int, default=64, help="how large the dictionary is")
    parser.add_argument("--rounds", type=int, default=3, help="how often each thing is measured")
    arguments = parser.parse_args()
    pairs = read_pairs(arguments.records)
    older, newer = pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :]
    samples = thinned(list(frames(older, TRAINED_FRAME_BYTES)), MAX_SAMPLES)
    begin = time.monotonic()
    dictionary = train(samples, FIRST_ID, arguments.dictionary_kib * KIB)
    took_s = time.monotonic() - begin
    print(
        f"{len(pairs):,} records; a dictionary of {len(dictionary.data):,} bytes from {len(samples):,} frames in {took_s:.1f} s"
    )
    print(f"used for segments of at most {SMALL_SEGMENT_BYTES // KIB} KiB\n")
    print("| what | level | ratio | MB/s | MB/s back | with it: ratio | MB/s | MB/s back | bytes saved |")
    print("|---|---|---|---|---|---|---|---|---|")
    kinds = [(f"{size // KIB} KiB", thinned(list(frames(newer, size)), MEASURED_BYTES // size)) for size in FRAME_BYTES]
    for name, blocks in [*kinds, ("segment", blocks_of_segment(newer))]:
        for level in LEVELS:
            plain, packed = (measure(blocks, level, one, arguments.rounds) for one in (None, dictionary))
            saved = f"{100 * (1 - plain.ratio / packed.ratio):.1f} %"
            print("| " + " | ".join([name, str(level), *plain.cells(), *packed.cells(), saved]) + " |")


if __name__ == "__main__":
    main()
