"""Judges whether what clients saw could have come from one register a key, with each operation done at one instant.

A history is a list of operations. Each was called at one time and returned at a later one (on one clock: a counter will do), and
is about one key: a put, a delete, a get, or a compare-and-set, whose condition held or did not. Linearizable means: the
operations can be put in one order, in which each one that returned before another was called stands before it, and in which a
register would have answered just so. Keys are independent of each other, so each is judged alone.

An outcome may be unknown: the connection broke, or the client gave up. Such an operation may have taken effect at any time
behind its call, also long after the client stopped waiting, or never. So it returns at infinity, and may be left out.
What certainly had no effect (a refusal) is no part of a history.

The search is that of Wing and Gong, with the memory of Lowe: a configuration is which operations are in the order so far, and
what the register holds then; none is looked at twice. What keeps it short:

* An operation that changes nothing (a get, a condition that failed) and fits what the register holds is taken at once, and
  nothing else is tried in its place: whatever order there is, this one can stand first in it.
* What is known to have happened is tried before what is not.
* An unknown put that nobody can have noticed is left out from the beginning.

A history that cannot be judged within ``most_steps`` is an error of its own, never taken for a good one.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

NEVER = math.inf
"""When an operation returned whose outcome is not known."""

MOST_STEPS = 2_000_000

Value: TypeAlias = "Hashable | None"
"""What a register holds; None: nothing."""


class Operation(NamedTuple):
    """What one client did to one key, and what it was told."""

    process: str
    key: Hashable
    kind: str
    """"put", "get" or "cas". A delete is a put of None."""
    called: float
    returned: float
    """``NEVER``: the outcome is not known."""
    value: Value = None
    """What was put, or was to be; of a get what was read."""
    expected: Value = None
    """Of a compare-and-set: what the register must hold."""
    held: bool = True
    """Of a compare-and-set with a known outcome: its condition held, and the value was put."""

    @property
    def is_known(self) -> bool:
        return self.returned < NEVER

    @property
    def changes(self) -> bool:
        """Whether it changes what the register holds, where it took effect."""
        return self.kind == "put" or (self.kind == "cas" and (self.held or not self.is_known))

    def after(self, state: Value) -> tuple[bool, Value]:
        """Return whether it fits a register that holds this, and what that holds behind it."""
        if self.kind == "put":
            return True, self.value
        if self.kind == "get":
            return state == self.value, state
        if not self.is_known or self.held:  # an unknown one whose condition does not hold is simply left out
            return state == self.expected, self.value
        return state != self.expected, state

    def __str__(self) -> str:
        when = f"[{self.called:g}, {self.returned:g}]" if self.is_known else f"[{self.called:g}, unknown]"
        if self.kind == "get":
            return f"{when} {self.process}: get -> {self.value!r}"
        if self.kind == "put":
            return f"{when} {self.process}: put {self.value!r}"
        outcome = "" if not self.is_known else " -> held" if self.held else " -> did not hold"
        return f"{when} {self.process}: cas {self.expected!r} to {self.value!r}{outcome}"


class Violation(NamedTuple):
    """A key whose history no register can have had."""

    key: Hashable
    longest: list[Operation]
    """The longest order that was found."""
    stuck: list[Operation]
    """What cannot come next, any of them."""
    state: Value
    """What the register holds there."""

    def __str__(self) -> str:
        order = "\n".join(f"    {operation}" for operation in self.longest[-10:])
        stuck = "\n".join(f"    {operation}" for operation in self.stuck)
        return (
            f"key {self.key!r} is not linearizable. The longest order found ({len(self.longest)} operations) ends so:\n{order}\n"
            f"and leaves {self.state!r}. None of these can come next:\n{stuck}"
        )


class TooHard(Exception):
    """A history was not judged: there are too many orders to try."""


def check(history: Iterable[Operation], initial: Value = None, most_steps: int = MOST_STEPS) -> list[Violation]:
    """Return the keys whose history no register can have had; of none: the history is linearizable. Raises TooHard."""
    by_key: dict[Hashable, list[Operation]] = defaultdict(list)
    for operation in history:
        if operation.returned < operation.called:
            raise ValueError(f"an operation returned before it was called: {operation}")
        by_key[operation.key].append(operation)
    found = (_Search(key, operations, initial, most_steps).run() for key, operations in by_key.items())
    return [violation for violation in found if violation is not None]


def assert_linearizable(history: Iterable[Operation], initial: Value = None) -> None:
    """Raise AssertionError, which shows where each key gets stuck, unless the history is linearizable."""
    found = check(history, initial)
    assert not found, "\n\n".join(map(str, found))


class _Config(NamedTuple):
    """Where a search stands: which operations are in the order, and what the register holds."""

    first: int
    """All known operations before this place are in the order."""
    ahead: int
    """Those behind it that are, too: bit n stands for place ``first`` + n."""
    unknown: int
    """The unknown ones that are: a bit for each."""
    state: Value


class _Search:
    """The search for an order of the operations on one key."""

    def __init__(self, key: Hashable, operations: Sequence[Operation], initial: Value, most_steps: int) -> None:
        self._key = key
        kept = _without_unnoticed(operations)
        self._known = sorted((one for one in kept if one.is_known), key=lambda one: (one.called, one.returned))
        self._unknown = sorted((one for one in kept if not one.is_known), key=lambda one: one.called)
        self._initial = initial
        self._most_steps = most_steps

    def run(self) -> Violation | None:
        """Look for an order that has all known operations; None: there is one."""
        begin = self._normal(_Config(0, 0, 0, self._initial))
        order: list[Operation] = []
        stack: list[tuple[_Config, Iterator[tuple[Operation, _Config]]]] = [(begin, self._next(begin))]
        seen = {begin}
        longest: list[Operation] = []
        deepest = begin
        while stack:
            config, following = stack[-1]
            if config.first == len(self._known):
                return None
            step = next(following, None)
            if step is None:
                if len(order) >= len(longest):
                    longest, deepest = list(order), config
                stack.pop()
                if order:
                    order.pop()
                continue
            operation, config = step
            if config in seen:
                continue
            if len(seen) >= self._most_steps:
                raise TooHard(f"key {self._key!r}: {len(seen)} configurations were not enough to judge its history")
            seen.add(config)
            order.append(operation)
            stack.append((config, self._next(config)))
        return Violation(self._key, longest, self._candidates(deepest), deepest.state)

    def _next(self, config: _Config) -> Iterator[tuple[Operation, _Config]]:
        """Yield what may come next, and where the search stands then."""
        bound, places = self._window(config)
        for place in places:
            operation = self._known[place]
            if not operation.changes and operation.after(config.state)[0]:
                yield operation, self._with_known(config, place, config.state)
                return
        for place in places:
            operation = self._known[place]
            if operation.changes:
                fits, state = operation.after(config.state)
                if fits:
                    yield operation, self._with_known(config, place, state)
        for number, operation in enumerate(self._unknown):
            if operation.called > bound:
                break
            if not config.unknown >> number & 1:
                fits, state = operation.after(config.state)
                if fits:
                    yield operation, config._replace(unknown=config.unknown | 1 << number, state=state)

    def _window(self, config: _Config) -> tuple[float, list[int]]:
        """Return the first return among the known operations that are not in the order, and those called up to then."""
        bound, places = NEVER, []
        for place in range(config.first, len(self._known)):
            operation = self._known[place]
            if operation.called > bound:
                break
            if not config.ahead >> (place - config.first) & 1:
                places.append(place)
                bound = min(bound, operation.returned)
        return bound, places

    def _candidates(self, config: _Config) -> list[Operation]:
        bound, places = self._window(config)
        pending = [one for number, one in enumerate(self._unknown) if one.called <= bound and not config.unknown >> number & 1]
        return [*(self._known[place] for place in places), *pending]

    def _with_known(self, config: _Config, place: int, state: Value) -> _Config:
        return self._normal(config._replace(ahead=config.ahead | 1 << (place - config.first), state=state))

    @staticmethod
    def _normal(config: _Config) -> _Config:
        """Move the first place behind all that are in the order: equal configurations must be equal values."""
        first, ahead = config.first, config.ahead
        while ahead & 1:
            first, ahead = first + 1, ahead >> 1
        return config._replace(first=first, ahead=ahead)


def _without_unnoticed(operations: Sequence[Operation]) -> list[Operation]:
    """Leave out gets without an answer, and unknown changes to a value that nobody can have noticed.

    Where such a change took effect nobody read what it put or compared with it; without it each of them sees what was there
    before. Only a condition that failed may have failed because of it.
    """
    answered = [one for one in operations if one.is_known or one.kind != "get"]
    if any(one.kind == "cas" and one.is_known and not one.held for one in answered):
        return answered
    noticed = {one.value for one in answered if one.kind == "get"}
    noticed |= {one.expected for one in answered if one.kind == "cas"}
    return [one for one in answered if one.is_known or one.value in noticed]


class Pending:
    """An operation that was called; say how it ended by one of its methods, once."""

    def __init__(self, recorder: Recorder, called: Operation) -> None:
        self._recorder = recorder
        self._called = called

    def done(self, value: Value = None) -> None:
        """It was answered; of a get the value is what was read."""
        more = {"value": value} if self._called.kind == "get" else {}
        self._recorder.end(self._called._replace(returned=self._recorder.now(), **more))

    def did_not_hold(self) -> None:
        """The condition of a compare-and-set did not hold."""
        self._recorder.end(self._called._replace(returned=self._recorder.now(), held=False))

    def unknown(self) -> None:
        """It may have taken effect, or may yet."""
        self._recorder.end(self._called)

    def not_done(self) -> None:
        """It certainly had no effect, and told nothing."""
        self._recorder.end(self._called, keep=False)


class Recorder:
    """Takes down a history while clients make it; safe for many threads. Its time is a counter: no two moments are the same."""

    def __init__(self) -> None:
        self._count = itertools.count(1)
        self._lock = threading.Lock()
        self._open: dict[float, Operation] = {}
        self._ended: list[Operation] = []

    def now(self) -> int:
        return next(self._count)

    def put(self, process: str, key: Hashable, value: Value) -> Pending:
        """Say that a put (None: a delete) is about to be sent."""
        return self._begin(Operation(process, key, "put", self.now(), NEVER, value))

    def get(self, process: str, key: Hashable) -> Pending:
        """Say that a get is about to be sent."""
        return self._begin(Operation(process, key, "get", self.now(), NEVER))

    def cas(self, process: str, key: Hashable, expected: Value, value: Value) -> Pending:
        """Say that a compare-and-set is about to be sent."""
        return self._begin(Operation(process, key, "cas", self.now(), NEVER, value, expected))

    def history(self) -> list[Operation]:
        """Return what has ended, and what is still open as unknown."""
        with self._lock:
            return [*self._ended, *self._open.values()]

    def end(self, operation: Operation, *, keep: bool = True) -> None:
        """Take down how an operation ended; ``Pending`` calls it."""
        with self._lock:
            if self._open.pop(operation.called, None) is None:
                raise ValueError(f"an operation ended twice: {operation}")
            if keep:
                self._ended.append(operation)

    def _begin(self, operation: Operation) -> Pending:
        with self._lock:
            self._open[operation.called] = operation
        return Pending(self, operation)
