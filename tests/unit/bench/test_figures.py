"""Medians, spreads and ratios are taken over the rounds that have both sides, and survive being written down."""

from __future__ import annotations

import json

import pytest

from suite import render
from suite.figures import Figures, Load, Spread, ratio_rounds, spread_of


def test_a_figure_has_a_median_and_extremes() -> None:
    figures = Figures()
    for number, value in enumerate((30.0, 10.0, 20.0)):
        figures.add("a", number, value)
    assert figures.spread("a") == Spread(20.0, 10.0, 30.0)
    assert figures.spread("b") is None
    assert spread_of([1.0, 2.0]) == Spread(1.5, 1.0, 2.0)


def test_a_step_that_is_done_again_replaces_its_figure() -> None:
    figures = Figures()
    figures.add("a", 0, 1.0)
    figures.add("a", 0, 2.0)
    assert figures.rounds("a") == {0: 2.0}


def test_of_a_load_only_what_is_known_is_kept() -> None:
    figures = Figures()
    figures.add_load("etcd/64", 1, Load(1000.0, p50_ms=2.0, client_cores=0.25))
    assert figures.names() == ["etcd/64.per_s", "etcd/64.p50_ms", "etcd/64.client_cores"]
    assert figures.rounds("etcd/64.p99_ms") == {}


def test_ratios_are_taken_round_by_round_and_skip_rounds_that_lack_one_side() -> None:
    assert ratio_rounds({0: 10.0, 1: 30.0, 2: 5.0}, {0: 5.0, 1: 10.0}) == {0: 2.0, 1: 3.0}
    assert ratio_rounds({0: 10.0}, {0: 0.0}) == {}


def test_the_best_of_several_loads_is_chosen_anew_in_each_round() -> None:
    figures = Figures()
    for name, values in (("a", {0: 1.0, 1: 9.0}), ("b", {0: 5.0})):
        for number, value in values.items():
            figures.add(name, number, value)
    assert figures.best_rounds(["a", "b", "c"]) == {0: 5.0, 1: 9.0}


def test_figures_survive_json() -> None:
    figures = Figures()
    figures.add("a", 0, 1.5)
    figures.add("a", 2, 2.5)
    again = Figures.from_json(json.loads(json.dumps(figures.to_json())))
    assert again.rounds("a") == {0: 1.5, 2: 2.5}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (234_567.8, "234,568"),
        (100.4, "100"),
        (99.94, "99.9"),
        (12.34, "12.3"),
        (3.456, "3.46"),
        (0.1234, "0.123"),
        (-181.2, "-181"),
    ],
)
def test_a_number_has_three_digits_that_matter(value: float, text: str) -> None:
    assert render.number(value) == text


def test_a_spread_is_shown_where_rounds_differ() -> None:
    assert render.spread(Spread(2.0, 1.0, 3.0), " ms") == "2.00 ms (1.00 to 3.00)"
    assert render.spread(Spread(2.0, 2.0, 2.0)) == "2.00"
    assert render.spread(None) == render.NOT_MEASURED
    assert render.rounds({}) == render.NOT_MEASURED


def test_a_table_has_a_cell_for_each_column() -> None:
    assert render.table(["a", "b"], [["x|y", "1"]]) == "| a | b |\n|---|---:|\n| x\\|y | 1 |"
    with pytest.raises(ValueError, match="1 cells in a table of 2"):
        render.table(["a", "b"], [["x"]])


def test_text_is_put_between_the_markers_again_and_again() -> None:
    page = "before\n<begin>\nold\n<end>\nafter\n"
    once = render.replaced(page, "<begin>", "<end>", "new")
    assert once == "before\n<begin>\nnew\n<end>\nafter\n"
    assert render.replaced(once, "<begin>", "<end>", "new") == once


@pytest.mark.parametrize("page", ["no markers", "<begin> <begin> <end>", "<end> <begin>", "<begin>"])
def test_a_page_without_both_markers_once_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="nothing was written"):
        render.replaced(page, "<begin>", "<end>", "new")
