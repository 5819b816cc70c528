"""The configuration file: what it may say, how mistakes are named, and that it is complete."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from kvserver.server import config, config_file
from kvserver.server.config import Address, ServeConfig
from kvserver.server.flags import SECTIONS, SETTINGS

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "kvserver.toml"

# A value of each setting that is not its default, as a file spells it.
OTHERS: dict[str, str | int | bool] = {
    "data-dir": "/srv/kv",
    "listen": "[::1]:1",
    "http": "off",
    "name": "kv-9",
    "log-level": "debug",
    "log-format": "json",
    "loop": "asyncio",
    "hints": True,
    "segment-mb": 32,
    "seal-age-s": 7,
    "group-window-ms": 9,
    "no-grouping": True,
    "no-overlap": True,
    "memory-limit-mb": 100,
    "memtable-mb": 16,
    "block-cache-mb": 8,
    "history-s": 0,
    "history-revisions": 5,
    "archive": "file:///srv/archive",
    "archive-workers": 3,
    "archive-level": 4,
    "archive-queue-mb": 100,
    "archive-rate-mb": 50,
    "archive-full": "gap",
    "ballast-mb": 7,
    "archive-verify-h": 1,
    "archive-drill-h": 2,
    "backup-h": 24,
    "keep-backups": 8,
    "keep-days": 9,
    "register": "file:///srv/register",
    "follow": "10.0.0.1:7400",
    "advertise": "10.0.0.2:7400",
    "members": "a,b,c",
    "write-quorum": 2,
    "slot-max-mb": 100,
    "tail-compression": "zstd",
    "rewind-base-mb": 64,
    "content-check-h": 48,
}


def literal(value: str | int | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def parse(path: Path, *flags: str, **environment: str) -> ServeConfig:
    return config.parse(["serve", "--config", str(path), *flags], environment)


def mistakes(path: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> list[str]:
    """Return what is said of a file that must be refused, without the path."""
    with pytest.raises(SystemExit) as caught:
        parse(path, *flags)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("kvserver serve: error: ")
    return [line.removeprefix(str(path)) for line in said.removeprefix("kvserver serve: error: ").splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kvserver.toml"


@pytest.mark.parametrize("form", ["flat", "sections", "underscores"])
def test_every_setting_can_stand_in_the_file(path: Path, form: str) -> None:
    assert set(OTHERS) == {setting.name for setting in SETTINGS}
    lines = []
    for section in SECTIONS:
        if form != "flat":
            lines.append(f"[{section}]")
        for setting in SETTINGS:
            if setting.section == section:
                key = setting.key if form == "underscores" else setting.name
                lines.append(f"{key} = {literal(OTHERS[setting.name])}")
    path.write_text("\n".join(lines))
    by_file = parse(path)
    flags: list[str] = []
    for setting in SETTINGS:
        assert setting.default != OTHERS[setting.name]
        flags.append(f"--{setting.name}")
        if setting.kind is not bool:
            flags.append(str(OTHERS[setting.name]))
    by_flags = config.parse(["serve", *flags], {})
    assert by_file.effective.replace("# file", "# flag") == by_flags.effective
    for field in ("data_dir", "listen", "http", "name", "engine", "log_level", "log_format", "hints", "loop"):
        assert getattr(by_file, field) == getattr(by_flags, field), field


def test_a_flag_wins_over_its_variable_and_that_over_the_file(path: Path) -> None:
    path.write_text("data-dir = '/file'\n[log]\nsegment-mb = 17\nseal-age-s = 18\ngroup-window-ms = 19\nno-grouping = true\n")
    told = parse(path, "--segment-mb", "37", KVSERVER_SEGMENT_MB="27", KVSERVER_SEAL_AGE_S="28", KVSERVER_NO_GROUPING="0")
    lines = told.effective.splitlines()
    for line in (
        'data-dir = "/file"  # file',
        "segment-mb = 37  # flag",
        "seal-age-s = 28  # environment",
        "group-window-ms = 19  # file",
        "no-grouping = false  # environment",
        "memtable-mb = 64  # default",
    ):
        assert line in lines
    assert (told.engine.wal.seal_age_ms, told.engine.wal.group_window_ms, told.engine.wal.grouping) == (28_000, 19, True)


def test_the_file_can_be_named_in_the_environment(path: Path, tmp_path: Path) -> None:
    path.write_text("listen = 'h:1'")
    told = config.parse(["serve", "--data-dir", "d"], {"KVSERVER_CONFIG": str(path)})
    assert told.listen == Address("h", 1)
    assert not told.warnings
    other = tmp_path / "other.toml"
    other.write_text("listen = 'h:2'")
    told = config.parse(["serve", "--data-dir", "d", "--config", str(other)], {"KVSERVER_CONFIG": str(path)})
    assert told.listen == Address("h", 2), "the flag wins"
    assert config.parse(["serve", "--data-dir", "d"], {"KVSERVER_CONFIG": ""}).listen.port == 7400


def test_what_is_in_force_can_be_read_again_and_is_the_same(path: Path, tmp_path: Path) -> None:
    told = config.parse(["serve", "--data-dir", str(tmp_path / 'a "b" \\ \x7f é'), "--http", "off", "--hints"], {})
    path.write_text(told.effective)
    again = parse(path)
    assert (again.data_dir, again.http, again.hints, again.engine) == (told.data_dir, None, True, told.engine)
    assert re.sub("# .*", "", again.effective) == re.sub("# .*", "", told.effective)
    assert set(tomllib.loads(told.effective)) == set(SECTIONS)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[tables]\nmemtable-bm = 64", ':2: unknown key "memtable-bm" in [tables]; did you mean "memtable-mb"?'),
        ("\n\nmemtable_bm = 64", ':3: unknown key "memtable_bm"; did you mean "memtable-mb"?'),
        ("[log]\nmemtable-bm = 64", ':2: unknown key "memtable-bm" in [log]; did you mean "memtable-mb" in [tables]?'),
        ("xyz = 1", ':1: unknown key "xyz"; kvserver serve --help lists them all'),
        ("log = {xyz = 1}", ': unknown key "xyz" in [log]; kvserver serve --help lists them all'),
        ("[log]\n'memtable-mb' = 64", ':2: "memtable-mb" belongs in [tables], not in [log]'),
        ("[tabels]\nmemtable-mb = 64", ":1: unknown section [tabels]; did you mean [tables]?"),
        (
            "[xyz.tables]\nmemtable-mb = 64",
            ":1: unknown section [xyz]; there are [server], [log], [tables], [archive], [cluster]",
        ),
        ("tables = 3", ':1: "tables" is a section, not a key: write [tables]'),
        ("[[tables]]\nmemtable-mb = 64", ':1: "tables" is a section, not a key: write [tables]'),
        ("memtable-mb = 64\n[tables]\nmemtable-mb = 64", ':3: "memtable-mb" in [tables] is set twice'),
        ("memtable-mb = 64\nmemtable_mb = 64", ':2: "memtable_mb" is set twice'),
        ("[tables]\nmemtable-mb = '64'", ':2: "memtable-mb" in [tables] must be a whole number, not a string'),
        ("memtable-mb = 64.0", ':1: "memtable-mb" must be a whole number, not a fraction'),
        ("memtable-mb = true", ':1: "memtable-mb" must be a whole number, not true or false'),
        ("memtable-mb = [64]", ':1: "memtable-mb" must be a whole number, not an array'),
        ("memtable-mb = 2026-01-01", ':1: "memtable-mb" must be a whole number, not a date or time'),
        ("[memtable-mb]\nx = 1", ':1: "memtable-mb" must be a whole number, not a table'),
        ("no-grouping = 1", ':1: "no-grouping" must be true or false, not a whole number'),
        ("listen = 7400", ':1: "listen" must be a string, not a whole number'),
        ("memtable-mb = 0", ":1: \"memtable-mb\": '0' is not a whole number from 1 to 4096"),
        ("memtable-mb = -1", ":1: \"memtable-mb\": '-1' is not a whole number from 1 to 4096"),
        ("listen = '7400'", ":1: \"listen\": '7400' is not of the form HOST:PORT"),
        ("log-level = 'loud'", ":1: \"log-level\": 'loud' is not one of debug, info, warning, error"),
        ("name = 'a b'", ":1: \"name\": 'a b' is not a name of 1 to 63 letters, digits, '.', '_' and '-'"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_the_nearest_key(
    path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path.write_text(text)
    assert mistakes(path, capsys, "--data-dir", "d") == [said]


@pytest.mark.parametrize(
    ("text", "line"), [("loop = 'uvloop'\nloop = 'uvloop'\n", 2), ("[server\nloop = 'x'\n", 1), ("\n\nx", 3)]
)
def test_what_is_no_toml_is_said_with_its_line(path: Path, text: str, line: int, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text(text)
    (said,) = mistakes(path, capsys)
    assert said.startswith(": not TOML: ")
    assert f"(at line {line}, " in said or (line == 3 and said.endswith("(at end of document)"))


def test_all_mistakes_are_named_at_once(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text("memtable-bm = 1\nlisten = 1\n[tabels]\n")
    assert [line.partition(" ")[0] for line in mistakes(path, capsys)] == [":1:", ":2:", ":3:"]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"listen = '\xff'", ": not text in UTF-8 (at byte 10)"),
        (b"#" * (config_file.MAX_BYTES + 1), f": longer than {config_file.MAX_BYTES} bytes, this is no configuration"),
        (b"x = " + b"[" * 100_000, ": not TOML: maximum recursion depth exceeded"),
    ],
    ids=["not-text", "too-long", "too-deep"],
)
def test_a_file_that_is_none(path: Path, raw: bytes, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_bytes(raw)
    (line,) = mistakes(path, capsys)
    assert line.startswith(said)


def test_a_file_that_cannot_be_read(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert mistakes(path, capsys) == [": cannot be read: No such file or directory"]
    assert mistakes(tmp_path, capsys) == [": cannot be read: Is a directory"]


# -- the example ----------------------------------------------------------------------------------------------------


def test_the_example_has_every_setting_with_its_default() -> None:
    text = EXAMPLE.read_text()
    found: list[tuple[str, str]] = []
    described: set[str] = set()
    section = above = ""
    for line in text.splitlines():
        if header := re.fullmatch(r"\[(\w+)\]", line):
            section = header[1]
        elif key := re.match(r"(?:# )?([a-z-]+) = ", line):
            found.append((section, key[1]))
            if above.startswith("# "):
                described.add(key[1])
        above = line
    assert found == [(setting.section, setting.name) for setting in SETTINGS]
    assert described == {setting.name for setting in SETTINGS}, "one line above each says what it is"
    held: dict[str, dict[str, Any]] = tomllib.loads(text)
    for setting in SETTINGS:
        assert held[setting.section].get(setting.name) == setting.default, setting.name


def test_the_example_changes_nothing() -> None:
    plain = config.parse(["serve", "--data-dir", "d"], {})
    told = parse(EXAMPLE, "--data-dir", "d")
    assert told.engine == plain.engine
    assert told.effective.replace("# file", "# default") == plain.effective
