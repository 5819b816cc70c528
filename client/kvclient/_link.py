"""What both clients' connections are: the endpoints, the session, and the judgement of what a failed call means."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from kvclient import _errors as errors
from kvclient._channel import checked_timeout_s, grpc_timeout_s
from kvclient._endpoints import Endpoints
from kvclient._retry import Retry
from kvclient._session import SessionTracker
from kvclient._types import SessionToken

PROBE_S = 2.0
"""How long one of several endpoints may take to give a sign of life before the next one is asked."""


class Connected(NamedTuple):
    """A node that answered, and the calls that it takes, by service."""

    endpoint: str
    stubs: dict[str, Any]


class Link:
    """The state of a connection, without a word on how it is made."""

    def __init__(
        self, endpoints: str | Sequence[str], timeout_s: float, wait_for_ready: bool, session: SessionToken, retry: Retry
    ) -> None:
        self.endpoints = Endpoints(endpoints)
        self.session = SessionTracker(session)
        self.retry = retry
        self.wait_for_ready = wait_for_ready
        self.closed = False
        self.connected = Connected(self.endpoints.current, {})
        """The node spoken to; only behind ``connect``. To be read once for a call and what becomes of it."""
        self._timeout_s = checked_timeout_s(timeout_s)
        self._ready = False
        self._turning = threading.Lock()
        """Held for an instant; never while anything is waited for."""

    def limit_s(self, timeout_s: float | None) -> float:
        """Return how long a call may take."""
        return self._timeout_s if timeout_s is None else checked_timeout_s(timeout_s)

    def error_of(self, failure: errors.RpcFailure, endpoint: str, *, writes: bool) -> errors.KvClientError:
        """Return what a failed call means; if the node may be gone, the next call looks for a connection before it sends."""
        error = errors.from_rpc(failure, writes=writes, endpoint=endpoint)
        if not error.from_server or error.code == "NOT_SERVING":
            # One that was slow once is asked again first: another node may not have what this one has shown.
            self.leave(endpoint, turn=failure.code().name != "DEADLINE_EXCEEDED")
        return error

    def leave(self, endpoint: str, *, turn: bool) -> None:
        """Have the next call look for a connection first, at the next endpoint (``turn``) or at the same one."""
        with self._turning:
            if self._ready and endpoint == self.endpoints.current:
                self._ready = False
                if turn:
                    self.endpoints.turn()

    def _probe_options(self, deadline: float) -> dict[str, Any]:
        """Return how the current endpoint is asked for a sign of life: one of several is given up soon, and asked again later."""
        left_s = deadline - time.monotonic()
        if len(self.endpoints) == 1:
            return {"timeout": grpc_timeout_s(left_s), "wait_for_ready": self.wait_for_ready}
        return {"timeout": grpc_timeout_s(min(left_s, PROBE_S)), "wait_for_ready": False}

    def _next_round_s(self, tried: int, deadline: float) -> float | None:
        """Return how long to wait before all endpoints are tried once more, behind so many tries; None: no more.

        Without ``wait_for_ready`` each is tried once.
        """
        if not self.wait_for_ready or time.monotonic() >= deadline:
            return None
        rounds, place = divmod(tried, len(self.endpoints))
        return self.retry.pause_s(rounds) if place == 0 else 0.0
