"""A log whose beginning is in tables: what is read of it, what may be gone, and what is refused by name."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from kvserver.base.coding import crc32c
from kvserver.base.errors import Corruption
from kvserver.base.fs import read_file
from kvserver.base.types import Epoch, Position
from kvserver.wal import format as fmt
from kvserver.wal.inspection import inspect_log
from kvserver.wal.junction import TAKES, Fit, Take
from support.histories import at, four_segments, random_history, recover_from, starts_without_writes
from support.logs import CREATION, PATHS, SmallLog
from support.memdisk import LOST
from support.memfs import MemoryFileSystem
from support.recordfs import RecordingFileSystem
from unit.docs.documents import in_code, section


def refused(fs: MemoryFileSystem, base: Position, known: Position | None = None, begun: Epoch | None = None) -> Corruption:
    """Return the refusal; nothing on the disk may have changed by it."""
    before = fs.contents()
    with pytest.raises(Corruption) as caught:
        recover_from(fs, base, known, begun)
    assert fs.contents() == before
    return caught.value


# The table of cases, row by row


def gap() -> tuple[MemoryFileSystem, Position]:
    """A segment that the tables do not hold is missing, and with it all before it."""
    history = four_segments()
    paths = [segment.path for segment in history.segments()]
    return history.without(*paths[:3]), at(history, 9)


def short() -> tuple[MemoryFileSystem, Position]:
    """The last segment is missing, and the tables hold a part of it."""
    history = four_segments()
    return history.without(history.segments()[-1].path), at(history, 12)


def straddles() -> tuple[MemoryFileSystem, Position]:
    """The tables end between the two commits of a group."""
    history = four_segments()
    return history.fs, at(history, 9)._replace(revision=8)


def foreign() -> tuple[MemoryFileSystem, Position]:
    """The tables end at a frame's end of which they have another chain."""
    history = four_segments()
    return history.fs, at(history, 9)._replace(chain=bytes(16))


REFUSED: dict[Fit, tuple[Callable[[], tuple[MemoryFileSystem, Position]], str]] = {
    Fit.GAP: (gap, "the log begins at revision 11, but the tables end at 9: segments are missing"),
    Fit.SHORT: (short, "the log ends at revision 10, but the tables end at 12: its newest part is missing"),
    Fit.STRADDLES: (straddles, "of different histories: the tables end at revision 8, inside revisions 8 to 9"),
    Fit.FOREIGN: (foreign, "of different histories: the log does not pass through revision 9 as the tables have it"),
}


def test_every_case_is_decided_and_shown_here() -> None:
    assert set(TAKES) == set(Fit)
    assert {fit for fit, take in TAKES.items() if take is Take.REFUSE} == set(REFUSED)
    assert set(TAKES.values()) == set(Take)


def test_the_documented_table_is_that_of_the_code() -> None:
    rows = section("docs/durability.md", "The log and the tables").table()
    documented = {in_code(row["case"])[0]: in_code(row["taken"])[0] for row in rows}
    assert documented == {fit.name: take.name for fit, take in TAKES.items()}
    assert [in_code(row["case"])[0] for row in rows] == [fit.name for fit in Fit]


@pytest.mark.parametrize("fit", REFUSED)
def test_what_does_not_fit_is_refused_by_name_and_with_a_remedy(fit: Fit) -> None:
    scene, message = REFUSED[fit]
    fs, base = scene()
    error = refused(fs, base)
    assert message in error.message
    assert "wal/" in error.hint


def test_without_tables_all_is_taken() -> None:
    history = four_segments()
    assert recover_from(history.fs, None).groups == history.groups


def test_tables_without_a_log_are_a_checkpoint_opened_for_the_first_time() -> None:
    fs = MemoryFileSystem()
    fs.make_dir(PATHS.wal)
    base = Position(Epoch(7, 77), 1000, bytes(range(16)))
    found = recover_from(fs, base)
    assert (found.groups, found.log.position, found.log.segments, found.log.epochs) == ([], base, [], [])
    log = SmallLog(fs).begin(Epoch(8, 88), found.log)
    group = log.put("a", "b")
    again = recover_from(fs, base, begun=Epoch(8, 88))
    assert (again.groups, again.log.position) == ([group], log.writer.position)
    assert again.log.epochs == [(Epoch(8, 88), base)]


@pytest.mark.parametrize("revision", [1, 3, 4, 6, 7, 9, 10, 12, 13])
def test_exactly_what_is_behind_the_tables_is_taken(revision: int) -> None:
    history = four_segments()
    base = at(history, revision)
    found = recover_from(history.fs, base)
    assert found.groups == history.behind(base)
    assert found.log.position == history.end
    assert [info.path for info in found.log.segments] == [segment.path for segment in history.segments()]
    assert found.log.epochs == [(history.epoch, CREATION)]
    after = history.fs.power_loss(lambda _: LOST)
    assert recover_from(after, base).groups == history.behind(base)


@pytest.mark.parametrize("revision", [4, 6, 7, 9])
def test_segments_before_the_tables_end_may_be_gone(revision: int) -> None:
    history = four_segments()
    base = at(history, revision)
    paths = [segment.path for segment in history.segments()]
    gone = paths[: {4: 1, 6: 1, 7: 2, 9: 2}[revision]]
    found = recover_from(history.without(*gone), base)
    assert (found.groups, found.log.position) == (history.behind(base), history.end)
    assert found.log.epochs == [(history.epoch, CREATION)]
    assert "segments are missing" in refused(history.without(*paths[: len(gone) + 1]), base).message


# Segments that the tables hold whole


def test_of_obsolete_segments_only_the_header_block_is_read() -> None:
    history = four_segments()
    obsolete = [segment.path for segment in history.segments()[:2]]
    garbage = {path: read_file(history.fs, path)[: fmt.SEGMENT_HEADER_LENGTH] + b"garbage" for path in obsolete}
    for path, data in garbage.items():
        history.fs.plant(path, data)
    base = at(history, 9)
    recording = RecordingFileSystem(history.fs)
    found = recover_from(recording, base)
    assert found.groups == history.behind(base)
    reads = {(op.path, op.offset, op.length) for op in recording.ops("pread") if op.path in obsolete}
    assert reads == {(path, 0, fmt.SEGMENT_HEADER_LENGTH) for path in obsolete}
    assert [info.length_bytes for info in found.log.segments[:2]] == [len(data) for data in garbage.values()]
    assert [info.end.revision for info in found.log.segments] == [4, 7, 10, 13]
    assert all(history.fs.contents()[path] == data for path, data in garbage.items())


def test_a_gap_between_obsolete_segments_is_none() -> None:
    history = four_segments()
    first, second, *_ = (segment.path for segment in history.segments())
    base = at(history, 9)
    found = recover_from(history.without(second), base)
    assert (found.groups, found.log.position) == (history.behind(base), history.end)
    assert found.log.segments[0].path == first
    assert "a segment is missing" in refused(history.without(second), at(history, 4)).message


def rewritten(data: bytes, change: Callable[[fmt.SegmentHeader], fmt.SegmentHeader]) -> bytes:
    return fmt.encode_segment_header(change(fmt.decode_segment_header(data))) + data[fmt.SEGMENT_HEADER_LENGTH :]


FORK = Epoch(1, 5)
DAMAGE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "a flipped bit": (lambda data: data[:50] + bytes([data[50] ^ 1]) + data[51:], "checksum of the segment header"),
    "cut off": (lambda data: data[:100], "cut off after 100 of 4096 bytes"),
    "empty": (lambda _: b"", "cut off after 0 of 4096 bytes"),
    "another cluster": (lambda data: rewritten(data, lambda h: h._replace(cluster_id=bytes(16))), "another cluster"),
    "another name": (lambda data: rewritten(data, lambda h: h._replace(first_revision=3)), "does not fit its name"),
    "a fork": (
        lambda data: rewritten(data, lambda h: h._replace(epoch=FORK, previous=h.previous._replace(epoch=FORK))),
        "one of them is of another history",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_header_of_an_obsolete_segment_is_refused_and_the_file_may_be_moved_away(damage: str) -> None:
    change, message = DAMAGE[damage]
    history = four_segments()
    second = history.segments()[1].path
    history.fs.plant(second, change(read_file(history.fs, second)))
    base = at(history, 9)
    error = refused(history.fs, base)
    assert (error.path, error.offset) == (second, 0)
    assert message in error.message
    assert "move the file out of wal/" in error.hint
    history.fs.remove(second)
    assert recover_from(history.fs, base).groups == history.behind(base)


# Starts without a write: several positions at one revision


@pytest.mark.parametrize("epoch", [1, 2, 3, 4])
def test_tables_may_end_at_any_of_the_positions_of_one_revision(epoch: int) -> None:
    history = starts_without_writes()
    base = at(history, 4, epoch)
    found = recover_from(history.fs, base, begun=history.epoch)
    assert (found.groups, found.log.position) == (history.behind(base), history.end)
    assert [epoch.number for epoch, _ in found.log.epochs] == [1, 2, 3, 4]


def test_headers_of_empty_segments_prove_the_way_from_the_tables_to_the_log() -> None:
    history = starts_without_writes()
    one, two, three, _ = (segment.path for segment in history.segments())
    base = at(history, 4, epoch=1)
    found = recover_from(history.without(one), base)
    assert (found.groups, found.log.position) == (history.behind(base), history.end)
    assert found.log.epochs[0] == (at(history, 4, epoch=2).epoch, base)
    for missing in ([one, two], [three], [two]):
        assert "of different histories" in refused(history.without(*missing), base).message
    fs = history.without(one)
    fs.plant(two, b"")
    assert "put back what is missing in wal/" in refused(fs, base).hint
    assert recover_from(history.without(one, two), at(history, 4, epoch=2)).groups == history.behind(base)


def test_epochs_older_than_a_gap_are_not_told() -> None:
    """Another epoch may have begun inside the gap: where the older one ended cannot be known here."""
    history = starts_without_writes()
    history.rotate()
    history.put("z")
    two = history.segments()[1]
    found = recover_from(history.without(two.path), history.end)
    assert [epoch.number for epoch, _ in found.log.epochs] == [3, 4]
    assert found.log.epochs[0] == (Epoch(3, 0xABC3), at(history, 4, epoch=2))


def test_a_log_of_another_epoch_at_the_tables_end_is_foreign() -> None:
    history = starts_without_writes()
    base = at(history, 4, epoch=3)
    assert "of different histories" in refused(history.fs, base._replace(epoch=Epoch(3, 1))).message
    assert "of different histories" in refused(history.fs, base._replace(epoch=Epoch(9, 9))).message


# What the register knows


def test_epochs_of_the_register_that_are_older_than_the_log_are_no_reason_to_refuse() -> None:
    history = four_segments()
    history.start()
    history.put("x")
    history.rotate()
    history.put("y")
    base = history.end
    gone = [segment.path for segment in history.segments()[:-1]]
    branch = at(history, 13, epoch=2)
    found = recover_from(history.without(*gone), base, known=branch, begun=history.epoch)
    assert (found.groups, found.log.epochs) == ([], [(history.epoch, at(history, 13, epoch=1))])


def test_a_log_that_lost_its_newest_epoch_is_refused() -> None:
    history = four_segments()
    base = history.end
    history.start()
    newest = history.segments()[-1].path
    error = refused(history.without(newest), base, known=base, begun=history.epoch)
    assert "ends before epoch 2" in error.message


def test_a_log_that_is_gone_whole_is_refused_where_an_epoch_has_begun() -> None:
    history = four_segments()
    fs = history.without(*(segment.path for segment in history.segments()))
    assert "ends before epoch 1" in refused(fs, history.end, begun=history.epoch).message
    error = refused(fs, at(history, 9), known=history.end)
    assert "segments are missing" in error.message


def test_a_torn_end_below_the_tables_end_is_not_cut() -> None:
    history = four_segments()
    last = history.segments()[-1].path
    whole = read_file(history.fs, last).rstrip(b"\0")
    history.fs.plant(last, whole[:-3])
    error = refused(history.fs, history.end)
    assert error.path == last
    assert "the log ends at revision 12, but the tables end at 13" in error.message
    assert [type(event).__name__ for event in recover_from(history.fs, at(history, 12)).events] == ["TornTailCut"]


# Anything at random


@pytest.mark.parametrize("seed", range(120))
def test_random_logs_with_segments_missing(seed: int) -> None:
    """Exactly the commits behind the tables, or Corruption, and that exactly where something needed is missing."""
    rng = random.Random(seed)
    history = random_history(rng)
    segments = history.segments()
    for _ in range(6):
        base = rng.choice(history.positions)
        needed = max(index for index, segment in enumerate(segments) if base in segment.shows)
        upto = rng.choice([needed, rng.randrange(len(segments))])
        missing = [index for index in range(min(upto, len(segments) - 1)) if rng.random() < 0.7]
        fs = history.without(*(segments[index].path for index in missing))
        if any(index >= needed for index in missing):
            refused(fs, base, begun=history.epoch)
            continue
        found = recover_from(fs, base, begun=history.epoch)
        assert (found.groups, found.log.position) == (history.behind(base), history.end)
        again = recover_from(fs.power_loss(lambda _: LOST), base, begun=history.epoch)
        assert (again.groups, again.log.position) == (found.groups, history.end)
        assert [report.problem for report in inspect_log(fs, PATHS, base) if report.problem] == []


@pytest.mark.parametrize("seed", range(40))
def test_tables_that_never_were_are_refused(seed: int) -> None:
    rng = random.Random(seed)
    history = random_history(rng)
    base = rng.choice(history.positions)
    ends = {position.revision for position in history.positions}
    inside = [revision for revision in range(2, history.end.revision) if revision not in ends]
    wrong = [
        base._replace(chain=crc32c(0, base.chain).to_bytes(16, "big")),
        base._replace(epoch=Epoch(base.epoch.number, base.epoch.nonce ^ 1)),
        history.end._replace(revision=history.end.revision + rng.randrange(1, 5)),
        *(base._replace(revision=revision) for revision in inside[:2]),
    ]
    for never in wrong:
        refused(history.fs, never, begun=history.epoch)
