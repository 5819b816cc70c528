"""What was measured on, and with which versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

from suite.processes import ROOT

VERSION_COMMANDS = {
    "etcd": (["etcd", "--version"], r"etcd Version: (\S+)"),
    "Redis": (["redis-server", "--version"], r"v=(\S+)"),
    "RocksDB (db_bench)": (["db_bench", "--version"], r"version (\S+)"),
    "h2load (nghttp2)": (["h2load", "--version"], r"nghttp2/(\S+)"),
}
PACKAGES = ("kvserver", "grpcio", "protobuf", "uvloop", "rocksdict")


def version_of(command: list[str], pattern: str) -> str:
    """Return the version that a tool prints; empty where there is no such tool."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    match = re.search(pattern, done.stdout + done.stderr)
    return match[1] if match else ""


def peer_versions() -> dict[str, str]:
    """Return the versions of the peers and tools that are installed."""
    found = {name: version_of(command, pattern) for name, (command, pattern) in VERSION_COMMANDS.items()}
    return {name: version for name, version in found.items() if version}


def own_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that matter."""
    versions = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = version_of(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], r"^([0-9a-f]+)$")
    if commit:
        versions["commit"] = commit
    return versions


def processor() -> str:
    """Return the processor's name, as far as it is known."""
    match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return match[1].strip() if match else platform.machine()


def file_system(mounts: str, folder: Path) -> str:
    """Return kind and options of the file system that holds a folder, from the text of ``/proc/self/mounts``."""
    best, found = -1, "unknown"
    for line in mounts.splitlines():
        _, point, kind, options, *_ = line.split()
        if len(point) >= best and (folder == Path(point) or Path(point) in folder.parents):
            best, found = len(point), f"{kind} ({options})"
    return found


def describe(folder: Path) -> list[str]:
    """Return the machine and the versions, a line each."""
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    place = file_system(Path("/proc/self/mounts").read_text(), folder.resolve())
    ours = ", ".join(f"{name} {version}" for name, version in own_versions().items())
    peers = ", ".join(f"{name} {version}" for name, version in peer_versions().items())
    return [
        f"{os.cpu_count()} cores of {processor()}, {gib:.0f} GiB, Linux {platform.release()}, {place}",
        ours,
        f"peers and tools: {peers or 'none installed'}",
    ]
