"""What each layer costs: memory alone, the log, larger values, tables; writes and reads after few writes and after many."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from suite import cpu, render
from suite.ours import sdk
from suite.plan import Run, Step
from suite.processes import Server, fresh_kvserver

LONE_WRITES = 2_000
"""How many of the writes are made one at a time, for their latency; the others before them by 64 callers."""
SAMPLE = 1_000
FLUSHES = 4
CALLERS = 64
TEXT = """\
Through the SDK, in µs. By 64 callers: the time of all writes by their number. Alone: the last 2,000 writes, one after the
other. Reads are of single keys, one after the other: of a sample of 1,000 among all, and of the last 1,000. Memory is the most
that server and helper had resident during the last flush. The systems before this one, within one process and without a
network, took 58, 115, 178, 241 and 122 µs to write and 0.11 to 188 µs to read, and reads became slower with every table."""


class Variant(NamedTuple):
    """What is added to the variant before."""

    name: str
    value_bytes: int = 256
    memory: bool = False
    flush: bool = False


VARIANTS = (
    Variant("memory only (`MEMORY`)", memory=True),
    Variant("+ log, synced"),
    Variant("+ values of 1 KiB", value_bytes=1024),
    Variant(f"+ flush to tables, {FLUSHES} times", value_bytes=1024, flush=True),
)


class Layers:
    """Measures every variant with both numbers of writes, and reads after more and more flushes."""

    name = "layers"
    needs: tuple[str, ...] = ()

    def steps(self, run: Run) -> list[Step]:
        """Return a step for each variant and number of writes."""
        steps = [
            Step(f"{count:,} writes, {variant.name}", count / 20_000 + 6, self._measure(run, count, variant))
            for count in run.sizes.writes
            for variant in VARIANTS
        ]
        return [*steps, Step("reads after more and more flushes", max(run.sizes.tables) * 0.8 + 4, lambda: self._flushes(run))]

    def _measure(self, run: Run, count: int, variant: Variant) -> Callable[[], None]:
        name = f"layers/{count}/{variant.name}"
        lone = min(LONE_WRITES, count // 2)
        how = {"value_bytes": variant.value_bytes, "memory": variant.memory}

        def measure() -> None:
            with fresh_kvserver(run.folder(f"layers-{count}-{VARIANTS.index(variant)}")) as server:
                parts = FLUSHES if variant.flush else 1
                each = []
                for part in range(parts):
                    size = (count - lone) // parts
                    each.append(sdk(run, server, "fill", count=size, first=part * size, **how)["each_us"])
                    if variant.flush and part < parts - 1:
                        sdk(run, server, "flush")
                written = (count - lone) // parts * parts
                alone = sdk(run, server, "one_at_a_time", count=lone, first=written, **how)
                if variant.flush:
                    self._watched_flush(run, name, server)
                everything = sdk(run, server, "reads", first=0, count=written + lone, sample=SAMPLE)
                last = min(SAMPLE, lone)
                newest = sdk(run, server, "reads", first=written + lone - last, count=last, sample=SAMPLE)
            run.record(f"{name}/each_us", sum(each) / parts)
            run.record(f"{name}/p50_us", alone["p50_us"])
            run.record(f"{name}/p99_us", alone["p99_us"])
            run.record(f"{name}/read_all_us", everything["p50_us"])
            run.record(f"{name}/read_newest_us", newest["p50_us"])
            run.say(
                f"write p50 {alone['p50_us']:.0f} µs alone, {sum(each) / parts:.1f} µs each by {CALLERS} callers; "
                f"read p50 {everything['p50_us']:.0f} µs"
            )

        return measure

    def _watched_flush(self, run: Run, name: str, server: Server) -> None:
        """Flush, and record the most memory that server and helper had meanwhile."""
        pids = [server.process.pid, *cpu.children(server.process.pid)]
        for pid in pids:
            cpu.forget_peak(pid)
        sdk(run, server, "flush")
        own, helpers = cpu.peak_mib(pids[0]), cpu.children(pids[0])
        run.record(f"{name}/server_mib", own)
        run.record(f"{name}/helper_mib", sum(cpu.peak_mib(pid) for pid in helpers))

    def _flushes(self, run: Run) -> None:
        count = max(run.sizes.writes[0] // 10, 100)
        with fresh_kvserver(run.folder("layers-flushes")) as server:
            for number in range(1, max(run.sizes.tables) + 1):
                # The same keys each time: every table has something to say of each of them.
                sdk(run, server, "fill", count=count, value_bytes=1024)
                sdk(run, server, "flush")
                if number in run.sizes.tables:
                    values = sdk(run, server, "reads", first=0, count=count, sample=SAMPLE)
                    run.record(f"layers/after-{number}/p50_us", values["p50_us"])
                    run.record(f"layers/after-{number}/p99_us", values["p99_us"])
                    run.say(f"after {number} flushes: a read takes {values['p50_us']:.0f} µs")

    def render(self, run: Run) -> str:
        """Return the table of the layers, and the one of reads after flushes."""
        figures, rows = run.figures, []
        for count in run.sizes.writes:
            for variant in VARIANTS:
                name = f"layers/{count}/{variant.name}"
                cells = [
                    render.figure(figures, f"{name}/{part}")
                    for part in ("each_us", "p50_us", "p99_us", "read_all_us", "read_newest_us")
                ]
                peak = (
                    ""
                    if not variant.flush
                    else " + ".join(render.median(figures, f"{name}/{part}_mib") for part in ("server", "helper"))
                )
                rows.append([f"{count:,}", variant.name, *cells, peak])
        head = [
            "writes",
            "what",
            "write by 64 callers, each",
            "write alone, p50",
            "p99",
            "read of any, p50",
            "read of the last 1,000, p50",
        ]
        after = [
            [f"{number}", *(render.figure(figures, f"layers/after-{number}/{part}_us") for part in ("p50", "p99"))]
            for number in run.sizes.tables
        ]
        return "\n\n".join(
            [
                "### What each layer costs",
                TEXT,
                render.table([*head, "flush, server + helper, MiB"], rows, texts=2),
                "Reads after more and more flushes of the same keys, one read at a time, in µs:",
                render.table(["flushes", "read, p50", "p99"], after),
            ]
        )
