"""The state of one scan: pure, shared by both clients.

A scan may take longer than one call is allowed to (a large range, or a caller that looks at each key at leisure). So
a call that ran out of time after it brought something is followed by another one, behind the last key received, at the
same revision: the scan shows one state however many calls it took, and its limit of time is one of progress.
"""

from __future__ import annotations

from kvclient._errors import KvClientError, ServerError, Timeout
from kvclient._types import Entry
from kvproto.v1 import kv_pb2


class ScanCursor:
    """Knows what a scan has brought so far and what to ask for next."""

    def __init__(self, request: kv_pb2.ScanRequest) -> None:
        self._request = request
        self._limit = request.limit
        self._received = 0
        self._last_key: bytes | None = None
        self._epoch = 0
        self._brought_something = False
        self.finished = False
        """Whether everything asked for has been received."""
        self.count = 0
        """How many keys were returned or counted; known when finished."""

    def next_request(self) -> kv_pb2.ScanRequest:
        """Return what to send now: the whole range at first, later what is left of it."""
        self._brought_something = False
        return self._request

    def take(self, chunk: kv_pb2.ScanResponse) -> list[Entry]:
        """Take in a chunk and return its entries."""
        self._brought_something = True
        self._request.revision = chunk.header.revision  # whatever follows is read at the same revision
        self._epoch = chunk.header.epoch
        columns = chunk.columns
        if columns.keys:
            figures = (columns.create_revisions, columns.mod_revisions, columns.versions)
            try:
                entries = list(map(Entry._make, zip(columns.keys, columns.values, *figures, strict=True)))
            except ValueError as error:
                raise ServerError("UNEXPECTED_STATUS", "the columns of a scan do not fit each other") from error
        else:  # a server that does not know columns
            entries = [Entry(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version) for kv in chunk.kvs]
        if entries:
            self._received += len(entries)
            self._last_key = entries[-1].key
        if chunk.done:
            self.finished = True
            self.count = chunk.count if self._request.count_only else self._received
        return entries

    def check_ended(self) -> None:
        """Raise ServerError if the stream ended before its last chunk; a part must not pass for the whole."""
        if not self.finished:
            raise ServerError("UNEXPECTED_STATUS", "the server ended the scan before its last chunk")

    def resume_after(self, error: KvClientError) -> bool:
        """Prepare to go on after a failed call; False if the error has to be raised instead."""
        if not isinstance(error, Timeout) or not self._brought_something:
            return False
        self.resume()
        return True

    def resume(self) -> None:
        """Prepare to go on behind the last key received, at another node perhaps, which may have to come so far first."""
        if self._request.revision and self._epoch:
            self._request.session.CopyFrom(kv_pb2.SessionToken(epoch=self._epoch, revision=self._request.revision))
        if self._last_key is not None:
            self._skip_received(self._last_key)

    def _skip_received(self, last_key: bytes) -> None:
        """Narrow the request to what lies behind the last key received."""
        request = self._request
        if request.WhichOneof("keys") == "prefix":
            start, end = request.prefix, prefix_end(request.prefix)
        else:
            start, end = request.range.start, request.range.end
        if request.reverse:
            end = last_key
        else:
            start = last_key + b"\0"
        nothing_left = bool(end) and start >= end
        if nothing_left or (self._limit and self._received >= self._limit):
            self.finished = True
            self.count = self._received
            return
        if self._limit:
            request.limit = self._limit - self._received
        request.range.CopyFrom(kv_pb2.KeyRange(start=start, end=end))


def prefix_end(prefix: bytes) -> bytes:
    """Return the first key behind all keys that begin with a prefix; empty where there is none."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes((stem[-1] + 1,)) if stem else b""
