"""Scans: exact at their revision whatever is written meanwhile, in chunks, both ways, to the limit."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvserver.base.limits import SCAN_CHUNK_BYTES, SCAN_CHUNK_KEYS
from kvserver.base.types import Version
from kvserver.commit.state import State
from kvserver.engine.scan import Scan, ScanChunk, ScanOptions, order_keys
from kvserver.storage.memtable import MERGE_SLICE, Memtable
from kvserver.storage.ranges import EVERYTHING, KeySpan, prefix_span
from kvserver.storage.view import View
from kvserver.wal.commit_record import DELETE, Effect
from support.fake_log import EmptyTables


def table_of(count: int, value: bytes = b"v") -> tuple[Memtable, int]:
    """Return a table of so many keys in mixed order, and its newest revision."""
    keys = [b"%06d" % (number * 7919 % count) for number in range(count)]
    table = Memtable()
    table.put_run(1, keys, [value] * count, 2)
    return table, count + 1


def scan(table: Memtable, span: KeySpan, revision: int, options: ScanOptions) -> AsyncIterator[ScanChunk]:
    """Scan a store that is this one memtable."""
    view = View()
    view.active, view._above = table, [table]
    return Scan(State(view), EmptyTables(view), (1, span), revision, options, lambda: None).chunks()


async def collect(
    table: Memtable, span: KeySpan = EVERYTHING, revision: int = 1 << 40, **options: object
) -> tuple[list[Version], list[ScanChunk]]:
    """Return all versions and the chunks they came in."""
    chunks = [chunk async for chunk in scan(table, span, revision, ScanOptions(**options))]  # type: ignore[arg-type]
    assert [chunk.done for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert not any(chunk.more for chunk in chunks[:-1])
    return [version for chunk in chunks for version in chunk.versions], chunks


async def test_a_scan_yields_every_key_in_order() -> None:
    table, _ = table_of(500)
    found, chunks = await collect(table)
    assert [version.key for version in found] == [b"%06d" % number for number in range(500)]
    assert len(chunks) == 1
    assert chunks[0].count == 500


async def test_a_reverse_scan_yields_them_the_other_way_round() -> None:
    table, _ = table_of(2 * SCAN_CHUNK_KEYS + 10)
    forward, _ = await collect(table)
    backward, chunks = await collect(table, reverse=True)
    assert backward == forward[::-1]
    assert len(chunks) == 3


async def test_an_empty_scan_is_one_chunk_that_says_so() -> None:
    assert await collect(Memtable()) == ([], [ScanChunk([], 0, done=True)])


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(
    ("span", "first", "last"),
    [
        (KeySpan(b"000100", b"000200"), 100, 199),
        (KeySpan(b"000100", b""), 100, 499),
        (KeySpan(b"", b"000005"), 0, 4),
        (KeySpan(b"0000995", b"0001005"), 100, 100),
        (prefix_span(b"00012"), 120, 129),
    ],
)
async def test_a_scan_keeps_to_its_span(span: KeySpan, first: int, last: int, reverse: bool) -> None:
    table, _ = table_of(500)
    found, _ = await collect(table, span, reverse=reverse)
    wanted = [b"%06d" % number for number in range(first, last + 1)]
    assert [version.key for version in found] == (wanted[::-1] if reverse else wanted)


async def test_inverted_and_empty_spans_hold_nothing() -> None:
    table, _ = table_of(10)
    for span in (KeySpan(b"000005", b"000003"), KeySpan(b"000005", b"000005"), prefix_span(b"x")):
        assert (await collect(table, span))[0] == []


# Limits


@pytest.mark.parametrize("reverse", [False, True])
async def test_the_limit_ends_a_scan_and_says_whether_more_follows(reverse: bool) -> None:
    table, _ = table_of(10)
    for limit in range(1, 13):
        found, chunks = await collect(table, limit=limit, reverse=reverse)
        assert len(found) == chunks[-1].count == min(limit, 10)
        assert chunks[-1].more == (limit < 10)


async def test_more_counts_only_what_the_reader_would_see() -> None:
    table, revision = table_of(10)
    table.apply([Effect(DELETE, 1, b"%06d" % number, b"") for number in range(5, 10)], revision + 1)
    _, chunks = await collect(table, limit=5)
    assert not chunks[-1].more
    _, chunks = await collect(table, limit=5, revision=revision)
    assert chunks[-1].more


async def test_a_limit_at_the_end_of_a_chunk() -> None:
    table, _ = table_of(SCAN_CHUNK_KEYS + 1)
    for limit in (SCAN_CHUNK_KEYS - 1, SCAN_CHUNK_KEYS, SCAN_CHUNK_KEYS + 1, SCAN_CHUNK_KEYS + 2):
        found, chunks = await collect(table, limit=limit)
        assert len(found) == min(limit, SCAN_CHUNK_KEYS + 1)
        assert chunks[-1].more == (limit <= SCAN_CHUNK_KEYS)


# What is returned of a key


async def test_keys_only_leaves_the_values_out() -> None:
    table, _ = table_of(3, value=b"x" * 1000)
    found, _ = await collect(table, keys_only=True)
    assert [(version.key, version.value, version.version) for version in found] == [
        (b"%06d" % number, b"", 1) for number in range(3)
    ]


async def test_count_only_counts() -> None:
    table, revision = table_of(2 * SCAN_CHUNK_KEYS + 10)
    found, chunks = await collect(table, count_only=True)
    assert (found, len(chunks), chunks[-1].count) == ([], 1, 2 * SCAN_CHUNK_KEYS + 10)
    _, chunks = await collect(table, prefix_span(b"0000"), count_only=True, revision=revision - 5)
    assert chunks[-1].count == len([key for key in range(2 * SCAN_CHUNK_KEYS + 5) if (key * 7919 % 4010) < 100])
    _, chunks = await collect(table, count_only=True, limit=7)
    assert (chunks[-1].count, chunks[-1].more) == (7, True)


async def test_chunks_are_bounded_in_bytes() -> None:
    value = bytes(SCAN_CHUNK_BYTES // 4)
    table, _ = table_of(20, value)
    found, chunks = await collect(table)
    assert len(found) == 20
    assert all(sum(len(version.value) for version in chunk.versions) <= SCAN_CHUNK_BYTES + len(value) for chunk in chunks)
    assert len(chunks) >= 5
    _, chunks = await collect(table, keys_only=True)
    assert len(chunks) == 1


async def test_a_pair_larger_than_a_chunk_goes_through() -> None:
    table, _ = table_of(3, bytes(2 * SCAN_CHUNK_BYTES))
    found, chunks = await collect(table)
    assert (len(found), len(chunks)) == (3, 3)


async def test_stretches_of_deleted_keys_yield_no_empty_chunks() -> None:
    table, revision = table_of(3 * SCAN_CHUNK_KEYS)
    gone = [Effect(DELETE, 1, b"%06d" % number, b"") for number in range(3 * SCAN_CHUNK_KEYS - 1)]
    table.apply(gone, revision + 1)
    found, chunks = await collect(table)
    assert [version.key for version in found] == [b"%06d" % (3 * SCAN_CHUNK_KEYS - 1)]
    assert len(chunks) == 1


# At a past revision, and beside writers


async def test_a_scan_at_a_past_revision_sees_nothing_newer() -> None:
    table = Memtable()
    table.put_run(1, [b"a", b"b"], [b"1", b"1"], 2)
    table.apply([Effect(DELETE, 1, b"a", b"")], 4)
    table.put_run(1, [b"c", b"a"], [b"2", b"2"], 5)
    seen = {revision: [(v.key, v.value) for v in (await collect(table, revision=revision))[0]] for revision in range(1, 7)}
    assert seen == {
        1: [],
        2: [(b"a", b"1")],
        3: [(b"a", b"1"), (b"b", b"1")],
        4: [(b"b", b"1")],
        5: [(b"b", b"1"), (b"c", b"2")],
        6: [(b"a", b"2"), (b"b", b"1"), (b"c", b"2")],
    }


@pytest.mark.parametrize("reverse", [False, True])
async def test_what_is_written_between_two_chunks_is_not_seen(reverse: bool) -> None:
    count = 4 * SCAN_CHUNK_KEYS
    table, revision = table_of(count)
    newest = revision
    found: list[Version] = []
    async for chunk in scan(table, EVERYTHING, revision, ScanOptions(reverse=reverse)):
        found.extend(chunk.versions)
        keys = [b"%06d" % (number * 31 % count) + suffix for number in range(300) for suffix in (b"", b"-new", b"\0")]
        table.put_run(1, keys, [b"newer"] * len(keys), newest + 1)
        newest += len(keys) + 1
        table.apply([Effect(DELETE, 1, b"%06d" % (number * 17 % count), b"") for number in range(300)], newest)
        await order_keys([table], 1)  # as another scan does
    wanted = [b"%06d" % number for number in range(count)]
    assert [version.key for version in found] == (wanted[::-1] if reverse else wanted)
    assert {version.value for version in found} == {b"v"}


async def test_two_scans_at_once_order_the_keys_together() -> None:
    table, revision = table_of(3 * MERGE_SLICE)
    one, two = scan(table, EVERYTHING, revision, ScanOptions()), scan(table, EVERYTHING, revision, ScanOptions())
    counts = [0, 0]
    chunks = [await anext(one), await anext(two)]
    while not all(chunk.done for chunk in chunks):
        for index, walk in enumerate((one, two)):
            counts[index] += len(chunks[index].versions)
            chunks[index] = await anext(walk, ScanChunk([], 0, done=True))
    counts = [count + len(chunk.versions) for count, chunk in zip(counts, chunks, strict=True)]
    assert counts == [3 * MERGE_SLICE] * 2
    assert table.unordered(1) == 0


async def test_keys_are_ordered_in_slices_and_only_those_that_exist_at_the_begin() -> None:
    table, _ = table_of(2 * MERGE_SLICE + 1)
    ordering = order_keys([table], 1)
    left = []
    try:
        while True:
            ordering.send(None)
            left.append(table.unordered(1))
            if len(left) == 1:
                table.put_run(1, [b"late"], [b""], 10**6)
    except StopIteration:
        pass
    assert left == [MERGE_SLICE + 1, 2, 1]


keys = st.lists(st.sampled_from(b"ab\xff"), min_size=1, max_size=3).map(bytes)


@settings(deadline=None)
@given(
    st.lists(st.tuples(keys, st.one_of(st.none(), st.binary(max_size=2))), max_size=20),
    st.one_of(st.just(b""), keys),
    st.one_of(st.just(b""), keys),
    st.integers(0, 5),
    st.booleans(),
    st.integers(0, 25),
)
async def test_a_scan_is_what_a_sorted_dict_says(
    writes: list[tuple[bytes, bytes | None]], start: bytes, end: bytes, limit: int, reverse: bool, revision: int
) -> None:
    table = Memtable()
    rows: dict[bytes, bytes] = {}
    for number, (key, value) in enumerate(writes, start=2):
        if value is None:
            table.apply([Effect(DELETE, 1, key, b"")], number)
        else:
            table.put_run(1, [key], [value], number)
        if number <= revision:
            rows.pop(key, None)
            if value is not None:
                rows[key] = value
    wanted = sorted((key, value) for key, value in rows.items() if start <= key and (not end or key < end))
    if reverse:
        wanted.reverse()
    found, chunks = await collect(table, KeySpan(start, end), revision, limit=limit, reverse=reverse)
    assert [(version.key, version.value) for version in found] == (wanted[:limit] if limit else wanted)
    assert chunks[-1].more == (0 < limit < len(wanted))
