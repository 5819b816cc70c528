"""File names: made and parsed in one place, in the order of history."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.base.paths import DataPaths, SegmentName, is_damaged, is_prepared, is_torn, parse_claim, parse_segment

PATHS = DataPaths(Path("/data"))
epochs = st.integers(0, 2**32 - 1)
names = st.builds(SegmentName, epochs, st.integers(0, 2**64 - 1))


def test_names_are_these() -> None:
    segment = PATHS.segment(SegmentName(3, 0x1234))
    found = {
        "lock": PATHS.lock,
        "identity": PATHS.identity,
        "claim": PATHS.claim(255),
        "branch": PATHS.branch(255),
        "segment": segment,
        "torn": PATHS.torn(segment, 4096),
        "damaged": PATHS.damaged(segment, 2),
        "prepared": PATHS.prepared(7),
        "fetched": PATHS.being_fetched(7),
    }
    assert {name: str(path.relative_to(PATHS.root)) for name, path in found.items()} == {
        "lock": "LOCK",
        "identity": "IDENTITY",
        "claim": "epochs/000000ff.claim",
        "branch": "epochs/000000ff.branch",
        "segment": "wal/00000003-0000000000001234.wal",
        "torn": "wal/00000003-0000000000001234.wal.00001000.torn",
        "damaged": "wal/00000003-0000000000001234.wal.2.damaged",
        "prepared": "wal/prepared-7.tmp",
        "fetched": "restore/7.part",
    }


@given(names)
def test_a_segments_name_comes_back_as_it_was(name: SegmentName) -> None:
    assert parse_segment(PATHS.segment(name).name) == name


@given(st.lists(names))
def test_the_order_of_names_is_the_order_of_history(found: list[SegmentName]) -> None:
    assert sorted(found) == sorted(found, key=lambda name: PATHS.segment(name).name)


@given(epochs)
def test_a_claims_name_comes_back_as_it_was(number: int) -> None:
    assert parse_claim(PATHS.claim(number).name) == number
    assert parse_claim(PATHS.branch(number).name) is None


@given(names, st.integers(0, 2**32 - 1), st.integers(0, 10**10 - 1))
def test_each_name_is_of_one_kind(name: SegmentName, offset: int, number: int) -> None:
    segment = PATHS.segment(name)
    paths = (segment, PATHS.torn(segment, offset), PATHS.prepared(number), PATHS.damaged(segment, number))
    for at, path in enumerate(paths):
        text = path.name
        kinds = (parse_segment(text) is not None, is_torn(text), is_prepared(text), is_damaged(text))
        assert kinds == tuple(at == other for other in range(len(paths)))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "00000003-0000000000001234",
        "00000003-0000000000001234.wal.tmp",
        "x00000003-0000000000001234.wal",
        "00000003-000000000000123.wal",
        "00000003-000000000000123G.wal",
        "00000003-000000000000123A.wal",
        "0000003-00000000000012345.wal",
        "00000003-0000000000001234.wal\n",
        "00000003-0000000000001234.torn",
        "00000003-0000000000001234.damaged",
        "prepared-.tmp",
        "prepared-x.tmp",
        "prepared-1.tmp.wal",
        "0000000g.claim",
    ],
)
def test_other_names_are_of_no_kind(name: str) -> None:
    assert parse_segment(name) is None
    assert parse_claim(name) is None
    assert not is_torn(name)
    assert not is_prepared(name)
    assert not is_damaged(name)
