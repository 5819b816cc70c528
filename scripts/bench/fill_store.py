"""Puts the keys that kvbench uses into a server, once each, in random order and in large frames, and flushes.

    fill_store.py HOST:PORT KEYS VALUE_BYTES [settled]

With ``settled`` it also waits for the merges that follow, so that what is measured next is not measured beside them.

A process of its own, so that neither gRPC nor the keys burden the benchmark that starts it.
"""

from __future__ import annotations

import gc
import random
import sys

from suite.stores import FRAME, IN_FLIGHT, shuffled_keys
from suite.streams import flush, puts, run_closed, until_merged


def main() -> None:
    """Fill the store that the command line names."""
    address, keys, value_bytes = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    gc.disable()
    source = random.Random(2)
    values = [source.randbytes(value_bytes) for _ in range(FRAME)]
    order = shuffled_keys(keys)
    firsts = iter(range(0, keys, FRAME))

    def make() -> object:
        first = next(firsts, None)
        if first is None:
            return None
        part = order[first : first + FRAME]
        return puts(part, values[: len(part)])

    run_closed(address, make, IN_FLIGHT)  # type: ignore[arg-type]
    flush(address)
    if sys.argv[4:] == ["settled"]:
        until_merged(address)


if __name__ == "__main__":
    main()
