"""Dictionaries for small segments: trained on real commits, kept in the archive as objects of their own, named in every frame.

A segment of a few KiB compresses badly by itself, because it repeats what the segments before it held. A dictionary holds what
they have in common. Larger segments do without (``SMALL_SEGMENT_BYTES``). A dictionary is never changed: another one gets
the next id.

    object = header (magic, version, length, cluster id, id, length of the data, SHA-256 of it, crc), data
"""

from __future__ import annotations

import functools
import hashlib
import struct
import threading
from collections.abc import Sequence

import zstandard

from kvserver.archive.errors import damaged
from kvserver.archive.names import ArchiveNames, parse_dictionary
from kvserver.archive.store import ObjectExists, ObjectMissing, Store
from kvserver.base.coding import crc32c
from kvserver.base.limits import KIB

FORMAT_VERSION = 1

FIRST_ID = 0x8000
"""zstd keeps the numbers below for dictionaries that are registered with it."""
LAST_ID = 0x7FFFFFFF

MAX_DICTIONARY_BYTES = 1024 * KIB
DEFAULT_DICTIONARY_BYTES = 64 * KIB

SMALL_SEGMENT_BYTES = 64 * KIB
"""Segments of at most so many raw bytes are compressed with a dictionary, where there is one."""

MAGIC = b"KVARCDIC"
_HEADER = struct.Struct("<8sII16sII32s")
_CRC = struct.Struct("<I")
HEADER_LENGTH = _HEADER.size + _CRC.size

_MIN_SAMPLES = 8


class Dictionary:
    """A dictionary: its id, which every frame compressed with it names, and its bytes. Safe for several threads."""

    def __init__(self, id: int, data: bytes) -> None:
        """Raises ValueError for an id or bytes that cannot be a dictionary's."""
        if not FIRST_ID <= id <= LAST_ID:
            raise ValueError(f"{id} is not the id of a dictionary")
        if not 0 < len(data) <= MAX_DICTIONARY_BYTES:
            raise ValueError(f"a dictionary of {len(data)} bytes; none has more than {MAX_DICTIONARY_BYTES}")
        self.id = id
        self.data = data
        try:
            self._library = zstandard.ZstdCompressionDict(data, dict_type=zstandard.DICT_TYPE_FULLDICT)
            zstandard.ZstdDecompressor(dict_data=self._library)
        except zstandard.ZstdError as error:
            raise ValueError(f"it is no dictionary: {error}") from error
        if self._library.dict_id() != id:
            raise ValueError(f"the dictionary says it is {self._library.dict_id()}, not {id}")
        self._levels: dict[int, zstandard.ZstdCompressionDict] = {}
        self._lock = threading.Lock()

    @functools.cached_property
    def sha256(self) -> bytes:
        """Return the hash of the bytes."""
        return hashlib.sha256(self.data).digest()

    def for_compression(self, level: int) -> zstandard.ZstdCompressionDict:
        """Return the library's dictionary, digested for a level once. Raises ValueError where that cannot be."""
        with self._lock:
            found = self._levels.get(level)
            if found is None:
                found = zstandard.ZstdCompressionDict(self.data, dict_type=zstandard.DICT_TYPE_FULLDICT)
                try:
                    found.precompute_compress(level=level)
                except zstandard.ZstdError as error:
                    raise ValueError(f"the dictionary {self.id} cannot be used at level {level}: {error}") from error
                self._levels[level] = found
            return found

    def for_decompression(self) -> zstandard.ZstdCompressionDict:
        """Return the library's dictionary."""
        return self._library


def train(samples: Sequence[bytes], id: int, size_bytes: int = DEFAULT_DICTIONARY_BYTES) -> Dictionary:
    """Return a dictionary made of what the samples (small raw segments, or frames) have in common.

    Raises ValueError where they are too few or too alike for one.
    """
    if len(samples) < _MIN_SAMPLES:
        raise ValueError(f"a dictionary needs {_MIN_SAMPLES} samples, and there are {len(samples)}")
    try:
        trained = zstandard.train_dictionary(size_bytes, list(samples), dict_id=id, level=3)
    except zstandard.ZstdError as error:
        raise ValueError(f"no dictionary can be made of these {len(samples)} samples: {error}") from error
    return Dictionary(id, trained.as_bytes())


def encode_dictionary(dictionary: Dictionary, cluster_id: bytes) -> bytes:
    """Return the bytes of a dictionary's object."""
    data = dictionary.data
    body = _HEADER.pack(MAGIC, FORMAT_VERSION, HEADER_LENGTH, cluster_id, dictionary.id, len(data), dictionary.sha256)
    return body + _CRC.pack(crc32c(0, body)) + data


def decode_dictionary(name: str, data: bytes, cluster_id: bytes, id: int) -> Dictionary:
    """Return the dictionary of an object's bytes. Raises Corruption."""
    try:
        return _decode(data, cluster_id, id)
    except ValueError as error:
        raise damaged(name, 0, str(error)) from error


def _decode(data: bytes, cluster_id: bytes, id: int) -> Dictionary:
    if data[: len(MAGIC)] != MAGIC[: len(data)]:
        raise ValueError("the object does not begin as a dictionary does")
    if len(data) < HEADER_LENGTH:
        raise ValueError(f"the header is cut off after {len(data)} of {HEADER_LENGTH} bytes")
    _, version, header_length, cluster, found_id, length, sha256 = _HEADER.unpack_from(data)
    if version != FORMAT_VERSION:
        raise ValueError(f"it is of format version {version}; this software reads version {FORMAT_VERSION}")
    if header_length != HEADER_LENGTH or _CRC.pack(crc32c(0, data[: _HEADER.size])) != data[_HEADER.size : HEADER_LENGTH]:
        raise ValueError("the checksum of the header does not match")
    if cluster != cluster_id:
        raise ValueError(f"it belongs to the cluster {cluster.hex()}, not to {cluster_id.hex()}")
    if found_id != id:
        raise ValueError(f"it is the dictionary {found_id}, not {id}")
    body = data[HEADER_LENGTH:]
    if len(body) != length or hashlib.sha256(body).digest() != sha256:
        raise ValueError("its bytes are not those that its header speaks of")
    return Dictionary(id, body)


def store_dictionary(store: Store, names: ArchiveNames, dictionary: Dictionary) -> None:
    """Keep a dictionary in the archive; no harm where it is there. Raises Corruption where another has its id; StoreError."""
    data = encode_dictionary(dictionary, names.cluster_id)
    name = names.dictionary(dictionary.id)
    try:
        store.create(name, [data])
    except ObjectExists as error:
        if load_dictionary(store, names, dictionary.id).data != dictionary.data:
            raise damaged(name, 0, f"another dictionary has the id {dictionary.id}") from error


def load_dictionary(store: Store, names: ArchiveNames, id: int) -> Dictionary:
    """Return a dictionary of the archive. Raises Corruption, which names it, where it is missing or damaged; StoreError."""
    name = names.dictionary(id) if 0 <= id <= LAST_ID else f"{names.dictionaries}{id:x}"
    if not FIRST_ID <= id <= LAST_ID:
        raise damaged(name, 0, f"{id} is not the id of a dictionary")
    try:
        data = store.read(name, limit=HEADER_LENGTH + MAX_DICTIONARY_BYTES)
    except ObjectMissing as error:
        raise damaged(name, 0, "the dictionary is missing, and segments that name it cannot be read without it") from error
    except ValueError as error:
        raise damaged(name, 0, f"no dictionary has more than {MAX_DICTIONARY_BYTES} bytes") from error
    return decode_dictionary(name, data, names.cluster_id, id)


def dictionary_ids(store: Store, names: ArchiveNames) -> list[int]:
    """Return the ids of the archive's dictionaries, oldest first. Raises StoreError."""
    found = (parse_dictionary(info.name) for info in store.list(names.dictionaries))
    return sorted(id for id in found if id is not None)


def next_id(ids: Sequence[int]) -> int:
    """Return the id of the dictionary that comes after these. Raises ValueError where there is none left."""
    following = max(ids, default=FIRST_ID - 1) + 1
    if not FIRST_ID <= following <= LAST_ID:
        raise ValueError(f"no dictionary can come after the one with the id {following - 1}")
    return following


class Dictionaries:
    """The dictionaries of one cluster's archive, each loaded when it is first asked for. Safe for several threads."""

    def __init__(self, store: Store, names: ArchiveNames) -> None:
        self._store = store
        self._names = names
        self._loaded: dict[int, Dictionary] = {}
        self._lock = threading.Lock()

    def __call__(self, id: int) -> Dictionary:
        """Return a dictionary. Raises Corruption, which names it, where it is missing or damaged; StoreError."""
        with self._lock:
            found = self._loaded.get(id)
            if found is None:
                found = self._loaded[id] = load_dictionary(self._store, self._names, id)
            return found
