"""What the archive may ask of a store of objects: the interface, and nothing of how it is done.

An object has a name (``kvserver.archive.names``) and bytes, and is never changed: it is created once, read, listed, deleted. One
kind of object is replaced, and only under the condition that it is still what the writer has read. Stores: a folder
(``folder_store``), S3-compatible object storage (``s3_store``); ``open_store`` picks one by its address. One conformance suite
runs on all (``tests/conformance/test_stores.py``).

Every call blocks and may take long, so none is made on the event loop. Safe for several threads. Errors: ``ObjectExists``,
``ObjectMissing`` and ``ReplaceConflict`` for the caller to decide, ``StoreUnavailable`` for what may pass, ``StoreRefused``
for what will not pass by itself (credentials, a full disk, a folder that may not be written).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from kvserver.base.errors import Code, KvError
from kvserver.base.limits import MIB

STREAM_BYTES = 1 * MIB
"""Objects are streamed in pieces of at most so many bytes."""

MAX_HELD_BYTES = 16 * MIB
"""A replaceable object is read as a whole; one that is larger is damaged."""


class StoreError(KvError):
    """A store did not do what it was asked."""


class ObjectExists(StoreError):
    """An object of this name exists already; it was not touched."""

    def __init__(self, name: str) -> None:
        super().__init__(Code.INTERNAL, f"the archive holds {name} already")
        self.name = name


class ObjectMissing(StoreError):
    """There is no object of this name."""

    def __init__(self, name: str, url: str) -> None:
        super().__init__(
            Code.CORRUPTION,
            f"{url}: the object {name} is missing",
            "see what else is missing with: kvctl archive verify; put the object back from a copy of the archive",
        )
        self.name = name


class ReplaceConflict(StoreError):
    """The object is no longer what the caller has read; it was not touched."""

    def __init__(self, name: str) -> None:
        super().__init__(Code.INTERNAL, f"another writer has replaced {name} meanwhile", "try again")
        self.name = name


class StoreUnavailable(StoreError):
    """The store cannot be reached, or failed in a way that may pass. Whether a create or replace took effect is not known."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            Code.ARCHIVE_UNAVAILABLE,
            f"the archive {url} cannot be reached: {reason}",
            "see that it is up and reachable, and try again",
        )


class StoreRefused(StoreError):
    """The store refuses what it is asked, and will until somebody changes something."""

    def __init__(self, url: str, reason: str, hint: str) -> None:
        super().__init__(Code.ARCHIVE_UNAVAILABLE, f"the archive {url} refuses: {reason}", hint)


class ObjectInfo(NamedTuple):
    """One object of a listing."""

    name: str
    length: int


class Held(NamedTuple):
    """The content of a replaceable object, and the token that stands for this content in ``replace``."""

    data: bytes
    token: str


class Store(Protocol):
    """A store of objects below one address."""

    url: str
    """The address as people may see it: without credentials."""

    def create(self, name: str, parts: Iterable[bytes]) -> int:
        """Create an object from its parts and return its length; durable on return, never seen half-written.

        Memory does not grow with the object. Raises ObjectExists, perhaps before any part is drawn; then the object is what it
        was, whole and durable. After StoreUnavailable it may exist or not; whoever needs to know creates it again, and where that
        says ObjectExists reads it back. What drawing a part raises is passed on, and nothing was created.
        """

    def read(self, name: str, offset: int = 0, length: int | None = None, limit: int | None = None) -> bytes:
        """Return bytes of an object from an offset on: ``length`` of them, fewer only at its end, or all.

        ``limit``: refuse with ValueError, before reading it, an object that would bring more bytes. Raises ObjectMissing.
        """

    def stream(self, name: str, offset: int = 0) -> Iterator[bytes]:
        """Yield the bytes of an object in pieces of at most ``STREAM_BYTES``. Raises ObjectMissing."""

    def length(self, name: str) -> int:
        """Return the bytes of an object. Raises ObjectMissing."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose names begin with the prefix, which is empty or ends with a slash, in the order of their names.

        Names that are not made of ``kvserver.archive.names``' characters, and what writers left half-written, are left out.
        """

    def folders(self, prefix: str) -> Sequence[str]:
        """Return, in order, what the names that begin with the prefix have behind it up to their next slash, with the slash.

        Costs as much as what it returns, however many objects lie below. A folder from which all was deleted may be among them.
        """

    def delete(self, name: str) -> None:
        """Delete an object; no harm where there is none. Durable on return."""

    def held(self, name: str) -> Held | None:
        """Return a replaceable object's content, durable where the store may be written to; None where there is none."""

    def replace(self, name: str, data: bytes, token: str | None) -> str:
        """Give an object this content if its token is still this one (None: if it does not exist); return the new token.

        Durable on return. Raises ReplaceConflict. After StoreUnavailable it may have been replaced or not.
        """

    def close(self) -> None:
        """Let go of connections and descriptors. Twice does no harm."""
