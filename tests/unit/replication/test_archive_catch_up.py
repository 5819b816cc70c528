"""Which archived segments go on where a log ends, and that they come out as chunks of whole frames, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kvserver.archive.catalog import read_catalog
from kvserver.archive.dictionary import Dictionaries
from kvserver.archive.records import SegmentEntry
from kvserver.archive.segment_reading import open_segment
from kvserver.base.errors import Corruption
from kvserver.base.types import NO_EPOCH, Epoch, LogEnd, Position
from kvserver.replication.archive_catch_up import AT_ONCE, Piece, _Making, chunks_of, pieces_behind
from kvserver.replication.messages import Chunk
from kvserver.wal.format import SEGMENT_HEADER_LENGTH
from kvserver.wal.reader import SegmentReader
from support.archives import ArchiveScene
from support.logs import CREATION, PATHS


def made() -> ArchiveScene:
    """Three epochs: the first left in the middle of a segment, the second without a commit, the third goes on."""
    scene = ArchiveScene()
    scene.begin()
    scene.segment(2, 1)
    scene.segment(1, 3)
    branch = scene.frame_ends[5]
    scene.segment(4)
    scene.begin(branch=branch)
    scene.segment()
    scene.begin()
    scene.segment(2, 2)
    scene.segment(1)
    return scene


def pieces(scene: ArchiveScene, end: LogEnd) -> list[Piece]:
    return pieces_behind(read_catalog(scene.store, scene.cluster_id), end)


def plain() -> ArchiveScene:
    """Two epochs that follow one another at the end of a segment; the second begins with one that holds no commit."""
    scene = ArchiveScene()
    scene.begin()
    scene.segment(2, 1)
    scene.segment(1, 3)
    scene.begin()
    scene.segment()
    scene.begin()
    scene.segment(2, 2)
    return scene


def ends(scene: ArchiveScene, entry: SegmentEntry) -> list[LogEnd]:
    """Return every place at which a log may end within a segment."""
    reader = SegmentReader(PATHS.wal, scene.raw[entry])
    found = [LogEnd(reader.start, entry.segment_id, SEGMENT_HEADER_LENGTH)]
    found += [LogEnd(reader.position, entry.segment_id, reader.offset) for _ in reader.frames()]
    return [*found, LogEnd(entry.end, entry.segment_id, entry.raw_length)]


def raw_of(scene: ArchiveScene, piece: Piece, chunk_bytes: int = 1 << 20) -> bytes:
    segment = open_segment(scene.store, scene.names, piece.entry, Dictionaries(scene.store, scene.names))
    at, out = piece.offset, b""
    for chunk in chunks_of(segment, piece, chunk_bytes):
        assert (chunk.segment_id, chunk.offset) == (piece.entry.segment_id, at)
        at += len(chunk.data)
        out += chunk.data
    return out


def test_an_empty_log_takes_everything_in_order() -> None:
    scene = plain()
    found = pieces(scene, LogEnd(CREATION, 0, 0))
    assert [(piece.entry, piece.offset, piece.upto) for piece in found] == [(entry, 0, None) for entry in scene.entries]
    assert [raw_of(scene, piece) for piece in found] == [scene.raw[entry] for entry in scene.entries]


def test_from_every_place_of_every_segment_exactly_the_rest_follows() -> None:
    scene = plain()
    for index, entry in enumerate(scene.entries):
        for end in ends(scene, entry):
            found = pieces(scene, end)
            rest = scene.raw[entry][end.offset :]
            wanted = [rest] if rest else []
            wanted += [scene.raw[one] for one in scene.entries[index + 1 :]]
            assert [raw_of(scene, piece) for piece in found] == wanted, (index, end.offset)


def test_behind_tables_it_begins_with_the_whole_segment_that_has_the_next_revision() -> None:
    scene = plain()
    inside = scene.frame_ends[5]
    found = pieces(scene, LogEnd(inside, 0, 0))
    assert [(piece.entry, piece.offset) for piece in found] == [(entry, 0) for entry in scene.entries[1:]]
    found = pieces(scene, LogEnd(scene.entries[0].end, 0, 0))
    assert [(piece.entry, piece.offset) for piece in found] == [(entry, 0) for entry in scene.entries[1:]]


@pytest.mark.parametrize("wrong", ["chain", "epoch", "beyond", "another segment"])
def test_another_history_is_not_gone_on_with(wrong: str) -> None:
    scene = plain()
    entry = scene.entries[1]
    position = {
        "chain": entry.end._replace(chain=bytes(16)),
        "epoch": entry.end._replace(epoch=Epoch(1, 5)),
        "beyond": scene.position._replace(revision=100),
        "another segment": entry.end._replace(chain=b"x" * 16),
    }[wrong]
    assert pieces(scene, LogEnd(position, 77, 5000)) == []
    assert pieces(scene, LogEnd(Position(NO_EPOCH, 1, bytes(16)), 0, 0)) == []


def test_a_segment_or_tables_of_another_epoch_are_not_gone_on_with() -> None:
    scene = plain()
    forked = scene.frame_ends[5]._replace(epoch=Epoch(1, 5))
    assert pieces(scene, LogEnd(forked, scene.entries[1].segment_id, SEGMENT_HEADER_LENGTH)) == []
    assert pieces(scene, LogEnd(forked, 0, 0)) == []


def test_where_an_epoch_was_left_in_the_middle_of_a_segment_nothing_behind_that_is_taken() -> None:
    scene = made()
    first, second = scene.entries[:2]
    found = pieces(scene, LogEnd(CREATION, 0, 0))
    assert [piece.entry for piece in found] == [first, second]
    assert found[-1].end == found[-1].upto == scene.frame_ends[5]
    raw = raw_of(scene, found[-1])
    assert scene.raw[second].startswith(raw)
    reader = SegmentReader(PATHS.wal, raw)
    assert [frame.header.last_revision for frame in reader.frames()] == [5]
    assert reader.offset == len(raw), "neither a mark nor a seal that is not this history's"


def test_a_log_that_stands_where_the_epoch_was_left_goes_on_with_the_next_one() -> None:
    scene = made()
    left = scene.frame_ends[5]
    at = next(end for end in ends(scene, scene.entries[1]) if end.position == left)
    found = pieces(scene, at._replace(segment_id=0, offset=0))
    assert [piece.entry for piece in found[:1]] in ([scene.entries[1]], [scene.entries[3]])


@pytest.mark.parametrize("chunk_bytes", [1, 500, 5000, 1 << 20])
@pytest.mark.parametrize("block_bytes", [4096, 64 * 1024])
def test_chunks_are_whole_frames_whatever_their_size_and_that_of_blocks(chunk_bytes: int, block_bytes: int) -> None:
    scene = ArchiveScene()
    scene.begin()
    entry = scene.segment(*[3] * 120, block_bytes=block_bytes)
    places = {end.offset for end in ends(scene, entry)}
    for offset in (0, *sorted(places)[::30]):
        segment = open_segment(scene.store, scene.names, entry, Dictionaries(scene.store, scene.names))
        chunks = list(chunks_of(segment, Piece(entry, offset, None), chunk_bytes))
        assert b"".join(chunk.data for chunk in chunks) == scene.raw[entry][offset:]
        assert {chunk.offset for chunk in chunks} <= {0, *places}
        assert all(len(chunk.data) <= chunk_bytes + block_bytes + 16384 for chunk in chunks)


@pytest.mark.parametrize("at", range(0, 3000, 111))
def test_a_damaged_object_is_found(at: int) -> None:
    scene = ArchiveScene()
    scene.begin()
    entry = scene.segment(*[3] * 40, block_bytes=4096)
    name = scene.names.segment(entry.id)
    whole = scene.objects[name]
    at = at % len(whole)
    scene.objects[name] = whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :]
    with pytest.raises(Corruption):
        raw_of(scene, Piece(entry, 0, None))


@pytest.mark.parametrize("chunk_bytes", [1, 5000, 1 << 20])
def test_the_last_chunk_of_a_segment_that_leads_elsewhere_is_not_given_out(chunk_bytes: int) -> None:
    scene = plain()
    entry = scene.entries[1]
    segment = open_segment(scene.store, scene.names, entry, Dictionaries(scene.store, scene.names))
    for end in (entry.end._replace(chain=bytes(16)), entry.end._replace(revision=entry.end.revision + 1)):
        given = list[int]()
        with pytest.raises(Corruption, match="not to where the manifest says"):
            for chunk in chunks_of(segment, Piece(entry._replace(end=end), 0, None), chunk_bytes):
                given.append(chunk.offset + len(chunk.data))
        assert max(given, default=0) < entry.raw_length


def test_behind_the_place_where_the_source_has_left_an_epoch_nothing_of_it_is_taken() -> None:
    """Its primary has not closed the manifest yet, and the one before it has archived more than that."""
    scene = ArchiveScene()
    scene.begin()
    scene.segment(2, 1)
    scene.segment(1, 3)
    scene.segment(2)
    for left, taken in ((scene.frame_ends[5], 2), (scene.entries[1].end, 2), (scene.frame_ends[3], 1)):
        found = pieces_behind(read_catalog(scene.store, scene.cluster_id), LogEnd(CREATION, 0, 0), left)
        assert len(found) >= taken
        assert found[taken - 1].end == left or found[taken - 1].upto == left
        beyond = [piece for piece in found[taken:] if piece.end.revision > left.revision]
        assert beyond == []


def test_what_was_made_before_damage_is_handed_over_before_it_is_told() -> None:
    def chunks() -> Iterator[Chunk]:
        yield from (Chunk(1, offset, b"x") for offset in range(AT_ONCE + 1))
        raise Corruption("a segment", 0, "a flipped bit")

    making = _Making(chunks())
    assert [chunk.offset for chunk in making.some()] == list(range(AT_ONCE))
    assert [chunk.offset for chunk in making.some()] == [AT_ONCE]
    for _ in range(2):
        with pytest.raises(Corruption, match="a flipped bit"):
            making.some()
