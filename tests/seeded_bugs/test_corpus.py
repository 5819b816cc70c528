"""Every seeded bug is caught by a test of its own; a test suite that misses one has gone blind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from seeded_bugs.archive_corpus import ARCHIVE_CORPUS
from seeded_bugs.archiver_corpus import ARCHIVER_CORPUS
from seeded_bugs.base_corpus import BASE_CORPUS
from seeded_bugs.corpus import CORPUS, SeededBug
from seeded_bugs.follower_corpus import FOLLOWER_CORPUS
from seeded_bugs.pauses_corpus import PAUSES_CORPUS
from seeded_bugs.promotion_corpus import PROMOTION_CORPUS
from seeded_bugs.quorum_corpus import QUORUM_CORPUS
from seeded_bugs.replication_corpus import REPLICATION_CORPUS
from seeded_bugs.restore_corpus import RESTORE_CORPUS
from seeded_bugs.server_corpus import SERVER_CORPUS
from seeded_bugs.shipping_corpus import SHIPPING_CORPUS

EVERY = (
    *(*CORPUS, *ARCHIVE_CORPUS, *ARCHIVER_CORPUS, *RESTORE_CORPUS),
    *(*QUORUM_CORPUS, *REPLICATION_CORPUS, *SHIPPING_CORPUS, *PROMOTION_CORPUS, *FOLLOWER_CORPUS, *SERVER_CORPUS),
    *(*BASE_CORPUS, *PAUSES_CORPUS),
)
ROOT = Path(__file__).resolve().parents[2]
OFTEN = {Path(bug.file).parent: bug for bug in reversed(EVERY)}
"""The first bug of each folder of the source: planted at every run of the tests; all of them by ``make test-seeded``."""
PARTS = ("kvserver", "protos", "client", "tests", "pyproject.toml")
TESTS_FAILED = 1
"""pytest's exit code when tests ran and some failed; anything else (no tests, broken imports) proves nothing."""


def chosen() -> tuple[SeededBug, ...]:
    """Return the bugs to plant in this run."""
    return EVERY if os.environ.get("KVSERVER_SEEDED_BUGS") == "all" else tuple(OFTEN.values())


def test_every_bug_has_a_name_of_its_own_and_a_place() -> None:
    names = [bug.name for bug in EVERY]
    assert len(set(names)) == len(names)
    misplaced = [f"{bug.name}: seed it anew in {bug.file}" for bug in EVERY if not has_place(bug)]
    assert not misplaced, "\n".join(misplaced)
    for bug in EVERY:
        assert bug.caught_by and all((ROOT / test).exists() for test in bug.caught_by), f"{bug.name}: its tests are gone"


def has_place(bug: SeededBug) -> bool:
    """Say whether each text that a bug replaces stands in the source exactly once."""
    path = ROOT / bug.file
    text = path.read_text() if path.exists() else ""
    return all(text.count(old) == 1 for old, _ in bug.changes)


def plant(bug: SeededBug, tree: Path) -> None:
    """Copy the source and put the bug in. Fails where the text to replace is not there exactly once."""
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, tree / part)
    path = tree / bug.file
    text = path.read_text()
    for old, new in bug.changes:
        assert text.count(old) == 1, f"{bug.name}: seed it anew, this text stands {text.count(old)} times in {bug.file}:\n{old}"
        text = text.replace(old, new)
    path.write_text(text)


def run_tests(tree: Path, tests: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Run tests of the copied tree against the copied source, without xdist."""
    paths = os.pathsep.join(str(tree / part) for part in (".", "protos", "client", "tests"))
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", "PYTEST_ADDOPTS": ""}
    environment.pop("PYTEST_XDIST_WORKER", None)
    command = [sys.executable, "-P", "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", *tests]
    return subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", chosen(), ids=lambda bug: bug.name)
def test_seeded_bug_is_caught(bug: SeededBug, tmp_path: Path) -> None:
    plant(bug, tmp_path)
    result = run_tests(tmp_path, bug.caught_by)
    assert result.returncode == TESTS_FAILED, (
        f"nothing noticed {bug.name} ({bug.why}):\n{result.stdout[-3000:]}{result.stderr[-2000:]}"
    )


def test_the_copied_tree_is_what_runs(tmp_path: Path) -> None:
    """Without this, every bug could be 'caught' by an installed copy that lacks it, or missed."""
    bug = SeededBug("none", "kvserver/base/limits.py", (("KIB = 1024\n", "KIB = 1024\nPLANTED = True\n"),), (), "")
    plant(bug, tmp_path)
    test = tmp_path / "tests" / "test_planted.py"
    test.write_text("from kvserver.base import limits\n\n\ndef test_planted():\n    assert limits.PLANTED\n")
    assert run_tests(tmp_path, ("tests/test_planted.py",)).returncode == 0
