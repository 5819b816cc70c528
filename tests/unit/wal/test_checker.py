"""A sealed segment pushed through the checker: whole or not at all, in whatever pieces it comes."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.base.coding import crc32c
from kvserver.base.errors import Corruption
from kvserver.base.limits import KIB, MAX_LOG_FRAME_BYTES, MIB
from kvserver.base.types import Epoch, Position
from kvserver.wal import format as fmt
from kvserver.wal.checker import MAX_FRAME_LENGTH, SegmentChecker, SegmentFacts
from kvserver.wal.reader import End, SegmentReader
from support.logs import CREATION, EPOCH, SmallLog
from support.memfs import MemoryFileSystem
from support.segments import HEADER, RawSegment, in_pieces

SMALL = RawSegment().put("a", "b", time_ms=1500).mark().put("c", value=b"12345").seal()
PROVEN = pytest.mark.parametrize("prove_chain", [True, False], ids=["proven", "trusted"])


def check(data: bytes, prove_chain: bool = True, piece: int = 1 << 20) -> SegmentFacts:
    checker = SegmentChecker("segment", prove_chain)
    for part in in_pieces(data, piece):
        checker.feed(part)
    return checker.finish()


def refusal(data: bytes, prove_chain: bool = True, piece: int = 1 << 20) -> Corruption:
    with pytest.raises(Corruption) as refused:
        check(data, prove_chain, piece)
    assert refused.value.path == "segment"
    return refused.value


def flip(data: bytes, at: int, bits: int = 1) -> bytes:
    return data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :]


@PROVEN
@pytest.mark.parametrize("piece", [1, 7, 71, 72, 73, 4095, 4096, 4097, 1 << 20])
def test_the_facts_are_the_same_in_whatever_pieces_it_comes(piece: int, prove_chain: bool) -> None:
    assert check(SMALL.data, prove_chain, piece) == SegmentFacts(
        header=HEADER,
        start=Position(EPOCH, 1, HEADER.start_chain()),
        end=SMALL.end,
        groups=2,
        raw_length=len(SMALL.data),
        raw_crc=crc32c(0, SMALL.data),
        first_time_ms=1500,
        last_time_ms=3000,
    )


@given(st.lists(st.sampled_from(["put", "large", "mark"]), max_size=12), st.integers(1, 3000), st.booleans())
def test_what_the_log_writes_checks_as_the_reader_says(steps: list[str], piece: int, prove_chain: bool) -> None:
    fs = MemoryFileSystem()
    log = SmallLog(fs).begin()
    for number, step in enumerate(steps):
        if step == "mark":
            log.writer.write_mark()
        else:
            log.put(f"k{number}", f"l{number}", value=bytes(700) if step == "large" else b"v")
    log.writer.close()
    info = log.writer.segment.info()
    data = fs.contents()[info.path]
    reader = SegmentReader(info.path, data)
    for _ in reader.frames():
        pass
    facts = check(data, prove_chain, piece)
    assert reader.end is End.SEALED
    assert (facts.header, facts.start, facts.end) == (info.header, reader.start, info.end)
    assert (facts.groups, facts.last_time_ms, facts.raw_length) == (reader.groups, reader.time_ms, info.length_bytes)


def test_an_empty_segment_has_the_time_of_its_header() -> None:
    facts = check(RawSegment().seal(time_ms=1700).data)
    assert (facts.start, facts.end, facts.groups) == (facts.end, facts.start, 0)
    assert (facts.first_time_ms, facts.last_time_ms) == (1000, 1700)


def test_a_segment_that_begins_an_epoch_starts_from_that_epochs_chain() -> None:
    before = Position(EPOCH, 9, bytes(range(16)))
    header = HEADER._replace(epoch=Epoch(2, 9), branch=before, previous=before, first_revision=10)
    facts = check(RawSegment(header).put("a").seal().data)
    assert facts.start == Position(Epoch(2, 9), 9, fmt.epoch_chain(header.cluster_id, header.epoch, before))


def test_whoever_wants_is_told_of_every_frame() -> None:
    told: list[tuple[int, bytes]] = []
    checker = SegmentChecker("segment", on_frame=lambda offset, frame: told.append((offset, frame.kind)))
    for part in in_pieces(SMALL.data, 50):
        checker.feed(part)
    kinds = [fmt.GROUP, fmt.MARK, fmt.GROUP, fmt.SEAL]
    assert told == list(zip(SMALL.offsets, kinds, strict=True))


@PROVEN
def test_every_flipped_byte_is_found_where_it_lies_or_before(prove_chain: bool) -> None:
    for at in range(len(SMALL.data)):
        refused = refusal(flip(SMALL.data, at, 1 << at % 8), prove_chain)
        frames = [offset for offset in (0, *SMALL.offsets) if offset <= at]
        assert refused.offset == frames[-1], at


@pytest.mark.parametrize("piece", [1 << 20, 100])
def test_every_truncation_is_found(piece: int) -> None:
    for length in range(len(SMALL.data)):
        refusal(SMALL.data[:length], piece=piece)


@pytest.mark.parametrize("behind", [b"\0", bytes(500), b"x", SMALL.data[-fmt.SEAL_FRAME_LENGTH :], SMALL.data])
@pytest.mark.parametrize("piece", [1, len(SMALL.data), 1 << 20])
def test_nothing_may_follow_the_seal(behind: bytes, piece: int) -> None:
    refused = refusal(SMALL.data + behind, piece=piece)
    assert (refused.offset, refused.what) == (len(SMALL.data), "something follows the seal")


@pytest.mark.parametrize(
    ("data", "offset", "what"),
    [
        (b"", 0, "cut off after 0 of 4096 bytes"),
        (SMALL.data[:4095], 0, "cut off after 4095 of 4096 bytes"),
        (SMALL.data[:4096], 4096, "ends without its seal"),
        (SMALL.data[: SMALL.offsets[3]], SMALL.offsets[3], "ends without its seal"),
        (SMALL.data[:-1], SMALL.offsets[3], "in the middle of a frame"),
        (b"x" * 5000, 0, "does not begin as a segment does"),
        (SMALL.data[:4096] + bytes(100), 4096, "no frame where one must be"),
    ],
)
def test_what_is_not_a_whole_segment_is_refused_by_name(data: bytes, offset: int, what: str) -> None:
    for piece in (1, 1 << 20):
        refused = refusal(data, piece=piece)
        assert refused.offset == offset
        assert what in refused.what


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"first_revision": 4}, "revision 3 is missing; 4 follows"),
        ({"first_revision": 2}, "revision 3 is missing; 2 follows"),
        ({"durable": (1 << 20, 2)}, "claims more to be durable than there is"),
        ({"durable": (4096, 3)}, "claims more to be durable than there is"),
    ],
)
@pytest.mark.parametrize("kind", [fmt.GROUP, fmt.MARK, fmt.SEAL])
@PROVEN
def test_a_frame_that_contradicts_those_before_it_is_refused(
    prove_chain: bool, kind: bytes, fields: dict[str, object], why: str
) -> None:
    segment = RawSegment().put("a")
    offset = len(segment.data)
    segment.add(kind, commits=int(kind == fmt.GROUP), **fields)  # type: ignore[arg-type]
    refused = refusal(segment.data, prove_chain)
    assert (refused.offset, why in refused.what) == (offset, True)


@pytest.mark.parametrize("kind", [fmt.MARK, fmt.SEAL])
@pytest.mark.parametrize(
    ("fields", "why"),
    [({"commits": 1}, "frames of its kind have none"), ({"commits": 0, "chain": bytes(16)}, "the chain of history is broken")],
)
@PROVEN
def test_a_mark_or_a_seal_adds_nothing_to_history(prove_chain: bool, kind: bytes, fields: dict[str, object], why: str) -> None:
    segment = RawSegment().put("a")
    offset = len(segment.data)
    refused = refusal(segment.add(kind, **fields).data, prove_chain)  # type: ignore[arg-type]
    assert (refused.offset, why in refused.what) == (offset, True)


def test_a_broken_chain_is_found_where_it_is_proven_and_comes_to_another_end_where_not() -> None:
    segment = RawSegment().put("a").put("b").add(chain=bytes(16)).put("c").seal()
    refused = refusal(segment.data)
    assert (refused.offset, refused.what) == (segment.offsets[2], "the chain of history is broken here")
    trusted = check(segment.data, prove_chain=False)
    honest = RawSegment().put("a").put("b").add().put("c").seal()
    assert trusted.end == segment.end != check(honest.data).end
    assert trusted.end[:2] == honest.end[:2]


@pytest.mark.parametrize("seal", [(2, 1), (3, 2), (3, 0), (4, 1)])
def test_a_seal_that_speaks_of_other_frames_is_refused(seal: tuple[int, int]) -> None:
    segment = RawSegment().put("a", "b")
    refused = refusal(segment.add(fmt.SEAL, commits=0, payload=fmt.SEAL_PAYLOAD.pack(*seal, 3000)).data)
    assert (refused.offset, refused.what) == (segment.offsets[-1], "the seal does not fit what it seals")


def test_a_seal_of_another_length_is_refused() -> None:
    segment = RawSegment().put("a")
    refused = refusal(segment.add(fmt.SEAL, commits=0, payload=bytes(8)).data)
    assert (refused.offset, refused.what) == (segment.offsets[-1], "the seal does not fit what it seals")


def test_a_frame_with_an_unknown_flag_is_refused() -> None:
    segment = RawSegment().put("a")
    frame, at = bytearray(segment.data[4096:]), fmt.FRAME_HEADER_LENGTH - 8
    frame[at] = 1
    crc = crc32c(crc32c(fmt.crc_seed(HEADER.segment_id), bytes(frame[: at + 4])), bytes(frame[at + 8 :]))
    frame[at + 4 : at + 8] = crc.to_bytes(4, "little")
    assert fmt.frame_checks(bytes(frame), 0, fmt.parse_frame_header(bytes(frame), 0), fmt.crc_seed(HEADER.segment_id))  # type: ignore[arg-type]
    refused = refusal(segment.data[:4096] + bytes(frame))
    assert (refused.offset, refused.what) == (4096, "there is no frame where one must be")


def test_frames_that_are_missing_swapped_or_twice_are_refused() -> None:
    segment = RawSegment().put("a").put("b").put("c").seal()
    bounds = [*segment.offsets, len(segment.data)]
    head, *frames = (segment.data[begin:end] for begin, end in zip([0, *bounds], bounds, strict=False))
    a, b, c, seal = frames
    assert check(b"".join((head, a, b, c, seal)))
    for wrong in ((b, c, seal), (a, c, seal), (a, b, seal), (b, a, c, seal), (a, a, b, c, seal), (a, b, c, c, seal), (seal,)):
        refusal(b"".join((head, *wrong)))


def test_a_frame_of_another_segment_is_no_frame_of_this_one() -> None:
    other = RawSegment(HEADER._replace(segment_id=8)).put("a").seal()
    refused = refusal(SMALL.data[:4096] + other.data[4096:])
    assert (refused.offset, refused.what) == (4096, "there is no frame where one must be")


def test_a_header_whose_first_revision_does_not_follow_is_refused() -> None:
    header = HEADER._replace(previous=CREATION._replace(revision=7))
    refused = refusal(RawSegment(header).seal().data)
    assert (refused.offset, "first revision" in refused.what) == (0, True)


@pytest.mark.parametrize("length", [0xFFFFFFFF, MAX_LOG_FRAME_BYTES + fmt.FRAME_OVERHEAD])
def test_a_frame_that_claims_too_much_is_refused_before_its_bytes_are_waited_for(length: int) -> None:
    frame = SMALL.data[4096 : 4096 + 72]
    claiming = frame[:4] + length.to_bytes(4, "little") + frame[8:]
    checker = SegmentChecker("segment")
    checker.feed(SMALL.data[:4096])
    with pytest.raises(Corruption, match=f"none has more than {MAX_FRAME_LENGTH}"):
        checker.feed(claiming)


def test_the_largest_frame_passes_and_memory_is_bounded_by_it() -> None:
    payload = bytes(MAX_LOG_FRAME_BYTES)
    segment = RawSegment().add(payload=payload).add(payload=payload).seal()
    pieces = in_pieces(segment.data, 3 * KIB)
    tracemalloc.start()
    try:
        checker = SegmentChecker("segment")
        for piece in pieces:
            checker.feed(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert checker.finish().end == segment.end
    assert peak < 3.5 * MAX_LOG_FRAME_BYTES


def test_many_small_pieces_take_no_more_memory_than_the_frame() -> None:
    segment = RawSegment().add(payload=bytes(1 * MIB)).seal()
    pieces = in_pieces(segment.data, 8)
    tracemalloc.start()
    try:
        checker = SegmentChecker("segment")
        for piece in pieces:
            checker.feed(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert checker.finish().end == segment.end
    assert peak < 4 * MIB


def test_errors_carry_the_name_that_was_given() -> None:
    checker = SegmentChecker(Path("/data/wal/x"))
    with pytest.raises(Corruption, match="/data/wal/x: damaged at offset 0"):
        checker.feed(bytes(5000))
