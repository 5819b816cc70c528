"""Reading archived segments: all of what was written comes back, and every damage is found where it lies."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from kvserver.archive.segment_format import HEADER_LENGTH
from kvserver.archive.segment_reading import (
    check_segment,
    frame_headers,
    open_segment,
    raw_blocks_parallel,
    write_raw,
)
from kvserver.archive.store import ObjectMissing, StoreUnavailable
from kvserver.base.coding import crc32c
from kvserver.base.errors import Corruption
from kvserver.base.fs import read_file
from kvserver.base.limits import MAX_LOG_FRAME_BYTES, MIB
from kvserver.wal import format as fmt
from support.archived import BLOCK, LARGER, SMALL, Archived, no_dictionaries
from support.fault_store import FaultStore, StoreFault, vanishing
from support.memfs import MemoryFileSystem
from support.memory_store import MemoryStore
from support.segments import NAMES, RawSegment, in_pieces

# What was written comes back


@pytest.mark.parametrize("segment", [SMALL, LARGER, RawSegment().seal()], ids=["small", "larger", "empty"])
@pytest.mark.parametrize("block_bytes", [BLOCK, 5000, 1 * MIB])
def test_a_segment_comes_back_as_it_was(segment: RawSegment, block_bytes: int) -> None:
    archived = Archived(segment, block_bytes=block_bytes)
    opened = open_segment(archived.store, NAMES, archived.entry, no_dictionaries)
    assert b"".join(opened.raw_blocks()) == segment.data
    assert b"".join(map(opened.block, range(len(opened.blocks)))) == segment.data
    facts = archived.check()
    assert (facts.header, facts.end, facts.raw_length) == (segment.header, segment.end, len(segment.data))
    assert (facts.raw_crc, facts.groups) == (crc32c(0, segment.data), segment.groups)


def test_the_largest_frames_come_back() -> None:
    segment = RawSegment().add(payload=bytes(MAX_LOG_FRAME_BYTES)).add(payload=b"x" * MAX_LOG_FRAME_BYTES).seal()
    archived = Archived(segment, block_bytes=1 * MIB)
    assert archived.check().end == segment.end


def test_the_headers_of_all_groups_come_in_order() -> None:
    archived = Archived(LARGER)
    headers = list(frame_headers(archived.store, NAMES, archived.entry, no_dictionaries))
    wanted = [fmt.parse_frame_header(LARGER.data, offset) for offset in LARGER.offsets]
    assert headers == [header for header in wanted if header is not None and header.kind == fmt.GROUP]


def test_the_raw_segment_is_written_into_a_file() -> None:
    archived = Archived(LARGER)
    fs, path = MemoryFileSystem(), Path("/wal/segment")
    fs.make_dir(path.parent)
    file = fs.create(path)
    assert write_raw(archived.store, NAMES, archived.entry, no_dictionaries, file) == archived.check()
    assert read_file(fs, path) == LARGER.data


def test_a_block_that_does_not_check_is_not_written() -> None:
    archived = Archived(LARGER)
    _, blocks, _, _ = archived.parts()
    at = HEADER_LENGTH + len(blocks[0]) + 5
    archived.put(archived.data[:at] + bytes([archived.data[at] ^ 1]) + archived.data[at + 1 :])
    fs, path = MemoryFileSystem(), Path("/wal/segment")
    fs.make_dir(path.parent)
    file = fs.create(path)
    with pytest.raises(Corruption, match="the checksum of block 1"):
        write_raw(archived.store, NAMES, archived.entry, no_dictionaries, file)
    assert read_file(fs, path) == LARGER.data[:BLOCK]


class Dribbling(MemoryStore):
    """Streams in pieces of one byte."""

    def stream(self, name: str, offset: int = 0) -> Iterator[bytes]:
        yield from in_pieces(self.read(name, offset), 1)


def test_a_stream_may_come_in_pieces_of_any_size() -> None:
    store = Dribbling()
    entry = LARGER.archive(store, block_bytes=BLOCK)
    assert check_segment(store, NAMES, entry, no_dictionaries).end == LARGER.end


def test_one_block_is_read_without_the_others() -> None:
    archived = Archived(LARGER)
    opened = open_segment(archived.store, NAMES, archived.entry, no_dictionaries)
    begin, end = opened.offsets[2], opened.offsets[3]
    archived.put(archived.data[:begin].translate(bytes(256)) + archived.data[begin:end])
    assert opened.block(2) == LARGER.data[2 * BLOCK : 3 * BLOCK]
    with pytest.raises(Corruption, match="the checksum of block 1"):
        opened.block(1)
    with pytest.raises(Corruption, match="the checksum of block 3"):
        opened.block(3)


# Damage


@pytest.mark.parametrize("segment", [SMALL, RawSegment().seal()], ids=["small", "empty"])
def test_every_flipped_bit_is_found(segment: RawSegment) -> None:
    archived = Archived(segment)
    for at in range(len(archived.data)):
        for bit in range(8):
            archived.put(archived.data[:at] + bytes([archived.data[at] ^ (1 << bit)]) + archived.data[at + 1 :]).refusal()


def test_an_object_that_is_cut_off_while_it_is_read_is_refused() -> None:
    archived = Archived(LARGER)
    opened = open_segment(archived.store, NAMES, archived.entry, no_dictionaries)
    archived.put(archived.data[: opened.offsets[2] + 9])
    blocks = opened.raw_blocks()
    assert next(blocks) + next(blocks) == LARGER.data[: 2 * BLOCK]
    with pytest.raises(Corruption, match="the object ends in the middle of block 2") as refused:
        next(blocks)
    assert refused.value.offset == opened.offsets[2] + 9


def test_every_truncation_is_found() -> None:
    archived = Archived(SMALL)
    for length in range(len(archived.data)):
        archived.put(archived.data[:length]).refusal()


@pytest.mark.parametrize("behind", [b"\0", b"x" * 5000, "again"])
def test_nothing_may_follow_the_object(behind: bytes | str) -> None:
    archived = Archived()
    more = archived.data if isinstance(behind, str) else behind
    error = archived.put(archived.data + more).refusal()
    assert (error.offset, "goes on where it must end" in error.what) == (archived.entry.stored_length, True)


@pytest.mark.parametrize("data", [b"", b"K", b"x" * 10_000, bytes(10_000), b"\x28\xb5\x2f\xfd" + bytes(500)])
def test_what_is_no_archived_segment_is_refused(data: bytes) -> None:
    assert Archived().put(data).refusal().offset == 0


def test_a_raw_segment_under_the_name_is_refused() -> None:
    assert "does not begin as an archived segment" in Archived().put(LARGER.data).refusal().what


def test_a_missing_object_is_named() -> None:
    archived = Archived()
    archived.store.objects.clear()
    with pytest.raises(ObjectMissing, match=archived.name):
        archived.check()


# Many threads


def test_a_pool_brings_the_same_blocks_in_order() -> None:
    archived = Archived(LARGER)
    with ThreadPoolExecutor(3) as pool:
        for ahead in (0, 1, 2, 50):
            opened = open_segment(archived.store, NAMES, archived.entry, no_dictionaries)
            assert b"".join(raw_blocks_parallel(opened, pool, ahead)) == LARGER.data
        assert check_segment(archived.store, NAMES, archived.entry, no_dictionaries, pool) == archived.check()


class Counting(Executor):
    """Runs a job when its result is asked for, and counts what waits."""

    def __init__(self) -> None:
        self.futures: list[Future[Any]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        self.futures.append(future)
        return future


def test_the_pool_is_used_by_whoever_is_given_one() -> None:
    archived, fs = Archived(LARGER), MemoryFileSystem()
    fs.make_dir(Path("/wal"))
    pools = Counting(), Counting()
    check_segment(archived.store, NAMES, archived.entry, no_dictionaries, pools[0])
    write_raw(archived.store, NAMES, archived.entry, no_dictionaries, fs.create(Path("/wal/segment")), pools[1])
    assert [len(pool.futures) for pool in pools] == [5, 5]


class Handing(Dribbling):
    """Keeps the streams that it hands out."""

    def __init__(self) -> None:
        super().__init__()
        self.streams: list[Iterator[bytes]] = []

    def stream(self, name: str, offset: int = 0) -> Iterator[bytes]:
        self.streams.append(super().stream(name, offset))
        return self.streams[-1]


@pytest.mark.parametrize("taken", [1, 5])
def test_a_stream_is_closed_as_soon_as_it_is_not_needed(taken: int) -> None:
    store = Handing()
    entry = LARGER.archive(store, block_bytes=BLOCK)
    blocks = open_segment(store, NAMES, entry, no_dictionaries).stored_blocks()
    for _ in range(taken):
        next(blocks)
    blocks.close()  # type: ignore[attr-defined]
    assert list(store.streams[0]) == []


def test_no_more_blocks_are_decompressed_ahead_than_was_said() -> None:
    archived, pool = Archived(LARGER), Counting()
    blocks = raw_blocks_parallel(open_segment(archived.store, NAMES, archived.entry, no_dictionaries), pool, 2)
    for taken in range(1, 4):
        next(blocks)
        assert len(pool.futures) == taken + 2


def test_damage_comes_out_of_a_pool_at_its_place() -> None:
    archived = Archived(LARGER)
    opened = open_segment(archived.store, NAMES, archived.entry, no_dictionaries)
    at = opened.offsets[2] + 3
    archived.put(archived.data[:at] + bytes([archived.data[at] ^ 1]) + archived.data[at + 1 :])
    with ThreadPoolExecutor(3) as pool:
        blocks = raw_blocks_parallel(opened, pool, 4)
        assert [next(blocks), next(blocks)] == [LARGER.data[:BLOCK], LARGER.data[BLOCK : 2 * BLOCK]]
        with pytest.raises(Corruption, match="the checksum of block 2"):
            next(blocks)


def test_many_threads_may_read_blocks_of_one_segment() -> None:
    archived = Archived(LARGER)
    opened = open_segment(archived.store, NAMES, archived.entry, no_dictionaries)
    with ThreadPoolExecutor(4) as pool:
        numbers = list(range(len(opened.blocks))) * 20
        assert list(pool.map(opened.block, numbers)) == [LARGER.data[n * BLOCK : (n + 1) * BLOCK] for n in numbers]


# A store that goes away


def test_a_store_that_vanishes_in_the_middle_is_told_from_damage() -> None:
    inner = Dribbling()
    entry = LARGER.archive(inner, block_bytes=BLOCK)
    for fault in (StoreFault(at=1), StoreFault(at=2), StoreFault(at=3), vanishing(0), vanishing(700)):
        store = FaultStore(inner, [fault])
        with pytest.raises(StoreUnavailable):
            check_segment(store, NAMES, entry, no_dictionaries)
        assert store.fired == 1


def test_memory_does_not_grow_with_the_segment() -> None:
    peaks = []
    for frames in (2, 6):
        segment = RawSegment()
        for _ in range(frames):
            segment.add(payload=bytes(MAX_LOG_FRAME_BYTES))
        archived = Archived(segment.seal(), block_bytes=1 * MIB)
        tracemalloc.start()
        archived.check()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 1 * MIB
