"""docs/operations.md names every flag, and only metrics, codes and probes that there are."""

from __future__ import annotations

import re

import pytest

from kvserver.base.errors import Code
from kvserver.base.metrics import METRICS
from kvserver.server import config, main
from unit.docs.documents import in_code, section

DOCUMENT = "docs/operations.md"


def test_every_flag_has_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        config.parse(["serve", "--help"], {})
    options = capsys.readouterr().out.partition("examples:")[0]
    flags = set(re.findall(r"^ +(--[a-z-]+)", options, re.MULTILINE))
    documented = {in_code(row["flag"])[0].split()[0] for row in section(DOCUMENT, "Flags").table()}
    assert flags and documented == flags


def test_the_defaults_are_those_of_the_code() -> None:
    rows = {in_code(row["flag"])[0].split()[0]: row["default"] for row in section(DOCUMENT, "Flags").table()}
    told = config.parse(["serve", "--data-dir", "x"], {})
    assert in_code(rows["--listen"]) == [str(told.listen)]
    assert in_code(rows["--http"]) == [str(told.http)]
    assert in_code(rows["--log-level"]) == [told.log_level]
    assert in_code(rows["--log-format"]) == [told.log_format]
    assert int(rows["--segment-mb"]) << 20 == told.engine.wal.segment_bytes
    assert int(rows["--seal-age-s"]) * 1000 == told.engine.wal.seal_age_ms
    assert int(rows["--memory-limit-mb"]) << 20 == told.engine.pipeline.memory_limit_bytes


def test_the_metrics_named_exist() -> None:
    named = {name for row in section(DOCUMENT, "What to watch").table() for name in in_code(row["metric"])}
    assert named <= {metric.name for metric in METRICS}


def test_the_codes_named_exist() -> None:
    text = "\n".join(section(DOCUMENT, "What to do when").lines)
    named = {name for name in re.findall(r"`([A-Z_]+)`", text) if name not in ("MEMORY", "DATA_DIR")}
    assert {"DISK_FULL", "CORRUPTION", "LOG_FAILED"} <= named <= set(Code.__members__)


def test_the_exit_codes_are_those_of_the_code() -> None:
    codes = [row["exit code"] for row in section(DOCUMENT, "Ending").table()]
    assert codes == ["0", "128 and the signal's number", "0", str(main.CANNOT_START), "2", str(main.SOFTWARE_FAILURE)]
