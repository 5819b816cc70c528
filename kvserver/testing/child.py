"""What a test's server runs: the command line of ``kvserver``, which ends when the process that started it does.

Whoever started it holds the other end of its standard input. That end is closed when the process is gone, also when it was
killed, so that no server outlives its tests. Nothing is put in order then: to the store it is a crash like any other.
"""

from __future__ import annotations

import os
import sys
import threading

PARENT_IS_GONE = 1
"""The exit code when the process that started the server is no more; nobody is there to see it."""


def main() -> int:
    """Run the command line of ``kvserver``; return its exit code."""
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    from kvserver import __main__ as command_line

    return command_line.main()


def _end_with_parent() -> None:
    # Not through sys.stdin: a thread that waits there holds a lock that the interpreter wants when it ends.
    while os.read(0, 4096):
        pass
    os._exit(PARENT_IS_GONE)


if __name__ == "__main__":
    sys.exit(main())
