"""What client and server must agree on without importing each other."""

from __future__ import annotations

from kvclient import _channel, _errors, _frames, _joiner, bulk
from kvctl import loading
from kvserver.base import limits
from kvserver.service import status
from kvserver.transport import frame_stream, grpc_aio

CLIENT = dict(_channel.CHANNEL_OPTIONS)
SERVER = dict(grpc_aio.OPTIONS)


def test_the_server_admits_the_clients_pings() -> None:
    assert SERVER["grpc.http2.min_recv_ping_interval_without_data_ms"] < CLIENT["grpc.keepalive_time_ms"]
    assert CLIENT["grpc.keepalive_permit_without_calls"] == SERVER["grpc.keepalive_permit_without_calls"] == 1
    assert 20_000 <= CLIENT["grpc.keepalive_time_ms"] <= 60_000


def test_sizes_of_messages_and_frames() -> None:
    assert limits.MAX_MESSAGE_BYTES == _channel.MAX_REQUEST_BYTES == CLIENT["grpc.max_send_message_length"]
    assert CLIENT["grpc.max_receive_message_length"] > SERVER["grpc.max_send_message_length"]
    assert limits.MAX_FRAME_OPERATIONS == bulk.MAX_FRAME_OPERATIONS >= loading.MAX_FRAME_PUTS
    largest_put = limits.MAX_KEY_BYTES + limits.MAX_VALUE_BYTES
    assert loading.MAX_FRAME_BYTES + largest_put < limits.MAX_MESSAGE_BYTES


def test_the_frames_of_joined_callers_fit_what_a_server_takes() -> None:
    assert _joiner.MAX_FRAME_OPERATIONS <= limits.MAX_FRAME_OPERATIONS
    assert _joiner.MAX_FRAME_BYTES + _joiner.MIN_ROOM_BYTES <= limits.MAX_MESSAGE_BYTES
    largest_put = limits.MAX_KEY_BYTES + limits.MAX_VALUE_BYTES + _frames.OPERATION_BYTES
    assert largest_put + _joiner.MIN_ROOM_BYTES <= limits.MAX_MESSAGE_BYTES
    assert _joiner.MAX_FRAMES <= frame_stream.MAX_FRAMES, "or the server would not even read them"
    assert _joiner.MIN_ROOM_BYTES > limits.MAX_NAMESPACE_NAME_BYTES


def test_where_the_details_of_errors_travel() -> None:
    assert (status.DETAILS_KEY, status.DOMAIN) == (_errors.DETAILS_KEY, _errors.ERROR_DOMAIN)


def test_writes_are_never_repeated_by_the_transport() -> None:
    assert CLIENT["grpc.enable_retries"] == 0
