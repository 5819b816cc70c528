"""Scans that take longer than one call may, that are abandoned, or that end early."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvclient import AsyncClient, Client, Retry, ServerError, Timeout, Unavailable
from kvclient._scan import ScanCursor, prefix_end
from kvproto.v1 import kv_pb2
from support.fake_server import FakeServer, columns_of

KEYS = [b"k%02d" % number for number in range(12)]


@pytest.fixture
def slow(fake: FakeServer) -> FakeServer:
    """A server with twelve keys whose scans stop for ever after five of them."""
    for key in KEYS:
        fake.store.write_row("", key, b"v", fake.store.commit(0))
    fake.chunk_keys = 1
    fake.scan_stalls_after = 5
    return fake


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"prefix": b"k"}, KEYS),
        ({"start": b"k02", "end": b"k11", "reverse": True}, KEYS[10:1:-1]),
        ({"limit": 8}, KEYS[:8]),
    ],
)
async def test_a_long_scan_goes_on_where_it_was(
    connect: Any, slow: FakeServer, options: dict[str, Any], expected: list[bytes]
) -> None:
    kv = connect(slow.endpoint, timeout_s=0.4)
    assert [entry.key for entry in await kv.entries(**options)] == expected
    scans = [request for name, request in slow.requests if name == "Scan"]
    assert [scan.revision for scan in scans[:2]] == [0, 13], "all parts are read at one revision"


async def test_a_long_scan_shows_one_state(connect: Any, slow: FakeServer) -> None:
    kv = connect(slow.endpoint, timeout_s=0.4)
    scanning = asyncio.create_task(kv.entries())
    await asyncio.to_thread(slow.entered["Scan"].wait, 10)
    with slow.store.lock:
        for key in [*KEYS, b"k99"]:
            slow.store.write_row("", key, b"changed", slow.store.commit(0))
    assert {(entry.value, entry.version) for entry in await scanning} == {(b"v", 1)}


@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"limit": 10}, {"prefix": b"k0"}])
async def test_a_scan_whose_connection_breaks_goes_on_where_it_was(connect: Any, slow: FakeServer, options: Any) -> None:
    slow.scan_stalls_after = None
    kv = connect(slow.endpoint, retry=Retry(first_pause_s=0.005, max_pause_s=0.01))
    whole = await kv.entries(**options)
    slow.scan_breaks_after = 4
    slow.requests.clear()
    assert await kv.entries(**options) == whole
    first, second = (request for name, request in slow.requests if name == "Scan")
    assert (first.revision, second.revision) == (0, 13), "both parts are read at one revision"
    slow.scan_breaks_after = 0
    for _ in range(5):
        slow.abort_next("Scan", "UNAVAILABLE", "Socket closed")
    with pytest.raises(Unavailable, match="Socket closed"):
        await kv.entries(**options)


async def test_a_count_whose_connection_breaks_begins_anew(connect: Any, slow: FakeServer) -> None:
    kv = connect(slow.endpoint, retry=Retry(first_pause_s=0.005, max_pause_s=0.01))
    slow.abort_next("Scan", "UNAVAILABLE", "Socket closed")
    assert await kv.count() == 12


async def test_a_scan_that_brings_nothing_is_a_timeout(kv: Any, fake: FakeServer) -> None:
    release = fake.hold("Scan")
    for call in (kv.entries(timeout_s=0.1), kv.count(timeout_s=0.1)):
        with pytest.raises(Timeout):
            await call
    release.set()


async def test_an_abandoned_scan_is_cancelled(slow: FakeServer) -> None:
    async with AsyncClient(slow.endpoint) as kv:
        async for entry in kv.scan():
            assert entry.key == KEYS[0]
            break
        gc.collect()
        assert await asyncio.to_thread(slow.cancelled.wait, 5)
        stream = kv.scan()
        slow.cancelled.clear()
        await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]
        assert await asyncio.to_thread(slow.cancelled.wait, 5)


def test_an_abandoned_blocking_scan_is_cancelled(slow: FakeServer) -> None:
    with Client(slow.endpoint) as kv:
        for _ in kv.scan():
            break
        assert slow.cancelled.wait(5)


def test_a_cut_scan_does_not_pass_for_a_whole_one() -> None:
    cursor = ScanCursor(kv_pb2.ScanRequest())
    cursor.take(kv_pb2.ScanResponse(header=kv_pb2.ResponseHeader(revision=3), kvs=[kv_pb2.KeyValue(key=b"a")]))
    with pytest.raises(ServerError, match="before its last chunk"):
        cursor.check_ended()


async def test_entries_are_the_same_in_columns_and_one_by_one(kv: Any, fake: FakeServer) -> None:
    for number in range(7):
        await kv.put(b"k%d" % (number % 5), b"v%d" % number)
    in_columns = await kv.entries()
    assert fake.last("Scan").columnar
    fake.scan_in_columns = False
    assert await kv.entries() == in_columns, "from a server that does not know columns"
    assert in_columns[0] == (b"k0", b"v5", 2, 7, 2)


@pytest.mark.parametrize("column", ["keys", "values", "create_revisions", "mod_revisions", "versions"])
def test_columns_of_unequal_length_are_the_servers_fault(column: str) -> None:
    kvs = [kv_pb2.KeyValue(key=b"a", value=b"v", create_revision=1, mod_revision=2, version=1)] * 2
    chunk = kv_pb2.ScanResponse(columns=columns_of(kvs))
    getattr(chunk.columns, column).pop()
    with pytest.raises(ServerError, match="do not fit"):
        ScanCursor(kv_pb2.ScanRequest()).take(chunk)


async def test_a_stream_without_its_last_chunk_is_an_error(kv: Any, fake: FakeServer) -> None:
    fake.scan_is_cut = True
    for call in (kv.entries(), kv.count()):
        with pytest.raises(ServerError, match="before its last chunk"):
            await call


@pytest.mark.parametrize(
    ("request_", "last", "expected"),
    [
        (kv_pb2.ScanRequest(), b"b", (b"b\0", b"")),
        (kv_pb2.ScanRequest(prefix=b"b"), b"bz", (b"bz\0", b"c")),
        (kv_pb2.ScanRequest(prefix=b"\xff"), b"\xffa", (b"\xffa\0", b"")),
        (kv_pb2.ScanRequest(prefix=b"b", reverse=True), b"bz", (b"b", b"bz")),
        (kv_pb2.ScanRequest(range=kv_pb2.KeyRange(start=b"a", end=b"b\0"), reverse=False), b"b", None),
        (kv_pb2.ScanRequest(range=kv_pb2.KeyRange(start=b"a", end=b"c"), reverse=True), b"a", None),
    ],
)
def test_what_is_left_of_a_range(request_: kv_pb2.ScanRequest, last: bytes, expected: Any) -> None:
    cursor = ScanCursor(request_)
    cursor.take(kv_pb2.ScanResponse(header=kv_pb2.ResponseHeader(revision=7), kvs=[kv_pb2.KeyValue(key=last)]))
    assert cursor.resume_after(Timeout("DEADLINE", "late"))
    assert cursor.finished is (expected is None)
    if expected is not None:
        left = cursor.next_request()
        assert (left.range.start, left.range.end, left.revision) == (*expected, 7)
        assert not cursor.resume_after(Timeout("DEADLINE", "late")), "the second call brought nothing"


@given(st.binary(max_size=4), st.lists(st.binary(max_size=5)))
def test_prefix_end_bounds_exactly_the_prefix(prefix: bytes, keys: list[bytes]) -> None:
    end = prefix_end(prefix)
    for key in keys:
        assert key.startswith(prefix) == (prefix <= key and (not end or key < end))
