"""What does not continue a follower's log exactly is refused by name, and changes nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kvserver.base.paths import is_prepared
from kvserver.base.types import Epoch, Position
from kvserver.wal import format as fmt
from kvserver.wal.received import ChunkRefused
from support.histories import at, four_segments, starts_without_writes
from support.log_scenes import flip
from support.logs import CLUSTER_ID, PATHS, SmallLog, recover_log
from support.memfs import MemoryFileSystem
from support.received_logs import Chunk, Follower, chunks


def refused(follower: Follower, chunk: Chunk) -> str:
    """Return why a chunk is refused; neither disk nor log may have changed by it."""
    assert isinstance(follower.fs, MemoryFileSystem)
    before = (follower.fs.contents(), follower.fs.unsynced(), follower.log.extent(), follower.log.end)
    with pytest.raises(ChunkRefused) as caught:
        follower.log.take(*chunk)
    assert (follower.fs.contents(), follower.fs.unsynced(), follower.log.extent(), follower.log.end) == before
    return str(caught.value)


class Scene:
    """A follower that has two segments and a half, and the chunks of one frame each with which its log goes on."""

    def __init__(self) -> None:
        self.history = four_segments()
        self.fs, self.writer = self.history.fs, self.history.log.writer
        self.all = list(chunks(self.fs, self.writer, (1001, 0), 1))
        self.follower = Follower()
        self.count = next(index for index, chunk in enumerate(self.all) if chunk[:2] == (1003, 0)) + 1
        for chunk in self.all[: self.count]:
            self.follower.take(chunk)
        self.follower.log.sync()
        self.next = self.all[self.count]

    def finish(self) -> None:
        """Check that the log takes what it has to, after all that it refused."""
        for chunk in self.all[self.count :]:
            self.follower.take(chunk)
        self.follower.log.sync()
        assert self.follower.log.end == self.writer.end
        assert self.follower.groups == self.history.groups


def test_a_chunk_with_any_bit_flipped_is_refused() -> None:
    scene = Scene()
    segment_id, offset, data = scene.next
    assert len(data) < 200
    for index in range(len(data)):
        reason = refused(scene.follower, (segment_id, offset, flip(data, index)))
        assert reason.startswith(f"segment {1003:016x}"), reason
        assert f"at offset {offset}" in reason
    scene.finish()


def test_a_first_chunk_with_any_bit_flipped_is_refused() -> None:
    scene = Scene()
    data = scene.all[0][2]
    follower = Follower()
    for index in [*range(200), *range(200, 4090, 97), *range(4088, len(data))]:
        refused(follower, (1001, 0, flip(data, index)))
    assert [name for name in follower.fs.list_dir(PATHS.wal) if is_prepared(name)] == []
    follower.take(scene.all[0])


def test_a_chunk_cut_off_anywhere_is_refused() -> None:
    scene = Scene()
    segment_id, offset, data = scene.next
    for length in range(len(data)):
        reason = refused(scene.follower, (segment_id, offset, data[:length]))
        assert ("is empty" if not length else "cut off") in reason
    scene.finish()


def test_a_first_chunk_cut_off_anywhere_is_refused() -> None:
    scene = Scene()
    data = scene.all[0][2]
    follower = Follower()
    whole = fmt.SEGMENT_HEADER_LENGTH
    for length in [*range(0, 4096, 101), *range(4090, whole), *range(whole + 1, len(data))]:
        assert "cut off" in refused(follower, (1001, 0, data[:length]))
    follower.take((1001, 0, data[:whole]))


def test_a_chunk_whose_last_frame_is_bad_is_not_taken_at_all() -> None:
    scene = Scene()
    segment_id, offset, _ = scene.next
    data = b"".join(chunk[2] for chunk in scene.all[scene.count :] if chunk[0] == segment_id)
    refused(scene.follower, (segment_id, offset, flip(data, len(data) - 1)))
    scene.finish()


def test_chunks_twice_out_of_order_or_missing_are_refused() -> None:
    scene = Scene()
    follower = scene.follower
    reasons = {chunk[:2]: refused(follower, chunk) for chunk in scene.all if chunk is not scene.next}
    assert "bytes up to" in reasons[scene.all[scene.count - 1][:2]]
    later = scene.all[scene.count + 1]
    assert later[0] == 1003 and f"the bytes from {scene.next[1]} on are missing" in reasons[later[:2]]
    assert "segment 00000000000003eb is being received" in reasons[(1004, 0)]
    assert "segment 00000000000003eb is being received" in reasons[(1001, 0)]
    assert "segment 00000000000003eb is being received" in reasons[scene.all[1][:2]]
    scene.finish()
    for chunk in scene.all:
        refused(follower, chunk)


def test_a_mark_twice_is_refused_although_it_would_check() -> None:
    source = SmallLog(MemoryFileSystem()).begin()
    source.put("a")
    follower = Follower().follow(source.fs, source.writer)
    source.writer.write_mark()
    (mark,) = follower.missing(source.fs, source.writer)
    follower.take(mark)
    assert "are here already" in refused(follower, mark)
    follower.log.sync()
    assert "are here already" in refused(follower, mark)
    assert follower.log.end == source.writer.end


def test_a_segment_that_would_take_the_name_of_an_empty_one_is_refused() -> None:
    source = SmallLog(MemoryFileSystem()).begin()
    ((segment_id, _, block),) = chunks(source.fs, source.writer, (source.writer.end.segment_id, 0), 1)
    header = fmt.decode_segment_header(block)
    position = source.writer.position
    payload = fmt.SEAL_PAYLOAD.pack(1, 0, 1)
    seal, _ = fmt.build_frame(fmt.SEAL, segment_id, fmt.crc_seed(segment_id), 2, 0, (len(block), 1), 1, position.chain, payload)
    follower = Follower()
    follower.take((segment_id, 0, block + seal))
    follower.log.sync()
    second = header._replace(segment_id=9, previous=position, previous_segment_id=segment_id)
    assert "a segment of its name is here" in refused(follower, (9, 0, fmt.encode_segment_header(second)))


def test_behind_a_seal_only_the_next_segment_is_taken() -> None:
    scene = Scene()
    follower = Follower()
    sealed = [chunk for chunk in scene.all if chunk[0] == 1001]
    for chunk in sealed:
        follower.take(chunk)
    for round in range(2):
        assert "the segment is here whole" in refused(follower, sealed[-1])
        assert "here already" in refused(follower, sealed[0])
        assert "begin is not here" in refused(follower, scene.next)
        assert "a segment is missing" in refused(follower, next(chunk for chunk in scene.all if chunk[:2] == (1003, 0)))
        if not round:
            follower.log.sync()
    follower.take(next(chunk for chunk in scene.all if chunk[:2] == (1002, 0)))


def test_nothing_may_follow_a_seal_in_its_chunk() -> None:
    scene = Scene()
    sealed = b"".join(chunk[2] for chunk in scene.all if chunk[0] == 1001)
    group = fmt.SEGMENT_HEADER_LENGTH
    follower = Follower()
    assert "something follows the seal" in refused(follower, (1001, 0, sealed + sealed[group:]))
    assert "something follows the seal" in refused(follower, (1001, 0, sealed + bytes(8)))


def test_a_seal_that_does_not_fit_is_refused() -> None:
    scene = Scene()
    walk = scene.follower.log._receiving[0].walk
    payload = fmt.SEAL_PAYLOAD.pack(walk.revision + 1, walk.groups, 0)
    seed = fmt.crc_seed(1003)
    frame, _ = fmt.build_frame(fmt.SEAL, 1003, seed, walk.revision + 1, 0, (walk.offset, walk.revision), 1, walk.chain, payload)
    assert "the seal does not fit" in refused(scene.follower, (1003, walk.offset, frame))
    scene.finish()


def test_frames_of_another_chain_are_refused() -> None:
    scene = Scene()
    walk = scene.follower.log._receiving[0].walk
    seed = fmt.crc_seed(1003)
    frame, _ = fmt.build_frame(
        fmt.GROUP, 1003, seed, walk.revision + 1, 1, (walk.offset, walk.revision), 1, bytes(16), b"payload!"
    )
    assert "the chain of history is broken" in refused(scene.follower, (1003, walk.offset, frame))
    for change, reason in ((1, "is missing"), (-1, "is missing")):
        frame, _ = fmt.build_frame(
            fmt.GROUP, 1003, seed, walk.revision + 1 + change, 1, (walk.offset, walk.revision), 1, walk.chain, b"payload!"
        )
        assert reason in refused(scene.follower, (1003, walk.offset, frame))
    frame, _ = fmt.build_frame(
        fmt.GROUP, 1003, seed, walk.revision + 1, 1, (walk.offset + 8, walk.revision), 1, walk.chain, b"payload!"
    )
    assert "more to be durable" in refused(scene.follower, (1003, walk.offset, frame))


def test_a_frame_that_claims_too_much_is_refused_before_it_is_waited_for() -> None:
    scene = Scene()
    segment_id, offset, data = scene.next
    claims = data[:4] + (1 << 31).to_bytes(4, "little") + data[8:]
    assert "none has more than" in refused(scene.follower, (segment_id, offset, claims))


# Segments of something else

HEADERS: dict[str, tuple[Callable[[fmt.SegmentHeader], fmt.SegmentHeader], str]] = {
    "another cluster": (lambda h: h._replace(cluster_id=bytes(16)), "belongs to another cluster"),
    "another id": (lambda h: h._replace(segment_id=77), "its header block is of segment"),
    "a lower epoch": (lambda h: h._replace(epoch=Epoch(0, 5)), "its epoch is lower than epoch 1"),
    "a forked epoch": (lambda h: h._replace(epoch=Epoch(1, 5)), "another epoch of the same number"),
    "another chain": (lambda h: h._replace(previous=h.previous._replace(chain=bytes(16))), "from another history"),
    "another predecessor": (lambda h: h._replace(previous_segment_id=77), "from another history"),
    "a gap": (
        lambda h: h._replace(first_revision=h.first_revision + 1, previous=h.previous._replace(revision=h.first_revision)),
        "a segment is missing",
    ),
    "a revision left out": (lambda h: h._replace(first_revision=h.first_revision + 1), "does not begin behind revision"),
    "an epoch that began elsewhere": (
        lambda h: h._replace(branch=h.branch._replace(chain=bytes(16))),
        "its epoch began elsewhere than the segment before it says",
    ),
    "a new epoch with another branch": (
        lambda h: h._replace(epoch=Epoch(2, 2), branch=h.branch),
        "its epoch does not continue the one before it",
    ),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_segment_that_does_not_follow_is_refused(name: str) -> None:
    change, reason = HEADERS[name]
    scene = Scene()
    follower = Follower()
    for chunk in scene.all:
        if chunk[0] == 1001:
            follower.take(chunk)
    follower.log.sync()
    whole = next(chunk for chunk in scene.all if chunk[:2] == (1002, 0))[2]
    header = fmt.decode_segment_header(whole)
    block = fmt.encode_segment_header(change(header))
    assert reason in refused(follower, (1002, 0, block))
    assert reason in refused(follower, (1002, 0, block + whole[fmt.SEGMENT_HEADER_LENGTH :]))
    follower.take((1002, 0, whole))


def test_the_first_segment_of_a_store_follows_its_creation() -> None:
    scene = Scene()
    follower = Follower()
    assert "this log is empty" in refused(follower, next(chunk for chunk in scene.all if chunk[:2] == (1002, 0)))
    other = Follower(cluster_id=bytes(16))
    assert CLUSTER_ID.hex() in refused(other, scene.all[0])
    assert "is of segment 00000000000003e9" in refused(follower, (0, *scene.all[0][1:]))


def test_the_log_of_a_fork_is_refused() -> None:
    """Two primaries of one epoch number, each with a segment behind the same one."""
    source = SmallLog(MemoryFileSystem()).begin()
    source.put("a")
    follower = Follower().follow(source.fs, source.writer)
    twin = MemoryFileSystem()
    for path, data in source.fs.contents().items():  # type: ignore[attr-defined]
        twin.plant(path, data)
    logs = []
    for fs, nonce in ((source.fs, 1), (twin, 2)):
        ids = iter([500 + nonce])
        logs.append(SmallLog(fs, new_segment_id=lambda ids=ids: next(ids)).begin(Epoch(2, nonce), recover_log(fs).log))
        logs[-1].put("b")
        logs[-1].writer.write_mark()
    follower.follow(source.fs, logs[0].writer, 1)
    theirs = list(chunks(twin, logs[1].writer, (502, 0), 1))
    for chunk in theirs:
        refused(follower, chunk)
    third = SmallLog(twin, new_segment_id=lambda: 600).begin(Epoch(3, 3), recover_log(twin).log)
    for chunk in chunks(twin, third.writer, (600, 0), 1):
        refused(follower, chunk)


def test_an_epoch_lower_than_one_that_the_log_has_come_to_is_refused() -> None:
    history = starts_without_writes()
    sent = list(chunks(history.fs, history.log.writer, (1001, 0), 1 << 20))
    follower = Follower()
    for chunk in sent[:3]:
        follower.take(chunk)
    follower.log.sync()
    header = fmt.decode_segment_header(sent[1][2])
    late = fmt.encode_segment_header(header._replace(segment_id=9, previous_segment_id=1003))
    assert "its epoch is lower than epoch 3" in refused(follower, (9, 0, late))


# Behind tables


def behind_tables(base: Position) -> tuple[Follower, list[Chunk]]:
    history = four_segments()
    return Follower(base=base), list(chunks(history.fs, history.log.writer, (1001, 0), 1 << 20))


def test_a_log_that_begins_behind_the_tables_is_refused() -> None:
    follower, sent = behind_tables(at(four_segments(), 6))
    assert "the tables end at revision 6; the log between is missing" in refused(follower, sent[2])
    follower.take(sent[1])


def test_tables_that_end_inside_a_group_are_of_another_history() -> None:
    follower, sent = behind_tables(at(four_segments(), 9)._replace(revision=8))
    assert "the tables end at revision 8, inside its revisions 8 to 9" in refused(follower, sent[2])


def test_a_log_that_comes_past_the_tables_by_another_way_is_refused() -> None:
    history = four_segments()
    for wrong in (
        at(history, 9)._replace(chain=bytes(16)),
        at(history, 9)._replace(epoch=Epoch(1, 1)),
        at(history, 7)._replace(chain=bytes(16)),
        at(history, 4)._replace(chain=bytes(16)),
    ):
        follower = Follower(base=wrong)
        index = {9: 2, 7: 2, 4: 1}[wrong.revision]
        sent = list(chunks(history.fs, history.log.writer, (1001, 0), 1 << 20))
        assert "by another way" in refused(follower, sent[index])
        assert follower.log.end == (wrong, 0, 0)


def test_what_was_gathered_before_the_tables_were_met_is_thrown_away_when_its_rest_does_not_fit() -> None:
    history = four_segments()
    history.put("e3")
    follower = Follower(base=at(history, 13)._replace(chain=bytes(16)))
    sent = follower.missing(history.fs, history.log.writer, 1)
    follower.take(sent[0])
    follower.log.sync()
    follower.take(sent[1])
    follower.log.sync()
    assert "by another way" in refused(follower, sent[2])
    assert follower.log.end.segment_id == 0
    follower.log.close()
    assert follower.fs.list_dir(PATHS.wal) == []
