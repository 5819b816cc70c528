"""Every call to the disk fails, once or from then on: nothing acknowledged is lost, nothing is acknowledged after it."""

from __future__ import annotations

import contextlib
import errno
import os
import random

import pytest

from kvserver.base.errors import Corruption, KvError, OpenRefused, Refused
from kvserver.commit.pipeline import AnyTicket
from kvserver.commit.requests import Put, Request
from support.campaign import Run, judge, open_store
from support.crashes import sampled_states
from support.fake_log import outcome
from support.faultfs import Fault, FaultFileSystem, FaultPlan
from support.memfs import MemoryFileSystem
from support.stores import settle

ROUNDS = int(os.environ.get("KVSERVER_CRASH_ROUNDS", "1"))
STEPS = 14
STRIDE = 1 if ROUNDS > 1 else 2

FAULTS = {
    "EIO once": Fault(error=errno.EIO),
    "EIO for ever": Fault(error=errno.EIO, forever=True),
    "ENOSPC once": Fault(error=errno.ENOSPC, kinds={"create", "pwrite", "make_dir", "link", "rename"}),
    "ENOSPC for ever": Fault(error=errno.ENOSPC, kinds={"create", "pwrite", "make_dir", "link"}, forever=True),
    "half a write": Fault(error=errno.EIO, kinds={"pwrite"}, written_bytes=100),
    "sync fails once": Fault(error=errno.EIO, kinds={"datasync", "sync"}),
    "read-only": Fault(
        error=errno.EROFS, kinds={"create", "pwrite", "make_dir", "link", "rename", "remove", "truncate"}, forever=True
    ),
    "no descriptors": Fault(error=errno.EMFILE, kinds={"create", "open", "list_dir"}, forever=True),
}


class Failing(Run):
    """A run that expects the store to refuse work after a fault, and notes only what was answered well."""

    def _compare(self, ticket: AnyTicket, request: Request, memory: bool) -> None:
        if self.diverged or self.db.pipeline.failure is not None:
            return
        super()._compare(ticket, request, memory)

    def _look(self) -> None:
        if any(ticket.done and isinstance(outcome(ticket), Refused) for ticket, _, _ in self._pending):
            self.diverged = True
            del self.model.commits[max(self.acknowledged, self.shown) - 1 :]
        if not self.diverged:
            super()._look()

    def checkpoint(self) -> None:
        """Make a checkpoint, or be refused."""
        with contextlib.suppress(KvError):
            super().checkpoint()

    def work(self, steps: int) -> None:
        """Work until something is refused or fails."""
        for _ in range(steps):
            if self.diverged or self.db.pipeline.failure is not None:
                return
            super().work(1)


@pytest.mark.parametrize("name", FAULTS)
def test_each_call_fails(name: str) -> None:
    fault = FAULTS[name]
    struck = 0
    at = 1
    while True:
        disk = MemoryFileSystem()
        fs = FaultFileSystem(disk, FaultPlan([Fault(**{**fault.__dict__, "at": at})]))
        run = _live(fs)
        if not fs.fired:
            break
        struck += 1
        fs.end_process()
        if run is not None:
            _judge(disk, run, at)
        else:  # it was not opened; nobody was told of anything
            disk.kill()
            open_store(disk).close()
        at += STRIDE
    assert struck > 3, f"the fault {name} hardly ever struck"


def _live(fs: FaultFileSystem[MemoryFileSystem]) -> Failing | None:
    """Let a store live; None where it could not be opened, which must be said by name."""
    try:
        run = Failing(fs, seed=3)
    except (OpenRefused, Corruption) as refusal:
        assert refusal.hint
        return None
    run.work(STEPS)
    if run.db.pipeline.failure is not None:
        before = (run.acknowledged, run.db.marks.durable)
        late = run.db.submit(Put(1, b"late", b"late"), lambda outcome: outcome)
        settle(run.db)
        assert late.done
        with pytest.raises(KvError):
            late.answer()
        assert before == (run.acknowledged, run.db.marks.durable), "something moved after the log failed"
    return run


def _judge(disk: MemoryFileSystem, run: Run, seed: int) -> None:
    for state in sampled_states(disk, random.Random(seed), 3):
        judge(state.disk, run)
    disk.kill()
    restarted = judge(disk, run)
    served = restarted.marks.visible
    for state in sampled_states(disk, random.Random(seed), 3):
        judge(state.disk, run, told=served)
