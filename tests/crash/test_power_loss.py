"""Power lost after every call that changes the disk, with every subset (or many) of what was not synced."""

from __future__ import annotations

import os
import random
from pathlib import Path

from kvserver.base.fs import FileSystem
from support.campaign import Run, judge
from support.crashes import sampled_states
from support.memfs import MemoryFileSystem
from support.recordfs import CHANGING, Entry, Op, RecordingFileSystem

ROUNDS = int(os.environ.get("KVSERVER_CRASH_ROUNDS", "1"))
STEPS = 12
STATES = 5 if ROUNDS == 1 else 100


class Told:
    """What users had been told when the disk was in a state."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self.points: list[tuple[MemoryFileSystem, int, dict[Path, int]]] = []

    def note(self, disk: MemoryFileSystem) -> None:
        """Remember the disk as it is after a call, and what had been told by the next one."""
        run = self.run
        told = max(run.acknowledged, run.shown, run.db.marks.visible) if run is not None else 1
        copies = dict(run.checkpoints) if run is not None else {}
        if self.points:  # nothing changed on disk since, but more may have been told
            self.points[-1] = (self.points[-1][0], told, copies)
        self.points.append((disk.clone(), told, copies))


def trace(seed: int) -> tuple[Run, Told]:
    """Run a workload and note the disk after each changing call."""
    disk = MemoryFileSystem()
    told = Told()

    def on_entry(entry: Entry) -> None:
        if isinstance(entry, Op) and entry.kind in CHANGING:
            told.note(disk)

    fs: FileSystem = RecordingFileSystem(disk, on_entry=on_entry)
    run = Run(fs, seed)
    told.run = run
    run.work(STEPS)
    run.db.close()
    told.note(disk)
    return run, told


def test_every_crash_point() -> None:
    judged = 0
    for seed in range(3 * ROUNDS):
        run, told = trace(seed)
        final = (run.acknowledged, run.shown)
        for disk, known, copies in told.points:
            run.acknowledged, run.shown = known, known
            for state in sampled_states(disk, random.Random(seed), STATES):
                judge(state.disk, run, copies=copies)
                judged += 1
        run.acknowledged, run.shown = final
    assert judged > 500 * ROUNDS, "the campaign judged too little to mean anything"
