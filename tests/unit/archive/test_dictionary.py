"""Dictionaries: trained, kept once, loaded once, named by what was compressed with them; any other one is refused."""

from __future__ import annotations

import functools
import hashlib
from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard

from kvserver.archive.compression import Compressor, Decompressor
from kvserver.archive.dictionary import (
    FIRST_ID,
    HEADER_LENGTH,
    LAST_ID,
    MAX_DICTIONARY_BYTES,
    SMALL_SEGMENT_BYTES,
    Dictionaries,
    Dictionary,
    decode_dictionary,
    dictionary_ids,
    encode_dictionary,
    load_dictionary,
    next_id,
    store_dictionary,
    train,
)
from kvserver.archive.names import ArchiveNames
from kvserver.archive.segment_format import HEADER_LENGTH as SEGMENT_HEADER_LENGTH
from kvserver.archive.segment_format import decode_header
from kvserver.archive.segment_reading import check_segment, read_entry
from kvserver.base.coding import crc32c
from kvserver.base.errors import Corruption
from kvserver.base.limits import KIB
from support.archived import SMALL, Archived
from support.fault_store import FaultStore
from support.logs import CLUSTER_ID
from support.memory_store import MemoryStore
from support.segments import NAMES, RawSegment

NAME = NAMES.dictionary(FIRST_ID)


def sample(number: int) -> bytes:
    """Return a small raw segment, like all others and yet not the same."""
    return small_segment(number).data


def small_segment(number: int) -> RawSegment:
    segment = RawSegment()
    for at in range(4):
        value = f'{{"name": "person-{number * 7 + at}", "city": "a town", "balance": {number * at % 97}}}'.encode()
        segment.put(f"accounts/{number:08d}/{at}", value=value)
    return segment.seal()


@functools.cache
def dictionary(id: int = FIRST_ID, begin: int = 0) -> Dictionary:
    return train([sample(number) for number in range(begin, begin + 200)], id, 2 * KIB)


def test_a_dictionary_makes_small_segments_smaller() -> None:
    raw = sample(999)
    plain, packed = (Compressor(1, one).compress(raw) for one in (None, dictionary()))
    assert len(packed) < 0.7 * len(plain)
    assert Decompressor(dictionary()).decompress(packed, len(raw)) == raw
    assert len(raw) < SMALL_SEGMENT_BYTES


def test_a_segment_names_the_dictionary_it_was_compressed_with() -> None:
    store = MemoryStore()
    store_dictionary(store, NAMES, dictionary())
    dictionaries = Dictionaries(store, NAMES)
    for level in (1, 3):
        segment = small_segment(500 + level)
        entry = segment.archive(store, dictionary=dictionary(), level=level)
        data = store.objects[NAMES.segment(entry.id)]
        header = decode_header(data)
        assert entry.dictionary_id == header.dictionary_id == FIRST_ID
        assert zstandard.get_frame_parameters(data[SEGMENT_HEADER_LENGTH:]).dict_id == FIRST_ID
        assert check_segment(store, NAMES, entry, dictionaries).end == segment.end
        assert read_entry(store, NAMES, entry.id, dictionaries) == entry


def test_a_segment_has_one_name_with_a_dictionary_and_without() -> None:
    plain, packed = MemoryStore(), MemoryStore()
    small_segment(1).archive(plain)
    small_segment(1).archive(packed, dictionary=dictionary())
    assert list(plain.objects) == list(packed.objects)
    assert list(plain.objects.values()) != list(packed.objects.values())


def test_a_dictionary_is_kept_once_and_again_does_no_harm() -> None:
    store = MemoryStore()
    store_dictionary(store, NAMES, dictionary())
    store_dictionary(store, NAMES, dictionary())
    assert list(store.objects) == [NAME]
    assert dictionary_ids(store, NAMES) == [FIRST_ID]
    loaded = load_dictionary(store, NAMES, FIRST_ID)
    assert (loaded.id, loaded.data) == (FIRST_ID, dictionary().data)
    assert loaded.sha256 == hashlib.sha256(dictionary().data).digest()


def test_another_dictionary_does_not_take_its_place() -> None:
    store = MemoryStore()
    store_dictionary(store, NAMES, dictionary())
    kept = store.objects[NAME]
    with pytest.raises(Corruption, match=f"another dictionary has the id {FIRST_ID}"):
        store_dictionary(store, NAMES, dictionary(begin=1000))
    assert store.objects[NAME] == kept


def test_ids_are_given_in_order_and_none_twice() -> None:
    assert next_id([]) == FIRST_ID
    assert next_id([FIRST_ID, FIRST_ID + 4]) == FIRST_ID + 5
    with pytest.raises(ValueError, match="no dictionary can come after"):
        next_id([LAST_ID])
    store = MemoryStore()
    for number in range(3):
        store_dictionary(store, NAMES, dictionary(next_id(dictionary_ids(store, NAMES)), number * 300))
    store.objects[f"{NAMES.dictionaries}other"] = b""
    assert dictionary_ids(store, NAMES) == [FIRST_ID, FIRST_ID + 1, FIRST_ID + 2]


@pytest.mark.parametrize(
    ("samples", "why"),
    [([], "needs 8 samples, and there are 0"), ([b"x" * 100] * 7, "there are 7"), ([b""] * 20, "no dictionary can be made")],
)
def test_too_few_samples_are_refused(samples: list[bytes], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        train(samples, FIRST_ID)


# Dictionaries that are not what they should be


def refusal(store: MemoryStore, id: int = FIRST_ID, names: ArchiveNames = NAMES) -> Corruption:
    with pytest.raises(Corruption) as refused:
        load_dictionary(store, names, id)
    assert refused.value.path == names.dictionary(id)
    return refused.value


def test_every_flipped_byte_and_every_truncation_is_found() -> None:
    data = encode_dictionary(dictionary(), CLUSTER_ID)
    for at in range(len(data)):
        for bad in (data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :], data[:at]):
            with pytest.raises(Corruption):
                decode_dictionary(NAME, bad, CLUSTER_ID, FIRST_ID)
    with pytest.raises(Corruption, match="not those that its header speaks of"):
        decode_dictionary(NAME, data + b"x", CLUSTER_ID, FIRST_ID)


def test_a_missing_dictionary_is_refused_by_name() -> None:
    error = refusal(MemoryStore())
    assert "the dictionary is missing" in error.what
    store = MemoryStore()
    entry = small_segment(1).archive(store, dictionary=dictionary())
    with pytest.raises(Corruption, match=NAME):
        check_segment(store, NAMES, entry, Dictionaries(store, NAMES))


def test_a_dictionary_of_another_cluster_or_id_is_refused() -> None:
    store, other = MemoryStore(), ArchiveNames(bytes(16))
    store_dictionary(store, NAMES, dictionary())
    store.objects[other.dictionary(FIRST_ID)] = store.objects[NAME]
    assert "it belongs to the cluster" in refusal(store, names=other).what
    store.objects[NAMES.dictionary(FIRST_ID + 1)] = store.objects[NAME]
    assert f"it is the dictionary {FIRST_ID}, not {FIRST_ID + 1}" in refusal(store, FIRST_ID + 1).what


@pytest.mark.parametrize("id", [1, FIRST_ID - 1, LAST_ID + 1, (1 << 64) - 1])
def test_an_id_that_no_dictionary_has_is_refused(id: int) -> None:
    store = FaultStore(MemoryStore())
    with pytest.raises(Corruption, match=f"{id} is not the id of a dictionary"):
        load_dictionary(store, NAMES, id)
    assert not store.made
    with pytest.raises(ValueError, match="is not the id"):
        Dictionary(id, dictionary().data)


def test_a_dictionary_that_is_too_large_is_refused_before_it_is_read() -> None:
    store = MemoryStore()
    store.objects[NAME] = bytes(HEADER_LENGTH + MAX_DICTIONARY_BYTES + 1)
    assert f"no dictionary has more than {MAX_DICTIONARY_BYTES} bytes" in refusal(store).what
    with pytest.raises(ValueError, match="none has more than"):
        Dictionary(FIRST_ID, bytes(MAX_DICTIONARY_BYTES + 1))


@pytest.mark.parametrize("data", [b"", b"x", bytes(100), b"\x37\xa4\x30\xec" + FIRST_ID.to_bytes(4, "little") + b"garbage"])
def test_bytes_that_are_no_dictionary_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="dictionary"):
        Dictionary(FIRST_ID, data)


def test_bytes_of_another_dictionary_are_refused() -> None:
    with pytest.raises(ValueError, match=f"says it is {FIRST_ID}, not {FIRST_ID + 1}"):
        Dictionary(FIRST_ID + 1, dictionary().data)


@pytest.mark.parametrize(
    ("at", "value", "why"),
    [
        (0, b"KVARCSEG", "does not begin as a dictionary does"),
        (8, b"\2", "format version 2; this software reads version 1"),
        (12, b"\1", "the checksum of the header"),
        (36, b"\1\0\0\0", "not those that its header speaks of"),
        (40, bytes(32), "not those that its header speaks of"),
    ],
)
def test_a_header_that_lies_is_refused(at: int, value: bytes, why: str) -> None:
    data = encode_dictionary(dictionary(), CLUSTER_ID)
    body = data[:at] + value + data[at + len(value) : HEADER_LENGTH - 4]
    forged = body + crc32c(0, body).to_bytes(4, "little") + data[HEADER_LENGTH:]
    with pytest.raises(Corruption, match=why):
        decode_dictionary(NAME, forged, CLUSTER_ID, FIRST_ID)


def test_a_forged_dictionary_that_zstd_does_not_take_is_refused_by_name() -> None:
    data = dictionary().data
    broken = data[:8] + bytes(byte ^ 0xFF for byte in data[8:80]) + data[80:]
    forged = object.__new__(Dictionary)
    forged.id, forged.data = FIRST_ID, broken
    store = MemoryStore()
    store.objects[NAME] = encode_dictionary(forged, CLUSTER_ID)
    assert "it is no dictionary" in refusal(store).what


def test_a_frame_of_another_dictionary_or_of_none_is_refused() -> None:
    raw, other = sample(1), dictionary(FIRST_ID + 1, 300)
    for written, read in ((dictionary(), other), (dictionary(), None), (None, dictionary())):
        with pytest.raises(ValueError, match="the zstd frame names the dictionary"):
            Decompressor(read).decompress(Compressor(1, written).compress(raw), len(raw))


def test_a_segment_is_not_read_with_another_dictionary_than_it_names() -> None:
    archived = Archived(SMALL, dictionary=dictionary())
    wrong = dictionary(FIRST_ID, 1000)
    assert wrong.data != dictionary().data
    with pytest.raises(Corruption, match="block 0"):
        check_segment(archived.store, NAMES, archived.entry, lambda id: wrong)


def test_each_dictionary_is_loaded_once_by_however_many_threads() -> None:
    inner = MemoryStore()
    for number in range(2):
        store_dictionary(inner, NAMES, dictionary(FIRST_ID + number, number * 300))
    store = FaultStore(inner)
    dictionaries = Dictionaries(store, NAMES)
    with ThreadPoolExecutor(4) as pool:
        ids = [found.id for found in pool.map(dictionaries, [FIRST_ID, FIRST_ID + 1] * 10)]
    assert ids == [FIRST_ID, FIRST_ID + 1] * 10
    assert store.counts["read"] == 2


def test_many_threads_may_compress_and_decompress_with_one_dictionary() -> None:
    shared = dictionary()

    def round_trip(number: int) -> bool:
        raw = sample(number)
        return Decompressor(shared).decompress(Compressor(1 + number % 3, shared).compress(raw), len(raw)) == raw

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(round_trip, range(60)))
