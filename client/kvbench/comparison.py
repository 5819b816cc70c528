"""Two results side by side: each figure, and the second as a multiple of the first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from kvbench import text
from kvctl import output

_OWN = frozenset({"endpoint", "label", "fsync_dir"})
"""Options that may differ without making two runs different things."""


class Ratio(NamedTuple):
    """One figure of two results."""

    name: str
    first: float | None
    second: float | None
    better: str
    """``higher`` or ``lower``."""

    @property
    def ratio(self) -> float | None:
        """The second figure as a multiple of the first; None where there is none."""
        if self.first is None or self.second is None or self.first == 0:
            return None
        return self.second / self.first


def ratios(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Ratio]:
    """Return every figure that both results have."""
    return list(_ratios(first, second))


def _ratios(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Ratio]:
    yield Ratio("ops_per_s", first["ops_per_s"], second["ops_per_s"], "higher")
    if "keys_per_s" in first and "keys_per_s" in second:
        yield Ratio("keys_per_s", first["keys_per_s"], second["keys_per_s"], "higher")
    yield from _latencies("latency_ms", first["latency_ms"], second["latency_ms"])
    kinds = [kind for kind in first["by_operation"] if kind in second["by_operation"]]
    if len(kinds) > 1:
        for kind in kinds:
            parts = first["by_operation"][kind], second["by_operation"][kind]
            yield Ratio(f"{kind}.ops_per_s", parts[0]["ops_per_s"], parts[1]["ops_per_s"], "higher")
            yield from _latencies(f"{kind}.latency_ms", parts[0]["latency_ms"], parts[1]["latency_ms"])
    costs = [result["client"]["cpu_us_per_operation"] for result in (first, second)]
    yield Ratio("client.cpu_us_per_operation", costs[0], costs[1], "lower")
    syncs = [result["disk"]["fdatasync_ms"]["p50"] for result in (first, second)]
    yield Ratio("disk.fdatasync_ms.p50", syncs[0], syncs[1], "lower")
    failed = [sum(result["errors"].values()) for result in (first, second)]
    yield Ratio("errors", failed[0], failed[1], "lower")


def _latencies(name: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Ratio]:
    for key in ("mean", "p50", "p90", "p99", "p999", "max"):
        yield Ratio(f"{name}.{key}", first[key], second[key], "lower")


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return what was not the same in the two runs: options, versions and the machine, by name."""
    found = {}
    for part in ("options", "versions", "machine"):
        for name in sorted(first[part].keys() | second[part].keys()):
            values = first[part].get(name), second[part].get(name)
            if values[0] != values[1] and name not in _OWN:
                found[f"{part}.{name}"] = values
    return found


def document(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Return the comparison as JSON fields."""
    return {
        "ratios": {
            one.name: {"first": one.first, "second": one.second, "ratio": None if one.ratio is None else round(one.ratio, 4)}
            for one in ratios(first, second)
        },
        "differences": {name: list(values) for name, values in differences(first, second).items()},
    }


def write(first: Mapping[str, Any], second: Mapping[str, Any], names: tuple[str, str]) -> None:
    """Print the comparison."""
    output.write_line(f"A  {names[0]}: {text.title(first)}")
    output.write_line(f"B  {names[1]}: {text.title(second)}\n")
    rows = [[one.name, _number(one.first), _number(one.second), _verdict(one)] for one in ratios(first, second)]
    output.write_table(["figure", "A", "B", "B / A"], rows)
    found = differences(first, second)
    if found:
        output.write_line("\nwarning: The runs were not the same in everything:\n")
        output.write_table(["what", "A", "B"], [[name, str(values[0]), str(values[1])] for name, values in found.items()])


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3f}"


def _verdict(one: Ratio) -> str:
    """Return the ratio, and which way it goes where it is more than noise of a thousandth."""
    if one.ratio is None:
        return "-"
    if abs(one.ratio - 1) < 0.001:
        return "1.000"
    improved = (one.ratio > 1) == (one.better == "higher")
    return f"{one.ratio:.3f} {'better' if improved else 'worse'}"
