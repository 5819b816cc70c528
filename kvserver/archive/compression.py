"""Blocks compressed and decompressed with zstd: the one module of the archive that knows the library, and what it lets pass.

Its one-shot decompression takes whatever length a frame claims, stops after the first of several frames, and checks content
only where a checksum was asked for when it was compressed. So a frame is written with its content size and a checksum, and read
only if it claims exactly what was expected. Both directions release the GIL. Objects of the library are for one thread at a time;
``Decompressor`` has one for each.
"""

from __future__ import annotations

import threading

import zstandard

from kvserver.archive.dictionary import Dictionary
from kvserver.base.limits import KIB


class Compressor:
    """Compresses blocks at one level, with a dictionary or without. For one thread at a time."""

    def __init__(self, level: int, dictionary: Dictionary | None = None) -> None:
        dict_data = None if dictionary is None else dictionary.for_compression(level)
        self._library = zstandard.ZstdCompressor(
            level=level, dict_data=dict_data, write_checksum=True, write_content_size=True, write_dict_id=True
        )

    def compress(self, block: bytes) -> bytes:
        """Return one zstd frame that is decodable alone, with content size and checksum."""
        return self._library.compress(block)


class Decompressor:
    """Decompresses blocks that were compressed with one dictionary, or without. Safe for several threads."""

    def __init__(self, dictionary: Dictionary | None = None) -> None:
        self._dict_data = None if dictionary is None else dictionary.for_decompression()
        self._dictionary_id = 0 if dictionary is None else dictionary.id
        self._threads = threading.local()

    def decompress(self, stored: bytes, raw_length: int) -> bytes:
        """Return the content of a zstd frame of which it is known how long it must be. Raises ValueError.

        Allocates no more than ``raw_length`` says: a frame that claims another length, or a window beyond it, is refused first.
        """
        try:
            frame = zstandard.get_frame_parameters(stored)
        except zstandard.ZstdError as error:
            raise ValueError(f"it is no zstd frame: {error}") from error
        if frame.content_size != raw_length:
            raise ValueError(f"the zstd frame claims a content of {_size(frame.content_size)}, not of {raw_length} bytes")
        if frame.window_size > max(raw_length, 1 * KIB):
            raise ValueError(f"the zstd frame claims a window of {frame.window_size} bytes for {raw_length}")
        if frame.dict_id != self._dictionary_id:
            raise ValueError(f"the zstd frame names the dictionary {frame.dict_id}, the header {self._dictionary_id}")
        if not frame.has_checksum:
            raise ValueError("the zstd frame has no checksum")
        try:
            return self._library().decompress(stored, max_output_size=raw_length, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise ValueError(f"it does not decompress: {error}") from error

    def _library(self) -> zstandard.ZstdDecompressor:
        library: zstandard.ZstdDecompressor | None = getattr(self._threads, "library", None)
        if library is None:
            library = self._threads.library = zstandard.ZstdDecompressor(dict_data=self._dict_data)
        return library


def _size(content_size: int) -> str:
    """Return how people read what a frame claims; the library says by two numbers that it claims nothing or is damaged."""
    return "no stated length" if content_size >= zstandard.CONTENTSIZE_ERROR else f"{content_size} bytes"
