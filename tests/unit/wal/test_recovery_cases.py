"""The recovery table, case by case: what is done about each, and that doing it twice comes to the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvserver.base.errors import Corruption
from kvserver.base.events import TornTailCut
from kvserver.base.fs import read_file
from kvserver.base.types import Epoch
from kvserver.wal import format as fmt
from kvserver.wal.reader import SegmentReader
from kvserver.wal.recovery import DECISIONS, Case, Decision, classify, recover
from support.log_scenes import INSIDE, REFUSED, SCENES, Scene, sealed_last, torn_last
from support.logs import CLUSTER_ID, CREATION, PATHS, Group, SmallLog, recover_log
from support.memdisk import LOST
from support.memfs import MemoryFileSystem
from support.recordfs import CHANGING, Op, RecordingFileSystem


def segment_of(case: Case, scene: Scene) -> Path:
    return scene.first if case in INSIDE else scene.last


def test_every_case_has_a_decision_and_a_scene() -> None:
    assert set(DECISIONS) == set(SCENES) == set(Case)
    assert set(DECISIONS.values()) == set(Decision)


@pytest.mark.parametrize("case", Case)
def test_each_scene_is_taken_for_its_case(case: Case) -> None:
    scene = SCENES[case]()
    path = segment_of(case, scene)
    reader = SegmentReader(path, read_file(scene.fs, path))
    for _ in reader.frames():
        pass
    assert classify(reader, is_last=path == scene.last) is case


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_names_file_offset_and_command_and_changes_nothing(case: Case) -> None:
    scene = SCENES[case]()
    ((path, offset),) = scene.at.items()
    before = scene.fs.contents()
    with pytest.raises(Corruption) as refused:
        recover_log(scene.fs)
    error = refused.value
    assert (error.path, error.offset, error.what) == (path, offset, case.value)
    assert f"{path}: damaged at offset {offset}" in error.message
    assert "kvctl wal verify" in error.hint
    assert scene.fs.contents() == before


def test_what_trails_a_seal_is_refused_inside_the_log_too() -> None:
    scene = Scene()
    end = scene.end(scene.first)
    scene.change(scene.first, lambda data: data + b"something", end)
    with pytest.raises(Corruption, match="something behind a seal") as refused:
        recover_log(scene.fs)
    assert (refused.value.path, refused.value.offset) == (scene.first, end)


def test_a_sealed_segment_inside_the_log_ends_with_its_seal() -> None:
    scene = Scene()
    end = scene.end(scene.first)
    scene.change(scene.first, lambda data: data + bytes(8), end)
    with pytest.raises(Corruption, match="does not end with its seal") as refused:
        recover_log(scene.fs)
    assert (refused.value.path, refused.value.offset) == (scene.first, end)


def kept(case: Case, scene: Scene) -> list[Group]:
    return scene.log.groups[:-1] if case is Case.TORN_LAST else scene.log.groups


@pytest.mark.parametrize("case", [case for case in Case if case not in REFUSED])
def test_what_is_not_refused_is_read_made_durable_and_sealed(case: Case) -> None:
    scene = SCENES[case]()
    untouched = read_file(scene.fs, scene.first)
    found = recover_log(scene.fs)
    groups = kept(case, scene)
    assert found.groups == groups
    assert found.log.position.revision == groups[-1].first_revision + groups[-1].commits - 1
    assert [info.path for info in found.log.segments] == [scene.first, scene.last]
    assert found.log.epochs == [(scene.log.writer.position.epoch, CREATION)]
    assert read_file(scene.fs, scene.first) == untouched
    after = scene.fs.power_loss(lambda _: LOST)
    for info in found.log.segments:
        reader = SegmentReader(info.path, read_file(after, info.path))
        list(reader.frames())
        assert (reader.end.value, reader.position, reader.offset) == ("sealed", info.end, info.length_bytes)
        assert len(reader.data) == info.length_bytes


@pytest.mark.parametrize("case", [case for case in Case if case not in REFUSED])
def test_a_second_recovery_finds_the_same_and_changes_nothing(case: Case) -> None:
    scene = SCENES[case]()
    first = recover_log(scene.fs)
    before = scene.fs.contents()
    second = recover_log(scene.fs)
    assert (second.log, second.groups, second.events) == (first.log, first.groups, [])
    assert scene.fs.contents() == before


@pytest.mark.parametrize("case", [Case.OPEN_LAST, Case.TORN_LAST, Case.SEALED_LAST])
def test_what_no_later_frame_proves_is_written_again_before_it_is_shown(case: Case) -> None:
    scene = SCENES[case]()
    whole = read_file(scene.fs, scene.last)
    reader = SegmentReader(scene.last, whole)
    list(reader.frames())
    proven = reader.proven_length
    assert fmt.SEGMENT_HEADER_LENGTH < proven < reader.offset
    with_holes = MemoryFileSystem()
    with_holes.plant(scene.first, read_file(scene.fs, scene.first))
    with_holes.plant(scene.last, whole[:proven])
    file = with_holes.open(scene.last, writable=True)
    file.pwrite(whole[proven:], proven)
    file.drop_unsynced()  # as a failed sync leaves it: in the cache, clean, and not on the disk
    found = recover_log(with_holes)
    after = with_holes.power_loss(lambda _: LOST)
    assert recover_log(after).groups == found.groups == kept(case, scene)


def test_a_torn_tail_is_kept_aside_and_reported() -> None:
    scene = torn_last()
    ((path, offset),) = scene.at.items()
    tail = read_file(scene.fs, path)[offset:].rstrip(b"\0")
    lost = scene.log.groups[-1]
    events = recover_log(scene.fs).events
    kept_as = PATHS.torn(path, offset)
    last_revision = lost.first_revision + lost.commits - 1
    assert events == [TornTailCut(path.name, offset, len(tail), lost.first_revision, last_revision, kept_as.name)]
    assert read_file(scene.fs.power_loss(lambda _: LOST), kept_as) == tail
    assert kept_as.name.endswith(".torn")


def test_a_torn_tail_is_safe_before_it_is_cut() -> None:
    scene = torn_last()
    ((path, _),) = scene.at.items()
    recording = RecordingFileSystem(scene.fs)
    recover_log(recording)
    calls = [(op.kind, op.path) for op in recording.entries if isinstance(op, Op) and op.kind in CHANGING]
    written_as = PATHS.prepared(0)
    assert calls[:3] == [("create", written_as), ("pwrite", written_as), ("sync", written_as)]
    assert calls[3:6] == [("link", written_as), ("remove", written_as), ("sync_dir", PATHS.wal)]
    assert calls[6] == ("truncate", path)


def test_space_behind_the_last_seal_is_cut_off() -> None:
    """As an end between the seal frame and the cut behind it leaves it; inside a log it would be refused."""
    scene = sealed_last()
    end = scene.end(scene.last)
    scene.fs.plant(scene.last, read_file(scene.fs, scene.last) + bytes(5000))
    found = recover_log(scene.fs)
    assert found.groups == scene.log.groups
    assert len(read_file(scene.fs.power_loss(lambda _: LOST), scene.last)) == end


def test_a_torn_tail_that_was_kept_is_not_replaced_by_the_seal_that_recovery_left_torn() -> None:
    """The power fails while recovery seals: what is torn now at the same place is recovery's own."""
    scene = torn_last()
    ((path, offset),) = scene.at.items()
    scene.fs.plant(PATHS.torn(path, offset), b"what was kept")
    recover_log(scene.fs)
    assert read_file(scene.fs, PATHS.torn(path, offset)) == b"what was kept"


def test_a_chain_that_is_broken_between_frames_that_check_is_corruption() -> None:
    scene = Scene()
    data = read_file(scene.fs, scene.last)
    header = fmt.decode_segment_header(data)
    middle = scene.frame_offsets(scene.last)[1]
    seed = fmt.crc_seed(header.segment_id)
    frame = fmt.check_frame(data, middle, header.segment_id, seed)
    assert frame is not None
    forged, _ = fmt.build_frame(
        fmt.GROUP,
        header.segment_id,
        seed,
        frame.first_revision,
        frame.commits,
        (frame.durable_length, frame.durable_upto),
        frame.time_ms,
        bytes(16),
        data[middle + 72 : middle + 72 + frame.payload_length],
    )
    scene.fs.plant(scene.last, data[:middle] + forged + data[middle + len(forged) :])
    with pytest.raises(Corruption, match="the chain of history is broken") as refused:
        recover_log(scene.fs)
    assert (refused.value.path, refused.value.offset) == (scene.last, middle)


def test_what_apply_cannot_parse_is_corruption_at_its_frame() -> None:
    scene = Scene()

    def apply(first_revision: int, count: int, payload: bytes) -> None:
        if first_revision == scene.log.groups[4].first_revision:
            raise ValueError("no such commit")

    before = scene.fs.contents()
    with pytest.raises(Corruption, match="no such commit") as refused:
        recover(scene.fs, PATHS, CLUSTER_ID, None, apply)
    assert (refused.value.path, refused.value.offset) == (scene.last, scene.frame_offsets(scene.last)[1])
    assert scene.fs.contents() == before


def test_an_empty_log_is_the_stores_creation() -> None:
    fs = MemoryFileSystem()
    fs.make_dir(PATHS.wal)
    found = recover_log(fs)
    assert (found.log.position, found.log.segments, found.log.epochs) == (CREATION, [], [])


def test_epochs_follow_each_other_and_are_listed_with_their_begin() -> None:
    fs = MemoryFileSystem()
    one = SmallLog(fs).begin()
    one.put("a", "b")
    after_one = recover_log(fs)
    ids = iter([71, 72])
    two = SmallLog(fs, new_segment_id=lambda: next(ids)).begin(Epoch(2, 22), after_one.log)
    two.put("c")
    two.writer.rotate()
    found = recover_log(fs)
    assert found.groups == one.groups + two.groups
    assert found.log.epochs == [(Epoch(1, one.writer.position.epoch.nonce), CREATION), (Epoch(2, 22), after_one.log.position)]
    assert found.log.position == two.writer.position
