"""Opening what is to be loaded: the format is told by the first bytes, never by the name."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

from kvctl.batches import Batch
from kvctl.binary import MAGIC, BinaryReader
from kvctl.files import InputFile
from kvctl.records import read_lines


class RecordSource:
    """The records of a file, whatever its format."""

    def __init__(self, file: InputFile) -> None:
        self.file = file
        self.format = "lines"
        """``lines`` or ``binary``; known when the first batch has been read."""
        self.about: dict[str, Any] = {}
        """What a binary export says of itself."""

    @property
    def unit(self) -> str:
        """What numbers count in this file."""
        return "record" if self.format == "binary" else "line"

    def batches(self, skip: int) -> Iterator[Batch]:
        """Bring the records behind the first ``skip`` lines or records; raise CtlError where the file cannot be read on."""
        chunks = self.file.chunks()
        first = b""
        for chunk in chunks:
            first += chunk
            if len(first) >= len(MAGIC) or not MAGIC.startswith(first):
                break
        both = chain([first], chunks)
        if not first or not MAGIC.startswith(first[: len(MAGIC)]):
            yield from read_lines(both, skip)
            return
        self.format = "binary"
        reader = BinaryReader(both, self.file.name)
        self.about = reader.read_head()
        yield from reader.batches(skip)
