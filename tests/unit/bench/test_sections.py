"""Every section renders what was measured, names what was not, and judges targets by the median."""

from __future__ import annotations

from pathlib import Path

import pytest
from bench_figures import MAIN, made_up

from suite import charts, render
from suite.figures import Spread
from suite.plan import FULL, QUICK, Run, Section, rounds
from suite.sections import crowds, floors, throughput

SECTIONS: list[Section] = MAIN.SECTIONS


def empty(tmp_path: Path) -> Run:
    return Run(QUICK, tmp_path)


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_a_section_without_figures_says_so(section: Section, tmp_path: Path) -> None:
    text = section.render(empty(tmp_path))
    assert text.startswith("### ")
    if section.name != throughput.NAME:  # its tables leave out what was not measured
        assert render.NOT_MEASURED in text


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_a_section_shows_every_figure_that_it_has(section: Section, tmp_path: Path) -> None:
    run = made_up(Run(FULL, tmp_path))
    text = section.render(run)
    assert render.NOT_MEASURED not in text
    if section.name != "stages":  # its table has medians alone
        assert " to " in text


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_steps_are_planned_for_every_round(section: Section, tmp_path: Path) -> None:
    run = Run(FULL, tmp_path)
    planned = [(number, step.what) for number, _, step in rounds(run, [section])]
    assert {number for number, _ in planned} == {0, 1, 2}
    assert all(step.seconds > 0 for step in section.steps(run))


def test_a_full_run_is_planned_for_about_forty_minutes_and_a_quick_one_for_less_than_6(tmp_path: Path) -> None:
    for sizes, minutes in ((FULL, 42), (QUICK, 6)):
        assert sum(step.seconds for _, _, step in rounds(Run(sizes, tmp_path), SECTIONS)) < minutes * 60


def test_stores_are_filled_in_the_first_round_alone(tmp_path: Path) -> None:
    fills = [number for number, _, step in rounds(Run(FULL, tmp_path), [floors.Floors()]) if step.what.startswith("fill ")]
    assert fills == [0, 0]


def test_every_section_is_in_the_reading_order_and_needs_one_that_exists() -> None:
    names = [section.name for section in SECTIONS]
    assert sorted(MAIN.READING_ORDER) == sorted(names)
    assert all(needed in names for section in SECTIONS for needed in section.needs)


@pytest.mark.parametrize(
    ("reached", "verdict"),
    [
        (Spread(200_000, 190_000, 210_000), "yes, not in every round"),
        (Spread(200_000, 200_000, 210_000), "yes"),
        (Spread(199_999, 150_000, 300_000), "**no**"),
        (None, render.NOT_MEASURED),
    ],
)
def test_a_target_is_judged_by_the_median(reached: Spread | None, verdict: str, tmp_path: Path) -> None:
    first = floors.targets(empty(tmp_path))[0]
    assert floors.verdict(first, reached) == verdict


def test_one_callers_put_is_compared_with_the_sync_of_its_own_round(tmp_path: Path) -> None:
    run = empty(tmp_path)
    for number, (put, sync) in enumerate(((0.6, 0.3), (1.6, 1.0))):
        run.figures.add("floors/one.p50_ms", number, put)
        run.figures.add("floors/sync_ms", number, sync)
    assert floors.beyond_sync(run.figures) == pytest.approx({0: 0.3, 1: 0.6})


def test_etcd_counts_with_its_best_load_of_each_round(tmp_path: Path) -> None:
    run = empty(tmp_path)
    for name, rates, p50s in (("1x64", (10.0, 40.0), (1.0, 2.0)), ("4x16", (20.0, 30.0), (3.0, 4.0))):
        for number in range(2):
            run.figures.add(f"etcd/64/{name}.per_s", number, rates[number])
            run.figures.add(f"etcd/64/{name}.p50_ms", number, p50s[number])
    run.figures.add("etcd/1000/20x50.per_s", 1, 100.0)
    assert throughput.rates(run.figures, "etcd", 64) == {0: 20.0, 1: 40.0}
    assert throughput.latency(run.figures, "etcd", 64, "p50_ms") == {0: 3.0, 1: 2.0}
    assert throughput.best_rates(run.figures, "etcd") == {0: 20.0, 1: 100.0}


def test_turns_over_the_same_keys_are_paired_within_their_round(tmp_path: Path) -> None:
    run = empty(tmp_path)
    for turn, rate in ((0, 100.0), (1, 200.0)):
        run.figures.add(f"keys/separate/{turn}.per_s", 0, rate)
        run.figures.add(f"keys/same/{turn}.per_s", 0, rate * 0.75)
    text = crowds.Crowds().render(run)
    assert ": 25.0 % slower" in text
    assert "| separate keys | 150 (100 to 200) |" in text


def test_the_charts_have_a_line_for_each_system(tmp_path: Path) -> None:
    run = made_up(Run(FULL, tmp_path))
    text = charts.svg(throughput.charts(run))
    for name in ("ourselves", "etcd", "Redis", "RocksDB"):
        assert name in text
