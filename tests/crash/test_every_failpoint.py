"""A crash at every failpoint, at its first passages: what users were told is there, killed or without power."""

from __future__ import annotations

import contextlib
import os
import random

import pytest

from kvserver.base import failpoints
from kvserver.base.options import WalOptions
from support.campaign import SMALL, Run, judge, open_store
from support.crashes import sampled_states
from support.faultfs import ProcessKilled
from support.memfs import MemoryFileSystem

ROUNDS = int(os.environ.get("KVSERVER_CRASH_ROUNDS", "1"))
STATES = 6 if ROUNDS == 1 else 40
PASSAGES = (1, 2, 3, 7)
STEPS = 25

RECOVERY = [name for name in failpoints.NAMES if name.startswith(("wal.recover.", "engine.open."))]


class Bomb:
    """Kills the process at the n-th passage of a failpoint."""

    def __init__(self, name: str, passage: int) -> None:
        self.left = passage
        failpoints.arm(name, self)

    def __call__(self) -> None:
        """Pass once."""
        self.left -= 1
        if self.left == 0:
            raise ProcessKilled


@pytest.fixture(autouse=True)
def _disarm() -> object:
    yield
    failpoints.disarm_all()


def live(disk: MemoryFileSystem, seed: int, wal: WalOptions = SMALL) -> Run:
    """Let a store live and end by itself, or by a bomb; return what its users were told."""
    run = Run(disk, seed, wal)
    with contextlib.suppress(ProcessKilled):
        run.work(STEPS)
        run.db.close()
    return run


def judge_all(disk: MemoryFileSystem, run: Run, seed: int) -> None:
    """Judge what a kill leaves, what losses of power leave, and what a loss of power after a restart leaves."""
    failpoints.disarm_all()
    for state in sampled_states(disk, random.Random(seed), STATES):
        judge(state.disk, run)
    disk.kill()
    after_kill = disk.clone()
    restarted = judge(disk, run)
    served = restarted.marks.visible  # readers were shown this: no loss of power may take it back
    for state in sampled_states(disk, random.Random(seed), STATES):
        judge(state.disk, run, told=served)
    for state in sampled_states(after_kill, random.Random(seed), 2):
        judge(state.disk, run)


@pytest.mark.parametrize("name", failpoints.NAMES)
def test_crash_while_the_store_lives(name: str) -> None:
    passed = False
    for seed in range(ROUNDS):
        for passage in PASSAGES:
            disk = MemoryFileSystem()
            bomb = Bomb(name, passage)
            try:
                run = live(disk, seed)
            except ProcessKilled:  # it died while it was being opened: nobody was told of anything
                passed = True
                failpoints.disarm_all()
                disk.kill()
                open_store(disk).close()
                continue
            passed = passed or bomb.left <= 0
            judge_all(disk, run, seed)
    assert passed or name in RECOVERY, f"the workload never passes {name}"


@pytest.mark.parametrize("name", RECOVERY)
def test_crash_while_it_recovers(name: str) -> None:
    """A torn tail is on disk; the process dies while it cleans up, again and again."""
    passed = False
    for seed in range(2 * ROUNDS):
        disk = MemoryFileSystem()
        Bomb("wal.after_write", 9)
        run = live(disk, seed)
        failpoints.disarm_all()
        for state in sampled_states(disk, random.Random(seed), 4 * STATES):
            died = state.disk
            for passage in (1, 2):
                bomb = Bomb(name, passage)
                with contextlib.suppress(ProcessKilled):
                    open_store(died)
                passed = passed or bomb.left <= 0
                failpoints.disarm_all()
                for again in sampled_states(died, random.Random(seed), 3):
                    judge(again.disk, run)
                died.kill()
            judge(died, run)
    assert passed, f"recovery never passes {name}"


def test_kills_one_after_the_other() -> None:
    """Every life ends at a random place; every next one goes on from there."""
    rng = random.Random(7)
    for seed in range(15 * ROUNDS):
        disk = MemoryFileSystem()
        Bomb(rng.choice(failpoints.NAMES), rng.randrange(1, 9))
        try:
            run = live(disk, seed)
        except ProcessKilled:
            continue
        judge_all(disk, run, seed)
