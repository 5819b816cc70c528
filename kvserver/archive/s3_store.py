"""A store of objects in an S3-compatible object storage, spoken to by ``obstore``; the extra ``kvserver[s3]`` brings it.

**Create-once.** An object of up to ``ONE_PUT_BYTES`` is one put with ``If-None-Match: *``. A larger one is uploaded in parts
under another name; from there the storage itself copies it to its own, by a copy that is completed with ``If-None-Match: *``,
and the other name is removed. So memory holds ``ONE_PUT_BYTES`` and a few parts, whatever the size of the object (up to 5 GiB,
which is what a storage copies at once). ``replace`` is one put with ``If-Match``, and is never repeated here: a repetition could
not be told from another writer. A storage that knows nothing of these headers would overwrite in silence; the first small create
is therefore made a second time, and must be refused.

**Where to, and who.** Endpoint, region and credentials are what ``obstore`` finds: ``AWS_ENDPOINT_URL``, ``AWS_REGION``,
``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``, ``AWS_SESSION_TOKEN``, the roles of a machine or a pod; ``AWS_ALLOW_HTTP=true``
for an endpoint without TLS. Profiles in files are not read.

What crashed writers have left half-uploaded is removed a day later by whoever uploads something large; parts that were never made
an object are the storage's to remove (a lifecycle rule for incomplete uploads).
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    InvalidPathError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import S3Store as Client

from kvserver.archive.errors import damaged
from kvserver.archive.names import checked_name, checked_prefix, is_object_name
from kvserver.archive.store import (
    MAX_HELD_BYTES,
    STREAM_BYTES,
    Held,
    ObjectExists,
    ObjectInfo,
    ObjectMissing,
    ReplaceConflict,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from kvserver.base.limits import KIB, MIB

ONE_PUT_BYTES = 8 * MIB
"""An object of up to so many bytes is held in memory and put as a whole."""

_PART_BYTES = 5 * MIB
_PARTS_AT_ONCE = 2
_FETCH_BYTES = 4 * MIB
"""A stream is fetched in ranges of so many bytes, so that no connection waits for whoever uses them."""
_PROOF_BYTES = 64 * KIB
_LIST_AT_ONCE = 1_000
_LEFT_OVER = datetime.timedelta(days=1)
_UPLOADS = ".writing"

CONNECT_TIMEOUT = "5s"
REQUEST_TIMEOUT = "120s"
"""For one request with all that it carries, at most 8 MiB: 0.6 Mbit/s."""
_RETRIES = {"max_retries": 3, "retry_timeout": datetime.timedelta(seconds=60)}
_NO_RETRIES = {"max_retries": 0}

_STATUS = re.compile(r"status code: ([0-9]{3})")
_ERROR_CODE = re.compile(r"<Code>(\w{1,64})</Code>")
_PASSING = frozenset({408, 409, 429})
"""Statuses of the 4xx that may pass."""
_CREDENTIALS = (
    "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or give the machine or pod a role) so that they may list, read, create and "
    "delete in the bucket; profiles in files are not read"
)
_ENDPOINT = "see that AWS_ENDPOINT_URL is an address such as https://HOST:PORT; for one without TLS set AWS_ALLOW_HTTP=true"
_REGION = "see that the bucket exists, and that AWS_REGION and AWS_ENDPOINT_URL are those of the bucket"

T = TypeVar("T")


class S3Store:
    """Objects below a prefix of a bucket. Safe for several threads; the interpreter's lock is free while one waits."""

    def __init__(self, bucket: str, prefix: str, random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self.url = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
        try:
            self._client = _client(bucket, prefix, _RETRIES)
            self._once = _client(bucket, prefix, _NO_RETRIES)
        except BaseError as error:
            reason = _printable(str(error).partition("\n\nDebug source")[0])
            hint = "see the AWS_... variables of the environment"
            raise StoreRefused(self.url, f"it cannot be set up: {reason}", hint) from None
        self._random_bytes = random_bytes
        self._is_proven = self._is_genuine = self._is_swept = False

    def create(self, name: str, parts: Iterable[bytes]) -> int:
        """Create an object; see ``Store``."""
        checked_name(name)
        drawing = iter(parts)
        begin: deque[bytes] = deque()
        length = 0
        for part in drawing:
            begin.append(part)
            length += len(part)
            if length > ONE_PUT_BYTES:
                return self._create_large(name, begin, drawing)
        self._put_once(name, begin)
        if not self._is_proven and length <= _PROOF_BYTES:
            self._prove(name, begin)
        return length

    def read(self, name: str, offset: int = 0, length: int | None = None, limit: int | None = None) -> bytes:
        """Return bytes of an object; see ``Store``."""
        checked_name(name)
        if length == 0:
            self.length(name)
            return b""
        return bytes(self._fetch(name, offset, length, limit))

    def stream(self, name: str, offset: int = 0) -> Iterator[bytes]:
        """Yield the bytes of an object; see ``Store``."""
        checked_name(name)
        length = _FETCH_BYTES
        while length == _FETCH_BYTES:
            fetched = self._fetch(name, offset, _FETCH_BYTES, None)
            length = len(fetched)
            for begin in range(0, length, STREAM_BYTES):
                yield bytes(fetched[begin : begin + STREAM_BYTES])
            del fetched  # before the next one takes as much
            offset += length

    def _fetch(self, name: str, offset: int, length: int | None, limit: int | None) -> memoryview:
        bounds: Any = {"offset": offset} if length is None else (offset, offset + length)
        is_whole = offset == 0 and length is None

        def fetch() -> memoryview:
            found = self._client.get(name, options={} if is_whole else {"range": bounds})
            first, last = found.range
            if limit is not None and last - first > limit:
                raise ValueError(f"{name} would bring {last - first} bytes; {limit} are allowed")
            return memoryview(found.bytes())

        try:
            return self._asked(name, fetch)
        except _BeyondTheEnd:
            return memoryview(b"")

    def length(self, name: str) -> int:
        """Return the bytes of an object; see ``Store``."""
        checked_name(name)
        return int(self._asked(name, lambda: self._client.head(name))["size"])

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield objects in the order of their names; see ``Store``. Raises StoreRefused where the storage has no order."""
        checked_prefix(prefix)
        pages = self._client.list(prefix or None, chunk_size=_LIST_AT_ONCE)
        before = ""
        while (page := self._asked(prefix, lambda: next(pages, None))) is not None:
            for found in page:
                name = found["path"]
                if name <= before:
                    hint = "use a bucket whose listings are sorted (a general purpose one)"
                    raise StoreRefused(self.url, f"it lists {name} behind {before}", hint)
                before = name
                if is_object_name(name):
                    yield ObjectInfo(name, found["size"])
        if not before:
            self._prove_empty()

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the folders below a prefix; see ``Store``."""
        checked_prefix(prefix)
        found = self._asked(prefix, lambda: self._client.list_with_delimiter(prefix or None))
        names = [path.removeprefix(prefix).rstrip("/") for path in found["common_prefixes"]]
        if not names:
            self._prove_empty()
        return sorted(f"{name}/" for name in names if is_object_name(name))

    def delete(self, name: str) -> None:
        """Delete an object; see ``Store``."""
        checked_name(name)
        with contextlib.suppress(ObjectMissing):
            self._asked(name, lambda: self._client.delete(name))

    def held(self, name: str) -> Held | None:
        """Return a replaceable object's content; see ``Store``. Raises Corruption for one that is too large."""
        checked_name(name)

        def fetch() -> Held:
            found = self._client.get(name)
            if found.meta["size"] > MAX_HELD_BYTES:
                raise damaged(name, 0, f"it has {found.meta['size']} bytes; {MAX_HELD_BYTES} are allowed")
            return Held(bytes(found.bytes()), self._tag(found.meta["e_tag"]))

        try:
            return self._asked(name, fetch)
        except ObjectMissing:
            return None

    def replace(self, name: str, data: bytes, token: str | None) -> str:
        """Give an object this content; see ``Store``."""
        checked_name(name)
        mode: Any = "create" if token is None else {"e_tag": token}
        try:
            done = self._asked(name, lambda: self._once.put(name, data, mode=mode))
        except (AlreadyExistsError, PreconditionError, ObjectMissing):
            raise ReplaceConflict(name) from None
        return self._tag(done["e_tag"])

    def close(self) -> None:
        """Let go of the clients, and with the last user of them of their connections."""

    # Creating

    def _put_once(self, name: str, parts: Iterable[bytes]) -> None:
        try:  # of parts handed on as they are no copy is made
            self._asked(name, lambda: self._client.put(name, parts, mode="create"))
        except AlreadyExistsError:
            self._is_proven = True
            raise self._taken(name) from None

    def _prove(self, name: str, parts: Iterable[bytes]) -> None:
        """Create what has just been created again: a storage that does it would let two writers overwrite each other."""
        try:
            self._asked(name, lambda: self._client.put(name, parts, mode="create"))
        except AlreadyExistsError:
            self._is_proven = True
            return
        hint = "use a storage that knows the header If-None-Match (conditional writes), or a newer version of it"
        raise StoreRefused(self.url, f"it let {name} be created twice, so it cannot keep what exists", hint)

    def _prove_empty(self) -> None:
        """Ask, once, for an object that cannot be there: a page that some other server answers reads as an empty listing."""
        if not self._is_genuine:
            with contextlib.suppress(ObjectMissing):
                name = f"{_UPLOADS}/{self._random_bytes(16).hex()}"
                self._asked(name, lambda: self._client.head(name))
                raise StoreRefused(self.url, "what answers at its endpoint does not speak S3", _ENDPOINT)
            self._is_genuine = True

    def _create_large(self, name: str, begin: deque[bytes], rest: Iterator[bytes]) -> int:
        """Upload in parts under another name, and let the storage copy it to its own."""
        with contextlib.suppress(ObjectMissing):
            self.length(name)
            raise ObjectExists(name)
        upload = f"{_UPLOADS}/{self._random_bytes(16).hex()}"
        try:
            length = self._upload(upload, begin, rest)
            self._asked(name, lambda: self._client.copy(upload, name, overwrite=False))
            self._sweep(upload)
        except AlreadyExistsError:
            raise self._taken(name) from None
        finally:
            with contextlib.suppress(StoreError):  # else it is swept one day
                self._asked(upload, lambda: self._client.delete(upload))
        return length

    def _upload(self, upload: str, begin: deque[bytes], rest: Iterator[bytes]) -> int:
        """Upload in parts; drawn on this thread and not by the library, so that drawing may ask a store as well."""
        length = 0
        writer = obstore.open_writer(self._client, upload, buffer_size=_PART_BYTES, max_concurrency=_PARTS_AT_ONCE)
        try:
            while (part := begin.popleft() if begin else next(rest, None)) is not None:
                self._asked(upload, functools.partial(writer.write, part))
                length += len(part)
            self._asked(upload, writer.close)
        except BaseException as error:
            with contextlib.suppress(Exception):  # to give up what was uploaded; the first error is the one that counts
                writer.__exit__(type(error), error, error.__traceback__)
            raise
        return length

    def _taken(self, name: str) -> StoreError:
        """Return the error for a name that another writer has, or is about to have and may yet fail."""
        try:
            self.length(name)
        except ObjectMissing:
            return StoreUnavailable(self.url, f"another writer creates {name} at this moment")
        return ObjectExists(name)

    def _sweep(self, upload: str) -> None:
        """Remove uploads that are a day older than this one by the storage's own clock, once."""
        if self._is_swept:
            return
        with contextlib.suppress(StoreError):
            uploads = self._asked(_UPLOADS, lambda: self._client.list(_UPLOADS).collect())
            times = {found["path"]: found["last_modified"] for found in uploads}
            old = [path for path, time in times.items() if time < times.get(upload, time) - _LEFT_OVER]
            for path in old:
                self._asked(path, functools.partial(self._client.delete, path))
            self._is_swept = True

    # Errors

    def _asked(self, name: str, call: Callable[[], T]) -> T:
        """Ask the storage, and say in the store's own errors what it answers; conflicts are left to the caller."""
        try:
            return call()
        except (AlreadyExistsError, PreconditionError):
            raise
        except (BaseError, FileNotFoundError) as error:
            raise self._error(name, error) from None
        except BaseException as error:
            if type(error).__name__ != "PanicException":  # how the library answers an endpoint without a scheme
                raise
            raise StoreRefused(self.url, "its endpoint cannot be used, or the library failed", _ENDPOINT) from error

    def _error(self, name: str, error: Exception) -> Exception:
        text = str(error).partition("\n\nDebug source")[0]
        status = int(found[1]) if (found := _STATUS.search(text)) else None
        code = found[1] if (found := _ERROR_CODE.search(text)) else ""
        reason = _printable(text.partition(": <")[0].partition("\n")[0] + (f" ({code})" if code else ""))
        if code == "NoSuchBucket":
            return StoreRefused(self.url, "there is no such bucket", "make the bucket, or name another one")
        if isinstance(error, FileNotFoundError):
            return ObjectMissing(name, self.url)
        if status == 416:
            return _BeyondTheEnd()
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or status in (401, 403):
            return StoreRefused(self.url, f"the credentials do not allow this{f' ({code})' if code else ''}", _CREDENTIALS)
        if "/latest/api/token" in text or "/latest/meta-data" in text:
            return StoreRefused(self.url, "there are no credentials for it, and this machine has no role", _CREDENTIALS)
        if isinstance(error, InvalidPathError):
            hint = "remove it, or keep the archive under a prefix of its own"
            return StoreRefused(self.url, f"something that is not ours lies there: {reason}", hint)
        if "builder error" in text:
            return StoreRefused(self.url, "its endpoint cannot be used", _ENDPOINT)
        if "redirect" in text or (status is not None and 300 <= status < 500 and status not in _PASSING):
            return StoreRefused(self.url, reason, _REGION)
        return StoreUnavailable(self.url, reason)

    def _tag(self, tag: str | None) -> str:
        if tag is None:
            raise StoreRefused(self.url, "it gives no ETag", "use a storage that has conditional writes (If-Match)")
        return tag


class _BeyondTheEnd(Exception):
    """A range begins at or behind the end of the object."""


def _client(bucket: str, prefix: str, retries: Any) -> Client:
    """Return a client with explicit limits; given so, and not as client options, they leave what the environment says."""
    config: Any = {"connect_timeout": CONNECT_TIMEOUT, "timeout": REQUEST_TIMEOUT}
    config |= {"conditional_put": "etag", "copy_if_not_exists": "multipart"}
    return Client(bucket, prefix=prefix or None, config=config, retry_config=retries)


def _printable(text: str) -> str:
    return "".join(each if each.isprintable() else "?" for each in text)[:300]
