"""The checker of histories: known good and known bad ones, and every small random one against all orders tried one by one."""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from support.linearizability import (
    NEVER,
    Operation,
    Recorder,
    TooHard,
    Value,
    assert_linearizable,
    check,
)


def put(called: float, returned: float, value: Value) -> Operation:
    return Operation("p", "k", "put", called, returned, value)


def get(called: float, returned: float, value: Value) -> Operation:
    return Operation("g", "k", "get", called, returned, value)


def cas(called: float, returned: float, expected: Value, value: Value, held: bool = True) -> Operation:
    return Operation("c", "k", "cas", called, returned, value, expected, held)


GOOD: dict[str, list[Operation]] = {
    "nothing": [],
    "one after the other": [put(1, 2, "a"), get(3, 4, "a"), put(5, 6, "b"), get(7, 8, "b")],
    "absent at first": [get(1, 2, None), put(3, 4, "a")],
    "a read beside a write sees it": [put(1, 10, "a"), get(2, 3, "a")],
    "a read beside a write does not see it": [put(1, 10, "a"), get(2, 3, None)],
    "two reads beside a write, old then new": [put(1, 10, "a"), get(2, 3, None), get(4, 5, "a")],
    "two writes at once, either order": [put(1, 10, "a"), put(2, 9, "b"), get(11, 12, "a")],
    "readers of two writes at once agree": [put(1, 9, "a"), put(2, 9, "b"), get(3, 4, "b"), get(5, 6, "a"), get(10, 11, "a")],
    "a delete": [put(1, 2, "a"), put(3, 4, None), get(5, 6, None)],
    "a condition that held": [put(1, 2, "a"), cas(3, 4, "a", "b"), get(5, 6, "b")],
    "a condition that did not hold": [put(1, 2, "a"), cas(3, 4, "b", "c", held=False), get(5, 6, "a")],
    "if absent": [cas(1, 2, None, "a"), cas(3, 4, None, "b", held=False), get(5, 6, "a")],
    "one of two conditions at once": [cas(1, 10, None, "a"), cas(2, 9, None, "b", held=False), get(11, 12, "a")],
    "an unknown write that was kept": [put(1, NEVER, "a"), get(2, 3, "a")],
    "an unknown write that was not": [put(1, NEVER, "a"), get(2, 3, None), get(4, 5, None)],
    "an unknown write that comes late": [put(1, NEVER, "a"), get(2, 3, None), put(4, 5, "b"), get(6, 7, "b"), get(8, 9, "a")],
    "an unknown condition that held late": [
        cas(1, NEVER, "a", "b"),
        get(2, 3, None),
        put(4, 5, "a"),
        get(6, 7, "b"),
    ],
    "an unknown condition that never held": [cas(1, NEVER, "x", "b"), put(2, 3, "a"), get(4, 5, "a")],
    "a condition failed because of an unknown write": [
        put(1, 2, "a"),
        put(3, NEVER, "b"),
        cas(4, 5, "a", "c", held=False),
    ],
    "an unknown read says nothing": [put(1, 2, "a"), get(3, NEVER, "never told")],
    "an unknown delete": [put(1, 2, "a"), put(3, NEVER, None), get(4, 5, "a"), get(6, 7, None)],
    "the same value twice": [put(1, 2, "a"), put(3, 4, "b"), put(5, 6, "a"), get(7, 8, "a")],
    "moments that touch are at once": [put(1, 2, "a"), get(2, 3, None)],
}

BAD: dict[str, list[Operation]] = {
    "a read of what nobody wrote": [get(1, 2, "a")],
    "a stale read": [put(1, 2, "a"), put(3, 4, "b"), get(5, 6, "a")],
    "a lost write": [put(1, 2, "a"), get(3, 4, None)],
    "a read before its write": [get(1, 2, "a"), put(3, 4, "a")],
    "new, then old": [put(1, 10, "a"), get(2, 3, "a"), get(4, 5, None)],
    "readers of two writes at once disagree": [
        put(1, 2, "a"),
        put(3, 10, "b"),
        put(3, 10, "c"),
        get(11, 12, "b"),
        get(13, 14, "c"),
    ],
    "back and forth": [put(1, 9, "a"), put(2, 9, "b"), get(3, 4, "b"), get(5, 6, "a"), get(7, 8, "b")],
    "a deleted value comes back": [put(1, 2, "a"), put(3, 4, None), get(5, 6, "a")],
    "both conditions held": [cas(1, 10, None, "a"), cas(2, 9, None, "b")],
    "a condition held that did not": [put(1, 2, "a"), cas(3, 4, "b", "c")],
    "a condition did not hold that did": [put(1, 2, "a"), cas(3, 4, "a", "c", held=False)],
    "a condition that did not hold changed something": [put(1, 2, "a"), cas(3, 4, "b", "c", held=False), get(5, 6, "c")],
    "a condition fails for no reason": [cas(1, 2, None, "a", held=False)],
    "an unknown write before it was called": [get(1, 2, "a"), put(3, NEVER, "a")],
    "an unknown write taken back": [put(1, NEVER, "a"), get(2, 3, "a"), get(4, 5, None)],
    "an unknown write twice": [
        put(1, 2, "z"),
        put(3, NEVER, "a"),
        get(4, 5, "a"),
        put(6, 7, "b"),
        get(8, 9, "b"),
        get(10, 11, "a"),
    ],
    "an unknown condition that cannot have held": [cas(1, NEVER, "x", "b"), put(2, 3, "a"), get(4, 5, "b")],
    "two lost of three": [put(1, 2, "a"), put(1, 2, "b"), put(1, 2, "c"), get(3, 4, "c"), get(5, 6, "a")],
}


@pytest.mark.parametrize("name", GOOD)
def test_good_histories(name: str) -> None:
    assert_linearizable(GOOD[name])
    assert possible(GOOD[name])


@pytest.mark.parametrize("name", BAD)
def test_bad_histories(name: str) -> None:
    assert check(BAD[name])
    assert not possible(BAD[name])


def test_keys_are_judged_alone_and_the_bad_one_is_named() -> None:
    bad = [operation._replace(key="bad") for operation in BAD["a stale read"]]
    found = check([*GOOD["a delete"], *bad])
    assert [violation.key for violation in found] == ["bad"]
    with pytest.raises(AssertionError, match=r"key 'bad' is not linearizable(.*\n)+.*get -> 'a'") as told:
        assert_linearizable(bad)
    assert "put 'b'" in str(told.value), "the longest order is shown"


def test_what_the_register_holds_at_first() -> None:
    assert not check([get(1, 2, "a")], initial="a")
    assert check([get(1, 2, None)], initial="a")


def test_a_history_that_is_none() -> None:
    with pytest.raises(ValueError, match="returned before"):
        check([put(2, 1, "a")])


def test_what_cannot_be_judged_is_not_taken_for_good() -> None:
    at_once = [put(1, 100, number) for number in range(14)]
    with pytest.raises(TooHard):
        check([*at_once, get(101, 102, "none of them")], most_steps=1_000)


# -- against all orders -----------------------------------------------------------------------------------------------


def possible(history: list[Operation]) -> bool:
    """Try every order of every choice of the unknown operations; in the plainest way."""
    known = [operation for operation in history if operation.is_known]
    unknown = [operation for operation in history if not operation.is_known and operation.kind != "get"]
    for size in range(len(unknown) + 1):
        for chosen in itertools.combinations(unknown, size):
            if any(fits(order) for order in itertools.permutations([*known, *chosen])):
                return True
    return False


def fits(order: tuple[Operation, ...]) -> bool:
    for place, operation in enumerate(order):
        if any(later.returned < operation.called for later in order[place + 1 :]):
            return False
    state: Value = None
    for operation in order:
        good, state = operation.after(state)
        if not good:
            return False
    return True


def small_history(rng: random.Random) -> list[Operation]:
    """Return up to six operations that anybody could claim to have seen."""
    found = []
    for _ in range(rng.randint(1, 6)):
        called = rng.randint(0, 12)
        returned = NEVER if rng.random() < 0.25 else called + rng.randint(1, 8)
        values = [None, "a", "b"]
        kind = rng.choice(["put", "get", "get", "cas"])
        value, expected = rng.choice(values), rng.choice(values)
        held = returned is NEVER or rng.random() < 0.6
        found.append(Operation("x", "k", kind, called, returned, value, expected if kind == "cas" else None, held))
    return found


@pytest.mark.parametrize("seed", range(8))
def test_small_random_histories_are_judged_as_by_trying_all_orders(seed: int) -> None:
    rng = random.Random(seed)
    verdicts = set()
    for _ in range(250):
        history = small_history(rng)
        verdict = not check(history)
        assert verdict == possible(history), "\n".join(map(str, history))
        verdicts.add(verdict)
    assert verdicts == {True, False}


# -- long histories of a simulated register ---------------------------------------------------------------------------


class Simulated:
    """A linearizable register for each key: each operation takes effect at one instant between its call and its return."""

    def __init__(self, seed: int, keys: int, clients: int, unknown_share: float) -> None:
        self.rng = random.Random(seed)
        self.state: dict[int, Value] = {}
        self.keys, self.clients, self.unknown_share = keys, clients, unknown_share
        self.value = itertools.count(1)

    def run(self, operations: int) -> list[Operation]:
        """Let clients work until so many operations were begun."""
        rng, time, found = self.rng, itertools.count(1), []
        free = list(range(self.clients))
        begun: list[tuple[int, Operation]] = []
        applied: list[tuple[int, Operation]] = []
        lost: list[Operation] = []
        left = operations
        while left or begun or applied:
            choice = rng.random()
            if left and free and choice < 0.4:
                client = free.pop(rng.randrange(len(free)))
                begun.append((client, self._begin(f"c{client}", next(time))))
                left -= 1
            elif begun and choice < 0.7:
                client, operation = begun.pop(rng.randrange(len(begun)))
                if rng.random() < self.unknown_share:
                    lost.append(operation)  # its client hears nothing; it takes effect later, or never
                    found.append(operation._replace(returned=NEVER, held=True))
                    free.append(client)
                else:
                    applied.append((client, self._apply(operation)))
            elif applied and choice < 0.95:
                client, operation = applied.pop(rng.randrange(len(applied)))
                found.append(operation._replace(returned=next(time)))
                free.append(client)
            elif lost and choice >= 0.95:
                operation = lost.pop(rng.randrange(len(lost)))
                if rng.random() < 0.7:
                    self._apply(operation)
        return found

    def _begin(self, process: str, called: int) -> Operation:
        key, kind = self.rng.randrange(self.keys), self.rng.choice(["put", "put", "get", "get", "cas"])
        value = None if self.rng.random() < 0.1 else next(self.value)
        expected = self.state.get(key) if kind == "cas" else None  # often what it will be
        return Operation(process, key, kind, called, NEVER, value, expected)

    def _apply(self, operation: Operation) -> Operation:
        state = self.state.get(operation.key)  # type: ignore[arg-type]
        if operation.kind == "get":
            return operation._replace(value=state)
        if operation.kind == "cas" and state != operation.expected:
            return operation._replace(held=False)
        self.state[operation.key] = operation.value  # type: ignore[index]
        return operation


@pytest.mark.parametrize(("keys", "clients", "unknown_share"), [(1, 3, 0.0), (1, 8, 0.02), (5, 10, 0.05), (20, 16, 0.1)])
@pytest.mark.parametrize("seed", range(3))
def test_what_a_linearizable_register_answers_is_good(seed: int, keys: int, clients: int, unknown_share: float) -> None:
    assert_linearizable(Simulated(seed, keys, clients, unknown_share).run(400))


def broken(history: list[Operation], rng: random.Random) -> Iterator[tuple[str, list[Operation]]]:
    """Yield histories that no register can have had, each made of a good one by one change."""
    gets = [place for place, one in enumerate(history) if one.kind == "get" and one.is_known]
    place = rng.choice(gets)
    yield "a read of what nobody wrote", _with(history, place, value="nobody's")
    end = max(one.returned for one in history if one.is_known) + 1
    key = history[place].key
    yield (
        "a write that is lost",
        [
            *history,
            Operation("x", key, "put", end, end + 1, "last"),
            Operation("x", key, "get", end + 2, end + 3, None),
        ],
    )
    yield (
        "a condition that held twice",
        [
            *history,
            Operation("x", key, "put", end, end + 1, "once"),
            Operation("x", key, "cas", end + 2, end + 5, "first", "once"),
            Operation("y", key, "cas", end + 3, end + 4, "second", "once"),
        ],
    )
    yield (
        "a condition that failed for no reason",
        [
            *(one for one in history if one.is_known or one.key != key),
            Operation("x", key, "put", end, end + 1, "there"),
            Operation("x", key, "cas", end + 2, end + 3, "new", "there", held=False),
        ],
    )
    yield (
        "a write that a reader saw is taken back",
        [
            *history,
            Operation("x", key, "put", end, end + 1, "before"),
            Operation("x", key, "put", end + 2, NEVER, "seen"),
            Operation("x", key, "get", end + 3, end + 4, "seen"),
            Operation("x", key, "get", end + 5, end + 6, "before"),
        ],
    )
    for place in gets:  # read again what was overwritten by a write that had returned before
        one = history[place]
        older = [
            (first, second)
            for first in history
            for second in history
            if first.key == second.key == one.key
            and first.kind == second.kind == "put"
            and first.value is not None
            and first.returned < second.called
            and second.returned < one.called
        ]
        if older:
            yield "a stale read", _with(history, place, value=older[0][0].value)
            return


def _with(history: list[Operation], place: int, **changes: Any) -> list[Operation]:
    return [one._replace(**changes) if number == place else one for number, one in enumerate(history)]


@pytest.mark.parametrize("seed", range(4))
def test_one_change_makes_it_bad(seed: int) -> None:
    history = Simulated(seed, 4, 6, 0.03).run(160)
    assert_linearizable(history)
    told = {}
    for name, bad in broken(history, random.Random(seed)):
        told[name] = [violation.key for violation in check(bad)]
        assert len(told[name]) == 1, name
    assert len(told) == 6


def test_thousands_of_operations_are_judged_in_few_steps() -> None:
    history = Simulated(7, 30, 16, 0.02).run(6_000)
    assert len(history) == 6_000
    assert not check(history, most_steps=20_000), "no key takes many more steps than it has operations"


def test_many_unknown_writes_that_nobody_noticed_cost_nothing() -> None:
    unknown = [put(number, NEVER, f"unknown {number}") for number in range(1, 200)]
    known = [
        operation
        for number in range(200, 600, 4)
        for operation in (put(number, number + 1, number), get(number + 2, number + 3, number))
    ]
    assert not check([*unknown, *known], most_steps=1_000)


# -- taking a history down --------------------------------------------------------------------------------------------


def test_a_recorder_takes_down_every_outcome() -> None:
    recorder = Recorder()
    recorder.put("a", "k", "1").done()
    reading = recorder.get("b", "k")
    recorder.cas("a", "k", "0", "2").did_not_hold()
    reading.done("1")
    recorder.cas("a", "k", "1", "2").unknown()
    recorder.put("a", "k", "never").not_done()
    recorder.put("a", "k", "still open")
    first, second, third, fourth, fifth = recorder.history()
    assert (first.kind, first.called, first.returned, first.value) == ("put", 1, 2, "1")
    assert (second.kind, second.held, second.expected) == ("cas", False, "0")
    assert (third.kind, third.called, third.value) == ("get", 3, "1")
    assert (fourth.is_known, fifth.is_known, fifth.value) == (False, False, "still open")
    assert_linearizable(recorder.history())


def test_an_operation_ends_once() -> None:
    pending = Recorder().put("a", "k", "1")
    pending.done()
    with pytest.raises(ValueError, match="ended twice"):
        pending.unknown()


def test_many_threads_record_into_one_history() -> None:
    recorder, lock, state = Recorder(), threading.Lock(), {"value": None}

    def work(name: str) -> None:
        for number in range(100):
            pending = recorder.put(name, "k", f"{name}{number}")
            with lock:
                state["value"] = f"{name}{number}"  # type: ignore[assignment]
            pending.done()
            pending = recorder.get(name, "k")
            with lock:
                seen = state["value"]
            pending.done(seen)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(recorder.history()) == 800
    assert_linearizable(recorder.history())
