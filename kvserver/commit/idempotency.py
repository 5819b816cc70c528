"""What became of writes that carried a key, remembered for a while: so that repeating one does not carry it out twice.

A client that lost its connection does not know whether its write happened. It sends it again, under the key of the first time,
perhaps to another node, which became primary in between. So what is remembered must be wherever the write is, and nowhere
else. It is a row of namespace 0, in the same submission to the log as the write's own effects, hence in the same frame, under
one checksum: a crash, a failover and a restore keep both or neither.

    idem/<client id, 16><number, 8, big-endian>  ->  what the write was answered       (``Answer``)
    idem-floor                                   ->  everything issued up to this millisecond is forgotten

Memory holds all rows, so that no table is read to find one; replay and the tables at open fill it alike.

Forgetting is what must not go wrong: a write that was carried out, is forgotten, and comes once more would be carried out again.
So rows go in the order in which their writes were issued (the time is the client's, a part of the key), and the commit that
removes some of them raises the floor to the youngest of these. What is not remembered and was issued at or below the floor
may have been carried out: it is OUTCOME_EXPIRED. What was issued above the floor and is not remembered was not carried out. That
holds on every node that has the same log, whatever its clock says. Clocks only decide when the primary makes such a commit.

Tried and left: judging by the time of the commit (a node that took over would need the clock of the one before), and one row
a client (it bounds what a client may have under way).
"""

from __future__ import annotations

import heapq
import struct
from typing import NamedTuple

from kvserver.base.errors import Code, InvalidRequest, KvError
from kvserver.base.types import SYSTEM_NAMESPACE
from kvserver.wal.commit_record import DELETE, PUT, Effect

ROWS = b"idem"
"""What the keys of all rows of this module begin with."""

_ANSWER_ROW = b"idem/"
_FLOOR_ROW = b"idem-floor"

CLIENT_ID_BYTES = 16

WINDOW_MS = 600_000
"""A write is remembered for so long after it was issued ..."""

MAX_ANSWERS = 65_536
"""... and while it is one of so many issued last."""

MAX_AHEAD_MS = 60_000
"""A client's clock may be ahead of the primary's by so much."""

FORGET_AT_ONCE = 1_024
"""Rows removed by one commit, at most."""

ROW_BYTES = 256
"""An upper bound of what a key adds to its write's commits, the bitmap of absent keys left out."""

_ANSWER = struct.Struct("<BBQIIIQQ")
_VERSION = 1
_ANY_TIME = 1 << 64


class IdempotencyKey(NamedTuple):
    """What a write is remembered by."""

    client_id: bytes
    number: int
    issued_ms: int
    """When the client first sent it, by its own clock."""


class Answer(NamedTuple):
    """What a remembered write was answered, and what is needed to know that a repeat is a repeat of it."""

    kind: int
    """Which kind of request it was; a repeat is of the same."""
    first_revision: int
    commits: int
    put: int
    deleted: int
    issued_ms: int
    time_ms: int
    """When it was carried out, by the primary's clock: for people."""
    absent: bytes = b""
    """Of a run of deletions: a bit for each key, set where there was nothing to delete; empty: there was everywhere."""


def encode_answer(answer: Answer) -> bytes:
    """Return the value of an answer's row."""
    return _ANSWER.pack(_VERSION, *answer[:-1]) + answer.absent


def decode_answer(row: bytes) -> Answer:
    """Return what a row holds. Raises ValueError."""
    if len(row) < _ANSWER.size or row[0] != _VERSION:
        raise ValueError(f"a row of {len(row)} bytes is no remembered answer")
    return Answer._make((*_ANSWER.unpack_from(row)[1:], row[_ANSWER.size :]))


def row_key(key: IdempotencyKey) -> bytes:
    """Return the key of an answer's row."""
    return _ANSWER_ROW + key.client_id + key.number.to_bytes(8, "big")


class Answers:
    """All that is remembered. Changed by rows alone, live ones and replayed ones; belongs to the event loop."""

    def __init__(self) -> None:
        self.window_ms = WINDOW_MS
        self.max_answers = MAX_ANSWERS
        self.floor_ms = 0
        """What was issued up to here, and is not remembered, may have been carried out."""
        self._floor_revision = 0
        self._rows: dict[bytes, bytes] = {}
        self._by_age: list[tuple[int, bytes]] = []
        """A heap; rows that are gone may still be in it, but not at its top."""

    def __len__(self) -> int:
        return len(self._rows)

    def find(self, key: IdempotencyKey) -> Answer | None:
        """Return what a write was answered, visible or not; None where it is not remembered."""
        row = self._rows.get(row_key(key))
        return None if row is None else decode_answer(row)

    def check_new(self, key: IdempotencyKey, now_ms: int) -> None:
        """Refuse a key that is not remembered and may yet have been carried out, and one from too far in the future.

        Raises KvError (OUTCOME_EXPIRED), InvalidRequest.
        """
        issued_ms = key.issued_ms
        if issued_ms <= self.floor_ms or issued_ms < now_ms - self.window_ms:
            error = KvError(
                Code.OUTCOME_EXPIRED,
                f"the write was issued {now_ms - issued_ms} ms ago, and what became of writes so old is not remembered; "
                "it was not carried out now, perhaps it was before",
                "read the key to learn what happened; if it was sent for the first time, set the client's clock",
            )
            error.depends_on = self._floor_revision
            raise error
        if issued_ms > now_ms + MAX_AHEAD_MS:
            raise InvalidRequest(
                Code.INVALID_FIELD,
                f"idempotency.issued_ms is {issued_ms - now_ms} ms ahead of this node's clock; "
                f"at most {MAX_AHEAD_MS} are allowed",
                "set the client's clock",
            )

    # -- effects --------------------------------------------------------------------------------------------------

    def effects_of(self, key: IdempotencyKey, answer: Answer) -> list[Effect]:
        """Return the effects of remembering an answer; where there is no room, the oldest ones go for it.

        They must be applied: what they remove has left the order by age.
        """
        effects = [Effect(PUT, SYSTEM_NAMESPACE, row_key(key), encode_answer(answer))]
        if len(self._rows) >= self.max_answers:
            effects += self._forget(min(2, 1 + len(self._rows) - self.max_answers), _ANY_TIME)
        return effects

    def forget_effects(self, before_ms: int) -> list[Effect]:
        """Return the effects, which must be applied, of forgetting what was issued before a time, as far as it fits a commit."""
        return self._forget(FORGET_AT_ONCE, before_ms - 1)

    def has_older(self, before_ms: int) -> bool:
        """Say whether anything is remembered that was issued before a time."""
        return bool(self._by_age) and self._by_age[0][0] < before_ms

    def _forget(self, at_most: int, upto_ms: int) -> list[Effect]:
        effects: list[Effect] = []
        floor_ms = 0
        while len(effects) < at_most and self._by_age and self._by_age[0][0] <= upto_ms:
            floor_ms, oldest = heapq.heappop(self._by_age)
            if oldest in self._rows:
                effects.append(Effect(DELETE, SYSTEM_NAMESPACE, oldest, b""))
        if floor_ms > self.floor_ms:
            effects.append(Effect(PUT, SYSTEM_NAMESPACE, _FLOOR_ROW, floor_ms.to_bytes(8, "little")))
        return effects

    # -- changing -------------------------------------------------------------------------------------------------

    def apply(self, key: bytes, value: bytes | None, revision: int) -> None:
        """Take in a row, or its deletion (None). Raises ValueError for one that does not decode."""
        if key == _FLOOR_ROW:
            if value is not None:
                self.floor_ms = max(self.floor_ms, int.from_bytes(value, "little"))
                self._floor_revision = revision
        elif value is not None:
            issued_ms = decode_answer(value).issued_ms
            if key not in self._rows:
                heapq.heappush(self._by_age, (issued_ms, key))
            self._rows[key] = value
        else:
            self._rows.pop(key, None)
            while self._by_age and self._by_age[0][1] not in self._rows:
                heapq.heappop(self._by_age)
