"""Waiting for the moment at which an operation is meant to be sent.

The timers of asyncio and of uvloop count milliseconds, which is more than many an operation takes, and would count as its
latency. On Linux the pacer therefore has the kernel's timerfd wake the loop, which is exact to about 0.1 ms.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from collections import deque

_CLOCK_MONOTONIC = 1
_NONBLOCK = os.O_NONBLOCK
_ABSOLUTE = 1
_LEAST_STEP_NS = 100_000
"""Timers are not set closer than this: operations nearer to each other are released together, which costs less of a core."""


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class Pacer:
    """Wakes callers of one event loop at moments of ``time.perf_counter_ns``; the moments asked for must not go backwards.

    Use it as a context manager, inside the loop.
    """

    def __init__(self, *, exact: bool = sys.platform == "linux") -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._exact = exact
        self._fd = -1
        self._is_set = False

    def __enter__(self) -> Pacer:
        if self._exact:
            self._libc = ctypes.CDLL(None, use_errno=True)
            self._fd = self._libc.timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK)
            if self._fd < 0:
                raise OSError(ctypes.get_errno(), "a timer could not be made")
            self._loop.add_reader(self._fd, self._expired)
        return self

    def __exit__(self, *error: object) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)

    def until(self, at_ns: int) -> asyncio.Future[None]:
        """Return a future that is done at a moment; it may be cancelled."""
        future = self._loop.create_future()
        self._waiting.append((at_ns, future))
        if not self._is_set:
            self._set(at_ns)
        return future

    def _set(self, at_ns: int) -> None:
        self._is_set = True
        if self._fd < 0:
            self._loop.call_later(max(at_ns - time.perf_counter_ns(), 0) / 1e9, self._release)
            return
        at_ns = max(at_ns, time.perf_counter_ns() + _LEAST_STEP_NS)
        when = _Itimerspec(_Timespec(0, 0), _Timespec(*divmod(at_ns, 1_000_000_000)))
        if self._libc.timerfd_settime(self._fd, _ABSOLUTE, ctypes.byref(when), None) < 0:
            raise OSError(ctypes.get_errno(), "the timer could not be set")

    def _expired(self) -> None:
        os.read(self._fd, 8)
        self._release()

    def _release(self) -> None:
        self._is_set = False
        now_ns = time.perf_counter_ns()
        while self._waiting and self._waiting[0][0] <= now_ns:
            future = self._waiting.popleft()[1]
            if not future.done():
                future.set_result(None)
        if self._waiting:
            self._set(self._waiting[0][0])
