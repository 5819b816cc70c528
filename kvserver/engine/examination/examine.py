"""Carries the checks out, in order, and lets none of them end the examination."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from kvserver.base.errors import KvError
from kvserver.engine.examination import disk, folder, history, limits, tables
from kvserver.engine.examination.findings import Finding, Level, note, problem, worst
from kvserver.engine.examination.subject import Subject

_OF_A_STORE = {"tables", "log", "marks", "epochs", "holds", "window", "namespaces"}
"""What a folder that is still being restored is not examined for: nothing of it is in its place yet."""

_ATTEMPTS = 3
"""So often a check is made beside a running server before what it finds is believed: files move while it looks."""


class Check(NamedTuple):
    """One check, by the name that its findings carry."""

    name: str
    run: Callable[[Subject], list[Finding]]


CHECKS = (
    Check("folder", folder.check_folder),
    Check("lock", folder.check_lock),
    Check("identity", folder.check_identity),
    Check("origin", folder.check_origin),
    Check("leftovers", folder.check_leftovers),
    Check("owner", folder.check_owner),
    Check("tables", tables.check_tables),
    Check("log", history.check_log),
    Check("marks", tables.check_marks),
    Check("epochs", history.check_epochs),
    Check("holds", history.check_holds),
    Check("window", tables.check_window),
    Check("namespaces", tables.check_namespaces),
    Check("space", disk.check_space),
    Check("inodes", disk.check_inodes),
    Check("mount", disk.check_mount),
    Check("sync", disk.check_sync),
    Check("descriptors", limits.check_descriptors),
    Check("file-size", limits.check_file_size),
    Check("memory", limits.check_memory),
    Check("clock", history.check_clock),
)
"""In the order in which they build on each other."""


def examine(subject: Subject) -> list[Finding]:
    """Return what all checks find. Without a folder to look at only that is found. Never raises for what it meets."""
    findings: list[Finding] = []
    try:
        for check in CHECKS:
            if check.name in _OF_A_STORE and subject.fs.exists(subject.paths.restore):
                continue
            found = _carried_out(check, subject)
            findings += found
            if check.name == "folder" and worst(found) is Level.PROBLEM:
                return findings
        return findings + _started_meanwhile(subject)
    finally:
        subject.close()


def _carried_out(check: Check, subject: Subject) -> list[Finding]:
    """Return what a check finds; beside a running server a problem is believed only when it stays."""
    for attempt in range(_ATTEMPTS):
        try:
            found = check.run(subject)
        except Exception as error:
            found = [_failed(check, subject, error)]
        if worst(found) is not Level.PROBLEM or not subject.in_use or attempt == _ATTEMPTS - 1:
            break
        subject.close()
    return found


def _failed(check: Check, subject: Subject, error: Exception) -> Finding:
    """Return the finding that a check could not be carried out."""
    what = str(subject.paths.root)
    if isinstance(error, PermissionError):
        advice = "run this as the user that the server runs as, or as root"
        return problem(check.name, str(error.filename or what), "this user may not read it", advice)
    if isinstance(error, KvError):
        return problem(check.name, what, error.message, error.hint or "put the damaged file back from a copy of the folder")
    if isinstance(error, OSError):
        advice = "look at the disk: the kernel's log (dmesg) says more; then examine the folder again"
        return problem(check.name, str(error.filename or what), f"it cannot be read: {error.strerror or error}", advice)
    found = f"the check could not be carried out: {type(error).__name__}: {error}"
    return problem(check.name, what, found, "it met what it does not know; report this, with the output of kvctl doctor -o json")


def _started_meanwhile(subject: Subject) -> list[Finding]:
    """Say so where a server began to use the folder during the examination."""
    if subject.in_use:
        return []
    try:
        folder.check_lock(subject)
    except Exception:
        return []
    if not subject.in_use:
        return []
    advice = "examine the folder again: what looked wrong may have been the server's start"
    return [note("lock", str(subject.paths.lock), "a server was started meanwhile", advice)]
