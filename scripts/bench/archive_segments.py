"""Makes sealed segments of the log to archive: text as people store it, in groups as a busy server writes them.

    archive_segments.py DIR SEGMENTS BYTES

The values are lines of the source of Python's own library: they shrink as text does, and every machine has them.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from kvserver.base.clock import SystemClock
from kvserver.base.events import ignore
from kvserver.base.fs import OsFileSystem
from kvserver.base.limits import MIB
from kvserver.base.options import WalOptions
from kvserver.base.paths import DataPaths
from kvserver.base.types import CREATION_REVISION, NO_EPOCH, Epoch, Position
from kvserver.wal import format as fmt
from kvserver.wal.commit_record import encode_put_run
from kvserver.wal.log import LogWriter
from kvserver.wal.space import LogSpace

CLUSTER_ID = bytes(range(16))
GROUP_COMMITS = 400
VALUE_BYTES = 256


def values() -> Iterator[bytes]:
    """Yield values for ever, each about 256 bytes of source text."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in itertools.cycle(sorted(library.glob("*.py"))):
        data = path.read_bytes()
        for begin in range(0, len(data), VALUE_BYTES):
            yield data[begin : begin + VALUE_BYTES]


def main() -> None:
    """Write the segments that the command line asks for, and print how many bytes they have."""
    root, segments, segment_bytes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    paths, fs = DataPaths(root), OsFileSystem()
    fs.make_dir(paths.wal)
    options = WalOptions(segment_bytes=max(segment_bytes, 16 * MIB))
    space = LogSpace(fs, paths, options, ignore)
    source = random.Random(1)
    log = LogWriter(fs, paths, SystemClock(), options, space, lambda: source.getrandbits(63) | 1, ignore)
    creation = Position(NO_EPOCH, CREATION_REVISION, fmt.creation_chain(CLUSTER_ID))
    log.begin_epoch(CLUSTER_ID, Epoch(1, 1), creation, [], 0)
    texts = values()
    for _ in range(segments):
        while log.segment.offset < segment_bytes - 2 * GROUP_COMMITS * VALUE_BYTES:
            keys = [b"key-%016d" % source.randrange(1 << 24) for _ in range(GROUP_COMMITS)]
            log.write_group(GROUP_COMMITS, encode_put_run(1, keys, [next(texts) for _ in keys]))
        log.rotate()
    sealed = [{"path": str(info.path), "bytes": info.length_bytes} for info in log.sealed]
    log.abandon()
    space.close()
    print(json.dumps(sealed))


if __name__ == "__main__":
    main()
