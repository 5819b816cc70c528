"""Rows: what is encoded comes back, and the order of the bytes is the order that reading relies on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.base.types import Epoch, Position, Version
from kvserver.storage import rows
from kvserver.storage.rows import Flushed, Statistics, Stored

# Few different bytes, those that escaping is about among them, so that keys are often alike or each other's beginning.
keys = st.lists(st.sampled_from([0, 1, 0x61, 0xFF]), max_size=6).map(bytes)
namespaces = st.integers(0, 2**32 - 2)
numbers = st.integers(0, 2**64 - 1)
small = st.integers(0, 3)


@given(numbers, numbers, numbers, st.binary(max_size=10))
def test_versions_come_back(mod_revision: int, create_revision: int, version: int, value: bytes) -> None:
    stored = rows.decode_version(rows.encode_version(mod_revision, create_revision, version, value))
    assert stored == Stored(mod_revision, create_revision, version, value)
    assert stored.of(b"k") == Version(b"k", value, create_revision, mod_revision, version)


@pytest.mark.parametrize("row", [b"", bytes(24), b"\1" + bytes(24), b"\x80" + bytes(40)])
def test_what_is_no_version_is_refused(row: bytes) -> None:
    with pytest.raises(ValueError, match="a row"):
        rows.decode_version(row)


@given(namespaces, keys)
def test_the_key_of_a_data_row_comes_back(namespace: int, key: bytes) -> None:
    row_key = rows.data_key(namespace, key)
    assert rows.key_of(row_key) == key
    assert row_key == rows.data_prefix(namespace) + key


@given(st.tuples(small, keys), st.tuples(small, keys))
def test_data_rows_are_in_the_order_of_namespace_and_key(left: tuple[int, bytes], right: tuple[int, bytes]) -> None:
    assert (rows.data_key(*left) < rows.data_key(*right)) == (left < right)


@given(small, keys, keys, small, keys)
def test_a_span_holds_exactly_the_keys_between_its_ends(namespace: int, start: bytes, end: bytes, other: int, key: bytes) -> None:
    low, high = rows.data_span(namespace, start, end)
    inside = namespace == other and start <= key and (not end or key < end)
    assert (low <= rows.data_key(other, key) < high) == inside


@given(keys)
def test_escaping_is_undone(key: bytes) -> None:
    assert rows.unescape(rows.escape(key)) == key


@given(keys, keys)
def test_escaping_keeps_the_order_and_makes_no_key_the_beginning_of_another(left: bytes, right: bytes) -> None:
    assert (rows.escape(left) < rows.escape(right)) == (left < right)
    assert rows.escape(left).startswith(rows.escape(right)) == (left == right)


history_keys = st.tuples(small, small, keys, small)


@given(numbers, namespaces, keys, numbers)
def test_the_parts_of_a_history_key_come_back(bucket: int, namespace: int, key: bytes, superseded_at: int) -> None:
    row_key = rows.history_key(bucket, namespace, key, superseded_at)
    assert rows.parse_history_key(row_key) == (bucket, namespace, key, superseded_at)
    assert row_key.startswith(rows.history_prefix(bucket, namespace))
    assert row_key.startswith(rows.bucket_prefix(bucket))


@given(history_keys, history_keys)
def test_history_rows_are_in_the_order_of_their_parts(
    left: tuple[int, int, bytes, int], right: tuple[int, int, bytes, int]
) -> None:
    assert (rows.history_key(*left) < rows.history_key(*right)) == (left < right)


@given(history_keys, small)
def test_one_deletion_removes_exactly_the_buckets_before_one(parts: tuple[int, int, bytes, int], bucket: int) -> None:
    within = rows.bucket_prefix(0) <= rows.history_key(*parts) < rows.bucket_prefix(bucket)
    assert within == (parts[0] < bucket)


def test_the_kinds_of_rows_lie_apart_in_the_order_in_which_a_flush_writes_them() -> None:
    top = 2**32 - 2
    in_order = [
        rows.data_key(0, b""),
        rows.data_key(top, b"\xff" * 100),
        rows.history_key(0, 0, b"", 0),
        rows.history_key(2**64 - 1, top, b"\xff" * 100, 2**64 - 1),
        rows.FLUSHED_KEY,
        rows.statistics_key(0),
        rows.statistics_key(top),
        rows.time_key(0),
        rows.time_key(2**64 - 1),
    ]
    assert in_order == sorted(in_order)


@given(numbers, numbers, numbers)
def test_statistics_come_back(count: int, key_bytes: int, value_bytes: int) -> None:
    statistics = Statistics(count, key_bytes, value_bytes)
    assert rows.decode_statistics(rows.encode_statistics(statistics)) == statistics


@given(numbers, numbers)
def test_times_come_back(revision: int, time_ms: int) -> None:
    assert rows.decode_time(rows.time_key(revision), rows.encode_time(time_ms)) == (revision, time_ms)


@given(st.binary(min_size=16, max_size=16), numbers, numbers, numbers, st.binary(min_size=16, max_size=16), numbers, numbers)
def test_the_flushed_position_comes_back(
    cluster_id: bytes, epoch: int, nonce: int, revision: int, chain: bytes, time_ms: int, bucket_revisions: int
) -> None:
    flushed = Flushed(cluster_id, Position(Epoch(epoch, nonce), revision, chain), time_ms, bucket_revisions)
    row = rows.encode_flushed(flushed)
    assert rows.decode_flushed(row) == flushed
    for damaged in (row[:-1], row + b"\0", b"\2" + row[1:], b""):
        with pytest.raises(ValueError, match="not of a known form"):
            rows.decode_flushed(damaged)
