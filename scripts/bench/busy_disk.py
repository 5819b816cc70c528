"""Keeps a disk busy until it is ended: writes 1 MiB and syncs it, again and again, over a file of 256 MiB.

busy_disk.py FILE
"""

from __future__ import annotations

import os
import sys

BLOCK, BLOCKS = 1 << 20, 256


def main() -> None:
    """Write for ever."""
    fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
    block, at = os.urandom(BLOCK), 0
    while True:
        os.pwrite(fd, block, at % BLOCKS * BLOCK)
        os.fsync(fd)
        at += 1


if __name__ == "__main__":
    main()
