"""Charts are well-formed, show every line, and keep points within the picture."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from suite import charts
from suite.charts import Chart, Series

NAMESPACE = "{http://www.w3.org/2000/svg}"
RATES = Chart(
    "Puts", "a second", [Series("ours & theirs", [(1, 2000.0), (64, 50_000.0), (1000, 214_000.0)], 0), Series("empty", [], 1)]
)
LATENCIES = Chart(
    "Latency", "ms", [Series("p50", [(1, 0.4), (1000, 5.0)], 0), Series("p99", [(1, 0.9)], 0, True)], logarithmic=True
)


def test_a_chart_shows_its_lines_within_its_frame() -> None:
    root = ElementTree.fromstring(charts.svg([RATES, LATENCIES]))
    _, _, width, height = (float(part) for part in root.attrib["viewBox"].split())
    lines = root.findall(f"{NAMESPACE}polyline")
    assert [len(line.attrib["points"].split()) for line in lines] == [3, 2, 1]
    for line in lines:
        for point in line.attrib["points"].split():
            x, y = map(float, point.split(","))
            assert charts.LEFT <= x <= charts.LEFT + charts.WIDTH <= width
            assert charts.TOP <= y <= height
    texts = [text.text for text in root.findall(f"{NAMESPACE}text")]
    assert "ours & theirs" in texts
    assert "empty" not in texts
    assert {"Puts", "240k", "1k", "10"} <= set(texts)


def test_a_higher_value_lies_higher() -> None:
    points = re.search(r'<polyline points="([^"]+)"', charts.svg([RATES]))
    assert points is not None
    heights = [float(point.split(",")[1]) for point in points[1].split()]
    assert heights == sorted(heights, reverse=True)
    assert heights[0] > heights[-1]


def test_the_axis_holds_every_value() -> None:
    assert charts.value_ticks([214_000.0], False) == [0.0, 60_000.0, 120_000.0, 180_000.0, 240_000.0]
    assert charts.value_ticks([0.4, 5.0], True) == [0.1, 1.0, 10.0]
    assert charts.value_ticks([1.0], True) == [1.0, 10.0]
    assert charts.value_ticks([], False)[-1] == 1.0


@pytest.mark.parametrize(("value", "text"), [(250_000.0, "250k"), (2e6, "2M"), (0.1, "0.1"), (1500.0, "1.5k")])
def test_numbers_on_an_axis_are_short(value: float, text: str) -> None:
    assert charts.short(value) == text


@pytest.mark.parametrize(
    ("most", "top"), [(214_000.0, 240_000.0), (100.0, 100.0), (101.0, 120.0), (0.3, 0.3), (7.0, 8.0), (9.0, 10.0)]
)
def test_the_upper_end_is_round(most: float, top: float) -> None:
    assert charts.ceiling(most) == pytest.approx(top)


def test_without_two_numbers_of_callers_there_is_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two numbers of callers"):
        charts.write(tmp_path / "x.svg", [Chart("Puts", "a second", [Series("ours", [(64, 1.0)], 0)])])
    assert not (tmp_path / "x.svg").exists()
