"""What both clients' connections are: the endpoints, the session, and the judgement of what a failed call means."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from kvclient import _errors as errors
from kvclient._channel import checked_timeout_s, grpc_timeout_s
from kvclient._endpoints import Endpoints
from kvclient._retry import Retry
from kvclient._search import Search, Seek
from kvclient._session import SessionTracker
from kvclient._types import SessionToken
from kvproto.v1 import cluster_pb2, errors_pb2, kv_pb2

PROBE_S = 2.0
"""How long one of several endpoints may take to give a sign of life before the next one is asked."""


AVOID_S = 1.0
"""How long a node is passed over that was not fresh enough, or answered under an epoch that is over."""

SETTLE_S = 5.0
"""How long a second choice is kept before a better one is looked for."""

LEAVE_S = 2.0
"""How long a stream that is given up waits for the answers to what was sent on it."""


_SENDS_ON = (errors_pb2.NOT_PRIMARY, errors_pb2.FENCED, errors_pb2.STALE, errors_pb2.HISTORY_LOST)


class Connected(NamedTuple):
    """A node that answered, and the calls that it takes, by service."""

    endpoint: str
    stubs: dict[str, Any]


class Link:
    """The state of a connection, without a word on how it is made."""

    def __init__(
        self,
        endpoints: str | Sequence[str],
        timeout_s: float,
        wait_for_ready: bool,
        session: SessionToken | SessionTracker,
        retry: Retry,
        seek: Seek = Seek.NODE,
    ) -> None:
        self.endpoints = Endpoints(endpoints)
        if seek in (Seek.FOLLOWERS, Seek.ANY):  # clients spread over the nodes
            self.endpoints.begin_at(random.randrange(len(self.endpoints)))
        self.session = session if isinstance(session, SessionTracker) else SessionTracker(session)
        self.retry = retry
        self.wait_for_ready = wait_for_ready
        self.seek = seek
        self.closed = False
        self.connected = Connected(self.endpoints.current, {})
        """The node spoken to; only behind ``connect``. To be read once for a call and what becomes of it."""
        self.trouble: errors.KvClientError | None = None
        """Why there is no connection, where nodes were met and none of them is the primary."""
        self._timeout_s = checked_timeout_s(timeout_s)
        self._ready = False
        self._avoided: dict[str, float] = {}
        self._settled_until_s = math.inf
        self._turning = threading.Lock()
        """Held for an instant; never while anything is waited for."""

    def limit_s(self, timeout_s: float | None) -> float:
        """Return how long a call may take."""
        return self._timeout_s if timeout_s is None else checked_timeout_s(timeout_s)

    def error_of(self, failure: errors.RpcFailure, endpoint: str, *, writes: bool) -> errors.KvClientError:
        """Return what a failed call means; if the node may be gone, the next call looks for a connection before it sends."""
        error = errors.from_rpc(failure, writes=writes, endpoint=endpoint)
        if self.leaves_for(error, endpoint):
            return error
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

    # -- the right node -------------------------------------------------------------------------------------------

    def leaves_for(self, error: errors.KvClientError, endpoint: str) -> bool:
        """Say whether an error of a node sends its callers elsewhere; then the next call looks for another node first."""
        if self.seek is Seek.NODE or not error.from_server:
            return False
        if error.code == "NOT_PRIMARY" and self.seek is Seek.PRIMARY:
            self.trouble = error
            self._leave_with(endpoint, lambda: self._turn_to(error.details.get("primary", "")))
            return True
        if error.code in ("STALE", "FENCED") or errors.is_behind(error):
            self.avoid(endpoint)
            return True
        return False

    def leaves_after(self, answer: kv_pb2.PipelineResponse, endpoint: str) -> bool:
        """Say the same of the answer to a frame."""
        if not answer.failures:
            return False
        for failure in answer.failures:
            if failure.code in _SENDS_ON:
                return self.leaves_for(errors.from_failure(failure, writes=False), endpoint)
        return False

    def avoid(self, endpoint: str) -> None:
        """Have the next call look for another node; this one is passed over for a while."""
        self._avoided[endpoint] = time.monotonic() + AVOID_S
        self._leave_with(endpoint, self.endpoints.turn)

    def admit_answer(self, answer: Any, endpoint: str, deadline: float, *, writes: bool) -> None:
        """Take in what came of a call that did not fail. Raises as ``admit`` does, and where the answer is none.

        None is what both gRPC stacks bring of a call that ended in the very moment of its deadline, or of bytes that are no
        message.
        """
        if answer is None:
            raise errors.unreadable(endpoint, in_time=time.monotonic() < deadline, writes=writes)
        self.admit(answer.header, endpoint, writes=writes)

    def admit(self, header: kv_pb2.ResponseHeader, endpoint: str, *, writes: bool) -> None:
        """Take in an answer's header. Raises Fenced or OutcomeUnknown for one of a lower epoch than the highest seen."""
        self.trouble = None
        if self.seek is Seek.NODE:
            self.session.observe(header)
        elif not self.session.admit(header):
            self.avoid(endpoint)
            raise errors.lower_epoch(endpoint, header.epoch, self.session.token.epoch, writes=writes)

    @property
    def looks_again(self) -> bool:
        """Whether what is spoken to is a second choice, and it is time to look for a better one."""
        if time.monotonic() < self._settled_until_s:
            return False
        self._settled_until_s = math.inf
        self.leave(self.connected.endpoint, turn=True)
        return True

    def nobody(self) -> errors.KvClientError | None:
        """Return an error of its own for one of those who wait for a primary, where that is why there is no connection."""
        trouble = self.trouble
        return None if trouble is None else errors.again(trouble)

    def _leave_with(self, endpoint: str, turn: Callable[[], object]) -> None:
        with self._turning:
            if self._ready and endpoint == self.endpoints.current:
                self._ready = False
                turn()

    def _turn_to(self, address: str) -> None:
        if not address or address == self.endpoints.current or not self.endpoints.go_to(address):
            self.endpoints.turn()

    def _begin_search(self) -> Search:
        now = time.monotonic()
        self._avoided = {name: until for name, until in self._avoided.items() if until > now}
        return Search(self.endpoints, self.seek, frozenset(self._avoided))

    def _found(self, search: Search) -> None:
        """Note that a search has ended well."""
        self._settled_until_s = time.monotonic() + SETTLE_S if search.settled else math.inf

    def _pause_behind(self, search: Search, error: errors.KvClientError, deadline: float) -> float:
        """Return how long to wait before the next probe, at most until the deadline. Raises the error where there is none."""
        pause = search.next_round(self.wait_for_ready)
        left_s = deadline - time.monotonic()
        self.trouble = (search.nobody() or self.trouble) if pause is not None else None
        if pause is None or left_s <= 0 or self.closed:
            raise self.nobody() or error
        return min(self.retry.pause_s(search.rounds), left_s) if pause else 0.0

    # -- probes ---------------------------------------------------------------------------------------------------

    def _probe_options(self, deadline: float) -> dict[str, Any]:
        """Return how the current endpoint is asked for a sign of life: one of several is given up soon, and asked again later."""
        left_s = deadline - time.monotonic()
        if len(self.endpoints) == 1:
            return {"timeout": grpc_timeout_s(left_s), "wait_for_ready": self.wait_for_ready}
        return {"timeout": grpc_timeout_s(min(left_s, PROBE_S)), "wait_for_ready": False}


WHO_IS_PRIMARY = cluster_pb2.ClusterStatusRequest(only_self=True)
"""Asks a node that is not the primary."""


def primary_known_to(answer: Any) -> str:
    """Return whom a node holds for the primary; empty where it does not know."""
    return str(answer.nodes[0].described.primary) if answer is not None and answer.nodes else ""
