"""Groups of which only the first commits count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.wal import format as fmt
from kvserver.wal.commit_record import Effect, encode_commit, iter_commits
from kvserver.wal.cut import cut_chain, cut_group

FIRST = 100
_effects = st.tuples(st.integers(1, 3), st.binary(min_size=1, max_size=5), st.binary(max_size=20), st.integers(0, 3)).map(
    lambda made: Effect(1, *made[:3], create_revision=made[3], version=made[3])
)
_commits = st.lists(st.lists(_effects, min_size=1, max_size=3), min_size=1, max_size=6)


def header_of(commits: int) -> fmt.FrameHeader:
    return fmt.FrameHeader(fmt.GROUP, 0, 7, FIRST, commits, 0, 0, 5, bytes(16), 0)


@given(_commits, st.data())
def test_what_is_kept_are_the_first_commits_byte_for_byte(commits: list[list[Effect]], data: st.DataObject) -> None:
    payload = b"".join(map(encode_commit, commits))
    kept = data.draw(st.integers(1, len(commits)))
    header, cut = cut_group(header_of(len(commits)), payload, FIRST + kept - 1)
    assert (header.commits, header.last_revision) == (kept, FIRST + kept - 1)
    assert payload.startswith(cut)
    assert list(iter_commits(cut, kept)) == commits[:kept]
    assert (cut == payload) == (kept == len(commits))


@pytest.mark.parametrize("revision", [0, FIRST - 1, FIRST + 2, 1 << 63])
def test_a_revision_that_is_not_in_the_group_is_refused(revision: int) -> None:
    payload = encode_commit([Effect(1, 1, b"k", b"v")]) * 2
    with pytest.raises(ValueError, match="is not one of the group's"):
        cut_group(header_of(2), payload, revision)


@pytest.mark.parametrize("payload", [b"", b"\1", b"\0" * 8, b"\7\0\0\0" + b"x" * 20, b"\xff" * 30])
def test_commits_that_do_not_fit_are_refused(payload: bytes) -> None:
    with pytest.raises(ValueError, match=r"cut off|does not fit"):
        cut_group(header_of(3), payload, FIRST)


def test_the_chain_behind_a_cut_depends_on_all_that_leads_there() -> None:
    chain = cut_chain(bytes(16), FIRST, b"kept")
    others = [
        cut_chain(bytes(15) + b"\1", FIRST, b"kept"),
        cut_chain(bytes(16), FIRST + 1, b"kept"),
        cut_chain(bytes(16), FIRST, b"kepd"),
    ]
    assert len({chain, *others}) == 4
    assert (len(chain), cut_chain(bytes(16), FIRST, b"kept")) == (16, chain)
