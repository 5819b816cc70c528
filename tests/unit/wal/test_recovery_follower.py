"""Recovery of a follower: the table of cases again, nothing sealed, and the place where the log goes on."""

from __future__ import annotations

import pytest

from kvserver.base.errors import Corruption
from kvserver.base.fs import read_file
from kvserver.base.types import Epoch, LogEnd
from kvserver.wal.reader import End, SegmentReader
from kvserver.wal.recovery import DECISIONS, RECEIVED_DECISIONS, Case, Decision, decide, recover
from support.histories import at, four_segments
from support.log_scenes import SCENES, Scene, flip, proven_last
from support.logs import CLUSTER_ID, EPOCH, PATHS, Group, SmallLog, recover_log
from support.memdisk import LOST
from support.memfs import MemoryFileSystem
from support.received_logs import Follower

KEPT = [case for case in Case if RECEIVED_DECISIONS[case] is not Decision.REFUSE]
REFUSED = [case for case in Case if RECEIVED_DECISIONS[case] is Decision.REFUSE]


def groups_kept(case: Case, scene: Scene) -> list[Group]:
    cut = {Case.TORN_LAST: 1, Case.PROVEN_LAST: 2}.get(case, 0)
    return scene.log.groups[: len(scene.log.groups) - cut]


def test_a_follower_decides_as_a_primary_but_for_what_it_received() -> None:
    assert {case for case in Case if DECISIONS[case] is not RECEIVED_DECISIONS[case]} == {Case.PROVEN_LAST}
    for case in Case:
        assert decide(case, follower=True, received=False) is DECISIONS[case]
        assert decide(case, follower=False, received=True) is DECISIONS[case]
        assert decide(case, follower=True, received=True) is RECEIVED_DECISIONS[case]


@pytest.mark.parametrize("case", KEPT)
def test_what_is_read_is_durable_and_not_sealed_and_the_end_is_told(case: Case) -> None:
    scene = SCENES[case]()
    follower = Follower(scene.fs)
    assert follower.groups == groups_kept(case, scene)
    found = follower.recovered
    last = found.segments[-1]
    assert found.end == LogEnd(last.end, last.header.segment_id, last.length_bytes) == follower.log.end
    after = scene.fs.power_loss(lambda _: LOST)
    reader = SegmentReader(scene.last, read_file(after, scene.last))
    list(reader.frames())
    sealed = case is Case.SEALED_LAST
    assert reader.end is (End.SEALED if sealed else End.OPEN)
    assert (len(reader.data), reader.position) == (last.length_bytes, last.end)
    assert found.open_groups == (None if sealed else reader.groups)


@pytest.mark.parametrize("case", KEPT)
def test_a_second_start_finds_the_same_and_changes_nothing(case: Case) -> None:
    scene = SCENES[case]()
    first = Follower(scene.fs)
    first.log.close()
    before = scene.fs.contents()
    second = Follower(scene.fs)
    assert (second.recovered.end, second.groups, second.events, second.told) == (first.recovered.end, first.groups, [], [])
    assert scene.fs.contents() == before


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_follower_refuses_stays_as_it_is(case: Case) -> None:
    scene = SCENES[case]()
    ((path, offset),) = scene.at.items()
    before = scene.fs.contents()
    with pytest.raises(Corruption) as refused:
        Follower(scene.fs)
    assert (refused.value.path, refused.value.offset, refused.value.what) == (path, offset, case.value)
    assert scene.fs.contents() == before


@pytest.mark.parametrize("case", [Case.OPEN_LAST, Case.TORN_LAST, Case.PROVEN_LAST, Case.SEALED_LAST])
def test_the_log_goes_on_where_it_was_cut(case: Case) -> None:
    whole = Scene()
    if case is Case.SEALED_LAST:
        whole.log.writer.write_mark()
        whole.log.writer.rotate()
    scene = SCENES[case]()
    follower = Follower(scene.fs)
    follower.follow(whole.fs, whole.log.writer)
    assert follower.groups == whole.log.groups
    assert follower.log.end == whole.log.writer.end


def test_a_received_place_that_later_frames_prove_is_cut_and_has_to_be_fetched_again() -> None:
    scene = proven_last()
    ((path, offset),) = scene.at.items()
    tail = read_file(scene.fs, path)[offset:].rstrip(b"\0")
    follower = Follower(scene.fs)
    newest = scene.log.writer.position.revision
    assert (follower.recovered.needs_revision, follower.told) == (newest, [newest])
    assert follower.recovered.end.offset == offset
    assert read_file(scene.fs.power_loss(lambda _: LOST), PATHS.torn(path, offset)) == tail
    assert [type(event).__name__ for event in follower.events] == ["TornTailCut"]


def test_what_has_to_be_fetched_again_is_told_before_anything_is_cut() -> None:
    scene = proven_last()
    before = scene.fs.contents()

    class Full(Exception):
        pass

    def keep(revision: int) -> None:
        raise Full

    with pytest.raises(Full):
        recover(
            scene.fs,
            PATHS,
            CLUSTER_ID,
            None,
            lambda *group: None,
            follower=True,
            wrote=lambda epoch: False,
            must_refetch=keep,
        )
    assert scene.fs.contents() == before


def test_what_this_node_wrote_as_primary_is_not_cut_where_later_frames_prove_it() -> None:
    scene = proven_last()
    before = scene.fs.contents()
    with pytest.raises(Corruption, match="a later frame proves") as refused:
        Follower(scene.fs, wrote=lambda epoch: epoch == EPOCH)
    assert "kvctl wal verify" in refused.value.hint
    assert scene.fs.contents() == before


def test_a_primary_refuses_what_was_received_and_is_proven_and_names_the_way_on() -> None:
    scene = proven_last()
    with pytest.raises(Corruption, match="a later frame proves") as refused:
        recover(scene.fs, PATHS, CLUSTER_ID, None, lambda *group: None, wrote=lambda epoch: False)
    assert "start the node as a follower" in refused.value.hint


def test_a_torn_end_that_nothing_proves_needs_nothing_again() -> None:
    follower = Follower(SCENES[Case.TORN_LAST]().fs)
    assert (follower.told, follower.recovered.needs_revision) == ([], 0)


def test_a_cut_below_the_end_of_the_tables_is_corruption() -> None:
    history = four_segments()
    history.put("x")
    path = history.segments()[-1].path
    data = read_file(history.fs, path)
    frames = [frame.offset for frame in SegmentReader(path, data).frames()]
    history.fs.plant(path, flip(data, frames[1] + 80))
    before = history.fs.contents()
    with pytest.raises(Corruption, match="the log ends at revision 12, but the tables end at 13"):
        Follower(history.fs, at(history, 13))
    assert history.fs.contents() == before
    assert Follower(history.fs, at(history, 12)).told == [14]


def test_a_follower_may_be_behind_the_register() -> None:
    history = four_segments()
    ahead = history.end._replace(revision=1000)
    found = recover(
        history.fs, PATHS, CLUSTER_ID, ahead, lambda *group: None, begun=Epoch(9, 9), follower=True, wrote=lambda epoch: False
    )
    assert found.position == history.end
    with pytest.raises(Corruption, match="revision 1000 was durable"):
        recover(history.fs, PATHS, CLUSTER_ID, ahead, lambda *group: None)


def test_a_name_without_a_header_is_no_crash_and_is_refused() -> None:
    """A file gets its name when its header is durable; so a torn one was harmed later, on a follower too."""
    for header in (b"", bytes(4096), bytes(100)):
        history = four_segments()
        history.fs.plant(history.segments()[-1].path, header)
        with pytest.raises(Corruption, match="segment"):
            Follower(history.fs)


def test_space_behind_the_last_frame_is_cut_so_that_the_log_goes_on_there() -> None:
    disk = MemoryFileSystem()
    source = SmallLog(disk).begin()
    source.put("a")
    copy = disk.clone()
    assert read_file(copy, source.writer.segment.path).endswith(bytes(1000))
    follower = Follower(copy)
    assert len(read_file(copy, source.writer.segment.path)) == follower.log.end.offset == source.writer.end.offset
    source.put("b")
    source.writer.rotate()
    source.put("c")
    follower.follow(disk, source.writer)
    assert recover_log(copy).groups == source.groups
