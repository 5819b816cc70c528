"""Checks of what the operating system allows the server: descriptors, file sizes, memory.

The limits are those of the server's process where it is known, else those of this process: what a server started from here gets.
"""

from __future__ import annotations

import re
from pathlib import Path

from kvserver.base.limits import MIB
from kvserver.engine.examination.findings import Finding, ok, problem, sized, warning
from kvserver.engine.examination.subject import Subject
from kvserver.wal.recovery import list_segments

_SPARE_DESCRIPTORS = 1_024
"""For connections, the log, the libraries, and tables that come while others go."""
_BASE_BYTES = 256 * MIB
"""What the server and the process that builds tables take before there is any data."""
_NO_LIMIT = 1 << 60
_CGROUP = Path("/sys/fs/cgroup")


def check_descriptors(subject: Subject) -> list[Finding]:
    """Compare the number of files that may be open with the files there are."""
    limit, whose = _limit(subject, "Max open files")
    what = f"open files {whose}"
    if limit is None:
        return [ok("descriptors", what, "no limit is told")]
    paths = subject.paths
    files = len(subject.names(paths.tables))
    files += len(list_segments(subject.fs, paths)) if subject.fs.exists(paths.wal) else 0
    needed = files + _SPARE_DESCRIPTORS
    found = f"{limit:,} are allowed, about {needed:,} may be needed ({files:,} files of the store and connections)"
    advice = (
        f"raise it: LimitNOFILE={max(65_536, 2 * needed)} in the unit, or ulimit -n {max(65_536, 2 * needed)} before the start"
    )
    return [ok("descriptors", what, found) if limit >= needed else warning("descriptors", what, found, advice)]


def check_file_size(subject: Subject) -> list[Finding]:
    """Look whether segments and tables may become as large as they do."""
    limit, whose = _limit(subject, "Max file size")
    what = f"file size {whose}"
    if limit is None:
        return [ok("file-size", what, "no limit")]
    segment = subject.options.wal.segment_bytes
    advice = "raise it: LimitFSIZE=infinity in the unit, or ulimit -f unlimited before the start"
    if limit < segment:
        found = f"{sized(limit)} are allowed, a segment has {sized(segment)}: the log fails"
        return [problem("file-size", what, found, advice)]
    found = f"{sized(limit)} are allowed"
    if limit < 16 * segment:
        return [warning("file-size", what, f"{found}; merged tables may become larger", advice)]
    return [ok("file-size", what, found)]


def check_memory(subject: Subject) -> list[Finding]:
    """Compare the memory that the server may take with what its defaults add up to."""
    options = subject.options
    needed = (
        options.pipeline.memory_limit_bytes
        + options.pipeline.max_waiting_bytes
        + options.tables.block_cache_bytes
        + 2 * options.tables.memtable_bytes
        + _BASE_BYTES
    )
    limit, source = _memory(subject)
    what = f"memory ({source})"
    if not limit:
        return [ok("memory", what, "not known: this system does not tell")]
    found = f"{sized(limit)}; with its defaults a server takes up to {sized(needed)}"
    if limit < needed:
        advice = "give it more, or start with a smaller --memory-limit-mb; else the kernel may kill it under load"
        return [warning("memory", what, found, advice)]
    return [ok("memory", what, found)]


def _limit(subject: Subject, name: str) -> tuple[int | None, str]:
    """Return a soft limit of the process, None where there is none, and whose it is."""
    process = subject.process()
    whose = f"of process {subject.holder}" if process != "/proc/self" else "of a server started from here"
    match = re.search(rf"^{name} +(\d+|unlimited) ", subject.text(Path(process) / "limits"), re.MULTILINE)
    return (None if match is None or match[1] == "unlimited" else int(match[1])), whose


def _memory(subject: Subject) -> tuple[int, str]:
    """Return the least of the control groups' limits, else the machine's memory, and which of them it is."""
    limits = [limit for path in _limit_files(subject) if (limit := _number(subject.text(path))) and limit < _NO_LIMIT]
    match = re.search(r"^MemTotal: +(\d+) kB", subject.text(Path("/proc/meminfo")), re.MULTILINE)
    machine = int(match[1]) * 1024 if match else 0
    if limits and (not machine or min(limits) < machine):
        return min(limits), "limit of the control group"
    return machine, "of the machine"


def _limit_files(subject: Subject) -> list[Path]:
    """Return where the limits of the process's groups, and of those above them, would stand in both kinds of hierarchy."""
    found = []
    for line in subject.text(Path(subject.process()) / "cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:
            root, name = _CGROUP, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = _CGROUP / "memory", "memory.limit_in_bytes"
        else:
            continue
        inner = Path(group.lstrip("/"))
        found += [root / place / name for place in (inner, *inner.parents)]
    return found


def _number(text: str) -> int:
    """Return the number that a file holds; 0 for anything else (``max``)."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() else 0
