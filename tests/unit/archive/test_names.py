"""The names of objects: made and parsed in one place, strictly, so that nothing from outside becomes a path or a name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.archive import names
from kvserver.archive.names import ArchiveNames, SegmentId, backup_id, checked_name

CLUSTER = bytes(range(0xA0, 0xB0))
NAMES = ArchiveNames(CLUSTER)
PREFIX = CLUSTER.hex()
U32, U64 = st.integers(0, (1 << 32) - 1), st.integers(0, (1 << 64) - 1)
PARSERS: dict[str, Callable[[str], Any]] = {
    "cluster": names.parse_cluster,
    "segment": names.parse_segment,
    "manifest": names.parse_manifest,
    "backup": names.parse_backup,
    "file": names.parse_file,
    "upload": names.parse_upload,
    "point": names.parse_point,
    "dictionary": names.parse_dictionary,
}
MADE = {
    "cluster": NAMES.cluster,
    "segment": NAMES.segment(SegmentId(1, 2, 3, bytes(16))),
    "manifest": NAMES.manifest(1, 2),
    "backup": NAMES.backup(backup_id(1, 2)),
    "file": NAMES.file(bytes(32)),
    "upload": NAMES.upload(backup_id(1, 2)),
    "point": NAMES.point("a-point.1"),
    "dictionary": NAMES.dictionary(0x8000),
}


@given(st.builds(SegmentId, U32, U64, U64, st.binary(min_size=16, max_size=16)))
def test_a_segments_name_is_taken_apart_into_its_parts(id: SegmentId) -> None:
    assert names.parse_segment(NAMES.segment(id)) == id


@given(U32, U32, U64, U64, st.binary(min_size=32, max_size=32), st.from_regex(names.POINT_NAME, fullmatch=True))
def test_the_other_names_are_taken_apart_into_their_parts(
    epoch: int, number: int, revision: int, time_ms: int, sha256: bytes, point: str
) -> None:
    assert names.parse_manifest(NAMES.manifest(epoch, number)) == (epoch, number)
    assert names.parse_backup(NAMES.backup(backup_id(revision, time_ms))) == backup_id(revision, time_ms)
    assert names.parse_upload(NAMES.upload(backup_id(revision, time_ms))) == backup_id(revision, time_ms)
    assert names.parse_file(NAMES.file(sha256)) == sha256
    assert names.parse_point(NAMES.point(point)) == point
    assert names.parse_dictionary(NAMES.dictionary(number)) == number
    assert names.parse_cluster(NAMES.cluster) == CLUSTER


@given(st.lists(st.builds(SegmentId, U32, U64, U64, st.just(bytes(16))), min_size=2, max_size=5))
def test_the_order_of_names_is_the_order_of_history(ids: list[SegmentId]) -> None:
    assert [names.parse_segment(name) for name in sorted(map(NAMES.segment, ids))] == sorted(ids)


@pytest.mark.parametrize("kind", MADE)
def test_a_name_is_of_one_kind_and_one_that_stores_take(kind: str) -> None:
    assert [other for other, parse in PARSERS.items() if parse(MADE[kind]) is not None] == [kind]
    assert checked_name(MADE[kind]) == MADE[kind]
    assert MADE[kind].startswith(NAMES.prefix)


def _spoiled(name: str) -> list[str]:
    """Return names that are almost this one."""
    inner = name.partition("/")[2]
    return [
        *("", "/", name + "/", "/" + name, name + "\n", "\n" + name, name + "\0", name + " ", name + ".tmp", name[:-1], name * 2),
        *(f"../{name}", f"./{name}", f"{PREFIX}/../{name}", f"{PREFIX}//{inner}", f"{PREFIX}/x/{inner}", name.replace("/", "\\")),
        *(f"{PREFIX.upper()}/{inner}", f"{PREFIX[:-1]}/{inner}", f"{PREFIX}0/{inner}", f"{'g' * 32}/{inner}", inner),
        *(name.replace("0", "０"), name.replace("a", "а"), name.replace("/", "∕"), name + "\u202e", name.replace(".", "․")),
        *(name.replace("0", "O", 1), name.upper(), name.replace("/", "%2f"), f"{name}?x", f"{name}#", name.encode().hex()),
    ]


@pytest.mark.parametrize("kind", MADE)
def test_what_is_almost_a_name_is_none(kind: str) -> None:
    for spoiled in _spoiled(MADE[kind]):
        if spoiled != MADE[kind]:
            assert [parse(spoiled) for parse in PARSERS.values()] == [None] * len(PARSERS), spoiled


@given(st.text(max_size=80))
def test_no_other_text_is_a_name_and_none_is_parsed_into_anything_but_itself(text: str) -> None:
    for parse in PARSERS.values():
        assert parse(text) is None
        assert parse(f"{PREFIX}/{text}") in (None, CLUSTER, text.rpartition("/")[2].removesuffix(".json"))


@pytest.mark.parametrize(
    "part", ["", ".", "..", "../x", "a/b", "a\0", "A", "é", "x" * 64, "-a", ".a", "a\n", " a", "ａ", "a%2fb"]
)
def test_no_name_is_made_of_a_text_that_is_no_part_of_one(part: str) -> None:
    for make in (NAMES.point, NAMES.backup, NAMES.upload):
        with pytest.raises(ValueError, match="is not of the form"):
            make(part)


@pytest.mark.parametrize(
    "name", ["", "/", "/a", "a/", "a//b", "..", "a/..", "../a", "a/../b", ".a", "a/.b", "a\0", "a b", "é", "a\n", "\\a"]
)
def test_a_store_is_never_asked_for_what_could_leave_it(name: str) -> None:
    with pytest.raises(ValueError, match="is not of the form"):
        checked_name(name)


def test_an_overlong_text_is_refused_in_a_short_sentence() -> None:
    with pytest.raises(ValueError, match="is not of the form") as refused:
        NAMES.point("x" * 1_000_000)
    assert len(str(refused.value)) < 200
