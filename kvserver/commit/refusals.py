"""What callers are told when their request cannot be carried out for a reason that lies in the node."""

from __future__ import annotations

import errno

from kvserver.base.errors import Code, Corruption, KvError, NotServing, Refused, RevisionError

_FULL = (errno.ENOSPC, errno.EDQUOT)


def log_failed() -> NotServing:
    """Return the answer to everything after the log failed; what it answers was not written."""
    return NotServing("the log failed, the node is ending; nothing of this request was written", Code.LOG_FAILED)


def space_refusal(reason: OSError) -> Refused:
    """Return the refusal of a write for which the log gets no room."""
    if reason.errno in _FULL:
        return disk_full()
    return Refused(
        Code.DISK_UNAVAILABLE,
        f"the log gets no room on disk ({reason.strerror or reason}); nothing was written",
        "see the server's log; the node goes on by itself once the disk can be written",
    )


def flush_refusal(reason: Exception) -> KvError:
    """Return the refusal of a write while memory is full and cannot be written into tables."""
    if isinstance(reason, OSError) and reason.errno in _FULL:
        return disk_full()
    hint = reason.hint if isinstance(reason, Corruption) else "see the server's log; the node tries again by itself"
    return Refused(Code.TABLES_FAILED, f"memory is full and cannot be written into tables ({reason}); nothing was written", hint)


def write_refused(reason: KvError) -> Refused:
    """Return the refusal of a write that must be judged by what the tables do not give."""
    what = f"what the write must be judged by cannot be read ({reason.message}); nothing was written"
    return Refused(Code.TABLES_FAILED, what, reason.hint)


def flush_failed(reason: Exception) -> KvError:
    """Return the answer to whoever asked for a flush that failed."""
    if isinstance(reason, OSError) and reason.errno in _FULL:
        return disk_full()
    hint = "nothing is lost: the log has it; see the server's log, the node tries again by itself"
    return Refused(Code.TABLES_FAILED, f"memory could not be written into tables: {reason}", hint)


def tables_failed(reason: Exception) -> KvError:
    """Return the answer to a request that needs what the tables do not give."""
    if isinstance(reason, KvError):
        return reason
    return KvError(
        Code.TABLES_FAILED,
        f"the tables fail: {reason}",
        "see the server's log, and look at the data folder with: kvctl doctor --data-dir DIR",
    )


def overloaded(waiting: int) -> Refused:
    """Return the refusal of a request for which the line is too long."""
    return Refused(
        Code.OVERLOADED,
        f"{waiting} requests wait for the log already",
        "try again after a pause; see the rate with: kvctl status",
    )


def policy_unmet(waiting: int, why: str) -> Refused:
    """Return the refusal of a request while too much waits for the policy's quorum; ``why``: who is missing, where known."""
    reason = f" ({why})" if why else ""
    return Refused(
        Code.POLICY_UNMET,
        f"the policy is not met{reason}, and {waiting} requests wait for it already; nothing of this one was written",
        "see who is missing with: kvctl cluster status; or give the quorum up for now with: kvctl cluster policy degrade",
    )


def no_such_revision_yet(revision: int, visible: int) -> RevisionError:
    """Return the answer to whoever asks for a revision that was not given out yet."""
    return RevisionError(
        Code.FUTURE_REVISION,
        f"revision {revision} does not exist yet; the newest is {visible}",
        "ask for an existing revision, or for the newest one by naming none",
    )


def archive_behind(reason: str) -> Refused:
    """Return the refusal of a write while the archive is so far behind that the log must not grow."""
    return Refused(
        Code.ARCHIVE_BEHIND,
        f"the archive is too far behind ({reason}); nothing was written",
        "see why with: kvctl archive status; the node goes on by itself once the archive has caught up",
    )


def repeated(error: KvError) -> KvError:
    """Return the same error for one caller: one that all of them raised would keep what each was about alive."""
    same = type(error).__new__(type(error), *error.args)
    vars(same).update(vars(error), details=dict(error.details))
    return same


def disk_full() -> Refused:
    """Return the refusal of a write while the disk of the data folder has no room."""
    return Refused(
        Code.DISK_FULL,
        "the disk of the data folder is full; nothing was written",
        "free space there; the node goes on by itself within a second or two",
    )
