"""Runs one load through the SDK and prints its figures as JSON: what the benchmark starts as a process of its own.

sdk_load.py LOAD HOST:PORT '{"parameter": value}'
"""

from __future__ import annotations

import asyncio
import json
import sys

import uvloop

from suite.sdk_loads import LOADS


def main() -> None:
    """Run the load that the command line names."""
    name, address, parameters = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # the event loop that kvbench takes too
        print(json.dumps(runner.run(LOADS[name](address, **json.loads(parameters)))))


if __name__ == "__main__":
    main()
