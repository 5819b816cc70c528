"""Bases: checkpoints that a node of a cluster keeps of its own store, so that it can go back without fetching all of it anew.

A log can be cut where histories part, tables cannot. Where they hold more than what the cluster went on with, others are made of
a base that does not and of the log behind it (``kvserver.replication.rewind_tables``). So a base is of use only

- while the log behind it is there: the hold ``rewind-base`` keeps it, from the oldest base on;
- if it holds nothing that the cluster goes on without. What every follower, member and the archive have is such, as long as no
  node is promoted that lacks it. Which revision that is, the primary says with every message (``held_by_all``).

Kept are the newest of which every node has what it holds, and a newer one, which takes its place once they have that too. A base
is made under another name and renamed, and loses the record of its origin before it is removed: what has both its name and
that record is whole. One that is not is removed at the next start, and nothing is lost by that but a shorter way back.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from kvserver.base import failpoints
from kvserver.base.environment import Environment
from kvserver.base.errors import Corruption
from kvserver.base.fs import remove_tree
from kvserver.base.paths import DataPaths, parse_base
from kvserver.storage.origin import Origin, read_origin

HOLD = "rewind-base"
"""The name of the hold that keeps the log behind the oldest base."""


class Base(NamedTuple):
    """A checkpoint that can be gone back to."""

    origin: Origin
    folder: Path

    @property
    def paths(self) -> DataPaths:
        """Return the paths below its folder."""
        return DataPaths(self.folder)

    @property
    def revision(self) -> int:
        """Return the last revision that its tables hold."""
        return self.origin.position.revision


def find_bases(env: Environment, paths: DataPaths) -> list[Base]:
    """Return the bases of a data folder that are whole, oldest first. Raises OSError."""
    found: list[Base] = []
    for name in sorted(_names(env, paths)):
        revision = parse_base(name)
        if revision is None:
            continue
        at = paths.base(revision)
        try:
            origin = read_origin(env, at)
        except Corruption:
            continue
        if origin is not None and origin.position.revision == revision:
            found.append(Base(origin, at.root))
    return found


def clear_bases(env: Environment, paths: DataPaths, keep: Sequence[Base] = ()) -> None:
    """Remove all bases but these, and what is half made or half removed. Raises OSError."""
    kept = {base.folder.name for base in keep}
    going = [name for name in _names(env, paths) if name not in kept]
    for name in going:
        at = DataPaths(paths.bases / name)
        if env.fs.exists(at.origin):
            env.fs.remove(at.origin)
            env.fs.sync_dir(at.root)
            failpoints.hit("base.after_origin_removed")
        remove_tree(env.fs, at.root)
    if going:
        env.fs.sync_dir(paths.bases)


def begin_base(env: Environment, paths: DataPaths) -> DataPaths:
    """Return the folder in which a checkpoint is to be made; it does not exist. Raises OSError."""
    making = paths.base_being_made()
    env.fs.make_dir(paths.bases)
    remove_tree(env.fs, making.root)
    return making


def finish_base(env: Environment, paths: DataPaths) -> Base:
    """Give a checkpoint that was made its name. Durable on return. Raises OSError."""
    making = paths.base_being_made()
    origin = read_origin(env, making)
    assert origin is not None, "it is written last, and was made a moment ago"
    base = Base(origin, paths.base(origin.position.revision).root)
    env.fs.make_dir(making.wal)  # whoever opens tables looks whether there is a log beside them
    failpoints.hit("base.after_checkpoint")
    if env.fs.exists(base.folder):  # half of it: a whole one would not have been made again
        remove_tree(env.fs, base.folder)
    env.fs.rename(making.root, base.folder)
    env.fs.sync_dir(paths.bases)
    failpoints.hit("base.after_rename")
    return base


def surplus(bases: Sequence[Base], held_by_all: int) -> list[Base]:
    """Return those of the bases, oldest first, that a newer one takes the place of: every node has what that one holds."""
    return [base for base in bases if base.revision <= held_by_all][:-1]


def _names(env: Environment, paths: DataPaths) -> list[str]:
    return env.fs.list_dir(paths.bases) if env.fs.exists(paths.bases) else []
