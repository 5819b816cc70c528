"""What overlap and grouping are worth: each switched off alone, under three numbers of callers."""

from __future__ import annotations

from collections.abc import Callable

from suite import render
from suite.figures import ratio_rounds
from suite.ours import kvbench
from suite.plan import Run, Step, rotated
from suite.processes import fresh_kvserver

VARIANTS = (("both", ()), ("no overlap", ("--no-overlap",)), ("no grouping", ("--no-grouping",)))

TEXT = """\
`--no-overlap`: nothing is evaluated or inserted while a sync is under way. `--no-grouping`: a sync for every submission.
The last columns are the rate as it is by the rate without, round by round."""


class Ablation:
    """Measures each variant with each number of callers, the variants side by side."""

    name = "ablation"
    needs: tuple[str, ...] = ()

    def steps(self, run: Run) -> list[Step]:
        """Return a step for each number of callers and variant."""
        steps = []
        for callers in run.sizes.ablation:
            variants = [
                Step(f"{callers} callers, {name}", run.sizes.short_s + 3, self._measure(run, callers, name, flags))
                for name, flags in VARIANTS
            ]
            steps += rotated(variants, run.round)
        return steps

    def _measure(self, run: Run, callers: int, name: str, flags: tuple[str, ...]) -> Callable[[], None]:
        def measure() -> None:
            with fresh_kvserver(run.folder(f"ablation-{callers}-{name.replace(' ', '-')}"), *flags) as server:
                load = kvbench(run, server, "put", callers, run.sizes.hot_keys, "--load", seconds=run.sizes.short_s)
            run.record_load(f"ablation/{callers}/{name}", load, name)

        return measure

    def render(self, run: Run) -> str:
        """Return the rates and what each switch is worth."""
        rows = []
        for callers in run.sizes.ablation:
            rates = {name: run.figures.rounds(f"ablation/{callers}/{name}.per_s") for name, _ in VARIANTS}
            worth = [render.rounds(ratio_rounds(rates["both"], rates[name])) for name, _ in VARIANTS[1:]]
            rows.append([f"{callers:,}", *(render.rounds(rates[name]) for name, _ in VARIANTS), *worth])
        head = ["callers", "as it is, puts/s", "`--no-overlap`", "`--no-grouping`", "overlap is worth", "grouping is worth"]
        return f"### What overlap and grouping are worth\n\n{TEXT}\n\n{render.table(head, rows)}"
