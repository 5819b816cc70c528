"""Every error that the clients raise, as one tree.

    KvClientError
    ├── InvalidRequestError      the same request will always be refused
    │   ├── UnknownNamespace
    │   ├── NamespaceExists
    │   ├── TargetUnusable
    │   └── NoArchive
    ├── ConditionFailed          nothing was changed; carries the key's newest mod_revision
    ├── RevisionError            the revision or position asked for cannot be served
    │   ├── FutureRevision
    │   ├── Compacted
    │   ├── HistoryLost
    │   ├── NoRestorePlan
    │   └── Stale
    ├── NotWritten               certainly not written; may be tried again
    │   ├── NotPrimary
    │   ├── PolicyUnmet
    │   ├── TablesFailed
    │   └── ArchiveBehind
    ├── ArchiveError             the node's archive did not do what was asked
    │   ├── ArchiveUnavailable
    │   └── ArchiveFenced
    ├── ClusterError             nodes, or their register, do not agree to what was asked
    │   ├── Fenced
    │   ├── PromotionRefused
    │   ├── RegisterUnavailable
    │   └── WrongPeer
    ├── OutcomeUnknown           may or may not have been written
    ├── OutcomeExpired           not written now; may have been written before
    ├── ManyFailed               some of many writes failed, each for a reason of its own
    ├── Timeout                  a read or a wait ran out of time; nothing was changed
    ├── Unavailable              no serving node took the request; nothing was changed
    ├── ServerError              a fault in the server
    │   └── Corruption
    └── ClientClosed             the client was used after it was closed

``kvclient._errors`` says which answer of a server becomes which of them.
"""

from __future__ import annotations

from collections.abc import Mapping


class KvClientError(Exception):
    """Base of everything that the clients raise on purpose.

    ``code`` is stable and for programs (a name of ``kvproto.v1.ErrorCode``, or ``UNAVAILABLE``, ``CLIENT_CLOSED``,
    ``UNEXPECTED_STATUS`` where the server did not name one), ``message`` is for people, ``hint`` says what to do next
    and may be empty. ``details`` holds what else the server sent along; ``from_server`` tells whether the error is the
    server's own word or the client's conclusion.
    """

    def __init__(
        self,
        code: str,
        message: str,
        hint: str = "",
        *,
        details: Mapping[str, str] | None = None,
        from_server: bool = False,
    ) -> None:
        super().__init__(code, message, hint)
        self.code = code
        self.message = message
        self.hint = hint
        self.details: dict[str, str] = dict(details or {})
        self.from_server = from_server

    def __str__(self) -> str:
        return f"{self.message} [{self.code}]"


class InvalidRequestError(KvClientError):
    """The request breaks a rule of the contract; the same request will always be refused."""


class UnknownNamespace(InvalidRequestError):
    """No namespace of this name exists."""


class NamespaceExists(InvalidRequestError):
    """A namespace of this name exists already."""


class TargetUnusable(InvalidRequestError):
    """The folder named cannot take a checkpoint: it is in use, or not a path that can be used."""


class NoArchive(InvalidRequestError):
    """The node has no archive; it was started without ``--archive``."""


class ConditionFailed(KvClientError):
    """A condition (``if_absent``, ``if_revision``) did not hold; nothing was changed."""

    @property
    def mod_revision(self) -> int:
        """The newest ``mod_revision`` of the key that failed; 0 where it does not exist."""
        return _number(self.details, "mod_revision")


class RevisionError(KvClientError):
    """The revision or position asked for cannot be served by this node."""


class FutureRevision(RevisionError):
    """The revision asked for is above the newest one that the node shows."""


class Compacted(RevisionError):
    """The revision asked for lies before the oldest readable one."""

    @property
    def oldest_readable_revision(self) -> int:
        """The oldest revision that can be read at; 0 where the server did not say."""
        return _number(self.details, "oldest_readable_revision")


class HistoryLost(RevisionError):
    """What the client has seen is not part of the node's history (for instance a MEMORY write that a crash took back).

    Every read of this client is refused from now on, until ``forget_session`` is called.
    """


class NoRestorePlan(RevisionError):
    """The archive does not hold what restoring the revision or time asked for needs; the message names what is missing."""


class Stale(RevisionError):
    """The node follows another one, and is not as fresh as was asked for, or cannot say how fresh it is."""


class NotWritten(KvClientError):
    """The write was refused before it was given a revision: it is certain that it was not written."""


class NotPrimary(NotWritten):
    """The node takes no writes, or nobody is primary at the moment; nothing was changed."""

    @property
    def primary(self) -> str:
        """The address of who is primary; empty where that is not known."""
        return self.details.get("primary", "")


class PolicyUnmet(NotWritten):
    """The members that the policy asks for cannot be reached, so nothing more is written; nothing was."""


class TablesFailed(NotWritten):
    """The node's tables cannot be written, or not be read, at the moment; nothing was changed, and it may be tried again."""


class ArchiveBehind(NotWritten):
    """The node's archive is so far behind that no more is written until it has caught up; nothing was written."""


class ArchiveError(KvClientError):
    """The node's archive did not do what was asked. Reads and writes are not concerned."""


class ArchiveUnavailable(ArchiveError):
    """The archive cannot be reached, or refuses, for the reason named in the message; it may be tried again."""


class ArchiveFenced(ArchiveError):
    """Another primary has taken the store's archive over; this node must not write to it any more."""


class ClusterError(KvClientError):
    """Nodes, or the register where epochs are claimed, do not agree to what was asked."""


class Fenced(ClusterError):
    """What was asked, or what a node answered, belongs to an epoch that another one has followed; nothing was changed."""


class PromotionRefused(ClusterError):
    """The node cannot become primary; the message says what it lacks."""


class RegisterUnavailable(ClusterError):
    """The register, where epochs are claimed, cannot be reached, or refuses."""


class WrongPeer(ClusterError):
    """Two nodes do not belong together: another cluster, another register, a node itself, or a circle."""


class OutcomeUnknown(KvClientError):
    """The write may or may not have been kept; read the key, or repeat what may happen twice."""


class OutcomeExpired(KvClientError):
    """What became of writes so old is not remembered: it was not carried out now, perhaps it was before. Read the key.

    Of a write that was sent for the first time it says that the client's clock is far behind the primary's.
    """


class ManyFailed(KvClientError):
    """Some of the operations of one ``put_many`` failed; after the first failure no further ones were begun.

    Of those begun, all that are not among ``failures`` were carried out.
    """

    failures: dict[int, KvClientError]
    """Why, by the place of the operation in what was handed in, from 0."""
    done: int
    """How many operations were carried out."""


class Timeout(KvClientError):
    """A read or a wait ran out of time; nothing was changed."""


class Unavailable(KvClientError):
    """No serving node took the request; nothing was changed."""


class ServerError(KvClientError):
    """A fault in the server; its log has the details."""


class Corruption(ServerError):
    """What the server has on disk is damaged; the message names the file and the offset."""


class ClientClosed(KvClientError):
    """The client was used after it was closed; nothing was sent."""

    def __init__(self, code: str = "CLIENT_CLOSED", message: str = "the client is closed", hint: str = "") -> None:
        super().__init__(code, message, hint)


def _number(details: Mapping[str, str], name: str) -> int:
    """Return a number among the details, 0 where it is missing or none."""
    text = details.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else 0
