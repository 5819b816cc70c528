"""The command: what it refuses, what it writes, and that a run with a failed step writes no page."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench_figures import BENCH, MAIN, document

PAGE = f"# Performance\n\n{MAIN.BEGIN}\nold\n{MAIN.END}\n\nmore\n"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "performance.md"
    path.write_text(PAGE)
    return path


def run_main(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["main.py", *words])
    result: int = MAIN.main()
    return result


def kept(tmp_path: Path, failures: list[str]) -> str:
    path = tmp_path / "figures.json"
    path.write_text(json.dumps(document(tmp_path, failures)))
    return str(path)


def test_figures_that_were_kept_become_a_page_and_its_picture(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "--from", kept(tmp_path, []), "--write", str(page)) == 0
    text = page.read_text()
    assert text.startswith(f"# Performance\n\n{MAIN.BEGIN}\n- 2 cores\n")
    assert text.endswith(f"{MAIN.END}\n\nmore\n")
    assert "> SKIPPED: Redis" in text
    assert "# etcd\netcd --x" in text
    assert f"]({MAIN.PLOT})" in text
    assert (tmp_path / MAIN.PLOT).read_text().startswith("<svg ")
    assert "### Targets" in capsys.readouterr().out


def test_a_run_with_a_failed_step_is_told_and_not_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_main(monkeypatch, "--from", kept(tmp_path, ["peers: etcd: it died"]), "--write", str(page)) == 1
    assert page.read_text() == PAGE
    captured = capsys.readouterr()
    assert "> FAILED: peers: etcd: it died" in captured.out
    assert "no page was written" in captured.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--rounds", "0"], "at least one"),
        (["--only", "nothing"], "invalid choice"),
        (["--only", "wire", "--write", "PAGE"], "cannot go with --only"),
        (["--from", "x.json", "--quick"], "goes with --write alone"),
        (["--write", "nowhere.md"], "No such file"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, page: Path, capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        run_main(monkeypatch, *(str(page) if word == "PAGE" else word for word in words))
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_a_page_without_markers_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, page: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page.write_text("# Performance\n")
    with pytest.raises(SystemExit):
        run_main(monkeypatch, "--write", str(page))
    assert "each once; nothing was written" in capsys.readouterr().err


def test_a_document_survives_json(tmp_path: Path) -> None:
    values: dict[str, Any] = json.loads(json.dumps(document(tmp_path, [])))
    assert MAIN.run_of(values).sizes == MAIN.FULL
    assert MAIN.report(values, "") == MAIN.report(document(tmp_path, []), "")


def test_the_command_explains_itself() -> None:
    done = subprocess.run([sys.executable, str(BENCH / "main.py"), "--help"], capture_output=True, text=True, check=True)
    assert "--quick" in done.stdout
