"""A store of objects in memory: the plain twin of the real ones, held to the same conformance suite."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator, Sequence

from kvserver.archive.names import checked_name, checked_prefix
from kvserver.archive.store import STREAM_BYTES, Held, ObjectExists, ObjectInfo, ObjectMissing, ReplaceConflict


class MemoryStore:
    """Objects in a dict. Safe for several threads; nothing ever goes wrong here, see ``support.fault_store`` for that."""

    def __init__(self, url: str = "memory://archive") -> None:
        self.url = url
        self.objects: dict[str, bytes] = {}
        """What is there, by name; a test may damage it."""
        self._mutex = threading.RLock()

    def create(self, name: str, parts: Iterable[bytes]) -> int:
        """Create an object; see ``Store``."""
        self._check_free(name)
        data = b"".join(parts)
        with self._mutex:
            self._check_free(name)
            self.objects[name] = data
        return len(data)

    def read(self, name: str, offset: int = 0, length: int | None = None, limit: int | None = None) -> bytes:
        """Return bytes of an object; see ``Store``."""
        data = self._get(name)[offset:]
        data = data if length is None else data[:length]
        if limit is not None and len(data) > limit:
            raise ValueError(f"{name} would bring {len(data)} bytes; {limit} are allowed")
        return data

    def stream(self, name: str, offset: int = 0) -> Iterator[bytes]:
        """Yield the bytes of an object; see ``Store``."""
        data = self._get(name)
        for begin in range(offset, len(data), STREAM_BYTES):
            yield data[begin : begin + STREAM_BYTES]

    def length(self, name: str) -> int:
        """Return the bytes of an object; see ``Store``."""
        return len(self._get(name))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield objects in the order of their names; see ``Store``."""
        checked_prefix(prefix)
        with self._mutex:
            found = sorted((name, len(data)) for name, data in self.objects.items() if name.startswith(prefix))
        for name, length in found:
            yield ObjectInfo(name, length)

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the folders below a prefix; see ``Store``."""
        rest = (info.name.removeprefix(prefix) for info in self.list(prefix))
        return sorted({name[: name.index("/") + 1] for name in rest if "/" in name})

    def delete(self, name: str) -> None:
        """Delete an object; see ``Store``."""
        with self._mutex:
            self.objects.pop(checked_name(name), None)

    def held(self, name: str) -> Held | None:
        """Return a replaceable object's content; see ``Store``."""
        data = self.objects.get(checked_name(name))
        return None if data is None else Held(data, _token(data))

    def replace(self, name: str, data: bytes, token: str | None) -> str:
        """Give an object this content; see ``Store``."""
        with self._mutex:
            held = self.held(name)
            if (held.token if held else None) != token:
                raise ReplaceConflict(name)
            self.objects[name] = data
        return _token(data)

    def close(self) -> None:
        """Do nothing."""

    def copy(self) -> MemoryStore:
        """Return another store with the same objects."""
        other = MemoryStore(self.url)
        with self._mutex:
            other.objects = dict(self.objects)
        return other

    def _check_free(self, name: str) -> None:
        if checked_name(name) in self.objects:
            raise ObjectExists(name)

    def _get(self, name: str) -> bytes:
        data = self.objects.get(checked_name(name))
        if data is None:
            raise ObjectMissing(name, self.url)
        return data


def _token(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
