"""What the server can be told, by flags and by the environment; the file has tests of its own in tests/unit/server."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from integration.processes import Process
from kvserver.archive.ballast import BALLAST_BYTES
from kvserver.archive.log_source import ArchiverOptions
from kvserver.base.limits import MIB
from kvserver.base.options import EngineOptions
from kvserver.server import config
from kvserver.server.archive_part import archiver_options
from kvserver.server.config import Address, ArchiveConfig, ServeConfig
from kvserver.server.flags import SETTINGS


def parse(*flags: str, **environment: str) -> ServeConfig:
    return config.parse(["serve", *flags], environment)


def test_the_defaults(tmp_path: Path) -> None:
    told = parse("--data-dir", str(tmp_path))
    assert (told.data_dir, told.listen, told.http) == (tmp_path, Address("127.0.0.1", 7400), Address("127.0.0.1", 7480))
    assert (told.log_level, told.log_format, told.hints) == ("info", "text", False)
    assert told.engine.wal.segment_bytes == 64 * MIB
    assert told.engine.wal.grouping and told.engine.pipeline.overlap
    assert told.engine.node_name
    assert told.engine == EngineOptions(node_name=told.engine.node_name), "flags and options have the same defaults"
    assert (told.warnings, told.check_only) == ((), False)


def test_flags_reach_the_engine() -> None:
    told = parse(
        *("--data-dir", "relative", "--name", "kv-1", "--segment-mb", "16", "--seal-age-s", "5"),
        *("--memory-limit-mb", "0", "--no-grouping", "--no-overlap", "--group-window-ms", "0"),
        *("--memtable-mb", "16", "--block-cache-mb", "8", "--history-s", "3", "--history-revisions", "4"),
    )
    assert told.data_dir == Path("relative").absolute()
    assert (told.engine.node_name, told.name) == ("kv-1", "kv-1")
    assert (told.engine.wal.segment_bytes, told.engine.wal.seal_age_ms) == (16 * MIB, 5000)
    assert told.engine.pipeline.memory_limit_bytes == 0
    assert not told.engine.wal.grouping
    assert not told.engine.pipeline.overlap
    tables = told.engine.tables
    assert (tables.memtable_bytes, tables.block_cache_bytes) == (16 * MIB, 8 * MIB)
    assert (tables.history_ms, tables.history_revisions) == (3000, 4)


def test_an_archive_is_off_unless_it_is_named() -> None:
    assert parse("--data-dir", "d").archive is None
    assert parse("--data-dir", "d", "--archive", "off").archive is None
    assert parse("--data-dir", "d", "--archive", "file:///a", "--archive", "off").archive is None, "the last one wins"
    assert parse(KVSERVER_DATA_DIR="d", KVSERVER_ARCHIVE="file:///a").archive is not None
    for within in ("d/archive", "d/archive/deep", "d2", "."):
        assert parse("--data-dir", "d", "--archive", Path(within).absolute().as_uri()).archive is not None, within


def test_flags_reach_the_archive() -> None:
    told = parse(
        *("--data-dir", "d", "--archive", "file:///srv/an%20archive", "--archive-workers", "3", "--archive-level", "5"),
        *("--archive-queue-mb", "100", "--archive-rate-mb", "7", "--archive-full", "gap", "--ballast-mb", "9"),
        *("--archive-verify-h", "1", "--archive-drill-h", "2", "--backup-h", "3", "--keep-backups", "4", "--keep-days", "5"),
    )
    assert told.archive == ArchiveConfig(
        url="file:///srv/an%20archive",
        workers=3,
        level=5,
        queue_bytes=100 * MIB,
        rate_bytes_per_s=7 * MIB,
        when_full="gap",
        ballast_bytes=9 * MIB,
        verify_every_h=1,
        drill_every_h=2,
        backup_every_h=3,
        keep_backups=4,
        keep_days=5,
    )
    plain = parse("--data-dir", "d", "--archive", "file:///srv/a").archive
    assert plain is not None
    assert archiver_options(plain) == ArchiverOptions(), "flags and options have the same defaults"
    assert plain.ballast_bytes == BALLAST_BYTES


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "'off' stands for none"),
        ("/srv/archive", "file:///FOLDER"),
        ("file://srv/archive", "another machine"),
        ("file:///srv/../archive", "without '..'"),
        ("ftp://host/archive", "not known here"),
        ("s3://", "no name of a bucket"),
        (Path("d").absolute().as_uri(), "among the node's own files"),
        (Path("d/scratch/deep").absolute().as_uri(), "only"),
        ("s3://key:secret@bucket/prefix", "credentials do not belong in an address"),
    ],
)
def test_an_address_that_can_be_no_archive_is_wrong_usage(url: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--data-dir", "d", "--archive", url)
    assert caught.value.code == 2
    told = capsys.readouterr().err
    assert said in told and "archive" in told
    assert "secret" not in told


def test_every_flag_has_its_variable_and_wins_over_it() -> None:
    told = parse(
        KVSERVER_DATA_DIR="/srv/kv",
        KVSERVER_LISTEN="[::1]:1",
        KVSERVER_HTTP="off",
        KVSERVER_NAME="from-environment",
        KVSERVER_SEGMENT_MB="32",
        KVSERVER_SEAL_AGE_S="7",
        KVSERVER_MEMORY_LIMIT_MB="11",
        KVSERVER_MEMTABLE_MB="10",
        KVSERVER_BLOCK_CACHE_MB="12",
        KVSERVER_HISTORY_S="13",
        KVSERVER_HISTORY_REVISIONS="14",
        KVSERVER_GROUP_WINDOW_MS="9",
        KVSERVER_LOOP="asyncio",
        KVSERVER_NO_GROUPING="yes",
        KVSERVER_NO_OVERLAP="0",
        KVSERVER_LOG_LEVEL="debug",
        KVSERVER_LOG_FORMAT="json",
        KVSERVER_HINTS="1",
        KVSERVER_FAILPOINTS="wal.after_sync=kill",
    )
    assert (str(told.data_dir), str(told.listen), told.http, told.name) == ("/srv/kv", "[::1]:1", None, "from-environment")
    assert (told.engine.wal.segment_bytes, told.engine.wal.seal_age_ms) == (32 * MIB, 7000)
    assert told.engine.pipeline.memory_limit_bytes == 11 * MIB
    assert (told.engine.tables.memtable_bytes, told.engine.tables.block_cache_bytes) == (10 * MIB, 12 * MIB)
    assert (told.engine.tables.history_ms, told.engine.tables.history_revisions) == (13_000, 14)
    assert (told.engine.wal.grouping, told.engine.pipeline.overlap) == (False, True)
    assert (told.log_level, told.log_format, told.hints) == ("debug", "json", True)
    assert told.failpoints == "wal.after_sync=kill"
    assert parse("--listen", "h:2", KVSERVER_DATA_DIR="d", KVSERVER_LISTEN="h:1").listen.port == 2


@pytest.mark.parametrize(
    ("flags", "environment", "said"),
    [
        ((), {}, "--data-dir"),
        (("--data-dir", ""), {}, "not the path"),
        (("--data-dir", "d", "--listen", "7400"), {}, "HOST:PORT"),
        (("--data-dir", "d", "--listen", "h:70000"), {}, "HOST:PORT"),
        (("--data-dir", "d", "--listen", "a:b:1"), {}, "HOST:PORT"),
        (("--data-dir", "d", "--http", "x"), {}, "HOST:PORT"),
        (("--data-dir", "d", "--name", "two words"), {}, "not a name"),
        (("--data-dir", "d", "--segment-mb", "4"), {}, "from 16 to 4095"),
        (("--data-dir", "d", "--memory-limit-mb", "-1"), {}, "whole number"),
        (("--data-dir", "d", "--log-level", "loud"), {}, "not one of debug"),
        (("--data-dir", "d", "--nonsense"), {}, "--nonsense"),
        (("--data-dir", "d", "--memory-limit-mb", "9" * 5000), {}, "whole number"),
        (("--data-dir", "d", "--memtable-mb", "0"), {}, "from 1 to 4096"),
        (("--data-dir", "d", "--memory-limit-mb", "64"), {}, "memory-limit-mb (64) must be above memtable-mb (64)"),
        (("--data-dir", "d"), {"KVSERVER_SEGMENT_MB": "many"}, "KVSERVER_SEGMENT_MB"),
        (("--data-dir", "d"), {"KVSERVER_NO_GROUPING": "maybe"}, "KVSERVER_NO_GROUPING"),
        (("--data-dir", "d"), {"KVSERVER_LOG_FORMAT": "xml"}, "KVSERVER_LOG_FORMAT"),
    ],
)
def test_wrong_usage_is_named_and_ends_with_2(
    flags: tuple[str, ...], environment: dict[str, str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(*flags, **environment)
    assert caught.value.code == 2
    assert said in capsys.readouterr().err


def test_help_shows_every_flag_and_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert "kvserver serve --data-dir data/node" in shown
    assert "KVSERVER_DATA_DIR" in shown
    for setting in SETTINGS:
        assert re.search(rf"^  --{setting.name}\b", shown, re.MULTILINE)
        if setting.default:
            assert f"(default: {setting.default})" in re.sub(r"\s+", " ", shown)


def test_a_bare_command_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        config.parse([], {})
    assert caught.value.code == 2
    assert "serve" in capsys.readouterr().out


# -- variables that no flag knows -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("KVSERVER_MEMTABEL_MB", "did you mean KVSERVER_MEMTABLE_MB?"),
        ("KVSERVER_MEMTABLE", "did you mean KVSERVER_MEMTABLE_MB?"),
        ("KVSERVER_CONFIGS", "did you mean KVSERVER_CONFIG?"),
        ("KVSERVER_Q", "kvserver serve --help lists the settings"),
    ],
)
def test_a_variable_that_no_flag_knows_is_warned_of(name: str, near: str) -> None:
    told = config.parse(["serve", "--data-dir", "d"], {name: "x", "PATH": "/bin"})
    assert told.warnings == (f"the environment variable {name} has no effect; {near}",)


KUBERNETES = (
    "KVSERVER_SERVICE_HOST",
    "KVSERVER_SERVICE_PORT",
    "KVSERVER_SERVICE_PORT_GRPC",
    "KVSERVER_PORT",
    "KVSERVER_PORT_7400_TCP",
    "KVSERVER_PORT_7400_TCP_PROTO",
    "KVSERVER_PORT_7400_TCP_PORT",
    "KVSERVER_PORT_7400_TCP_ADDR",
    "KVSERVER_CLIENT_SERVICE_HOST",
    "KVSERVER_CLIENT_PORT_53_UDP_ADDR",
)


def test_what_kubernetes_puts_there_is_passed_over() -> None:
    told = config.parse(["serve", "--data-dir", "d"], dict.fromkeys(KUBERNETES, "tcp://10.0.0.1:7400"))
    assert told.warnings == ()
    assert not [setting.variable for setting in SETTINGS if config._OF_KUBERNETES.fullmatch(setting.variable)]


# -- as a process -----------------------------------------------------------------------------------------------------


def test_check_config_prints_what_is_in_force_and_serves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "kvserver.toml"
    file.write_text("[tables]\nmemtable-mb = 32\n")
    environment = {"KVSERVER_SEGMENT_MB": "128", "KVSERVER_HISTORY": "1"}
    flags = ("--config", str(file), "--data-dir", str(tmp_path / "data"), "--check-config")
    with Process(*flags, environment=environment) as server:
        assert server.wait() == 0
    assert {
        f'data-dir = "{tmp_path / "data"}"  # flag',
        'listen = "127.0.0.1:0"  # flag',
        "segment-mb = 128  # environment",
        "memtable-mb = 32  # file",
        "block-cache-mb = 384  # default",
    } <= set(server.lines)
    (warning,) = server.errors
    assert warning.endswith("KVSERVER_HISTORY has no effect; did you mean KVSERVER_HISTORY_S?")
    assert not (tmp_path / "data").exists()


def test_a_bad_file_ends_the_start_with_2(tmp_path: Path) -> None:
    file = tmp_path / "kvserver.toml"
    file.write_text("memtable-bm = 32\n")
    with Process("--config", str(file), "--data-dir", str(tmp_path / "data")) as server:
        assert server.wait() == 2
    assert server.errors == [f'kvserver serve: error: {file}:1: unknown key "memtable-bm"; did you mean "memtable-mb"?']


def test_a_server_that_cannot_start_says_so_in_json_where_json_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "something").write_text("else")
    with Process("--data-dir", str(tmp_path), "--log-format", "json", environment={"KVSERVER_NOTHING": "1"}) as server:
        assert server.wait() == 1
    warning, refusal = (json.loads(line) for line in server.errors)
    assert (warning["level"], refusal["level"]) == ("warning", "critical")
    assert refusal["message"].startswith("cannot start: ") and "; hint: " in refusal["message"]
