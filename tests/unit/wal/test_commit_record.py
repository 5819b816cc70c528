"""Commits as bytes: the format itself, there and back, and that malformed bytes are a ValueError and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.wal.commit_record import (
    DELETE,
    EFFECTS,
    ONE_LENGTH,
    PUT,
    Effect,
    decode_commit,
    encode_commit,
    encode_put_run,
    iter_commits,
    pack_one,
)

u64 = st.integers(0, 2**64 - 1)
namespaces = st.integers(0, 2**32 - 1)
keys = st.binary(min_size=1, max_size=40)
values = st.binary(max_size=60)
puts = st.builds(
    lambda namespace, key, value, exact, lease: Effect(PUT, namespace, key, value, exact[0], exact[1], lease),
    namespaces,
    keys,
    values,
    st.one_of(st.just((0, 0)), st.tuples(u64, st.integers(1, 2**64 - 1))),
    u64,
)
deletes = st.builds(lambda namespace, key: Effect(DELETE, namespace, key, b""), namespaces, keys)
effects = st.one_of(puts, deletes)
commits = st.lists(effects, min_size=1, max_size=6)

RICH = [
    Effect(PUT, 2, b"a", b"", 9, 4),
    Effect(PUT, 3, b"b", b"vv", 0, 0, 77),
    Effect(PUT, 4, b"c", b"", 1, 2, 3),
    Effect(DELETE, 7, b"gone", b""),
]

# What is on disks already. A change here is a new format version, not a new figure in this test.
GOLDEN = {
    "1c000000 01 00 0100  01 00 0300 05000000 01000000  6b6579 76616c7565": [Effect(PUT, 1, b"key", b"value")],
    "18000000 01 00 0100  02 00 0400 00000000 07000000  676f6e65": [Effect(DELETE, 7, b"gone", b"")],
    (
        "71000000 01 00 0400"
        "01 01 0100 00000000 02000000  0900000000000000 0400000000000000  61"
        "01 02 0100 02000000 03000000  4d00000000000000  62 7676"
        "01 03 0100 00000000 04000000  0100000000000000 0200000000000000 0300000000000000  63"
        "02 00 0400 00000000 07000000  676f6e65"
    ): RICH,
}


@pytest.mark.parametrize(("golden", "commit"), GOLDEN.items(), ids=["put", "delete", "many"])
def test_a_commit_is_these_bytes(golden: str, commit: list[Effect]) -> None:
    record = bytes.fromhex(golden)
    assert encode_commit(commit) == record
    assert decode_commit(record, 0, len(record)) == (commit, len(record))


@given(commits, st.binary(max_size=9), st.binary(max_size=9))
def test_a_commit_comes_back_as_it_was(commit: list[Effect], before: bytes, behind: bytes) -> None:
    record = encode_commit(commit)
    data = before + record + behind
    assert decode_commit(data, len(before), len(data)) == (commit, len(before) + len(record))


@given(st.lists(commits, max_size=5))
def test_a_group_comes_back_as_it_was(group: list[list[Effect]]) -> None:
    payload = b"".join(map(encode_commit, group))
    assert list(iter_commits(payload, len(group))) == group


@given(namespaces, keys, values)
def test_the_fast_path_for_one_put_writes_the_same_bytes(namespace: int, key: bytes, value: bytes) -> None:
    record = encode_commit([Effect(PUT, namespace, key, value)])
    length = ONE_LENGTH + len(key) + len(value)
    head = pack_one(length, EFFECTS, 0, 1, PUT, 0, len(key), len(value), namespace)
    assert head + key + value == record
    assert encode_put_run(namespace, [key], [value]) == record


@given(namespaces, st.lists(st.tuples(keys, values)))
def test_a_run_of_puts_is_one_commit_after_the_other(namespace: int, pairs: list[tuple[bytes, bytes]]) -> None:
    run = encode_put_run(namespace, [key for key, _ in pairs], [value for _, value in pairs])
    assert run == b"".join(encode_commit([Effect(PUT, namespace, key, value)]) for key, value in pairs)


def test_columns_of_unequal_length_are_refused() -> None:
    with pytest.raises(ValueError, match="argument"):
        encode_put_run(1, [b"a", b"b"], [b"1"])


def test_limits_of_the_contract_fit_the_fields() -> None:
    commit = [Effect(PUT, 1, b"k" * 8192, b"v" * (1 << 20))]
    assert decode_commit(encode_commit(commit), 0, 1 << 21)[0] == commit
    many = [Effect(DELETE, 1, b"%d" % number, b"") for number in range(10_000)]
    assert decode_commit(encode_commit(many), 0, 1 << 21)[0] == many


# Malformed


def check_harmless(data: bytes, end: int) -> None:
    """Decode what may be anything: a ValueError, or effects that are made of the given bytes alone."""
    try:
        found, stop = decode_commit(data, 0, end)
    except ValueError:
        return
    assert stop <= end
    assert sum(len(effect.key) + len(effect.value) for effect in found) <= stop
    assert all(effect.key in data[:stop] and effect.value in data[:stop] for effect in found)


@pytest.mark.parametrize("golden", GOLDEN, ids=["put", "delete", "many"])
def test_every_cut_of_a_commit_is_refused(golden: str) -> None:
    record = bytes.fromhex(golden)
    for length in range(len(record)):
        with pytest.raises(ValueError, match=r"cut off|does not fit"):
            decode_commit(record[:length], 0, length)
        with pytest.raises(ValueError, match=r"cut off|does not fit"):  # the bytes are there, but belong to what follows
            decode_commit(record, 0, length)


@pytest.mark.parametrize("golden", GOLDEN, ids=["put", "delete", "many"])
def test_no_flipped_bit_makes_more_than_a_value_error(golden: str) -> None:
    record = bytearray.fromhex(golden)
    for bit in range(8 * len(record)):
        record[bit // 8] ^= 1 << bit % 8
        check_harmless(bytes(record) + b"what follows", len(record))
        record[bit // 8] ^= 1 << bit % 8


@given(st.binary(max_size=80), st.integers(0, 4))
def test_no_bytes_make_more_than_a_value_error(data: bytes, count: int) -> None:
    check_harmless(data, len(data))
    try:
        found = list(iter_commits(data, count))
    except ValueError:
        return
    assert len(found) == count


@given(commits, st.data())
def test_a_damaged_commit_makes_no_more_than_a_value_error(commit: list[Effect], data: st.DataObject) -> None:
    record = bytearray(encode_commit(commit))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(record) - 1))
        record[at] = data.draw(st.integers(0, 255))
    check_harmless(bytes(record), len(record))


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ("07000000 01 00 0000", "does not fit"),
        ("08000000 02 00 0000", "kind 2"),
        ("08000000 01 01 0000", "flags 1"),
        ("08000000 01 00 0100", "cut off in its head"),
        ("15000000 01 00 0100  01 00 0000 00000000 01000000 00", "longer than its effects"),
        ("14000000 01 00 0100  03 00 0000 00000000 01000000", "kind 3"),
        ("14000000 01 00 0100  01 04 0000 00000000 01000000", "flags 4"),
        ("14000000 01 00 0100  01 01 0000 00000000 01000000", "an effect is cut off"),
        ("14000000 01 00 0100  01 00 0000 ffffffff 01000000", "an effect is cut off"),
    ],
)
def test_what_does_not_parse_is_said(record: str, why: str) -> None:
    data = bytes.fromhex(record)
    with pytest.raises(ValueError, match=why):
        decode_commit(data, 0, len(data))


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_group_of_another_number_of_commits_is_refused(count: int) -> None:
    payload = encode_commit(RICH) + encode_commit(RICH)
    with pytest.raises(ValueError, match=r"longer than its commits|cut off"):
        list(iter_commits(payload, count))
