"""What a result was measured on: the machine, the versions, and how long the disk takes to keep 4 KiB."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_SYNC_BYTES = 4096
_SYNCS = 200
_SYNC_LIMIT_S = 2.0


def facts() -> dict[str, Any]:
    """Return what kind of machine this is."""
    return {
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "processor": _processor(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "system": platform.system(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
    }


def versions(server_version: str) -> dict[str, str]:
    """Return the versions of whatever has a say in the figures."""
    return {
        "kvserver_client": _version("kvserver"),
        "kvserver_server": server_version,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "grpcio": _version("grpcio"),
        "protobuf": _version("protobuf"),
        "uvloop": _version("uvloop"),
        "numpy": _version("numpy"),
    }


def disk(folder: str) -> dict[str, Any]:
    """Return the file system of a folder, and how long ``fdatasync`` takes there after a write of 4 KiB."""
    kind, source = file_system(Path(folder))
    times_ms = sorted(_sync_times_ms(folder))
    return {
        "folder": folder,
        "file_system": kind,
        "device": source,
        "fdatasync_bytes": _SYNC_BYTES,
        "fdatasyncs": len(times_ms),
        "fdatasync_ms": {
            "min": round(times_ms[0], 4),
            "p50": round(times_ms[len(times_ms) // 2], 4),
            "p99": round(times_ms[len(times_ms) * 99 // 100], 4),
            "max": round(times_ms[-1], 4),
        },
    }


def file_system(folder: Path, mounts: Path = Path("/proc/self/mountinfo")) -> tuple[str, str]:
    """Return the type of the file system that a folder lies on, and its device; "unknown" where the system does not say."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return "unknown", "unknown"
    wanted, found = folder.resolve(), ("unknown", "unknown")
    longest = -1
    for line in lines:
        left, _, right = line.partition(" - ")
        place = Path(_unescaped(left.split()[4]))
        if wanted.is_relative_to(place) and len(place.parts) >= longest:  # the last of several mounts at one place is seen
            kind, source = right.split()[:2]
            longest, found = len(place.parts), (kind, _unescaped(source))
    return found


def _unescaped(text: str) -> str:
    """Undo the octal escapes of spaces and the like in a list of mounts."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


def _sync_times_ms(folder: str) -> list[float]:
    """Time syncs of 4 KiB written over zeros that are on disk already, as a log does that makes its space ready ahead."""
    times_ms: list[float] = []
    sync = getattr(os, "fdatasync", os.fsync)
    with tempfile.TemporaryFile(dir=folder) as file:
        fd = file.fileno()
        os.pwrite(fd, bytes(_SYNC_BYTES * _SYNCS), 0)
        os.fsync(fd)
        limit = time.perf_counter() + _SYNC_LIMIT_S
        for number in range(_SYNCS):
            began = time.perf_counter()
            os.pwrite(fd, b"x" * _SYNC_BYTES, number * _SYNC_BYTES)
            sync(fd)
            ended = time.perf_counter()
            times_ms.append((ended - began) * 1e3)
            if ended > limit:
                break
    return times_ms


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return platform.processor() or "unknown"
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.processor() or sys.platform
