"""Reading one segment: how it ends, what its frames prove, and frames that check but contradict those before them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvserver.base.errors import Corruption
from kvserver.base.types import Epoch, Position
from kvserver.wal import format as fmt
from kvserver.wal.reader import End, SegmentReader
from kvserver.wal.recovery import Case, classify
from support.logs import CLUSTER_ID, EPOCH, payload_of
from support.segments import HEADER, RawSegment

PATH = Path("/data/wal/segment")


class Segment(RawSegment):
    """A segment that can be read back."""

    def read(self, behind: bytes = bytes(500)) -> SegmentReader:
        """Return a reader that has walked the frames."""
        reader = SegmentReader(PATH, self.data + behind)
        for _ in reader.frames():
            pass
        return reader


def test_frames_come_out_in_order_with_their_payloads() -> None:
    segment = Segment().add(commits=2).mark().add(commits=3, time_ms=1500)
    reader = SegmentReader(PATH, segment.data)
    frames = list(reader.frames())
    assert [(frame.offset, frame.header.kind, frame.header.commits) for frame in frames] == [
        (4096, fmt.GROUP, 2),
        (segment.offsets[1], fmt.MARK, 0),
        (segment.offsets[2], fmt.GROUP, 3),
    ]
    assert [frame.payload for frame in frames] == [payload_of("0", "1"), b"", payload_of("0", "1", "2")]
    assert reader.position == Position(EPOCH, 6, segment.chain)
    assert (reader.groups, reader.time_ms, reader.offset) == (2, 2000, len(segment.data))


def test_the_payload_is_handed_out_without_its_padding() -> None:
    payload = payload_of("a", value=b"12345")
    assert len(payload) % 8
    reader = SegmentReader(PATH, Segment().add(payload=payload).data)
    assert [frame.payload for frame in reader.frames()] == [payload]


@pytest.mark.parametrize("behind", [b"", bytes(1), bytes(3 << 20)], ids=["nothing", "one zero", "many zeros"])
def test_a_segment_followed_by_space_is_open(behind: bytes) -> None:
    assert Segment().add().read(behind).end is End.OPEN
    assert Segment().read(behind).end is End.OPEN
    assert Segment().add().seal().read(behind).end is End.SEALED


@pytest.mark.parametrize(
    "behind", [b"\1", bytes(600) + b"\1", bytes(2 << 20) + b"x" + bytes(10)], ids=["at once", "later", "far"]
)
def test_what_is_neither_frame_nor_space_is_bad(behind: bytes) -> None:
    reader = Segment().add().read(behind)
    assert reader.end is End.BAD
    assert reader.offset == len(Segment().add().data)
    assert Segment().add().seal().read(behind).end is End.TRAILING


def test_a_frame_behind_a_seal_is_no_part_of_the_segment() -> None:
    reader = Segment().add().seal().add().read()
    assert (reader.end, reader.revision) == (End.TRAILING, 2)


def test_a_marks_and_a_seals_proof_reaches_to_their_begin() -> None:
    segment = Segment().add()
    assert segment.read().proven_length == 4096
    assert segment.mark().read().proven_length == segment.offsets[1]
    assert segment.seal().read().proven_length == segment.offsets[2]


def test_a_group_within_another_epoch_starts_from_that_epochs_chain() -> None:
    header = HEADER._replace(epoch=Epoch(2, 9), branch=Position(EPOCH, 1, bytes(16)), previous=Position(EPOCH, 1, bytes(16)))
    reader = Segment(header).read()
    assert reader.chain == fmt.epoch_chain(CLUSTER_ID, header.epoch, header.branch)


# Frames that check and yet cannot be


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"first_revision": 4}, "revision 3 is missing; 4 follows"),
        ({"first_revision": 2}, "revision 3 is missing; 2 follows"),
        ({"durable": (1 << 20, 2)}, "claims more to be durable than there is"),
        ({"durable": (4096, 3)}, "claims more to be durable than there is"),
        ({"chain": bytes(16)}, "the chain of history is broken"),
    ],
)
@pytest.mark.parametrize("kind", [fmt.GROUP, fmt.MARK, fmt.SEAL])
def test_a_frame_that_contradicts_what_came_before_is_corruption(kind: bytes, fields: dict[str, object], why: str) -> None:
    segment = Segment().add()
    offset = len(segment.data)
    segment.add(kind, commits=int(kind == fmt.GROUP), **fields)  # type: ignore[arg-type]
    with pytest.raises(Corruption) as refused:
        segment.read()
    assert why in refused.value.message
    assert (refused.value.path, refused.value.offset) == (PATH, offset)


def test_a_segment_whose_header_does_not_check_is_corruption_at_its_begin() -> None:
    with pytest.raises(Corruption) as refused:
        SegmentReader(PATH, b"\0" + Segment().data[1:])
    assert (refused.value.path, refused.value.offset) == (PATH, 0)


# What is behind a bad place


def spoil(segment: Segment, frame: int) -> SegmentReader:
    """Return a reader that stopped at the frame, one byte of which was changed."""
    at = segment.offsets[frame] + 60
    segment.data = segment.data[:at] + bytes([segment.data[at] ^ 1]) + segment.data[at + 1 :]
    reader = segment.read()
    assert (reader.end, reader.offset) == (End.BAD, segment.offsets[frame])
    return reader


def test_the_later_frame_that_proves_most_is_found() -> None:
    segment = Segment().add().add().mark().add()
    reader = spoil(segment, 1)
    later = reader.find_later_frame(reader.offset)
    assert later is not None
    assert classify(reader, is_last=True) is Case.PROVEN_LAST
    assert (later.kind, later.durable_length) == (fmt.GROUP, segment.offsets[3])


def test_a_later_frame_that_does_not_reach_so_far_is_no_proof() -> None:
    segment = Segment().add().add()
    reader = spoil(segment.add(durable=(segment.offsets[1], 2)), 1)
    assert reader.find_later_frame(reader.offset) is not None
    assert classify(reader, is_last=True) is Case.TORN_LAST


def test_nothing_is_found_behind_the_last_frame() -> None:
    reader = spoil(Segment().add().add(), 1)
    assert reader.find_later_frame(reader.offset) is None


def test_bytes_that_look_like_a_frame_are_no_proof() -> None:
    inner = Segment(HEADER._replace(segment_id=8)).add().add()
    copy = inner.data[4096:].ljust(1024, b"\0")
    reader = spoil(Segment().add().add(payload=b"KVFg" + bytes(12) + copy), 1)
    assert reader.find_later_frame(reader.offset) is None


def test_a_frame_at_an_odd_place_is_no_proof() -> None:
    whole = Segment().add().add().add()
    third = whole.data[whole.offsets[2] :]
    cut = Segment().add()
    cut.data += b"torn by the "
    reader = cut.read(behind=third)
    assert reader.end is End.BAD
    assert reader.find_later_frame(reader.offset) is None
    aligned = cut.read(behind=b"four" + third)
    assert aligned.find_later_frame(aligned.offset) is not None


def test_the_revisions_of_a_bad_frame_are_what_it_says_where_that_can_be() -> None:
    assert spoil(Segment().add(commits=2).add(commits=3), 1).bad_revisions() == (4, 6)
    assert spoil(Segment().add(commits=2).mark(), 1).bad_revisions() == (0, 0)
    other = Segment().add().add(first_revision=9)
    assert spoil(other, 1).bad_revisions() == (0, 0)
    assert Segment().add().read(behind=b"KVFg").bad_revisions() == (0, 0)
