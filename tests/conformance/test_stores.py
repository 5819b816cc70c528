"""What every ``Store`` does alike: a folder on a real disk and on one in memory, S3-compatible storage, the twin in memory."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvserver.archive.folder_store import FolderStore
from kvserver.archive.open_store import open_store
from kvserver.archive.s3_store import ONE_PUT_BYTES
from kvserver.archive.store import (
    STREAM_BYTES,
    ObjectExists,
    ObjectInfo,
    ObjectMissing,
    ReplaceConflict,
    Store,
)
from kvserver.base.limits import MIB
from support.fault_store import FaultStore
from support.memfs import MemoryFileSystem
from support.memory_store import MemoryStore
from support.s3_server import S3Server, s3_server

BUCKET = "archive"
_prefixes = itertools.count()


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with s3_server() as server:
        server.make_bucket(BUCKET)
        yield server


@pytest.fixture(params=["folder", "folder in memory", "s3", "s3 without a prefix", "memory", "fault"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    made: Store
    if request.param == "folder":
        made = open_store(f"file://{tmp_path}/archive")
    elif request.param == "folder in memory":
        made = FolderStore(MemoryFileSystem(), Path("/srv/archive"))
    elif request.param.startswith("s3"):
        server: S3Server = request.getfixturevalue("s3")
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        number = next(_prefixes)
        bucket = BUCKET if request.param == "s3" else f"bucket-{number}"
        server.make_bucket(bucket)
        made = open_store(f"s3://{bucket}/pre/{number}" if request.param == "s3" else f"s3://{bucket}")
    else:
        made = MemoryStore() if request.param == "memory" else FaultStore(MemoryStore())
    yield made
    made.close()
    made.close()


def content(store: Store, name: str) -> bytes:
    return b"".join(store.stream(name))


def names(store: Store, prefix: str = "") -> list[str]:
    return [info.name for info in store.list(prefix)]


# Creating and reading


def test_an_object_is_what_its_parts_are(store: Store) -> None:
    assert store.create("a/b", [b"one", b"", b"two"]) == 6
    assert store.read("a/b") == b"onetwo"
    assert content(store, "a/b") == b"onetwo"
    assert store.length("a/b") == 6


@pytest.mark.parametrize("parts", [[], [b""], [b"", b""]])
def test_an_object_may_be_empty(store: Store, parts: list[bytes]) -> None:
    assert store.create("empty", parts) == 0
    assert store.read("empty") == content(store, "empty") == b""
    assert store.read("empty", 0, 10) == store.read("empty", 5) == b""
    assert store.length("empty") == 0
    assert list(store.list("")) == [ObjectInfo("empty", 0)]


def test_an_object_is_created_once(store: Store) -> None:
    store.create("a", [b"first"])
    for other in (b"second", b"first", b""):
        with pytest.raises(ObjectExists) as caught:
            store.create("a", [other])
        assert caught.value.name == "a"
    assert store.read("a") == b"first"


def test_parts_may_come_from_a_generator_and_are_drawn_once(store: Store) -> None:
    drawn = []

    def parts() -> Iterator[bytes]:
        for number in range(3):
            drawn.append(number)
            yield bytes([number])

    assert store.create("a", parts()) == 3
    assert (store.read("a"), drawn) == (b"\0\1\2", [0, 1, 2])


@pytest.mark.parametrize("before", [0, 3, ONE_PUT_BYTES + 1])
@pytest.mark.parametrize("error", [ZeroDivisionError, FileNotFoundError, OSError])
def test_what_drawing_a_part_raises_is_passed_on_and_nothing_is_created(
    store: Store, before: int, error: type[Exception]
) -> None:
    def parts() -> Iterator[bytes]:
        yield bytes(before)
        raise error("the source is broken")

    with pytest.raises(error, match="the source is broken"):
        store.create("a", parts())
    assert names(store) == []
    assert store.create("a", [b"now"]) == 3


def test_a_large_object_is_created_once_too_and_read_in_pieces(store: Store) -> None:
    block = bytes(range(256)) * 4096
    parts = [block] * 17 + [b"end"]
    length = 17 * MIB + 3
    assert store.create("a/large", iter(parts)) == length
    with pytest.raises(ObjectExists):
        store.create("a/large", (bytes(MIB) for _ in range(20)))
    with pytest.raises(ObjectExists):
        store.create("a/large", [b"small"])
    pieces = list(store.stream("a/large"))
    assert max(map(len, pieces)) <= STREAM_BYTES and b"" not in pieces
    assert b"".join(pieces) == b"".join(parts)
    assert store.read("a/large", 17 * MIB - 2) == b"\xfe\xffend"
    assert names(store) == ["a/large"]


@pytest.mark.parametrize("blocks", [1, 8, 16])
def test_a_stream_ends_where_the_object_does(store: Store, blocks: int) -> None:
    store.create("a", [bytes(MIB)] * blocks)
    assert sum(map(len, store.stream("a"))) == blocks * MIB
    assert b"".join(store.stream("a", blocks * MIB - 1)) == b"\0"
    assert list(store.stream("a", blocks * MIB)) == []
    assert list(store.stream("a", blocks * MIB + 1)) == []


def test_a_part_of_an_object_can_be_read(store: Store) -> None:
    store.create("a", [b"0123456789"])
    assert store.read("a", 3) == b"3456789"
    assert store.read("a", 3, 4) == b"3456"
    assert store.read("a", 0, 1) == b"0"
    assert store.read("a", 8, 100) == b"89"
    assert store.read("a", 10) == store.read("a", 10, 5) == store.read("a", 99, 5) == b""
    assert store.read("a", 3, 0) == b""
    assert b"".join(store.stream("a", 7)) == b"789"


def test_a_limit_refuses_before_it_is_exceeded(store: Store) -> None:
    store.create("a", [b"0123456789"])
    assert store.read("a", limit=10) == b"0123456789"
    assert store.read("a", 5, limit=5) == b"56789"
    assert store.read("a", 5, 2, limit=2) == b"56"
    assert store.read("a", 8, 1000, limit=2) == b"89"
    for offset, length, limit in ((0, None, 9), (1, None, 8), (0, 3, 2), (5, 1000, 4)):
        with pytest.raises(ValueError, match="a would bring"):
            store.read("a", offset, length, limit)


@pytest.mark.parametrize(
    "ask",
    [
        lambda store: store.read("a/none"),
        lambda store: store.read("a/none", 0, 0),
        lambda store: store.read("a/none", 5, 5, 5),
        lambda store: list(store.stream("a/none")),
        lambda store: store.length("a/none"),
        lambda store: store.read("a"),
        lambda store: store.read("b/none"),
        lambda store: store.read("a/b/c"),
    ],
)
def test_what_does_not_exist_is_missing_by_name(store: Store, ask: Callable[[Store], object]) -> None:
    store.create("a/b", [b"x"])
    with pytest.raises(ObjectMissing) as caught:
        ask(store)
    assert caught.value.name in caught.value.message and store.url in caught.value.message
    assert "kvctl archive verify" in caught.value.hint


# Names


HOSTILE = [
    "", "/", "/etc/passwd", "..", "../a", "a/../b", "a/..", "a//b", "a/", "./a", "a/./b", ".writing/x", ".hidden", "a\0b", "a\nb",
    "a b", "a\\b", "~root", "a/~", "%2e%2e/a", "a?b", "a#b", "ä", "a\u202eb", "\uff0e\uff0e/a", "\ud800", "x" * 129,
    "a/" * 8 + "a", "x" * 100_000, "-a", "a*", "C:a", "a\r",
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_name_of_another_form_is_refused_before_anything_is_asked(store: Store, name: str) -> None:
    store.create("a", [b"x"])
    calls: list[Callable[[], object]] = [
        lambda: store.create(name, [b"y"]),
        lambda: store.read(name),
        lambda: list(store.stream(name)),
        lambda: store.length(name),
        lambda: store.delete(name),
        lambda: store.held(name),
        lambda: store.replace(name, b"y", None),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="is not of the form"):
            call()
    if name not in ("", "a/"):
        with pytest.raises(ValueError, match="is not of the form"):
            list(store.list(name))
        with pytest.raises(ValueError, match="is not of the form"):
            store.folders(name)
    assert list(store.list("")) == [ObjectInfo("a", 1)]


@pytest.mark.parametrize("name", ["x" * 128, "/".join(["y" * 60] * 8), "A-Z_0.kva", "0", "a...", "a/b.c-d_e/F"])
def test_every_name_of_the_form_can_be_used(store: Store, name: str) -> None:
    assert store.create(name, [b"1"]) == 1
    assert names(store) == [name]
    assert store.read(name) == b"1"


@pytest.mark.parametrize("prefix", ["a", "/", "a//", "../", "a/../", "a\0/", "a/" * 8, "ä/"])
def test_a_prefix_of_another_form_is_refused(store: Store, prefix: str) -> None:
    with pytest.raises(ValueError, match="is not of the form"):
        list(store.list(prefix))


# Listing


def test_a_listing_is_in_the_order_of_names_whatever_lies_in_folders(store: Store) -> None:
    wanted = ["0/1", "A", "Z/z", "a", "a-/b", "a-c", "a./c", "a.0", "a0/0-", "a0/0.d/e", "a0/0/f", "a0/00", "a00", "a_", "b"]
    assert wanted == sorted(wanted)
    for number, name in enumerate(wanted[::2] + wanted[1::2]):
        store.create(name, [bytes(number)])
    assert names(store) == wanted
    assert names(store, "a0/") == ["a0/0-", "a0/0.d/e", "a0/0/f", "a0/00"]
    assert names(store, "a0/0.d/") == ["a0/0.d/e"]
    assert names(store, "none/") == names(store, "a0/0.d/none/") == names(store, "a/") == []


def test_a_prefix_lists_what_is_below_it_only(store: Store) -> None:
    for name in ("ab/1", "a/1", "a/2/3", "a1"):
        store.create(name, [b"xy"])
    assert list(store.list("a/")) == [ObjectInfo("a/1", 2), ObjectInfo("a/2/3", 2)]
    assert names(store) == ["a/1", "a/2/3", "a1", "ab/1"]


def test_folders_are_named_without_what_lies_in_them(store: Store) -> None:
    assert list(store.folders("")) == list(store.folders("a/")) == []
    for name in ("c/1", "a/1", "a/2/3", "a/2/4", "a/2.5/4", "a1", "a-b/c/d/e"):
        store.create(name, [b""])
    assert list(store.folders("")) == ["a-b/", "a/", "c/"]
    assert list(store.folders("a/")) == ["2.5/", "2/"]
    assert list(store.folders("a-b/")) == ["c/"]
    assert list(store.folders("c/")) == list(store.folders("none/")) == list(store.folders("a1/")) == []


def test_a_long_listing_is_whole(store: Store) -> None:
    wanted = [f"log/{number:05x}" for number in range(1_100 if not store.url.startswith("s3") else 40)]
    for name in reversed(wanted):
        store.create(name, [b""])
    assert names(store, "log/") == names(store) == wanted


def test_an_empty_store_lists_nothing(store: Store) -> None:
    assert list(store.list("")) == list(store.list("a/")) == []


# Deleting


def test_what_is_deleted_is_gone_and_its_name_is_free(store: Store) -> None:
    store.create("a/b", [b"x"])
    store.create("a/c", [b"x"])
    store.delete("a/b")
    store.delete("a/b")
    store.delete("never/there")
    with pytest.raises(ObjectMissing):
        store.read("a/b")
    assert names(store) == ["a/c"]
    store.create("a/b", [b"again"])
    assert store.read("a/b") == b"again"


# Replacing


def test_a_replaceable_object_is_replaced_by_who_has_read_it(store: Store) -> None:
    assert store.held("a/r") is None
    first = store.replace("a/r", b"one", None)
    held = store.held("a/r")
    assert held is not None and held == (b"one", first)
    second = store.replace("a/r", b"two", first)
    assert second != first
    assert store.held("a/r") == (b"two", second)
    assert store.read("a/r") == b"two"
    assert list(store.list("a/")) == [ObjectInfo("a/r", 3)]


def test_who_has_read_something_else_does_not_replace(store: Store) -> None:
    first = store.replace("r", b"one", None)
    with pytest.raises(ReplaceConflict):
        store.replace("r", b"other", None)
    store.replace("r", b"two", first)
    for token in (first, None):
        with pytest.raises(ReplaceConflict):
            store.replace("r", b"other", token)
    assert store.read("r") == b"two"
    store.delete("r")
    with pytest.raises(ReplaceConflict):
        store.replace("r", b"other", first)
    assert store.held("r") is None
    store.replace("r", b"three", None)


def test_an_object_created_once_can_be_held(store: Store) -> None:
    store.create("r", [b"one"])
    held = store.held("r")
    assert held is not None and held.data == b"one"
    store.replace("r", b"two", held.token)
    assert store.read("r") == b"two"


# Several at once


def _at_once(count: int, run: Callable[[int], object]) -> list[object]:
    """Call it on threads that begin together; return what each returned or raised."""
    outcomes: list[object] = [None] * count
    barrier = threading.Barrier(count)

    def body(number: int) -> None:
        barrier.wait()
        try:
            outcomes[number] = run(number)
        except Exception as error:
            outcomes[number] = error

    threads = [threading.Thread(target=body, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


@pytest.mark.parametrize("length", [100, 3 * MIB])
def test_of_several_creators_of_one_name_one_wins(store: Store, length: int) -> None:
    for round_number in range(3):
        name = f"deep/{round_number}/name"
        outcomes = _at_once(4, lambda number, name=name: store.create(name, [bytes([number]) * length]))  # type: ignore[misc]
        winners = [number for number, outcome in enumerate(outcomes) if outcome == length]
        assert len(winners) == 1
        assert sum(isinstance(outcome, ObjectExists) for outcome in outcomes) == 3
        assert store.read(name) == bytes([winners[0]]) * length


def test_of_several_replacers_one_wins_each_round(store: Store) -> None:
    token = store.replace("r", b"begin", None)
    for _ in range(3):
        outcomes = _at_once(
            4, lambda number, token=token: store.replace("r", b"by %d of %s" % (number, token[:9].encode()), token)
        )  # type: ignore[misc]
        tokens = [outcome for outcome in outcomes if isinstance(outcome, str)]
        assert len(tokens) == 1
        assert sum(isinstance(outcome, ReplaceConflict) for outcome in outcomes) == 3
        held = store.held("r")
        assert held is not None and held.token == tokens[0]
        token = tokens[0]


def test_different_objects_can_be_created_at_once(store: Store) -> None:
    outcomes = _at_once(8, lambda number: store.create(f"new/{number % 2}/{number}", [bytes(number)]))
    assert outcomes == list(range(8))
    assert len(names(store, "new/")) == 8
