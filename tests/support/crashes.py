"""Every state, or many, that a power loss may leave of a ``MemoryFileSystem``; and when to ask for them.

    for point in record_crash_points(disk, program):    # after each call that changed something
        for state in states(point.disk, rng):            # each state of the disk that may be found then
            check(recover(state.disk), point.marks("ack"))

The method is that of Pillai et al., "All File Systems Are Not Created Equal" (OSDI 2014): acknowledgements are points
of the trace, so that what was promised at a crash is known.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from support.memdisk import LENGTH_ONLY, LOST, SECTOR_BYTES, WHOLE, Directory, NameChange, Survival, Unsynced, Write
from support.memfs import MemoryFileSystem
from support.recordfs import CHANGING, Entry, Mark, Op, RecordingFileSystem

Fates = tuple[Survival, ...]
"""What survives of each unsynced change, in the order of ``MemoryFileSystem.unsynced``."""

DEFAULT_LIMIT = 20_000

_RANDOM_SHARES = (0.35, 0.65)
"""Of a sampled state's changes, up to the first share are lost, up to the second survive whole, the rest is torn."""


class TooManyStates(ValueError):
    """There are more states than the limit; sample them."""


@dataclass(frozen=True)
class CrashState:
    """One state of the disk after a power loss, and what became of each unsynced change."""

    disk: MemoryFileSystem
    fates: tuple[tuple[Unsynced, Survival], ...]

    def __str__(self) -> str:
        return "; ".join(f"{change}: {survival}" for change, survival in self.fates) or "nothing was unsynced"


def cut(length: int, grown: bool = False) -> Survival:
    """Return what keeps the first bytes of a write; with ``grown``, the file's length as well."""
    return Survival(((0, length),), grown)


def tears(item: Unsynced) -> list[Survival]:
    """Return representative ways in which a write survives in part; nothing for other changes.

    Cut before the last byte, in the middle and at a sector's end; with the length kept or not; the beginning missing;
    a hole. Where the write does not make the file longer, keeping the length changes nothing and is left out.
    """
    if not isinstance(item.change, Write):
        return []
    length = len(item.change.data)
    to_sector = SECTOR_BYTES - item.change.offset % SECTOR_BYTES
    ends = {length - 1, length // 2, to_sector} & set(range(1, length))
    found = [cut(end) for end in sorted(ends)]
    if item.grows:
        found.append(LENGTH_ONLY)
        found += [cut(end, grown=True) for end in sorted(ends)]
    if ends:
        middle = to_sector if to_sector < length else max(1, length // 2)
        found.append(Survival(((middle, length),)))
    if length > 2:
        third = max(1, length // 3)
        found.append(Survival(((0, third), (length - third, length))))
    return found


def every_cut(item: Unsynced) -> list[Survival]:
    """Return a cut of a write before each of its bytes, with the length kept and not; nothing for other changes."""
    if not isinstance(item.change, Write):
        return []
    return [cut(end, grown) for end in range(len(item.change.data)) for grown in (False, True)]


def count_states(disk: MemoryFileSystem, ordered_names: bool = True) -> int:
    """Return how many states ``all_states`` would yield."""
    files, names = _split(disk.unsynced())
    ways = math.prod(len(_fates(item)) for item in files)
    return ways * (len(_name_prefixes(names)) if ordered_names else 2 ** len(names))


def all_states(disk: MemoryFileSystem, limit: int = DEFAULT_LIMIT, ordered_names: bool = True) -> Iterator[CrashState]:
    """Yield every subset of the unsynced changes of files, each whole or torn, with every prefix of a folder's names.

    Without ``ordered_names``, with any subset of the names. Raises TooManyStates, before the first state, where there
    would be more than the limit.
    """
    count = count_states(disk, ordered_names)
    if count > limit:
        raise TooManyStates(f"{count} states, more than {limit}")
    return _all_states(disk, ordered_names)


def sampled_states(disk: MemoryFileSystem, rng: random.Random, count: int, ordered_names: bool = True) -> Iterator[CrashState]:
    """Yield the extreme states, however many, and then random ones until there were so many.

    Extreme: nothing kept, everything kept, each change lost alone, each kept alone, the last write torn in every
    representative way (all others kept; all others lost). With ``ordered_names``, the loss of a name takes the later
    ones in its folder with it.
    """
    items = disk.unsynced()
    kept_in_order = _in_order if ordered_names else _as_they_are
    extremes = list(dict.fromkeys(kept_in_order(items, fates) for fates in _extremes(items)))
    for fates in extremes:
        yield _state(disk, items, fates)
    if items:
        for _ in range(count - len(extremes)):
            yield _state(disk, items, kept_in_order(items, [_random_fate(item, rng) for item in items]))


def states(disk: MemoryFileSystem, rng: random.Random, limit: int = 1000, ordered_names: bool = True) -> Iterator[CrashState]:
    """Yield all states where there are no more than the limit, else so many samples."""
    if count_states(disk, ordered_names) <= limit:
        return _all_states(disk, ordered_names)
    return sampled_states(disk, rng, limit, ordered_names)


@dataclass
class CrashPoint:
    """A moment at which the power may fail: the disk then, and the calls and marks before it."""

    disk: MemoryFileSystem
    entries: list[Entry]

    def marks(self, name: str) -> list[object]:
        """Return the values of the marks of this name, oldest first."""
        return [entry.value for entry in self.entries if isinstance(entry, Mark) and entry.name == name]


Program = Callable[[RecordingFileSystem[MemoryFileSystem]], object]


def record_crash_points(disk: MemoryFileSystem, program: Program) -> list[CrashPoint]:
    """Run a program on the disk and return the points before and after each call that changed something.

    Marks set after a call count to the point of that call: nothing changed on disk since, but more was promised.
    What the program raises passes through.
    """
    points = [CrashPoint(disk.clone(), [])]

    def note(entry: Entry) -> None:
        if isinstance(entry, Op) and entry.kind in CHANGING:
            points.append(CrashPoint(disk.clone(), [*points[-1].entries, entry]))
        else:
            points[-1].entries.append(entry)

    program(RecordingFileSystem(disk, on_entry=note))
    return points


def _fates(item: Unsynced) -> list[Survival]:
    return [LOST, WHOLE, *tears(item)]


def _split(items: Sequence[Unsynced]) -> tuple[list[Unsynced], list[Unsynced]]:
    """Return the changes of files and the changes of names, which stand behind them."""
    first_name = sum(not isinstance(item.change, NameChange) for item in items)
    return list(items[:first_name]), list(items[first_name:])


def _all_states(disk: MemoryFileSystem, ordered_names: bool) -> Iterator[CrashState]:
    items = disk.unsynced()
    files, names = _split(items)
    of_names: Iterable[Fates] = _name_prefixes(names)
    if not ordered_names:
        of_names = itertools.product((LOST, WHOLE), repeat=len(names))
    for fates_of_names in of_names:
        for fates in itertools.product(*map(_fates, files)):
            yield _state(disk, items, fates + fates_of_names)


def _touched(item: Unsynced) -> set[Directory]:
    """Return the folders whose names a change changes: none for a change of a file."""
    return {directory for directory, _, _ in item.change.changes} if isinstance(item.change, NameChange) else set()


def _name_prefixes(names: Sequence[Unsynced]) -> list[Fates]:
    """Return what may survive: of each folder a prefix, a rename between two folders in both or neither."""
    folders = list(dict.fromkeys(directory for item in names for directory in _touched(item)))
    ranks: dict[Directory, int] = dict.fromkeys(folders, 0)
    places: list[list[tuple[int, int]]] = []
    for item in names:
        places.append([(folders.index(directory), ranks[directory]) for directory in _touched(item)])
        for directory in _touched(item):
            ranks[directory] += 1
    found: dict[Fates, None] = {}
    for prefix in itertools.product(*(range(count + 1) for count in ranks.values())):
        kept = [all(rank < prefix[folder] for folder, rank in place) for place in places]
        found[_in_order(names, [WHOLE if keep else LOST for keep in kept])] = None
    return list(found)


def _in_order(items: Sequence[Unsynced], fates: Sequence[Survival]) -> Fates:
    """Return the fates with each change of a name lost that comes after a lost one in its folder."""
    stopped: set[Directory] = set()
    found: list[Survival] = []
    for item, fate in zip(items, fates, strict=True):
        touched = _touched(item)
        if touched and (fate != WHOLE or touched & stopped):
            stopped |= touched
            fate = LOST
        found.append(fate)
    return tuple(found)


def _as_they_are(_: Sequence[Unsynced], fates: Sequence[Survival]) -> Fates:
    return tuple(fates)


def _extremes(items: Sequence[Unsynced]) -> Iterator[Fates]:
    yield (LOST,) * len(items)
    yield (WHOLE,) * len(items)
    for index in range(len(items)):
        for most, one in ((WHOLE, LOST), (LOST, WHOLE)):
            yield (*(most,) * index, one, *(most,) * (len(items) - index - 1))
    writes = [item for item in items if isinstance(item.change, Write)]
    if writes:
        last = writes[-1]
        for tear in tears(last):
            for most in (WHOLE, LOST):
                fates = [WHOLE if isinstance(item.change, NameChange) else most for item in items]
                fates[last.number] = tear
                yield tuple(fates)


def _random_fate(item: Unsynced, rng: random.Random) -> Survival:
    lost, whole = _RANDOM_SHARES
    dice = rng.random()
    if dice < lost:
        return LOST
    if dice < whole or not isinstance(item.change, Write):
        return WHOLE
    length = len(item.change.data)
    start, end = sorted((rng.randrange(length + 1), rng.randrange(length + 1)))
    kept = rng.choice((((0, start),), ((end, length),), ((0, start), (end, length)), ((start, end),)))
    return Survival(tuple((begin, stop) for begin, stop in kept if begin < stop), grown=rng.random() < 0.5)


def _state(disk: MemoryFileSystem, items: Sequence[Unsynced], fates: Fates) -> CrashState:
    # The fates are in the order that was asked for; the disk need not order them again.
    after = disk.power_loss(lambda item: fates[item.number], ordered_names=False)
    return CrashState(after, tuple(zip(items, fates, strict=True)))
