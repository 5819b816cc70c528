"""docs/operations.md names every flag, and only metrics, codes and probes that there are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from kvserver.base.errors import Code
from kvserver.base.metrics import METRICS
from kvserver.server import app, config, main
from kvserver.server.flags import SETTINGS
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
    words = {"--data-dir": "must be given", "--name": "the host's name", "--config": "none", "--check-config": "off"}
    for setting in SETTINGS:
        match setting.default:
            case bool():
                words[f"--{setting.name}"] = "off"
            case int():
                words[f"--{setting.name}"] = str(setting.default)
            case str():
                words[f"--{setting.name}"] = f"`{setting.default}`" if setting.default else "none"
    assert rows == words


def test_the_file_shown_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = section(DOCUMENT, "The configuration file").code_block()
    path = tmp_path / "kvserver.toml"
    path.write_text("\n".join(lines))
    told = config.parse(["serve", "--config", str(path)], {})
    assert (str(told.data_dir), told.engine.tables.memtable_bytes >> 20) == ("/srv/kv", 128)
    path.write_text("\n".join(lines).replace("memtable-mb", "memtable-bm"))
    with pytest.raises(SystemExit):
        config.parse(["serve", "--config", str(path)], {})
    said = capsys.readouterr().err.strip().rpartition("/")[2]
    assert f"`{said}`" in "\n".join(section(DOCUMENT, "The configuration file").lines)


def test_the_metrics_named_exist() -> None:
    named = {name for row in section(DOCUMENT, "What to watch").table() for name in in_code(row["metric"])}
    assert named <= {metric.name for metric in METRICS}


def test_the_codes_named_exist() -> None:
    text = "\n".join(section(DOCUMENT, "What to do when").lines)
    named = {name for name in re.findall(r"`([A-Z_]+)`", text) if name not in ("MEMORY", "DATA_DIR")}
    assert {"DISK_FULL", "CORRUPTION", "LOG_FAILED"} <= named <= set(Code.__members__)


def test_the_exit_codes_are_those_of_the_code() -> None:
    codes = [row["exit code"] for row in section(DOCUMENT, "Ending").table()]
    assert codes == [
        "0",
        "128 and the signal's number",
        "0",
        str(main.CANNOT_START),
        str(config.WRONG_USAGE),
        str(app.SOFTWARE_FAILURE),
    ]
