"""Every case of the recovery table as a log on a disk in memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kvserver.base.fs import read_file
from kvserver.wal import format as fmt
from kvserver.wal.reader import SegmentReader
from kvserver.wal.recovery import DECISIONS, Case, Decision, list_segments
from support.logs import PATHS, SmallLog
from support.memfs import MemoryFileSystem


def flip(data: bytes, at: int) -> bytes:
    """Return the data with one bit the other way round."""
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


class Scene:
    """Two segments of three groups each, the second one open behind its last group, and one of them changed."""

    def __init__(self) -> None:
        self.fs = MemoryFileSystem()
        log = SmallLog(self.fs).begin()
        for number in range(3):
            log.put(f"a{number}", f"b{number}")
        log.writer.rotate()
        for number in range(3):
            log.put(f"c{number}", f"d{number}")
        self.log = log
        self.first, self.last = (PATHS.segment(name) for name in list_segments(self.fs, PATHS))
        self.at: dict[Path, int] = {}
        """Where recovery is to find something bad."""

    def end(self, path: Path) -> int:
        """Return where the last frame of a segment ends."""
        reader = SegmentReader(path, read_file(self.fs, path))
        for _ in reader.frames():
            pass
        return reader.offset

    def change(self, path: Path, how: Callable[[bytes], bytes], at: int) -> None:
        """Change a file, and note where recovery is to find that."""
        self.fs.plant(path, how(read_file(self.fs, path)))
        self.at = {path: at}

    def frame_offsets(self, path: Path) -> list[int]:
        """Return where a segment's frames begin, the seal left out."""
        reader = SegmentReader(path, read_file(self.fs, path))
        return [frame.offset for frame in reader.frames()]


def sealed_inside() -> Scene:
    """The log as it was written: its first segment is sealed."""
    return Scene()


def unsealed_inside() -> Scene:
    """The first segment has lost its seal."""
    scene = Scene()
    end = scene.end(scene.first) - fmt.SEAL_FRAME_LENGTH
    scene.change(scene.first, lambda data: data[:end], end)
    return scene


def damaged_inside() -> Scene:
    """A bit of the first segment is flipped."""
    scene = Scene()
    last_group = scene.frame_offsets(scene.first)[-1]
    scene.change(scene.first, lambda data: flip(data, last_group + 80), last_group)
    return scene


def sealed_last() -> Scene:
    """The log was closed cleanly."""
    scene = Scene()
    scene.log.writer.close()
    return scene


def torn_last() -> Scene:
    """A bit of the last group is flipped."""
    scene = Scene()
    last_group = scene.frame_offsets(scene.last)[-1]
    scene.change(scene.last, lambda data: flip(data, last_group + 80), last_group)
    return scene


def proven_last() -> Scene:
    """A bit of a group with another one behind it is flipped."""
    scene = Scene()
    middle = scene.frame_offsets(scene.last)[1]
    scene.change(scene.last, lambda data: flip(data, middle + 80), middle)
    return scene


def trailing() -> Scene:
    """Something stands behind the last seal."""
    scene = sealed_last()
    end = scene.end(scene.last)
    scene.change(scene.last, lambda data: data + b"something", end)
    return scene


SCENES: dict[Case, Callable[[], Scene]] = {
    Case.SEALED_INSIDE: sealed_inside,
    Case.UNSEALED_INSIDE: unsealed_inside,
    Case.DAMAGED_INSIDE: damaged_inside,
    Case.SEALED_LAST: sealed_last,
    Case.OPEN_LAST: Scene,
    Case.TORN_LAST: torn_last,
    Case.PROVEN_LAST: proven_last,
    Case.TRAILING: trailing,
}
INSIDE = {Case.SEALED_INSIDE, Case.UNSEALED_INSIDE, Case.DAMAGED_INSIDE}
REFUSED = [case for case, decision in DECISIONS.items() if decision is Decision.REFUSE]
