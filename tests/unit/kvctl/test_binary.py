"""The binary form: it holds any bytes, and every cut and every flipped bit is noticed, with the place."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from kvclient import Entry
from kvctl import binary
from kvctl.batches import Fault
from kvctl.binary import BinaryReader, BinaryWriter
from kvctl.failures import CtlError

ABOUT = {"revision": 9, "namespace": "team"}
PAIRS = [(b"k%03d" % number, bytes([number]) * 20) for number in range(30)]
HEAD_BYTES = 32


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a block of ten records of the usual size."""
    monkeypatch.setattr(binary, "TARGET_BLOCK_BYTES", 240)


def written(pairs: list[tuple[bytes, bytes]], *, with_revisions: bool = False) -> bytes:
    parts: list[bytes] = []
    writer = BinaryWriter(parts.append, ABOUT, with_revisions=with_revisions)
    for number, (key, value) in enumerate(pairs):
        writer.add(Entry(key, value, number, number + 1, number + 2))
    writer.finish()
    return b"".join(parts)


def read(data: bytes, skip: int = 0, step: int = 1 << 20) -> tuple[list[tuple[bytes, bytes]], list[Fault]]:
    """Return the pairs and the faults of a file, read in chunks of some length."""
    reader = BinaryReader((data[place : place + step] for place in range(0, len(data), step)), "the file")
    assert reader.read_head() == ABOUT
    pairs: list[tuple[bytes, bytes]] = []
    faults: list[Fault] = []
    for batch in reader.batches(skip):
        assert len(batch.numbers) == len(batch.keys) == len(batch.values)
        pairs += zip(batch.keys, batch.values, strict=True)
        faults += batch.faults
    return pairs, faults


def heads(data: bytes | bytearray) -> list[int]:
    """Return where the heads of the blocks begin, the last one's included."""
    place = 16 + struct.unpack_from("<I", data, 12)[0] + 4
    found = []
    while place < len(data):
        found.append(place)
        place += HEAD_BYTES + struct.unpack_from("<I", data, place + 4)[0]
    return found


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=50), st.binary(max_size=300)), max_size=40),
    st.booleans(),
    st.integers(1, 100),
    st.integers(0, 45),
)
def test_any_bytes_are_read_back(pairs: list[tuple[bytes, bytes]], with_revisions: bool, step: int, skip: int) -> None:
    assert read(written(pairs, with_revisions=with_revisions), skip, step) == (pairs[skip:], [])


def test_blocks_end_and_are_numbered() -> None:
    data = written(PAIRS)
    assert [struct.unpack_from("<4sIIIQ", data, place)[::3] for place in heads(data)] == [
        (b"BLCK", 10),
        (b"BLCK", 10),
        (b"BLCK", 10),
        (b"LAST", 0),
    ]
    assert [struct.unpack_from("<Q", data, place + 16)[0] for place in heads(data)] == [1, 11, 21, 31]


def test_an_empty_export_is_whole() -> None:
    assert read(written([])) == ([], [])


def test_every_cut_is_named_with_byte_and_record() -> None:
    data = written(PAIRS)
    blocks = heads(data)
    for length in range(len(data)):
        reader = BinaryReader(iter([data[:length]]), "the file")
        got = 0
        with pytest.raises(CtlError, match="it is not whole") as caught:
            reader.read_head()
            for batch in reader.batches(0):
                got += len(batch.numbers)
        whole = 10 * sum(length >= end for end in blocks[1:])
        assert got == whole
        assert caught.value.fields == {"offset": length, "record": whole}
        assert f"ends at byte {length}, behind record {whole}," in caught.value.message


def test_every_flipped_byte_is_noticed() -> None:
    data = written(PAIRS)
    blocks = heads(data)
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= 0x10
        block = sum(place >= begin for begin in blocks) - 1
        in_head = block < 0 or place < blocks[block] + 28
        try:
            pairs, faults = read(bytes(flipped))
        except CtlError as error:
            assert in_head, place
            assert error.code == "BAD_INPUT"
            if place >= 16:  # before that it is another kind of file, or another length
                assert error.fields["record"] == max(block, 0) * 10
        else:
            assert not in_head or blocks[block] + 28 <= place, place
            if block == 3:
                assert place >= blocks[3] + 28, "the checksum of nothing, behind which nothing stands"
                continue
            (fault,) = faults
            assert (fault.number, fault.records, fault.code) == (block * 10 + 1, 10, "BAD_INPUT")
            assert f"the block at byte {blocks[block]} of the file is damaged" in fault.message
            assert pairs == PAIRS[: block * 10] + PAIRS[(block + 1) * 10 :]


def missing(data: bytes, blocks: list[int]) -> bytes:
    return data[: blocks[1]] + data[blocks[2] :]


def twice(data: bytes, blocks: list[int]) -> bytes:
    return data[: blocks[2]] + data[blocks[1] :]


def swapped(data: bytes, blocks: list[int]) -> bytes:
    return data[: blocks[0]] + data[blocks[1] : blocks[2]] + data[blocks[0] : blocks[1]] + data[blocks[2] :]


@pytest.mark.parametrize(("change", "records"), [(missing, 10), (twice, 20), (swapped, 0)])
def test_blocks_out_of_order(change: Callable[[bytes, list[int]], bytes], records: int) -> None:
    data = written(PAIRS)
    with pytest.raises(CtlError, match="missing or out of order") as caught:
        read(change(data, heads(data)))
    assert caught.value.fields["record"] == records


@pytest.mark.parametrize("more", [b"\0", b"x" * 100, written(PAIRS)])
def test_nothing_may_follow_the_last_block(more: bytes) -> None:
    for step in (7, 1 << 20):
        with pytest.raises(CtlError, match="something stands behind its last block"):
            read(written(PAIRS) + more, step=step)
    reader = BinaryReader(iter([written(PAIRS), b"", more]), "the file")
    reader.read_head()
    with pytest.raises(CtlError, match="something stands behind its last block"):
        list(reader.batches(0))


@pytest.mark.parametrize(("version", "flags"), [(2, 0), (0, 0), (1, 2)])
def test_another_version_is_refused(version: int, flags: int) -> None:
    data = struct.pack("<8sHHI", binary.MAGIC, version, flags, 0)
    with pytest.raises(CtlError, match=f"has version {version}"):
        BinaryReader(iter([data]), "the file").read_head()


def block(stored: bytes, plain_bytes: int, records: int) -> bytes:
    """Return a block with sound checksums, whatever it holds."""
    packed = struct.pack("<4sIIIQ", b"BLCK", len(stored), plain_bytes, records, 1)
    return packed + struct.pack("<II", zlib.crc32(packed), zlib.crc32(stored)) + stored


@pytest.mark.parametrize(
    ("stored", "plain_bytes", "records", "said"),
    [
        (b"", 0, 1, "cannot be decompressed"),
        (b"garbage", 7, 1, "cannot be decompressed"),
        (zstandard.compress(b"x" * 100), 99, 1, "not hold as many bytes"),
        (zstandard.compress(b"\1\0\0\0\0\0\0\0k"), 9, 2, "it holds 1 records, not the 2"),
        (zstandard.compress(b"\1\0\0\0\0\0\0\0k" * 2), 18, 1, "it holds 2 records, not the 1"),
        (zstandard.compress(b"\1\0\0\0"), 4, 1, "beyond its end"),
        (zstandard.compress(b"\1\0\0\0\xff\0\0\0k"), 9, 1, "beyond its end"),
    ],
)
def test_blocks_that_lie(stored: bytes, plain_bytes: int, records: int, said: str) -> None:
    reader = BinaryReader(iter([block(stored, plain_bytes, records)]), "the file")
    (fault,) = next(reader.batches(0)).faults
    assert said in fault.message
    assert fault.records == records


def test_a_length_that_cannot_be_is_not_waited_for() -> None:
    reader = BinaryReader(iter([block(b"", binary.MAX_BLOCK_BYTES + 1, 1)]), "the file")
    with pytest.raises(CtlError, match="more than"):
        next(reader.batches(0))


def test_records_beyond_the_limits_are_named() -> None:
    pairs = [(b"a", b""), (b"", b"empty"), (b"k" * 8193, b""), (b"b", b"")]
    got, faults = read(written(pairs))
    assert got == [pairs[0], pairs[3]]
    assert [(fault.number, fault.code) for fault in faults] == [(2, "EMPTY_KEY"), (3, "KEY_TOO_LARGE")]


def test_what_is_skipped_is_not_looked_at() -> None:
    data = bytearray(written(PAIRS))
    data[heads(data)[0] + HEAD_BYTES] ^= 1
    assert read(bytes(data), skip=10) == (PAIRS[10:], [])
    assert [fault.number for fault in read(bytes(data), skip=9)[1]] == [1]
