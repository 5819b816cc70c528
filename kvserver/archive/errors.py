"""The errors that an archive's reader raises, each with what to do next."""

from __future__ import annotations

from kvserver.base.errors import Code, Corruption, KvError, RevisionError

ARCHIVE_MORE = "what the node has committed and not archived yet becomes possible with: kvctl archive now"
"""Where to get what lies behind the end of the archive."""

SEE_WHAT = "see what is wrong with: kvctl archive verify"

_VERIFY = "see what else is damaged with: kvctl archive verify; then put the object back from a copy of the archive"


class ArchiveFenced(KvError):
    """Another primary has closed or continued this epoch's manifest: this node must not write to the archive any more."""

    def __init__(self, what: str) -> None:
        super().__init__(
            Code.ARCHIVE_FENCED,
            f"this node may not write to the archive any more: {what}",
            "a newer primary owns the store, or two nodes share one archive; stop this node and see which one is meant to serve",
        )
        self.what = what


class ArchiveOvertaken(ArchiveFenced):
    """Another node has written a record first. Of an older epoch whoever closes it looks again and goes on; others are fenced."""


def damaged(name: str, offset: int, what: str) -> Corruption:
    """Return the error that an object of the archive does not check."""
    return Corruption(name, offset, what, _VERIFY)


def no_plan(what: str, hint: str) -> RevisionError:
    """Return the error that the archive does not hold what a restore needs."""
    return RevisionError(Code.NO_RESTORE_PLAN, what, hint)
