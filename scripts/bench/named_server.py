"""Runs ``kvserver`` with the names of its Python threads told to the kernel, so that their processor time can be told apart.

Takes the arguments of ``python -m kvserver``. The first thread, which is the event loop, is named too.
"""

from __future__ import annotations

import ctypes
import runpy
import sys
import threading

_PR_SET_NAME = 15
_LIBC = ctypes.CDLL(None)
_run = threading.Thread.run


def tell(name: str) -> None:
    """Give the calling thread a name that ``/proc`` shows; the kernel keeps 15 bytes of it."""
    _LIBC.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def named_run(thread: threading.Thread) -> None:
    """Do what ``Thread.run`` does, under the thread's own name."""
    tell(thread.name)
    _run(thread)


threading.Thread.run = named_run  # type: ignore[method-assign]
tell("event-loop")
sys.argv[0] = "kvserver"
runpy.run_module("kvserver", run_name="__main__", alter_sys=True)
