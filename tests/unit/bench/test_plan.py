"""Steps are done in order, one that fails does not end the run, and the time left follows the pace."""

from __future__ import annotations

from pathlib import Path

import pytest

from suite.plan import QUICK, Progress, Run, Section, Sizes, Step, carry_out, chosen, rotated, shown_command
from suite.processes import ROOT


class Part:
    """A section whose steps note that they were done."""

    def __init__(self, name: str, done: list[str], needs: tuple[str, ...] = (), fails: bool = False) -> None:
        self.name = name
        self.needs = needs
        self._done = done
        self._fails = fails

    def steps(self, run: Run) -> list[Step]:
        return [Step(f"{self.name}{number}", 1.0, lambda number=number: self._do(run, number)) for number in range(2)]

    def _do(self, run: Run, number: int) -> None:
        self._done.append(f"{self.name}{number} in round {run.round}")
        run.record(self.name, float(number))
        if self._fails and number == 0:
            raise RuntimeError("first line\nsecond\nwhat went wrong\n\n")

    def render(self, run: Run) -> str:
        return self.name


def run_of(rounds: int, folder: Path = Path()) -> Run:
    return Run(QUICK._replace(rounds=rounds), folder)


def test_every_round_does_every_section_before_the_next_begins() -> None:
    done: list[str] = []
    run = run_of(2)
    carry_out(run, [Part("a", done), Part("b", done)])
    assert done == [f"{name}{number} in round {round_}" for round_ in (0, 1) for name in "ab" for number in (0, 1)]
    assert run.figures.rounds("a") == {0: 1.0, 1: 1.0}
    assert run.failures == []


def test_a_step_that_fails_is_remembered_and_the_others_are_done(capsys: pytest.CaptureFixture[str]) -> None:
    done: list[str] = []
    run = run_of(1)
    carry_out(run, [Part("a", done, fails=True), Part("b", done)])
    assert len(done) == 4
    assert run.failures == ["a: a0, round 1: first line what went wrong"]
    assert "FAILED: a: a0, round 1" in capsys.readouterr().err


def test_progress_says_what_is_measured_and_how_long_the_rest_takes(capsys: pytest.CaptureFixture[str]) -> None:
    carry_out(run_of(1), [Part("a", [])])
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"[round 1 of 1] a: a{number}   (about 1 min left)" for number in range(2)]


def test_time_left_is_the_plan_at_the_pace_so_far() -> None:
    now = 0.0
    progress = Progress(100.0, lambda: now)
    assert progress.left_s() == 100.0
    now = 20.0
    progress.done(10.0)
    assert progress.left_s() == pytest.approx(180.0)
    progress.done(90.0)
    assert progress.left_s() == 0.0


def test_one_section_comes_with_what_it_needs() -> None:
    sections: list[Section] = [Part("a", []), Part("b", [], needs=("a",)), Part("c", [], needs=("b",)), Part("d", [])]
    assert [section.name for section in chosen(sections, "c")] == ["a", "b", "c"]
    assert [section.name for section in chosen(sections, "")] == ["a", "b", "c", "d"]
    with pytest.raises(KeyError):
        chosen(sections, "e")


def test_each_round_begins_with_another_step() -> None:
    steps = [Step(name, 1.0, lambda: None) for name in "abc"]
    assert ["".join(step.what for step in rotated(steps, by)) for by in range(4)] == ["abc", "bca", "cab", "abc"]
    assert rotated([], 1) == []


def test_commands_are_shown_without_this_machine(tmp_path: Path) -> None:
    run = run_of(1, tmp_path)
    run.command("a load", ["python", f"{ROOT}/scripts/bench/x.py", "--dir", f"{tmp_path}/data", "a b"])
    run.command("a load", ["another"])
    assert run.commands == {"a load": "python scripts/bench/x.py --dir DIR/data 'a b'"}
    assert shown_command(["x"], tmp_path) == "x"


def test_a_note_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(1)
    run.note("SKIPPED: x")
    run.note("SKIPPED: x")
    assert run.notes == ["SKIPPED: x"]
    assert capsys.readouterr().err.count("SKIPPED: x") == 1


def test_a_quick_run_does_all_that_a_full_one_does() -> None:
    assert Sizes._fields == QUICK._fields
    assert all(value for value in QUICK)
