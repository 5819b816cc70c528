"""The targets: each with what was wanted beside what was reached."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from suite import peers, render
from suite.figures import Figures, Spread, ratio_rounds, spread_of
from suite.ours import VALUE_BYTES, kvbench, sdk
from suite.plan import Run, Step
from suite.processes import fresh_kvserver, kvserver
from suite.sections import throughput
from suite.stores import FILL_PER_S, fill

SYNC_SLACK_MS = 0.4

TEXT = """\
Through the SDK, callers of one client in one process, 256-byte values; every put is answered after its sync. What was reached
is the median of the rounds (lowest to highest)."""


class Target(NamedTuple):
    """One line of the table: what is wanted, in words and as a test of the median, and what was reached round by round."""

    what: str
    wanted: str
    holds: Callable[[float], bool]
    reached: Callable[[Figures], dict[int, float]]
    unit: str = "/s"


def at_least(least: float) -> Callable[[float], bool]:
    """Return the test of a target that is to be reached or passed."""
    return lambda value: value >= least


def figure(name: str) -> Callable[[Figures], dict[int, float]]:
    """Return what reads one figure."""
    return lambda figures: figures.rounds(name)


def times_etcd(callers: int, against: Callable[[Figures], dict[int, float]]) -> Callable[[Figures], dict[int, float]]:
    """Return how many times etcd's rate ours is, round by round."""
    return lambda figures: ratio_rounds(figures.rounds(f"ours/{callers}.per_s"), against(figures))


def beyond_sync(figures: Figures) -> dict[int, float]:
    """Return by how much one caller's median put exceeds a bare fdatasync measured beside it, in milliseconds."""
    syncs = figures.rounds("floors/sync_ms")
    return {number: value - syncs[number] for number, value in figures.rounds("floors/one.p50_ms").items() if number in syncs}


def targets(run: Run) -> list[Target]:
    """Return the lines of the table."""
    hot, cold, tables = (f"{count:,}" for count in (run.sizes.hot_keys, run.sizes.cold_keys, run.sizes.table_keys))
    best = lambda figures: throughput.best_rates(figures, "etcd")  # noqa: E731
    at_64 = lambda figures: throughput.rates(figures, "etcd", 64)  # noqa: E731
    most = max(run.sizes.callers)
    return [
        Target(f"durable puts, {most:,} callers, {hot} hot keys", "200,000/s", at_least(200_000), figure(f"ours/{most}.per_s")),
        Target("the same by etcd's best", "4 times", at_least(4), times_etcd(most, best), " times"),
        Target(
            f"durable puts, 1,000 callers, {cold} keys in tables", "150,000/s", at_least(150_000), figure("floors/cold.per_s")
        ),
        Target("durable puts, 64 callers", "45,000/s", at_least(45_000), figure("ours/64.per_s")),
        Target("the same by etcd's best at 64 streams", "1 time", at_least(1), times_etcd(64, at_64), " times"),
        Target(
            "one caller, one put at a time: p50 above one fdatasync",
            f"below {SYNC_SLACK_MS} ms",
            lambda value: value < SYNC_SLACK_MS,
            beyond_sync,
            " ms",
        ),
        Target(f"gets, 1,000 callers, {hot} keys in memory", "200,000/s", at_least(200_000), figure("floors/get-memory.per_s")),
        Target(f"gets, 1,000 callers, {tables} keys in tables", "80,000/s", at_least(80_000), figure("floors/get-tables.per_s")),
        Target("scan", "300,000 keys/s", at_least(300_000), figure("floors/scan.keys_per_s"), " keys/s"),
        Target("blocking client, 64 threads, durable puts", "15,000/s", at_least(15_000), figure("floors/blocking.per_s")),
    ]


def verdict(target: Target, reached: Spread | None) -> str:
    """Say whether the median meets a target, and whether every round does."""
    if reached is None:
        return render.NOT_MEASURED
    if not target.holds(reached.median):
        return "**no**"
    return "yes" if target.holds(reached.lowest) and target.holds(reached.highest) else "yes, not in every round"


class Floors:
    """Measures what the comparison with the peers does not: tables, gets, a scan, the blocking client, one caller."""

    name = "floors"
    needs: tuple[str, ...] = (throughput.NAME,)

    def steps(self, run: Run) -> list[Step]:
        """Return the steps; the first round also makes the stores."""
        sizes, each = run.sizes, run.sizes.load_s + 3
        making = [
            Step(f"fill {count:,} keys into tables", count / FILL_PER_S + 3, self._fill(run, name, count))
            for name, count in (("cold", sizes.cold_keys), ("tables", sizes.table_keys))
        ]
        return [
            *(making if run.round == 0 else []),
            Step("one caller beside fdatasync", each + 2, lambda: self._one(run)),
            Step("puts over keys in tables", each + 3, lambda: self._cold(run)),
            Step("gets from memory", each, lambda: self._gets_from_memory(run)),
            Step("gets from tables", each + 1, lambda: self._gets_from_tables(run)),
            Step("scan", sizes.table_keys / 300_000 + 2, lambda: self._scan(run)),
            Step("blocking client", each, lambda: self._blocking(run)),
        ]

    def _fill(self, run: Run, name: str, count: int) -> Callable[[], None]:
        return lambda: fill(run.scratch / name, count, VALUE_BYTES)

    def _one(self, run: Run) -> None:
        seconds = min(run.sizes.load_s, 1.0)
        syncs = [peers.load_bare_syncs(run, seconds).p50_ms or 0.0]
        with fresh_kvserver(run.folder("one")) as server:
            run.record_load("floors/one", kvbench(run, server, "put", 1, run.sizes.hot_keys, "--load"), "one caller")
        syncs.append(peers.load_bare_syncs(run, seconds).p50_ms or 0.0)
        run.record("floors/sync_ms", sum(syncs) / 2)
        run.say(f"fdatasync before and after: {syncs[0]:.3f} and {syncs[1]:.3f} ms")

    def _cold(self, run: Run) -> None:
        with kvserver(run.scratch / "cold") as server:
            load = kvbench(run, server, "put", 1000, run.sizes.cold_keys, seconds=run.sizes.load_s * 5 / 3)
        run.record_load("floors/cold", load, f"{run.sizes.cold_keys:,} keys")

    def _gets_from_memory(self, run: Run) -> None:
        with fresh_kvserver(run.folder("memory")) as server:
            run.record_load("floors/get-memory", kvbench(run, server, "get", 1000, run.sizes.hot_keys, "--load"), "gets")

    def _gets_from_tables(self, run: Run) -> None:
        with kvserver(run.scratch / "tables") as server:
            run.record_load("floors/get-tables", kvbench(run, server, "get", 1000, run.sizes.table_keys, "--no-load"), "gets")

    def _scan(self, run: Run) -> None:
        with kvserver(run.scratch / "tables") as server:
            result = sdk(run, server, "scan", times=1)
        if result["keys"] != run.sizes.table_keys:
            raise ValueError(f"the scan brought {result['keys']:,.0f} of {run.sizes.table_keys:,} keys")
        run.record("floors/scan.keys_per_s", result["keys_per_s"])
        run.say(f"{result['keys_per_s']:,.0f} keys/s")

    def _blocking(self, run: Run) -> None:
        with fresh_kvserver(run.folder("blocking")) as server:
            load = kvbench(run, server, "put", 64, run.sizes.hot_keys, "--load", "--client", "blocking")
        run.record_load("floors/blocking", load, "64 threads")

    def render(self, run: Run) -> str:
        """Return the targets, and the figures behind the one that is a difference."""
        rows = []
        for target in targets(run):
            reached = spread_of(target.reached(run.figures).values())
            rows.append([target.what, target.wanted, render.spread(reached, target.unit), verdict(target, reached)])
        one, sync = (render.figure(run.figures, name, " ms") for name in ("floors/one.p50_ms", "floors/sync_ms"))
        behind = (
            f"One caller's put takes {one} in the median. A write of 4 KiB and its fdatasync, before and after that load in the\n"
            f"same round, take {sync}. What overlap and grouping are worth is further down."
        )
        table = render.table(["what", "wanted", "reached", "met"], rows)
        return f"### Targets\n\n{TEXT}\n\n{table}\n\n{behind}"
