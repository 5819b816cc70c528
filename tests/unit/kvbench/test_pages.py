"""What people see of results: tables, comparisons, and a page that is whole by itself and draws what was measured."""

from __future__ import annotations

import html.parser
import json
import re
import xml.etree.ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvbench import comparison, page, plots, text
from unit.kvbench.made import Outcome, phase_result, tick

Result = Callable[..., dict[str, Any]]
Kvbench = Callable[..., Outcome]


@pytest.fixture
def saved(result: Result, tmp_path: Path) -> tuple[str, str]:
    """Two results in files: of puts, and of gets and puts with errors."""
    mixed = phase_result(
        tick(1, {"DISK_FULL": 3}, get=[0.5] * 50, put=[2.0] * 50),
        tick(2, get=[0.7] * 10, put=[80.0]),
        ended_s=2,
        error_examples={"DISK_FULL": "no room <for> \x1b[2J it"},
    )
    paths = []
    for name, found in (("a", result()), ("b", result(mixed, workload="mixed", label="<b> & co", rate=100.0))):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(found))
        paths.append(str(path))
    return paths[0], paths[1]


class _Reader(html.parser.HTMLParser):
    """Checks that elements are closed in order, and collects what a browser would fetch."""

    void = frozenset({"meta", "line", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []
        self.words: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def _read(document: str) -> _Reader:
    reader = _Reader()
    reader.feed(document)
    reader.close()
    assert reader.open == []
    return reader


def test_a_page_is_whole_by_itself(kvbench: Kvbench, saved: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    assert kvbench("report", *saved, "--out-html", str(out)).exit_code == 0
    document = out.read_text()
    reader = _read(document)
    assert reader.fetched == []
    assert "script" not in reader.seen
    assert not re.search(r"https?:|//\w|url\(|@import", document)
    assert "prefers-color-scheme:dark" in document
    assert "max-width:40rem" in document
    told = " ".join(reader.words)
    for words in (
        "Latency by percentile",
        "Throughput",
        "Latency over time",
        "Errors/s, by code",
        "DISK_FULL",
        "<b> & co",
        "P <1>",
    ):
        assert words in told
    assert "<b>" not in document
    assert "no room <for> \\x1b[2J it" in told


def test_every_plot_is_drawn_for_wide_and_for_narrow(result: Result) -> None:
    document = page.render([result(), result(label="other")], ["one", "two"])
    drawings = re.findall(r'<div class="(wide|narrow)">(<svg.*?</svg>)</div>', document)
    assert [name for name, _ in drawings] == ["wide", "narrow"] * 3
    for name, drawing in drawings:
        root = xml.etree.ElementTree.fromstring(drawing)
        size = plots.WIDE if name == "wide" else plots.NARROW
        assert root.attrib["viewBox"] == f"0 0 {size.width} {size.height}"
        colours = {element.attrib["class"].split()[1] for element in root if element.tag in ("polyline", "circle")}
        assert colours == {"c0", "c1"}
        for element in root.iter("polyline"):
            for place in element.attrib["points"].split():
                across, down = map(float, place.split(","))
                assert size.left - 0.1 <= across <= size.width - size.right + 0.1
                assert size.top - 0.1 <= down <= size.height - size.bottom + 0.1


def test_a_page_without_a_success_says_so(result: Result) -> None:
    nothing = result(phase_result(tick(1, {"UNAVAILABLE": 5}), ended_s=2))
    told = " ".join(_read(page.render([nothing], ["nothing"])).words)
    assert "No operation succeeded." in told
    assert "UNAVAILABLE" in told


def test_names_on_a_page_differ(result: Result) -> None:
    assert page.names([result()], ["x.json"]) == [text.title(result())]
    assert page.names([result(label="mine")], ["x.json"]) == ["mine"]
    assert page.names([result(), result(label="mine"), result()], ["d/x.json", "y.json", "e/x.json"]) == ["x", "mine", "x (3)"]


def test_lines_are_where_the_figures_are() -> None:
    line = plots.Line("a", [(0.0, 0.0), (5.0, 50.0), None, (10.0, 100.0)], 0)
    size = plots.Size(120, 120, left=10, right=10, top=10, bottom=10)
    drawing = plots.draw("d", [line], plots.seconds("s", 10, 5), plots.linear("v", 100), size)
    root = xml.etree.ElementTree.fromstring(drawing)
    assert [element.attrib["points"] for element in root.iter("polyline")] == ["10.0,110.0 60.0,60.0"]
    assert [(dot.attrib["cx"], dot.attrib["cy"]) for dot in root.iter("circle")] == [("110.0", "10.0")]


def test_every_nine_has_the_same_room() -> None:
    axis = plots.percentiles("p", 10_000)
    places = [axis.place(share) for share in (0.0, 0.9, 0.99, 0.999, 0.9999, 1.0)]
    assert places == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1])
    assert [mark for _, mark in axis.marks] == ["0%", "50%", "90%", "99%", "99.9%", "99.99%"]


@pytest.mark.parametrize(("least", "most"), [(0.2, 0.3), (1.0, 1.0), (0.05, 900.0), (0.001, 10_000.0), (3.0, 40.0)])
def test_logarithmic_axes_hold_what_they_show_and_have_marks(least: float, most: float) -> None:
    axis = plots.logarithmic("ms", least, most)
    assert 0 <= axis.place(least) <= axis.place(most) <= 1
    assert 2 <= len(axis.marks) <= 12
    assert all(-1e-9 <= axis.place(value) <= 1 for value, _ in axis.marks)


@pytest.mark.parametrize("most", [0.0, 0.3, 1.0, 7.0, 99.0, 100.0, 123_456.0])
def test_linear_axes_end_at_a_round_number(most: float) -> None:
    axis = plots.linear("v", most)
    assert axis.place(most) <= 1 + 1e-9
    assert 3 <= len(axis.marks) <= 7
    assert most == 0 or axis.place(most) > 0.5


def test_a_result_is_shown_as_tables(kvbench: Kvbench, saved: tuple[str, str]) -> None:
    shown = kvbench("report", saved[1])
    assert shown.exit_code == 0
    for words in ("mixed, 4 clients", "DISK_FULL", "at a rate of 100/s", "fdatasync of 4 KiB takes 0.200 ms", "2 of 4 cores"):
        assert words in shown.out
    assert "The server's disk may be another" in shown.out
    assert "\x1b" not in shown.out
    assert re.search(r"^get +60 ", shown.out, re.MULTILINE)
    assert re.search(r"^warning: 3 operations failed", shown.out, re.MULTILINE)


def test_a_result_is_shown_as_json(kvbench: Kvbench, saved: tuple[str, str]) -> None:
    shown = kvbench("report", saved[0], "-o", "json")
    assert shown.json == json.loads(Path(saved[0]).read_text())


def test_ratios_are_of_the_second_to_the_first(result: Result) -> None:
    slow, fast = result(), result(phase_result(tick(2, put=[0.5] * 40), ended_s=2))
    found = {one.name: one for one in comparison.ratios(slow, fast)}
    assert found["ops_per_s"].ratio == 4.0
    assert found["latency_ms.max"].ratio == 0.25
    assert found["latency_ms.mean"].ratio == pytest.approx(1 / 3)
    assert found["errors"].ratio is None


def test_a_comparison_says_what_was_better_and_what_was_not_the_same(kvbench: Kvbench, saved: tuple[str, str]) -> None:
    shown = kvbench("compare", *saved)
    assert shown.exit_code == 0
    assert re.search(r"^ops_per_s +5\.?0* +55\.?\d* +\d+\.\d+ better$", shown.out, re.MULTILINE), shown.out
    assert re.search(r"^latency_ms\.max +2\.?0* +80\.?0* +40\.000 worse$", shown.out, re.MULTILINE), shown.out
    assert re.search(r"^options\.workload +put +mixed$", shown.out, re.MULTILINE)
    same = kvbench("compare", saved[0], saved[0])
    assert "not the same" not in same.out
    assert "better" not in same.out
    assert "worse" not in same.out


def test_a_comparison_for_programs(kvbench: Kvbench, saved: tuple[str, str]) -> None:
    told = kvbench("compare", *saved, "-o", "json").json
    assert told["ratios"]["latency_ms.max"] == {"first": 2.0, "second": 80.0, "ratio": 40.0}
    assert told["differences"]["options.workload"] == ["put", "mixed"]


def test_kinds_are_compared_where_both_results_have_several(result: Result) -> None:
    mixed = result(phase_result(tick(2, get=[1.0], put=[2.0]), ended_s=2), workload="mixed")
    names = {one.name for one in comparison.ratios(mixed, mixed)}
    assert {"get.ops_per_s", "put.latency_ms.p99"} <= names


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "is no JSON"),
        ("[]", "is no result of kvbench"),
        ('{"a": 1}', "is no result of kvbench"),
        ('{"kvbench": 99}', "format 99"),
    ],
)
def test_files_that_are_no_results_are_refused(kvbench: Kvbench, tmp_path: Path, content: str, told: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(content)
    for command in (("report", str(path)), ("compare", str(path), str(path))):
        refused = kvbench(*command, "-o", "json")
        assert refused.exit_code == 1
        assert refused.error["code"] == "BAD_INPUT"
        assert told in refused.error["message"]
        assert refused.error["hint"]
        assert refused.out == ""


def test_a_file_that_is_not_there_is_named(kvbench: Kvbench, tmp_path: Path) -> None:
    missing = kvbench("report", str(tmp_path / "none.json"))
    assert missing.exit_code == 1
    assert "none.json" in missing.err
    assert "[FILE_ERROR]" in missing.err


def test_a_page_in_a_folder_that_is_not_there_is_refused(kvbench: Kvbench, saved: tuple[str, str], tmp_path: Path) -> None:
    refused = kvbench("report", saved[0], "--out-html", str(tmp_path / "none" / "x.html"))
    assert refused.exit_code == 2
    assert "there is no folder" in refused.err
    assert "hint: see: kvbench report --help" in refused.err
    assert refused.out == ""
