"""A store that misbehaves at the n-th call: what a network and somebody else's disks do.

    store = FaultStore(MemoryStore(), [StoreFault(at=2, calls={"create"}, performed=True)])    # done, but nobody hears of it

    for store in failing_store_calls(MemoryStore, StoreFault()):
        run(store)      # first the 1st call fails, then the 2nd, ... until none does

Ready-made faults: ``UNAVAILABLE``, ``SERVER_ERROR``, ``REFUSED`` as the ``error`` of a fault; ``slow``, ``partial_upload``,
``ambiguous``, ``quicker_writer``, ``vanishing``, ``stale_listing``, ``spoiled`` make whole ones.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from kvserver.archive.store import Held, ObjectInfo, ObjectMissing, Store, StoreError, StoreRefused, StoreUnavailable
from kvserver.base.clock import Clock
from support.faultfs import ProcessKilled

T = TypeVar("T")
AnyStore = TypeVar("AnyStore", bound=Store)

Call = Literal["create", "read", "stream", "length", "list", "folders", "delete", "held", "replace"]
CALLS: frozenset[Call] = frozenset({"create", "read", "stream", "length", "list", "folders", "delete", "held", "replace"})
CHANGING_CALLS: frozenset[Call] = frozenset({"create", "delete", "replace"})
READING_CALLS: frozenset[Call] = CALLS - CHANGING_CALLS

MakeError = Callable[[str], StoreError]
"""From the URL of the store to the error."""


def UNAVAILABLE(url: str) -> StoreError:
    """Say that the store cannot be reached."""
    return StoreUnavailable(url, "connection refused")


def SERVER_ERROR(url: str) -> StoreError:
    """Say what a store's HTTP status 500 becomes."""
    return StoreUnavailable(url, "the server answered 500 Internal Server Error")


def REFUSED(url: str) -> StoreError:
    """Say what wrong credentials become."""
    return StoreRefused(url, "the credentials are wrong", "set the right ones")


@dataclass(frozen=True)
class StoreFault:
    """What goes wrong at the ``at``-th call (from 1) of these kinds.

    ``where`` narrows it to names (of a listing: prefixes) that it accepts. With ``forever`` so does every such call after it.

    In this order: ``action`` is called (another writer, say), time passes by ``delay_ms`` on the clock; then a call that is
    ``performed`` is made as a whole; of a create that is not, ``parts`` parts are drawn, of a stream so many pieces are given.
    Then the process ends (``kills``) or the ``error`` is raised; with neither, the call is made as if nothing had been, but what
    is read passes through ``spoil``, and a listing shows the store as it was ``stale_changes`` changes ago.
    """

    at: int = 1
    error: MakeError | None = UNAVAILABLE
    calls: Collection[Call] = CALLS
    where: Callable[[str], bool] | None = None
    forever: bool = False
    performed: bool = False
    parts: int = 0
    kills: bool = False
    delay_ms: int = 0
    action: Callable[[], object] | None = None
    spoil: Callable[[bytes], bytes] | None = None
    stale_changes: int = 0


_UNHARMED = StoreFault(error=None)


def slow(delay_ms: int, at: int = 1, calls: Collection[Call] = CALLS, forever: bool = False) -> StoreFault:
    """Return a fault that only takes time, on the clock that the store was given."""
    return StoreFault(at, None, calls, forever=forever, delay_ms=delay_ms)


def partial_upload(parts: int, at: int = 1) -> StoreFault:
    """Return a fault that ends a create after so many parts; nothing of it is ever seen."""
    return StoreFault(at, SERVER_ERROR, {"create"}, parts=parts)


def ambiguous(took_effect: bool, at: int = 1, calls: Collection[Call] = CHANGING_CALLS) -> StoreFault:
    """Return a fault after which the caller does not know whether its change was made."""
    return StoreFault(at, UNAVAILABLE, calls, performed=took_effect)


def quicker_writer(write: Callable[[], object], at: int = 1, calls: Collection[Call] = CHANGING_CALLS) -> StoreFault:
    """Return a fault by which somebody else changes the store right before the call."""
    return StoreFault(at, None, calls, action=write)


def vanishing(pieces: int, at: int = 1) -> StoreFault:
    """Return a fault by which the store is gone after so many pieces of a stream."""
    return StoreFault(at, UNAVAILABLE, {"stream"}, parts=pieces)


def stale_listing(changes: int, at: int = 1, forever: bool = False) -> StoreFault:
    """Return a fault by which a listing does not show the last changes yet."""
    return StoreFault(at, None, {"list"}, forever=forever, stale_changes=changes)


def spoiled(spoil: Callable[[bytes], bytes], at: int = 1, forever: bool = False) -> StoreFault:
    """Return a fault by which other bytes are read than were written: of a stream, in every piece."""
    return StoreFault(at, None, {"read", "stream", "held"}, forever=forever, spoil=spoil)


class FaultStore:
    """Any store, made to misbehave by a script; of several faults the first that is due wins. Thread-safe as the inner one is.

    ``clock``: where time passes for slow calls. ``faults`` can be added to while it is in use (``add``).
    """

    def __init__(self, inner: Store, script: Sequence[StoreFault] = (), clock: Clock | None = None) -> None:
        self.url = inner.url
        self.inner = inner
        self.counts: Counter[Call] = Counter()
        """How often each kind of call was made, failed ones included."""
        self.made: list[tuple[Call, str]] = []
        """Every call, in order."""
        self.struck: list[tuple[Call, str]] = []
        """The calls that a fault struck, in order."""
        self.dead = False
        self._clock = clock
        self._faults = list(script)
        self._seen = [0] * len(self._faults)
        self._changes: list[tuple[Call, str, int | None]] = []
        self._mutex = threading.Lock()

    @property
    def fired(self) -> int:
        """How often a fault struck."""
        return len(self.struck)

    def add(self, fault: StoreFault) -> None:
        """Add a fault; its calls are counted from now on."""
        with self._mutex:
            self._faults.append(fault)
            self._seen.append(0)

    def heal(self) -> None:
        """Forget all faults."""
        with self._mutex:
            self._faults, self._seen = [], []

    def create(self, name: str, parts: Iterable[bytes]) -> int:
        """Create an object, or not, or not quite."""
        fault = self._due("create", name)

        def draw() -> None:
            for _ in itertools.islice(parts, fault.parts):
                pass

        def create() -> int:
            length = self.inner.create(name, parts)
            self._note("create", name, None)
            return length

        return self._do(fault, create, draw)

    def read(self, name: str, offset: int = 0, length: int | None = None, limit: int | None = None) -> bytes:
        """Return bytes of an object, perhaps others than were written."""
        fault = self._due("read", name)
        data = self._do(fault, lambda: self.inner.read(name, offset, length, limit))
        return fault.spoil(data) if fault.spoil else data

    def stream(self, name: str, offset: int = 0) -> Iterator[bytes]:
        """Yield the bytes of an object, perhaps not to the end."""
        fault = self._due("stream", name)
        pieces = self.inner.stream(name, offset)
        if fault.kills or fault.error:
            yield from itertools.islice(pieces, fault.parts)
        self._do(fault, lambda: None)
        for piece in pieces:
            yield fault.spoil(piece) if fault.spoil else piece

    def length(self, name: str) -> int:
        """Return the bytes of an object."""
        return self._do(self._due("length", name), lambda: self.inner.length(name))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield objects in the order of their names, perhaps those of a while ago."""
        fault = self._due("list", prefix)
        found = self._do(fault, lambda: {info.name: info.length for info in self.inner.list(prefix)})
        with self._mutex:
            unseen = self._changes[len(self._changes) - fault.stale_changes :] if fault.stale_changes else []
        for call, name, length in reversed(unseen):
            if call == "create":
                found.pop(name, None)
            elif length is not None and name.startswith(prefix):
                found[name] = length
        yield from (ObjectInfo(name, length) for name, length in sorted(found.items()))

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the folders below a prefix."""
        return self._do(self._due("folders", prefix), lambda: self.inner.folders(prefix))

    def delete(self, name: str) -> None:
        """Delete an object, or not."""
        fault = self._due("delete", name)

        def delete() -> None:
            with contextlib.suppress(ObjectMissing):
                self._note("delete", name, self.inner.length(name))
            self.inner.delete(name)

        self._do(fault, delete)

    def held(self, name: str) -> Held | None:
        """Return a replaceable object's content, perhaps another one."""
        fault = self._due("held", name)
        held = self._do(fault, lambda: self.inner.held(name))
        return Held(fault.spoil(held.data), held.token) if held and fault.spoil else held

    def replace(self, name: str, data: bytes, token: str | None) -> str:
        """Give an object this content, or not."""
        return self._do(self._due("replace", name), lambda: self.inner.replace(name, data, token))

    def close(self) -> None:
        """Close the store inside."""
        self.inner.close()

    def _due(self, call: Call, name: str) -> StoreFault:
        """Return the fault that strikes this call, or one that does nothing; let pass what comes before the call."""
        with self._mutex:
            if self.dead:
                raise ProcessKilled
            self.counts[call] += 1
            self.made.append((call, name))
            due = _UNHARMED
            for number, fault in enumerate(self._faults):
                if call in fault.calls and (fault.where is None or fault.where(name)):
                    self._seen[number] += 1
                    is_due = self._seen[number] == fault.at or (fault.forever and self._seen[number] > fault.at)
                    due = fault if due is _UNHARMED and is_due else due
            if due is not _UNHARMED:
                self.struck.append((call, name))
        if due.action:
            due.action()
        if due.delay_ms:
            self._pass_time(due.delay_ms)
        return due

    def _do(self, fault: StoreFault, perform: Callable[[], T], spend: Callable[[], None] = lambda: None) -> T:
        """Make the call, or what the fault leaves of it."""
        if not fault.kills and fault.error is None:
            return perform()
        if fault.performed:
            perform()
        else:
            spend()
        if fault.kills:
            self.dead = True
            raise ProcessKilled
        assert fault.error is not None
        raise fault.error(self.url)

    def _note(self, call: Call, name: str, length: int | None) -> None:
        with self._mutex:
            self._changes.append((call, name, length))

    def _pass_time(self, delay_ms: int) -> None:
        assert self._clock is not None, "a slow store needs a clock"
        condition = threading.Condition()
        with condition:
            self._clock.wait(condition, delay_ms / 1000)


def failing_store_calls(make_inner: Callable[[], AnyStore], fault: StoreFault, limit: int = 100_000) -> Iterator[FaultStore]:
    """Yield stores that misbehave as the fault says at the 1st call, the 2nd, ... until a run comes through unharmed.

    That last run is yielded too: its ``fired`` is 0. Raises RuntimeError after so many, because then the run never ends well.
    """
    for at in range(1, limit + 1):
        store = FaultStore(make_inner(), [replace(fault, at=at)])
        yield store
        if not store.fired:
            return
    raise RuntimeError(f"after {limit} runs a call still failed")
