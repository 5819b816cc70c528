"""One write at a time: a log to append to against a file of the whole state that is written anew, on a quiet and a busy disk."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator

from suite import render
from suite.ours import sdk
from suite.plan import Run, Step
from suite.processes import BENCH, background, execute, fresh_kvserver

APPENDS = 500
QUIET, BUSY = "quiet", "beside a process that keeps the disk busy"
WAS_MS = {"append": "2 to 3", "rewrite": "562"}
"""What the systems before this one took for one write, in milliseconds."""

TEXT = """\
One durable write of 256 bytes after the other, p50 in ms. The full rewrite is a stand-in for what went before: the state as
JSON into a new file, fsync, rename, fsync of the folder. The log append is a put through the SDK, with network and server."""


class Rewrite:
    """Measures one write at a time in both ways, over states of several sizes."""

    name = "rewrite"
    needs: tuple[str, ...] = ()

    def steps(self, run: Run) -> list[Step]:
        """Return a step for each state of the disk."""
        return [Step(f"one write at a time, {disk}", run.sizes.short_s * 4 + 6, self._both(run, disk)) for disk in (QUIET, BUSY)]

    def _both(self, run: Run, disk: str) -> Callable[[], None]:
        def measure() -> None:
            with self._disk(run, disk):
                for keys in run.sizes.states:
                    self._rewrite(run, disk, keys)
                self._append(run, disk)

        return measure

    @contextlib.contextmanager
    def _disk(self, run: Run, disk: str) -> Iterator[None]:
        if disk == QUIET:
            yield
            return
        with background([sys.executable, str(BENCH / "busy_disk.py"), str(run.scratch / "busy")], run.scratch / "busy.log"):
            yield

    def _rewrite(self, run: Run, disk: str, keys: int) -> None:
        command = [sys.executable, str(BENCH / "rewrite_state.py"), str(run.scratch / "state.json"), str(keys)]
        values = json.loads(execute([*command, str(run.sizes.short_s)], timeout_s=120).printed)
        run.record(f"rewrite/{disk}/{keys}", values["p50_ms"])
        run.say(f"full rewrite of {keys:,} keys: {values['p50_ms']:.2f} ms a write ({values['writes']} writes)")

    def _append(self, run: Run, disk: str) -> None:
        largest = max(run.sizes.states)
        with fresh_kvserver(run.folder(f"append-{disk[:5]}")) as server:
            sdk(run, server, "fill", count=largest, value_bytes=256)
            values = sdk(run, server, "one_at_a_time", count=APPENDS, value_bytes=256, over=largest)
        run.record(f"rewrite/{disk}/append", values["p50_us"] / 1000)
        run.say(f"log append over {largest:,} keys: {values['p50_us'] / 1000:.2f} ms a write")

    def render(self, run: Run) -> str:
        """Return the table, and how many times longer the rewrite of the largest state takes."""
        rows = []
        largest = max(run.sizes.states)
        rows.append([f"this server, log append, {largest:,} keys", *self._cells(run, "append"), WAS_MS["append"]])
        for keys in run.sizes.states:
            was = WAS_MS["rewrite"] if keys == largest else ""
            rows.append([f"full rewrite of the state, {keys:,} keys", *self._cells(run, str(keys)), was])
        head = ["ms a write", "quiet disk", "busy disk", "was"]
        return f"### Log append against full rewrite\n\n{TEXT}\n\n{render.table(head, rows)}"

    def _cells(self, run: Run, what: str) -> list[str]:
        return [render.figure(run.figures, f"rewrite/{disk}/{what}") for disk in (QUIET, BUSY)]
