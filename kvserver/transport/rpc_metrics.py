"""What is counted about calls: plain integers that the event loop raises and whoever is asked for metrics reads.

Names and labels are those of go-grpc-middleware, whose dashboards and alerts are everywhere.
"""

from __future__ import annotations

from bisect import bisect_left

from kvserver.service.status import Canonical

BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the buckets in which handling times are counted, in seconds; one more for what is above."""

UNARY = "unary"
SERVER_STREAM = "server_stream"
BIDI_STREAM = "bidi_stream"


class MethodStats:
    """The counters of one method."""

    __slots__ = ("buckets", "handled", "kind", "method", "received", "seconds", "sent", "service", "started")

    def __init__(self, service: str, method: str, kind: str) -> None:
        self.service = service
        self.method = method
        self.kind = kind
        self.started = 0
        self.received = 0
        self.sent = 0
        self.handled: dict[int, int] = {}
        """Calls ended, by canonical status."""
        self.buckets = [0] * (len(BUCKETS_S) + 1)
        self.seconds = 0.0

    def end(self, code: int, seconds: float) -> None:
        """Count a call that ended with a status after so many seconds."""
        self.handled[code] = self.handled.get(code, 0) + 1
        self.buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self.seconds += seconds


def label_of(code: int) -> str:
    """Return a status as the label ``grpc_code`` writes it, such as ``InvalidArgument``."""
    name = Canonical(code).name
    if name == "OK":
        return name
    if name == "CANCELLED":
        return "Canceled"
    return "".join(part.capitalize() for part in name.split("_"))
