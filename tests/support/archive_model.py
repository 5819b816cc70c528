"""Random archives, each with what is known of how it was made: what was committed when, what is missing, what can be restored."""

from __future__ import annotations

import random

from kvserver.base.types import Position
from support.archives import ArchiveScene


class ArchiveModel:
    """A random archive, and which revision was committed when and is missing."""

    def __init__(self, seed: int) -> None:
        """Make the archive of a seed."""
        self.chance = random.Random(seed)
        self.scene = ArchiveScene()
        self.scene.begin()
        self.missing: set[int] = set()
        """Revisions that were given up, and said so."""
        self.backups: set[tuple[int, int]] = set()
        """Revision and epoch of each backup that is part of history."""
        for _ in range(self.chance.randint(3, 14)):
            self.step()
        self.end = self.scene.position.revision

    def step(self) -> None:
        """Do one of the things that happen to an archive."""
        scene, chance = self.scene, self.chance
        match chance.randrange(8):
            case 0:
                scene.begin()
            case 1:
                self.part()
            case 2 if chance.random() < 0.5:
                gap = scene.gap(*self.groups(1))
                self.missing |= set(range(gap.first_revision, gap.last_revision + 1))
            case 3 | 4:
                if scene.position.revision > 1:
                    at = scene.backup().position
                    self.backups.add((at.revision, at.epoch.number))
            case _:
                scene.segment(*self.groups(0))

    def groups(self, least: int) -> list[int]:
        """Return the commits of a few groups."""
        return [self.chance.randint(1, 3) for _ in range(self.chance.randint(least, 3))]

    def part(self) -> None:
        """Begin an epoch in the past, at the end of a group that the archive holds."""
        scene = self.scene
        ends = [(at, end) for at, end in scene.frame_ends.items() if at not in self.missing]
        if not ends:
            return
        revision, branch = self.chance.choice(ends)
        scene.begin(branch=Position(branch.epoch, revision, branch.chain))
        self.backups = {(at, epoch) for at, epoch in self.backups if at <= revision and epoch <= branch.epoch.number}
        self.missing = {one for one in self.missing if one <= revision}
        for gone in [at for at in scene.time_of if at > revision]:
            del scene.time_of[gone]
            scene.frame_ends.pop(gone, None)

    @property
    def bases(self) -> set[int]:
        """Return the revisions of the backups that are part of history."""
        return {revision for revision, _ in self.backups}

    def can(self, revision: int) -> bool:
        """Say whether a revision can be restored."""
        if revision < 2 or revision > self.end:
            return revision in self.bases
        begins = [base for base in self.bases if base <= revision] + ([1] if revision > 1 else [])
        return any(self.missing.isdisjoint(range(begin + 1, revision + 1)) for begin in begins)
