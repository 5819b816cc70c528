"""Checks of the disk below the folder: room, the kind of file system, how long a sync takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from kvserver.base.fs import opened
from kvserver.base.limits import KIB, MIB
from kvserver.engine.examination.findings import Finding, note, ok, problem, sized, warning
from kvserver.engine.examination.subject import Subject

_LEAST_BYTES = 32 * MIB
"""A start makes its first segment ready and needs about so much."""
_FEW_INODES = 1_000

_VOLATILE = {"tmpfs", "ramfs"}
_LAYERED = {"overlay", "overlayfs", "aufs"}
_REMOTE = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "vboxsf", "vmhgfs", "virtiofs", "prl_fs", "ceph", "glusterfs", "lustre"}
_COPYING = {"btrfs", "zfs", "bcachefs"}
_WITHOUT_BARRIERS = {"nobarrier", "barrier=0"}

PROBE_NAME = "doctor-probe.tmp"
"""The file of the probe; it loses its name as soon as it exists, so that nothing stays however the probe ends."""
_PROBE_SYNCS = 50
_PROBE_BYTES = 4 * KIB
_TOO_FAST_MS = 0.01
_SLOW_MS = 20.0
_STALLING_MS = 100.0


def check_space(subject: Subject) -> list[Finding]:
    """Compare the room on the disk with what log and tables need next."""
    options, root = subject.options, subject.paths.root
    free = subject.fs.free_bytes(root)
    held = {
        folder.name: sum(subject.size(folder / name) for name in subject.names(folder))
        for folder in (subject.paths.wal, subject.paths.tables)
    }
    what = f"room on the disk of {root}"
    found = f"{sized(free)} free; the log has {sized(held['wal'])}, the tables {sized(held['tables'])}"
    if free < _LEAST_BYTES:
        advice = f"free {sized(_LEAST_BYTES - free)} elsewhere on the disk, or enlarge it; delete nothing in the folder"
        return [problem("space", what, f"{found}: too little to start", advice)]
    needed = 2 * options.wal.segment_bytes + 2 * options.tables.memtable_bytes
    if free < needed:
        advice = f"enlarge the disk: two segments and two tables need {sized(needed)}; else writes are refused (DISK_FULL)"
        return [warning("space", what, found, advice)]
    if free < held["tables"]:
        advice = "enlarge the disk before it fills: merging all tables (kvctl compact) may need as much again as they have"
        return [note("space", what, found, advice)]
    return [ok("space", what, found)]


def check_inodes(subject: Subject) -> list[Finding]:
    """Look how many files can still be made."""
    free, total = subject.machine.inodes(subject.paths.root)
    what = f"inodes on the disk of {subject.paths.root}"
    if not total:
        return [ok("inodes", what, "made as they are needed")]
    advice = "remove small files elsewhere on the disk, or make a file system with more inodes; delete nothing in the folder"
    if not free:
        return [problem("inodes", what, "none is free: no segment and no table can be made", advice)]
    found = f"{free:,} of {total:,} are free"
    return [warning("inodes", what, found, advice) if free < _FEW_INODES else ok("inodes", what, found)]


class Mount(NamedTuple):
    """One mounted file system."""

    point: Path
    kind: str
    options: frozenset[str]


def parse_mounts(text: str) -> list[Mount]:
    """Return the mounts that ``/proc/self/mountinfo`` tells of, in its order; lines that are none are left out."""
    found = []
    for line in text.splitlines():
        before, dash, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        if dash and len(fields) >= 6 and len(rest) >= 1:
            point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
            options = fields[5].split(",") + (rest[2].split(",") if len(rest) > 2 else [])
            found.append(Mount(Path(point), rest[0], frozenset(options)))
    return found


def mount_of(path: Path, mounts: list[Mount]) -> Mount | None:
    """Return the mount that a path lies on: of those above it the deepest, of equal ones the newest."""
    above = [mount for mount in mounts if path.is_relative_to(mount.point)]
    return max(reversed(above), key=lambda mount: len(mount.point.parts), default=None)


def check_mount(subject: Subject) -> list[Finding]:
    """Look at the kind of file system, and how it is mounted."""
    paths = subject.paths
    mounts = parse_mounts(subject.text(Path("/proc/self/mountinfo")))
    mount = mount_of(paths.root, mounts)
    if mount is None:
        return [ok("mount", str(paths.root), "not known: this system does not tell")]
    what = f"{mount.kind} at {mount.point}"
    findings = _kind(what, mount.kind)
    if "ro" in mount.options:
        advice = f"see the kernel's log (dmesg) for why; mend the disk, then: mount -o remount,rw {mount.point}"
        findings.append(problem("mount", what, "mounted read-only: no server can start or go on", advice))
    if mount.options & _WITHOUT_BARRIERS:
        advice = "mount it with barriers, unless the drive's cache is protected from a loss of power"
        findings.append(
            warning("mount", what, "mounted without barriers: a loss of power may take what was acknowledged", advice)
        )
    moved = {folder: mount_of(folder, mounts) for folder in (paths.tables, paths.building) if subject.fs.exists(folder)}
    if len(set(moved.values())) > 1:
        advice = "put tables/ and building/ on one file system"
        findings.append(warning("mount", what, "tables/ and building/ lie on different ones: no table can be moved in", advice))
    return findings or [ok("mount", what, "nothing known against it")]


def _kind(what: str, kind: str) -> list[Finding]:
    """Judge a kind of file system by what docs/durability.md assumes of it."""
    if kind in _VOLATILE:
        advice = "put the folder on a disk, unless it is for a trial"
        return [warning("mount", what, "it is memory: everything is gone when the machine restarts", advice)]
    if kind in _LAYERED:
        advice = "mount a volume at the data folder"
        return [warning("mount", what, "it is a container's own layer: everything goes with the container", advice)]
    if kind in _REMOTE or kind.startswith("fuse"):
        advice = "use a disk of this machine or a block device; what must hold of others: docs/durability.md"
        return [warning("mount", what, "locks and syncs may not hold there what the store's promises rest on", advice)]
    if kind in _COPYING:
        advice = "keep more room free than the figures say; switch copy-on-write off for the folder if syncs are slow"
        return [note("mount", what, "it copies on write: space made ready can be refused later, which ends the server", advice)]
    return []


def check_sync(subject: Subject) -> list[Finding]:
    """Measure how long a sync takes, where that was asked for: in a file without a name on the folder's own disk."""
    what = f"syncs on the disk of {subject.paths.root}"
    if not subject.probe_disk:
        return [ok("sync", what, "not measured: that writes; --probe-disk does it")]
    if subject.identity is None:
        return [ok("sync", what, "not measured: the folder is no store yet")]
    times_ms = sorted(_probe(subject))
    median, slowest = times_ms[len(times_ms) // 2], times_ms[-1 - len(times_ms) // 100]
    found = f"{_PROBE_SYNCS} of 4 KiB: median {median:.2f} ms, 99th percentile {slowest:.2f} ms; a write waits one to two of them"
    if median < _TOO_FAST_MS:
        advice = "see that the disk is one, and that its cache is protected from a loss of power"
        return [warning("sync", what, f"{found}: too fast for anything that reaches a disk", advice)]
    if median > _SLOW_MS:
        advice = "use a faster disk (SSD, NVMe) or a volume with more guaranteed operations per second; send writes in parallel"
        return [warning("sync", what, f"{found}: one caller gets {1000 / median:,.0f} writes/s at most", advice)]
    if slowest > _STALLING_MS:
        advice = "look for what else uses the disk, and for the limits of the volume"
        return [note("sync", what, f"{found}: now and then writes stall", advice)]
    return [ok("sync", what, found)]


def _probe(subject: Subject) -> list[float]:
    """Return the milliseconds of each sync: of blocks that were zero-filled before, as the log's are."""
    path = subject.paths.root / PROBE_NAME
    block = b"\xa5" * _PROBE_BYTES
    times = []
    with opened(subject.fs.create(path)) as file:
        subject.fs.remove(path)
        file.pwrite(bytes(_PROBE_SYNCS * _PROBE_BYTES), 0)
        file.sync()
        for number in range(_PROBE_SYNCS):
            begin = subject.clock.monotonic()
            file.pwrite(block, number * _PROBE_BYTES)
            file.datasync()
            times.append((subject.clock.monotonic() - begin) * 1000)
    return times
