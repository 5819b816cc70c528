"""Remembers the highest position that a client has seen, so that its reads never go behind its own writes."""

from __future__ import annotations

import threading

from kvclient._types import NO_SESSION, SessionToken
from kvproto.v1 import kv_pb2


class SessionTracker:
    """Holds the highest (epoch, revision) seen in the headers of answers; safe for many threads."""

    def __init__(self, start: SessionToken = NO_SESSION) -> None:
        self._lock = threading.Lock()
        self._token = SessionToken(*start)

    @property
    def token(self) -> SessionToken:
        """Return the highest position seen so far."""
        return self._token

    def observe(self, header: kv_pb2.ResponseHeader) -> None:
        """Take in an answer's header; a lower position than the highest one changes nothing."""
        seen = SessionToken(header.epoch, header.revision)
        with self._lock:  # comparing and setting are one step, or two threads could move the token back
            if seen > self._token:
                self._token = seen

    def admit(self, header: kv_pb2.ResponseHeader) -> bool:
        """Take in an answer's header; return False for one of a lower epoch than the highest seen, which shows nothing."""
        if header.epoch < self._token.epoch:
            return False
        self.observe(header)
        return True

    def forget(self) -> None:
        """Begin anew, as a client that has seen nothing."""
        with self._lock:
            self._token = NO_SESSION
