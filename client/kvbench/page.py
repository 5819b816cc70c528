"""A page with plots of one result or of several: one file of HTML that needs nothing else, in light and dark, wide and narrow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from kvbench import plots, text
from kvbench.plots import Axis, Line, Size
from kvctl.bytes_form import printable

COLOURS = 8
_STYLE = """
:root{color-scheme:light dark;--ground:#fff;--card:#f5f6f8;--ink:#1c2127;--quiet:#5b6470;--rule:#dfe3e8;--warn:#fff4d6;
--warn-ink:#6b4a00;--c0:#0b62c4;--c1:#c8452f;--c2:#1f8a4c;--c3:#8a4fc9;--c4:#a86a00;--c5:#00818f;--c6:#b8327a;--c7:#555f6b}
@media (prefers-color-scheme:dark){:root{--ground:#14171b;--card:#1d2127;--ink:#e7eaee;--quiet:#a0a9b5;--rule:#333a43;
--warn:#3a2f10;--warn-ink:#f3d98a;--c0:#6cb0ff;--c1:#ff8f78;--c2:#64d18c;--c3:#c79cff;--c4:#f0b64f;--c5:#4fd0dd;--c6:#ff8cc4;--c7:#aeb8c4}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1.5rem 1rem 3rem;max-width:58rem;background:var(--ground);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1{font-size:1.5rem;line-height:1.25;margin:0}h2{font-size:1.1rem;margin:2.2rem 0 .4rem}p{margin:.3rem 0}
.quiet{color:var(--quiet)}
.cards{display:grid;gap:.75rem;margin:1.2rem 0}.card{background:var(--card);border-radius:8px;
padding:.7rem 1rem;border-left:4px solid}
.card h3{margin:0 0 .3rem;font-size:1rem;overflow-wrap:anywhere}.figures{display:flex;flex-wrap:wrap;gap:.3rem 1.8rem;margin:0}
.figures div{min-width:5.5rem}.figures dt{color:var(--quiet);font-size:.8rem}.figures dd{margin:0;font-size:1.15rem;
font-weight:600;font-variant-numeric:tabular-nums;white-space:nowrap}
.warning{background:var(--warn);color:var(--warn-ink);border-radius:8px;padding:.6rem 1rem;margin:.6rem 0}
.legend{display:flex;flex-wrap:wrap;gap:.1rem 1.2rem;margin:.2rem 0;padding:0;list-style:none;font-size:.85rem}
.legend li{overflow-wrap:anywhere}.legend svg{width:26px;height:8px;vertical-align:middle;margin-right:.4rem}
svg{display:block;width:100%;height:auto}.narrow{display:none}.legend svg{display:inline-block}
.grid{stroke:var(--rule);stroke-width:1}.mark{fill:var(--quiet);font-size:12px}
.line{fill:none;stroke-width:1.8;stroke-linejoin:round}.dashed{stroke-dasharray:5 4}.dot{stroke:none}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{text-align:right;padding:.3rem .7rem;border-bottom:1px solid var(--rule);white-space:nowrap}
th:first-child,td:first-child{text-align:left;padding-left:0}th{color:var(--quiet);font-weight:500}
table.words th{text-align:left}table.words td{text-align:left;white-space:normal;overflow-wrap:anywhere;vertical-align:top}
table.words td:not(:last-child){white-space:nowrap;padding-right:1.2rem}table.words td:first-child{width:9rem;
color:var(--quiet);white-space:nowrap}
code{font-size:.85em;overflow-wrap:anywhere}
@media (max-width:40rem){.wide{display:none}.narrow{display:block}table.words td:first-child{width:6rem}}
"""


def names(results: Sequence[Mapping[str, Any]], files: Sequence[str]) -> list[str]:
    """Return a name for each result: its label, or what it is where it is alone, else its file's name."""
    if len(results) == 1:
        return [text.label(results[0])]
    found: list[str] = []
    for result, file in zip(results, files, strict=True):
        name = str(result["options"]["label"]) or Path(file).stem
        found.append(name if name not in found else f"{name} ({len(found) + 1})")
    return found


def render(results: Sequence[Mapping[str, Any]], called: Sequence[str]) -> str:
    """Return the page for results and their names."""
    parts = [_head(results, called), _cards(results, called), _warnings(results, called)]
    parts += [_percentiles(results, called), _throughput(results, called), _latency_over_time(results, called)]
    parts += [_errors(results, called), _latency_table(results, called), _surroundings(results, called)]
    style = _STYLE + "".join(
        f"polyline.c{number}{{stroke:var(--c{number})}}circle.c{number}{{fill:var(--c{number})}}"
        f".card.c{number}{{border-color:var(--c{number})}}"
        for number in range(COLOURS)
    )
    title = f"kvbench: {', '.join(called)}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>\n<body>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def _head(results: Sequence[Mapping[str, Any]], called: Sequence[str]) -> str:
    heading = called[0] if len(called) == 1 else f"{len(called)} results"
    told = " · ".join(dict.fromkeys(result["began_at"].replace("T", " ").replace("+00:00", " UTC") for result in results))
    return f'<header><p class="quiet">kvbench</p><h1>{escape(heading)}</h1><p class="quiet">{escape(told)}</p></header>'


def _cards(results: Sequence[Mapping[str, Any]], called: Sequence[str]) -> str:
    cards = []
    for number, (result, name) in enumerate(zip(results, called, strict=True)):
        latency, failed = result["latency_ms"], sum(result["errors"].values())
        figures = [("operations/s", f"{result['ops_per_s']:,.0f}")]
        if "keys_per_s" in result:
            figures.append(("keys/s", f"{result['keys_per_s']:,.0f}"))
        figures += [(key, f"{text.ms(latency[key])} ms") for key in ("p50", "p99", "p999")]
        figures += [("operations", f"{result['operations']:,}"), ("errors", f"{failed:,}" if failed else "none")]
        told = "".join(f"<div><dt>{escape(what)}</dt><dd>{escape(value)}</dd></div>" for what, value in figures)
        heading = f"<h3>{escape(name)}</h3>" if len(results) > 1 else ""
        what = f'<p class="quiet">{escape(text.title(result))}</p>' if name != text.title(result) else ""
        cards.append(f'<section class="card c{number % COLOURS}">{heading}{what}<dl class="figures">{told}</dl></section>')
    return f'<div class="cards">{"".join(cards)}</div>'


def _warnings(results: Sequence[Mapping[str, Any]], called: Sequence[str]) -> str:
    told = []
    for result, name in zip(results, called, strict=True):
        whose = f"<strong>{escape(name)}:</strong> " if len(results) > 1 else ""
        told += [f'<p class="warning">{whose}{escape(warning)}</p>' for warning in result["warnings"]]
    return "".join(told)


def _plot(heading: str, lines: Sequence[Line], x: Callable[[Size], Axis], y: Axis, note: str = "") -> str:
    """Return a plot in both sizes, with its legend above it; ``x`` makes the lower axis for a size."""
    items = "".join(
        f'<li><svg viewBox="0 0 26 8" aria-hidden="true"><polyline class="line c{line.colour}'
        f'{" dashed" if line.dashed else ""}" points="0,4 26,4"/></svg>{escape(line.name)}</li>'
        for line in lines
    )
    legend = f'<ul class="legend">{items}</ul>' if len(lines) > 1 else ""
    drawn = "".join(
        f'<div class="{name}">{plots.draw(heading, lines, x(size), y, size)}</div>'
        for name, size in (("wide", plots.WIDE), ("narrow", plots.NARROW))
    )
    told = f'<p class="quiet">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(heading)}</h2>{told}{legend}{drawn}</section>"


def _percentiles(results: Sequence[Mapping[str, Any]], called: Sequence[str]) -> str:
    """Draw the latency that each share of the operations stayed below; every nine has the same room."""
    lines = [
        Line(name, [(share, value) for share, value in result["curve"]], number % COLOURS)
        for number, (result, name) in enumerate(zip(results, called, strict=True))
        if result["curve"]
    ]
    if not lines:
        return "<section><h2>Latency by percentile</h2><p>No operation succeeded.</p></section>"
    values = [point[1] for line in lines for point in line.points if point is not None]
    most = max(result["operations"] for result in results)

    def across(size: Size) -> Axis:
        axis = plots.percentiles("percentile of operations", most)
        return axis if size is plots.WIDE else axis._replace(marks=[mark for mark in axis.marks if mark[0] != 0.5])

    return _plot("Latency by percentile, ms", lines, across, plots.logarithmic("ms", min(values), max(values)))


def _seconds_axis(results: Sequence[Mapping[str, Any]]) -> Callable[[Size], Axis]:
    longest = max(result["elapsed_s"] for result in results)
    return lambda size: plots.seconds("seconds", longest, 10 if size is plots.WIDE else 5)


def _over_time(result: Mapping[str, Any], values: Sequence[float | None]) -> list[plots.Point | None]:
    """Return a figure of every interval at its middle, None where there is none."""
    step_s, elapsed_s = result["timeline"]["interval_s"], result["elapsed_s"]
    ends_s = [min((number + 1) * step_s, elapsed_s) for number in range(len(values) - 1)] + [elapsed_s]
    begins_s = [0.0, *ends_s[:-1]]
    return [
        None if value is None or math.isnan(value) else ((begin + end) / 2, value)
        for value, begin, end in zip(values, begins_s, ends_s, strict=True)
    ]


def _throughput(results: Sequence[Mapping[str, Any]], called: Sequence[str]) -> str:
    lines = [
        Line(name, _over_time(result, result["timeline"]["ops_per_s"]), number % COLOURS)
        for number, (result, name) in enumerate(zip(results, called, strict=True))
    ]
    most = max(value for result in results for value in result["timeline"]["ops_per_s"])
    return _plot("Throughput, operations/s", lines, _seconds_axis(results), plots.linear("operations/s", most))


def _latency_over_time(results: Sequence[Mapping[str, Any]], called: Sequence[str]) -> str:
    lines = []
    for number, (result, name) in enumerate(zip(results, called, strict=True)):
        own = f"{name}: " if len(results) > 1 else ""
        for key, dashed in (("p50", False), ("p99", True)):
            points = _over_time(result, result["timeline"][f"{key}_ms"])
            lines.append(Line(f"{own}{key}", points, number % COLOURS, dashed))
    values = [point[1] for line in lines for point in line.points if point is not None]
    if not values:
        return ""
    axis = plots.logarithmic("ms", min(values), max(values))
    return _plot("Latency over time, ms", lines, _seconds_axis(results), axis)


def _errors(results: Sequence[Mapping[str, Any]], called: Sequence[str]) -> str:
    lines: list[Line] = []
    for result, name in zip(results, called, strict=True):
        own = f"{name}: " if len(results) > 1 else ""
        for code, values in result["timeline"]["errors_per_s"].items():
            lines.append(Line(f"{own}{code}", _over_time(result, values), len(lines) % COLOURS, len(lines) >= COLOURS))
    if not lines:
        return "<section><h2>Errors</h2><p>No operation failed.</p></section>"
    most = max(point[1] for line in lines for point in line.points if point is not None)
    rows = [
        [
            code if len(results) == 1 else f"{name}: {code}",
            f"{count:,}",
            printable(result["error_examples"].get(code, "").encode()),
        ]
        for result, name in zip(results, called, strict=True)
        for code, count in result["errors"].items()
    ]
    table = _words(["code", "count", "for instance"], rows)
    return _plot("Errors/s, by code", lines, _seconds_axis(results), plots.linear("errors/s", most)) + table


def _latency_table(results: Sequence[Mapping[str, Any]], called: Sequence[str]) -> str:
    head = ["", "operations", *text.PERCENTILES]
    rows = []
    for result, name in zip(results, called, strict=True):
        parts = [("all operations" if len(results) == 1 else name, result)]
        if len(result["by_operation"]) > 1:
            own = "" if len(results) == 1 else f"{name}: "
            parts += [(f"{own}{kind}", part) for kind, part in result["by_operation"].items()]
        for what, part in parts:
            rows.append([what, f"{part['operations']:,}", *(text.ms(part["latency_ms"][key]) for key in text.PERCENTILES)])
    return f"<section><h2>Latency, ms</h2>{_numbers(head, rows)}</section>"


def _surroundings(results: Sequence[Mapping[str, Any]], called: Sequence[str]) -> str:
    parts = []
    for result, name in zip(results, called, strict=True):
        heading = "How it was measured" + (f": {name}" if len(results) > 1 else "")
        rows = [["command", f"<code>{escape(result['command'])}</code>"]]
        rows += [[escape(what), escape(value)] for what, value in [*text.figures(result), *text.surroundings(result)]]
        body = "".join(f"<tr><td>{what}</td><td>{value}</td></tr>" for what, value in rows)
        parts.append(f'<section><h2>{escape(heading)}</h2><table class="words">{body}</table></section>')
    return "".join(parts)


def _numbers(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return f'<div class="scroll"><table>{_cells("th", head)}{"".join(_cells("td", row) for row in rows)}</table></div>'


def _words(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    body = "".join(_cells("td", row) for row in rows)
    return f'<div class="scroll"><table class="words">{_cells("th", head)}{body}</table></div>'


def _cells(tag: str, cells: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
