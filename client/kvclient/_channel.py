"""How a client's connection is set up: the address, the channel's options, the limits of time."""

from __future__ import annotations

import math

MIB = 1024 * 1024

MAX_REQUEST_BYTES = 4 * MIB
"""The largest message that a server takes; larger ones are refused here, before anything is sent."""

DEFAULT_TIMEOUT_S = 5.0
"""How long a call may take unless the caller says otherwise, in seconds."""

LONG_TIMEOUT_S = 300.0
"""The same for what writes or copies tables: a flush, a checkpoint."""

HEALTH_METHOD = "/grpc.health.v1.Health/Check"
"""The probe that is sent on a new connection before anything else; any answer proves that there is a connection."""

CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    # A dead peer is noticed within 40 s, also between calls. The server must admit pings at this pace, or it hangs up.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_send_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_receive_message_length", 2 * MAX_REQUEST_BYTES),
    # A write is never sent twice behind the caller's back.
    ("grpc.enable_retries", 0),
    # A server that was away is found again within two seconds.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # Each client has a connection of its own, and a proxy for web pages is no way to a data store.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
"""Options of every channel, blocking or not."""


def parse_endpoint(endpoint: str) -> tuple[str, int]:
    """Split ``HOST:PORT`` (an IPv6 host in brackets); raise ValueError for anything else."""
    host, separator, port = endpoint.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    usable = separator and host and "/" not in host and (bracketed or ":" not in host)
    if not usable or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"not an endpoint of the form HOST:PORT: {endpoint!r}")
    return host, int(port)


def target(endpoint: str) -> str:
    """Return the name under which gRPC finds an endpoint; raise ValueError if it is none.

    The scheme is always named: a host called ``unix`` would otherwise be taken for one.
    """
    host, port = parse_endpoint(endpoint)
    return f"dns:///{host}:{port}"


def checked_timeout_s(timeout_s: float) -> float:
    """Return a limit of time as it was given; raise ValueError unless it is above 0 (infinity is allowed)."""
    if math.isnan(timeout_s) or timeout_s <= 0:
        raise ValueError(f"timeout_s must be above 0, not {timeout_s!r}")
    return float(timeout_s)


_MOST_S = 100_000_000.0


def grpc_timeout_s(remaining_s: float) -> float | None:
    """Return what gRPC is told: None for no limit (or one beyond what it can count), and never less than a millisecond."""
    return None if remaining_s > _MOST_S else max(remaining_s, 0.001)
