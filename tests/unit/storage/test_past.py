"""The past in tables, against a list of all that ever happened."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvserver.storage import past
from kvserver.storage.past import TableState, span_at, stored_at, versions_of
from kvserver.storage.rows import Stored, data_key, encode_version, history_key

KEYS = [b"a", b"a\0", b"a\0\1", b"a\0\xff", b"a\xff", b"b", b"\0", b"\xff"]
NAMESPACE = 7


class Rows:
    """A reader of rows in a dict."""

    def __init__(self) -> None:
        self.held: dict[bytes, bytes] = {}

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        return [self.held.get(key) for key in keys]

    def rows(self, start: bytes, end: bytes, limit: int, max_bytes: int = 0, reverse: bool = False) -> list[tuple[bytes, bytes]]:
        keys = sorted(self.held)
        found = keys[bisect.bisect_left(keys, start) : bisect.bisect_left(keys, end) if end else len(keys)]
        rows: list[tuple[bytes, bytes]] = []
        size = 0
        for key in reversed(found) if reverse else found:
            if len(rows) >= limit or (max_bytes and size >= max_bytes):
                break
            rows.append((key, self.held[key]))
            size += len(key) + len(self.held[key])
        return rows

    def close(self) -> None:
        """Do nothing."""


class History:
    """Commits of one change each, and the tables that a flush after the last of them makes."""

    def __init__(self, changes: list[tuple[bytes, bytes | None]], bucket_revisions: int, keep_from: int = 1) -> None:
        self.states: list[dict[bytes, Stored]] = [{}, {}]
        self.done: dict[bytes, list[tuple[int, Stored | None]]] = {}
        self.tables = Rows()
        for neighbour in (NAMESPACE - 1, NAMESPACE + 1):
            for key in (b"", b"a", b"\xff\xff"):
                self.tables.held[data_key(neighbour, key)] = encode_version(2, 2, 1, b"not ours")
                for bucket in range(40):
                    at = (bucket + 1) * bucket_revisions - 1
                    self.tables.held[history_key(bucket, neighbour, key, at)] = encode_version(2, 2, 1, b"not ours")
        for key, value in changes:
            revision, before = len(self.states), self.states[-1].get(key)
            after = {name: stored for name, stored in self.states[-1].items() if name != key}
            if value is not None:
                create, version = (before.create_revision, before.version + 1) if before else (revision, 1)
                after[key] = Stored(revision, create, version, value)
            elif before is None:
                continue
            self.done.setdefault(key, []).insert(0, (revision, after.get(key)))
            if before is not None and revision > keep_from:
                self.tables.held[history_key(revision // bucket_revisions, NAMESPACE, key, revision)] = encode_version(*before)
            self.states.append(after)
        for key, stored in self.states[-1].items():
            self.tables.held[data_key(NAMESPACE, key)] = encode_version(*stored)
        self.state = TableState(len(self.states) - 1, bucket_revisions)


changes = st.lists(st.tuples(st.sampled_from(KEYS), st.none() | st.binary(max_size=3)), max_size=40)
buckets = st.sampled_from([1, 2, 5, 64])


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(past, "HISTORY_STEP_ROWS", 3)


@settings(max_examples=100, deadline=None)
@given(changes, buckets)
def test_one_key_at_every_revision(done: list[tuple[bytes, bytes | None]], bucket: int) -> None:
    history = History(done, bucket)
    for revision, held in enumerate(history.states[1:], start=1):
        for key in KEYS:
            assert stored_at(history.tables, NAMESPACE, key, revision, history.state) == held.get(key)


@settings(max_examples=100, deadline=None)
@given(changes, buckets, st.integers(1, 42), st.integers(1, 5), st.sampled_from([0, 40]), st.booleans())
def test_a_span_part_by_part(
    done: list[tuple[bytes, bytes | None]], bucket: int, revision: int, limit: int, max_bytes: int, reverse: bool
) -> None:
    history = History(done, bucket)
    revision = min(revision, history.state.flushed_revision)
    for start, end in ((b"", b""), (b"a", b"b"), (b"a\0", b"a\xff"), (b"a\0\1", b"")):
        found: dict[bytes, Stored] = {}
        at, behind, parts = start, end, 0
        while True:
            part = span_at(history.tables, NAMESPACE, (at, behind), revision, history.state, (limit, max_bytes), reverse)
            assert not found.keys() & part.found.keys(), "no key belongs to two parts"
            found |= part.found
            if part.end is None:
                break
            assert (part.end < behind or not behind) if reverse else part.end > at, "every part gets on"
            at, behind = (at, part.end) if reverse else (part.end, behind)
            parts += 1
            assert parts < 100
        wanted = {key: one for key, one in history.states[revision].items() if start <= key and (not end or key < end)}
        assert found == wanted


@settings(max_examples=100, deadline=None)
@given(changes, buckets, st.integers(1, 42), st.integers(1, 45), st.integers(1, 50))
def test_the_versions_of_a_key(done: list[tuple[bytes, bytes | None]], bucket: int, oldest: int, below: int, most: int) -> None:
    history = History(done, bucket, keep_from=oldest)
    oldest = min(oldest, history.state.flushed_revision)
    below = max(below, oldest + 1)
    for key in KEYS:
        found = versions_of(history.tables, NAMESPACE, key, (oldest, below), history.state, (most, 1 << 20))
        assert found.newest == history.states[-1].get(key)
        everything = history.done.get(key, [])
        in_force = [one for one in everything if one[0] <= oldest][:1]
        wanted = [one for one in everything if oldest < one[0] < below] + [one for one in in_force if one[1] is not None]
        assert found.entries[: most or None] == wanted[: most or None]
        assert found.more or found.entries == wanted
