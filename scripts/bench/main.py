"""Measures this machine in one run: ourselves, etcd, Redis, RocksDB and the bare disk, in interleaved rounds.

    make bench                                        # everything, three rounds, about forty minutes
    make bench ARGS='--quick'                         # a smoke of everything, two minutes; its figures mean little
    make bench ARGS='--only floors'                   # one section, and those that it needs
    make bench ARGS='--write docs/performance.md'     # everything, and the tables and plots into the page
    make bench ARGS='--json F.json'                   # keep the figures of all rounds;
    make bench ARGS='--from F.json --write ...'       # ... and make tables and plots of them again, without measuring

Absolute figures belong to one machine and one hour; the ratios are taken within one run, round by round. Peers come from
Debian's packages; one that is not installed is skipped, and the report says so.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from suite import charts, machine, peers, render
from suite.figures import Figures
from suite.plan import FULL, QUICK, Run, Section, Sizes, carry_out, chosen
from suite.processes import scratch_folder, server_command
from suite.sections import ablation, archive, crowds, floors, layers, replication, rewrite, stages, throughput, wire

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
PLOT = "img/bench.svg"
NEEDED_GIB = 12
COMMANDS = """\
One of each kind; the others differ in the number of callers, connections, threads, keys or puts alone. Ports stand as PORT,
folders below the scratch folder as DIR."""
SECTIONS: list[Section] = [
    throughput.Throughput(),
    floors.Floors(),
    ablation.Ablation(),
    stages.Stages(),
    wire.Wire(),
    rewrite.Rewrite(),
    layers.Layers(),
    crowds.Crowds(),
    archive.Archive(),
    replication.Replication(),
]
READING_ORDER = ("floors", "peers", "ablation", "stages", "wire", "rewrite", "layers", "crowds", "archive", "replication")


def parse() -> argparse.Namespace:
    """Return the flags, checked."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="interleaved rounds (default 3; with --quick 1)")
    parser.add_argument(
        "--only", choices=[section.name for section in SECTIONS], default="", help="one section, and what it needs"
    )
    parser.add_argument("--quick", action="store_true", help="a smoke of everything: short loads, small stores")
    parser.add_argument("--write", type=Path, metavar="FILE", help=f"replace the tables in this page, and {PLOT} beside it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure of every round")
    parser.add_argument(
        "--from", type=Path, metavar="FILE", dest="source", help="measure nothing; take the figures of such a file"
    )
    parser.add_argument("--folder", type=Path, help="where the data goes (default: build/, so on this checkout's disk)")
    given = parser.parse_args()
    if given.rounds is not None and given.rounds < 1:
        parser.error(f"--rounds {given.rounds}: there must be at least one")
    if given.write and given.only:
        parser.error("--write replaces all tables of a page, so it cannot go with --only; leave one of them out")
    if given.source and (given.only or given.quick or given.rounds or given.folder or given.json):
        parser.error("--from measures nothing, so it goes with --write alone")
    if given.write:
        try:
            render.replaced(given.write.read_text(), BEGIN, END, "")
        except (OSError, ValueError) as error:
            parser.error(f"--write {given.write}: {error}")
    return given


def measured(given: argparse.Namespace) -> dict[str, Any]:
    """Measure, and return everything that a report is made of."""
    sizes = QUICK if given.quick else FULL
    if given.rounds:
        sizes = sizes._replace(rounds=given.rounds)
    begin = time.time()
    with scratch_folder(given.folder) as scratch:
        free_gib = shutil.disk_usage(scratch).free / 2**30
        if free_gib < NEEDED_GIB and not given.quick:
            raise SystemExit(
                f"error: {free_gib:.0f} GiB are free for {scratch}, {NEEDED_GIB} are needed; --folder names another place"
            )
        run = Run(sizes, scratch)
        if given.quick:
            run.note("This was a quick run: short loads over small stores, which shows that everything works and little else.")
        about = machine.describe(scratch)
        print("\n".join(about), file=sys.stderr)
        for name in peers.NEEDED:
            peers.skipped(run, name)
        run.command("ourselves", ["python", *server_command("DIR/node")[1:]])
        sections = chosen(SECTIONS, given.only)
        carry_out(run, sections)
    return {
        "machine": about,
        "began": time.strftime("%Y-%m-%d %H:%M", time.localtime(begin)),
        "minutes": (time.time() - begin) / 60,
        "sizes": sizes._asdict(),
        "sections": [section.name for section in sections],
        "commands": run.commands,
        "notes": run.notes,
        "failures": run.failures,
        "figures": run.figures.to_json(),
    }


def run_of(values: dict[str, Any]) -> Run:
    """Return the run that a document came from, as far as its report needs it."""
    sizes = Sizes._make(tuple(value) if isinstance(value, list) else value for value in values["sizes"].values())
    run = Run(sizes, Path(), Figures.from_json(values["figures"]))
    run.commands, run.notes, run.failures = values["commands"], values["notes"], values["failures"]
    return run


def report(values: dict[str, Any], plot: str) -> str:
    """Return a run's report as Markdown; ``plot`` is where the page finds the picture, empty where there is none."""
    run, parts = run_of(values), []
    sizes = run.sizes
    about = [
        *values["machine"],
        f"{sizes.rounds} interleaved round(s) in {values['minutes']:.1f} minutes, begun {values['began']}",
    ]
    parts.append("\n".join(f"- {line}" for line in about))
    told = [*run.notes, *(f"FAILED: {failure}" for failure in run.failures)]
    if told:
        parts.append("\n".join(f"> {' '.join(line.split())}" for line in told))
    named = {section.name: section for section in SECTIONS}
    for name in READING_ORDER:
        if name in values["sections"]:
            parts.append(named[name].render(run))
            if name == throughput.NAME and plot:
                parts.append(f"![durable puts and their latency against the number of callers, ourselves and peers]({plot})")
    commands = "\n".join(f"# {what}\n{command}" for what, command in run.commands.items())
    parts.append(f"### The commands\n\n{COMMANDS}\n\n```\n{commands}\n```")
    return "\n\n".join(parts)


def main() -> int:
    """Measure or read figures, print the report, and write what is asked for; return 1 where a step failed."""
    given = parse()
    values = json.loads(given.source.read_text()) if given.source else measured(given)
    if given.json:
        given.json.write_text(json.dumps(values, indent=1) + "\n")
    text = report(values, PLOT if given.write else "")
    print(text)
    if values["failures"]:
        print(f"\nerror: {len(values['failures'])} steps failed; no page was written", file=sys.stderr)
        return 1
    if given.write:
        charts.write(given.write.parent / PLOT, throughput.charts(run_of(values)))
        given.write.write_text(render.replaced(given.write.read_text(), BEGIN, END, text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
