"""Segment headers and frames as bytes: the format itself, and that no damage to it goes unnoticed."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.base.coding import crc32c
from kvserver.base.types import Epoch, Position
from kvserver.wal import format as fmt

CLUSTER_ID = bytes(range(0xA0, 0xB0))
HEADER = fmt.SegmentHeader(
    cluster_id=CLUSTER_ID,
    segment_id=0x1122334455667788,
    epoch=Epoch(3, 0x0102030405060708),
    branch=Position(Epoch(2, 0x1112131415161718), 41, bytes(range(16))),
    first_revision=50,
    created_ms=1_750_000_000_123,
    previous_segment_id=0x99AABBCCDDEEFF00,
    previous=Position(Epoch(3, 0x0102030405060708), 49, bytes(range(16, 32))),
)
SEED = fmt.crc_seed(HEADER.segment_id)
PAYLOAD = bytes.fromhex("1c000000 01000100 01000300 05000000 01000000 6b6579 76616c7565")  # put key=value, namespace 1
CHAIN_BEHIND = bytes.fromhex("ff09cc09dcff626ac19f07de05a4c6c9")

# What is on disks already. A change here is a new format version, not a new figure in this test.
GOLDEN_HEADER_FIELDS = bytes.fromhex(
    "4b5657414c534547 01000000 00100000 a0a1a2a3a4a5a6a7a8a9aaabacadaeaf 8877665544332211"
    "0300000000000000 0807060504030201 0200000000000000 1817161514131211 2900000000000000"
    "000102030405060708090a0b0c0d0e0f 3200000000000000 7bdc207497010000 00ffeeddccbbaa99"
    "0300000000000000 0807060504030201 3100000000000000 101112131415161718191a1b1c1d1e1f"
)
GOLDEN_HEADER_CRC = bytes.fromhex("b6c1128b")
GOLDEN_GROUP = bytes.fromhex(
    "4b564667 1c000000 8877665544332211 3200000000000000 01000000 00100000 3100000000000000 c8dd207497010000"
    "ff09cc09dcff626ac19f07de05a4c6c9 00000000 359a8b3c"
    "1c000000 01000100 01000300 05000000 01000000 6b6579 76616c7565 00000000"
)
GOLDEN_MARK = bytes.fromhex(
    "4b56466d 00000000 8877665544332211 3300000000000000 00000000 68100000 3200000000000000 15df207497010000"
    "ff09cc09dcff626ac19f07de05a4c6c9 00000000 c0e0dfa2"
)
GOLDEN_SEAL = bytes.fromhex(
    "4b564673 18000000 8877665544332211 3300000000000000 00000000 b0100000 3200000000000000 e7df207497010000"
    "ff09cc09dcff626ac19f07de05a4c6c9 00000000 cf8936ce"
    "3200000000000000 0100000000000000 e7df207497010000"
)


def group(payload: bytes = PAYLOAD, chain: bytes | None = None, segment_id: int = HEADER.segment_id) -> tuple[bytes, bytes]:
    chain = HEADER.start_chain() if chain is None else chain
    seed = fmt.crc_seed(segment_id)
    return fmt.build_frame(fmt.GROUP, segment_id, seed, 50, 1, (4096, 49), 1_750_000_000_456, chain, payload)


def mark() -> tuple[bytes, bytes]:
    return fmt.build_frame(fmt.MARK, HEADER.segment_id, SEED, 51, 0, (4200, 50), 1_750_000_000_789, CHAIN_BEHIND, b"")


def seal() -> tuple[bytes, bytes]:
    payload = fmt.SEAL_PAYLOAD.pack(50, 1, 1_750_000_000_999)
    return fmt.build_frame(fmt.SEAL, HEADER.segment_id, SEED, 51, 0, (4272, 50), 1_750_000_000_999, CHAIN_BEHIND, payload)


def bit_flips(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield each bit's number and the data with that bit the other way round."""
    changed = bytearray(data)
    for bit in range(8 * len(data)):
        changed[bit // 8] ^= 1 << bit % 8
        yield bit, bytes(changed)
        changed[bit // 8] ^= 1 << bit % 8


# The bytes


def test_a_segment_header_is_these_bytes() -> None:
    block = fmt.encode_segment_header(HEADER)
    assert len(block) == fmt.SEGMENT_HEADER_LENGTH == 4096
    assert block == GOLDEN_HEADER_FIELDS.ljust(4092, b"\0") + GOLDEN_HEADER_CRC
    assert crc32c(0, block[:4092]) == int.from_bytes(GOLDEN_HEADER_CRC, "little")


@pytest.mark.parametrize(
    ("frame", "golden"), [(group(), GOLDEN_GROUP), (mark(), GOLDEN_MARK), (seal(), GOLDEN_SEAL)], ids=["group", "mark", "seal"]
)
def test_a_frame_is_these_bytes(frame: tuple[bytes, bytes], golden: bytes) -> None:
    assert frame == (golden, CHAIN_BEHIND)


@pytest.mark.parametrize("frame", [GOLDEN_GROUP, GOLDEN_MARK, GOLDEN_SEAL], ids=["group", "mark", "seal"])
def test_the_checksum_covers_the_segment_id_the_header_and_the_body(frame: bytes) -> None:
    covered = HEADER.segment_id.to_bytes(8, "little") + frame[:68] + frame[72:]
    assert frame[68:72] == crc32c(0, covered).to_bytes(4, "little")


def test_the_chain_is_a_hash_over_the_chain_before_the_fields_and_the_body() -> None:
    before = HEADER.previous.chain
    assert hashlib.sha256(before + GOLDEN_GROUP[:48] + GOLDEN_GROUP[72:]).digest()[:16] == CHAIN_BEHIND


def test_the_chains_that_history_begins_with_are_these_bytes() -> None:
    assert fmt.epoch_chain(CLUSTER_ID, HEADER.epoch, HEADER.branch).hex() == "ede9edb0b03b1489745720d36152e409"
    assert fmt.creation_chain(CLUSTER_ID).hex() == "9d2ce5ff042f37f2f525d3a8ddce9524"


def test_lengths_are_what_the_space_accounting_takes_them_for() -> None:
    assert (72, len(GOLDEN_SEAL), 8) == (fmt.FRAME_HEADER_LENGTH, fmt.SEAL_FRAME_LENGTH, fmt.ALIGNMENT)
    for length in range(40):
        frame, _ = group(bytes(length))
        assert len(frame) == 72 + fmt.padded(length) <= length + fmt.FRAME_OVERHEAD
        assert len(frame) % 8 == 0


# There and back


u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
chains = st.binary(min_size=16, max_size=16)
epochs = st.builds(Epoch, u64, u64)
positions = st.builds(Position, epochs, u64, chains)
headers = st.builds(fmt.SegmentHeader, chains, u64, epochs, positions, u64, u64, u64, positions)


@given(headers)
def test_a_segment_header_comes_back_as_it_was(header: fmt.SegmentHeader) -> None:
    assert fmt.decode_segment_header(fmt.encode_segment_header(header) + b"frames follow") == header


@given(
    kind=st.sampled_from(fmt.FRAME_TYPES),
    segment_id=u64,
    first_revision=u64,
    count=u32,
    durable=st.tuples(u32, u64),
    time_ms=u64,
    chain=chains,
    payload=st.binary(max_size=100),
    before=st.binary(max_size=20),
)
def test_a_frame_comes_back_as_it_was(
    kind: bytes,
    segment_id: int,
    first_revision: int,
    count: int,
    durable: tuple[int, int],
    time_ms: int,
    chain: bytes,
    payload: bytes,
    before: bytes,
) -> None:
    seed = fmt.crc_seed(segment_id)
    frame, behind = fmt.build_frame(kind, segment_id, seed, first_revision, count, durable, time_ms, chain, payload)
    data = before + frame + b"more"
    header = fmt.check_frame(data, len(before), segment_id, seed)
    assert header == (kind, len(payload), segment_id, first_revision, count, *durable, time_ms, behind, 0)
    assert header.frame_length == len(frame)
    assert header.last_revision == first_revision + count - 1
    assert frame[72 : 72 + header.payload_length] == payload
    assert fmt.next_chain(chain, header, data, len(before)) == behind


# Damage


def test_every_flipped_bit_of_a_segment_header_is_found() -> None:
    for bit, block in bit_flips(fmt.encode_segment_header(HEADER)):
        with pytest.raises(ValueError, match=r"does not|version") as refused:
            fmt.decode_segment_header(block)
        if 8 * 8 <= bit < 12 * 8:
            assert "format version" in str(refused.value)


@pytest.mark.parametrize("frame", [GOLDEN_GROUP, GOLDEN_MARK, GOLDEN_SEAL], ids=["group", "mark", "seal"])
def test_every_flipped_bit_of_a_frame_is_found(frame: bytes) -> None:
    space = bytes(200)
    assert fmt.check_frame(frame + space, 0, HEADER.segment_id, SEED) is not None
    for bit, damaged in bit_flips(frame):
        assert fmt.check_frame(damaged + space, 0, HEADER.segment_id, SEED) is None, f"bit {bit}"


@pytest.mark.parametrize("frame", [GOLDEN_GROUP, GOLDEN_MARK, GOLDEN_SEAL], ids=["group", "mark", "seal"])
def test_every_cut_of_a_frame_is_found(frame: bytes) -> None:
    for length in range(len(frame)):
        assert fmt.check_frame(frame[:length], 0, HEADER.segment_id, SEED) is None


def test_every_cut_of_a_segment_header_is_found() -> None:
    block = fmt.encode_segment_header(HEADER)
    for length in range(len(block)):
        with pytest.raises(ValueError, match=f"cut off after {length} of 4096"):
            fmt.decode_segment_header(block[:length])


@pytest.mark.parametrize(
    ("at", "number", "why"),
    [
        (8, 2, "the segment is of format version 2; this software reads version 1"),
        (12, 8192, "the checksum of the segment header does not match"),
    ],
    ids=["version", "header length"],
)
def test_a_header_of_a_later_time_is_refused_although_its_checksum_is_right(at: int, number: int, why: str) -> None:
    block = bytearray(fmt.encode_segment_header(HEADER))
    block[at : at + 4] = struct.pack("<I", number)
    block[4092:] = crc32c(0, bytes(block[:4092])).to_bytes(4, "little")
    with pytest.raises(ValueError, match=why):
        fmt.decode_segment_header(bytes(block))


def test_a_file_that_is_no_segment_is_told_from_a_damaged_one() -> None:
    with pytest.raises(ValueError, match="does not begin as a segment does"):
        fmt.decode_segment_header(b"SQLite format 3\0".ljust(4096, b"\0"))


def test_flags_of_a_later_version_are_not_taken_for_a_known_frame() -> None:
    head = GOLDEN_GROUP[:64] + b"\x01\0\0\0"
    body = GOLDEN_GROUP[72:]
    frame = head + crc32c(crc32c(SEED, head), body).to_bytes(4, "little") + body
    assert fmt.check_frame(frame, 0, HEADER.segment_id, SEED) is None


# Segments do not mix


@given(st.integers(0, 2**64 - 1).filter(lambda other: other != HEADER.segment_id))
def test_a_frame_of_another_segment_never_checks(other: int) -> None:
    frame, _ = group(segment_id=other)
    assert fmt.check_frame(frame, 0, other, fmt.crc_seed(other)) is not None
    assert fmt.check_frame(frame, 0, HEADER.segment_id, SEED) is None
    renamed = frame[:8] + HEADER.segment_id.to_bytes(8, "little") + frame[16:]
    assert fmt.check_frame(renamed, 0, HEADER.segment_id, SEED) is None, "the seed was not part of the checksum"


def test_checksum_and_segment_id_each_alone_keep_segments_apart() -> None:
    other = HEADER.segment_id + 1
    assert fmt.check_frame(GOLDEN_GROUP, 0, HEADER.segment_id, fmt.crc_seed(other)) is None
    mislabelled, _ = fmt.build_frame(fmt.MARK, other, SEED, 51, 0, (4200, 50), 0, CHAIN_BEHIND, b"")
    assert fmt.check_frame(mislabelled, 0, HEADER.segment_id, SEED) is None


# The chain


def test_a_group_changes_the_chain_and_every_part_of_it_counts() -> None:
    start = bytes(16)
    usual = (fmt.GROUP, 1, fmt.crc_seed(1), 50, 1, (4096, 49), 1000, start, b"payload")
    others = [
        (fmt.GROUP, 2, fmt.crc_seed(2), 50, 1, (4096, 49), 1000, start, b"payload"),
        (fmt.GROUP, 1, fmt.crc_seed(1), 51, 1, (4096, 49), 1000, start, b"payload"),
        (fmt.GROUP, 1, fmt.crc_seed(1), 50, 2, (4096, 49), 1000, start, b"payload"),
        (fmt.GROUP, 1, fmt.crc_seed(1), 50, 1, (4097, 49), 1000, start, b"payload"),
        (fmt.GROUP, 1, fmt.crc_seed(1), 50, 1, (4096, 48), 1000, start, b"payload"),
        (fmt.GROUP, 1, fmt.crc_seed(1), 50, 1, (4096, 49), 1001, start, b"payload"),
        (fmt.GROUP, 1, fmt.crc_seed(1), 50, 1, (4096, 49), 1000, b"\1" + bytes(15), b"payload"),
        (fmt.GROUP, 1, fmt.crc_seed(1), 50, 1, (4096, 49), 1000, start, b"payloae"),
        (fmt.GROUP, 1, fmt.crc_seed(1), 50, 1, (4096, 49), 1000, start, b"payload\0"),
    ]
    chains = [fmt.build_frame(*arguments)[1] for arguments in [usual, *others]]
    assert len(set(chains)) == len(chains)
    assert start not in chains


@pytest.mark.parametrize("kind", [fmt.MARK, fmt.SEAL])
def test_marks_and_seals_carry_the_chain_unchanged(kind: bytes) -> None:
    chain = bytes(range(16))
    frame, behind = fmt.build_frame(kind, 1, fmt.crc_seed(1), 50, 0, (4096, 49), 1000, chain, b"whatever")
    header = fmt.check_frame(frame, 0, 1, fmt.crc_seed(1))
    assert header is not None
    assert behind == header.chain == chain
    assert fmt.next_chain(chain, header, frame, 0) == chain


def test_the_chain_of_an_epoch_depends_on_each_of_its_inputs() -> None:
    parent = Position(Epoch(2, 5), 41, bytes(16))
    inputs = [
        (CLUSTER_ID, Epoch(3, 7), parent),
        (b"\0" + CLUSTER_ID[1:], Epoch(3, 7), parent),
        (CLUSTER_ID, Epoch(4, 7), parent),
        (CLUSTER_ID, Epoch(3, 8), parent),
        (CLUSTER_ID, Epoch(3, 7), parent._replace(epoch=Epoch(1, 5))),
        (CLUSTER_ID, Epoch(3, 7), parent._replace(epoch=Epoch(2, 6))),
        (CLUSTER_ID, Epoch(3, 7), parent._replace(revision=42)),
        (CLUSTER_ID, Epoch(3, 7), parent._replace(chain=b"\1" + bytes(15))),
    ]
    chains = {fmt.epoch_chain(*values) for values in inputs} | {fmt.creation_chain(CLUSTER_ID)}
    assert len(chains) == len(inputs) + 1
    assert all(len(chain) == 16 for chain in chains)


def test_a_segment_begins_with_the_chain_before_it_within_an_epoch_and_anew_in_a_new_one() -> None:
    assert HEADER.start_chain() == HEADER.previous.chain
    first = HEADER._replace(previous=HEADER.branch)
    assert first.start_chain() == fmt.epoch_chain(CLUSTER_ID, HEADER.epoch, HEADER.branch)
