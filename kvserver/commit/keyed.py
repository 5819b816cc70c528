"""Carrying out a write that has a key: once, however often it comes. What that takes is in ``idempotency``'s essay.

Order does the rest. A repeat that comes while the first one waits for the disk is judged behind it, finds its answer in memory,
and is held until what the answer shows is visible, like any answer. One that comes while the first stands in line stands behind
it. If the first gives up there, nothing was remembered, and the repeat is the first.

What changed nothing is not remembered: a failed condition, a key that was absent, a refusal. A repeat of it is judged anew, which
is as good as if it had come later the first time.
"""

from __future__ import annotations

from typing import NamedTuple

from kvserver.base.errors import Code, InvalidRequest
from kvserver.commit.evaluate import evaluate
from kvserver.commit.idempotency import Answer
from kvserver.commit.requests import Committed, Delete, DeleteRun, DeletesDone, Keyed, PutRun, RunDone, Single
from kvserver.commit.state import State
from kvserver.storage.view import Pin
from kvserver.wal.commit_record import PUT, Effect, encode_commit, encode_put_run

_SINGLE, _PUTS, _DELETES = 1, 2, 3


class Step(NamedTuple):
    """What a keyed write comes to, to be put into the log and into memory as one submission."""

    outcome: RunDone | DeletesDone | Committed
    depends_on: int
    """The highest revision that the outcome shows."""
    data: bytes = b""
    """The records of its commits; empty: none is made."""
    first_revision: int = 0
    """Of the first of them."""
    commits: int = 0
    run: PutRun | None = None
    """The puts of the first commits; those behind it have ``effects``."""
    effects: tuple[list[Effect], ...] = ()

    def apply(self, state: State) -> None:
        """Insert the commits in memory."""
        next_revision = self.first_revision
        if self.run is not None:
            state.memtable.put_run(self.run.namespace, self.run.keys, self.run.values, next_revision)
            next_revision += len(self.run.keys)
        for revision, effects in enumerate(self.effects, next_revision):
            state.apply(effects, revision)


def judge(keyed: Keyed, state: State, assigned: int, pin: Pin | None) -> Step:
    """Return what a keyed write comes to; a step with data must be applied. Raises KvError with ``depends_on`` set."""
    remembered = state.answers.find(keyed.key)
    if remembered is not None:
        return _again(keyed, remembered)
    state.answers.check_new(keyed.key, keyed.now_ms)
    match keyed.request:
        case PutRun():
            return _puts(keyed, keyed.request, state, assigned)
        case DeleteRun():
            return _deletes(keyed, keyed.request, state, assigned, pin)
        case _:
            return _single(keyed, keyed.request, state, assigned, pin)


def _again(keyed: Keyed, answer: Answer) -> Step:
    """Return the answer that was given before. Raises InvalidRequest where another write has the same key."""
    request, first = keyed.request, answer.first_revision
    last = first + answer.commits - 1
    match request:
        case PutRun() if answer.kind == _PUTS and len(request.keys) == answer.commits:
            return Step(RunDone(first, answer.commits), last)
        case DeleteRun() if answer.kind == _DELETES and len(request.keys) == answer.put:
            return Step(DeletesDone(first, answer.commits, answer.absent, last), last)
        case _ if answer.kind == _SINGLE and not isinstance(request, PutRun | DeleteRun):
            return Step(Committed(first, first, answer.put, answer.deleted), first)
    error = InvalidRequest(
        Code.INVALID_FIELD,
        "idempotency names a write of another kind, or of another size, which was carried out before",
        "give each write a number of its own, and repeat it unchanged",
    )
    error.depends_on = last
    raise error


def _remember(
    keyed: Keyed, state: State, kind: int, first: int, commits: int, put: int, deleted: int, absent: bytes = b""
) -> list[Effect]:
    key = keyed.key
    answer = Answer(kind, first, commits, put, deleted, key.issued_ms, keyed.now_ms, absent)
    return state.answers.effects_of(key, answer)


def _puts(keyed: Keyed, run: PutRun, state: State, assigned: int) -> Step:
    if state.dropped:
        state.require_live(run.namespace)
    first, commits = assigned + 1, len(run.keys)
    outcome = RunDone(first, commits)
    row = _remember(keyed, state, _PUTS, first, commits, commits, 0)
    if commits == 1:  # a commit of its own for the row would be as much again
        both = [Effect(PUT, run.namespace, run.keys[0], run.values[0]), *row]
        return Step(outcome, first, encode_commit(both), first, 1, None, (both,))
    data = encode_put_run(run.namespace, run.keys, run.values) + encode_commit(row)
    return Step(outcome, first + commits - 1, data, first, commits + 1, run, (row,))


def _deletes(keyed: Keyed, run: DeleteRun, state: State, assigned: int, pin: Pin | None) -> Step:
    """Judge deletions one by one; one that stands behind another of the same key finds nothing any more."""
    first = assigned + 1
    depends_on = 0
    absent = bytearray((len(run.keys) + 7) // 8)
    found: dict[bytes, int] = {}
    effects: list[list[Effect]] = []
    for place, key in enumerate(run.keys):
        before = found.get(key, 0)
        if not before:
            done = evaluate(Delete(run.namespace, key), state, assigned, pin)
            if done.effects:
                found[key] = first + len(effects)
                effects.append(done.effects)
                continue
            before = done.depends_on
        absent[place >> 3] |= 1 << (place & 7)
        depends_on = max(depends_on, before)
    commits = len(effects)
    bitmap = bytes(absent.rstrip(b"\0"))
    if not effects:
        return Step(DeletesDone(0, 0, bitmap, depends_on), depends_on)
    row = _remember(keyed, state, _DELETES, first, commits, len(run.keys), commits, bitmap)
    if commits == 1:
        effects[0] = [*effects[0], *row]
    else:
        effects.append(row)
    outcome = DeletesDone(first, commits, bitmap, first + commits - 1)
    data = b"".join(map(encode_commit, effects))
    return Step(outcome, first + commits - 1, data, first, len(effects), None, tuple(effects))


def _single(keyed: Keyed, request: Single, state: State, assigned: int, pin: Pin | None) -> Step:
    done = evaluate(request, state, assigned, pin)
    if not done.effects:
        return Step(Committed(0, done.depends_on, 0, 0), done.depends_on)
    revision = assigned + 1
    row = _remember(keyed, state, _SINGLE, revision, 1, done.put, done.deleted)
    effects = [*done.effects, *row]
    committed = Committed(revision, revision, done.put, done.deleted)
    return Step(committed, revision, encode_commit(effects), revision, 1, None, (effects,))
