"""A disk and its page cache, modelled: what a process sees, what a power loss may leave.

Every file has content on the disk and content in the page cache, and a log of the changes in which the two differ.
Every folder has names on the disk and names in the cache; the changes of names stand in one list. A sync moves
changes from the log to the disk. A power loss keeps what is on the disk and, of each other change, what a
``Survival`` says.

The model is harsher than a good file system, and nowhere harsher than what ``kvserver.base.fs`` promises:

- Unsynced writes survive in any subset and in any part, down to single bytes. A part that did not survive shows what
  was there before; where the write made the file longer it shows zeros, or the file stays short. Bytes outside a
  write, and old bytes rewritten with the same value, are never harmed.
- ``datasync`` settles writes and changes of length alike (fdatasync(2) says so of ftruncate); neither settles a name.
- Changes of names in one folder survive in order: a prefix of them (or, on request, any subset). A rename is one
  change, also between two folders.
- After a failed sync the pages are clean: the cache shows what was written, later syncs succeed and do not write it,
  and the disk may hold any part of it. Only writing the bytes again helps. Names are different: a failed ``sync_dir``
  may be repeated, because they go through the journal, and when that fails the file system turns read-only.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

SECTOR_BYTES = 512


class Buffer:
    """Bytes that copies share until one of them is written."""

    __slots__ = ("_data", "_shared")

    def __init__(self, data: bytearray | None = None, shared: bool = False) -> None:
        self._data = bytearray() if data is None else data
        self._shared = shared

    def __len__(self) -> int:
        return len(self._data)

    def share(self) -> Buffer:
        """Return a copy, without copying."""
        self._shared = True
        return Buffer(self._data, shared=True)

    def read(self, length: int, offset: int) -> bytes:
        """Return up to so many bytes."""
        return bytes(memoryview(self._data)[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        """Put the data at the offset; a gap before it becomes zeros."""
        if not data:
            return
        self._own()
        if offset > len(self._data):
            self._data.extend(bytes(offset - len(self._data)))
        self._data[offset : offset + len(data)] = data

    def resize(self, length: int) -> None:
        """Cut, or extend with zeros."""
        if length == len(self._data):
            return
        self._own()
        if length < len(self._data):
            del self._data[length:]
        else:
            self._data.extend(bytes(length - len(self._data)))

    def _own(self) -> None:
        if self._shared:
            self._data = bytearray(self._data)
            self._shared = False


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes written at an offset."""

    offset: int
    data: bytes

    @property
    def end(self) -> int:
        """The offset after the last byte."""
        return self.offset + len(self.data)


@dataclass(frozen=True, slots=True)
class Truncate:
    """A file cut or extended to a length."""

    length: int


@dataclass(frozen=True, slots=True)
class NameChange:
    """A create, rename, link or remove: one or more names that change together; a node of None removes the name."""

    what: str
    changes: tuple[tuple[Directory, str, Node | None], ...]


Change = Write | Truncate | NameChange


@dataclass(frozen=True, slots=True)
class Survival:
    """What a power loss leaves of one unsynced change.

    ``kept`` are the ranges of a write that survive, relative to its start; None means all of it. ``grown`` says
    whether the file is as long as the write made it although the bytes are missing. Other changes survive (WHOLE) or
    do not (LOST).
    """

    kept: tuple[tuple[int, int], ...] | None
    grown: bool = False

    def __str__(self) -> str:
        if self.kept is None:
            return "whole"
        ranges = ", ".join(f"bytes {start} to {end}" for start, end in self.kept)
        return f"{ranges or 'lost'}{', length kept' if self.grown else ''}"


WHOLE = Survival(None)
LOST = Survival(())
LENGTH_ONLY = Survival((), grown=True)


class Stage(enum.Enum):
    """How far a change of a file has come."""

    DIRTY = "dirty"
    """In the page cache; the next sync writes it."""
    ABANDONED = "abandoned"
    """A sync of it failed: no later sync writes it, and how much of it is on the disk nobody knows."""
    SETTLED = "settled"
    """On the disk, but logged behind an abandoned change."""


@dataclass(frozen=True, slots=True)
class Unsynced:
    """One change that a power loss may drop or tear.

    ``grows`` says whether it may be what makes the file longer.
    """

    number: int
    path: str
    change: Change
    abandoned: bool = False
    grows: bool = False

    def __str__(self) -> str:
        change = self.change
        if isinstance(change, Write):
            text = f"write {self.path} {change.offset}+{len(change.data)}"
        elif isinstance(change, Truncate):
            text = f"truncate {self.path} to {change.length}"
        else:
            text = change.what
        return f"{text} (its sync failed)" if self.abandoned else text


Choose = Callable[[Unsynced], Survival]


@dataclass(eq=False, slots=True)
class Inode:
    """A file, whatever its names."""

    durable: Buffer = field(default_factory=Buffer)
    volatile: Buffer = field(default_factory=Buffer)
    log: list[tuple[Write | Truncate, Stage]] = field(default_factory=list)

    def change(self, change: Write | Truncate) -> None:
        """Do it in the page cache."""
        _apply(self.volatile, change, WHOLE)
        self.log.append((change, Stage.DIRTY))

    def settle(self) -> None:
        """Write what is dirty to the disk, as a successful sync does."""
        self.log = [(change, Stage.SETTLED if stage is Stage.DIRTY else stage) for change, stage in self.log]
        settled = [change for change, stage in self.log if stage is Stage.SETTLED and isinstance(change, Write)]
        self.log = [
            (change, stage) for change, stage in self.log if stage is Stage.SETTLED or not self._written_again(change, settled)
        ]
        while self.log and self.log[0][1] is Stage.SETTLED:
            _apply(self.durable, self.log.pop(0)[0], WHOLE)

    def abandon(self) -> None:
        """Mark what is dirty as clean without writing it, as a failed sync does."""
        self.log = [(change, Stage.ABANDONED if stage is Stage.DIRTY else stage) for change, stage in self.log]

    def evict(self) -> None:
        """Forget clean pages: what was abandoned is read from the disk again, where it is not."""
        self.log = [(change, stage) for change, stage in self.log if stage is not Stage.ABANDONED]
        self.volatile = self.durable.share()
        for change, _ in self.log:
            _apply(self.volatile, change, WHOLE)

    def unsynced(self) -> Iterator[tuple[Write | Truncate, bool, bool]]:
        """Yield each change that may be lost, whether it was abandoned and whether it may make the file longer."""
        cuts = [change.length for change, _ in self.log if isinstance(change, Truncate)]
        shortest = min(len(self.durable), *cuts) if cuts else len(self.durable)
        for change, stage in self.log:
            if stage is not Stage.SETTLED:
                end = change.end if isinstance(change, Write) else change.length
                yield change, stage is Stage.ABANDONED, end > shortest

    def clone(self) -> Inode:
        """Return an independent copy."""
        return Inode(self.durable.share(), self.volatile.share(), list(self.log))

    def survivor(self, survivals: dict[int, Survival]) -> Inode:
        """Return the file as it is after a power loss."""
        content = self.durable.share()
        for change, stage in self.log:
            _apply(content, change, WHOLE if stage is Stage.SETTLED else survivals[id(change)])
        return Inode(content, content.share())

    def _written_again(self, change: Write | Truncate, settled: list[Write]) -> bool:
        """Say whether a settled write, which is then younger, covers the abandoned change."""
        if isinstance(change, Truncate):
            return False
        position = next(index for index, (logged, _) in enumerate(self.log) if logged is change)
        younger = {id(logged) for logged, _ in self.log[position + 1 :]}
        return any(id(write) in younger and write.offset <= change.offset and change.end <= write.end for write in settled)


@dataclass(eq=False, slots=True)
class Directory:
    """A folder: its names on the disk and in the cache."""

    durable: dict[str, Node] = field(default_factory=dict)
    volatile: dict[str, Node] = field(default_factory=dict)


Node = Inode | Directory


def _apply(content: Buffer, change: Write | Truncate, survival: Survival) -> None:
    """Do to the content what survives of the change."""
    if isinstance(change, Truncate):
        if survival == WHOLE:
            content.resize(change.length)
        return
    if survival.kept is None:
        content.write(change.offset, change.data)
        return
    for start, end in survival.kept:
        content.write(change.offset + start, change.data[start:end])
    if survival.grown and len(content) < change.end:
        content.resize(change.end)


class Disk:
    """A tree of folders and files, and the changes of names that are not on the disk yet. Not thread-safe."""

    def __init__(self) -> None:
        self.root = Directory()
        self.name_changes: list[NameChange] = []

    def change_names(self, what: str, *changes: tuple[Directory, str, Node | None]) -> None:
        """Change names in the cache, all at once."""
        for directory, name, node in changes:
            if node is None:
                del directory.volatile[name]
            else:
                directory.volatile[name] = node
        self.name_changes.append(NameChange(what, changes))

    def settle_names(self, directory: Directory) -> None:
        """Write a folder's names to the disk, and what of other folders is bound to them by a rename."""
        bound = {directory}
        settled: list[NameChange] = []
        kept: list[NameChange] = []
        for change in reversed(self.name_changes):
            touched = {touched for touched, _, _ in change.changes}
            if touched & bound:
                bound |= touched
                settled.append(change)
            else:
                kept.append(change)
        for change in reversed(settled):
            for touched_directory, name, node in change.changes:
                _set(touched_directory.durable, name, node)
        self.name_changes = kept[::-1]

    def unsynced(self) -> list[Unsynced]:
        """Return every change that a power loss may drop, in a stable order: files by path, then names by age."""
        found: list[Unsynced] = []
        for node, path in self.nodes().items():
            if isinstance(node, Inode):
                for change, abandoned, grows in node.unsynced():
                    found.append(Unsynced(len(found), path, change, abandoned, grows))
        for name_change in self.name_changes:
            found.append(Unsynced(len(found), "", name_change))
        return found

    def after_power_loss(self, choose: Choose, ordered_names: bool) -> Disk:
        """Return the disk as the choice leaves it, with an empty page cache."""
        survivals = {id(item.change): choose(item) for item in self.unsynced()}
        names: dict[Directory, dict[str, Node]] = {}
        stopped: set[Directory] = set()
        for change in self.name_changes:
            touched = {directory for directory, _, _ in change.changes}
            if survivals[id(change)] != WHOLE or (ordered_names and touched & stopped):
                stopped |= touched
                continue
            for directory, name, node in change.changes:
                _set(names.setdefault(directory, dict(directory.durable)), name, node)
        survivors: dict[Node, Node] = {}

        def survive(node: Node) -> Node:
            done = survivors.get(node)
            if done is None:
                if isinstance(node, Inode):
                    done = survivors[node] = node.survivor(survivals)
                else:
                    entries = {name: survive(child) for name, child in names.get(node, node.durable).items()}
                    done = survivors[node] = Directory(entries, dict(entries))
            return done

        after = Disk()
        root = survive(self.root)
        assert isinstance(root, Directory)
        after.root = root
        return after

    def clone(self) -> Disk:
        """Return an independent copy, cache and disk; file contents are shared until one side writes."""
        copies: dict[Node, Node] = {}

        def copy(node: Node) -> Node:
            done = copies.get(node)
            if done is None:
                if isinstance(node, Inode):
                    done = copies[node] = node.clone()
                else:
                    done = copies[node] = Directory()
                    done.durable = {name: copy(child) for name, child in node.durable.items()}
                    done.volatile = {name: copy(child) for name, child in node.volatile.items()}
            return done

        def copy_directory(node: Directory) -> Directory:
            copied = copy(node)
            assert isinstance(copied, Directory)
            return copied

        twin = Disk()
        twin.root = copy_directory(self.root)
        for change in self.name_changes:
            changes = tuple(
                (copy_directory(directory), name, None if node is None else copy(node))
                for directory, name, node in change.changes
            )
            twin.name_changes.append(NameChange(change.what, changes))
        return twin

    def nodes(self) -> dict[Node, str]:
        """Return every node that a name leads to, now or after a power loss, with one of its paths."""
        found: dict[Node, str] = {}

        def visit(node: Node | None, path: str) -> None:
            if node is None or node in found:
                return
            found[node] = path
            if isinstance(node, Directory):
                for name in sorted(node.volatile.keys() | node.durable.keys()):
                    visit(node.volatile.get(name), f"{path}/{name}")
                    visit(node.durable.get(name), f"{path}/{name}")

        visit(self.root, "")
        for change in self.name_changes:
            for directory, name, node in change.changes:
                visit(node, f"{found.get(directory, '')}/{name}")
        return found


def _set(names: dict[str, Node], name: str, node: Node | None) -> None:
    if node is None:
        names.pop(name, None)
    else:
        names[name] = node
