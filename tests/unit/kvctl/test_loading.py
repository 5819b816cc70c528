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
from kvctl import loading
from kvctl.failures import CtlError
from kvctl.files import InputFile
from kvctl.loading import Account, LeftOut, Lines
from kvctl.reading import RecordSource

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


def encode(key: bytes, value: bytes) -> bytes:
    return json.dumps({"key": key.decode(), "value": value.decode()}).encode() + b"\n"


def frames_of(path: Path, skip: int = 0, left_out: LeftOut | None = None) -> list[PutFrame[Lines]]:
    source = InputFile(str(path))
    try:
        return list(loading.frames(RecordSource(source), skip, left_out))
    finally:
        source.close()


def test_frames_end_at_their_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "MAX_FRAME_PUTS", 4)
    monkeypatch.setattr(loading, "MAX_FRAME_BYTES", 100)
    path = tmp_path / "in"
    values = ["v"] * 9 + ["v" * 60] * 3 + ["v" * 500] + ["v"]
    path.write_bytes(b"".join(encode(b"k", value.encode()) for value in values))
    made = frames_of(path)
    assert [len(frame.keys) for frame in made] == [4, 4, 2, 1, 1, 1, 1]
    assert [frame.tag.last for frame in made] == [4, 8, 10, 11, 12, 13, 14]
    assert [line for frame in made for line in frame.tag.of_puts] == list(range(1, 15))
    assert [len(frame.keys) for frame in frames_of(path, skip=12)] == [1, 1]
    assert frames_of(path, skip=99) == []


def test_blank_lines_belong_to_the_frame_before_them(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(encode(b"a", b"") + b"\n \n" + encode(b"b", b"") + b"\n\n")
    (frame,) = frames_of(path)
    assert (frame.keys, frame.tag) == ([b"a", b"b"], Lines([1, 4], 6))


def test_lines_left_out_are_not_looked_at(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(b"nonsense\n" + encode(b"a", b""))
    with pytest.raises(CtlError, match="line 1"):
        frames_of(path)
    assert [frame.keys for frame in frames_of(path, skip=1)] == [[b"a"]]


def test_what_stands_before_a_fault_is_sent_and_nothing_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "in"
    path.write_bytes(encode(b"a", b"") + b"nonsense\n" + encode(b"b", b"") + encode(b"", b""))
    source = InputFile(str(path))
    made = loading.frames(RecordSource(source), 0, None)
    assert next(made).keys == [b"a"]
    with pytest.raises(CtlError, match="line 2: not JSON") as caught:
        next(made)
    source.close()
    assert (caught.value.exit_code, caught.value.fields) == (1, {"line": 2})


def test_faults_are_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "NAMED_FAULTS", 1)
    path = tmp_path / "in"
    path.write_bytes(encode(b"a", b"") + b"nonsense\n" + encode(b"b", b"") + encode(b"", b""))
    left_out = LeftOut()
    (frame,) = frames_of(path, left_out=left_out)
    assert (frame.keys, frame.tag) == ([b"a", b"b"], Lines([1, 3], 4))
    assert (left_out.records, [fault.number for fault in left_out.named]) == (2, [2])


def test_what_a_server_always_refuses_is_left_out_too() -> None:
    account = Account(skip=0, left_out=LeftOut())
    account.take(answer(1, failed=1))
    assert account.left_out is not None
    assert (account.failure, account.through_line, account.records) == (None, PUTS, PUTS - 1)
    assert [(fault.number, fault.code) for fault in account.left_out.named] == [(2, "EMPTY_KEY")]
    account.take(answer(2, 0, rejected=True))
    assert account.failure is not None, "a whole frame is not one record's fault"
