"""The archive: what it costs to fill, beside writes and alone, and how fast a store comes back from it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from suite import render
from suite.figures import ratio_rounds
from suite.ours import kvbench_result
from suite.plan import Run, Step
from suite.processes import BENCH, Server, execute, fresh_kvserver, kvserver
from suite.render import Wanted

MODES = ("blocking", "off the loop", "parallel", "streaming", "queued")
WAS = {"blocking": "500 to 1,000", "off the loop": "150 to 300", "parallel": "100 to 200", "streaming": "", "queued": "50 to 100"}
LEVELS = (1, 3)
SEGMENTS, SEGMENT_BYTES = 10, 10 * 1024 * 1024
RESTORED_VALUE_BYTES = 1024
KEPT_SHARE = 0.85
TRIES = 3
"""Of each way and of zstd the fastest of so many counts, in each round."""

TEXT = f"""\
{SEGMENTS} sealed segments of 10 MB, archived into a folder on the same disk. *Held up*: by how much the timers of an event loop
in the same process fired late, all together and at most. The first four ways put what they compress and check nothing; the last
is the server's archiver: every frame checked, every object synced, read back and listed. `zstd -T2` compresses the same bytes in
one file and syncs nothing."""


class Archive:
    """Measures archiving, and the ways back."""

    name = "archive"
    needs: tuple[str, ...] = ()

    def steps(self, run: Run) -> list[Step]:
        """Return the steps: segments in all ways, puts beside the archiver, and a store there and back."""
        keys = run.sizes.restored_keys
        return [
            Step("sealed segments in five ways", 25, self._modes(run)),
            Step("puts beside the archiver", run.sizes.load_s * 4 + 10, self._beside(run)),
            Step("backup, verify, restore", 15 + keys / 12_000, self._back(run)),
        ]

    # -- ten segments -------------------------------------------------------------------------------------------------

    def _modes(self, run: Run) -> Callable[[], None]:
        def measure() -> None:
            with emptied(run.folder("segments")) as folder:
                made = json.loads(bench(["archive_segments.py", str(folder), str(SEGMENTS), str(SEGMENT_BYTES)]))
                whole = folder / "all"
                with whole.open("wb") as out:
                    for segment in made:
                        out.write(Path(segment["path"]).read_bytes())
                run.record("archive/raw_bytes", whole.stat().st_size)
                for level in LEVELS:
                    self._zstd(run, level, whole)
                    for mode in MODES:
                        self._mode(run, level, mode, folder)

        return measure

    def _zstd(self, run: Run, level: int, whole: Path) -> None:
        command = ["zstd", "-T2", f"-{level}", "-q", "-f", "-k", str(whole), "-o", f"{whole}.zst"]
        run.command("zstd", command)
        seconds = min(execute(command, timeout_s=60).seconds for _ in range(TRIES))
        run.record(f"archive/{level}/zstd.seconds", seconds)
        run.say(f"zstd -T2 -{level}: {seconds * 1000:.0f} ms")

    def _mode(self, run: Run, level: int, mode: str, folder: Path) -> None:
        command = ["archive_modes.py", mode, str(level), str(folder), str(folder / "archive")]
        shown = ["python", "scripts/bench/archive_modes.py", mode, str(level), "DIR/segments", "DIR/archive"]
        run.command("ten segments", shown)
        tries = []
        for _ in range(TRIES):
            with emptied(folder / "archive"):
                tries.append(json.loads(bench(command)))
        values = min(tries, key=lambda one: one["seconds"])
        for part, value in values.items():
            run.record(f"archive/{level}/{mode}.{part}", value)
        run.say(f"level {level}, {mode}: {values['seconds'] * 1000:.0f} ms, held up {values['late_ms']:.0f} ms")

    # -- beside writes --------------------------------------------------------------------------------------------------

    def _beside(self, run: Run) -> Callable[[], None]:
        def measure() -> None:
            for with_archive in (run.round % 2 == 0, run.round % 2 != 0):
                with emptied(run.folder("beside")) as folder:
                    flags = ["--segment-mb", "16"]
                    flags += ["--archive", f"file://{folder}/archive", "--archive-rate-mb", "200"] if with_archive else []
                    with kvserver(folder / "node", *flags) as server:
                        load = kvbench_result(run, server, "put", 1000, run.sizes.hot_keys, seconds=run.sizes.load_s * 2).load
                        if with_archive:
                            run.record("archive/behind_bytes", metric(server, "kv_archive_unarchived_bytes"))
                run.record_load(f"archive/beside/{'on' if with_archive else 'off'}", load, f"archive {with_archive}")

        return measure

    # -- there and back -------------------------------------------------------------------------------------------------

    def _back(self, run: Run) -> Callable[[], None]:
        def measure() -> None:
            with emptied(run.folder("back")) as folder:
                url, keys = f"file://{folder}/archive", run.sizes.restored_keys
                with fresh_kvserver(folder / "node", "--archive", url) as server:
                    fill = ["fill_store.py", server.address, str(keys), str(RESTORED_VALUE_BYTES)]
                    bench(fill, timeout_s=300 + keys / 2_000)
                    kvctl(run, "archive now", "archive", "now", server=server)
                    revision = json.loads(kvctl(run, "status", "status", "-o", "json", server=server))["visible_revision"]
                    self._backup(run, folder, server)
                # The machine's node is gone, and the backup lies behind the revision asked for: all of it comes from the log.
                self._verify(run, folder, url)
                self._restore(run, folder, url, revision - keys // 10)

        return measure

    def _restore(self, run: Run, folder: Path, url: str, revision: int) -> None:
        with emptied(folder / "restored") as target:
            words = ["restore", "--archive", url, "--to-revision", str(revision), "--target-dir", str(target)]
            plan = json.loads(kvctl(run, "plan", *words, "--dry-run", "-o", "json"))
            seconds = execute(kvctl_command(run, "restore", *words), timeout_s=600).seconds
        logs = sorted((folder / "archive").rglob("*.kva"))
        begun = os.times().elapsed
        read_bytes = sum(len(path.read_bytes()) for path in logs)
        run.record("archive/restore.plain_read_s", max(os.times().elapsed - begun, 0.001))
        run.record("archive/restore.stored_mb", read_bytes / 1e6)
        run.record("archive/restore.raw_mb", plan["raw_bytes"] / 1e6)
        run.record("archive/restore.seconds", seconds)
        run.say(f"restore: {plan['raw_bytes'] / 1e6 / seconds:.0f} MB/s of raw log")

    def _backup(self, run: Run, folder: Path, server: Server) -> None:
        seconds = execute(kvctl_command(run, "backup", "backup", "create", server=server), timeout_s=600).seconds
        tables = folder / "node" / "tables"
        with emptied(folder / "copy") as target:
            command = ["sh", "-c", f"cp -r '{tables}' '{target}/tables' && sync '{target}'"]
            copied = execute(command, timeout_s=600).seconds
            run.record("archive/backup.mb", sum(path.stat().st_size for path in target.rglob("*.sst")) / 1e6)
        run.record("archive/backup.seconds", seconds)
        run.record("archive/backup.copy_s", copied)
        run.say(f"backup {seconds:.1f} s, cp and sync {copied:.1f} s")

    def _verify(self, run: Run, folder: Path, url: str) -> None:
        outcome = execute(kvctl_command(run, "verify", "archive", "verify", "--archive", url, "-o", "json"), timeout_s=600)
        raw_mb = json.loads(outcome.printed)["raw_bytes"] / 1e6
        run.record("archive/verify.mb_per_core", raw_mb / outcome.cpu_seconds)
        run.record("archive/verify.mb_per_s", raw_mb / outcome.seconds)
        run.say(f"verify: {raw_mb / outcome.cpu_seconds:.0f} MB/s a core")

    # -- the report -----------------------------------------------------------------------------------------------------

    def render(self, run: Run) -> str:
        """Return the tables."""
        parts = ["### The archive", TEXT, *(self._modes_table(run, level) for level in LEVELS), render.targets(targets(run))]
        return "\n\n".join(parts)

    def _modes_table(self, run: Run, level: int) -> str:
        figures = run.figures
        zstd = figures.rounds(f"archive/{level}/zstd.seconds")
        rows = [[f"`zstd -T2 -{level}`", thousandths(zstd), "1", "", "", "", "", ""]]
        for mode in MODES:
            name = f"archive/{level}/{mode}"
            taken = figures.rounds(f"{name}.seconds")
            cells = [thousandths(taken), render.rounds(ratio_rounds(taken, zstd))]
            cells += [render.figure(figures, f"{name}.{part}") for part in ("late_ms", "longest_ms", "cpu_s", "above_idle_mib")]
            rows.append([f"{mode}, level {level}", *cells, WAS[mode]])
        head = ["way", "ms", "times zstd", "held up, ms", "at most, ms", "CPU, s", "MiB above idle", "was, ms"]
        return render.table(head, rows)


def targets(run: Run) -> list[Wanted]:
    """Return the targets with what was reached."""
    figures, rounds = run.figures, run.figures.rounds
    queued = f"archive/{LEVELS[0]}/queued"
    on, off = "archive/beside/on", "archive/beside/off"
    return [
        Wanted(
            f"the archiver beside `zstd -T2`, level {LEVELS[0]}",
            "1.3 times",
            lambda value: value <= 1.3,
            ratio_rounds(rounds(f"{queued}.seconds"), rounds(f"archive/{LEVELS[0]}/zstd.seconds")),
            " times",
        ),
        Wanted("its memory above idle", "64 MiB", lambda value: value <= 64, rounds(f"{queued}.above_idle_mib"), " MiB"),
        Wanted(
            "puts beside a rate-limited archiver to puts without",
            f"{KEPT_SHARE}",
            lambda value: value >= KEPT_SHARE,
            ratio_rounds(rounds(f"{on}.per_s"), rounds(f"{off}.per_s")),
        ),
        Wanted(
            "their p99 to the p99 without",
            "2 times",
            lambda value: value <= 2,
            ratio_rounds(rounds(f"{on}.p99_ms"), rounds(f"{off}.p99_ms")),
        ),
        Wanted(
            f"restore of {run.sizes.restored_keys:,} keys with 1 KiB values to a past revision",
            "100 MB/s of raw log",
            lambda value: value >= 100,
            ratio_rounds(rounds("archive/restore.raw_mb"), rounds("archive/restore.seconds")),
            " MB/s",
        ),
        Wanted(
            "a plain read of the same objects",
            "",
            lambda value: True,
            ratio_rounds(rounds("archive/restore.stored_mb"), rounds("archive/restore.plain_read_s")),
            " MB/s",
        ),
        Wanted(
            "verify of raw log, backup read too",
            "200 MB/s a core",
            lambda value: value >= 200,
            rounds("archive/verify.mb_per_core"),
            " MB/s",
        ),
        Wanted(
            f"backup of {render.median(figures, 'archive/backup.mb')} MB to `cp` and `sync`",
            "1.5 times",
            lambda value: value <= 1.5,
            ratio_rounds(rounds("archive/backup.seconds"), rounds("archive/backup.copy_s")),
            " times",
        ),
    ]


def thousandths(seconds: dict[int, float]) -> str:
    """Return seconds of several rounds as milliseconds."""
    return render.rounds({number: value * 1000 for number, value in seconds.items()})


def metric(server: Server, name: str) -> float:
    """Return the value of a metric without labels."""
    line = next(line for line in server.metrics().splitlines() if line.startswith(f"{name} "))
    return float(line.split()[1])


def bench(words: list[str], timeout_s: float = 120) -> str:
    """Run one of the benchmark's own scripts and return what it printed."""
    return execute([sys.executable, str(BENCH / words[0]), *words[1:]], timeout_s=timeout_s).printed


def kvctl_command(run: Run, what: str, *words: str, server: Server | None = None) -> list[str]:
    """Return a command of kvctl, and have the report show it."""
    endpoint = ["-E", server.address] if server is not None else []
    shown = ["kvctl", *(["-E", "HOST:PORT"] if endpoint else []), *words]
    run.command(what, shown)
    return [sys.executable, "-m", "kvctl", *endpoint, *words]


def kvctl(run: Run, what: str, *words: str, server: Server | None = None) -> str:
    """Run kvctl and return what it printed."""
    return execute(kvctl_command(run, what, *words, server=server), timeout_s=600).printed


@contextmanager
def emptied(folder: Path) -> Iterator[Path]:
    """Make a folder, and remove it with all that it holds."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
