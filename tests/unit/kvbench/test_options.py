"""What cannot be done is refused before anything is sent, and every refusal names the option and what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from kvbench import options as run_options
from kvbench.files import refuse_unusable_files
from kvbench.options import Given, RunOptions, refuse_impossible
from kvserver.base.limits import MAX_VALUE_BYTES

Options = Callable[..., RunOptions]


@pytest.mark.parametrize(
    ("given", "told", "advice"),
    [
        ({"clients": 0}, "--clients 0", "give --clients 1 or more"),
        ({"clients": -3}, "--clients -3", "give --clients 1 or more"),
        ({"keys": 0}, "--keys 0", "give --keys 1 or more"),
        ({"keys": 10**10}, "--keys 10000000000", "give at most 1,000,000,000"),
        ({"processes": 0}, "--processes 0", "give --processes 1 or more"),
        ({"processes": 1_000, "clients": 1_000, "total": 1_000}, "--processes 1000", "give at most 256"),
        ({"total": None}, "the run has no end", "give --total N operations, or --duration such as 30s"),
        ({"total": 10, "duration_s": 3.0}, "--total and --duration are two ends", "give one of them"),
        ({"total": 0}, "--total 0", "give --total 1 or more"),
        ({"total": -1}, "--total -1", "give --total 1 or more"),
        ({"value_size_bytes": -1}, "--value-size -1", "give 0 or more bytes"),
        ({"value_size_bytes": MAX_VALUE_BYTES + 1}, "--value-size 1048577", "give no more than that"),
        ({"seed": -1}, "--seed -1", "give 0 or more"),
        ({"rate": 0.0}, "--rate 0", "leave --rate out"),
        ({"rate": -5.0}, "--rate -5", "leave --rate out"),
        ({"rate": float("nan")}, "--rate nan", "leave --rate out"),
        ({"rate": float("inf")}, "--rate inf", "leave --rate out"),
        ({"rate": 1e12}, "--rate 1e+12", "give at most 10,000,000"),
        ({"rate": 0.1, "duration_s": 2.0}, "--rate 0.1 for 2 s", "give a longer --duration"),
        ({"workload": "mixed", "read_share": 1.5}, "--read-share 1.5", "between 0 (only writes) and 1 (only reads)"),
        ({"workload": "mixed", "read_share": float("nan")}, "--read-share nan", "between 0"),
        ({"workload": "scan", "scan_length": 0}, "--scan-length 0", "give 1 or more"),
        ({"clients": 2, "processes": 3}, "3 processes for 2 clients", "give more of them, or fewer --processes"),
        ({"clients": 9, "processes": 3, "total": 2}, "3 processes for 2 operations", "give fewer --processes"),
        (
            {"client": "blocking", "clients": 6_000},
            "--client blocking takes a thread for each of 6000",
            "give at most 5,000, or --client async",
        ),
    ],
)
def test_impossible_options_are_refused(options: Options, given: dict[str, Any], told: str, advice: str) -> None:
    with pytest.raises(click.UsageError) as refused:
        refuse_impossible(options(**given), Given())
    assert refused.value.message.startswith(told)
    assert advice in refused.value.message


@pytest.mark.parametrize(
    ("given", "stated", "advice"),
    [
        ({"workload": "put"}, Given(read_share=True), "--read-share belongs to --workload mixed, not to put"),
        ({"workload": "ycsb-a"}, Given(read_share=True), "--read-share belongs to --workload mixed, not to ycsb-a"),
        ({"workload": "get"}, Given(scan_length=True), "--scan-length belongs to --workload scan, not to get"),
        ({"workload": "scan", "scan_length": 101}, Given(scan_length=True), "give a shorter scan, or more keys"),
        (
            {"workload": "ycsb-a", "distribution": "latest"},
            Given(distribution=True),
            "--workload mixed --read-share 0.5 --distribution latest",
        ),
    ],
)
def test_options_that_say_nothing_to_a_workload_are_refused(
    options: Options, given: dict[str, Any], stated: Given, advice: str
) -> None:
    with pytest.raises(click.UsageError) as refused:
        refuse_impossible(options(**given), stated)
    assert advice in refused.value.message
    refuse_impossible(options(**given | {"workload": "put", "distribution": "uniform"}), Given())


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"clients": 1, "total": 1, "keys": 1, "value_size_bytes": 0},
        {"value_size_bytes": MAX_VALUE_BYTES},
        {"duration_s": 0.5},
        {"rate": 0.5, "duration_s": 2.0},
        {"workload": "scan", "rate": 100.0},
        {"workload": "scan", "keys": 10, "scan_length": 100},
        {"clients": 4, "processes": 4, "total": 4},
        {"workload": "mixed", "read_share": 0.0},
        {"workload": "mixed", "read_share": 1.0},
        {"client": "blocking", "clients": 64},
    ],
)
def test_what_can_be_done_is_not_refused(options: Options, given: dict[str, Any]) -> None:
    refuse_impossible(options(**given), Given())


def test_the_limit_of_a_value_is_the_servers() -> None:
    assert run_options.MAX_VALUE_BYTES == MAX_VALUE_BYTES


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_what_is_divided_among_processes_adds_up(options: Options, processes: int) -> None:
    shared = options(processes=processes, clients=10)
    parts = [shared.share(10, process) for process in range(processes)]
    assert sum(parts) == 10
    assert max(parts) - min(parts) <= 1


def test_output_files_that_could_not_be_written_are_refused(tmp_path: Path) -> None:
    missing, folder, good = tmp_path / "none" / "x.json", tmp_path, tmp_path / "x.json"
    refuse_unusable_files(str(good), str(tmp_path / "x.html"), str(tmp_path))
    assert not good.exists(), "nothing is created by asking"
    for name, path in (("--out-json", 0), ("--out-html", 1)):
        files: list[str | None] = [None, None]
        files[path] = str(missing)
        with pytest.raises(click.UsageError, match=rf"{name} .*: there is no folder .*; create it first: mkdir -p"):
            refuse_unusable_files(files[0], files[1], str(tmp_path))
        files[path] = str(folder)
        with pytest.raises(click.UsageError, match=rf"{name} .*: that is a folder; name a file in it"):
            refuse_unusable_files(files[0], files[1], str(tmp_path))
    with pytest.raises(click.UsageError, match=r"both name .*; give each a file of its own"):
        refuse_unusable_files(str(good), str(good), str(tmp_path))


def test_a_file_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(click.UsageError, match="cannot be written; name a file that you may write"):
        refuse_unusable_files(str(tmp_path / "x.json"), None, str(tmp_path))
    with pytest.raises(click.UsageError, match=r"--fsync-dir .* cannot be written to; name a folder that you may write to"):
        refuse_unusable_files(None, None, str(tmp_path))


def test_a_folder_for_syncs_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(click.UsageError, match=r"--fsync-dir .*: there is no such folder; create it"):
        refuse_unusable_files(None, None, str(tmp_path / "none"))
