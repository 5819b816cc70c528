"""Where a server's processor time goes: by thread, and in the processes that it started."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from suite.parsing import status_kib, thread_ticks
from suite.processes import TICKS_PER_SECOND

GROUPS: tuple[tuple[str, str], ...] = (
    (r"event-loop", "event loop: parse, evaluate, memory, answer"),
    (r"log-writer", "log thread: checksum, chain, write, sync"),
    (r"log-space", "space keeper: zeros written ahead"),
    (r".*_poll_wrapper.*|Thread-\d.*", "gRPC's poller"),
    (r"grpc.*|event_engine.*|lifeguard|.*resolver.*|timer.*", "gRPC's own threads: the wire"),
    (r"tables|flush|upkeep|rocksdb.*", "tables, flushes, merges"),
    (r"http.*", "probes and metrics"),
)
OTHER = "other threads"
HELPER = "flush helper (a process)"


def group_of(name: str) -> str:
    """Return what a thread of this name is for."""
    return next((title for pattern, title in GROUPS if re.fullmatch(pattern, name)), OTHER)


def titles() -> list[str]:
    """Return all groups, in the order of the table."""
    return [*dict.fromkeys(title for _, title in GROUPS), OTHER, HELPER]


def grouped(used: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Return the microseconds of each group."""
    sums: dict[str, float] = {}
    for name, microseconds in used:
        title = group_of(name)
        sums[title] = sums.get(title, 0) + microseconds
    return sums


def used_us(folder: Path) -> tuple[str, float]:
    """Return the name of a task in ``/proc`` and the processor time that it has used, in microseconds.

    The scheduler's own account is exact; a kernel that keeps none has ticks of 10 ms.
    """
    name, ticks = thread_ticks((folder / "stat").read_text())
    try:
        return name, int((folder / "schedstat").read_text().split()[0]) / 1000
    except (FileNotFoundError, IndexError, ValueError):
        return name, ticks * 1e6 / TICKS_PER_SECOND


def tasks(pid: int) -> list[Path]:
    """Return the folders of a process's threads."""
    return list(Path(f"/proc/{pid}/task").iterdir())


def children(pid: int) -> list[int]:
    """Return the processes that a process started."""
    found: set[int] = set()
    for task in tasks(pid):
        with contextlib.suppress(OSError):
            found |= {int(one) for one in (task / "children").read_text().split()}
    return sorted(found)


def snapshot(pid: int) -> dict[str, float]:
    """Return the microseconds that each group of threads has used so far, and the process's children."""
    used = []
    for task in tasks(pid):
        with contextlib.suppress(OSError):  # a thread that ended meanwhile
            used.append(used_us(task))
    sums = grouped(used)
    for child in children(pid):
        with contextlib.suppress(OSError):
            sums[HELPER] = sums.get(HELPER, 0) + sum(used_us(task)[1] for task in tasks(child))
    return sums


def each_us(before: Mapping[str, float], after: Mapping[str, float], operations: int) -> dict[str, float]:
    """Return what each group used an operation, in microseconds. Raises ZeroDivisionError without operations."""
    return {title: (used - before.get(title, 0)) / operations for title, used in after.items()}


def peak_mib(pid: int) -> float:
    """Return the most memory that a process had resident since its start or the last ``forget_peak``."""
    try:
        return status_kib(Path(f"/proc/{pid}/status").read_text(), "VmHWM") / 1024
    except OSError:
        return 0.0


def forget_peak(pid: int) -> None:
    """Have the kernel count a process's highest memory anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
