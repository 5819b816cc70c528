"""Every error that kvserver raises on purpose, as one tree.

    KvError
    ├── InvalidRequest        the caller must change the request
    ├── ConditionFailed       a condition did not hold; carries the key's newest mod_revision
    ├── RevisionError         the revision or position asked for cannot be served here
    ├── Refused               not written, certainly; try again later, or make room
    ├── OutcomeUnknown        may or may not be written; only an idempotent repeat is safe
    ├── DeadlinePassed        a read or a wait ran out of time
    ├── NotServing            the node is starting, stopping or has failed
    ├── NotPrimary            the node takes no writes; names who does
    ├── ReplicationError      two nodes cannot work together, or a node cannot become primary
    ├── Corruption            what is on disk does not check; names file, offset and remedy
    └── OpenRefused           the data folder cannot be opened (foreign, newer, in use, unwritable)

Each error carries a stable code (the same names and numbers as ``kvproto.v1.ErrorCode``; a test compares them) and, where
there is one, a hint that names what to do next. ``kvserver.service.status`` holds the one table from code to gRPC status.
"""

from __future__ import annotations

import enum


class Code(enum.IntEnum):
    """The stable codes; names and numbers are part of the contract and never change."""

    EMPTY_KEY = 1
    KEY_TOO_LARGE = 2
    VALUE_TOO_LARGE = 3
    COMMIT_TOO_LARGE = 4
    FRAME_TOO_LARGE = 5
    INVERTED_RANGE = 6
    INVALID_FIELD = 7
    DUPLICATE_KEY = 8
    RANGE_TOO_LARGE = 9
    TARGET_UNUSABLE = 10
    NO_ARCHIVE = 11

    UNKNOWN_NAMESPACE = 20
    NAMESPACE_EXISTS = 21
    INVALID_NAMESPACE_NAME = 22

    CONDITION_FAILED = 40
    FUTURE_REVISION = 41
    COMPACTED = 42
    HISTORY_LOST = 43
    NO_RESTORE_PLAN = 44
    STALE = 45

    NOT_WRITTEN = 60
    OUTCOME_UNKNOWN = 61
    DEADLINE = 62
    OUTCOME_EXPIRED = 63

    OVERLOADED = 80
    DISK_FULL = 81
    MEMORY_FULL = 82
    LOG_FAILED = 83
    NOT_SERVING = 84
    CORRUPTION = 85
    DISK_UNAVAILABLE = 86
    TABLES_FAILED = 87
    ARCHIVE_UNAVAILABLE = 88
    ARCHIVE_BEHIND = 89
    ARCHIVE_FENCED = 90
    NOT_PRIMARY = 91
    WRONG_PEER = 92
    FENCED = 93
    REGISTER_UNAVAILABLE = 94
    PROMOTION_REFUSED = 95
    POLICY_UNMET = 96

    INTERNAL = 99


class KvError(Exception):
    """Base of all errors raised on purpose: a code for programs, a message for people, a hint for what to do next."""

    def __init__(self, code: Code, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.details: dict[str, str] = {}
        """What programs may want to know beyond the code, by name."""
        self.depends_on = 0
        """The highest revision that this answer shows something of; it is held until that is visible."""


class InvalidRequest(KvError):
    """The request breaks a rule of the contract; the same request will always be refused."""


class UnknownNamespace(InvalidRequest):
    """No namespace of this name exists."""

    def __init__(self, name: str) -> None:
        super().__init__(
            Code.UNKNOWN_NAMESPACE,
            f"there is no namespace {name!r}",
            f"create it with: kvctl namespace create {name}",
        )


class NamespaceExists(InvalidRequest):
    """A namespace of this name exists already."""

    def __init__(self, name: str) -> None:
        super().__init__(Code.NAMESPACE_EXISTS, f"the namespace {name!r} exists already", "list them with: kvctl namespace list")


class ConditionFailed(KvError):
    """A condition of a write did not hold; nothing was changed.

    ``mod_revision`` is the newest one of the key that failed, 0 where it does not exist.
    """

    def __init__(self, key: bytes, mod_revision: int, wanted: str, depends_on: int) -> None:
        found = f"its newest version is of revision {mod_revision}" if mod_revision else "it does not exist"
        super().__init__(
            Code.CONDITION_FAILED,
            f"the condition {wanted} did not hold for key {key[:64]!r}: {found}",
            "read the key again and decide anew",
        )
        self.key = key
        self.mod_revision = mod_revision
        self.details["mod_revision"] = str(mod_revision)
        self.depends_on = depends_on


class RevisionError(KvError):
    """The revision or position asked for cannot be served by this node."""


class Refused(KvError):
    """A write was refused before it was given a revision: it is certain that it was not written."""


class OutcomeUnknown(KvError):
    """A write was given a revision, but whether it is durable is not known."""

    def __init__(self, message: str = "the write may or may not have been kept") -> None:
        super().__init__(Code.OUTCOME_UNKNOWN, message, "read the key to learn what happened; repeat only what may happen twice")


class DeadlinePassed(KvError):
    """A read or a wait ran out of time; nothing was changed."""

    def __init__(self, message: str) -> None:
        super().__init__(Code.DEADLINE, message, "allow more time, for instance with: kvctl --timeout 30s")


class NotServing(KvError):
    """The node is starting, stopping or has failed, and takes no requests."""

    def __init__(self, message: str = "the node does not serve", code: Code = Code.NOT_SERVING) -> None:
        super().__init__(code, message, "see its state with: kvctl status")


class NotPrimary(KvError):
    """The node takes no writes: certainly not written. ``primary`` is the address of who does; empty: not known."""

    def __init__(self, primary: str = "") -> None:
        where = f"; the primary is {primary}" if primary else "; it does not know who is primary"
        hint = f"send writes to {primary}" if primary else "see who is primary with: kvctl cluster status"
        super().__init__(Code.NOT_PRIMARY, f"this node is no primary and takes no writes{where}", hint)
        self.primary = primary
        if primary:
            self.details["primary"] = primary


class ReplicationError(KvError):
    """Two nodes cannot work together, a register cannot be used, or a node cannot become primary; the code says which."""


class Corruption(KvError):
    """Something on disk does not check. The node refuses to serve rather than skip it."""

    USUAL_HINT = "see what can still be read with: kvctl wal verify DATA_DIR; then restore the file from a copy"

    def __init__(self, path: object, offset: int, what: str, hint: str = "") -> None:
        super().__init__(Code.CORRUPTION, f"{path}: damaged at offset {offset}: {what}", hint or self.USUAL_HINT)
        self.path = path
        self.offset = offset
        self.what = what


class OpenRefused(KvError):
    """The data folder cannot be opened; the message names the reason and the hint the remedy."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(Code.NOT_SERVING, message, hint)
