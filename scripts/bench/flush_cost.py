"""Measures what a flush costs a key: tables of random keys, a range of the log that overwrites some, built by the helper.

    PYTHONPATH=. .venv/bin/python scripts/bench/flush_cost.py
    PYTHONPATH=. .venv/bin/python scripts/bench/flush_cost.py --present 0 --value-bytes 1000

Says for each flush the time a key, and the helper's memory at its highest and behind it. Figures belong to one machine.
"""

from __future__ import annotations

import argparse
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from kvserver.base.clock import SystemClock
from kvserver.base.events import ignore
from kvserver.base.fs import OsFileSystem
from kvserver.base.limits import KIB, MIB
from kvserver.base.options import WalOptions
from kvserver.base.paths import DataPaths
from kvserver.base.types import CREATION_REVISION, NO_EPOCH, Epoch, Position
from kvserver.engine.flush_helper import HelperProcess
from kvserver.storage import rows
from kvserver.storage.flush_job import FlushJob
from kvserver.storage.rocks import RocksTables
from kvserver.wal import format as fmt
from kvserver.wal.commit_record import encode_put_run
from kvserver.wal.log import LogWriter
from kvserver.wal.space import LogSpace

CLUSTER_ID = bytes(range(16))
GROUP_COMMITS = 4_000
GROUP_BYTES = 512 * KIB
TABLE_KEYS = 160_000
BUCKET_REVISIONS = 65_536


def key_of(number: int) -> bytes:
    """Return a key of 20 bytes."""
    return b"key-%016d" % number


class Folder:
    """A data folder with tables, a log behind them, and what is flushed."""

    def __init__(self, root: Path) -> None:
        self.paths = DataPaths(root)
        fs = OsFileSystem()
        for folder in (self.paths.wal, self.paths.building):
            fs.make_dir(folder)
        self.tables = RocksTables.open(self.paths.tables, 32 * MIB)
        options = WalOptions()
        space = LogSpace(fs, self.paths, options, ignore)
        creation = Position(NO_EPOCH, CREATION_REVISION, fmt.creation_chain(CLUSTER_ID))
        self.log = LogWriter(fs, self.paths, SystemClock(), options, space, lambda: random.getrandbits(63) | 1, ignore)
        self.log.begin_epoch(CLUSTER_ID, Epoch(1, 1), creation, [], 0)
        self.flushed = self.log.position

    def fill(self, keys: int, value: Callable[[], bytes]) -> None:
        """Put rows into the tables past the log, in an order that makes every table span all keys, and merge them."""
        numbers = list(range(keys))
        random.Random(1).shuffle(numbers)
        for begin in range(0, keys, TABLE_KEYS):
            path = self.paths.table_being_built(begin)
            writer = self.tables.new_table(path)
            for number in sorted(numbers[begin : begin + TABLE_KEYS]):
                writer.put(rows.data_key(1, key_of(number)), rows.encode_version(1, 1, 1, value()))
            writer.finish()
            self.tables.ingest(path)
        self.tables.compact(b"", b"")

    def write(self, keys: list[bytes], value: Callable[[], bytes]) -> None:
        """Write one blind put for each key into the log."""
        at_once = max(1, min(GROUP_COMMITS, GROUP_BYTES // (len(value()) + 1)))
        for begin in range(0, len(keys), at_once):
            part = keys[begin : begin + at_once]
            self.log.write_group(len(part), encode_put_run(1, part, [value() for _ in part]))

    def job(self) -> FlushJob:
        """Return the job of flushing what was written since the last one."""
        after, self.flushed = self.flushed, self.log.position
        target = self.paths.table_being_built(self.flushed.revision)
        return FlushJob(CLUSTER_ID, after, self.flushed, 0, BUCKET_REVISIONS, int(time.time() * 1000), target)


def memory_mib(pid: int) -> tuple[float, float]:
    """Return a process's resident memory at its highest and now."""
    status = Path(f"/proc/{pid}/status").read_text()
    highest, now = (int(re.findall(rf"{name}:\s+(\d+)", status)[0]) / 1024 for name in ("VmHWM", "VmRSS"))
    return highest, now


def measure(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield a line a flush."""
    source = random.Random(2)  # values that do not shrink when they are compressed

    def value() -> bytes:
        return source.randbytes(arguments.value_bytes)

    with tempfile.TemporaryDirectory(dir=arguments.folder) as root:
        folder = Folder(Path(root))
        folder.fill(arguments.present, value)
        helper = HelperProcess(folder.paths, arguments.cache_mib * MIB, ignore)
        try:
            for number in range(arguments.flushes):
                numbers = random.Random(number).sample(range(max(arguments.present, arguments.keys)), arguments.keys)
                folder.write([key_of(number) for number in numbers], value)
                begun = time.perf_counter()
                job = folder.job()
                outcome = helper.build(job)
                seconds = time.perf_counter() - begun
                folder.tables.ingest(job.target)
                highest, now = memory_mib(helper.pid)
                yield (
                    f"{outcome.rows:>9,} rows, {outcome.history_rows:>9,} history  "
                    f"{seconds:.2f} s, inside {outcome.seconds:.2f} s, "
                    f"{outcome.seconds / arguments.keys * 1e6:.2f} us/key  helper {highest:.0f} MiB at most, {now:.0f} MiB now"
                )
        finally:
            helper.close()
            folder.tables.close()


def main() -> None:
    """Parse flags, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--present", type=int, default=1_000_000, help="keys in the tables at first (default 1000000)")
    parser.add_argument("--keys", type=int, default=160_000, help="keys a flush (default 160000)")
    parser.add_argument("--value-bytes", type=int, default=100, help="bytes of a value (default 100)")
    parser.add_argument("--flushes", type=int, default=5, help="how many flushes (default 5)")
    parser.add_argument("--cache-mib", type=int, default=32, help="the helper's block cache (default 32)")
    parser.add_argument("--folder", type=Path, help="where to make the data folder (default: the system's for temporary files)")
    for line in measure(parser.parse_args()):
        print(line, flush=True)


if __name__ == "__main__":
    main()
