"""Many writers at once: more and more of them, over several namespaces, with atomic batches, over separate and the same keys."""

from __future__ import annotations

from suite import render
from suite.figures import Figures, ratio_rounds
from suite.ours import sdk
from suite.plan import Run, Step
from suite.processes import fresh_kvserver

WRITERS = 10
TURNS = 2
NAMESPACE_WRITERS = 64
WAS = {
    "writers": "215 to 1,960 commits/s",
    "batches": "323 to 81,627 operations/s",
    "same": "3.95 % slower",
}
"""What the systems before this one reached."""

Sweep = tuple[str, dict[str, object]]
"""A name and the parameters of a load."""


def turns(figures: Figures, which: str) -> dict[int, float]:
    """Return the rate over separate keys or the same ones, by turn: a round has several."""
    found = {}
    for turn in range(TURNS):
        for number, value in figures.rounds(f"keys/{which}/{turn}.per_s").items():
            found[number * TURNS + turn] = value
    return found


class Crowds:
    """Measures every crowd against one server for each kind."""

    name = "crowds"
    needs: tuple[str, ...] = ()

    def steps(self, run: Run) -> list[Step]:
        """Return a step for each kind of crowd."""
        each = run.sizes.short_s + 1.0
        return [
            Step("1 to 128 writers", each * len(run.sizes.writers) + 1.5, lambda: self._writers(run)),
            Step("several namespaces", each * len(run.sizes.namespaces) + 1.5, lambda: self._namespaces(run)),
            Step("atomic batches", each * len(run.sizes.batches) + 1.5, lambda: self._batches(run)),
            Step("separate keys and the same keys", each * 2 * TURNS + 1.5, lambda: self._keys(run)),
        ]

    def _measure(self, run: Run, kind: str, load: str, sweeps: list[Sweep]) -> None:
        """Run a load with one set of parameters after the other against one server."""
        with fresh_kvserver(run.folder(f"crowd-{kind}")) as server:
            for name, parameters in sweeps:
                values = sdk(run, server, load, seconds=run.sizes.short_s, **parameters)
                rate = values.get("operations_per_s", values["per_s"])
                run.record(f"{kind}/{name}.per_s", rate)
                for part in ("p50_us", "p99_us"):
                    run.record(f"{kind}/{name}.{part}", values[part])
                run.say(f"{kind}, {name}: {rate:,.0f}/s, p50 {values['p50_us']:.0f} µs")

    def _writers(self, run: Run) -> None:
        sweeps: list[Sweep] = [(str(callers), {"callers": callers}) for callers in run.sizes.writers]
        self._measure(run, "writers", "writers", sweeps)

    def _namespaces(self, run: Run) -> None:
        sweeps: list[Sweep] = [(str(count), {"count": count, "callers": NAMESPACE_WRITERS}) for count in run.sizes.namespaces]
        self._measure(run, "namespaces", "namespaces", sweeps)

    def _batches(self, run: Run) -> None:
        sweeps: list[Sweep] = [(str(size), {"callers": WRITERS, "size": size}) for size in run.sizes.batches]
        self._measure(run, "batches", "batches", sweeps)

    def _keys(self, run: Run) -> None:
        """Measure both several times, in turns, because the difference between them is small."""
        sweeps: list[Sweep] = []
        for turn in range(TURNS):
            pair: list[Sweep] = [
                (f"{which}/{turn}", {"callers": WRITERS, "same_keys": which == "same"}) for which in ("separate", "same")
            ]
            sweeps += pair if (run.round + turn) % 2 else pair[::-1]
        self._measure(run, "keys", "writers", sweeps)

    def render(self, run: Run) -> str:
        """Return a table for each kind of crowd."""
        figures = run.figures

        def rows(kind: str, keys: tuple[int, ...]) -> list[list[str]]:
            parts = ("per_s", "p50_us", "p99_us")
            return [[f"{key}", *(render.figure(figures, f"{kind}/{key}.{part}") for part in parts)] for key in keys]

        separate, same = (turns(figures, which) for which in ("separate", "same"))
        slower = {turn: (1 - ratio) * 100 for turn, ratio in ratio_rounds(same, separate).items()}
        pairs = [["separate keys", render.rounds(separate)], ["the same keys", render.rounds(same)]]
        latency = ["p50, µs", "p99, µs"]
        return "\n\n".join(
            [
                "### Many writers at once",
                "Through one client of the SDK, values of 256 bytes, every commit synced before its answer.",
                f"Writers, one put at a time each (was {WAS['writers']}):",
                render.table(["writers", "commits/s", *latency], rows("writers", run.sizes.writers)),
                f"{NAMESPACE_WRITERS} writers, spread over several namespaces:",
                render.table(["namespaces", "commits/s", *latency], rows("namespaces", run.sizes.namespaces)),
                f"Atomic batches by {WRITERS} writers (was {WAS['batches']}):",
                render.table(["puts a batch", "puts/s", *latency], rows("batches", run.sizes.batches)),
                f"{WRITERS} writers over 100 keys each, and all over the same 100 keys: {render.rounds(slower, ' %')} slower "
                f"(was {WAS['same']}; below zero: faster):",
                render.table(["keys", "commits/s"], pairs),
            ]
        )
