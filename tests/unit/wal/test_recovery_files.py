"""Segments that are missing, moved, foreign or of another time: refused by name, with everything left as it was."""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from kvserver.base.coding import crc32c
from kvserver.base.errors import Corruption
from kvserver.base.events import TornTailCut
from kvserver.base.fs import read_file
from kvserver.base.paths import SegmentName
from kvserver.base.types import Epoch, Position
from kvserver.wal import format as fmt
from kvserver.wal.recovery import list_segments, recover
from support.logs import CLUSTER_ID, EPOCH, PATHS, Group, SmallLog, recover_log
from support.memfs import MemoryFileSystem


@dataclasses.dataclass
class Three:
    """Three segments with two groups each."""

    fs: MemoryFileSystem
    paths: list[Path]
    groups: list[Group]
    end: Position

    def data(self, index: int) -> bytes:
        return read_file(self.fs, self.paths[index])


@pytest.fixture
def three() -> Three:
    return write_three()


def write_three() -> Three:
    fs = MemoryFileSystem()
    log = SmallLog(fs).begin()
    for segment in range(3):
        if segment:
            log.writer.rotate()
        log.put(f"a{segment}", f"b{segment}")
        log.put(f"c{segment}")
    log.space.close()
    paths = [PATHS.segment(name) for name in list_segments(fs, PATHS)]
    return Three(fs, paths, log.groups, log.writer.position)


def refused(three: Three, known: Position | None = None) -> Corruption:
    """Return the refusal; nothing on the disk may have changed by it."""
    before = three.fs.contents()
    with pytest.raises(Corruption) as caught:
        recover_log(three.fs, known)
    assert three.fs.contents() == before
    assert "kvctl wal verify" in caught.value.hint
    return caught.value


def test_nothing_is_wrong_with_the_scene(three: Three) -> None:
    found = recover_log(three.fs, three.end)
    assert (found.groups, found.log.position) == (three.groups, three.end)


@pytest.mark.parametrize("missing", [0, 1])
def test_a_segment_missing_before_others_is_found_at_the_one_behind(three: Three, missing: int) -> None:
    three.fs.remove(three.paths[missing])
    error = refused(three)
    assert error.path == three.paths[missing + 1]
    assert "a segment is missing or from another history" in error.message


def test_a_missing_last_segment_is_found_where_something_else_knows_of_it(three: Three) -> None:
    three.fs.remove(three.paths[2])
    error = refused(three, known=three.end)
    assert error.path == three.paths[1]
    assert f"ends at revision 7, but revision {three.end.revision} was durable; segments are missing" in error.message
    assert recover_log(three.fs).groups == three.groups[:4]


def test_a_missing_last_epoch_is_found_where_something_else_knows_of_it(three: Three) -> None:
    found = recover_log(three.fs, begun=EPOCH)
    SmallLog(three.fs, new_segment_id=lambda: 77).begin(Epoch(2, 8), found.log)
    recover_log(three.fs, begun=Epoch(2, 8))
    three.fs.remove(PATHS.segment(SegmentName(2, three.end.revision + 1)))
    recover_log(three.fs, begun=EPOCH)
    before = three.fs.contents()
    with pytest.raises(Corruption, match="ends before epoch 2, whose first segment was durable; it is missing") as caught:
        recover_log(three.fs, three.end, Epoch(2, 8))
    assert caught.value.path == three.paths[2]
    assert three.fs.contents() == before


def test_all_segments_missing_is_found_where_something_else_knows_of_them(three: Three) -> None:
    for path in three.paths:
        three.fs.remove(path)
    error = refused(three, known=three.end)
    assert error.path == PATHS.wal


def test_a_torn_tail_below_what_is_known_to_be_durable_is_not_cut(three: Three) -> None:
    whole = three.data(2).rstrip(b"\0")
    three.fs.plant(three.paths[2], whole[:-3])
    error = refused(three, known=three.end)
    assert f"revision {three.end.revision} was durable" in error.message
    below = three.end._replace(revision=three.end.revision - 1)
    events = recover_log(three.fs, below).events
    assert [type(event) for event in events] == [TornTailCut]


def test_a_known_position_at_or_below_the_end_is_no_reason_to_refuse(three: Three) -> None:
    for revision in (1, 5, three.end.revision):
        recover_log(three.fs, three.end._replace(revision=revision))


def test_swapped_segments_do_not_fit_their_names(three: Three) -> None:
    one, two = three.data(0), three.data(1)
    three.fs.plant(three.paths[0], two)
    three.fs.plant(three.paths[1], one)
    error = refused(three)
    assert error.path == three.paths[0]
    assert "header does not fit its name" in error.message


@pytest.mark.parametrize("name", [SegmentName(1, 6), SegmentName(1, 100), SegmentName(2, 5), SegmentName(0, 1)])
def test_a_renamed_segment_is_refused(three: Three, name: SegmentName) -> None:
    three.fs.rename(three.paths[1], PATHS.segment(name))
    error = refused(three)
    assert error.path in (PATHS.segment(name), three.paths[2])
    assert "does not fit its name" in error.message or "a segment is missing" in error.message


@pytest.mark.parametrize("name", [SegmentName(1, 6), SegmentName(1, 100), SegmentName(2, 5)])
def test_a_copy_of_a_segment_under_another_name_is_refused(three: Three, name: SegmentName) -> None:
    three.fs.plant(PATHS.segment(name), three.data(1))
    error = refused(three)
    if name < SegmentName(1, 8):
        assert error.path == PATHS.segment(name)
        assert "header does not fit its name" in error.message
    else:  # found one step before: the open segment is not the last one any more
        assert error.path == three.paths[2]
        assert "without a seal although others follow" in error.message


@pytest.mark.parametrize("index", [0, 1, 2])
def test_an_empty_segment_file_is_refused(three: Three, index: int) -> None:
    three.fs.plant(three.paths[index], b"")
    error = refused(three)
    assert (error.path, error.offset) == (three.paths[index], 0)
    assert "cut off after 0 of 4096 bytes" in error.message


def rewritten(data: bytes, change: Callable[[fmt.SegmentHeader], fmt.SegmentHeader]) -> bytes:
    """Return the segment with another header that checks."""
    header = fmt.decode_segment_header(data)
    return fmt.encode_segment_header(change(header)) + data[fmt.SEGMENT_HEADER_LENGTH :]


def test_a_segment_of_another_cluster_is_refused(three: Three) -> None:
    foreign = bytes(16)
    three.fs.plant(three.paths[1], rewritten(three.data(1), lambda header: header._replace(cluster_id=foreign)))
    error = refused(three)
    assert error.path == three.paths[1]
    assert f"belongs to another cluster ({foreign.hex()})" in error.message


def test_a_whole_log_of_another_cluster_is_refused(three: Three) -> None:
    with pytest.raises(Corruption, match="another cluster"):
        recover(three.fs, PATHS, bytes(16), None, lambda *group: None)


def test_a_newer_format_version_is_refused_by_name(three: Three) -> None:
    block = bytearray(three.data(1))
    block[8:12] = struct.pack("<I", 2)
    block[4092:4096] = crc32c(0, bytes(block[:4092])).to_bytes(4, "little")
    three.fs.plant(three.paths[1], bytes(block))
    error = refused(three)
    assert error.path == three.paths[1]
    assert "format version 2; this software reads version 1" in error.message


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header._replace(previous_segment_id=99),
        lambda header: header._replace(previous=header.previous._replace(chain=bytes(16))),
        lambda header: header._replace(previous=header.previous._replace(revision=3)),
        lambda header: header._replace(previous=header.previous._replace(epoch=Epoch(1, 5))),
    ],
    ids=["segment id", "chain", "revision", "epoch"],
)
def test_a_segment_that_follows_another_history_is_refused(
    three: Three, change: Callable[[fmt.SegmentHeader], fmt.SegmentHeader]
) -> None:
    three.fs.plant(three.paths[1], rewritten(three.data(1), change))
    error = refused(three)
    assert error.path == three.paths[1]
    assert "from another history" in error.message


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header._replace(branch=header.branch._replace(revision=3)),
        lambda header: header._replace(branch=header.branch._replace(chain=bytes(16))),
    ],
    ids=["branch revision", "branch chain"],
)
def test_an_epoch_that_does_not_begin_where_the_log_stood_is_refused(
    three: Three, change: Callable[[fmt.SegmentHeader], fmt.SegmentHeader]
) -> None:
    found = recover_log(three.fs)
    SmallLog(three.fs, new_segment_id=lambda: 77).begin(Epoch(2, 8), found.log)
    path = PATHS.segment(list_segments(three.fs, PATHS)[-1])
    three.fs.plant(path, rewritten(read_file(three.fs, path), change))
    error = refused(three)
    assert error.path == path
    assert "epoch does not continue the one before it" in error.message


def test_an_epoch_may_not_go_back(three: Three) -> None:
    found = recover_log(three.fs)
    SmallLog(three.fs, new_segment_id=lambda: 77).begin(Epoch(2, 8), found.log)
    path = PATHS.segment(list_segments(three.fs, PATHS)[-1])
    data = rewritten(read_file(three.fs, path), lambda header: header._replace(epoch=Epoch(1, 8)))
    three.fs.remove(path)
    path = PATHS.segment(SegmentName(1, three.end.revision + 1))
    three.fs.plant(path, data)
    error = refused(three)
    assert (error.path, "does not continue" in error.message) == (path, True)


def test_a_segment_written_twice_over_the_same_history_is_refused(three: Three) -> None:
    """Two writers on one folder: the second one's first segment follows what the first one has already left behind."""
    twin = write_three()
    two_groups = recover_log(twin.fs)
    assert two_groups.groups == three.groups
    ids = iter([71, 72])
    log = SmallLog(twin.fs, new_segment_id=lambda: next(ids)).begin(Epoch(2, 8), two_groups.log)
    log.put("z")
    path = PATHS.segment(list_segments(twin.fs, PATHS)[-1])
    three.fs.remove(three.paths[2])
    three.fs.plant(path, read_file(twin.fs, path))
    error = refused(three)
    assert error.path == path
    assert "the log before it ends at 7" in error.message


def test_other_files_in_the_folder_are_left_alone(three: Three) -> None:
    strangers = {PATHS.wal / "notes.txt": b"mine", PATHS.wal / "00000001-0000000000000002.wal.00001000.torn": b"KVFg"}
    for path, content in strangers.items():
        three.fs.plant(path, content)
    assert recover_log(three.fs).groups == three.groups
    contents = three.fs.contents()
    assert all(contents[path] == content for path, content in strangers.items())


def test_the_first_segment_of_a_store_follows_its_creation() -> None:
    fs = MemoryFileSystem()
    log = SmallLog(fs)
    wrong = Position(Epoch(0, 0), 1, bytes(16))
    log.writer.begin_epoch(CLUSTER_ID, Epoch(1, 1), wrong, [], 0)
    with pytest.raises(Corruption, match="from another history"):
        recover_log(fs)
