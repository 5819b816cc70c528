"""Frames made of lines, and the account of what was acknowledged, whatever the order of the answers."""

from __future__ import annotations

import json
from io import FileIO
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvclient import Durability, InvalidRequestError
from kvclient.bulk import FrameAnswer, PutFailure, PutFrame
from kvctl import loading, records
from kvctl.failures import CtlError
from kvctl.loading import Account, Lines

FRAMES = 6
PUTS = 3


def answer(number: int, failed: int | None = None, *, rejected: bool = False) -> FrameAnswer[Lines]:
    """Return the answer to the n-th frame of three lines each, of which one put may have failed."""
    lines = list(range((number - 1) * PUTS + 1, number * PUTS + 1))
    frame = PutFrame([b"k%d" % line for line in lines], [b"v"] * PUTS, Lines(lines, lines[-1]))
    failures = [] if failed is None else [PutFailure(failed, InvalidRequestError("EMPTY_KEY", "no"))]
    commits = 0 if rejected else PUTS - len(failures)
    first = number * 100 if commits else 0
    return FrameAnswer(number, frame, first, commits, Durability.LOCAL, failures, rejected)


@given(st.permutations(range(1, FRAMES + 1)))
def test_only_what_has_no_gap_before_it_counts_as_done(order: list[int]) -> None:
    account = Account(skip=0)
    seen: set[int] = set()
    for number in order:
        account.take(answer(number))
        seen.add(number)
        whole = next(n for n in range(FRAMES + 1) if n + 1 not in seen)
        assert (account.through_line, account.records) == (whole * PUTS, len(seen) * PUTS)
    assert (account.first_revision, account.last_revision) == (100, FRAMES * 100 + 2)


@given(st.permutations(range(1, FRAMES + 1)), st.integers(1, FRAMES), st.integers(0, PUTS - 1))
def test_a_failure_ends_what_is_done_before_its_line(order: list[int], bad_frame: int, place: int) -> None:
    account = Account(skip=0)
    for number in order:
        account.take(answer(number, place if number == bad_frame else None))
    bad_line = (bad_frame - 1) * PUTS + place + 1
    assert account.failure is not None
    assert (account.failure.line, account.through_line) == (bad_line, bad_line - 1)
    assert account.records == FRAMES * PUTS - 1


def test_of_a_rejected_frame_nothing_counts() -> None:
    account = Account(skip=7)
    account.take(answer(1, 0, rejected=True))
    assert (account.records, account.bytes, account.first_revision, account.through_line) == (0, 0, 0, 0)


def test_the_log_of_acknowledged_keys_leaves_failures_out(tmp_path: Path) -> None:
    account = Account(skip=0)
    with FileIO(tmp_path / "acked", "ab") as log:
        account.acked_log = log
        account.take(answer(1, failed=1))
        noted = (tmp_path / "acked").read_text().splitlines()
    assert [json.loads(line) for line in noted] == [{"key": "k1", "revision": 100}, {"key": "k3", "revision": 101}]


def frames_of(path: Path, skip: int = 0) -> list[PutFrame[Lines]]:
    source = records.InputFile(str(path))
    try:
        return list(loading.frames(source, skip))
    finally:
        source.close()


def test_frames_end_at_their_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "MAX_FRAME_PUTS", 4)
    monkeypatch.setattr(loading, "MAX_FRAME_BYTES", 100)
    path = tmp_path / "in"
    values = ["v"] * 9 + ["v" * 60] * 3 + ["v" * 500] + ["v"]
    path.write_bytes(b"".join(records.encode(b"k", value.encode()) for value in values))
    made = frames_of(path)
    assert [len(frame.keys) for frame in made] == [4, 4, 2, 1, 1, 1, 1]
    assert [frame.tag.last for frame in made] == [4, 8, 10, 11, 12, 13, 14]
    assert [line for frame in made for line in frame.tag.of_puts] == list(range(1, 15))
    assert [len(frame.keys) for frame in frames_of(path, skip=12)] == [1, 1]
    assert frames_of(path, skip=99) == []


def test_blank_lines_belong_to_the_frame_before_them(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(records.encode(b"a", b"") + b"\n \n" + records.encode(b"b", b"") + b"\n\n")
    (frame,) = frames_of(path)
    assert (frame.keys, frame.tag) == ([b"a", b"b"], Lines([1, 4], 6))


def test_lines_left_out_are_not_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"nonsense\n" + records.encode(b"a", b""))
    with pytest.raises(CtlError, match="line 1"):
        frames_of(path)
    assert [frame.keys for frame in frames_of(path, skip=1)] == [[b"a"]]
